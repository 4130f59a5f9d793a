"""What each statement reads and writes, and which names mean one table."""

import pytest

from bot.core.query_optimizer.sql.analyzer import analyze
from bot.core.query_optimizer.sql.functions import Known
from bot.core.query_optimizer.sql.names import ANY, names_given, read_marks, write_marks
from bot.core.query_optimizer.sql.relations import MAX_RELATIONS, Relations

PG, MY, LITE = "postgres", "mysql", "sqlite"


def names(text):
    return set(text.split())


@pytest.mark.parametrize(
    ("dialect", "query", "reads", "writes"),
    [
        # Names of a WITH hide tables where they are in reach, and nowhere else.
        (PG, "WITH t AS (SELECT * FROM t) SELECT * FROM t", "t", ""),
        (PG, "WITH RECURSIVE t AS (SELECT 1 UNION SELECT * FROM t) SELECT * FROM t", "", ""),
        (PG, "SELECT * FROM t JOIN (WITH t AS (SELECT 1) SELECT * FROM t) x ON true", "t", ""),
        (PG, "WITH a AS (SELECT 1), b AS (SELECT * FROM a) SELECT * FROM b, c", "c", ""),
        (PG, "WITH b AS (SELECT * FROM a), a AS (SELECT 1) SELECT * FROM b", "a", ""),
        (PG, "WITH a AS (SELECT 1) SELECT * FROM s.a", "s.a", ""),
        (PG, 'WITH "A" AS (SELECT 1) SELECT * FROM a, "A"', "a", ""),
        (PG, "SELECT (WITH q AS (SELECT * FROM z) SELECT count(*) FROM q) FROM y", "y z", ""),
        # Writes inside a WITH.
        (PG, "WITH gone AS (DELETE FROM a RETURNING *) SELECT * FROM gone", "", "a"),
        (PG, "WITH n AS (INSERT INTO a SELECT * FROM b RETURNING *) UPDATE c SET x = n.x FROM n", "b", "a c"),
        (PG, "WITH gone AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM gone", "", "a b"),
        # Every kind of write.
        ("", "INSERT INTO a SELECT * FROM b JOIN c USING (id)", "b c", "a"),
        (PG, "INSERT INTO a VALUES (1) ON CONFLICT (x) DO UPDATE SET y = (SELECT y FROM z)", "z", "a"),
        (MY, "INSERT INTO a VALUES (1) ON DUPLICATE KEY UPDATE x = 2", "", "a"),
        (LITE, "INSERT OR REPLACE INTO a VALUES (1)", "", "a"),
        (LITE, "REPLACE INTO a SELECT * FROM b", "b", "a"),
        (MY, "REPLACE a VALUES (1)", "", "a"),
        (LITE, "INSERT INTO a WITH t AS (SELECT * FROM b) SELECT * FROM t", "b", "a"),
        (PG, "UPDATE a AS q SET x = 1 FROM b WHERE b.i = q.i", "b", "a"),
        (PG, "UPDATE a SET x = (SELECT max(x) FROM a)", "a", "a"),
        (PG, "DELETE FROM a USING b WHERE a.i = b.i", "b", "a"),
        (MY, "UPDATE a JOIN b ON a.i = b.i SET b.x = 1", "a b", "a b"),
        (MY, "DELETE x FROM a x JOIN b y ON x.i = y.i", "a b", "a b"),
        (MY, "DELETE FROM a, b USING a JOIN b", "a b", "a b"),
        (PG, "MERGE INTO a USING b ON a.i = b.i WHEN MATCHED THEN DELETE "
             "WHEN NOT MATCHED THEN INSERT (i) VALUES (b.i)", "b", "a"),
        (PG, "MERGE INTO a USING (SELECT * FROM b) s ON a.i = s.i WHEN MATCHED THEN DELETE", "b", "a"),
        (PG, "SELECT * INTO b FROM a", "a", "b"),
        (MY, "SELECT x INTO @v FROM a", "a", ""),
        (PG, "COPY a (x) FROM STDIN", "", "a"),
        (PG, "COPY a TO STDOUT", "a", ""),
        (PG, "COPY (SELECT * FROM a) TO STDOUT", "a", ""),
        (PG, "TRUNCATE a, s.b", "", "a s.b"),
        (PG, "TABLE a", "a", ""),
        # Definitions.
        ("", "CREATE TABLE a AS SELECT * FROM b", "b", "a"),
        (PG, "CREATE VIEW v AS SELECT * FROM t", "t", "v"),
        ("", "DROP TABLE IF EXISTS a", "", "a"),
        ("", "DROP VIEW v", "", "v"),
        (LITE, "DROP INDEX i", "", ""),
        ("", "ALTER TABLE a RENAME TO b", "", "a b"),
        ("", "ALTER TABLE a DROP COLUMN x", "", "a"),
        (PG, "CREATE INDEX i ON a (x)", "", "a"),
        (PG, "REFRESH MATERIALIZED VIEW CONCURRENTLY s.v", "", "s.v"),
        (PG, "ALTER VIEW v RENAME TO w", "", "v w"), (MY, "ALTER VIEW v AS SELECT * FROM u", "u", "v"),
        (PG, "CREATE RECURSIVE VIEW v(a) AS SELECT a FROM t", "t", "v"),
        (MY, "ALTER ALGORITHM=MERGE VIEW v AS SELECT * FROM u", "u", "v"),
        # Words that the parser does not take.
        (PG, "INSERT INTO a (x,y) VALUES ($1,$2),($1,$3)", "", "a"),
        (PG, "SELECT x FROM a WHERE i IN ($1,$2) AND j IN (SELECT k FROM b WHERE z IN ($1,$3))", "a b", ""),
        (PG, "SELECT '$1,$' FROM a WHERE b = ARRAY[$1,$2] AND c[$1:$2] = '{$1,$2}'", "a", ""),
        (MY, "INSERT INTO a (x) VALUES (%s) ON DUPLICATE KEY UPDATE x = VALUES(x), y = VALUES(y) + 1",
            "", "a"),
        (LITE, "UPDATE OR IGNORE a SET x = 1", "", "a"), ("", "update or replace a set x = 1", "", "a"),
        (MY, "UPDATE LOW_PRIORITY a SET x = 1", "", "a"),
        (MY, "UPDATE IGNORE a JOIN b SET a.x = 1", "a b", "a b"),
        (MY, "DELETE IGNORE FROM a WHERE x = 'UPDATE IGNORE b'", "", "a"),
        (MY, "SELECT /*+ INDEX(a i) MAX_EXECUTION_TIME(9) */ x FROM a", "a", ""),
        ("", "SELECT /*+ INDEX(a i) */ x FROM a", "a", ""),
        (PG, "/*+ SeqScan(a) */ SELECT x FROM a", "a", ""),
        ("", "SELECT strftime('%Y', x), date_format(x, '%Y'), to_char(x, 'YYYY') FROM a", "a", ""),
        (PG, "SELECT pg_typeof(x), pg_size_pretty(y) FROM a", "a", ""),
        (MY, "LOAD DATA LOCAL INFILE 'x' INTO TABLE a", "", "a"), ("", "SELECT x FROM `a`", "a", ""),
        (LITE, "CREATE TABLE a (x, PRIMARY KEY (x)) WITHOUT ROWID", "", "a"),
        (PG, "ALTER TABLE a ENABLE ROW LEVEL SECURITY", "", "a"),
        (MY, "CREATE INDEX i ON a (x(10))", "", "a"),
        ("", "INSERT IGNORE INTO a VALUES (1) ON DUPLICATE KEY UPDATE x = VALUES(x)", "", "a"),
        ("", "SELECT x @> '{}' FROM a", "a", ""),
        # TABLE stands for SELECT * FROM wherever a query may stand.
        (PG, "TABLE ONLY a", "a", ""), (PG, "(TABLE a) UNION ALL TABLE b", "a b", ""),
        (PG, "WITH x AS (TABLE a) SELECT * FROM x", "a", ""), ("", "SELECT * FROM (TABLE a) z", "a", ""),
        (MY, "SELECT x IN (TABLE a) FROM b", "a b", ""), (PG, 'TABLE "A" -- TABLE b', "A", ""),
        (PG, "WITH q AS (DELETE FROM a RETURNING *) TABLE q", "", "a"),
        (PG, "CREATE VIEW v AS TABLE a", "a", "v"),
        (PG, "INSERT INTO a (x) TABLE b", "b", "a"), (PG, "SELECT 'TABLE b', x AS table FROM a", "a", ""),
        # What changes a sequence writes that, as if it were a table.
        (PG, "SELECT nextval('s.q'::regclass)", "", "s.q"), (MY, "SELECT NEXT VALUE FOR q", "", "q"),
        (PG, "SELECT setval('Q', 77)", "", "q Q"), (MY, "SELECT nextval(q), setval(r, 5)", "", "q r"),
        # Scripts.
        ("", "INSERT INTO a VALUES (1); DELETE FROM b; SELECT * FROM c", "c", "a b"),
        # SQLite's IN takes a table.
        (LITE, "SELECT * FROM a WHERE id IN b", "a b", ""), (LITE, "SELECT x NOT IN s.b FROM a", "a s.b", ""),
        ("", 'SELECT * FROM a WHERE id IN "B" OR x IN (c)', "a b", ""),
        (LITE, "UPDATE a SET x = 1 WHERE id IN b", "b", "a"),
        # Explained is not executed.
        (MY, "EXPLAIN DELETE FROM a", "", ""),
        (MY, "EXPLAIN ANALYZE DELETE FROM a", "", "a"),
        # Case and quotes.
        (PG, 'SELECT * FROM Users, "Users", S."T"', "users Users s.T", ""),
        (LITE, 'SELECT * FROM Users, "USERS"', "users", ""),
        (MY, "SELECT * FROM Users, `db`.`Users`", "users db.users", ""),
        (PG, "SELECT * FROM " + "a" * 70, "a" * 63, ""),
    ],
)  # fmt: skip
def test_reads_and_writes(dialect, query, reads, writes):
    found = analyze(query, dialect)
    assert set(found.reads) == names(reads)
    assert set(found.writes) == names(writes)
    assert not found.writes_anything


@pytest.mark.parametrize(
    ("dialect", "query"),
    [
        ("", "FROBNICATE ALL"), ("", "UPDATE a SET x = ; broken"), (PG, "DO $$ BEGIN DELETE FROM a; END $$"),
        (MY, "CALL tidy_up()"), (PG, "EXECUTE prepared(1)"), (PG, "TRUNCATE a CASCADE"),
        (PG, "DROP TABLE a CASCADE"), (PG, "DROP SCHEMA s CASCADE"), (PG, "ALTER TABLE a SET SCHEMA s"),
        (MY, "RENAME TABLE a TO b"), (PG, "SET search_path = other"),
        (MY, "USE other"), (LITE, "ATTACH DATABASE 'x' AS y"), (LITE, "PRAGMA case_sensitive_like(1)"),
        (PG, "EXPLAIN ANALYZE DELETE FROM a"), (PG, "EXPLAIN (ANALYZE, BUFFERS) DELETE FROM a"),
        (PG, "SELECT add_user('x')"), (PG, "SELECT * FROM add_user('x')"), (PG, "SELECT mine.lower('x')"),
        (PG, "SELECT dblink('c', 'DELETE FROM a')"), (MY, "LOAD DATA INFILE 'x' INTO TABLE a SET x = f(y)"),
        (MY, "SELECT 1 /*! INTO OUTFILE 'x' */"), ("", "INSERT /*! INTO */ a VALUES (1)"),
        (LITE, "CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b; END"),
        (PG, "CREATE FUNCTION f() RETURNS int AS $$ select 1 $$ LANGUAGE sql"),
        (PG, "SHOW x; )("), (PG, "DELETE FROM a WHERE CURRENT OF c"), ("", "x" * 300_000),
        (LITE, "WITH t AS (SELECT 1) REPLACE INTO a SELECT * FROM t"),
        # A word before the name that a parser takes for the name.
        ("", "UPDATE LOW_PRIORITY a SET x = 1"), ("", "UPDATE LOW_PRIORITY a JOIN b SET a.x = 1"),
        (MY, "DELETE QUICK FROM a"), ("", "UPDATE ONLY a SET x = 1"), ("", "DELETE FROM ONLY a"),
        ("", "WITH b AS (SELECT 1) DELETE FROM ONLY a"),
        # Explained, and executed as well.
        (MY, "ANALYZE UPDATE a SET x = 1"), (MY, "ANALYZE FORMAT=JSON DELETE FROM a"),
        (PG, "EXPLAIN ANALYSE UPDATE a SET x = 1"), (PG, "EXPLAIN (VERBOSE, ANALYSE) DELETE FROM a"),
        ("", "DESC ANALYSE DELETE FROM a"),
        # A function of the user's own under the name of another database's, or with other arguments.
        (PG, "SELECT merge(9)"), (PG, "SELECT quote(9)"), (PG, "SELECT first(9)"), (PG, "SELECT total()"),
        (PG, "SELECT ifnull(1, 2)"), (PG, "SELECT strftime('x')"), (PG, "SELECT lower(9)"),
        (PG, "SELECT to_date('x')"), (PG, "SELECT lower(x) FROM a x"), (PG, 'SELECT "Lower"(y) FROM a'),
        (PG, "SELECT rank(9)"), (PG, "SELECT convert(9)"), (PG, "SELECT date_format(y, 'x') FROM a"),
        (MY, "SELECT string_agg(1, 2)"), (MY, "SELECT date_trunc('day', x) FROM a"),
        (MY, "SELECT s.count(1)"),
        (PG, "SELECT nextval($1)"), (PG, "SELECT lo_put(4242, 0, 'z')"),
        (PG, "SELECT set_config('search_path', 's', false)"), (PG, "SELECT set_config($1, 's', false)"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_may_write_anything(dialect, query):
    assert analyze(query, dialect).writes_anything


@pytest.mark.parametrize(
    ("dialect", "query"),
    [
        (PG, "SELECT lower(x), pg_catalog.lower(x), jsonb_path_query(x, '$') FROM a"), (PG, "SELECT now()"),
        (PG, "SET statement_timeout = 5000"), (LITE, "PRAGMA journal_mode = WAL"), (PG, "ANALYZE a"),
        (LITE, "PRAGMA table_info(a)"), (LITE, "EXPLAIN QUERY PLAN SELECT 1"), (PG, "EXPLAIN DELETE FROM a"),
        (LITE, "VACUUM"), (PG, "LOCK TABLE a"), (PG, "SAVEPOINT s"), (PG, "ROLLBACK TO s"), (PG, "NOTIFY c"),
        (LITE, "SELECT my_own(x) FROM a"), (PG, "SELECT * FROM generate_series(1, 3)"), (MY, "SHOW TABLES"),
        (PG, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"), (MY, "ANALYZE TABLE a"),
        (PG, "SELECT set_config('statement_timeout', '5', false)"),
    ],
)  # fmt: skip
def test_what_changes_nothing_drops_nothing(dialect, query):
    assert not analyze(query, dialect).is_write


def test_a_function_declared_pure_neither_writes_nor_keeps_a_result_out():
    query = "SELECT tax(price) FROM a"
    assert analyze(query, PG).writes_anything
    found = analyze(query, PG, Known(pure=frozenset({"tax"})))
    assert (found.is_write, found.cacheable) == (False, True)


@pytest.mark.parametrize(
    ("dialect", "query"),
    [
        # Strings that are read as times, if the type is one.
        (PG, "SELECT 'now'::timestamptz"), (PG, "SELECT date 'today'"),
        (PG, "SELECT CAST(' Tomorrow ' AS date)"),
        (PG, "SELECT x FROM a WHERE t < 'NOW'"), (PG, "SELECT x FROM a WHERE t <@ '[yesterday,)'::tstzrange"),
        (PG, "SELECT E'\\x6eow'::date"), (PG, "SELECT U&'\\006eow'::date"), (PG, "SELECT $$now$$::date"),
        (PG, "SELECT ('no' || 'w')::date"), (PG, "SELECT 'no'\n'w'::date"), (PG, "SELECT N'now'::date"),
        ("", "SELECT x FROM a WHERE t = 'today12:00'"), (LITE, "SELECT date(x, 'localtime') FROM a"),
        (LITE, 'SELECT x FROM a WHERE d > date("now")'), (LITE, 'SELECT strftime("%s", "NOW", "-1 day")'),
        (LITE, "SELECT datetime(x, [localtime]) FROM a"), (LITE, "SELECT date(x'6e6f77')"),
        (LITE, "SELECT date(replace('nXw', 'X', 'o'))"), (LITE, "SELECT date((SELECT 'n' || 'ow'))"),
        (LITE, "SELECT date(char(110, 111, 119))"), ("", "SELECT date([now])"),
        ("", 'SELECT x FROM a WHERE d > date("now")'), ("", "SELECT $$now$$::timestamp"),
        ("", "SELECT $a$now$a$::timestamp"),
        (LITE, "SELECT datetime()"), (LITE, "SELECT strftime('%s')"), (LITE, "SELECT unixepoch('NOW')"),
        (LITE, "SELECT timediff('now', x) FROM a"), (LITE, "SELECT CURRENT_DATE"),
        (MY, "SELECT UTC_DATE"), (MY, "SELECT sysdate()"), (MY, "SELECT unix_timestamp()"),
        (MY, "SELECT LOCALTIMESTAMP"), (MY, "SELECT @@time_zone"), (PG, "SELECT age(x) FROM a"),
        # Who asks.
        *((PG, f"SELECT {word}") for word in (
            "user", "current_role", "session_user", "current_user", "system_user", "current_catalog",
            "current_schema", "current_setting('x')", "pg_backend_pid()", "txid_current()",
            "inet_client_addr()", "pg_has_role('b', 'member')", "current_schemas(true)")),
        (MY, "SELECT user()"), (MY, "SELECT connection_id()"), (MY, "SELECT CURRENT_ROLE"),
        ("", "SELECT user"),
        (MY, "SELECT row_count()"), (LITE, "SELECT changes()"), (MY, "SELECT found_rows()"),
        # What hangs on the catalog, or on what the user may have defined.
        (PG, "SELECT 'a'::regclass::oid"), (PG, "SELECT x::mood FROM a"), (PG, "SELECT 1 OPERATOR(s.+++) 2"),
        (PG, "SELECT obj_description(1)"), (PG, "SELECT lo_get(4242)"),
        (PG, "SELECT pg_try_advisory_lock(1)"),
        # Sequences.
        (PG, "SELECT * FROM users_id_seq"), (PG, "SELECT last_value, is_called FROM q"),
        (MY, "SELECT next_not_cached_value FROM q"),
        # A dialect that is not known may have either meaning.
        ("", "SELECT total(x) FROM a"), ("", "SELECT quote(x) FROM a"), ("", "SELECT first(x) FROM a"),
        ("", "SELECT strftime('%Y', 'now') FROM a"), ("", "SELECT strftime('%s') FROM a"),
        ("", "SELECT datetime(x, 'localtime') FROM a"), ("", "SELECT julianday() FROM a"),
        ("", "SELECT shop.ifnull(x, 1) FROM a"),
    ],
)  # fmt: skip
def test_what_may_differ_without_a_write_is_not_cached(dialect, query):
    assert not analyze(query, dialect).cacheable


@pytest.mark.parametrize(
    ("dialect", "query"),
    [
        (PG, "SELECT 'epoch'::timestamptz, 'allballs'::time, 'infinity'::date"),
        (PG, "SELECT x FROM a WHERE s = 'knowhow' OR s = 'known'"), (LITE, "SELECT x FROM a WHERE s = 'now'"),
        (LITE, "SELECT user FROM a"), (LITE, "SELECT date(x), strftime('%Y', x, '+1 day'), total(y) FROM a"),
        (PG, 'SELECT "user", a.user FROM a'), (MY, "SELECT user FROM a"), (PG, "SELECT age(x, y) FROM a"),
        (PG, "SELECT x::citext, x::numeric(9, 2), x::timestamptz, x::text[], x::jsonb FROM a"),
        (PG, "SELECT count(*), sum(x), lower(y), coalesce(x, 1), round(x, 2), concat(x, 1),"
             " date_trunc('day', z), "
             "extract(year FROM z), to_char(z, 'YYYY'), json_build_object('a', x), row_to_json(a), "
             "string_agg(y, ',' ORDER BY y, x), array_agg(x), substring(y FROM 2), greatest(x, 1), "
             "percentile_cont(0.5) WITHIN GROUP (ORDER BY x), jsonb_agg(x ORDER BY x, y) FROM a GROUP BY 1"),
        (PG, "SELECT rank() OVER (PARTITION BY x ORDER BY y), lag(x,"
             " 1) OVER w FROM a WINDOW w AS (ORDER BY x)"),
        (PG, "SELECT * FROM unnest($1::int[]) u, generate_series(1, 9) g"),
        (PG, "SELECT x -> 'a' ->> 'b', x @> '{}', x #>> '{a,b}', y ~* 'z' FROM a WHERE z && ARRAY[1]"),
        (PG, "SELECT ts_rank(to_tsvector('english', x), plainto_tsquery('english', $1)) FROM a"),
        (LITE, 'SELECT date("x"), date(a.x), datetime(max(x), \'+1 day\'), date(coalesce(x, y)) FROM a'),
        # Without a dialect, names that say of which database they are.
        ("", "SELECT ifnull(x, 1), iif(x > 1, 'a', 'b'), group_concat(y, ', ') FROM a"),
        ("", "SELECT strftime('%Y-%m', ts, 'unixepoch'), datetime(ts), julianday(x) - julianday(y) FROM a"),
        ("", "SELECT json_extract(x, '$.a'), json_group_array(y), instr(z, 'b'), printf('%d', 1) FROM a"),
        ("", "SELECT date_format(x, '%Y'), datediff(x, y) FROM a"),
        ("", "SELECT date_trunc('day', x), to_char(x, 'YYYY'), array_agg(y) FROM a"),
        (MY, "SELECT ifnull(x, 1), date_format(y, '%Y'), group_concat(x), json_extract(z, '$.a'), if(x,"
             " 1, 2), "
             "unix_timestamp(y), concat_ws(',', x, y), truncate(x, 2), date_add(y, interval 1 day) FROM a"),
        ("", "SELECT count(*), sum(x), max(y), lower(z), coalesce(x, 1), abs(x), round(x, 1) FROM a"),
    ],
)  # fmt: skip
def test_what_hangs_on_the_tables_alone_is_cached(dialect, query):
    found = analyze(query, dialect)
    assert (found.not_cacheable, found.is_write) == ("", False)


@pytest.mark.parametrize(
    ("dialect", "one", "other", "same"),
    [
        (PG, "Заказы", '"Заказы"', True), (PG, "ÄÖ", '"äö"', True), (PG, "Straße", "STRASSE", True),
        (PG, "e\u0301", "\u00e9", True), (LITE, "ÄÖ", "[äö]", True), (MY, "`äö`", "ÄÖ", True),
        (PG, "Users", '"Users"', False), (PG, "ä" * 40, "ä" * 31, True), (PG, "a" * 70, "a" * 63, True),
        (PG, '"a.b"', "a.b", False), (PG, '"a""b"', 's."a""b"', True),
    ],
)  # fmt: skip
def test_a_write_reaches_a_name_that_the_database_may_take_for_the_same(dialect, one, other, same):
    read = analyze(f"SELECT * FROM {one}", dialect).reads
    written = analyze(f"UPDATE {other} SET x = 1", dialect).writes
    assert (not read_marks(read).isdisjoint(write_marks(written) - {ANY})) is same


@pytest.mark.parametrize(
    ("dialect", "query", "reads"),
    [
        (PG, 'WITH "заказы" AS (SELECT 1) SELECT * FROM "Заказы"', {"заказы"}),
        (PG, "WITH заказы AS (SELECT 1) SELECT * FROM заказы", set()),
        (MY, "WITH t AS (SELECT 1) SELECT * FROM T", {"t"}),  # where a server tells case apart
        (LITE, "WITH t AS (SELECT 1) SELECT * FROM T", set()),
        (PG, "WITH t AS (SELECT 1) SELECT * FROM \uff54", {"t"}),
    ],
)  # fmt: skip
def test_the_name_of_a_with_hides_no_table_that_may_be_another(dialect, query, reads):
    assert analyze(query, dialect).reads == reads


@pytest.mark.parametrize("table", ["pg_stat_activity", "information_schema.tables", "sqlite_master"])
def test_catalogs_change_without_a_write(table):
    assert "catalog" in analyze(f"SELECT * FROM {table}", "").not_cacheable


@pytest.mark.parametrize(
    ("dialect", "query"),
    [("", "SELECT * FROM ONLY a"), (LITE, "SELECT x IN sqlite_schema FROM a")],
)
def test_what_may_be_another_table_is_not_cached(dialect, query):
    assert not analyze(query, dialect).cacheable


@pytest.mark.parametrize(
    ("dialect", "query"),
    [
        (MY, "SELECT SQL_CALC_FOUND_ROWS * FROM a LIMIT 5"),
        ("", "SELECT SQL_CALC_FOUND_ROWS x, y FROM a LIMIT 5"), (MY, "SELECT UTC_TIMESTAMP"),
        ("", "SELECT x FROM a WHERE d > utc_date"), (MY, "SELECT UTC_TIME AS t"), (MY, "SELECT @x"),
        ("", "SELECT x FROM a WHERE y = @x"), (MY, "SELECT @n := @n + 1 FROM a"),
        (MY, "SELECT x INTO @v FROM a"), (MY, "SELECT @@sql_mode"), ("", "SELECT @@session.time_zone"),
        (PG, "SELECT * FROM a TABLESAMPLE BERNOULLI (10)"), ("", "SELECT * FROM a TABLESAMPLE SYSTEM (10)"),
    ],
)  # fmt: skip
def test_what_differs_from_run_to_run_is_not_cached(dialect, query):
    found = analyze(query, dialect)
    assert (found.cacheable, found.is_write) == (False, False)


@pytest.mark.parametrize(
    ("dialect", "query"),
    [
        (PG, "SELECT utc_date FROM a WHERE x = $1"),
        (MY, "SELECT `utc_date`, a.utc_time FROM a WHERE x = :y"),
        ("", "SELECT x FROM a WHERE y = $1 AND z = :z"), (LITE, "SELECT x FROM a WHERE y = @y"),
        (PG, "SELECT * FROM a TABLESAMPLE SYSTEM (50) REPEATABLE (1)"),
    ],
)  # fmt: skip
def test_what_looks_alike_is_cached(dialect, query):
    assert analyze(query, dialect).cacheable


@pytest.mark.parametrize(
    ("dialect", "query", "does"),
    [
        (PG, "BEGIN", "begin"), (PG, "START TRANSACTION", "begin"), (LITE, "BEGIN IMMEDIATE", "begin"),
        (PG, "COMMIT", "commit"), (PG, "END", "commit"), (LITE, "END", "commit"), ("", "end work;", "commit"),
        (LITE, "END TRANSACTION", "commit"), (MY, "COMMIT RELEASE", "commit"), (PG, "ROLLBACK", "rollback"),
        (PG, "ABORT", "rollback"), (MY, "ROLLBACK RELEASE", "rollback"), (PG, "ROLLBACK TO s", "back"),
        (PG, "COMMIT AND CHAIN", "chain"), (MY, "ROLLBACK AND CHAIN", "chain"),
        (PG, "COMMIT AND NO CHAIN", "commit"), (PG, "SAVEPOINT s", "savepoint"),
        (LITE, "RELEASE SAVEPOINT s", "release"), (MY, "SET autocommit = 0", "autocommit off"),
        (MY, "SET @@session.autocommit = ON", "autocommit on"), (PG, "SELECT 1", ""),
        # Scripts: what is left when they end.
        (PG, "BEGIN; UPDATE a SET x = 1; COMMIT", "script"), (PG, "BEGIN; UPDATE a SET x = 1", "begin"),
        (PG, "UPDATE a SET x = 1; COMMIT", "commit"), (PG, "UPDATE a SET x = 1; ROLLBACK", "rollback"),
        (PG, "COMMIT; BEGIN", "chain"), (PG, "COMMIT; BEGIN; UPDATE a SET x = 1; COMMIT", "commit"),
        (PG, "BEGIN; SAVEPOINT s; UPDATE a SET x = 1; RELEASE s; COMMIT", "script"),
        (LITE, "SAVEPOINT s; SAVEPOINT s; DELETE FROM a; RELEASE s", "savepoint"),
        (LITE, "SAVEPOINT s; DELETE FROM a; RELEASE s", ""),
        (LITE, "BEGIN; CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END; SELECT 2", "begin"),
        # Definitions commit in MySQL, and may be MySQL's where no dialect is named.
        *((MY, statement, "implicit") for statement in (
            "GRANT SELECT ON a TO b", "ANALYZE TABLE a", "FLUSH TABLES", "LOCK TABLES a WRITE",
            "UNLOCK TABLES",
            "RENAME TABLE a TO b", "CREATE USER b", "REPAIR TABLE a", "START REPLICA", "SET PASSWORD = 'x'")),
        (MY, "XA START 'x'", "begin"), (MY, "XA END 'x'", ""), (MY, "XA COMMIT 'x' ONE PHASE", "commit"),
        (PG, "PREPARE TRANSACTION 'x'", "commit"), (PG, "COMMIT PREPARED 'x'", "commit"),
        (PG, "GRANT a TO b", ""), (PG, "ANALYZE a", ""), (LITE, "ANALYZE", ""),
        (MY, "CREATE TABLE a (x INT)", "implicit"), ("", "DROP TABLE a", "implicit"),
        (MY, "BEGIN; UPDATE a SET x = 1; TRUNCATE b", "begin"), (PG, "CREATE TABLE a (x INT)", ""),
    ],
)  # fmt: skip
def test_what_happens_to_the_transaction(dialect, query, does):
    assert analyze(query, dialect).transaction == does


@pytest.mark.parametrize("query", ["END", "COMMIT RELEASE;", "ROLLBACK AND CHAIN", "COMMIT"])
def test_an_end_is_no_write_of_its_own(query):
    assert not analyze(query, "").is_write


def test_what_was_prepared_by_another_session_is_not_known():
    assert analyze("COMMIT PREPARED 'x'", PG).writes_anything


@pytest.mark.parametrize(
    ("read", "written", "one"),
    [
        ("t", "t", True), ("s.t", "s.t", True), ("s.t", "t", True), ("t", "s.t", True), ("a.t", "b.t", False),
        ("t", "u", False), ("s.t", "t.s", False), ("c.s.t", "s.t", True), ("s.t", "c.s.t", True),
        ("c.s.t", "t", True), ("t", "c.s.t", True), ("c.s.t", "d.s.t", False), ("s", "s.t", False),
        ('"a\\.b"', "b", False), ("x.b", '"a\\.b"', False),
    ],
)  # fmt: skip
def test_which_names_may_mean_one_table(read, written, one):
    assert bool(read_marks(frozenset((read,))) & write_marks([written])) is one


def test_names_as_people_write_them():
    assert names_given("users", PG) == ["users"]
    assert names_given("Users", PG) == ["users", "Users"], "meant either way"
    assert names_given('public."Users"', PG) == ["public.Users"]
    assert names_given("`db`.`T`", MY) == ["db.t"]
    assert names_given("[dbo].[T]", "") == ["dbo.t"]
    assert names_given('"a.b".c', "") == ['"a\\.b".c']
    for bad in ("", " ", "a..b", "a.", '"open', "a b."):
        with pytest.raises(ValueError):
            names_given(bad, PG)


def test_views_of_views_and_what_changes_along():
    relations = Relations()
    relations.view("active", ["users"])
    relations.view("busy", ["active", "files"])
    relations.cascade("users", ["log"])
    assert relations.read_by(frozenset({"busy"})) == {"busy", "active", "files", "users"}
    assert relations.written_by(frozenset({"s.users"})) == {"s.users", "log"}
    assert relations.written_by(frozenset({"busy"})) >= {"users", "files", "log"}, "a view can be written"
    relations.view("users", ["busy"])  # a circle ends
    assert relations.read_by(frozenset({"users"})) == {"users", "busy", "active", "files"}


def test_relations_beyond_the_bound_make_every_write_count_for_all():
    relations = Relations()
    for n in range(MAX_RELATIONS):
        relations.view(f"v{n}", ["t"])
    assert not relations.overflow
    relations.view("one_more", ["t"])
    assert relations.overflow
    assert len(relations) == MAX_RELATIONS
