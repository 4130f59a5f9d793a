"""Watches the clients of MongoDB: PyMongo's AsyncMongoClient, and motor's.

Commands are heard of by PyMongo's own command listeners. A client takes them when it is made, and keeps them
in one object, which its connections share; so a listener is put into that object. The client's class is
replaced by a subclass of it, which gives databases whose collections answer reads; in motor's, it also notes
the line that makes a call, since the command then runs in a thread.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Hashable
from typing import Any, cast

from pymongo import AsyncMongoClient

from bot.core._shared.errors import MisuseError
from bot.core.query_optimizer.execution.n_plus_one import call_site
from bot.core.query_optimizer.instruments.watching import Instrument
from bot.core.query_optimizer.mongodb.collection import CachedCollection
from bot.core.query_optimizer.mongodb.listening import ORIGIN, Listener, Origin
from bot.core.query_optimizer.mongodb.results import CollectionResults

ANSWERS = True

_LISTENERS = "_EventListeners__command_listeners"
_HEARS = "_EventListeners__enabled_for_commands"


def target(obj: Any) -> Any:
    if isinstance(obj, AsyncMongoClient):
        return obj
    motor = sys.modules.get("motor.core")
    return obj if motor is not None and isinstance(obj, motor.AgnosticClient) else None


def attach(client: Any, instrument: Instrument) -> None:
    """Raises MisuseError for a version of PyMongo whose clients keep their listeners elsewhere."""
    listeners, heard = _listeners_of(client)
    shared = instrument.optimizer._mongodb_results()
    # One that was given when the client was made, or that hears all clients of the process.
    listener = next((each for each in listeners if type(each) is Listener and each.shared is shared), None)
    is_ours = listener is None
    if listener is None:
        listener = Listener(shared)
        listeners.append(listener)
        setattr(heard, _HEARS, True)
    if listener.view is None:
        listener.view = instrument
    base = type(client)
    # In the client, since a pool may replace one of several clients of an instrument.
    client.__dict__["phase4_watched"] = {"class": base, "listener": listener, "is_ours": is_ours}
    client.__dict__["phase4_instrument"] = instrument
    client.__class__ = _client_class(cast(Hashable, base))


def changed(client: Any, instrument: Instrument) -> None:
    """The instrument has another optimizer."""
    detach(client, instrument)
    attach(client, instrument)


def detach(client: Any, instrument: Instrument) -> None:
    details = client.__dict__.pop("phase4_watched")
    client.__class__ = details["class"]
    del client.__dict__["phase4_instrument"]
    listener = details["listener"]
    if listener.view is instrument:
        listener.view = None
    listener.shared.streams.end(client)
    if details["is_ours"]:
        listeners, heard = _listeners_of(client)
        listeners[:] = [each for each in listeners if each is not listener]
        setattr(heard, _HEARS, bool(listeners))


def _listeners_of(client: Any) -> tuple[list[Any], Any]:
    """(the command listeners of a client, the object that holds them)"""
    heard = getattr(client.__dict__.get("delegate", client), "_event_listeners", None)
    found = getattr(heard, _LISTENERS, None)
    if not isinstance(found, list) or not isinstance(getattr(heard, _HEARS, None), bool):
        import pymongo

        raise MisuseError(
            f"clients of PyMongo {pymongo.version} take no listeners later: make the client with "
            f"event_listeners=[optimizer.mongodb_listener()]"
        )
    return found, heard


def _named_as(made: Any, base: Any) -> Any:
    made.__name__, made.__qualname__, made.__module__ = base.__name__, base.__qualname__, base.__module__
    made.__doc__ = base.__doc__
    return made


@functools.cache
def _client_class(base: Any) -> Any:
    class Watched(base):  # type: ignore[misc]
        def __getitem__(self, name: str) -> Any:
            return _answering(self, super().__getitem__(name))

        def get_database(self, *args: Any, **options: Any) -> Any:
            return _answering(self, super().get_database(*args, **options))

        def get_default_database(self, *args: Any, **options: Any) -> Any:
            return _answering(self, super().get_default_database(*args, **options))

    if not issubclass(base, AsyncMongoClient):

        def get_io_loop(self: Any) -> Any:
            loop = base.get_io_loop(self)
            instrument = self.__dict__.get("phase4_instrument")
            if instrument is not None and instrument.is_on:
                _note_call(instrument, loop)
            return loop

        Watched.get_io_loop = get_io_loop
    return _named_as(Watched, base)


def _note_call(instrument: Instrument, loop: Any) -> None:
    """A call of motor is about to be handed to a thread: note its line, and its task."""
    site = call_site()
    if site:  # else it is a further batch, fetched by the loop itself
        optimizer = instrument.optimizer
        optimizer._recorder.detector.enter(optimizer._now())
        ORIGIN.set(Origin(loop, site))


def _answering(client: Any, database: Any) -> Any:
    """The database as one whose collections answer reads, if the instrument says so."""
    instrument = client.__dict__.get("phase4_instrument")
    if instrument is not None and instrument.is_on and instrument.cache:
        database.__class__ = _database_class(cast(Hashable, type(database)))
    return database


@functools.cache
def _database_class(base: Any) -> Any:
    if hasattr(base, "phase4_collections"):
        return base

    class Answering(base):  # type: ignore[misc]
        phase4_collections = True

        def __getitem__(self, name: str) -> Any:
            return _cached(self, super().__getitem__(name))

        def get_collection(self, *args: Any, **options: Any) -> Any:
            return _cached(self, super().get_collection(*args, **options))

        def with_options(self, *args: Any, **options: Any) -> Any:
            return _answering(self.client, super().with_options(*args, **options))

        async def create_collection(self, *args: Any, **options: Any) -> Any:
            return _cached(self, await super().create_collection(*args, **options))

    return _named_as(Answering, base)


def _cached(database: Any, collection: Any) -> Any:
    instrument = database.client.__dict__.get("phase4_instrument")
    name = collection.name
    if instrument is None or not instrument.cache or name.startswith(("$", "system.")):
        return collection
    shared = instrument.optimizer._mongodb_results()
    return CachedCollection(CollectionResults(shared, collection, None, instrument))
