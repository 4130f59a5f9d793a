"""One connection's bytes, read and written without a task, a lock and a timeout for each call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

_NOT_YET: Any = object()


class _NoPush:
    """The class of nothing, for hiredis 2, whose pushes are lists; no server sends any unasked."""


class _Wire(asyncio.Protocol):
    """One connection's bytes, parsed by hiredis."""

    def __init__(
        self,
        connection: Any,
        on_answer: Callable[[Any], None],
        on_lost: Callable[[_Wire, BaseException | None], None],
    ) -> None:
        import hiredis

        self._parser = hiredis.Reader(notEnoughData=_NOT_YET)
        self._nonsense = hiredis.ProtocolError
        self.pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command
        # What RESP3 servers send unasked, such as that they will be moved: no answer to anybody.
        self._push: type = getattr(hiredis, "PushNotification", _NoPush)
        self._on_answer = on_answer
        self._on_lost = on_lost
        self.lost = False
        self.proven = False
        """Whether it has brought an answer."""
        # redis-py's connection object has done its part; its transport lives on. So must its streams,
        # which close the transport when they are collected.
        self._streams = (connection._reader, connection._writer)
        self.transport: Any = connection._writer.transport
        connection._writer = connection._reader = None
        self.transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        push = self._push
        try:
            while (answer := self._parser.gets()) is not _NOT_YET:
                if answer.__class__ is push:
                    continue
                self.proven = True
                self._on_answer(answer)
                if self.lost:
                    return
        except self._nonsense as error:
            self.drop()
            self._on_lost(self, ConnectionError(f"no answer in Redis's protocol: {error}"))

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True
        self._on_lost(self, exc)

    def drop(self) -> None:
        self.lost = True
        self.transport.abort()
