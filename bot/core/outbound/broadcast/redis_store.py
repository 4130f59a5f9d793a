"""The progress of broadcasts in Redis, for bots whose disk does not outlive them.

Recipients are in 4,096 small hashes, which Redis keeps packed. Every step is one script that first makes
sure that this process still owns the broadcast.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bot.core._shared.errors import InvalidArgumentError, shown
from bot.core.outbound.broadcast.errors import BroadcastLostError, BroadcastStoreError, StoreAwayError
from bot.core.outbound.broadcast.outcomes import Outcome
from bot.core.outbound.broadcast.store import REASON_LENGTH, ChatId, Ended, Kept
from bot.core.outbound.models import plain_chat
from bot.core.redis_link import RedisLink, RedisRefusedError, RedisUnavailableError

BUCKETS = 4_096
BUCKETS_READ = 64
"""Buckets read together."""

MAX_UNFINISHED = 100_000
"""Read at most; a run claims a few thousand ahead of what it sends."""

STEP = 250
"""Chats in one script: more would keep other clients of the server waiting."""

_LETTERS = {
    Outcome.SENT: "s", Outcome.BLOCKED: "b", Outcome.DEACTIVATED: "d", Outcome.NOT_FOUND: "n",
    Outcome.FAILED: "f",
}  # fmt: skip
_HERE = Path(__file__).resolve().parent


class RedisStore:
    """One broadcast in Redis."""

    def __init__(self, url: str, name: str) -> None:
        self._name = name
        digest = hashlib.blake2b(name.encode(), digest_size=12).hexdigest()
        self._link = RedisLink.shared(url)
        self._prefix = f"{self._link.root}p4o:broadcast:{{{digest}}}:"
        self._keys = [f"{self._prefix}about", f"{self._prefix}claimed"]
        self._step_source = (_HERE / "broadcast.lua").read_text(encoding="utf-8")
        self._take_source = (_HERE / "take.lua").read_text(encoding="utf-8")
        self._token = ""
        self._lease = 0.0
        self._started_at = 0.0
        self._generation = 0
        self.data_was_lost = False
        """Whether Redis has come back without what was kept."""

    async def _run(self, operation: Any, *, writes: bool = True) -> Any:
        try:
            return await self._link.run(operation, repeatable=True, writes=writes)
        except RedisUnavailableError as error:
            raise StoreAwayError(f"the progress of broadcasts cannot be kept: {error}") from error
        except RedisRefusedError as error:
            # Its memory is full, or it is no primary at the moment: it may take the same later.
            raise StoreAwayError(f"the progress of broadcasts cannot be kept in Redis: {error}") from error

    def _bucket(self, chat: str) -> str:
        return f"{self._prefix}{self._generation}:{zlib.crc32(chat.encode()) % BUCKETS}"

    async def _step(self, step: str, chats: Sequence[ChatId] = (), *arguments: str) -> list[int]:
        names = [str(chat) for chat in chats]
        keys = [*self._keys, *(self._bucket(chat) for chat in names)]
        about = [self._token, repr(self._lease), repr(self._started_at), str(self._generation)]
        answer = await self._run(
            lambda client: client.eval(
                self._step_source, len(keys), *keys, step, *about, *(arguments or names)
            )
        )
        if not isinstance(answer, list) or not answer or not all(isinstance(one, int) for one in answer):
            raise BroadcastStoreError("unexpected answer of Redis to a step of a broadcast")
        if answer[0] == -1:
            raise BroadcastLostError(self._name)
        if answer[0] == 1:
            self.data_was_lost = True
        return answer[1:]

    async def read(self) -> Kept | None:
        fields = await self._run(
            lambda client: client.hmget(
                self._keys[0], "owner", "beat", "lease", "started_at", "finished_at", "generation"
            ),
            writes=False,
        )
        owner, beat, lease, started_at, finished_at, generation = fields
        if owner is None:
            return None
        try:
            self._generation = int(generation)
            return Kept(
                owner.decode("ascii"),
                int(beat),
                _number(lease),
                _number(started_at),
                None if finished_at is None else _number(finished_at),
            )
        except (ValueError, TypeError, OverflowError) as error:
            raise BroadcastStoreError(
                f"the Redis key {self._keys[0]} has data that is not a broadcast"
            ) from error

    async def take(
        self, token: str, lease: float, seen: Kept | None, now: float, *, restart: bool
    ) -> Mapping[Outcome, int] | None:
        owner, beat = ("", 0) if seen is None else seen[:2]
        generation = await self._run(
            lambda client: client.eval(
                self._take_source, 2, *self._keys, owner, beat, token, repr(lease), repr(now), "1" * restart
            )
        )
        if type(generation) is not int:
            raise BroadcastStoreError("unexpected answer of Redis to the start of a broadcast")
        if generation == 0:
            # Perhaps the answer to the first try was lost, and it is ours.
            kept = await self.read()
            if kept is None or kept.owner != token:
                return None
            generation = self._generation
        self._token, self._lease = token, lease
        self._started_at = now if seen is None or restart else seen.started_at
        self._generation = generation
        if restart and generation > 1:
            await self._unlink(generation - 1)
        return await self.counts()

    async def _unlink(self, generation: int) -> None:
        for first in range(0, BUCKETS, STEP):
            keys = [
                f"{self._prefix}{generation}:{bucket}" for bucket in range(first, min(BUCKETS, first + STEP))
            ]
            await self._run(lambda client, keys=keys: client.unlink(*keys))

    async def beat(self) -> None:
        await self._step("beat")

    async def claim(self, chats: Sequence[ChatId]) -> list[ChatId]:
        open_ones: list[ChatId] = []
        for first in range(0, len(chats), STEP):
            part = chats[first : first + STEP]
            places = await self._step("claim", part)
            open_ones += [part[place - 1] for place in places if 1 <= place <= len(part)]
        return open_ones

    async def unfinished(self) -> list[ChatId]:
        members = await self._run(
            lambda client: client.srandmember(self._keys[1], MAX_UNFINISHED), writes=False
        )
        return [chat for chat in map(_chat_of, members) if chat is not None]

    async def record(self, ended: Sequence[Ended]) -> None:
        for first in range(0, len(ended), STEP):
            part = ended[first : first + STEP]
            arguments = [
                word
                for one in part
                for word in (str(one.chat), _LETTERS[one.outcome] + one.reason[:REASON_LENGTH])
            ]
            await self._step("record", [one.chat for one in part], *arguments)

    async def release(self, chats: Sequence[ChatId]) -> None:
        for first in range(0, len(chats), STEP):
            await self._step("release", chats[first : first + STEP])

    async def let_go(self, finished_at: float | None) -> None:
        await self._step("let_go", (), "" if finished_at is None else repr(finished_at))

    async def counts(self) -> Mapping[Outcome, int]:
        fields = await self._run(
            lambda client: client.hmget(self._keys[0], *(f"count_{letter}" for letter in _LETTERS.values())),
            writes=False,
        )
        try:
            return {outcome: int(field or 0) for outcome, field in zip(_LETTERS, fields, strict=True)}
        except ValueError as error:
            raise BroadcastStoreError(
                f"the Redis key {self._keys[0]} has data that is not a broadcast"
            ) from error

    async def page(self, outcome: Outcome, after: str) -> tuple[list[tuple[ChatId, str]], str]:
        if not after and await self.read() is None:
            raise BroadcastStoreError(f"the progress of broadcast {shown(self._name)} is no longer stored")
        first = int(after or 0)
        keys = [f"{self._prefix}{self._generation}:{bucket}" for bucket in range(first, first + BUCKETS_READ)]

        async def read(client: Any) -> Any:
            pipe = client.pipeline(transaction=False)
            for key in keys:
                pipe.hgetall(key)
            return await pipe.execute()

        letter = _LETTERS[outcome].encode()
        found: list[tuple[ChatId, str]] = []
        for bucket in await self._run(read, writes=False):
            for field, value in bucket.items():
                chat = _chat_of(field)
                if value[:1] == letter and chat is not None:
                    found.append((chat, value[1 : 4 * REASON_LENGTH].decode(errors="replace")))
        following = first + BUCKETS_READ
        return found, str(following) if following < BUCKETS else ""

    async def forget(self) -> None:
        if await self.read() is not None:
            await self._unlink(self._generation)
            await self._run(lambda client: client.unlink(*self._keys))

    async def close(self) -> None:
        await self._link.release()


def _chat_of(field: bytes) -> ChatId | None:
    try:
        return plain_chat(field[:1_100].decode())
    except (InvalidArgumentError, UnicodeDecodeError):
        return None  # nothing that was written here


def _number(field: bytes) -> float:
    number = float(field)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number
