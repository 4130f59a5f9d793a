"""Texts that differ in whole numbers alone: they mean the same, so one of them is parsed for all (pure).

Bots write ``WHERE user_id = 42`` with the number in the text, so that each user brings a new one. The rows
depend on the number, and so does advice; what is read and written, and whether it may be cached, does not.
"""

from __future__ import annotations

import functools
import re

from bot.core.query_optimizer.models import CHANGES_ROWS, UNPARSED, Analysis, QueryType
from bot.core.query_optimizer.sql.long_texts import SHORT

_FIRST = re.compile(r"(?i)\s*+(?:SELECT|INSERT|UPDATE|DELETE|WITH)\b")


@functools.cache
def number_or_quoted() -> re.Pattern[str]:
    """Compiled with the parser or for the first text, not with this module: each start would wait for it."""
    return re.compile(_NUMBER_OR_QUOTED, re.VERBOSE | re.IGNORECASE)


# A number where only a value can stand, or the rest of a string or of a name in quotes. Not a number that is
# a name (AS 5), a part of a name (t.5), a parameter ($1, ?1, :1) or part of another number (1.5, 1e9).
_NUMBER_OR_QUOTED = r"""
    [0-9'"`](?:
        (?: (?<=[-=<>(,+*/][0-9]) | (?<=[-=<>(,+*/][ ][0-9])
          | (?<=\bAND[ ][0-9]) | (?<=\bBETWEEN[ ][0-9]) | (?<=\bLIMIT[ ][0-9]) | (?<=\bOFFSET[ ][0-9]) )
        [0-9]*+(?![\w.])
      | ( (?<=')[^']*+' | (?<=")[^"]*+" | (?<=`)[^`]*+` )
    )"""


def without_numbers(query: str) -> str | None:
    """What two texts have in common exactly if they differ in whole numbers alone, written where only values
    stand. None if there is no such number, or if it is not plain where strings and comments end.
    """
    if (
        len(query) > SHORT
        or "\\" in query or "--" in query or "/*" in query or "#" in query or "$" in query
        or "[" in query or "{" in query or "|>" in query or "\0" in query
        or _FIRST.match(query) is None
    ):  # fmt: skip
        return None
    parts = number_or_quoted().split(query)
    quoted = parts[1::2]
    if None not in quoted:
        return None
    around = "\0".join(parts[::2])
    if "'" in around or '"' in around or "`" in around:
        return None  # a quote without an end
    return f"{around}\0\0{_NEXT.join([each or '' for each in quoted])}"


_NEXT = "\0"
_NUMBER_AS_NAME = re.compile(r"(?:\A|[. ])[0-9]++(?:[. ]|\Z)")


def is_same_for_all(analysis: Analysis) -> bool:
    """Whether a text with other numbers has this meaning too: it was parsed, and no number is a name."""
    return (
        (analysis.query_type is QueryType.SELECT or analysis.query_type in CHANGES_ROWS)
        and analysis.not_cacheable != UNPARSED
        and not analysis.transaction
        and not analysis.declares
        and _NUMBER_AS_NAME.search(" ".join((*analysis.reads, *analysis.writes))) is None
    )
