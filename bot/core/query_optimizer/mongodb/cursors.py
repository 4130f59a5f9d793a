"""Cursors whose ``to_list`` is answered from the cache; read in another way, they are the driver's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bot.core.query_optimizer.mongodb.results import CollectionResults

_STEPS = frozenset(
    "sort skip limit hint collation batch_size max_time_ms allow_disk_use min max comment".split()
)
"""Methods that change what a cursor will ask for."""

_HARMLESS = frozenset("alive cursor_id retrieved session collection address delegate".split())
"""Attributes that start nothing."""


class CachedCursor:
    """What ``find`` of a :class:`CachedCollection` returns."""

    __slots__ = ("_arguments", "_results", "_started", "raw")

    def __init__(self, results: CollectionResults, raw: Any, arguments: dict[str, Any]) -> None:
        self._results = results
        self.raw = raw
        """The driver's cursor."""
        self._arguments = arguments
        # Whether something was read from ``raw``, or it was changed in a way that no key describes.
        self._started = False

    async def to_list(self, length: int | None = None) -> Any:
        """The documents, at most ``length``. Without ``length`` concurrent callers share one query."""
        if self._started or (length is not None and (type(length) is not int or length < 1)):
            self._started = True
            return await self.raw.to_list(length)
        arguments = self._arguments if length is None else {**self._arguments, "length": length}
        limit = arguments.get("limit", 0)
        self._started = True
        own = _Counted(self.raw)

        async def run_own() -> Any:
            return await own.to_list(length)

        async def run_copy() -> Any:
            # A copy each time, for a run that was cancelled starts again for the others.
            cursor = self.raw.clone()
            try:
                return await cursor.to_list(length)
            finally:
                await cursor.close()

        if length is None or (type(limit) is int and 0 < limit <= length):
            found = await self._results.answer("find", arguments, run_copy, otherwise=run_own)
        else:
            # There may be more to read, so the cursor must be this caller's own.
            found = await self._results.answer("find", arguments, run_own, lambda rows: len(rows) < length)
        if not own.used:
            # As if it had been read to its end. Motor's own close takes a thread, though nothing was opened.
            closing = getattr(self.raw, "delegate", self.raw).close()
            if closing is not None:
                await closing
        return found

    def clone(self) -> CachedCursor:
        return CachedCursor(self._results, self.raw.clone(), dict(self._arguments))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in CachedCursor.__slots__:
            raise AttributeError(name)
        found = getattr(self.raw, name)
        if name in _STEPS:
            return self._step(name, found)
        if name not in _HARMLESS:
            self._started = True
        return found

    def _step(self, name: str, change: Callable[..., Any]) -> Callable[..., CachedCursor]:
        def step(*args: Any, **options: Any) -> CachedCursor:
            change(*args, **options)
            if options:
                self._started = True
            else:
                self._arguments[name] = args[0] if len(args) == 1 else args
            return self

        return step

    def __aiter__(self) -> Any:
        self._started = True
        return self.raw.__aiter__()

    async def __anext__(self) -> Any:
        self._started = True
        return await self.raw.__anext__()

    async def __aenter__(self) -> CachedCursor:
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._started = True
        await self.raw.close()


class _Counted:
    """A cursor that knows whether it was read from."""

    __slots__ = ("_raw", "used")

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.used = False

    async def to_list(self, length: int | None) -> Any:
        self.used = True
        return await self._raw.to_list(length)


class CachedAggregation:
    """What ``aggregate`` of a :class:`CachedCollection` returns: to be awaited, or used at once."""

    __slots__ = ("_arguments", "_cursor", "_done", "_open", "_results")

    def __init__(
        self, results: CollectionResults, open_: Callable[[], Any], arguments: dict[str, Any]
    ) -> None:
        self._results = results
        self._open = open_
        self._arguments = arguments
        # The driver's cursor once it is needed; whether ``to_list`` was answered without it.
        self._cursor: Any = None
        self._done = False

    def __await__(self) -> Generator[Any, None, CachedAggregation]:
        return self._awaited().__await__()

    async def _awaited(self) -> CachedAggregation:
        if not self._results.may_keep("aggregate", self._arguments):
            await self._opened()  # now, as the driver does: it may write
        return self

    async def _opened(self) -> Any:
        """The driver's cursor. One of a pipeline that writes has run."""
        if self._cursor is None:
            names = self._results.written_by(self._arguments.get("pipeline"))
            if not names:
                self._cursor = await self._results.answer(
                    "aggregate", self._arguments, self._run, why_not="it is read step by step"
                )
            else:
                session = self._arguments.get("session")
                arguments = {"pipeline": self._arguments.get("pipeline")}
                self._cursor = await self._results.write(
                    "aggregate", self._run_whole, names, session, arguments
                )
        return self._cursor

    async def _run(self) -> Any:
        opened = self._open()
        return await opened if isawaitable(opened) else opened

    async def _run_whole(self) -> Any:
        """Motor's cursor runs when it is first read; $out and $merge return nothing."""
        cursor = await self._run()
        await cursor.to_list(None)
        return cursor

    async def to_list(self, length: int | None = None) -> Any:
        """The documents, at most ``length``; kept only without ``length``."""
        if self._done:
            return []
        if length is not None or self._cursor is not None:
            return await (await self._opened()).to_list(length)
        if self._results.written_by(self._arguments.get("pipeline")):
            return await (await self._opened()).to_list(None)

        async def run() -> Any:
            cursor = await self._run()
            try:
                return await cursor.to_list(None)
            finally:
                await cursor.close()

        found = await self._results.answer("aggregate", self._arguments, run)
        self._done = True
        return found

    @property
    def alive(self) -> bool:
        return not self._done and (self._cursor is None or bool(self._cursor.alive))

    async def close(self) -> None:
        self._done = True
        if self._cursor is not None:
            await self._cursor.close()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._done:
            raise StopAsyncIteration
        return await (await self._opened()).__anext__()

    next = __anext__

    async def try_next(self) -> Any:
        return None if self._done else await (await self._opened()).try_next()

    async def __aenter__(self) -> CachedAggregation:
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.close()
