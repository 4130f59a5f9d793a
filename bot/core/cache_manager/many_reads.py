"""Reads of many keys from Redis: one command for some hundred, and no task for each key."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from bot.core._shared.values import TINY, thaw_body, thaw_tiny
from bot.core.cache_manager.codec import HEADER_SIZE, LARGE, read_header, read_notes, read_plain
from bot.core.cache_manager.keys import redis_keys
from bot.core.cache_manager.large_values import unpacked
from bot.core.cache_manager.models import ABSENT
from bot.core.cache_manager.shared import SharedTier
from bot.core.cache_manager.tags import same

MANY = 64
"""Keys from which a command of their own costs less than a place in the next batch of reads each."""

PIECE = 500
"""Keys of one MGET: more would keep other clients of the server waiting."""

SLICE_BYTES = 131_072
"""Bytes that are decoded before other tasks run."""


class _Asked(NamedTuple):
    """A piece of the keys, and the answer to come."""

    keys: Sequence[str]
    at: list[bytes]
    begun: int
    """The count of the change log when it was asked for."""
    answer: asyncio.Task[Any]


class _Noted(NamedTuple):
    """A value with tags, compressed, kept beyond its expiry, or large."""

    position: int
    raw: bytes
    body: bytes
    expires_at: float
    load_seconds: float
    keep: float
    tags: dict[str, bytes]


class ManyReads:
    """Reads of many keys through one tier: while some are decoded, the next ones are under way.

    A caller that is cancelled takes its commands back. What is read is kept in L1 as by ``SharedTier.read``.
    """

    def __init__(self, tier: SharedTier) -> None:
        self._tier = tier

    async def read(self, namespace: str, keys: Sequence[str]) -> list[Any]:
        """The value in Redis of each key, ABSENT where there is none; not in a cluster."""
        tier = self._tier
        if not tier.backplane.hearing:
            await tier.backplane.settled()
        found: list[Any] = []
        asked: _Asked | None = self._ask(namespace, keys[:PIECE])
        try:
            start = 0
            while asked is not None:
                await asyncio.wait([asked.answer])
                start += PIECE
                come, asked = asked, None
                if start < len(keys) and not tier.left:
                    asked = self._ask(namespace, keys[start : start + PIECE])
                found += await self._opened(namespace, come)
        finally:
            if asked is not None and not asked.answer.done():
                asked.answer.cancel()
                await asyncio.wait([asked.answer])
        return found + [ABSENT] * (len(keys) - len(found))

    def _ask(self, namespace: str, keys: Sequence[str]) -> _Asked:
        link = self._tier.link
        at = redis_keys(namespace, keys, link.root_bytes)
        answer = asyncio.ensure_future(link.pipeline((("MGET", *at),)))
        answer.add_done_callback(_seen)  # nobody asks for it if the caller is cancelled
        return _Asked(keys, at, self._tier.changes.count, answer)

    async def _opened(self, namespace: str, asked: _Asked) -> list[Any]:
        """The values of an answer that has come."""
        tier = self._tier
        keys = asked.keys
        try:
            (raws,) = asked.answer.result()
            if not isinstance(raws, list) or len(raws) != len(keys):
                raise ValueError("unexpected answer of Redis to MGET")
        except Exception as error:
            tier.failures.failed(error)
            found = [tier.local.find(key, (namespace,)) for key in keys]
            tier.counters.l2_misses += found.count(ABSENT)
            return found
        if not tier.resync.in_step:
            outdated = tier.resync.outdated
            raws = [None if outdated(at) else raw for at, raw in zip(asked.at, raws, strict=True)]
        found = [ABSENT] * len(keys)
        if self._decode_alike(namespace, asked, raws, found):
            return found
        noted: list[_Noted] = []
        position = 0
        while position < len(raws):
            if position:
                await asyncio.sleep(0)
            position = self._decode(namespace, asked, raws, position, found, noted)
        if noted:
            await self._decode_noted(namespace, asked, noted, found)
        tier.counters.l2_misses += found.count(ABSENT)
        return found

    def _decode_alike(self, namespace: str, asked: _Asked, raws: list[Any], found: list[Any]) -> bool:
        """Decode all at once, if they are small and plain; else nothing is done."""
        tier = self._tier
        keys: Sequence[str] = asked.keys
        there: Sequence[int] = [position for position, raw in enumerate(raws) if raw is not None]
        if not there:
            tier.counters.l2_misses += len(raws)
            return True
        if len(there) < len(raws):
            keys = [keys[position] for position in there]
            raws = [raws[position] for position in there]
        try:
            sizes = list(map(len, raws))
            plain = read_plain(raws) if sum(sizes) <= SLICE_BYTES else None
            if plain is None:
                return False
            bodies, expiries, load_seconds = plain
            values = list(map(thaw_tiny if max(sizes) <= HEADER_SIZE + TINY else thaw_body, bodies))
        except Exception:
            return False  # untrusted bytes: each is looked at alone
        if len(there) == len(found):
            found[:] = values
        else:
            for position, value in zip(there, values, strict=True):
                found[position] = value
        tier.counters.l2_hits += len(there)
        tier.counters.l2_misses += len(found) - len(there)
        store, keep, begun = tier.l1.store, tier.keep, asked.begun
        if not store.has_room():
            for at in store.admitted(namespace, keys):
                keep(namespace, keys[at], values[at], bodies[at], begun, expiries[at], load_seconds[at])
            return True
        for key, value, body, expires_at, took in zip(
            keys, values, bodies, expiries, load_seconds, strict=True
        ):
            if store.admits(namespace, key):
                keep(namespace, key, value, body, begun, expires_at, took)
        return True

    def _decode(
        self,
        namespace: str,
        asked: _Asked,
        raws: list[Any],
        position: int,
        found: list[Any],
        noted: list[_Noted],
    ) -> int:
        """Decode a slice of the values; returns where it ends.

        Those with notes, and large ones, are put into ``noted``.
        """
        tier = self._tier
        admits, keep = tier.l1.store.admits, tier.keep
        hits = size = 0
        for index in range(position, len(raws)):
            raw = raws[index]
            if raw is None:
                continue
            try:
                flags, expires_at, load_seconds = read_header(raw)
                if flags or len(raw) > LARGE:
                    body, kept, tags = read_notes(raw, flags)
                    noted.append(_Noted(index, raw, body, expires_at, load_seconds, kept, tags))
                    continue
                body = raw[HEADER_SIZE:]
                value = thaw_tiny(body) if len(body) <= TINY else thaw_body(body)
            except Exception as error:
                tier.failures.unreadable(error)  # untrusted bytes
                continue
            found[index] = value
            hits += 1
            key = asked.keys[index]
            if admits(namespace, key):
                keep(namespace, key, value, body, asked.begun, expires_at, load_seconds)
            size += len(body)
            if size >= SLICE_BYTES:
                break
        tier.counters.l2_hits += hits
        return index + 1

    async def _decode_noted(
        self, namespace: str, asked: _Asked, noted: list[_Noted], found: list[Any]
    ) -> None:
        tier = self._tier
        every_tag = dict.fromkeys(tag for one in noted for tag in one.tags)
        tokens = await tier.l2.tokens(tier.l2.ask_tokens(every_tag)) if every_tag else {}
        size = 0
        for one in noted:
            if size >= SLICE_BYTES:
                size = 0
                await asyncio.sleep(0)
            if one.tags and not same(one.tags, tokens):
                continue
            if one.keep and tier.time.now() >= one.expires_at:
                continue
            try:
                body = await unpacked(one.raw, one.body)
                value = thaw_body(body) if len(body) <= LARGE else await tier.large.thawed(body)
            except Exception as error:
                tier.failures.unreadable(error)  # untrusted bytes
                continue
            size += len(body)
            found[one.position] = value
            tier.counters.l2_hits += 1
            key = asked.keys[one.position]
            if tier.l1.store.admits(namespace, key):
                tier.keep(
                    namespace, key, value, body, asked.begun, one.expires_at, one.load_seconds,
                    one.keep, one.tags,
                )  # fmt: skip


def _seen(answer: asyncio.Task[Any]) -> None:
    if not answer.cancelled():
        answer.exception()
