"""Errors of the load balancer. ``route_request`` returns them as its result; it does not raise them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bot.core._shared.errors import BackendError, CapacityError, ClosedError, MisuseError, Phase4Error
from bot.core.load_balancer.models import Attempt


class RequestRejected(Phase4Error):
    """The request itself is at fault: it is not retried, and does not count against the instance.

    The default handler raises it for an answer of 4xx; handlers of your own may raise it too.
    """

    def __init__(self, message: str, *, status: int | None = None, body: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class NotSentError(BackendError):
    """The request never reached the instance, so trying it elsewhere cannot repeat its effect.

    Refused connections are recognised as such; raise this from a handler for what is not.
    """


class InstanceFailure(BackendError):
    """An instance answered, but not as it should (a status of 5xx, no JSON)."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class RequestFailed(BackendError):
    """No try succeeded; ``attempts`` has the failure at each instance, ``__cause__`` is the last error."""

    def __init__(self, reason: str, attempts: Sequence[Attempt] = ()) -> None:
        tried = "; ".join(f"{a.instance_id} after {a.seconds:.3f} s: {a.error}" for a in attempts)
        super().__init__(f"{reason} ({tried})" if tried else reason)
        self.attempts = tuple(attempts)


class NoInstanceError(CapacityError):
    """There is no instance to send to now: none was added, or each is at its concurrency limit."""


class UnknownInstanceError(MisuseError, LookupError):
    """There is no instance with that id; the message lists the known ones."""


class BalancerOffError(ClosedError):
    """The load balancer is not enabled, so it sends nothing."""
