"""How the report writes numbers and texts (pure)."""

from __future__ import annotations

DAY = 86_400.0

SHOWN_TEXT = 300
"""Characters of a text that people are shown."""


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun; ``many``: the plural, if it is not with s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * DAY else f"{seconds / DAY:.1f} days"


def size_of(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GB"


def printable(text: str) -> str:
    """A text without control characters, which a terminal would obey."""
    return text if text.isprintable() else "".join(each if each.isprintable() else " " for each in text)


def cut(text: str) -> str:
    """A text on one line, of bounded length."""
    flat = printable(" ".join(text.split()))
    return flat if len(flat) <= SHOWN_TEXT else flat[: SHOWN_TEXT - 3] + "..."
