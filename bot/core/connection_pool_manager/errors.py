"""The errors of pools, grouped by the person who can act on them."""

from __future__ import annotations

from bot.core._shared.errors import BackendError, CapacityError, ClosedError, MisuseError


class PoolTimeoutError(CapacityError, TimeoutError):
    """No connection came free in time; the message holds the pool's figures.

    ``__cause__`` is the last error of connecting, when that is why there was none.
    """


class PoolConnectError(BackendError):
    """A connection could not be opened: the server is unreachable, refuses, or does not answer in time."""

    login_refused = False
    """The server answered, and refused the user or password."""
    is_setting = False
    """A setting is wrong, so a retry cannot succeed."""
    is_of_init = False
    """The pool's ``init`` failed."""


class ListenError(BackendError):
    """The server refuses to listen on a channel, or the connection was lost while it was asked."""


class PoolSetupError(BackendError):
    """Pools of ``DATABASE_POOLS`` could not be created; the message names each with its reason."""


class PoolClosedError(ClosedError):
    """The pool was closed before or while a caller asked for a connection."""


class PoolReplacedError(PoolClosedError):
    """The pool was replaced by one with other settings: its waiters acquire from the new one."""

    seconds_left: float | None = None
    """How long the caller may still wait; None: it has not waited yet."""


class UnknownPoolError(MisuseError, LookupError):
    """There is no pool of that name; the message lists the pools that exist."""


class LeaseError(MisuseError):
    """A lease was used or released after its release, or returned to another pool than its own."""


class LeaseReleasedError(LeaseError):
    """A lease, or an object taken from it (a cursor, a bound method), was used after its release."""


class QueryTimeoutError(BackendError, TimeoutError):
    """A call of a lease took longer than ``query_timeout``.

    Its connection is closed unless it still works."""


class TransactionAbortedError(BackendError):
    """The block of a transaction ended well, and its changes are lost; the message says why."""


class MissingDriverError(MisuseError, ImportError):
    """The package that talks to this backend is not installed; the message says what to install."""
