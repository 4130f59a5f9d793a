"""What a pool asks of its user's code: to prepare each new connection, and for the password at each."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bot.core._shared.errors import invalid, message_of
from bot.core._shared.masking import MAX_TOLD, one_line
from bot.core.connection_pool_manager.errors import PoolConnectError
from bot.core.connection_pool_manager.models import PoolSpec

LONGEST_PASSWORD = 65_536
"""Bytes; a file that is larger holds something else."""

_WHERE_NO_PASSWORD = {
    "sqlite": "no password: SQLite has none",
    "mongodb": "a password in the url: MongoDB's client keeps the one that it was made with, so change the "
    "url in the settings, and a new client takes over",
}


def init_of(given: object) -> Callable[[Any], Any] | None:
    """The function that prepares a new connection: ``given``, or the one that 'module:function' names.

    Raises InvalidArgumentError.
    """
    if given is None or callable(given):
        return given
    allowed = "a function of the connection, or 'module:function' that names one"
    if not isinstance(given, str):
        raise invalid("init", given, allowed)
    module, colon, name = given.partition(":")
    if not (module and colon and name):
        raise invalid("init", given, allowed)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the module's own code raises
        said = one_line(f"{type(error).__name__}: {message_of(error)}", MAX_TOLD)
        raise invalid("init", given, f"{allowed}, but: {said}") from error
    if not callable(found):
        raise invalid("init", given, f"{allowed}, not a {type(found).__name__}")
    return found  # type: ignore[no-any-return]  # some callable of the user's


def password_of(options: dict[str, Any], backend: str) -> Callable[[], Any] | Path | None:
    """Where each new connection gets its password from: ``password``, if it is a function, or
    ``password_file``. Both are taken out of ``options``; a plain password stays there.

    Raises InvalidArgumentError.
    """
    source: Callable[[], Any] | Path | None = None
    if callable(options.get("password")):
        source = options.pop("password")
    name = "password" if source is not None else "password_file"
    if (file := options.pop("password_file", None)) is not None:
        if not isinstance(file, str | os.PathLike) or not str(file):
            raise invalid("password_file", file, "the path of a file")
        if source is not None or options.get("password") is not None:
            raise invalid("password_file", file, "either password or password_file")
        source = Path(file)
    if source is not None and backend in _WHERE_NO_PASSWORD:
        raise invalid(name, source, _WHERE_NO_PASSWORD[backend])
    return source


def without(secrets: Iterable[str], text: str) -> str:
    """``text`` on one line, with every secret masked."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return one_line(text, MAX_TOLD)


async def prepare(spec: PoolSpec, raw: Any, secrets: Iterable[str] = ()) -> None:
    """Let the pool's ``init`` prepare a connection, within ``connect_timeout``.

    Raises PoolConnectError, which names the pool and ``init``.
    """
    if spec.init is not None:
        name = f"init = {_name_of(spec.init)}"
        await _asked(spec, name, partial(spec.init, raw), secrets)


def closed_by_init(spec: PoolSpec) -> PoolConnectError:
    """The error for an ``init`` after which the connection is not open."""
    return PoolConnectError(f"pool {spec.name!r}: init = {_name_of(spec.init)} closed its connection")


async def password(spec: PoolSpec) -> str | None:
    """The password for a new connection; None: that of the url or the driver options.

    Raises PoolConnectError, which names the pool and the function or the file.
    """
    source = spec.password
    if source is None:
        return None
    if isinstance(source, Path):
        name = f"password_file = {str(source)!r}"
        found = await _asked(spec, name, partial(asyncio.to_thread, _read, source), ())
    else:
        name = f"password = {_name_of(source)}"
        found = await _asked(spec, name, source, ())
    if not isinstance(found, str) or not found:
        kind = "an empty text" if isinstance(found, str) else f"a {type(found).__name__}"
        raise PoolConnectError(f"pool {spec.name!r}: {name} gave {kind}: expected a password, a str")
    return str(found)


def _read(path: Path) -> str:
    with path.expanduser().open("rb") as file:
        found = file.read(LONGEST_PASSWORD + 1)
    if len(found) > LONGEST_PASSWORD:
        raise ValueError(f"it holds more than {LONGEST_PASSWORD:,} bytes")
    return found.decode("utf-8").rstrip("\r\n")


async def _asked(spec: PoolSpec, name: str, function: Callable[[], Any], secrets: Iterable[str]) -> Any:
    seconds = spec.options.connect_timeout
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            found = function()
            return await found if inspect.isawaitable(found) else found
    except asyncio.CancelledError as error:
        error.phase4_running = name  # type: ignore[attr-defined]  # for the one whose timeout ended it
        raise
    except Exception as error:
        if limit.expired():
            raise PoolConnectError(f"pool {spec.name!r}: {too_slow(name, seconds)}") from error
        said = without(secrets, f"{type(error).__name__}: {message_of(error)}")
        # Without a cause: its text and its frames may hold a password.
        raise PoolConnectError(f"pool {spec.name!r}: {name} failed: {said}") from None


def too_slow(name: str, seconds: float) -> str:
    """What to say of a function that did not end in time."""
    return f"{name} did not end within connect_timeout = {seconds:g} s"


def interrupted(error: BaseException) -> str | None:
    """The function of the user's that a timeout ended; None: something else took too long."""
    cause: BaseException | None = error
    while cause is not None:
        if (name := getattr(cause, "phase4_running", None)) is not None:
            return str(name)
        cause = cause.__cause__
    return None


def _name_of(function: Any) -> str:
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{module}:{name}" if module else str(name)


def taken_out(options: Mapping[str, Any], backend: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The driver's own options, and the fields of PoolSpec that hold functions of the user's.

    Raises InvalidArgumentError.
    """
    left = dict(options)
    functions = {"init": init_of(left.pop("init", None)), "password": password_of(left, backend)}
    return left, functions
