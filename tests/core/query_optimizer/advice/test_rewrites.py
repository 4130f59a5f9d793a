"""Queries that look like one that is rewritten, and would lose or gain rows by it: they stay as they are."""

import sqlite3

import pytest
from sqlglot import exp

from bot.core.query_optimizer.advice import rewrites
from bot.core.query_optimizer.advice.advisor import advise
from bot.core.query_optimizer.advice.rewrites import REWRITES, rewrite
from bot.core.query_optimizer.sql.analyzer import read
from bot.core.query_optimizer.sql.schema import Schema


def stays(query, dialect, schema=None):
    """Whether none of the rewrites changes the query; a fault in one is no reason to stay."""
    return rewrite(read(query, dialect), set(REWRITES), schema) == (query, [])


@pytest.mark.parametrize("dialect", ["", "postgres", "mysql", "sqlite"])
@pytest.mark.parametrize(
    "query",
    [
        "SELECT u.id FROM u LEFT JOIN o ON o.uid = u.id WHERE NOT (o.uid IS NOT NULL)",
        "SELECT u.id FROM u LEFT JOIN o ON o.uid = u.id WHERE NOT (NOT (o.uid IS NOT NULL) AND u.id = 1)",
    ],
)
def test_a_double_negation_keeps_the_rows_without_a_match(dialect, query):
    assert stays(query, dialect)


@pytest.fixture
def schemas():
    """Two schemas with a table of the same name."""
    database = sqlite3.connect(":memory:")
    database.executescript(
        "ATTACH ':memory:' AS r; CREATE TABLE r.t (id, x); INSERT INTO r.t VALUES (1, 1), (2, 2);"
        "ATTACH ':memory:' AS s; CREATE TABLE s.t (id, x); INSERT INTO s.t VALUES (1, 5), (1, 2);"
        "CREATE TABLE a (id); INSERT INTO a VALUES (1), (2), (3)"
    )
    yield database
    database.close()


@pytest.mark.parametrize("dialect", ["", "postgres", "mysql", "sqlite"])
@pytest.mark.parametrize(
    "query",
    [
        "SELECT a.id, s.t.x FROM a LEFT JOIN r.t ON r.t.id = a.id LEFT JOIN s.t ON s.t.id = a.id "
        "WHERE r.t.x > 0",
        "SELECT r.t.id FROM r.t CROSS JOIN s.t WHERE r.t.x = 1 OR s.t.x = 5",
        "SELECT DISTINCT r.t.id FROM r.t CROSS JOIN s.t GROUP BY r.t.id, s.t.x",
        "SELECT r.t.id FROM r.t CROSS JOIN s.t WHERE r.t.x = 2 OR r.t.x = s.t.x OR s.t.x = 2",
        "SELECT t.id FROM r.t WHERE t.x = 2 OR r.t.x = 1",
    ],
)
def test_tables_of_one_name_in_two_schemas_are_two(schemas, dialect, query):
    optimized = advise(read(query, dialect)).optimized_query
    assert sorted(schemas.execute(optimized)) == sorted(schemas.execute(query))


def known(dialect, *ddl):
    schema = Schema()
    for statement in ddl:
        for census in read(statement, dialect).censuses:
            schema.learn(census)
    return schema


ALL = ("", "postgres", "mysql", "sqlite")


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(
    "query",
    [
        # What stands within the join goes with it.
        "SELECT DISTINCT a.x, c.y FROM a LEFT JOIN b JOIN c ON c.id = 1 ON a.id = b.id",
        "SELECT DISTINCT a.x FROM a LEFT JOIN (b JOIN c ON c.id = b.id) ON a.id = b.id WHERE 1 = 1",
        # The value that DISTINCT keeps of several equal ones is compared with another type's.
        "SELECT DISTINCT a FROM t UNION SELECT b FROM u",
        "SELECT b FROM u WHERE b IN (SELECT DISTINCT a FROM t)",
        "SELECT b FROM u WHERE b IN (SELECT a FROM t UNION SELECT c FROM t)",
        # Which of several equal values is shown is up to the plan.
        "SELECT DISTINCT a, COUNT(*) FROM t GROUP BY a",
        "SELECT a, COUNT(*) FROM t GROUP BY a HAVING a = 'x'",
        "SELECT MIN(DISTINCT a) FROM t",
        "SELECT DISTINCT t.a FROM t LEFT JOIN u ON u.id = t.id WHERE u.x = 1",
        # Grouped in different ways by different readers.
        "SELECT t.a FROM t LEFT JOIN u ON u.id = t.id WHERE u.x = 1 IS NULL",
        # To MySQL 0.5 is true within an AND and false alone.
        "SELECT a FROM t WHERE (SELECT MAX(b) FROM u) AND 1 = 1",
        # 1 AS _000 to the parser, a number to newer databases; two strings that are one.
        "SELECT 1_0 FROM t WHERE x_1 = 1 AND y LIKE 'a' 'b' AND 1 = 1",
        # A column with an alias to the parser, a word before a column to MySQL; an error to most.
        "SELECT SOME_MODIFIER id FROM t WHERE 1 = 1",
        "SELECT a FROM t PARTITION (p) WHERE 1 = 1",
        # A comment in the midst of it may be meant for somebody.
        "SELECT a /* keep */ FROM t WHERE 1 = 1",
        "SELECT a FROM t -- keep\nWHERE 1 = 1",
        "/*+ SeqScan(t) */ SELECT a FROM t WHERE 1 = 1",
        "SELECT a FROM t WHERE 1 = 1 /*M! AND b = 2 */",
        # Its order may be one that a type has not, or that DISTINCT forbids.
        "SELECT a FROM t WHERE EXISTS (SELECT DISTINCT b FROM u ORDER BY c)",
        "SELECT a FROM t WHERE (SELECT COUNT(*) FROM u ORDER BY 1) > 0 AND EXISTS (SELECT 1 FROM u LIMIT 1)",
    ],
)
def test_without_a_schema_what_depends_on_types_stays(dialect, query):
    assert stays(query, dialect)


@pytest.mark.parametrize(
    ("dialect", "declared", "query"),
    [
        ("postgres", "real", "SELECT id FROM t WHERE a = 16777217 OR a = 5"),
        ("postgres", "cidr", "SELECT id FROM t WHERE a = '10.0.0.5/8' OR a = '10.0.0.0/8'"),
        ("postgres", "numeric", "SELECT DISTINCT a, COUNT(*) FROM t GROUP BY a"),
        ("postgres", "citext", "SELECT id FROM t WHERE id IN (SELECT DISTINCT a FROM t)"),
        ("postgres", 'text COLLATE "x"', "SELECT DISTINCT a, COUNT(*) FROM t GROUP BY a"),
        ("postgres", "char(4)", "SELECT MAX(DISTINCT a) FROM t"),
        ("postgres", "json", "SELECT id FROM t WHERE EXISTS (SELECT DISTINCT a FROM t)"),
        ("postgres", "xml", "SELECT id FROM t WHERE EXISTS (SELECT id FROM t ORDER BY a)"),
        ("sqlite", "TEXT COLLATE NOCASE", "SELECT a, COUNT(*) FROM t GROUP BY a HAVING a = 'x'"),
        ("sqlite", "REAL", "SELECT DISTINCT a, COUNT(*) FROM t GROUP BY a"),
        ("sqlite", "", "SELECT MAX(DISTINCT a) AS a FROM t"),
        ("mysql", "varchar(9)", "SELECT id FROM t WHERE a = 'x' OR a = 'y'"),
        ("mysql", "varchar(9)", "SELECT id FROM t WHERE id IN (SELECT DISTINCT a FROM t)"),
        ("mysql", "year", "SELECT id FROM t WHERE a = 99 OR a = 2001"),
        ("mysql", "decimal(6, 2)", "SELECT DISTINCT a, COUNT(*) FROM t GROUP BY a"),
    ],
)
def test_a_type_that_has_several_spellings_of_a_value_forbids_it(dialect, declared, query):
    schema = known(dialect, f"CREATE TABLE t (id int, a {declared})")
    assert stays(query, dialect, schema)


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(
    ("query", "optimized"),
    [
        ("SELECT id FROM t WHERE a = 1 OR a = 2", "SELECT id FROM t WHERE a IN (1, 2)"),
        ("SELECT DISTINCT a, COUNT(*) FROM t GROUP BY a", "SELECT a, COUNT(*) FROM t GROUP BY a"),
        ("SELECT id FROM t WHERE id IN (SELECT DISTINCT a FROM t)",
         "SELECT id FROM t WHERE id IN (SELECT a FROM t)"),
        ("SELECT DISTINCT a FROM t UNION SELECT id FROM t", "SELECT a FROM t UNION SELECT id FROM t"),
        ("SELECT MAX(DISTINCT a) AS m FROM t", "SELECT MAX(a) AS m FROM t"),
        ("SELECT a, COUNT(*) FROM t GROUP BY a HAVING a > 1",
         "SELECT a, COUNT(*) FROM t WHERE a > 1 GROUP BY a"),
        ("SELECT DISTINCT t.a FROM t LEFT JOIN u ON u.id = t.id", "SELECT DISTINCT t.a FROM t"),
    ],
)  # fmt: skip
def test_with_whole_numbers_it_is_done(dialect, query, optimized):
    schema = known(dialect, "CREATE TABLE t (id int, a int)", "CREATE TABLE u (id int NOT NULL, b int)")
    assert advise(read(query, dialect), schema).optimized_query == optimized


@pytest.mark.parametrize(
    "later",
    [
        "ALTER TABLE t ALTER COLUMN a TYPE citext",
        "CREATE TABLE s.t (id int, a citext)",
        "ALTER TABLE t ADD COLUMN b int",
    ],
)
def test_a_table_that_is_changed_later_is_in_doubt(later):
    query = "SELECT id FROM t WHERE a = 1 OR a = 2"
    schema = known("postgres", "CREATE TABLE t (id int, a int)", later)
    assert stays(query, "postgres", schema)


def test_a_constraint_changes_no_type():
    query = "SELECT id FROM t WHERE a = 1 OR a = 2"
    schema = known("postgres", "CREATE TABLE t (id int, a int)", "ALTER TABLE t ADD PRIMARY KEY (id)")
    assert advise(read(query, "postgres"), schema).optimized_query != query


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(
    ("query", "optimized"),
    [
        ("/* route:/start */ SELECT a FROM t WHERE 1 = 1 AND b = 2 -- end\n;",
         "/* route:/start */ SELECT a FROM t WHERE b = 2 -- end\n;"),
        ("SELECT a FROM t WHERE 1 = 1 AND b = :name", "SELECT a FROM t WHERE b = :name"),
        ("SELECT a FROM t WHERE 1 = 1 AND b = $2 AND c = $1", "SELECT a FROM t WHERE b = $2 AND c = $1"),
        ("SELECT a FROM t WHERE 1 = 1 AND b = %(name)s", "SELECT a FROM t WHERE b = %(name)s"),
        ("SELECT a FROM t WHERE 1 = 1 AND b = %s", "SELECT a FROM t WHERE b = %s"),
    ],
)  # fmt: skip
def test_comments_around_it_and_parameters_stay(dialect, query, optimized):
    assert advise(read(query, dialect)).optimized_query == optimized


@pytest.mark.parametrize("dialect", ["", "mysql", "sqlite"])
def test_columns_keep_their_names(dialect):
    """Which are the text of what is selected, so that it must not be printed in another way."""
    query = "SELECT count(*) FROM t WHERE 1 = 1"
    assert stays(query, dialect)
    query = "SELECT COUNT(*) FROM t WHERE 1 = 1"
    assert advise(read(query, dialect)).optimized_query == "SELECT COUNT(*) FROM t"


@pytest.mark.parametrize("dialect", ["", "mysql"])
def test_names_that_mysql_tells_apart_by_case_are_two(dialect):
    query = "SELECT T.id FROM a AS T WHERE EXISTS (SELECT 1 FROM b AS t WHERE T.x = 1 OR t.x = 2 OR 1 = 1)"
    assert stays(query, dialect)


def test_columns_that_an_alias_renames_have_no_known_type():
    schema = known("postgres", "CREATE TABLE t (id int, a text COLLATE nocase)")
    query = "SELECT DISTINCT x.id, COUNT(*) FROM t AS x (a, id) GROUP BY x.id"
    advice = advise(read(query, "postgres"), schema)
    assert advice.optimized_query == query
    query = "SELECT x.n FROM t AS x (n, id) WHERE x.n = 5"
    assert advise(read(query, "postgres")).index_suggestions == ()


def test_an_operator_that_a_database_does_not_know_goes_on_to_fail():
    query = "SELECT a FROM t WHERE b == 1 AND 1 = 1"
    for dialect in ("", "postgres", "mysql"):
        assert stays(query, dialect)
    assert advise(read(query, "sqlite")).optimized_query == "SELECT a FROM t WHERE b = 1"


def with_whole_numbers(dialect):
    return known(dialect, "CREATE TABLE t (id int, a int, b int)", "CREATE TABLE u (id int NOT NULL, b int)")


@pytest.mark.parametrize(
    ("dialects", "query"),
    [
        # Each ? has its place: the condition on a would get the other's value.
        *((ALL, f"SELECT a, COUNT(*) FROM t GROUP BY a HAVING COUNT(*) > {one} AND a > {two}")
          for one, two in (("?", "?"), ("%s", "%s"), ("$1", "$2"), ("?1", "?2"))),
        # Whoever gives $x may not give it for nothing.
        (("sqlite", "mysql"), "SELECT a FROM t WHERE id IN (SELECT id FROM u ORDER BY $x)"),
        # Two words without a space between them: some databases refuse that.
        (("", "postgres", "sqlite"), "SELECT a FROM t WHERE b = 1AND 1 = 1"),
        (("postgres",), "SELECT a FROM t WHERE b = $x AND 1 = 1"),
        # Names of columns that are the text of what is selected, wherever they can be asked for.
        *((("", "mysql", "sqlite"), query) for query in (
            "SELECT MAX(DISTINCT a) FROM t",
            "SELECT * FROM (SELECT count(*) FROM t WHERE 1 = 1) x",
            "WITH x AS (SELECT count(*) FROM t WHERE 1 = 1) SELECT * FROM x",
            "SELECT count(*) FROM t WHERE 1 = 1 UNION ALL SELECT 2",
            "SELECT * FROM t JOIN (SELECT count(*) FROM u) v ON 1 = 1 WHERE 1 = 1",
            "SELECT * FROM (SELECT count(*) FROM t UNION ALL SELECT 2) x WHERE 1 = 1")),
        # Two statements, none at all, and nothing to rewrite.
        (ALL, "SELECT a FROM t WHERE 1 = 1; SELECT b FROM t WHERE 1 = 1"), (ALL, "SELEC a FROM ("),
        (ALL, "SELECT a FROM t WHERE b = 2"), (ALL, "DELETE FROM t WHERE 1 = 1"),
    ],
)  # fmt: skip
def test_even_with_whole_numbers_it_stays(dialects, query):
    for dialect in dialects:
        assert stays(query, dialect, with_whole_numbers(dialect))


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(
    ("query", "optimized"),
    [
        ("SELECT a, COUNT(*) FROM t GROUP BY a HAVING COUNT(*) > :x AND a > :y",
         "SELECT a, COUNT(*) FROM t WHERE a > :y GROUP BY a HAVING COUNT(*) > :x"),
        ("SELECT a FROM t WHERE b = ? AND EXISTS (SELECT count(*) FROM u) AND 1 = 1",
         "SELECT a FROM t WHERE b = ? AND EXISTS(SELECT COUNT(*) FROM u)"),
        ("SELECT a FROM t WHERE b IN (SELECT count(*) FROM u UNION ALL SELECT 2) AND 1 = 1",
         "SELECT a FROM t WHERE b IN (SELECT COUNT(*) FROM u UNION ALL SELECT 2)"),
    ],
)  # fmt: skip
def test_what_makes_no_difference_does_not_stop_it(dialect, query, optimized):
    assert rewrite(read(query, dialect), set(REWRITES), with_whole_numbers(dialect))[0] == optimized


def test_only_what_is_asked_for_is_done():
    query = "SELECT id FROM t WHERE (a = 1 OR a = 2) AND 1 = 1"
    reading, schema = read(query, "sqlite"), with_whole_numbers("sqlite")
    both = "SELECT id FROM t WHERE (a IN (1, 2))"
    assert rewrite(reading, {"Q032", "Q037"}, schema) == (both, ["Q032", "Q037"])
    assert rewrite(reading, {"Q032"}, schema) == ("SELECT id FROM t WHERE (a = 1 OR a = 2)", ["Q032"])
    assert rewrite(reading, {"Q001"}, schema) == (query, [])
    assert rewrite(reading, set(), schema) == (query, [])


def test_a_fault_of_the_printer_changes_nothing_but_memory_that_is_used_up_is_told(monkeypatch):
    def printed(*_):
        raise error

    monkeypatch.setattr(rewrites, "printed", printed)
    error = ValueError("unsupported")
    assert stays("SELECT a FROM t WHERE 1 = 1", "sqlite")
    error = MemoryError()
    with pytest.raises(MemoryError):
        stays("SELECT a FROM t WHERE 1 = 1", "sqlite")


def test_a_tree_whose_text_is_read_in_another_way_is_not_taken(monkeypatch):
    def negate(tree, types):
        condition = tree.args["where"].this
        tree.args["where"].set("this", exp.Not(this=condition))  # without parentheses, of the first part only
        return True

    monkeypatch.setitem(rewrites.CHANGES, "Q032", negate)
    assert rewrite(read("SELECT a FROM t WHERE b", "sqlite"), {"Q032"})[0] == "SELECT a FROM t WHERE NOT b"
    query = "SELECT a FROM t WHERE b = 1 AND 1 = 1"
    assert rewrite(read(query, "sqlite"), {"Q032"}) == (query, [])
