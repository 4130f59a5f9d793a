"""The health of a link's servers: one breaker, and in a cluster one for each node too."""

from __future__ import annotations

from collections.abc import Callable

from bot.core.redis_link.breaker import Breaker


class Health:
    """The breakers of one link, and the callbacks for when a server is back."""

    def __init__(self, name: str, timeout: float, now: Callable[[], float], *, cluster: bool) -> None:
        self.name = name
        """The server as logs and errors name it: no password is in it."""
        self.breaker = Breaker(self.name, timeout, now)
        self._timeout = timeout
        self._now = now
        self._cluster = cluster
        # Breakers by ``host:port``. Changed only by node, forget_node and forget_nodes.
        self._nodes: dict[str, Breaker] = {}
        self._on_recovery: list[Callable[[], None]] = []

    def on_recovery(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` when a server answers again after a failure; returns what undoes this."""
        callbacks = self._on_recovery
        callbacks.append(callback)
        return lambda: callbacks.remove(callback) if callback in callbacks else None

    def succeeded(self, breaker: Breaker) -> None:
        """A server of this link answered."""
        if breaker.succeeded():
            for callback in list(self._on_recovery):
                callback()

    def node(self, name: str) -> Breaker:
        """The breaker of a node, by its ``host:port``."""
        breaker = self._nodes.get(name)
        if breaker is None:
            breaker = self._nodes[name] = Breaker(f"{self.name}, node {name},", self._timeout, self._now)
        return breaker

    def nodes_away(self) -> set[str]:
        """The nodes that did not answer the last time."""
        return {name for name, breaker in self._nodes.items() if not breaker.available}

    def forget_node(self, name: str) -> None:
        """The cluster has this node no more."""
        self._nodes.pop(name, None)

    def forget_nodes(self) -> None:
        """What is known of nodes ends with the event loop that their probes run on."""
        self._nodes = {}

    def breaker_of(self, error: BaseException) -> Breaker:
        """The breaker that a failed call concerns."""
        # A call that waits in vain is not known to wait for one node; a refused connection tells at once.
        if self._cluster and "Timeout" not in type(error).__name__:
            name = getattr(getattr(error, "connection", None), "name", None)
            if isinstance(name, str):
                return self.node(name)
        return self.breaker
