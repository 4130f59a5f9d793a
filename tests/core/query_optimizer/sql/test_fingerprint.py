"""Shapes of queries."""

import pytest

from bot.core.query_optimizer.sql.fingerprint import shape


@pytest.mark.parametrize(
    "same",
    [
        [
            "SELECT * FROM users WHERE id = 1",
            "select  *\nfrom USERS where ID=42",
            "SELECT * FROM users WHERE id = ?",
        ],
        ["SELECT 'a' -- why\n", "SELECT /* x */ 'it''s'", "SELECT 1.5", "SELECT 1;"],
        ["SELECT * FROM a WHERE x IN (1)", "SELECT * FROM a WHERE x IN (1, 2, 3)"],
        ["INSERT INTO a VALUES (1, 'x')", "INSERT INTO a VALUES (2, 'y'), (3, 'z'), (4, 'w')"],
        ["SELECT x FROM a WHERE b = $1", "SELECT x FROM a WHERE b = :name", "SELECT x FROM a WHERE b = %s"],
    ],
)
def test_one_shape(same):
    assert len({shape(query, "")[0] for query in same}) == 1, [shape(query, "")[1] for query in same]


@pytest.mark.parametrize(
    "different",
    [
        ["SELECT * FROM a", "SELECT * FROM b", "SELECT x FROM a", "DELETE FROM a"],
        ["SELECT a % s FROM t", "SELECT a FROM t"],
        ['SELECT "A" FROM t', "SELECT a FROM t"],
        ["SELECT x FROM t WHERE a = 1 AND b = 2", "SELECT x FROM t WHERE a = 1 OR b = 2"],
    ],
)
def test_shapes_of_their_own(different):
    assert len({shape(query, "")[0] for query in different}) == len(different)


def test_the_normal_form_holds_no_users_data():
    _, normal = shape("SELECT * FROM users WHERE token = 'hunter2' AND phone = 5550100", "")
    assert normal == "SELECT * FROM users WHERE token = ? AND phone = ?"
    assert "hunter2" not in shape("SELECT 'hunter2' FROM 'open", "")[1]


@pytest.mark.parametrize("dialect", ["", "sqlite", "mysql"])
@pytest.mark.parametrize(
    "query",
    [
        'SELECT id FROM users WHERE name = "hunter2"',
        'SELECT id FROM users WHERE name IN ("a", "hunter2") AND x BETWEEN "hunter2" AND "hunter2"',
        'INSERT INTO t (a, b) VALUES (1, "x"), (2, "hunter2")',
        'CREATE USER bob IDENTIFIED BY "hunter2"',
        "select ' unterminated hunter2 - unt from x",
        "SELECT 1 WHERE a LIKE '%x' ESCAPE '\\' AND b = 'hunter2'",
    ],
)
def test_what_may_be_a_string_in_double_quotes_is_no_name(query, dialect):
    assert "hunter2" not in shape(query, dialect)[1]


def test_names_in_double_quotes_are_kept():
    query = (
        'SELECT "u"."id" FROM "users" AS "u" JOIN "files" AS "f" ON "f"."owner" = "u"."id" ORDER BY "name"'
    )
    assert shape(query, "")[1] == query.replace(".", " . ")
    assert shape('SELECT 1 WHERE "A" = "B"', "postgres")[1].endswith('"A" = "B"'), "there it is always a name"
