"""Lua scripts: one by one, and the calls of many callers in one run."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bot.core._shared.demotion import redis_needs_another_server
from bot.core._shared.errors import BackendError
from bot.core._shared.tasks import run_on_loop
from bot.core.redis_link.batches import LARGE_BATCH, _Batched
from bot.core.redis_link.breaker import Breaker
from bot.core.redis_link.errors import RedisRefusedError, RedisUnavailableError
from bot.core.redis_link.failures import Failure, _error_of, _no_service, judge, text_of, told
from bot.core.redis_link.reads import _fail_one
from bot.core.redis_link.wire import _Wire

if TYPE_CHECKING:
    from bot.core.redis_link.link import RedisLink


MAX_CALLS = 256
"""Calls in one run of a script: more would keep other clients of the server waiting."""


class Script:
    """A Lua script of one link."""

    def __init__(self, link: RedisLink, source: str) -> None:
        self._link = link
        self._source = source
        self._digest = hashlib.sha1(source.encode()).hexdigest()  # noqa: S324 - Redis's own naming

    async def __call__(self, keys: Sequence[Any], arguments: Sequence[Any] = ()) -> Any:
        """Run it; raises as :meth:`RedisLink.run`."""
        from redis.exceptions import NoScriptError, ResponseError

        async def operation(client: Any) -> Any:
            if "EVALSHA" not in self._link.refused:
                try:
                    return await client.execute_command("EVALSHA", self._digest, len(keys), *keys, *arguments)
                except NoScriptError:
                    pass
                except ResponseError as error:
                    if not self._link.forbids_evalsha(text_of(error)):
                        raise
            return await client.execute_command("EVAL", self._source, len(keys), *keys, *arguments)

        return await self._link.run(operation, writes=True)


# One call of a script: its key, its argument, who waits (nobody, when it is only to be done), and who
# is told the result, with more arguments, when nobody waits any more.
_Unclaimed = tuple[Any, ...]
_Call = tuple[bytes, bytes, "asyncio.Future[Any] | None", _Unclaimed | None]
# Calls of one slot (everywhere but in a cluster: all), and whether the script was sent with them.
_Groups = tuple[list[list[_Call]], bool]
_ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN")


class BatchedScript(_Batched):
    """Calls of a Lua script that are made together travel together: one EVALSHA for all.

    The script takes any number of keys with an argument each, and its answer, given to ``decode``
    with their number, is a result for each. What ``decode`` refuses by a ValueError is a
    RedisRefusedError for who waits.

    **Cancellation.** A call that is cancelled before it was sent is not made. One that was sent is
    made; its result then goes to ``unclaimed[0](result, *unclaimed[1:])``, which can undo it. Nothing
    that was sent is sent again, unless the server says that it did not run it.
    """

    def __init__(
        self,
        link: RedisLink,
        source: str,
        decode: Callable[[Any, int], Sequence[Any]],
        new_connection: Callable[[], Any],
        breaker: Breaker | None = None,
        *,
        elsewhere: Callable[[list[_Call]], None] | None = None,
    ) -> None:
        super().__init__(link, new_connection, breaker)
        self._source = source
        self._digest = hashlib.sha1(source.encode()).hexdigest()  # noqa: S324 - Redis's own naming
        self._decode = decode
        # In a cluster: gets the calls that a node refused because their slot is another's.
        self._elsewhere_slot = elsewhere
        self.calls = 0

    def call(self, key: bytes, argument: bytes, unclaimed: _Unclaimed | None = None) -> asyncio.Future[Any]:
        """A future of the script's result for ``key``. Raises as ``RedisLink.run``."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop and self._link.owner.elsewhere:
            return self._elsewhere(lambda: self.call(key, argument, unclaimed))
        future: asyncio.Future[Any] = loop.create_future()
        self._add((key, argument, future, unclaimed), loop)
        return future

    def send(self, key: bytes, argument: bytes, unclaimed: _Unclaimed | None = None) -> None:
        """:meth:`call` when nobody waits for the result; if it fails, it is as if it were not made."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop and self._link.owner.elsewhere:
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # closed this moment
                    self._loop.call_soon_threadsafe(self.send, key, argument, unclaimed)
            return
        self._add((key, argument, None, unclaimed), loop)

    def _add(self, call: _Call, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            self._move_to(loop)
        waiting = self._waiting
        waiting.append(call)
        if len(waiting) == LARGE_BATCH:
            # Enough for the server to begin with, while this process gathers the others.
            self._send()
        elif not self._scheduled and not self._under_way and self._opening is None:
            self._scheduled = True
            loop.call_soon(self._send)

    def _nobody(self) -> list[_Call]:
        return []

    def _next_batch(self, wire: _Wire) -> tuple[_Groups, int, bytes]:
        waiting: list[_Call] = self._waiting
        calls = [call for call in waiting[:MAX_CALLS] if call[2] is None or not call[2].done()]
        self._waiting = waiting[MAX_CALLS:]
        if not calls:
            return ([], False), 0, b""
        groups = [calls] if self._elsewhere_slot is None else _by_slot(calls)
        whole = bool(self._link.refused) and "EVALSHA" in self._link.refused
        return (groups, whole), len(groups), self._packed(groups, wire)

    def _packed(self, groups: list[list[_Call]], wire: _Wire) -> bytes:
        if self._link.refused and "EVALSHA" in self._link.refused:
            return self._packed_whole(groups, wire)
        return b"".join(
            [
                wire.pack(
                    ("EVALSHA", self._digest, len(calls), *[c[0] for c in calls], *[c[1] for c in calls])
                )
                for calls in groups
            ]
        )

    def _packed_whole(self, groups: list[list[_Call]], wire: _Wire) -> bytes:
        return b"".join([wire.pack(self._whole(calls)) for calls in groups])

    def _whole(self, calls: list[_Call]) -> tuple[Any, ...]:
        # The server remembers the script. EVAL and not SCRIPT LOAD: one right less to have.
        return ("EVAL", self._source, len(calls), *[c[0] for c in calls], *[c[1] for c in calls])

    def _deliver(self, batch: _Groups, answers: list[Any]) -> Exception | None:
        groups, whole = batch
        trouble: Exception | None = None
        again: list[list[_Call]] = []
        refused: list[list[_Call]] = []
        for calls, answer in zip(groups, answers, strict=True):
            if not isinstance(answer, Exception):
                self._decoded(calls, answer)
                continue
            text = str(answer)
            if not whole and (text.startswith("NOSCRIPT") or self._link.forbids_evalsha(text)):
                again.append(calls)  # the server was started anew; it has not run them
            elif self._elsewhere_slot is not None and text.startswith(_ELSEWHERE):
                self._elsewhere_slot(calls)
            elif redis_needs_another_server(text):
                self._link.found_read_only(text)
                refused.append(calls)
            else:
                trouble = trouble or _no_service(text)
                self._fail(calls, _error_of(answer))
        if refused:
            self._not_run(refused, text)
        elif self._link.read_only and trouble is None:
            self._link.found_writable()
        if again and trouble is None:
            self._send_whole(again)
        elif again:
            for calls in again:
                self._fail(calls, RedisUnavailableError(str(trouble)))
        return trouble

    def _decoded(self, calls: list[_Call], answer: Any) -> None:
        try:
            results = self._decode(answer, len(calls))
            if len(results) != len(calls):
                raise ValueError(f"{len(results)} results for {len(calls)} calls")
        except Exception as nonsense:  # whatever it is: the answer is another's word
            reason = nonsense if isinstance(nonsense, ValueError) else type(nonsense).__name__
            self._fail(calls, RedisRefusedError(f"unexpected answer of a script: {reason}"))
        else:
            self._give(calls, results)

    def _send_whole(self, groups: list[list[_Call]]) -> None:
        wire, loop = self._wire, self._loop
        if wire is None or loop is None or wire.lost:
            error = RedisUnavailableError("connection lost")
            for calls in groups:
                self._fail(calls, error)
            return
        timer = loop.call_later(self._link.timeout, self._too_late)
        self._under_way.append(((groups, True), len(groups), timer, False))
        wire.transport.write(self._packed_whole(groups, wire))

    def _not_run(self, groups: list[list[_Call]], text: str) -> None:
        """Calls that a server refused because it is no primary: try them where the name leads now."""
        if self._link.cluster and self._elsewhere_slot is not None:
            for calls in groups:
                self._elsewhere_slot(calls)
        elif self._link.may_look:
            self._link.spawn(self._on_another_server(groups), name="redis-script-elsewhere")
        else:
            for calls in groups:
                self._fail(calls, RedisRefusedError(told(text)))

    async def _on_another_server(self, groups: list[list[_Call]]) -> None:
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
            async with asyncio.timeout(self._link.timeout):
                answers = await self._link.on_another_server(operation)
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

    def _give(self, calls: list[_Call], results: Sequence[Any]) -> None:
        self.calls += len(calls)
        for (_, _, future, unclaimed), result in zip(calls, results, strict=True):
            if future is not None and not future.done():
                future.set_result(result)
            elif unclaimed is not None:
                unclaimed[0](result, *unclaimed[1:])

    def _fail(self, batch: _Groups | list[_Call], error: BackendError) -> None:
        calls = [call for group in batch[0] for call in group] if isinstance(batch, tuple) else batch
        for _, _, future, _ in calls:
            if future is not None:
                _fail_one(future, error)

    async def stop(self) -> None:
        """Close the connection, on whichever event loop it lives; the link stays."""
        self._link._forget(self)
        loop = self._loop
        if loop is not None and not await run_on_loop(loop, self.close):
            self.abandon()


def _by_slot(calls: list[_Call]) -> list[list[_Call]]:
    from redis.crc import key_slot

    groups: dict[int, list[_Call]] = {}
    for call in calls:
        groups.setdefault(key_slot(call[0]), []).append(call)
    return list(groups.values())
