"""Dead letters as an operator reads them, in the dashboard and on the command line (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from bot.core._shared.masking import mask_secrets, one_line
from bot.core.batch_processor import DeadLetter, ReplayReport

SHORT, WHOLE = 200, 50_000
"""Characters of an item's data in a list, and where one item is shown."""

MAX_DEPTH = 20
_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"), tuple: ("(", ")"), dict: ("{", "}"), set: ("{", "}"), frozenset: ("frozenset({", "})"),
}  # fmt: skip


def as_dict(letter: DeadLetter, most: int) -> dict[str, Any]:
    """One dead letter; ``most``: characters of its data, as Python shows it, without what looks secret."""
    return {
        "item_id": letter.item_id,
        "at": _utc(letter.died_at),
        "error": one_line(letter.error, 1000),
        "attempts": letter.attempts,
        "priority": letter.priority,
        **({} if letter.lane is None else {"lane": one_line(letter.lane, 200)}),
        "data": _text_of(letter.data, most),
    }


def _text_of(data: Any, most: int) -> str:
    # With room to spare, so that masking sees whole what it would hide, and no more than that: it walks all
    # that it is given.
    text = "".join(_pieces(data, most + 1000, 0))
    masked = mask_secrets(text)
    return masked if len(text) <= most and len(masked) <= most else f"{masked[:most]}..."


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


def _utc(seconds: float) -> str:
    """ISO 8601, in UTC; empty for what is no time."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return ""


def told(report: ReplayReport) -> str:
    """What became of a replay, in one sentence."""
    parts = [f"{_letters(report.replayed)} submitted again"]
    if report.missing:
        parts.append(f"{report.missing} not there (any more)")
    if report.pending:
        parts.append(f"{report.pending} left: an item of the same key is pending")
    if report.no_room:
        parts.append(f"{report.no_room} left: there is no room (BATCH_MAX_PENDING)")
    return "; ".join(parts)


def told_dropped(dropped: int, missing: int = 0) -> str:
    """How many were dropped, in one sentence."""
    rest = f"; {missing} not there (any more)" if missing else ""
    return f"{_letters(dropped)} dropped{rest}"


def _letters(count: int) -> str:
    return "1 dead letter" if count == 1 else f"{count:,} dead letters"
