"""Texts that repeat themselves are cut; those that cannot be are read by their words; neither takes long."""

import pytest

from bot.core.query_optimizer.sql.fingerprint import is_too_deep, tokens_of
from bot.core.query_optimizer.sql.long_texts import MAX_PARSED, is_readable, outline, shorten

N = 2_000


@pytest.mark.parametrize(
    ("text", "what", "left"),
    [
        ("INSERT INTO t VALUES {}", "(1, 'a''b', NULL), ", "(1, 'a''b', NULL), (1, 'a''b', NULL)"),
        ("INSERT INTO t VALUES {} ON CONFLICT DO NOTHING", "($1::int, $2), ", "($1::int, $2), ($1::int, $2)"),
        ("SELECT 1 WHERE a IN ({}) AND f(b)", "%s, ", "%s, %s"),
        ("SELECT 1 WHERE a = 0 {} OR a = f(b)", "OR a = 1 ", "OR a = 1"),
        ("UPDATE t SET a = CASE b {} ELSE c END", "WHEN 1 THEN 'x' ", "WHEN 1 THEN 'x'"),
    ],
)
def test_what_repeats_is_cut(text, what, left):
    assert shorten(text.format((what * N).rstrip(", ")), "postgres") == text.format(left)


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        # What one reader takes for a string or a comment, another does not.
        (r"SELECT 'a\' , f(), ' IN (1,2,3,4)", "mysql"),
        (r"SELECT E'a\' , f(), ' IN (1,2,3,4)", "postgres"),
        ("SELECT $$'$$, f(), $$'$$", "postgres"),
        ("SELECT $a$'$a$, f(), $a$'$a$", "postgres"),
        ("SELECT /* /* */ ' */ f() -- '", "postgres"),
        ("SELECT 1--f()", "mysql"),
        ("SELECT 1 # '\n, f() # '", "mysql"),
        ("SELECT 1 /*! , f() */", "mysql"),
        ("SELECT [it's], f(), [it's]", "sqlite"),
        ("SELECT a ` b, f(), c ` d", "postgres"),
    ],
)
def test_a_text_that_may_be_other_than_it_seems_is_not_cut(text, dialect):
    assert shorten(text, dialect) is None
    assert outline(text, dialect).anything


@pytest.mark.parametrize(
    ("text", "dialect", "writes", "anything"),
    [
        ("SELECT a, count(*) FROM t WHERE b = 'delete from' -- update", "", "", False),
        ("WITH a AS (SELECT 1) SELECT coalesce(b, 1) FROM a", "postgres", "", False),
        ("SELECT mine(a) FROM t", "postgres", "", True),
        ('SELECT "count" (a) FROM t', "postgres", "", True),
        ("WITH a AS (DELETE FROM t RETURNING b) SELECT b FROM a", "postgres", "", True),
        ("SELECT 1 INTO t", "postgres", "", True),
        ("SELECT 1; DROP TABLE t", "", "", True),
        ("SELECT 'open", "", "", True),
        (
            "INSERT INTO shop.t (a) VALUES (1 + 1) ON CONFLICT (a) DO UPDATE SET a = 2;",
            "postgres",
            "shop.t",
            False,
        ),
        ("insert ignore into t values (1) on duplicate key update a = 1", "mysql", "t", False),
        ("REPLACE INTO t VALUES (1)", "sqlite", "t", False),
        ("INSERT INTO `t` VALUES (1)", "mysql", "", True),
        ("INSERT INTO t SELECT mine()", "postgres", "", True),
        ("INSERT INTO SELECT a FROM t", "postgres", "", True),
        ("SELECT NEXT VALUE FOR s", "mysql", "", True),
        ("INSERT INTO t WITH a AS (UPDATE u SET b = 1 RETURNING b) SELECT b FROM a", "postgres", "", True),
        ("UPDATE t SET a = CASE WHEN b THEN 1 END", "postgres", "t", False),
        ("UPDATE t, u SET a = 1", "mysql", "", True),
        ("UPDATE t AS x SET a = 1", "postgres", "", True),
        ("DELETE FROM t WHERE a IN (SELECT 1)", "sqlite", "t", False),
        ("CALL everything()", "", "", True),
        ("", "", "", True),
        ("\u0416\u0416\u0416", "", "", True),
    ],
)
def test_what_words_tell(text, dialect, writes, anything):
    found = outline(text, dialect)
    assert (found.writes, found.anything) == (writes, anything)


def test_a_function_of_the_databases_own_under_a_known_name_may_do_anything():
    assert not outline("SELECT lower(a) FROM t", "postgres").anything
    assert outline("SELECT lower(a) FROM t", "postgres", frozenset(("lower",))).anything


K = 190_000
HOSTILE = {
    "a<a": "SELECT " + "a<" * (K // 2) + "a",
    "x->x": "SELECT " + "x->" * (K // 3) + "x",
    "ctes": "WITH " + ",".join(f"c{n} AS (SELECT * FROM c{n - 1})" for n in range(K // 32)) + " SELECT 1",
    "brackets": "SELECT " + "(" * K,
    "subscripts": "SELECT a" + "[1]" * 1_200,
    "quotes": "SELECT " + "'n'," * (K // 4),
    "comments": "SELECT " + "/*" * (K // 2),
    "or": "SELECT " + "OR a = 1 " * (K // 9) + "x",
    "in": "SELECT " + "IN (1," * (K // 6),
    "spaces": "SELECT IN (" + " " * K,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_not_parsed(name):
    text = HOSTILE[name]
    cut = shorten(text, "postgres") if len(text) > 4_000 else text
    assert cut is None or len(cut) <= MAX_PARSED
    assert cut is None or len(cut) < 100 or not is_readable(cut)
    outline(text, "postgres")


@pytest.mark.parametrize("join", ["JOIN t", "LEFT JOIN t", "JOIN", "STRAIGHT_JOIN t", "JOIN LATERAL t"])
def test_joins_without_their_conditions_are_bounded(join):
    text = f"SELECT 1 FROM a {join} " * 1 + f"{join} " * 30
    assert is_too_deep(text, tokens_of(text, "mysql"))
    few = f"SELECT 1 FROM a {' '.join([join] * 5)}"
    assert not is_too_deep(few, tokens_of(few, "mysql"))


def test_joins_with_conditions_are_as_many_as_one_likes():
    for join in ("LEFT JOIN t ON a = b", "JOIN t USING (a)", "CROSS JOIN t", "NATURAL JOIN t"):
        text = "SELECT 1 FROM a " + f"{join} " * 30
        assert not is_too_deep(text, tokens_of(text, "postgres"))
