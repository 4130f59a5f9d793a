"""Queries that look like one that is rewritten, and would lose or gain rows by it: they stay as they are."""

import pytest

from bot.core.query_optimizer.advice import advise
from bot.core.query_optimizer.analyzer import read


@pytest.mark.parametrize("dialect", ["", "postgres", "mysql", "sqlite"])
@pytest.mark.parametrize(
    "query",
    [
        "SELECT u.id FROM u LEFT JOIN o ON o.uid = u.id WHERE NOT (o.uid IS NOT NULL)",
        "SELECT u.id FROM u LEFT JOIN o ON o.uid = u.id WHERE NOT (NOT (o.uid IS NOT NULL) AND u.id = 1)",
    ],
)
def test_a_double_negation_keeps_the_rows_without_a_match(dialect, query):
    assert advise(read(query, dialect)).optimized_query == query
