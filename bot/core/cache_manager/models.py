"""What a cached call may ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bot.core._shared.errors import invalid
from bot.core._shared.validation import valid_number


@dataclass(frozen=True)
class LoadOptions:
    """How ``get_or_load`` and ``@cached`` load and keep a value. Everything is off unless asked for.

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
    - ``cache_if``: called with a loaded value; what it refuses is returned, and not cached.
    """

    stale_ttl: float = 0.0
    early_refresh: float = 0.0
    ttl_jitter: float = 0.0
    soft_timeout: float | None = None
    hard_timeout: float | None = None
    negative_ttl: float | None = None
    cache_if: Callable[[Any], bool] | None = None

    def __post_init__(self) -> None:
        for name in ("stale_ttl", "early_refresh", "ttl_jitter"):
            valid_number(name, getattr(self, name), zero=True)
        if self.ttl_jitter > 100:
            raise invalid("ttl_jitter", self.ttl_jitter, "a percentage from 0 to 100")
        for name in ("soft_timeout", "hard_timeout", "negative_ttl"):
            if getattr(self, name) is not None:
                valid_number(name, getattr(self, name), zero=True)
        if self.cache_if is not None and not callable(self.cache_if):
            raise invalid("cache_if", self.cache_if, "a function of the value")


PLAIN = LoadOptions()
"""No option asked for."""
