"""Values of statements: put in where they are known, left open where an average is right, never told."""

import pytest

from bot.core.query_optimizer.models import Finding, IndexSuggestion
from bot.core.query_optimizer.workload.redaction import (
    WITHHELD,
    finding_without_values,
    has_value,
    values_of,
    without_values,
)
from bot.core.query_optimizer.workload.values import inlined, open_parameters


@pytest.mark.parametrize(
    ("text", "parameters", "expected"),
    [
        ("SELECT a FROM t WHERE b = $1", ("7",), "SELECT a FROM t WHERE b = '7'"),
        ("SELECT a FROM t WHERE b = $1", ("it's",), "SELECT a FROM t WHERE b = 'it''s'"),
        (
            "SELECT a FROM t WHERE b = $2 AND c = $1",
            (None, "x"),
            "SELECT a FROM t WHERE b = 'x' AND c = NULL",
        ),
        (
            "SELECT '$1', \"$1\", E'\\'$1' /* $1 */ FROM t WHERE a = $1 -- $1",
            ("v",),
            "SELECT '$1', \"$1\", E'\\'$1' /* $1 */ FROM t WHERE a = 'v' -- $1",
        ),
        ("SELECT $$ $1 $$, a FROM t WHERE b = $1", ("v",), "SELECT $$ $1 $$, a FROM t WHERE b = 'v'"),
        ("SELECT a FROM t WHERE b = $2", ("7",), None),
        ("SELECT a FROM t WHERE b = $1", ("\0",), None),
    ],
)
def test_parameters_become_literals(text, parameters, expected):
    assert inlined(text, parameters) == expected


@pytest.mark.parametrize(
    ("text", "rows", "expected"),
    [
        (
            "SELECT a FROM t WHERE b = $1 AND c IN ($2, $3)",
            None,
            ("SELECT a FROM t WHERE b = $1 AND c IN ($2, $3)", 3),
        ),
        ("SELECT a FROM t WHERE b = $1::int", None, ("SELECT a FROM t WHERE b = $1::int", 1)),
        ("SELECT a FROM t WHERE b = $2 LIMIT $1", 9.2, ("SELECT a FROM t WHERE b = $1 LIMIT 10", 1)),
        ("SELECT a FROM t ORDER BY b LIMIT $1", 0.0, ("SELECT a FROM t ORDER BY b LIMIT 1", 0)),
        ("SELECT a FROM t WHERE b = $1 LIMIT $2", None, None),
        ("SELECT a FROM t WHERE b = $1 LIMIT $2 OFFSET $3", 9.0, None),
        ("SELECT a FROM t WHERE b > $1", 1.0, None),
        ("SELECT a FROM t WHERE b BETWEEN $1 AND $2", 1.0, None),
        ("SELECT a FROM t WHERE b LIKE $1", 1.0, None),
        ("SELECT a FROM t WHERE b = ANY($1)", 1.0, None),
        ("SELECT a FROM t WHERE b = $1 + $2", 1.0, None),
        ("SELECT a FROM t WHERE b = $1; SELECT $1", 1.0, None),
        ("SELEC", 1.0, None),
    ],
)
def test_parameters_that_may_stay_open(text, rows, expected):
    assert open_parameters(text, rows) == expected


def test_a_finding_tells_no_value():
    text = "SELECT a FROM t WHERE name LIKE '%secret words' AND n = 77 AND n = 78"
    values = values_of(text, "postgres")
    said = Finding(
        "Q004", "x", "warning", "LIKE '%secret words' begins with a wildcard: no index.", "Use n = 77."
    )
    assert finding_without_values(said, values).message == "LIKE ? begins with a wildcard: no index."
    assert finding_without_values(said, values).fix == "Use n = ?."
    other = Finding("Q004", "x", "warning", "It begins with %secret wor, which is cut.", "")
    assert finding_without_values(other, values).message == WITHHELD


def test_a_long_value_that_a_rule_cuts():
    value = "s" * 200
    assert without_values(f"LIKE {value!r:.40} begins", [value]) == "LIKE ? begins"
    assert without_values("7 rows of x77", ["77", "7"]) == "? rows of x77"


def test_the_constant_of_an_index_is_a_value():
    plain = IndexSuggestion("t", ("a",), "CREATE INDEX i ON t (a)", "", predicate="b IS NULL")
    partial = IndexSuggestion("t", ("a",), "CREATE INDEX i ON t (a)", "", predicate="b = 7")
    inner = IndexSuggestion("t", ("a",), "CREATE INDEX i ON t (a)", "", expressions=("data ->> 'k'",))
    assert [has_value(each, "postgres") for each in (plain, partial, inner)] == [False, True, True]
