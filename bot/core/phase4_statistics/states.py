"""How each service does, in one word and a sentence, from its statistics (pure).

ok: it works as it is set. degraded: it works, but not as it is set. failed: it is set to be on and does
nothing. off: its flag is not set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from bot.core.phase4_statistics.connection_pools import PoolFigures
from bot.core.phase4_statistics.fields import mapping
from bot.core.phase4_statistics.load_balancer import InstanceFigures

SERVICES = (
    "query_optimizer",
    "cache_manager",
    "connection_pool_manager",
    "rate_limiter",
    "batch_processor",
    "load_balancer",
    "outbound",
)

MAX_NAMED = 3
"""Pools and instances that a reason names."""

WITHOUT_REDIS = {
    "cache_manager": "memory alone serves",
    "rate_limiter": "limits are per process",
    "batch_processor": "no new item is accepted",
    "outbound": "Telegram's limits are kept per process",
}
"""Service -> how it goes on while Redis is away."""


class State(NamedTuple):
    """``state``: ok, degraded, failed or off; ``reason``: why, empty for ok and off."""

    state: str
    reason: str = ""


class States:
    """The states, and since when each holds: since the reading that first saw it."""

    def __init__(self) -> None:
        # Service -> its state and when that was first seen. Changed by read.
        self._seen: dict[str, tuple[str, str]] = {}

    def read(
        self, now: str, services: Mapping[str, Any], failures: Mapping[str, str]
    ) -> dict[str, dict[str, str]]:
        """Service -> ``state``, ``reason``, ``since`` at ``now``, a time as it is to be told.

        ``services``: that part of the status. ``failures``: what services said that could not start, or in
        part only.
        """
        found = {}
        for service in SERVICES:
            state = state_of(service, services.get(service), failures.get(service, ""))
            before, since = self._seen.get(service, ("", now))
            if before != state.state:
                since = now
                self._seen[service] = (state.state, now)
            found[service] = {"state": state.state, "reason": state.reason, "since": since}
        return found


def state_of(service: str, figures: Any, failure: str = "") -> State:
    """A service's state; ``figures``: its statistics, None while it is off."""
    if figures is None:
        return State("failed", failure) if failure else State("off")
    known = mapping(figures)
    if isinstance(known.get("error"), str):
        return State("failed", "its statistics cannot be read; see the log")
    trouble = _TROUBLES.get(service, _redis)(service, known)
    if trouble.state == "ok" and failure:
        return State("degraded", failure)
    return trouble


def _redis(service: str, figures: Mapping[str, Any]) -> State:
    if figures.get("degraded"):
        without = WITHOUT_REDIS.get(service)
        return State(
            "degraded", f"Redis does not answer: {without}" if without else "its backend does not answer"
        )
    return State("ok")


def _pools(service: str, figures: Mapping[str, Any]) -> State:
    found = PoolFigures.told({service: figures})
    if sick := [name for name, pool in found.items() if pool.get("healthy") is False]:
        return State("degraded", f"cannot connect: {_named(sick)}")
    if slow := [name for name, pool in found.items() if pool.get("degraded")]:
        return State("degraded", f"calls without an answer, or a server that takes no writes: {_named(slow)}")
    return State("ok")


def _balancer(service: str, figures: Mapping[str, Any]) -> State:
    found = InstanceFigures.told({service: figures})
    out = {
        name: f"{name} ({str(instance.get('state', 'unhealthy')).replace('_', ' ')})"
        for name, instance in found.items()
        if not instance.get("healthy", True)
    }
    # What an operator has drained is as it should be, as long as others get requests.
    at_fault = [name for name in out if not found[name].get("drained", False)]
    if not out or (not at_fault and len(out) < len(found)):
        return State("ok")
    reason = f"{len(out)} of {len(found)} instances out: {_named(list(out.values()))}"
    return State("failed" if len(out) == len(found) else "degraded", reason)


def _outbound(service: str, figures: Mapping[str, Any]) -> State:
    if held := figures.get("held_globally_seconds"):
        return State("degraded", f"Telegram refuses all chats for another {held:.0f} s")
    return _redis(service, figures)


_TROUBLES = {"connection_pool_manager": _pools, "load_balancer": _balancer, "outbound": _outbound}


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
