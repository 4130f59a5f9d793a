"""Redis URLs, and what this library adds to them (pure)."""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from bot.core._shared.errors import invalid
from bot.core._shared.masking import mask_url

KEY_PREFIX = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""What a prefix of keys looks like. Without a colon, so that the one after it ends it; without braces, which
choose a slot of a cluster; without the ``*?[]\\`` of patterns."""

ALLOWED_PREFIX = "1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit (a colon is put after it)"

_PREFIX = re.compile(KEY_PREFIX + r"\Z")


class RedisAddress(NamedTuple):
    """A Redis URL, read."""

    url: str
    """The URL without what only this library understands."""
    root: str
    """What every key and channel begins with: ``shop:`` for the prefix ``shop``, or nothing."""

    @classmethod
    def read(cls, url: str) -> RedisAddress:
        """Read a URL. Raises InvalidArgumentError for a prefix that is none."""
        base, found = _split(url)
        kept = []
        root = ""
        for part in found:
            name, _, value = part.partition("=")
            if name == "key_prefix":
                root = root_of(unquote(value), "key_prefix of the redis url")
            else:
                kept.append(part)
        if len(kept) == len(found):
            return cls(url, root)
        return cls(_joined(base, kept, url), root)


def root_of(prefix: object, name: str = "key_prefix") -> str:
    """What keys begin with under a prefix; nothing without one. Raises InvalidArgumentError."""
    if prefix == "" and isinstance(prefix, str):
        return ""
    if not isinstance(prefix, str) or not _PREFIX.match(prefix):
        raise invalid(name, prefix, ALLOWED_PREFIX)
    return f"{prefix}:"


def with_options(url: str, **options: Any) -> str:
    """``url`` with these options in its query. Those that it has itself stay as they are; None is not set."""
    if not url:
        return url
    base, found = _split(url)
    there = {part.partition("=")[0] for part in found}
    more = [
        f"{name}={quote(str(value), safe='')}"
        for name, value in options.items()
        if value not in (None, "") and name not in there
    ]
    return _joined(base, [*found, *more], url) if more else url


def options_of(url: str) -> dict[str, str]:
    """The options in a URL's query."""
    return dict(parse_qsl("&".join(_split(url)[1]), keep_blank_values=True))


def shown_url(url: str) -> str:
    """The URL as logs and errors name it: no password, and nothing that only this library understands."""
    try:
        return mask_url(RedisAddress.read(url).url)
    except ValueError:
        return mask_url(url)


def _split(url: str) -> tuple[str, list[str]]:
    """What comes before the question mark, and the parts of the query after it."""
    base, _, query = url.partition("#")[0].partition("?")
    return base, [part for part in query.split("&") if part]


def _joined(base: str, parts: list[str], url: str) -> str:
    _, mark, fragment = url.partition("#")
    return base + ("?" + "&".join(parts) if parts else "") + mark + fragment
