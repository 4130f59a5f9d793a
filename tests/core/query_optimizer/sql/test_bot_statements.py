"""What bots say to their databases: each is read, with its tables, and drops nothing else."""

import pytest

from bot.core.query_optimizer.sql.analyzer import analyze

STATEMENTS = {
    "postgres": [
        (
            "INSERT INTO users (id, name) VALUES ($1,$2) ON CONFLICT (id) DO UPDATE SET name = "
            "EXCLUDED.name, seen = now() RETURNING id, xmax = 0 AS inserted"
        ),
        "INSERT INTO a SELECT * FROM b WHERE NOT EXISTS (SELECT 1 FROM c WHERE c.id=b.id)",
        (
            "SELECT data->>'x', data#>>'{a,b}', data @> $1::jsonb, data ? 'k' FROM a WHERE data ?| "
            "array['x','y']"
        ),
        "SELECT * FROM a WHERE id = ANY($1::bigint[])",
        "SELECT * FROM a WHERE tags && $1 AND tags @> ARRAY[$2]",
        "UPDATE a SET tags = array_append(tags, $1) WHERE id = $2 RETURNING *",
        "SELECT id, row_number() OVER (PARTITION BY g ORDER BY s DESC) rn FROM a",
        "SELECT * FROM (SELECT *, rank() OVER (ORDER BY score DESC) r FROM a) t WHERE r <= 10",
        "SELECT * FROM a WHERE to_tsvector('russian', text) @@ plainto_tsquery('russian', $1)",
        "SELECT ts_headline('english', body, q) FROM a, to_tsquery('english', $1) q WHERE tsv @@ q",
        (
            "WITH RECURSIVE t AS (SELECT id, parent FROM a WHERE id = $1 UNION ALL SELECT a.id, a.parent "
            "FROM a JOIN t ON a.parent = t.id) SELECT * FROM t"
        ),
        "WITH moved AS (DELETE FROM a WHERE ts < $1 RETURNING *) INSERT INTO b SELECT * FROM moved",
        "SELECT a.*, l.n FROM a LEFT JOIN LATERAL (SELECT count(*) n FROM b WHERE b.a = a.id) l ON true",
        "SELECT * FROM jsonb_array_elements($1::jsonb) e",
        "SELECT * FROM unnest($1::int[], $2::text[]) AS t(a, b)",
        "INSERT INTO a (x) SELECT * FROM unnest($1::int[])",
        "SELECT generate_series('2024-01-01'::date, '2024-02-01', '1 day')",
        "SELECT coalesce(sum(x) FILTER (WHERE y), 0), count(DISTINCT z) FROM a",
        "SELECT string_agg(DISTINCT name, ', ' ORDER BY name) FROM a",
        "SELECT date_trunc('hour', ts AT TIME ZONE 'Europe/Berlin') h, count(*) FROM a GROUP BY 1",
        "SELECT * FROM a FOR UPDATE SKIP LOCKED LIMIT 1",
        (
            "UPDATE a SET s='x' WHERE id = (SELECT id FROM a WHERE s='y' ORDER BY id LIMIT 1 FOR UPDATE "
            "SKIP LOCKED) RETURNING *"
        ),
        "CREATE INDEX IF NOT EXISTS i ON a (x)",
        "CREATE INDEX CONCURRENTLY i ON a USING gin (x jsonb_path_ops)",
        "CREATE UNIQUE INDEX i ON a (lower(x)) WHERE y IS NULL",
        "ALTER TABLE a ADD COLUMN IF NOT EXISTS x int NOT NULL DEFAULT 0",
        "ALTER TABLE a ALTER COLUMN x TYPE bigint",
        "ALTER TABLE a DROP CONSTRAINT IF EXISTS c",
        "ALTER TABLE a ADD PRIMARY KEY (x)",
        (
            "CREATE TABLE IF NOT EXISTS a (id bigserial PRIMARY KEY, x text NOT NULL DEFAULT '', ts "
            "timestamptz NOT NULL DEFAULT now(), u uuid DEFAULT gen_random_uuid())"
        ),
        "DROP TABLE IF EXISTS a",
        "TRUNCATE a RESTART IDENTITY",
        "SELECT EXISTS(SELECT 1 FROM a WHERE id=$1)",
        "INSERT INTO a VALUES (DEFAULT, $1, now()) RETURNING id",
        "UPDATE a SET x = x + 1, ts = now() WHERE id = $1",
        "DELETE FROM a WHERE ts < now() - interval '7 days'",
        "DELETE FROM a USING b WHERE a.id=b.id",
        "SELECT random()",
        "SELECT * FROM a ORDER BY random() LIMIT 1",
        "SELECT * FROM a TABLESAMPLE bernoulli(1)",
        "SELECT extract(epoch FROM ts)::bigint FROM a",
        "SELECT to_char(ts, 'YYYY-MM-DD'), x::numeric(10,2)::text FROM a",
        "SELECT (data->'a')::int, x::bigint FROM a",
        "SELECT name, similarity(name, $1) FROM a WHERE name % $1",
        "SELECT * FROM a WHERE name ILIKE '%' || $1 || '%'",
        "SELECT * FROM a WHERE (x, y) > ($1, $2) ORDER BY x, y LIMIT 10",
        "SELECT pg_advisory_xact_lock($1)",
        "NOTIFY ch, 'x'",
        "SELECT pg_notify('ch', $1)",
        "LISTEN ch",
        "VACUUM ANALYZE a",
        "SET LOCAL statement_timeout = '5s'",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x) FROM a",
        "SELECT width_bucket(x, 0, 100, 10) FROM a",
        "SELECT encode(digest(x, 'sha256'), 'hex') FROM a",
        "SELECT md5(x::text), encode(sha256(x::bytea), 'hex') FROM a",
        "SELECT json_agg(t) FROM (SELECT * FROM a) t",
        "SELECT row_to_json(t) FROM a t",
        "SELECT jsonb_set(data, '{x}', to_jsonb($1::int)) FROM a",
        "UPDATE a SET data = data || $1::jsonb",
        "UPDATE a SET data = jsonb_set(data, '{x}', '1') FROM b WHERE b.id = a.id",
        (
            "MERGE INTO a USING b ON a.id=b.id WHEN MATCHED THEN UPDATE SET x=b.x WHEN NOT MATCHED THEN "
            "INSERT VALUES (b.id, b.x)"
        ),
        "SELECT greatest(a, b), least(a, b), nullif(a, 0) FROM a",
        (
            "SELECT split_part(x, ',', 1), regexp_replace(x, 'a', 'b', 'g'), position('a' in x), "
            "trim(both ' ' from x), left(x, 3), right(x, 2), lpad(x, 3, '0'), initcap(x), reverse(x), "
            "strpos(x, 'a'), char_length(x), concat_ws(' ', a, b), format('%s', x) FROM a"
        ),
        "SELECT array_length(x, 1), cardinality(x), array_agg(y ORDER BY z), unnest(x) FROM a GROUP BY 1",
        "SELECT * FROM a WHERE ts BETWEEN $1 AND $2 AND x IS DISTINCT FROM $3",
        "SELECT * FROM a WHERE x ~* $1 AND y NOT IN ($2,$3) AND z IS NULL",
        "COPY a (x, y) FROM STDIN WITH (FORMAT csv)",
        "SELECT ctid, xmin FROM a",
        "SELECT age(ts, now()) FROM a",
        (
            "SELECT bool_or(x), every(y), bit_or(z), stddev(x), corr(x, y), mode() WITHIN GROUP (ORDER "
            "BY x) FROM a"
        ),
        "SELECT x, sum(y) OVER (ORDER BY t ROWS BETWEEN 6 PRECEDING AND CURRENT ROW) FROM a",
        "SELECT first_value(x) OVER w, ntile(4) OVER w FROM a WINDOW w AS (PARTITION BY g ORDER BY s)",
        "SELECT * FROM ONLY a",
        "DELETE FROM ONLY a WHERE x=1",
        "UPDATE ONLY a SET x=1",
        "SELECT 1 FROM a GROUP BY GROUPING SETS ((x), (y), ())",
        "VALUES (1,2),(3,4)",
        "TABLE a",
        "INSERT INTO a DEFAULT VALUES",
        "SELECT '{1,2}'::int[] @> ARRAY[1]",
        "SELECT setseed(0.5)",
        "SELECT jsonb_path_query(data, '$.a[*]') FROM a",
        "SELECT a.id FROM a NATURAL JOIN b",
        "SELECT make_interval(days => $1)",
        "SELECT ts + make_interval(hours => x) FROM a",
        "SELECT ($1::timestamptz + interval '1 day') FROM a",
        "SELECT count(*) FILTER (WHERE x > 1)::float / nullif(count(*), 0) FROM a",
        "INSERT INTO a (x) VALUES ($1) ON CONFLICT DO NOTHING",
        "INSERT INTO a AS t (x) VALUES ($1) ON CONFLICT ON CONSTRAINT c DO UPDATE SET x = t.x + 1",
        "ALTER TABLE a ENABLE ROW LEVEL SECURITY",
        "COMMENT ON TABLE a IS 'x'",
        "ANALYZE a",
        "REINDEX TABLE a",
        "SAVEPOINT x",
        "SHOW server_version",
    ],
    "mysql": [
        "INSERT INTO a (x,y) VALUES (%s,%s) ON DUPLICATE KEY UPDATE x = VALUES(x), n = n + 1",
        "INSERT INTO a (x) VALUES (%s) AS new ON DUPLICATE KEY UPDATE x = new.x",
        "INSERT IGNORE INTO a (x) VALUES (%s)",
        "REPLACE INTO a (x,y) VALUES (%s,%s)",
        "REPLACE INTO a SET x = 1",
        "INSERT INTO a SET x=%s, y=NOW()",
        "INSERT LOW_PRIORITY IGNORE INTO a VALUES (1)",
        "INSERT DELAYED INTO a VALUES (1)",
        "INSERT HIGH_PRIORITY INTO a VALUES (1)",
        "UPDATE a SET x = IF(y > 1, 2, 3), ts = NOW() WHERE id = %s LIMIT 1",
        "UPDATE IGNORE a SET x=1",
        "DELETE FROM a WHERE ts < NOW() - INTERVAL 7 DAY LIMIT 100",
        "DELETE a FROM a JOIN b ON a.id=b.id",
        "UPDATE a, b SET a.x=b.x WHERE a.id=b.id",
        "SELECT SQL_NO_CACHE * FROM a",
        "SELECT STRAIGHT_JOIN * FROM a JOIN b",
        "SELECT * FROM a USE INDEX (i) WHERE x=1",
        "SELECT * FROM a FORCE INDEX (i) ORDER BY x",
        "SELECT DATE(ts), COUNT(*) FROM a GROUP BY DATE(ts) WITH ROLLUP",
        "SELECT DATE_FORMAT(ts, '%%Y-%%m') m, SUM(x) FROM a GROUP BY m",
        "SELECT IFNULL(SUM(x), 0), GROUP_CONCAT(DISTINCT y ORDER BY y SEPARATOR ',') FROM a",
        "SELECT JSON_EXTRACT(d, '$.a'), d->>'$.b', JSON_UNQUOTE(d->'$.c') FROM a",
        "SELECT * FROM a WHERE MATCH(x) AGAINST (%s IN BOOLEAN MODE)",
        "SELECT * FROM a WHERE FIND_IN_SET(%s, x)",
        "SELECT * FROM a WHERE x REGEXP %s",
        "SELECT * FROM a WHERE ts > DATE_SUB(CURDATE(), INTERVAL 1 DAY)",
        (
            "SELECT UNIX_TIMESTAMP(ts), FROM_UNIXTIME(x), TIMESTAMPDIFF(DAY, a, b), DATEDIFF(a, b), "
            "YEAR(ts), HOUR(ts), DAYOFWEEK(ts) FROM a"
        ),
        "SELECT ROW_NUMBER() OVER (PARTITION BY g ORDER BY s) FROM a",
        "SELECT CAST(x AS UNSIGNED), CONVERT(y USING utf8mb4), BINARY z FROM a",
        (
            "CREATE TABLE IF NOT EXISTS a (id BIGINT AUTO_INCREMENT PRIMARY KEY, x VARCHAR(255) "
            "CHARACTER SET utf8mb4, KEY i (x), FULLTEXT KEY f (x)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
        ),
        "ALTER TABLE a ADD COLUMN y INT AFTER x, ADD INDEX i (y)",
        "ALTER TABLE a MODIFY x BIGINT",
        "ALTER TABLE a ENGINE=InnoDB",
        "CREATE INDEX i ON a (x(10))",
        "DROP INDEX i ON a",
        "TRUNCATE TABLE a",
        "SELECT LAST_INSERT_ID()",
        "SELECT FOUND_ROWS()",
        "SHOW TABLES",
        "SHOW CREATE TABLE a",
        "DESCRIBE a",
        "SELECT * FROM a LIMIT 10, 20",
        "SELECT * FROM a LOCK IN SHARE MODE",
        "SELECT * FROM a FOR UPDATE",
        "SELECT @x := @x + 1 FROM a",
        "INSERT INTO a (x) VALUES (%s) RETURNING id",
        "DELETE FROM a WHERE id=%s RETURNING *",
        "SELECT * FROM `a` WHERE `b` = %s AND c IN (%s,%s)",
        "SELECT * FROM a WHERE x = %(id)s",
        "SELECT * FROM a PARTITION (p0)",
        "WITH t AS (SELECT * FROM a) SELECT * FROM t",
        (
            "SELECT SUBSTRING_INDEX(x, ',', 1), LOCATE('a', x), CONCAT(x, y), LPAD(x, 3, '0'), FIELD(x, "
            "1, 2), ELT(1, x, y), TRUNCATE(x, 2), MD5(x), SHA2(x, 256), HEX(x), INET_ATON(x), RAND() "
            "FROM a"
        ),
        "SELECT VERSION()",
        "SELECT 1 UNION ALL SELECT x FROM a",
        "INSERT INTO a SELECT * FROM b ON DUPLICATE KEY UPDATE x = VALUES(x)",
        "LOAD DATA LOCAL INFILE 'x' INTO TABLE a",
        "OPTIMIZE TABLE a",
        "SELECT COUNT(*) FROM a WHERE x <=> NULL",
        "SELECT * FROM a WHERE JSON_CONTAINS(d, '1', '$.x')",
        (
            "SELECT STR_TO_DATE(x, '%%d'), LAST_DAY(x), EXTRACT(YEAR FROM x), WEEK(x), QUARTER(x), "
            "TIME_TO_SEC(x), SEC_TO_TIME(y), MAKEDATE(2024, 1), ADDDATE(x, 1) FROM a"
        ),
    ],
    "sqlite": [
        "INSERT OR IGNORE INTO a VALUES (?,?)",
        "INSERT OR REPLACE INTO a (x) VALUES (?)",
        "REPLACE INTO a VALUES (?)",
        "INSERT INTO a (x) VALUES (?) ON CONFLICT(x) DO UPDATE SET n = n + 1, y = excluded.y RETURNING *",
        "UPDATE OR IGNORE a SET x=?",
        "UPDATE a SET x = x + 1 WHERE id = ?1 AND y = ?2",
        "UPDATE a SET x=b.x FROM b WHERE a.id=b.id",
        "DELETE FROM a WHERE ts < strftime('%s','now') - 86400",
        "SELECT strftime('%Y-%m', ts, 'unixepoch') m, count(*) FROM a GROUP BY m",
        "SELECT date(ts) d, total(x), group_concat(y, ', ') FROM a GROUP BY d",
        "SELECT json_extract(d, '$.a'), d->>'b', value FROM a, json_each(a.d)",
        "SELECT * FROM f WHERE f MATCH ? ORDER BY bm25(f)",
        "SELECT highlight(f, 0, '<b>', '</b>') FROM f WHERE f MATCH ?",
        "SELECT rowid, * FROM a WHERE rowid > ?",
        "PRAGMA journal_mode=WAL",
        "PRAGMA foreign_keys = ON",
        "PRAGMA table_info('a')",
        "PRAGMA user_version",
        (
            "CREATE TABLE IF NOT EXISTS a (id INTEGER PRIMARY KEY AUTOINCREMENT, x TEXT NOT NULL COLLATE "
            "NOCASE, ts INTEGER DEFAULT (strftime('%s','now'))) STRICT"
        ),
        "CREATE TABLE a (x, y, PRIMARY KEY (x, y)) WITHOUT ROWID",
        "CREATE INDEX IF NOT EXISTS i ON a (x) WHERE y IS NOT NULL",
        "ALTER TABLE a ADD COLUMN y TEXT DEFAULT ''",
        "ALTER TABLE a RENAME COLUMN x TO y",
        "DROP TABLE IF EXISTS a",
        "SELECT last_insert_rowid()",
        "SELECT changes()",
        "VACUUM",
        "BEGIN IMMEDIATE",
        "SELECT * FROM a WHERE x GLOB 'a*' AND y IS NOT ?",
        (
            "SELECT iif(x > 1, 'a', 'b'), ifnull(y, 0), coalesce(z, ''), instr(x, 'a'), substr(x, 1, 2), "
            "printf('%d', x), typeof(x), hex(x), unicode(x), char(65), round(x, 2), abs(x), max(x, y), "
            "min(x, y), random() FROM a"
        ),
        "SELECT * FROM a ORDER BY RANDOM() LIMIT 1",
        "SELECT * FROM a WHERE id IN (SELECT id FROM b)",
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n < 10) SELECT n FROM c",
        "SELECT count(*) FROM a WHERE ts > datetime('now', '-1 day')",
        "SELECT x, lag(x) OVER (ORDER BY t) FROM a",
        "INSERT INTO a SELECT * FROM b",
        "SELECT * FROM sqlite_master",
        "EXPLAIN QUERY PLAN SELECT * FROM a",
        "SELECT julianday(x) - julianday(y), unixepoch(z) FROM a",
        "INSERT INTO f(f, rowid, x) VALUES('delete', ?, ?)",
        "SELECT x FROM a WHERE y = :name AND z = @other AND w = $third",
        "SELECT CAST(x AS REAL), x || y, x COLLATE NOCASE FROM a",
        "SELECT * FROM a INDEXED BY i WHERE x = 1",
        "SELECT * FROM generate_series(1, 10)",
        "CREATE TEMP TABLE t AS SELECT * FROM a",
        "SELECT sum(x) FILTER (WHERE y) FROM a",
        "UPDATE a SET x = (SELECT max(x) FROM b) WHERE EXISTS (SELECT 1 FROM c)",
        "SELECT * FROM a LEFT OUTER JOIN b USING (id) WHERE b.id ISNULL",
        "SELECT * FROM a WHERE x NOTNULL",
    ],
}
CASES = [(dialect, statement) for dialect, listed in STATEMENTS.items() for statement in listed]
ELSEWHERE = ("UPDATE IGNORE", "UPDATE ONLY", "DELETE FROM ONLY")
"""Read by the one dialect; without one, the word may be the table."""


@pytest.mark.parametrize(("dialect", "statement"), CASES)
def test_each_is_read_with_its_tables(dialect, statement):
    found = analyze(statement, dialect)
    assert not found.writes_anything
    assert found.reads | found.writes <= {*"abcft", "users", "i", "jsonb_path_ops", "sqlite_master"}
    if found.query_type.value in ("insert", "update", "delete", "merge"):
        assert found.writes


@pytest.mark.parametrize(("dialect", "statement"), CASES)
def test_without_a_dialect_it_drops_no_less_and_not_everything(dialect, statement):
    found = analyze(statement, "")
    if statement.startswith(ELSEWHERE):
        assert found.writes_anything
        return
    assert not found.writes_anything
    assert found.writes >= analyze(statement, dialect).writes
