"""One instance: where it is, how it stands, what it has done (pure)."""

from __future__ import annotations

import ipaddress
import math
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from typing import Any

from bot.core._shared.errors import invalid
from bot.core._shared.histogram import Histogram
from bot.core.load_balancer.models import InstanceState

HISTORY = 20
"""Changes of state an instance remembers."""

_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
_ZONE = re.compile(r"(%[A-Za-z0-9._~-]{1,60})?")
_NUMBER_AT_END = re.compile(r"(.*\.)?([0-9]+|0[xX][0-9A-Fa-f]*)\.?")


class Instance:
    """A peer that requests are sent to. Handlers read it; only the balancer changes it."""

    __slots__ = (
        "_url",
        "consecutive_failures",
        "cost",
        "ejected_until",
        "ejections",
        "failed",
        "failed_checks",
        "good_checks",
        "history",
        "host",
        "id",
        "in_flight",
        "in_window",
        "index_next",
        "index_previous",
        "last_error",
        "picked",
        "picked_before",
        "port",
        "present",
        "response_seconds",
        "sampled_at",
        "seed",
        "silent",
        "since",
        "state",
        "succeeded",
        "trials",
        "warm_from",
        "weight",
        "window",
    )  # fmt: skip

    def __init__(self, id: str, host: str, port: int, weight: float = 1.0, scheme: str = "http") -> None:
        self.id = id
        self.host = host
        self.port = port
        self.weight = weight
        self._url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        # 64 bits that are the same in every process, for the rendezvous hash.
        self.seed = int.from_bytes(blake2b(id.encode(), digest_size=8).digest(), "big")

        # Everything below is changed by Cluster (and by the classes that it owns) only.
        self.state = InstanceState.HEALTHY
        self.since = 0.0  # Unix time of the last change of state
        self.present = True
        self.in_flight = 0
        self.warm_from = 0.0  # when its slow start began
        self.trials = 0  # good requests since it is half-open
        self.history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        # Active checks, in a row.
        self.failed_checks = 0
        self.good_checks = 0
        # Passive detection: see outliers.py.
        self.consecutive_failures = 0
        self.window = [0, 0, 0, 0]  # succeeded, failed; the same of the window before
        self.in_window = 0.0
        self.ejections = 0
        self.ejected_until = 0.0
        self.silent = False  # the last failed request got no answer in time
        # Load as LEAST_LOADED sees it: see strategies.py.
        self.cost = 0.0
        self.sampled_at = 0.0
        # Its neighbours among equally busy instances: see connections.py.
        self.index_next: Instance = self
        self.index_previous: Instance = self
        # Counters.
        self.picked = 0
        self.picked_before = 0  # when the set of available instances last changed
        self.succeeded = 0
        self.failed = 0
        self.last_error = ""
        self.response_seconds = Histogram()

    @property
    def instance_id(self) -> str:
        """The same as ``id``."""
        return self.id

    def get_url(self) -> str:
        """``http://host:port``, without a slash at the end."""
        return self._url

    @property
    def url(self) -> str:
        """The same as :meth:`get_url`."""
        return self._url

    @property
    def address(self) -> str:
        """The same as ``host``, as the setting ``LOAD_BALANCER_INSTANCES`` has it."""
        return self.host

    @property
    def active_connections(self) -> int:
        """Requests that it is answering now."""
        return self.in_flight

    @property
    def is_healthy(self) -> bool:
        """Whether its state is HEALTHY or SLOW_START."""
        return self.state is InstanceState.HEALTHY or self.state is InstanceState.SLOW_START

    def __repr__(self) -> str:
        return f"<Instance {self.id} {self._url} {self.state.value} in_flight={self.in_flight}>"


RequestHandler = Callable[["Instance", Any], Awaitable[Any]]
HealthCheck = Callable[["Instance"], Awaitable[object]]
StrategyFunction = Callable[[Sequence["Instance"]], "Instance"]


def make_instance(id: object, host: object, port: object, weight: object, scheme: object) -> Instance:
    """An instance of checked arguments; raises InvalidArgumentError naming the one at fault."""
    if not isinstance(id, str) or not 1 <= len(id) <= 200 or not id.isprintable():
        raise invalid("id", id, "a name of 1 to 200 printable characters")
    if not isinstance(host, str) or not _is_host(host):
        raise invalid("host", host, "a host name or an IP address, without scheme, brackets, port or path")
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65_535:
        raise invalid("port", port, "a whole number from 1 to 65535")
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise invalid("weight", weight, "a number > 0 and <= 1_000_000")
    if not math.isfinite(weight) or not 0 < weight <= 1_000_000:
        raise invalid("weight", weight, "a number > 0 and <= 1_000_000")
    if scheme not in ("http", "https"):
        raise invalid("scheme", scheme, "'http' or 'https'")
    return Instance(id, host, port, float(weight), str(scheme))


def _is_host(text: str) -> bool:
    """Whether a URL can be made of it: what has a colon is IPv6, what ends in a number IPv4.

    Browsers and resolvers read ``0x7f.1`` and ``2130706433`` as addresses (WHATWG URL, "ends in a number").
    """
    address, percent, zone = text.partition("%")
    try:
        if ":" in text:
            ipaddress.IPv6Address(address)
            return bool(_ZONE.fullmatch(percent + zone))
        if _NUMBER_AT_END.fullmatch(text):
            ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return bool(_HOST_NAME.fullmatch(text))
