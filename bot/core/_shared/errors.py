"""The base classes of every error the library raises, by the person who can act on it."""

from __future__ import annotations

from bot.core._shared.bounded_repr import CONTAINERS, repr_within

LARGEST = 1e15
"""Of numbers that are seconds, sizes or rates: floats cannot count with larger ones, which an int may be."""


class Phase4Error(Exception):
    """Root of all errors raised by the Phase 4 services."""


class MisuseError(Phase4Error):
    """The caller's code is wrong: a name, an argument or an order of calls. Fix the call."""


class InvalidArgumentError(MisuseError, ValueError):
    """An argument or setting is outside what is allowed; the message names it, its value and the bounds."""


class CircularLoadError(MisuseError, RuntimeError):
    """A load waits for itself, directly or through other loads; the message names the cycle."""


class ClosedError(Phase4Error):
    """The service or resource was closed by its owner while, or before, it was used."""


class BackendError(Phase4Error):
    """Something outside the process is broken: a server is away, refuses, or answers nonsense."""


class CapacityError(Phase4Error):
    """Everything works, but there is no room now; trying later can succeed."""


class UnsupportedValueError(Phase4Error, TypeError):
    """A value of a type that cannot be stored in Redis and read back unchanged."""


class CorruptPayloadError(BackendError):
    """Bytes from Redis that this version did not write or cannot read."""


def message_of(error: BaseException, otherwise: str = "") -> str:
    """``str(error)``, or ``otherwise`` if its ``__str__`` raises, which must not break the reporting."""
    try:
        return str(error)
    except Exception:
        return otherwise


def invalid(name: str, value: object, allowed: str) -> InvalidArgumentError:
    """Build the error for a bad argument: ``name`` and ``value`` as given, ``allowed`` in words."""
    return InvalidArgumentError(f"{name} = {shown(value)}: expected {allowed}")


def shown(value: object) -> str:
    """``repr(value)``, cut to what fits a message; the type's name if it cannot be told."""
    try:
        text = repr_within(value, 200) if type(value) in CONTAINERS else repr(value)
    except Exception:  # an int of 5,000 digits among others
        text = f"a {type(value).__qualname__}"
    return f"{text[:200]}..." if len(text) > 200 else text
