"""Advice without the values of the statements that it is about (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from bot.core.query_optimizer.models import Finding, IndexSuggestion
from bot.core.query_optimizer.sql.fingerprint import marked, shape, tokens_of

WITHHELD = "What it says has a value of the statement: --literals shows it."

_KNOWN_BY = 8
"""Characters of a value by which a part of it is known."""
_SHORTEST = 4
"""Characters of a value that no word has by chance."""


def values_of(text: str, dialect: str) -> list[str]:
    """The literals of a text, the longest first."""
    tokens = tokens_of(text, dialect)
    return sorted(set(marked(text, tokens, dialect)), key=len, reverse=True) if tokens else []


def without_values(said: str, values: Iterable[str]) -> str | None:
    """A sentence with ``?`` for each value; None if a part of one may still be in it."""
    values = [each for each in values if each]
    for value in values:
        # As rules write them, and cut them.
        for form in (repr(value), f"{value!r:.40}", f"{value!r:.30}"):
            if len(form) > 2:
                said = said.replace(form, "?")
        if value[0].isdigit():
            said = re.sub(rf"(?<![\w.]){re.escape(value)}(?!\w|\.\d)", "?", said)
    if any(len(value) >= _SHORTEST and value[:_KNOWN_BY] in said for value in values):
        return None
    return said


def finding_without_values(finding: Finding, values: list[str]) -> Finding:
    message, fix = without_values(finding.message, values), without_values(finding.fix, values)
    if message is None or fix is None:
        return replace(finding, message=WITHHELD, fix="")
    return replace(finding, message=message, fix=fix)


def has_value(index: IndexSuggestion, dialect: str) -> bool:
    """Whether an index has a constant of the statement: in its predicate, or in an expression."""
    return any("?" in shape(part, dialect)[1] for part in (index.predicate, *index.expressions) if part)
