"""What the pool asks of a driver."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import re
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Protocol
from urllib.parse import unquote

from bot.core._shared.errors import invalid
from bot.core._shared.masking import mask_url
from bot.core.connection_pool_manager import callbacks
from bot.core.connection_pool_manager.drivers.url_options import SQLALCHEMY, wrong
from bot.core.connection_pool_manager.errors import MissingDriverError, PoolConnectError
from bot.core.connection_pool_manager.guard import Guard
from bot.core.connection_pool_manager.models import PoolSpec
from bot.core.connection_pool_manager.pool import Verdict

logger = logging.getLogger(__name__)

references: Callable[[object], int] | None = None
"""How many references there are to an object, where they are counted exactly: by one thread at a time."""
if getattr(sys, "_is_gil_enabled", lambda: True)():
    references = getattr(sys, "getrefcount", None)


class Watch(Protocol):
    """Watches the statements of one connection; the start-up code hands over what makes it."""

    async def call(self, name: str, original: Any, target: Any, args: Any, kwargs: Any) -> Any:
        """Make the call ``original(target, *args, **kwargs)`` of a lease, and return its result."""

    def began(self, text: Any) -> None:
        """A cursor begins to run a statement."""

    def cursor(self, made: Any) -> Any:
        """The cursor to hand out for ``made``."""

    def statement(self, made: Any, text: Any) -> Any:
        """The prepared statement to hand out for ``made``, which was prepared from ``text``."""

    async def settling(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Make a call that may end a transaction, and return its result."""

    async def was_reset(self) -> None:
        """The connection is as good as new."""


class Driver(ABC):
    """Opens, judges, resets and closes the connections of one pool.

    ``verdict`` and ``is_open`` run on every release and acquire: no I/O, no await, no exception.
    """

    backend: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]]
    package: ClassVar[str]
    """The module to import."""
    extra: ClassVar[str]
    """What to install for it."""
    advice: ClassVar[str] = "check that the server runs, and the host, port, user and password of the url"
    takes_timeout: ClassVar[bool] = False
    """Its calls take a ``timeout`` of their own."""

    def __init__(self, spec: PoolSpec) -> None:
        self.spec = spec
        scheme, separator, rest = spec.url.partition("://")
        self.url = f"{scheme.lower()}{separator}{rest}"  # some drivers do not know it in capitals
        self.reset_mode = spec.options.reset
        self.options: dict[str, Any] = dict(spec.driver_options)
        self.is_blind = False
        """The tracker does not see what runs, so the state of a connection after its lease is unknown."""
        self._tracker_checked = False
        self.own_limit: tuple[str, float] | None = None
        """The driver's own option that limits a call in place of ``query_timeout``: its name, and seconds."""
        self.report_timeout: Callable[[Guard], None] = lambda guard: None
        """Set by the runner: counts and logs a call that took too long."""
        self.observer: Callable[[Any], Watch] | None = None
        """Makes what watches the statements of a connection; None: nobody watches."""
        self._known_secrets = secrets_of(spec.url, spec.driver_options)
        self._passwords: list[str] = []  # the latest that spec.password gave; changed only by password

    def twin(self, spec: PoolSpec) -> Driver:
        """A driver for another pool of the same name, that of a replica."""
        made = type(self)(spec)
        made.observer = self.observer
        return made

    def seen(self, raw: Any) -> int:
        """How many calls the tracker has seen on ``raw``."""
        return int(raw.phase4_seen)

    async def check_tracker(self, raw: Any) -> None:
        """Find out at the first connection whether the tracker sees what runs.

        A tracker that replaces a private method of the package sees nothing once a later version calls
        another one.
        """
        if self._tracker_checked:
            return
        before = self.seen(raw)
        await self.ping(raw)
        self._tracker_checked = True
        if self.seen(raw) == before:
            self.is_blind = True
            logger.warning(
                "Pool %r: this version of %s hides the statements of a connection: each lease gets a new one",
                self.spec.name, self.package,
            )  # fmt: skip

    @property
    def secrets(self) -> list[str]:
        """What must be masked in messages, the longest first."""
        return sorted([*self._known_secrets, *self._passwords], key=len, reverse=True)

    async def password(self) -> str | None:
        """The password for a new connection; None: that of the url or the options."""
        found = await callbacks.password(self.spec)
        if found is not None and found not in self._passwords:
            self._passwords = [found, *self._passwords][:3]
        return found

    async def prepare(self, raw: Any) -> None:
        """Run the pool's ``init`` on a connection that is new, or as good as new after a reset.

        Raises PoolConnectError.
        """
        if self.spec.init is not None:
            try:
                await callbacks.prepare(self.spec, raw, self.secrets)
                if not self.is_open(raw):
                    raise callbacks.closed_by_init(self.spec)
            except PoolConnectError as error:
                error.is_of_init = True
                raise

    async def start(self) -> None:  # noqa: B027  # most drivers share nothing
        """Make what all connections share."""

    @abstractmethod
    async def connect(self) -> Any:
        """Open a connection. Cancelled or failed, it leaves nothing open."""

    def let_watch(self, raw: Any) -> None:  # noqa: B027  # most backends have no statements to watch
        """Let the pool's observer see what the leases of ``raw`` run from now on, or no longer."""

    @abstractmethod
    def is_open(self, raw: Any) -> bool:
        """Whether it is open, as far as this process knows."""

    @abstractmethod
    def verdict(self, raw: Any) -> Verdict:
        """What it needs before the next lease. CLEAN, which hands it to the next caller as it is, only if it
        is open.
        """

    def view(self, raw: Any, guard: Guard) -> Any:
        """What a lease of ``raw`` gives access to: it behaves as ``raw`` until ``guard`` says that the lease
        has ended.
        """
        return raw

    def is_let_go(self, view: Any, guard: Guard) -> bool:
        """Whether only the pool refers to ``view`` and to objects taken from it, so that the next lease can
        use it.

        For drivers whose views cost more than this question.
        """
        return False

    def end_cursors(self, cursors: list[Any], guard: Guard) -> None:  # noqa: B027
        """Make ``guard.cursors`` unusable."""

    def is_demotion(self, error: BaseException, raw: Any) -> bool:
        """Whether the error says that the server does not accept writes, or no longer does."""
        return False

    def adopt(self, spec: PoolSpec) -> bool:
        """Use other options of the pool from now on. False, with nothing done, if that needs a new driver."""
        self.spec = spec
        self.reset_mode = spec.options.reset
        return True

    def call_in_progress(self, raw: Any, guard: Guard) -> Any:
        """Identifies the call in progress on ``raw``, to tell it from the next one; None: there is none."""
        return guard.calls if guard.running else None

    def interrupt(self, raw: Any) -> None:
        """End the call in progress, which has taken too long."""
        self.terminate(raw)

    def is_timeout(self, error: BaseException) -> bool:
        """Whether a call ended with this error because the driver's own time limit was over."""
        return False

    def is_setting(self, error: BaseException) -> bool:
        """Whether the connection error is caused by the settings, so that a retry cannot succeed."""
        return isinstance(error, ValueError)

    def is_login_refused(self, error: BaseException) -> bool:
        """Whether the error of connecting says that the user or password is wrong."""
        return False

    def look_elsewhere(self) -> None:  # noqa: B027  # most drivers resolve the name for each connection
        """Resolve the url again for the next connection: that server is no longer the primary."""

    async def is_primary(self, raw: Any) -> bool | None:
        """Whether ``raw`` leads to a server that accepts writes; None: unknown."""
        return None

    @abstractmethod
    async def ping(self, raw: Any) -> None:
        """One round trip; raises if the server does not answer."""

    async def restore(self, raw: Any) -> None:
        """Reset it, and tell the one who watches it."""
        await self.reset(raw)
        # By class: on a handle of MongoDB, every other name is a collection.
        watch: Watch | None = raw.phase4_watch if hasattr(type(raw), "phase4_watch") else None
        if watch is not None:
            await watch.was_reset()

    @abstractmethod
    async def reset(self, raw: Any) -> None:
        """Restore the state in which it was opened; raises if that fails."""

    @abstractmethod
    async def close(self, raw: Any) -> None:
        """Close it, and tell the server."""

    @abstractmethod
    def terminate(self, raw: Any) -> None:
        """Close it at once, even if its event loop is closed."""

    async def stop(self) -> None:  # noqa: B027
        """Give back what :meth:`start` made."""

    def abandon(self) -> None:  # noqa: B027
        """Like :meth:`stop`, when the event loop is gone."""


def import_driver(package: str, extra: str, backend: str) -> Any:
    """Import a driver's package, or raise MissingDriverError saying what to install."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] != package.split(".")[0]:
            raise  # the package is installed, and broken
        raise MissingDriverError(
            f"backend {backend!r} needs the package {package.split('.')[0]!r}, which is not installed: "
            f"pip install '{extra}'"
        ) from error


def check_scheme(url: str, backend: str, schemes: tuple[str, ...]) -> None:
    """Raise InvalidArgumentError unless ``url`` is one of this backend's.

    ``postgresql+asyncpg://`` and the like are: SQLAlchemy names its driver so.
    """
    scheme = url.split("://", 1)[0].lower() if "://" in url else ""
    base, _, driver = scheme.partition("+")
    known = SQLALCHEMY.get(backend, ())
    if base not in schemes or (scheme != base and driver not in known):
        allowed = " or ".join(f"{name}://..." for name in schemes)
        if driver and known:
            allowed += f", with nothing or one of {', '.join('+' + name for name in known)},"
        raise wrong(url, f"{allowed} for backend {backend!r}")


def check_address(url: str) -> None:
    """Raise InvalidArgumentError unless the url's hosts and ports are valid.

    A password in which @, / or # is not escaped looks like a wrong host or port.
    """
    place = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0].rpartition("@")[2]
    login = url.partition("://")[2].rpartition("@")[0]
    is_place = not re.search(r"[\[\]]", login)  # the parsers take them for an IPv6 address
    for address in place.split(","):
        found = re.fullmatch(r"(?:\[[0-9A-Za-z:.%_-]+\]|[^:\[\]\s]*)(?::([0-9]{0,9}))?", address)
        is_place = is_place and found is not None and int(found[1] or 0) <= 65535
    if not is_place:
        raise invalid(
            "url", mask_url(url),
            "host:port with a port up to 65535, [..] around an IPv6 address, and in user and password "
            "%40 for @, %2F for /, %3A for :, %23 for #, %5B for [",
        )  # fmt: skip


def secrets_of(url: str, options: Mapping[str, Any]) -> list[str]:
    """The passwords in a url and in driver options, the longest first, to be masked in messages."""
    found: set[str] = set()
    # Without a URL parser: for a parser, a # or / that should have been escaped ends the password, and the
    # part before it looks like a port.
    login, at, _ = url.partition("://")[2].rpartition("@")
    password = login.partition(":")[2] if at else ""
    if password:
        found |= {password, unquote(password)}
        found |= {piece for piece in re.split(r"[:/?#@]", password) if len(piece) > 2}
    for name, value in options.items():
        if isinstance(value, str) and value and re.search(r"(?i)pass|secret|token|key", name):
            found.add(value)
    return sorted(found, key=len, reverse=True)


def hard_close(transport: Any) -> None:
    """Close a transport's socket without its event loop, which may be closed."""
    if transport is None:
        return
    with contextlib.suppress(Exception):
        loop = getattr(transport, "_loop", None)
        if loop is None or not loop.is_closed():
            if loop is None or not loop.is_running():
                shut_down(transport)  # abort() leaves this to the loop, which may never run again
            transport.abort()
            return
    with contextlib.suppress(Exception):
        inner = getattr(transport, "_ssl_protocol", None)
        if inner is not None:
            transport = inner._transport
        sock = transport._sock
        # Its finalizer would complain that it was not closed.
        transport._sock = None
        sock.close()


KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000))
"""Seconds, a count, and milliseconds: a host that vanished is noticed after half a minute."""


def keep_alive(transport: Any) -> None:
    """Let the kernel notice that the other host is gone, also while a call waits for its answer."""
    with contextlib.suppress(Exception):
        sock = transport.get_extra_info("socket")
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE:
            if hasattr(socket, name):  # not on every system
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def shut_down(transport: Any) -> None:
    """Tell the other side that a connection is over, without an event loop."""
    with contextlib.suppress(Exception):
        number = os.dup(transport.get_extra_info("socket").fileno())
        with socket.socket(fileno=number) as copy:
            copy.shutdown(socket.SHUT_RDWR)


async def shielded(work: Any) -> Any:
    """Await ``work`` to its end even if this task is cancelled; the cancellation then goes on."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
