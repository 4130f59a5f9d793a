"""Shapes of queries."""

import pytest

from bot.core.query_optimizer.fingerprint import shape


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
