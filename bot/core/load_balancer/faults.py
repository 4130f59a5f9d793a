"""Whose fault an exception of a request handler is: the request's, the code's, or the instance's."""

from __future__ import annotations

import contextlib
import logging
import socket
import sys
from collections import OrderedDict
from typing import Literal

from bot.core._shared.errors import MisuseError
from bot.core._shared.masking import masked_traceback, one_line
from bot.core.load_balancer.errors import InstanceFailure, NotSentError, RequestRejected
from bot.core.load_balancer.http_handler import MissingClientError

logger = logging.getLogger(__name__)

CODE_FAULTS: tuple[type[Exception], ...] = (
    TypeError, AttributeError, NameError, LookupError, ArithmeticError, AssertionError, NotImplementedError,
    ImportError, SyntaxError, RecursionError,
)  # fmt: skip
"""What Python raises for a bug. Every instance would get to see it alike."""

FAULT_LOG_SECONDS = 60.0
"""For which a fault of the same kind at the same place is logged once."""

_MAX_FAULTS = 100

Blame = Literal["request", "code", "answer", "transport"]

_CONNECT_ERRORS = (
    ("aiohttp", "ClientConnectorError"),
    ("httpx", "ConnectError"),
    ("httpx", "ConnectTimeout"),
)
_TRANSPORT_ERRORS = (
    ("aiohttp", "ClientConnectionError"),
    ("aiohttp", "ClientPayloadError"),
    ("httpx", "TransportError"),
)


def blame(error: BaseException) -> Blame:
    """Whether the instance, the request or the code is at fault for what a handler raised.

    ``request``: any instance would reject it. ``code``: a bug of the handler. ``answer``: the instance
    was reached and failed, as another may too. ``transport``: it was not reached, or broke off.
    """
    # By its type: what an exception says of itself, as its ``__class__``, may raise.
    cls = type(error)
    if issubclass(cls, BaseExceptionGroup):
        kinds = {blame(one) for one in BaseExceptionGroup.exceptions.__get__(error)}
        order: tuple[Blame, ...] = ("transport", "answer", "request", "code")
        return next(kind for kind in order if kind in kinds)
    if issubclass(cls, RequestRejected):
        return "request"
    status = _status_of(error)
    if status is not None and 400 <= status < 500:
        return "request"
    if issubclass(cls, MissingClientError | MisuseError):
        return "code"
    if issubclass(cls, NotSentError | OSError | TimeoutError | EOFError) or _is(error, _TRANSPORT_ERRORS):
        return "transport"
    if issubclass(cls, InstanceFailure):
        return "answer"
    return "code" if issubclass(cls, CODE_FAULTS) else "answer"


def never_sent(error: BaseException) -> bool:
    """Whether an exception proves that nothing of the request reached the instance."""
    if issubclass(type(error), NotSentError | ConnectionRefusedError | socket.gaierror):
        return True
    return _is(error, _CONNECT_ERRORS)


def _is(error: BaseException, kinds: tuple[tuple[str, str], ...]) -> bool:
    """Whether it is one of these classes, of packages that need not be installed."""
    for module, name in kinds:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and issubclass(type(error), kind):
            return True
    return False


def _status_of(error: BaseException) -> int | None:
    """The HTTP status that a client's ``raise_for_status`` put into its exception."""
    # aiohttp has it on the exception, httpx and requests on its response.
    try:
        status = getattr(error, "status", None)
        if status is None:
            status = getattr(getattr(error, "response", None), "status_code", None)
    except Exception:  # a property of the exception may raise itself
        return None
    return status if isinstance(status, int) and not isinstance(status, bool) else None


class FaultLog:
    """Logs bugs of a handler with their traceback, each place at most once in FAULT_LOG_SECONDS."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        # By kind and place: when it was logged, and how often it was not since. Changed by tell.
        self._last: OrderedDict[tuple[type[BaseException], str, int], tuple[float, int]] = OrderedDict()

    def tell(self, error: BaseException, handler: object, instance_id: str, now: float) -> None:
        """Log the fault, unless that was done a moment ago, and mark the exception as what it is."""
        note = f"Raised by the load balancer's request handler, for instance {instance_id}."
        with contextlib.suppress(Exception):  # some cannot be changed, or have odd notes of their own
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
        place = _place(error)
        key = (type(error), *place)
        known = self._last.get(key)
        if known is not None and now - known[0] < FAULT_LOG_SECONDS:
            self._last[key] = (known[0], known[1] + 1)
            return
        if len(self._last) >= _MAX_FAULTS:
            self._last.popitem(last=False)
        self._last[key] = (now, 0)
        again = f" ({known[1]} more of them since it was last logged)" if known and known[1] else ""
        logger.error(
            "Load balancer: the request handler %s has a bug, seen at instance %s; the request is not sent "
            "to another instance, and counts against none%s\n%s",
            getattr(handler, "__qualname__", type(handler).__qualname__), one_line(instance_id), again,
            masked_traceback(error),
        )  # fmt: skip


def _place(error: BaseException) -> tuple[str, int]:
    entry = error.__traceback__
    while entry is not None and entry.tb_next is not None:
        entry = entry.tb_next
    return ("", 0) if entry is None else (entry.tb_frame.f_code.co_filename, entry.tb_lineno)
