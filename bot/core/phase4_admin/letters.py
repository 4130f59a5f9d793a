"""Dead letters as an operator reads them, in the dashboard and on the command line (pure)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bot.core._shared.bounded_repr import repr_within
from bot.core._shared.masking import mask_secrets, one_line
from bot.core.batch_processor import DeadLetter, ReplayReport

SHORT, WHOLE = 200, 50_000
"""Characters of an item's data in a list, and where one item is shown."""


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
    text = repr_within(data, most + 1000)
    masked = mask_secrets(text)
    return masked if len(text) <= most and len(masked) <= most else f"{masked[:most]}..."


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
