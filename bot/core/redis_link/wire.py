"""One connection's bytes, read and written without a task, a lock and a timeout for each call."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Any

from bot.core._shared.answer_bounds import AnswerBounds
from bot.core.redis_link import driver

NOT_YET: Any = object()

# Linux tells a closed connection from one with bytes to read; elsewhere an idle one has none to read.
_CLOSED = getattr(select, "POLLRDHUP", getattr(select, "POLLIN", 0))


class _NoPush:
    """The class of nothing, for hiredis 2, whose pushes are lists; no server sends any unasked."""


class Wire(asyncio.Protocol):
    """One connection's bytes, parsed by hiredis."""

    def __init__(
        self,
        connection: Any,
        on_answer: Callable[[Any], None],
        on_lost: Callable[[Wire, BaseException | None], None],
    ) -> None:
        import hiredis

        self._parser = hiredis.Reader(notEnoughData=NOT_YET)
        self._bounds = AnswerBounds(self._parser.has_data)
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
        self._streams = driver.take_streams(connection)
        self.transport: Any = self._streams[1].transport
        self.transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        bounds, parser = self._bounds, self._parser
        if not bounds.harmless(data):
            self._in_pieces(data)
            return
        parser.feed(data)
        try:
            answer = parser.gets()
        except Exception as error:
            self._no_answer(error)
            return
        if answer is NOT_YET:
            bounds.unanswered(data)
        else:
            self._hand_on(answer)

    def _in_pieces(self, data: bytes) -> None:
        try:
            for piece in self._bounds.pieces(data):
                self._parser.feed(piece)
                answer = self._parser.gets()
                if answer is not NOT_YET:
                    self._bounds.answered()
                    self._hand_on(answer)
                if self.lost:
                    return
        except Exception as error:
            self._no_answer(error)

    def _hand_on(self, answer: Any) -> None:
        """An answer, and those that have come with it."""
        push = self._push
        while answer is not NOT_YET:
            if answer.__class__ is not push:
                self.proven = True
                self._on_answer(answer)
                if self.lost:
                    return
            try:
                # Whatever is wrong with the bytes, and a parser fails in many ways: they are no answer.
                answer = self._parser.gets()
            except Exception as error:
                self._no_answer(error)
                return

    def _no_answer(self, error: Exception) -> None:
        self.drop()
        self._on_lost(self, ConnectionError(f"no answer in Redis's protocol: {error}"))

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost = True
        self._on_lost(self, exc)

    def closed_by_server(self) -> bool:
        """Whether an idle connection was closed at the other end, even if this loop has not read it yet.

        False if that cannot be told: no ``select.poll``, or a transport without a socket.
        """
        poll_type = getattr(select, "poll", None)
        used = self.transport.get_extra_info("socket")
        if poll_type is None or used is None:
            return False
        poll = poll_type()
        try:
            poll.register(used.fileno(), _CLOSED)
            return bool(poll.poll(0))
        except (OSError, ValueError):
            return True  # this end is closed

    def drop(self) -> None:
        self.lost = True
        self.transport.abort()
