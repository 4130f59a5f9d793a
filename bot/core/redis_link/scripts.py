"""Lua scripts: one by one, and the calls of many callers in one run."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from bot.core._shared.demotion import redis_needs_another_server
from bot.core._shared.errors import BackendError
from bot.core._shared.tasks import run_on_loop
from bot.core.redis_link.batches import Batches, Sent
from bot.core.redis_link.breaker import Breaker
from bot.core.redis_link.commands import UNANSWERED
from bot.core.redis_link.errors import RedisRefusedError, RedisUnavailableError
from bot.core.redis_link.failures import Failure, error_of, judge, out_of_service, text_of, told
from bot.core.redis_link.parts import Parts
from bot.core.redis_link.reads import fail_waiter
from bot.core.redis_link.together import Together
from bot.core.redis_link.wire import Wire

MAX_CALLS = 256
"""Calls in one run of a script: more would keep other clients of the server waiting."""


class Script:
    """A Lua script of one link."""

    def __init__(self, parts: Parts, source: str, together: Together | None) -> None:
        self._rights = parts.rights
        self._run = parts.calls.run
        self._together = together
        self._source = source
        self._digest = hashlib.sha1(source.encode()).hexdigest()  # noqa: S324 - Redis's own naming

    async def __call__(self, keys: Sequence[Any], arguments: Sequence[Any] = ()) -> Any:
        """Run it; raises as :meth:`RedisLink.run`."""
        from redis.exceptions import ResponseError

        by_digest = ("EVALSHA", self._digest, len(keys), *keys, *arguments)
        whole = ("EVAL", self._source, len(keys), *keys, *arguments)

        async def operation(client: Any) -> Any:
            if not self._rights.sends_scripts_whole:
                try:
                    return await client.execute_command(*by_digest)
                except ResponseError as error:
                    if not self._not_by_digest(error):
                        raise
            return await client.execute_command(*whole)

        answer = UNANSWERED
        if self._together is not None:
            if not self._rights.sends_scripts_whole:
                answer = await self._with_others(self._together, by_digest)
            if self._rights.sends_scripts_whole or self._not_by_digest(answer):
                answer = await self._with_others(self._together, whole)
            if isinstance(answer, ResponseError):
                raise RedisRefusedError(told(text_of(answer))) from answer
        return await self._run(operation, writes=True) if answer is UNANSWERED else answer

    async def _with_others(self, together: Together, command: tuple[Any, ...]) -> Any:
        return (await together.run((command,), repeatable=False, writes=True))[0]

    def _not_by_digest(self, answer: Any) -> bool:
        """Whether an answer is a refusal of EVALSHA only, so that the script has to be sent whole."""
        from redis.exceptions import ResponseError

        if not isinstance(answer, ResponseError):
            return False
        text = text_of(answer)
        return text.startswith("NOSCRIPT") or self._rights.forbids_evalsha(text)


# Called with the result of a call that no caller waits for any more, and with the arguments after it.
Unclaimed = tuple[Any, ...]
# One call of a script: its key, its argument, the caller's future (None when the call is only to be made)
# and what takes a result that no caller waits for any more. A plain tuple: as a NamedTuple it makes a call
# 7 % dearer.
Call = tuple[bytes, bytes, "asyncio.Future[Any] | None", Unclaimed | None]
# Calls of one slot (everywhere but in a cluster: all), and whether the script was sent with them.
_Groups = tuple[list[list[Call]], bool]
_ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN")


class BatchedScript(Batches):
    """Calls of a Lua script that are made together travel together: one EVALSHA for all.

    The script takes any number of keys with an argument each, and its answer, given to ``decode``
    with their number, is a result for each. What ``decode`` refuses by a ValueError is a
    RedisRefusedError for the callers.

    **Cancellation.** A call that is cancelled before it was sent is not made. One that was sent is
    made; its result then goes to ``unclaimed[0](result, *unclaimed[1:])``, which can undo it. Nothing
    that was sent is sent again, unless the server says that it did not run it.
    """

    def __init__(
        self,
        parts: Parts,
        source: str,
        decode: Callable[[Any, int], Sequence[Any]],
        new_connection: Callable[[], Any],
        breaker: Breaker | None = None,
        *,
        elsewhere: Callable[[list[Call]], None] | None = None,
        on_stop: Callable[[BatchedScript], None] | None = None,
    ) -> None:
        super().__init__(parts, new_connection, breaker)
        self._source = source
        self._digest = hashlib.sha1(source.encode()).hexdigest()  # noqa: S324 - Redis's own naming
        self._decode = decode
        # In a cluster: gets the calls that a node refused because their slot is another's.
        self._elsewhere_slot = elsewhere
        self._on_stop = on_stop
        self._rights = parts.rights
        self._primary = parts.primary
        self.calls = 0

    def call(self, key: bytes, argument: bytes, unclaimed: Unclaimed | None = None) -> asyncio.Future[Any]:
        """A future of the script's result for ``key``. Raises as ``RedisLink.run``."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop and self._connections.owner.elsewhere:
            return self._elsewhere(lambda: self.call(key, argument, unclaimed))
        future: asyncio.Future[Any] = loop.create_future()
        self._add((key, argument, future, unclaimed), loop)
        return future

    def send(self, key: bytes, argument: bytes, unclaimed: Unclaimed | None = None) -> None:
        """:meth:`call` without waiting for the result; an error is ignored."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop and self._connections.owner.elsewhere:
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # closed this moment
                    self._loop.call_soon_threadsafe(self.send, key, argument, unclaimed)
            return
        self._add((key, argument, None, unclaimed), loop)

    def _none_waiting(self) -> list[Call]:
        return []

    def _next_batch(self, wire: Wire) -> tuple[_Groups, int, bytes]:
        waiting: list[Call] = self._waiting
        calls = [call for call in waiting[:MAX_CALLS] if call[2] is None or not call[2].done()]
        self._waiting = waiting[MAX_CALLS:]
        if not calls:
            return ([], False), 0, b""
        groups = [calls] if self._elsewhere_slot is None else _by_slot(calls)
        whole = self._rights.sends_scripts_whole
        return (groups, whole), len(groups), self._packed(groups, wire)

    def _packed(self, groups: list[list[Call]], wire: Wire) -> bytes:
        if self._rights.sends_scripts_whole:
            return self._packed_whole(groups, wire)
        return b"".join([wire.pack(_arguments("EVALSHA", self._digest, calls)) for calls in groups])

    def _packed_whole(self, groups: list[list[Call]], wire: Wire) -> bytes:
        return b"".join([wire.pack(self._whole(calls)) for calls in groups])

    def _whole(self, calls: list[Call]) -> tuple[Any, ...]:
        # The server remembers the script. EVAL and not SCRIPT LOAD: one right less to have.
        return _arguments("EVAL", self._source, calls)

    def _deliver(self, batch: _Groups, answers: list[Any]) -> Exception | None:
        groups, whole = batch
        failed: list[tuple[list[Call], Exception]] = []
        for calls, answer in zip(groups, answers, strict=True):
            if isinstance(answer, Exception):
                failed.append((calls, answer))
            else:
                self._decoded(calls, answer)
        if failed:
            return self._failed(failed, whole=whole)
        if self._primary.read_only:
            self._primary.found_writable()
        return None

    def _failed(self, failed: list[tuple[list[Call], Exception]], *, whole: bool) -> Exception | None:
        """Send again what was not run, there or elsewhere, and fail the rest; the server's trouble if any."""
        trouble: Exception | None = None
        again: list[list[Call]] = []
        refused: list[list[Call]] = []
        refusal = ""
        for calls, answer in failed:
            text = str(answer)
            if not whole and (text.startswith("NOSCRIPT") or self._rights.forbids_evalsha(text)):
                again.append(calls)  # the server was restarted; it has not run them
            elif self._elsewhere_slot is not None and text.startswith(_ELSEWHERE):
                self._elsewhere_slot(calls)
            elif redis_needs_another_server(text):
                self._primary.found_read_only(text)
                refused.append(calls)
                refusal = text
            else:
                trouble = trouble or out_of_service(text)
                self._fail(calls, error_of(answer))
        if refused:
            self._not_run(refused, refusal)
        elif self._primary.read_only and trouble is None:
            self._primary.found_writable()
        if trouble is not None:
            for calls in again:
                self._fail(calls, RedisUnavailableError(str(trouble)))
        elif again:
            self._send_whole(again)
        return trouble

    def _decoded(self, calls: list[Call], answer: Any) -> None:
        try:
            results = self._decode(answer, len(calls))
            if len(results) != len(calls):
                raise ValueError(f"{len(results)} results for {len(calls)} calls")
        except Exception as nonsense:  # whatever it is: the answer is another's word
            reason = nonsense if isinstance(nonsense, ValueError) else type(nonsense).__name__
            self._fail(calls, RedisRefusedError(f"unexpected answer of a script: {reason}"))
        else:
            self._give(calls, results)

    def _send_whole(self, groups: list[list[Call]]) -> None:
        wire, loop = self._wire, self._loop
        if wire is None or loop is None or wire.lost:
            error = RedisUnavailableError("connection lost")
            for calls in groups:
                self._fail(calls, error)
            return
        timer = loop.call_later(self._timeout, self._too_late)
        self._under_way.append(Sent((groups, True), len(groups), timer, probe=False))
        wire.transport.write(self._packed_whole(groups, wire))

    def _not_run(self, groups: list[list[Call]], text: str) -> None:
        """Calls that a server refused because it is no primary: try them where the name leads now."""
        if self._connections.cluster and self._elsewhere_slot is not None:
            for calls in groups:
                self._elsewhere_slot(calls)
        elif self._primary.may_look or self._leaving:
            # Leaving: the server was left for another while this was under way to it.
            self._connections.spawn(
                self._on_another_server(groups, was_left=self._leaving), name="redis-script-elsewhere"
            )
        else:
            for calls in groups:
                self._fail(calls, RedisRefusedError(told(text)))

    async def _on_another_server(self, groups: list[list[Call]], *, was_left: bool) -> None:
        left = deque(groups)

        async def operation(client: Any) -> list[Any]:
            async with client.pipeline(transaction=False) as pipe:
                for calls in groups:
                    pipe.execute_command(*self._whole(calls))
                answers: list[Any] = await pipe.execute(raise_on_error=False)
            if isinstance(answers[0], Exception) and judge(answers[0]) is not Failure.REFUSED:
                raise answers[0]
            return answers

        failure: BackendError = RedisUnavailableError("the script was stopped")
        try:
            async with asyncio.timeout(self._timeout):
                answers = await self._primary.on_another_server(operation, was_left=was_left)
            for answer in answers:
                calls = left.popleft()
                if isinstance(answer, Exception):
                    self._fail(calls, RedisRefusedError(told(text_of(answer))))
                else:
                    self._decoded(calls, answer)
        except BackendError as error:
            failure = error
        except Exception as error:
            failure = RedisRefusedError(told(text_of(error)) or "Redis takes no writes")
        finally:
            for calls in left:
                self._fail(calls, failure)

    def _give(self, calls: list[Call], results: Sequence[Any]) -> None:
        self.calls += len(calls)
        give(calls, results)

    def _fail(self, batch: _Groups | list[Call], error: BackendError) -> None:
        calls = [call for group in batch[0] for call in group] if isinstance(batch, tuple) else batch
        for _, _, future, _ in calls:
            if future is not None:
                fail_waiter(future, error)

    async def stop(self) -> None:
        """Close the connection, on whichever event loop it lives; the link stays."""
        if self._on_stop is not None:
            self._on_stop(self)
        loop = self._loop
        if loop is not None and not await run_on_loop(loop, self.close):
            self.abandon()


def give(calls: Sequence[Call], results: Sequence[Any]) -> None:
    """Hand each caller its result, or, where the caller waits no more, ``unclaimed``."""
    for (_, _, future, unclaimed), result in zip(calls, results, strict=True):
        if future is not None and not future.done():
            future.set_result(result)
        elif unclaimed is not None:
            unclaimed[0](result, *unclaimed[1:])


def _arguments(command: str, script: str, calls: list[Call]) -> tuple[Any, ...]:
    keys, arguments, _, _ = zip(*calls, strict=True)
    return command, script, len(calls), *keys, *arguments


def _by_slot(calls: list[Call]) -> list[list[Call]]:
    from redis.crc import key_slot

    groups: dict[int, list[Call]] = {}
    for call in calls:
        key, *_ = call
        groups.setdefault(key_slot(key), []).append(call)
    return list(groups.values())
