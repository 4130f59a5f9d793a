"""Parameters of a logged text: put in as literals, or left open where an average is right."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from bot.core.query_optimizer.sql.fingerprint import shape

_NUMBERED = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*+'|'(?:[^']|'')*+'|"(?:[^"]|"")*+"|--[^\n]*+|/\*.*?\*/"""
    r"""|\$(?P<tag>[A-Za-z_]\w*+)?\$.*?\$(?P=tag)?\$|(?<![\w$])\$(?P<number>\d{1,5})(?!\d)""",
    re.DOTALL,
)
_LIMIT = re.compile(r"\bLIMIT\s+\$(\d{1,5})\s*(?:;|\Z|\))", re.IGNORECASE)


def replaced(text: str, by: Callable[[int], str]) -> str:
    """The text with another text for each ``$1``, ``$2``..., outside strings and comments."""
    return _NUMBERED.sub(lambda found: by(int(found["number"])) if found["number"] else found[0], text)


def inlined(text: str, parameters: Sequence[str | None]) -> str | None:
    """A PostgreSQL text with its parameters as literals of no type, which the server reads as it reads those.

    None if one is missing, or the text means something else with them.
    """
    missing = False

    def literal(number: int) -> str:
        nonlocal missing
        if not 0 < number <= len(parameters):
            missing = True
            return ""
        value = parameters[number - 1]
        return "NULL" if value is None else "'" + value.replace("'", "''") + "'"

    made = replaced(text, literal)
    if missing or any(value is not None and "\0" in value for value in parameters):
        return None
    # NULL is no literal for a shape.
    if None not in parameters and shape(made, "postgres")[0] != shape(text, "postgres")[0]:
        return None
    return made


def open_parameters(text: str, rows_a_call: float | None) -> tuple[str, int] | None:
    """(the text, its number of parameters), for a plan for any values; None if that would be a guess.

    Where a column is compared for equality, the planner knows how many rows a value has on average. For a
    range or a pattern it takes a constant. A parameter of LIMIT becomes the number of rows returned.
    """
    limit = _LIMIT.search(text)
    removed = int(limit[1]) if limit is not None else 0
    if removed and rows_a_call is None:
        return None
    numbers: dict[int, int] = {}

    def renumbered(number: int) -> str:
        if number == removed:
            return str(max(1, math.ceil(rows_a_call or 0)))
        return f"${numbers.setdefault(number, len(numbers) + 1)}"

    made = replaced(text, renumbered)
    return (made, len(numbers)) if _only_equality(made) else None


def _only_equality(text: str) -> bool:
    from sqlglot import exp

    from bot.core.query_optimizer.sql.analyzer import read

    reading = read(text, "postgres")
    try:
        if len(reading.censuses) != 1:
            return False
        for node in reading.censuses[0].all(exp.Parameter, exp.Placeholder):
            above = node.parent
            while above.__class__ in (exp.Paren, exp.Cast):
                above = above.parent
            if above.__class__ not in (exp.EQ, exp.In, exp.Select, exp.Alias):
                return False
        return True
    finally:
        reading.release()
