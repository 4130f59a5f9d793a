"""What the start-up module hands to an operator's view of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from bot.core._shared.histogram import HistogramSnapshot


class Library(NamedTuple):
    """The running services, as functions: what is mounted looks up nothing by itself."""

    status: Callable[[], Awaitable[dict[str, Any]]]
    """``get_phase4_status``."""
    running: Callable[[str], Any]
    """The service of a key of the status (``"cache_manager"``) if it is on, else None; imports none."""
    collector: Callable[[Callable[[], list[HistogramSnapshot]]], Any]
    """A Prometheus collector of the services and of further histograms.

    Raises ImportError without prometheus-client.
    """
