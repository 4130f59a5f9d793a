"""Strings that a database may read as the current time (pure).

PostgreSQL's dates and times take 'now', 'today', 'tomorrow' and 'yesterday', with a time and a zone beside
them, in any case, inside ranges and arrays, and from parameters as from literals; SQLite's functions of time
take 'now'. A text does not show the type of a column or a parameter.
"""

from __future__ import annotations

import re
from typing import Any

MOMENT = re.compile(r"(?i)(?<![a-z])(?:now|today|tomorrow|yesterday)(?![a-z])")


def may_name_a_moment(text: str) -> bool:
    """A quick look, whatever stands around the words."""
    text = text.lower()
    return "now" in text or "today" in text or "tomorrow" in text or "yesterday" in text


_LONGEST = 1000
"""Characters above which a parameter is just a long text."""

_NO_TEXTS = frozenset((int, float, bool, type(None)))

_MOST = 1000
"""Most values that are looked at."""


def names_a_moment(params: Any) -> bool:
    """Whether a parameter, at any depth, is a string that may be read as the current time."""
    if params.__class__ is tuple and _NO_TEXTS.issuperset(map(type, params)):
        return False
    queue = [params]
    for value in queue:  # grows while it is read
        if value.__class__ in _NO_TEXTS:
            continue
        if isinstance(value, str):
            if len(value) <= _LONGEST and MOMENT.search(value):
                return True
        elif isinstance(value, bytes):
            if len(value) <= _LONGEST and MOMENT.search(value.decode("ascii", "replace")):
                return True
        elif isinstance(value, dict):
            queue += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            queue += value
        if len(queue) > _MOST:
            return True  # not looked at any further: unknown, so the safe answer
    return False
