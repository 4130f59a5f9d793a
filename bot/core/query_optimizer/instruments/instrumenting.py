"""Which module watches which driver; each is imported only when its driver is."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from bot.core._shared.errors import invalid
from bot.core._shared.validation import valid_seconds
from bot.core.query_optimizer.execution.result_scopes import scope_key
from bot.core.query_optimizer.instruments.watching import Instrument, Options
from bot.core.query_optimizer.service import QueryOptimizer

T = TypeVar("T")

DRIVERS = {
    "asyncpg": "of_asyncpg",
    "aiosqlite": "of_aiosqlite",
    "asyncmy": "of_asyncmy",
    "psycopg": "of_psycopg",
    "psycopg_pool": "of_psycopg",
    "sqlalchemy": "of_sqlalchemy",
    "pymongo": "of_mongodb",
    "motor": "of_mongodb",
}
"""The package of an object's class, and the module here that watches it. Such a module has ``target(obj)``,
what to watch for it (None: it is none of the package's pools and connections); ``attach(target,
instrument)``, after which the target has ``phase4_instrument``, and ``detach(target, instrument)``, which
undoes that; and ``ANSWERS``, whether it can answer reads from the cache. ``changed(target, instrument)``, if
there is one, is called when the instrument has another optimizer.
"""

_ALLOWED = (
    "a pool or connection of asyncpg, asyncmy or psycopg, a connection of aiosqlite, an AsyncEngine of "
    "SQLAlchemy, an AsyncMongoClient of PyMongo, or a client of motor"
)

_lock = threading.Lock()
"""Held while a target is attached or detached."""


def instrument(
    obj: T,
    *,
    cache: bool = False,
    ttl: float | None = None,
    scope: Any = None,
    tenant: Callable[[], Any] | None = None,
    change_streams: bool | None = None,
    optimizer: QueryOptimizer | None = None,
) -> T:
    """Let the optimizer see every query of a driver's pool or connection; returns ``obj``.

    By default it only watches: it counts and times the queries, finds slow ones and N+1 patterns with the
    line of code that runs them, and drops the cached results that a write concerns, at the end of its
    transaction. With ``cache=True`` it also answers reads from the cache, for ``ttl`` seconds (None: the
    configured time), where it is certain that the database would give the same answer.

    ``scope`` is that of :meth:`QueryOptimizer.execute`, for all queries of ``obj``; without it the results
    of two objects are apart. ``tenant()`` is asked at each read that may be cached, and gives the part of
    the scope that differs from query to query; a read for which it fails is not cached. With
    ``change_streams=True``, for clients of MongoDB, results are dropped by what other programs write, too, if
    the server has change streams (None: as QUERY_OPTIMIZER_MONGODB_CHANGE_STREAMS says). ``optimizer`` is
    the process's one if None.

    A second call changes the options of the first. While the optimizer is off, queries pass as they are.
    Raises InvalidArgumentError for any other object or argument.
    """
    module, target = _module_of(obj)
    if not isinstance(cache, bool):
        raise invalid("cache", cache, "True or False")
    if cache and not module.ANSWERS:
        raise invalid("cache", cache, f"False: queries of {type(obj).__module__} can only be watched")
    if tenant is not None and not callable(tenant):
        raise invalid("tenant", tenant, "a function without arguments, or None")
    if change_streams is not None and not isinstance(change_streams, bool):
        raise invalid("change_streams", change_streams, "True, False or None")
    if change_streams and module.__name__.rpartition(".")[2] != "of_mongodb":
        raise invalid("change_streams", change_streams, "False: only MongoDB has change streams")
    if optimizer is not None and not isinstance(optimizer, QueryOptimizer):
        raise invalid("optimizer", optimizer, "a QueryOptimizer, or None")
    if ttl is not None:
        ttl = valid_seconds("ttl", ttl)
    scope_key(scope)
    options = Options(cache, ttl, scope, tenant, change_streams)
    with _lock:
        found = _instrument_of(target)
        if found is None:
            made = Instrument(optimizer or QueryOptimizer.get_instance(), options)
            made.target = id(target)
            module.attach(target, made)
        elif found.target == id(target):  # else it is a connection of a pool that is instrumented
            before = found.optimizer
            found.change(optimizer or QueryOptimizer.get_instance(), options)
            if found.optimizer is not before and hasattr(module, "changed"):
                module.changed(target, found)
    return obj


def uninstrument(obj: Any) -> bool:
    """Undo :func:`instrument`; False if ``obj`` was not instrumented. Queries in progress end as they are.

    Raises InvalidArgumentError for what cannot be instrumented.
    """
    module, target = _module_of(obj)
    with _lock:
        found = _instrument_of(target)
        if found is None or found.target != id(target):
            return False
        found.is_on = False
        module.detach(target, found)
    return True


def _instrument_of(target: Any) -> Instrument | None:
    found = getattr(target, "phase4_instrument", None)
    return found if isinstance(found, Instrument) else None  # MongoDB's clients have every name


def _module_of(obj: Any) -> tuple[Any, Any]:
    for kind in type(obj).__mro__:
        name = DRIVERS.get(kind.__module__.partition(".")[0])
        if name is not None:
            module = importlib.import_module(f"bot.core.query_optimizer.instruments.{name}")
            target = module.target(obj)
            if target is not None:
                return module, target
    raise invalid("obj", obj, _ALLOWED)
