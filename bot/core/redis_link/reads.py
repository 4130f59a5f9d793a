"""Reads of many callers in one command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from bot.core._shared.errors import BackendError
from bot.core.redis_link.batches import LARGE_BATCH, Batches
from bot.core.redis_link.breaker import Breaker
from bot.core.redis_link.errors import RedisRefusedError
from bot.core.redis_link.failures import OutOfStep, error_of, out_of_service
from bot.core.redis_link.parts import Parts
from bot.core.redis_link.wire import Wire

MAX_KEYS = 500
"""Keys in one MGET: more would keep other clients of the server waiting."""

Waiter = asyncio.Future[bytes | None]
# The calls that wait for a key: nearly always one, so that one needs no list.
_Batch = dict[bytes, Waiter | list[Waiter]]


class BatchedReader(Batches):
    """Reads of many callers: one MGET for all that are asked for together."""

    def __init__(
        self,
        parts: Parts,
        new_connection: Callable[[], Any],
        breaker: Breaker | None = None,
        *,
        pipelined: bool = False,
    ) -> None:
        super().__init__(parts, new_connection, breaker)
        # In a cluster the keys of one MGET must share a slot: there a batch is as many GETs at once.
        self._pipelined = pipelined
        self.keys_read = 0

    def get(self, key: bytes) -> asyncio.Future[bytes | None]:
        """A future of the value under ``key``; None if there is none. Raises as ``RedisLink.run``."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._connections.owner.elsewhere:
                return self._elsewhere(lambda: self.get(key))
            self._move_to(loop)
        future: asyncio.Future[bytes | None] = loop.create_future()
        waiting = self._waiting.setdefault(key, future)
        if waiting is future:
            if not self._scheduled and not self._under_way and self._opening is None:
                self._scheduled = True
                loop.call_soon(self._send)
            if len(self._waiting) == LARGE_BATCH:
                self._send()
        elif isinstance(waiting, list):
            waiting.append(future)
        else:
            self._waiting[key] = [waiting, future]
        return future

    def _none_waiting(self) -> _Batch:
        return {}

    def _next_batch(self, wire: Wire) -> tuple[_Batch, int, bytes]:
        batch: _Batch
        if len(self._waiting) <= MAX_KEYS:
            batch, self._waiting = self._waiting, {}
        else:
            batch = {key: self._waiting.pop(key) for key in list(self._waiting)[:MAX_KEYS]}
        if self._pipelined:
            return batch, len(batch), b"".join([wire.pack(("GET", key)) for key in batch])
        return batch, 1, wire.pack(("MGET", *batch))

    def _deliver(self, batch: _Batch, answers: list[Any]) -> Exception | None:
        found = answers if self._pipelined else answers[0]
        if not isinstance(found, list) or len(found) != len(batch):
            return self._refuse(batch, found)
        trouble: Exception | None = None
        self.keys_read += len(batch)
        refusals = self._pipelined and any(isinstance(value, Exception) for value in found)
        for waiter, value in zip(batch.values(), found, strict=True):
            if refusals and isinstance(value, Exception):
                trouble = trouble or out_of_service(str(value))
                fail_waiter(waiter, error_of(value))
            elif waiter.__class__ is not list:
                if not waiter.done():  # type: ignore[union-attr]  # no list, by the line above
                    waiter.set_result(value)  # type: ignore[union-attr]
            else:
                for future in waiter:
                    if not future.done():
                        future.set_result(value)
        return trouble

    def _refuse(self, batch: _Batch, answer: Any) -> Exception | None:
        if isinstance(answer, Exception):
            self._fail(batch, error_of(answer))
            return out_of_service(str(answer))
        self._fail(batch, RedisRefusedError("unexpected answer of Redis to a read"))
        return OutOfStep()

    def _requeue(self, batch: _Batch) -> _Batch:
        for key, waiter in batch.items():
            later = self._waiting.get(key)
            if later is None:
                self._waiting[key] = waiter
            else:
                self._waiting[key] = [*_listed(waiter), *_listed(later)]
        return {}

    def _fail(self, batch: _Batch, error: BackendError) -> None:
        for waiter in batch.values():
            fail_waiter(waiter, error)


def _listed(waiter: Waiter | list[Waiter]) -> list[Waiter]:
    return waiter if isinstance(waiter, list) else [waiter]


def fail_waiter(waiter: Waiter | list[Waiter], error: BackendError) -> None:
    for future in waiter if isinstance(waiter, list) else (waiter,):
        if not future.done():
            # One error each: a traceback grows with every task that raises the same one.
            future.set_exception(type(error)(*error.args))
