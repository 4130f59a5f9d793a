"""Texts that leave the process (logs, status, answers): no secret, one line, bounded, linear (pure)."""

from __future__ import annotations

import re
import traceback

from bot.core._shared.errors import message_of

MAX_MASKED = 20_000
"""Characters of a text that are looked at; the rest is cut off."""

MAX_TRACEBACK, MAX_FRAMES = 8_000, 20

MAX_TOLD = 1_000
"""Characters of a line that tells of several things, as what could not be started."""

LINE = 300
"""Characters of a line, if it is not said otherwise."""

_NAMES = (
    r"(?:password|passwd|passphrase|passcode|pwd|token|secret|credentials?|"
    r"api[_-]?key|private[_-]?key|access[_-]?key)"
)
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*+'?|"(?:[^"\\]|\\.)*+"?)"""

_ASSIGNED = re.compile(
    rf"""(?<![\w-])([\w-]{{0,64}}?{_NAMES}\s?=\s?)(?:[rbu]{{0,2}}{_QUOTED}|[^&\s'"]++)""", re.IGNORECASE
)
"""``PGPASSWORD=x``, ``?client_secret=x``, ``token = 'x'``."""

_KEYED = re.compile(
    rf"""(["'][\w.-]{{0,64}}?{_NAMES}["']\s?:\s?)(?:[rbu]{{0,2}}{_QUOTED}|[^,\s}}]++)""", re.IGNORECASE
)
"""``{"password": "x"}``, as a dict or as JSON."""

_ESCAPED = re.compile(
    rf"""(\\["'][\w.-]{{0,64}}?{_NAMES}\\["']\s?:\s?\\["'])(?:[^"'\\]|\\[^"'])*+""", re.IGNORECASE
)
"""The same within a string: ``"{\\"password\\": \\"x\\"}"``."""

_HEADER = re.compile(
    r"""(?<![\w-])((?:proxy-)?authorization|x-api-key|(?:set-)?cookie)(["']?\s?[:=]\s?["']?)[^"'\r\n]++""",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(?<![\w-])(bearer|basic)(\s)[\w.~+/=-]{8,}", re.IGNORECASE)

_BOT_TOKEN = re.compile(r"(?<!\w)(bot)?\d{3,20}:[\w-]{8,}")
"""Telegram's ``123456:AAF...``, as such or in the address of a call."""

_BEFORE_USER = re.compile(r"""(?:^|(?<=['"=(]))[^'"=(/:@]*(?://)?:[^/:@]""")
_HOST_BEGINS = re.compile(r"[\w.\[-]")


def mask_secrets(text: str) -> str:
    """``text`` without what looks like a secret: ``***`` in its place.

    That is the user and password of a URL, what is assigned to a name such as ``password``, ``client_secret``
    or ``token``, tokens of Telegram bots, and authorization headers. Of a longer text MAX_MASKED characters.
    """
    if len(text) > MAX_MASKED:
        text = _cut(text, MAX_MASKED)
    if "@" in text:
        # A password may hold anything but a space, so a word is what a URL can be within.
        text = re.sub(r"\S*@\S*", _mask_word, text)
    text = _ESCAPED.sub(r"\1***", text)
    text = _KEYED.sub(r"\1'***'", text)
    text = _ASSIGNED.sub(r"\1***", text)
    text = _HEADER.sub(r"\1\2***", text)
    text = _BEARER.sub(r"\1\2***", text)
    return _BOT_TOKEN.sub(lambda found: f"{found[1] or ''}***", text)


def _mask_word(found: re.Match[str]) -> str:
    """A word with an @ in it, without what stands between its ``://``, or its user's name, and that."""
    word = found[0]
    # Up to the last @: a password may hold one, and quotes too, and hiding too much does no harm.
    scheme = word.find("://")
    last = word.rfind("@")
    if 0 <= scheme < last:
        return f"{word[: scheme + 3]}***{word[last:]}"
    # So it is with what looks like a user and a password without a scheme, if a host follows.
    begins = _BEFORE_USER.search(word, 0, last) if _HOST_BEGINS.match(word, last + 1) else None
    return word if begins is None else f"{word[: begins.start()]}***{word[last:]}"


def _cut(text: str, length: int) -> str:
    """The beginning of a text, without a last word that is cut: half a URL shows its password."""
    head = text[:length]
    whole = max(head.rfind(" "), head.rfind("\n"))
    if whole < length // 2:
        # One word longer than any URL may be one all the same, whose password would now lack its @.
        whole = head.find("://") + 3 if "://" in head else whole
    return (head[:whole] if whole > 0 else head[: length // 2]) + "..."


def mask_url(url: str) -> str:
    """``mask_secrets`` of one URL: all that stands before the last @, even what no URL may hold."""
    start, separator, rest = url.partition("://")
    _, at, host = (rest if separator else url).rpartition("@")
    if not at:
        return mask_secrets(url)
    return f"{start if separator else ''}{separator}***@{mask_secrets(host)}"


def one_line(what: object, limit: int = LINE) -> str:
    """A text, or an error with its type, fit for a log or an answer.

    Masked, on one line, without control characters, at most ``limit`` characters.
    """
    if isinstance(what, BaseException):
        said = message_of(what)
        text = f"{type(what).__name__}: {said}" if said else type(what).__name__
    else:
        text = str(what)
    text = mask_secrets(text if len(text) <= 4 * limit else _cut(text, 4 * limit))
    text = _printable(" ".join(text.split()))
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def masked_traceback(error: BaseException) -> str:
    """The traceback of an error for the log: its last MAX_FRAMES frames, masked, bounded.

    Every line begins with a bar, so that no text of an error passes for a line of the log.
    """
    try:
        text = "".join(traceback.format_exception(error, limit=-MAX_FRAMES))
    except Exception:  # its __str__ may raise anything
        text = f"{type(error).__name__} (its text cannot be had)"
    if len(text) > MAX_TRACEBACK:
        text = text[-MAX_TRACEBACK:].partition("\n")[2] or text[-MAX_TRACEBACK:]
    lines = mask_secrets(text).rstrip().splitlines()
    return "\n".join(f"  | {_printable(line.expandtabs())}" for line in lines)
