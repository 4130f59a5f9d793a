"""Commands on one key in Redis that are decided there: touch, incr and add, and what a key's state is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from bot.core._shared.isolation import Frozen
from bot.core._shared.tasks import BackgroundTasks
from bot.core._shared.values import thaw_body
from bot.core.cache_manager import codec
from bot.core.cache_manager.backplane import Backplane
from bot.core.cache_manager.codec import HEADER_SIZE, read_header, read_notes
from bot.core.cache_manager.errors import CorruptPayloadError
from bot.core.cache_manager.failures import Failures
from bot.core.cache_manager.keys import redis_key
from bot.core.cache_manager.l2 import L2
from bot.core.cache_manager.large_values import unpacked
from bot.core.cache_manager.local import LocalTier
from bot.core.cache_manager.redis_time import RedisTime
from bot.core.cache_manager.resync import Resync
from bot.core.cache_manager.tags import same
from bot.core.redis_link import RedisLink, RedisRefusedError, RedisUnavailableError

MOST_LOOKS = 10
"""Times that the tags of a value may change while a command looks at them."""

_UNREADABLE = 64
"""Bytes by which a value is known again whose notes cannot be read."""


@cache
def lua(name: str) -> str:
    """The text of a script beside this module."""
    return (files(__package__) / f"{name}.lua").read_text(encoding="ascii")


class Answer(NamedTuple):
    """What Redis decided."""

    kind: str
    """"done", or one of the refusals that key_command.lua names."""
    number: int = 0


class SharedKeys:
    """Commands on one key in Redis, atomic over all instances. No call raises for Redis.

    A command that began is carried to its end, also if its caller is cancelled: then L1 of every instance
    hears of it. The answer None means that Redis did not decide: it is unreachable, refuses, or has not yet
    every earlier change of this instance.
    """

    def __init__(
        self,
        link: RedisLink,
        local: LocalTier,
        l2: L2,
        backplane: Backplane,
        resync: Resync,
        time: RedisTime,
        failures: Failures,
        tasks: BackgroundTasks,
    ) -> None:
        self._link = link
        self._root = link.root_bytes
        self._local = local
        self._l2 = l2
        self._backplane = backplane
        self._resync = resync
        self._time = time
        self._failures = failures
        self._tasks = tasks
        self._script = link.script(lua("key_command"))

    # Reading.

    async def expires_in(self, namespace: str, key: str) -> float | None:
        """Seconds that the value in Redis lives, 0.0 if there is none; None if Redis does not answer."""
        at = redis_key(namespace, key, self._root)
        try:
            raw = await self._link.reader.get(at)
        except Exception as error:
            self._failures.failed(error)
            return None
        if raw is None or self._resync.outdated(at):
            return 0.0
        try:
            flags, expires_at, _ = read_header(raw)
            body, _, tags = read_notes(raw, flags)
            thaw_body(await unpacked(raw, body))  # what get could not read is not there
        except Exception as error:
            self._failures.unreadable(error)
            return 0.0
        if tags and not same(tags, await self._l2.tokens(self._l2.ask_tokens(tags))):
            return 0.0
        return max(0.0, expires_at - self._time.now())

    # Changing.

    async def touch(self, namespace: str, key: str, ttl: float) -> Answer | None:
        """Let a value live for ``ttl`` seconds from now on."""
        return await self._carried(self._touch(namespace, key, ttl))

    async def incr(self, namespace: str, key: str, by: int, ttl: float) -> Answer | None:
        """Add to an integer; what is not there counts as 0, and lives for ``ttl`` seconds then."""
        return await self._carried(self._incr(namespace, key, by, ttl))

    async def add(self, namespace: str, key: str, payload: bytes, kept: Frozen, ttl: float) -> Answer | None:
        """Store a value if there is none."""
        return await self._carried(self._add(namespace, key, payload, kept, ttl))

    async def _touch(self, namespace: str, key: str, ttl: float) -> Answer | None:
        # The value stays what it is, so loads in progress elsewhere need not be in vain.
        begun = self._local.changes.count
        answer = await self._decided("touch", namespace, key, ttl, told="load")
        if answer is not None and self._local.changes.since(begun, namespace, key, ()):
            self._local.delete(namespace, key)
        elif answer is not None and answer.kind == "done":
            self._local.touch(namespace, key, ttl)
        return answer

    async def _incr(self, namespace: str, key: str, by: int, ttl: float) -> Answer | None:
        answer = await self._decided("incr", namespace, key, ttl, b"%d" % by)
        if answer is not None:
            # Of several answers under way nobody knows the order: the next reader asks Redis.
            self._local.delete(namespace, key)
        return answer

    async def _add(self, namespace: str, key: str, payload: bytes, kept: Frozen, ttl: float) -> Answer | None:
        begun = self._local.changes.count
        answer = await self._decided("add", namespace, key, ttl, payload)
        if answer is not None and answer.kind == "done":
            if self._local.changes.since(begun, namespace, key, ()):
                self._local.delete(namespace, key)
            else:
                self._local.store(namespace, key, kept, ttl)
        return answer

    async def _decided(
        self, what: str, namespace: str, key: str, ttl: float, argument: bytes = b"", told: str = "drop"
    ) -> Answer | None:
        at = redis_key(namespace, key, self._root)
        if not self._link.available:
            if self._link.probe_due:  # by a task, so that no caller waits for it
                self._tasks.spawn(self._link.probe(), name="cache-probe")
            return None
        if self._resync.outdated(at):
            await self._resync.run()
            if self._resync.outdated(at):
                return None
        _, channel, message = self._backplane.message(told, namespace, [key])
        milliseconds = max(1, int(ttl * 1000))
        notes, in_force = b"", False
        try:
            for _ in range(MOST_LOOKS):
                given = (what, milliseconds, notes, int(in_force), argument, codec.VERSION, channel, message)
                kind, *rest = await self._script((at,), given)
                if kind == b"look":
                    notes, in_force = await self._judged(rest[0], milliseconds)
                    continue
                if kind == b"done" and (trouble := rest[3].decode("utf-8", "replace")):
                    text = trouble if trouble.startswith("NOPERM") else f"NOPERM {trouble}"
                    self._link.parts.rights.tolerates(("PUBLISH", channel), text)
                # After "bound" the number is the first that follows, after "done" the second.
                number = int({b"done": rest[1:2], b"bound": rest[0:1]}.get(kind, [0])[0] or 0)
                return Answer(str(kind, "ascii"), number)
            raise ValueError(f"the tags of a value changed {MOST_LOOKS} times during one command")
        except RedisRefusedError as error:
            self._failures.failed(error)  # nothing was changed
            return None
        except BaseException as error:
            # Whether it was run is unknown: if it was, perhaps nobody was told.
            self._resync.untold()
            if self._link.available:  # else L1 is all there is, and is emptied when Redis is back
                self._local.delete(namespace, key)
            if not isinstance(error, Exception):
                raise
            self._failures.failed(error)
            return None

    async def _judged(self, payload: bytes, milliseconds: int) -> tuple[bytes, bool]:
        """The notes of a payload as key_command.lua knows them, and whether they are in force."""
        try:
            flags, _, _ = read_header(payload)
            body, keep, tags = read_notes(payload, flags)
        except CorruptPayloadError:
            # To every reader it is a miss.
            return payload[1:2] + payload[HEADER_SIZE : HEADER_SIZE + _UNREADABLE], False
        notes = payload[1:2] + payload[HEADER_SIZE : len(payload) - len(body)]
        if not tags:
            return notes, True
        # The tokens must live as long as the value will, or it would be a miss before its time.
        tokens = await self._l2.open_tags(tuple(tags), milliseconds + int(keep * 1000))
        if tokens is None:
            raise RedisUnavailableError("the tags of a value could not be read")
        return notes, same(tags, dict(tokens))

    async def _carried(self, work: Coroutine[Any, Any, Answer | None]) -> Answer | None:
        task = self._tasks.spawn(work, name="cache-key-command")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if task.cancelled() and current is not None and not current.cancelling():
                return None  # Redis was left meanwhile, and this caller is not cancelled
            raise
