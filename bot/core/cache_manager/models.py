"""The options of the cache's calls, and what its parts hand to each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bot.core._shared.errors import invalid
from bot.core._shared.isolation import Frozen
from bot.core._shared.validation import valid_number
from bot.core.cache_manager.codec import MAX_TAGS
from bot.core.cache_manager.keys import valid_key
from bot.core.cache_manager.tags import ANY_TAG

DEFAULT_NAMESPACE = "default"

Loader = Callable[[], Awaitable[Any]]
TagsOf = Callable[[Any], Sequence[str]]
Tags = Sequence[str] | TagsOf
"""The tags of a loaded value: given, or by a function of the value."""

ABSENT: Any = object()
"""Stands for the absence of a value, since None is a value."""


@dataclass(frozen=True)
class LoadOptions:
    """How ``get_or_load`` and ``@cached`` load and keep a value. Every option is off by default.

    - ``stale_ttl``: seconds that a value stays good enough after it expired, to be served when the
      loader fails or is too slow (RFC 5861, stale-if-error).
    - ``early_refresh``: how eagerly a value is loaded anew in the background before it expires; 1.0 is
      the usual eagerness, 0 never. Probabilistic, so that instances do not refresh together. Source:
      A. Vattani, F. Chierichetti, K. Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", 2015.
    - ``ttl_jitter``: percent by which a ttl is shortened at random, so that values stored together do not
      expire together.
    - ``soft_timeout``: seconds after which a stale value is served while the loader goes on.
    - ``hard_timeout``: seconds after which the loader is cancelled.
    - ``negative_ttl``: seconds that a None stays cached, instead of ``ttl``; 0 caches no None.
    - ``lock``: whether one instance loads for all, under a lease in Redis; None: as ``CACHE_LOAD_LOCK`` says.
    - ``cache_if``: called with a loaded value; what it refuses is returned, and not cached.
    """

    stale_ttl: float = 0.0
    early_refresh: float = 0.0
    ttl_jitter: float = 0.0
    soft_timeout: float | None = None
    hard_timeout: float | None = None
    negative_ttl: float | None = None
    cache_if: Callable[[Any], bool] | None = None
    lock: bool | None = None

    def __post_init__(self) -> None:
        for name in ("stale_ttl", "early_refresh", "ttl_jitter"):
            valid_number(name, getattr(self, name), zero=True)
        if self.ttl_jitter > 100:
            raise invalid("ttl_jitter", self.ttl_jitter, "a percentage from 0 to 100")
        for name in ("soft_timeout", "hard_timeout", "negative_ttl"):
            if getattr(self, name) is not None:
                valid_number(name, getattr(self, name), zero=True)
        if self.lock is not None and not isinstance(self.lock, bool):
            raise invalid("lock", self.lock, "True, False or None")
        if self.cache_if is not None and not callable(self.cache_if):
            raise invalid("cache_if", self.cache_if, "a function of the value")


PLAIN = LoadOptions()
"""No option asked for."""


def valid_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Tags as they are stored. Raises ValueError or TypeError for invalid ones, or too many."""
    if isinstance(tags, str):
        raise invalid("tags", tags, f"a sequence of strings, such as ({tags!r},)")
    if len(tags) > MAX_TAGS:
        raise invalid("tags", len(tags), f"at most {MAX_TAGS:,} of them")
    return tuple([valid_key(tag, "tag") for tag in tags]) if tags else ()


def valid_tags_of(tags: Tags) -> tuple[str, ...] | TagsOf:
    """:func:`valid_tags`, or the function that gives them for the loaded value."""
    return tags if callable(tags) else valid_tags(tags)


class LookUp:
    """What a read should find beside the value, and what it found."""

    __slots__ = ("asked", "stale", "stale_ttl", "tags", "tokens")

    def __init__(self, tags: tuple[str, ...] | TagsOf, stale_ttl: float = 0.0) -> None:
        # What must be known before a load begins.
        self.tags = (ANY_TAG,) if callable(tags) else tags
        self.stale_ttl = stale_ttl
        self.asked: dict[str, asyncio.Future[bytes | None]] = {}
        self.tokens: dict[str, bytes | None] = {}
        self.stale: Frozen | None = None
        """The last good value, if it has expired no longer than ``stale_ttl`` seconds ago."""


class Loaded(NamedTuple):
    """A value that was loaded and may be stored."""

    key: str
    value: Any
    frozen: Frozen
    tags: tuple[str, ...]


class FirstOfType:
    """Tells whether something is logged for a type for the first time, so that it is logged once."""

    def __init__(self) -> None:
        # Changed only by __call__; bounded, since a program may make types without end.
        self._said: set[tuple[str, str]] = set()

    def __call__(self, what: str, kind: str) -> bool:
        """Whether ``what`` was not yet logged for the type named ``kind``."""
        if (what, kind) in self._said or len(self._said) >= 1000:
            return False
        self._said.add((what, kind))
        return True
