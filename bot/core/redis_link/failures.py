"""What an error of redis-py, or one that Redis answered with, says of the server."""

from __future__ import annotations

import enum
import re

from bot.core._shared.demotion import redis_needs_another_server
from bot.core._shared.errors import BackendError
from bot.core._shared.masking import one_line
from bot.core.redis_link.errors import RedisRefusedError, RedisUnavailableError

MAX_TEXT = 300
"""Characters of an error of Redis that are told."""


class Failure(enum.Enum):
    """What an error of redis-py, or an error that Redis answered with, says of the server."""

    REFUSED = enum.auto()
    """It is there and does not want to do this."""
    AWAY = enum.auto()
    """It cannot be reached, or serves no client now."""
    LOST = enum.auto()
    """A connection is gone; whether the server is, a new one tells."""
    CROWDED = enum.auto()
    """It takes no more connections; those that stand go on."""
    READ_ONLY = enum.auto()
    """It is no primary (any more). Nothing was run."""
    LOGIN = enum.auto()
    """This connection must log in again. The command was not run."""
    OLD_PROTOCOL = enum.auto()
    """It knows no HELLO, and so no RESP3. Nothing was run."""


# redis-py cuts the code off the text of an error that it has a class for.
_CODES = {
    "ReadOnlyError": "READONLY",
    "MasterDownError": "MASTERDOWN",
    "BusyLoadingError": "LOADING",
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ClusterDownError": "CLUSTERDOWN",
}
_KNOWN_NOT = re.compile(r"unknown|unsupported|not supported|no permission|not allowed|disabled")
_SERVES_NOBODY = ("LOADING", "BUSY ", "CLUSTERDOWN", "MASTERDOWN")


def text_of(error: BaseException) -> str:
    """What Redis said, with its code in front (``NOPERM ...``), whole."""
    text = str(error)
    code = getattr(error, "status_code", None) or _CODES.get(type(error).__name__, "")
    if not code and type(error).__name__ == "AuthenticationError":  # redis-py 6 tells no code
        code = "NOAUTH" if text.startswith(("Authentication required", "HELLO must be")) else "WRONGPASS"
    return text if not code or code == "ERR" or text.startswith(code) else f"{code} {text}"


def told(text: str) -> str:
    """An error of Redis as a log or a caller may have it: one short line, with no arguments of a command.

    Redis quotes the arguments of a command that it does not know, and they may be anybody's values.
    """
    said = text[: 4 * MAX_TEXT].partition(", with args beginning with")[0]
    return one_line(said.partition("\n")[0].partition("\r")[0], MAX_TEXT)


def judge(error: BaseException) -> Failure:
    """What an error that a call ended with says of the server."""
    from redis.exceptions import AuthenticationError, RedisClusterException, ResponseError
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import TimeoutError as RedisTimeoutError

    text = text_of(error)
    if isinstance(error, ResponseError | RedisClusterException):
        lowered = text.lower()
        # Renamed or older than Redis 6; forbidden to this user; RESP3 switched off by a proxy.
        if text.startswith("NOPROTO") or ("hello" in lowered and _KNOWN_NOT.search(lowered)):
            return Failure.OLD_PROTOCOL
    if redis_needs_another_server(text):
        return Failure.READ_ONLY
    if text.startswith("NOAUTH"):
        return Failure.LOGIN
    if "max number of clients" in text:
        return Failure.CROWDED
    if text.startswith(_SERVES_NOBODY):
        return Failure.AWAY
    if isinstance(error, RedisTimeoutError | TimeoutError | RedisClusterException | AuthenticationError):
        return Failure.AWAY
    if isinstance(error, RedisConnectionError | OSError):
        return Failure.LOST
    return Failure.REFUSED


def refused_login(error: BaseException) -> str:
    """How a server that is there does not let this user in; empty if that is not what is wrong."""
    text = text_of(error)
    if text.startswith("WRONGPASS"):
        return "refuses the user or the password (WRONGPASS)"
    return "wants a password (NOAUTH)" if text.startswith("NOAUTH") else ""


def is_redis_error(error: BaseException) -> bool:
    """Whether redis-py raised it, on Redis's word or its own."""
    from redis.exceptions import RedisError

    return isinstance(error, RedisError)


NODE_DOWN = "the node answers that its cluster is down"


class OutOfStep(Exception):
    """What came is no answer to what was asked."""


def out_of_service(text: str) -> Exception | None:
    """Why a server that answered with this error serves no client now, or not this connection."""
    if text.startswith("CLUSTERDOWN"):
        return ConnectionError(NODE_DOWN)
    if text.startswith((*_SERVES_NOBODY, "NOAUTH")):
        return ConnectionError(told(text))
    return None


def error_of(answer: Exception) -> BackendError:
    """What to raise for an error among the answers."""
    trouble = out_of_service(str(answer))
    return RedisRefusedError(told(str(answer))) if trouble is None else RedisUnavailableError(str(trouble))
