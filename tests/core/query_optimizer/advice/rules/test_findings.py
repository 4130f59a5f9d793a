"""Findings stand in logs and on the dashboard, so they name columns and shapes, and no value of a query."""

import re

import pytest

from bot.core.query_optimizer.workload.redaction import values_of
from tests.core.query_optimizer.advice.test_rules import CASES, DIALECTS, findings

QUERIES = [(query, DIALECTS.get(code, "")) for code, (found, _) in CASES.items() for query in found]


@pytest.mark.parametrize(
    ("query", "dialect", "message"),
    [
        ("SELECT a FROM t WHERE name LIKE '%Ann Smith'", "",
         "LIKE '%...' begins with a wildcard: no index on name can serve it."),
        ("SELECT a FROM t WHERE name LIKE '_nn%' || ?", "",
         "LIKE '_...' || ... begins with a wildcard: no index on name can serve it."),
        ("SELECT a FROM t WHERE x = 4711 AND x = 4712", "postgres",
         "x = ? and x = ? exclude each other, with the values given: the condition is never true."),
        ("SELECT a FROM t WHERE x IN (4711, 4712) AND x > 5000", "postgres",
         "x IN (?, ...) and x > ? exclude each other, with the values given: the condition is never true."),
        ("SELECT a FROM t WHERE x IS NULL AND x = 4711", "postgres",
         "x IS NULL and x = ? exclude each other: the condition is never true."),
        ("SELECT a FROM t WHERE born_at BETWEEN '1990-01-01' AND '1990-12-31'", "",
         "BETWEEN ends at midnight: what born_at holds of the last day is left out."),
    ],
)  # fmt: skip
def test_the_shape_is_said_and_not_the_value(query, dialect, message):
    assert message in [finding.message for finding in findings(query, dialect)]


@pytest.mark.parametrize(("query", "dialect"), QUERIES)
def test_no_rule_quotes_a_value(query, dialect):
    said = " ".join(f"{finding.message} {finding.fix}" for finding in findings(query, dialect))
    values = [value for value in values_of(query, dialect) if len(value) > 1]
    assert [value for value in values if re.search(rf"(?<!\w){re.escape(value)}(?!\w)", said)] == []
