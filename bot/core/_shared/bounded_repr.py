"""``repr`` of what may be large, or contain itself, in bounded time (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 20
_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"), tuple: ("(", ")"), dict: ("{", "}"), set: ("{", "}"), frozenset: ("frozenset({", "})"),
}  # fmt: skip

CONTAINERS = frozenset(_BRACKETS)
"""What is told in pieces; all else is what its own ``repr`` says."""


def repr_within(value: Any, most: int) -> str:
    """``repr(value)`` if that has ``most`` characters or fewer; else it begins so, and is not much longer.

    Parts below ``MAX_DEPTH`` levels are three dots.
    """
    return "".join(_pieces(value, most, 0))


def _pieces(data: Any, most: int, depth: int) -> Iterator[str]:
    """``repr`` in pieces of about ``most`` characters together, however much there is of it."""
    kind = type(data)
    if kind in _BRACKETS and data and depth < MAX_DEPTH:
        opening, closing = _BRACKETS[kind]
        yield opening
        left = most
        for number, one in enumerate(data.items() if kind is dict else data):
            part = ", " if number else ""
            if kind is dict:
                part += (
                    "".join(_pieces(one[0], left, depth + 1))
                    + ": "
                    + "".join(_pieces(one[1], left, depth + 1))
                )
            else:
                part += "".join(_pieces(one, left, depth + 1))
            yield part
            left -= len(part)
            if left <= 0:
                yield ", ..."
                break
        if kind is tuple and len(data) == 1:
            yield ","
        yield closing
    elif kind in (str, bytes) and len(data) > most:
        yield f"{data[:most]!r}..."
    elif kind in _BRACKETS and data:
        yield "..."
    else:
        yield _repr_of(data)


def _repr_of(data: Any) -> str:
    try:
        return repr(data)
    except Exception as error:  # a host's own object, or an int of 5,000 digits
        return f"<{type(data).__name__}, whose repr raises {type(error).__name__}>"
