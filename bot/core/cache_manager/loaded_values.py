"""What becomes of a loaded value: a form that is safe to keep, and for how long it is cached."""

from __future__ import annotations

import logging
import random
from typing import Any

from bot.core._shared.errors import shown
from bot.core._shared.isolation import Frozen, freeze
from bot.core._shared.masking import one_line
from bot.core.cache_manager.models import FirstOfType, LoadOptions
from bot.core.cache_manager.ttls import FOREVER_SECONDS, TtlOf, ttl_for

logger = logging.getLogger(__name__)


def frozen_or_none(key: str, value: Any, first_of_type: FirstOfType) -> Frozen | None:
    """A loaded value, safe to keep; None, which is logged once for each type, if it cannot be copied."""
    try:
        return freeze(value)
    except TypeError as error:
        if first_of_type("not copied", type(value).__qualname__):
            logger.warning(
                "The value from the loader of %s is not cached: %s",
                one_line(shown(key), 100),
                one_line(error),
            )
        return None


def ttl_of_loaded(ttl: float | TtlOf, value: Any, first_of_type: FirstOfType) -> float:
    """The ttl of a loaded value; 0.0 if its function gives none, or fails, which is logged once."""
    if not callable(ttl):
        return ttl
    try:
        return ttl_for(ttl, value)
    except Exception as error:
        name = getattr(ttl, "__qualname__", type(ttl).__qualname__)
        if first_of_type("ttl", name):
            logger.warning(
                "Values are not cached, their ttl (%s) is wrong: %s", one_line(name, 100), one_line(error)
            )
        return 0.0


def ttl_of_load(ttl: float | TtlOf, value: Any, options: LoadOptions, first_of_type: FirstOfType) -> float:
    """Seconds for which a loaded value is cached under ``options``; 0.0: it is not."""
    if value is None and options.negative_ttl is not None:
        seconds = options.negative_ttl
    else:
        seconds = ttl_of_loaded(ttl, value, first_of_type)
    if seconds > 0 and options.cache_if is not None and not options.cache_if(value):
        return 0.0
    if options.ttl_jitter and seconds < FOREVER_SECONDS:
        seconds *= 1 - random.random() * options.ttl_jitter / 100
    return seconds
