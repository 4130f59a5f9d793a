"""Limits of bytes per second (pure)."""

from __future__ import annotations

import re
import weakref
from typing import Any

from bot.core._shared.errors import invalid
from bot.core.phase4_config.rate_limiter import MAX_RATE
from bot.core.rate_limiter.models import RateLimitConfig, exact

MAX_BURST_BYTES = 1_000_000_000_000

_UNITS = {
    "B": 1,
    "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
"""Bytes. A small b would be bits, and is in no unit."""

_SIZE = re.compile(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([A-Za-z]{1,3})\s*", re.ASCII)
_PER_SECOND = re.compile(r"(.*)(?:/|\bper\b)\s*(?:s|second)\s*", re.ASCII | re.DOTALL)
_ALLOWED = f"units: {', '.join(_UNITS)}"


class ByteLimit(RateLimitConfig):
    """A limit of bytes: ``burst_bytes`` at once, refilled at ``bytes_per_second``. Immutable.

    A RateLimitConfig whose tokens are bytes, without backoff: for ``acquire(client, limit, len(chunk))``,
    which waits its turn, and any other call that takes a limit. Both may be texts, "10 MB/s" and "64 MiB".
    Without ``burst_bytes`` it is the bytes of one second.

    Raises ValueError, with argument and value, for a rate that is not a finite number from 1 to 1e12, and
    for a burst that is not a whole number from 1 to 1e12.
    """

    __slots__ = ()

    def __new__(
        cls, bytes_per_second: float | str, burst_bytes: int | str | None = None, name: str = ""
    ) -> ByteLimit:
        rate = _rate_of(bytes_per_second)
        burst = max(1, int(rate)) if burst_bytes is None else _burst_of(burst_bytes)
        if not isinstance(name, str):
            raise invalid("name", name, "a string")
        key = (rate, burst, name)
        known = _interned.get(key)
        if known is not None:
            return known
        limit: ByteLimit = object.__new__(cls)
        for field, value in (
            ("requests_per_second", rate), ("burst_size", burst), ("name", name), ("backoff", None),
        ):  # fmt: skip
            object.__setattr__(limit, field, value)
        return _interned.setdefault(key, limit)

    @property
    def bytes_per_second(self) -> float:
        """The rate."""
        return self.requests_per_second

    @property
    def burst_bytes(self) -> int:
        """Bytes that may pass at once."""
        return self.burst_size

    def __reduce__(self) -> tuple[Any, ...]:
        return ByteLimit, (self.bytes_per_second, self.burst_bytes, self.name)

    def __repr__(self) -> str:
        name = f", name={self.name!r}" if self.name else ""
        return f"ByteLimit({self.figures}{name})"

    @property
    def figures(self) -> str:
        """Rate and burst, exactly."""
        return f"bytes_per_second={exact(self.bytes_per_second)}, burst_bytes={self.burst_bytes}"


_interned: weakref.WeakValueDictionary[tuple[float, int, str], ByteLimit] = weakref.WeakValueDictionary()


def _rate_of(value: object) -> float:
    allowed = f'bytes per second from 1 to {MAX_RATE:,}: a finite number, or a text such as "10 MB/s"'
    found = value
    if isinstance(value, str):
        match = _PER_SECOND.fullmatch(value)
        found = None if match is None else _size_of(match[1])
        allowed = f"{allowed} ({_ALLOWED})"
    if isinstance(found, bool) or not isinstance(found, int | float) or not 1 <= found <= MAX_RATE:
        raise invalid("bytes_per_second", value, allowed)
    return float(found)


def _burst_of(value: object) -> int:
    allowed = f'a whole number of bytes from 1 to {MAX_BURST_BYTES:,}, or a text such as "64 MiB"'
    found = value
    if isinstance(value, str):
        found = _size_of(value)
        allowed = f"{allowed} ({_ALLOWED})"
    if isinstance(found, bool) or not isinstance(found, int | float) or not 1 <= found <= MAX_BURST_BYTES:
        raise invalid("burst_bytes", value, allowed)
    if found != int(found):
        raise invalid("burst_bytes", value, allowed)
    return int(found)


def _size_of(text: str) -> float | None:
    """The bytes of a text such as "64 MiB"; None if it is no such text."""
    match = _SIZE.fullmatch(text)
    if match is None or match[2] not in _UNITS:
        return None
    return float(match[1]) * _UNITS[match[2]]
