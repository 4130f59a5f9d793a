"""The commands of the second tier: values and the tokens of tags in Redis."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from bot.core.cache_manager.backplane import Backplane
from bot.core.cache_manager.codec import TOKEN
from bot.core.cache_manager.failures import Failures
from bot.core.cache_manager.keys import (
    compile_glob,
    every_value,
    namespace_prefix,
    redis_key,
    redis_pattern,
    tag_key,
)
from bot.core.cache_manager.resync import SCAN_COUNT, Resync
from bot.core.cache_manager.tags import ANY_TAG, EXTEND, OPEN, decode_tokens
from bot.core.redis_link import RedisLink, RedisUnavailableError

PIECE_KEYS, PIECE_BYTES = 250, 262_144
"""Keys and bytes that go to Redis in one round trip: more would block it, and this event loop, for others."""

# Stores a value as long as the lease that it was loaded under has this owner's token.
FENCED = """
if redis.pcall('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""

MARK_MILLISECONDS = 86_400_000


class L2:
    """Writes of values, and reads and writes of tags. No call raises for Redis.

    Each change is sent together with the message to the other instances. A change that Redis did not accept,
    or may not have accepted, is given to ``resync``, which repeats it later.
    """

    def __init__(self, link: RedisLink, backplane: Backplane, resync: Resync, failures: Failures) -> None:
        self.link = link
        self._root = link.root_bytes
        self._backplane = backplane
        self._resync = resync
        self._failures = failures
        self._open = link.batched_script(OPEN, decode_tokens)

    # Tags. See tags.py.

    def ask_tokens(self, tags: Iterable[str]) -> dict[str, asyncio.Future[bytes | None]]:
        """The tokens of tags, read together with everything else that is read in this tick of the loop."""
        asked = {tag: self.link.reader.get(tag_key(tag, self._root)) for tag in tags}
        for future in asked.values():
            future.add_done_callback(_seen)  # the result may not be needed after all
        return asked

    async def tokens(self, asked: dict[str, asyncio.Future[bytes | None]]) -> dict[str, bytes | None]:
        """The answers to :meth:`ask_tokens`; None for a tag without a token, or with one that is not to be
        trusted.
        """
        found: dict[str, bytes | None] = {}
        failure: Exception | None = None
        for tag, future in asked.items():
            found[tag] = None
            try:
                token = await future
            except Exception as error:
                failure = failure or error
                continue
            if (
                isinstance(token, bytes)
                and len(token) == TOKEN
                and not self._resync.outdated(tag_key(tag, self._root))
            ):
                found[tag] = token
        if failure is not None:
            self._failures.failed(failure)
        return found

    async def open_tags(self, tags: Sequence[str], milliseconds: int) -> dict[str, bytes] | None:
        """The token of each tag, created if there is none; None if Redis does not answer for all of them.

        They live at least as long as a value of so many milliseconds. The last tag's token is read last.
        """
        if not self.link.available:
            return None
        try:
            argument = b"%d:%s" % (milliseconds, secrets.token_bytes(TOKEN))
            # Those of one tick of the loop are sent together, in this order; but not in a cluster.
            apart = [tags[:-1], tags[-1:]] if self.link.cluster else [tags]
            found: list[bytes] = []
            for some in apart:
                found += await asyncio.gather(
                    *[self._open.call(tag_key(tag, self._root), argument) for tag in some]
                )
        except Exception as error:
            self._failures.failed(error)
            return None
        tokens = dict(zip(tags, found, strict=True))
        if not self._resync.in_step and any(self._resync.outdated(tag_key(tag, self._root)) for tag in tags):
            return None
        return tokens

    # Writing.

    async def set_many(
        self,
        namespace: str,
        items: Sequence[tuple[str, bytes]],
        milliseconds: int,
        tags: Iterable[str] = (),
        told: str = "drop",
    ) -> bool:
        """Store them in one round trip; False if Redis did not accept them all.

        ``told``: what the other instances are told: "drop", or "load" for a value that was only loaded, not
        changed. The tokens of ``tags``, which the payloads carry, live for as long as the values at least.
        """
        at = [redis_key(namespace, key, self._root) for key, _ in items]
        commands: list[tuple[Any, ...]] = [
            ("SET", where, payload, "PX", milliseconds) for where, (_, payload) in zip(at, items, strict=True)
        ]
        commands += [("EVAL", EXTEND, 1, tag_key(tag, self._root), milliseconds) for tag in tags]
        commands.append(self._backplane.message(told, namespace, [key for key, _ in items]))
        return await self._send(commands, at) is not None

    async def set_fenced(
        self,
        namespace: str,
        key: str,
        payload: bytes,
        milliseconds: int,
        tags: Iterable[str],
        fence: tuple[bytes, str],
    ) -> bool | None:
        """Store a value that was loaded under a lease; False if another owner has the lease by now.

        None if Redis did not accept it. ``fence`` is the lease's key and this owner's token.
        """
        at = redis_key(namespace, key, self._root)
        lease, token = fence
        commands: list[tuple[Any, ...]] = [("EVAL", FENCED, 2, at, lease, token, payload, milliseconds)]
        commands += [("EVAL", EXTEND, 1, tag_key(tag, self._root), milliseconds) for tag in tags]
        commands.append(self._backplane.message("load", namespace, [key]))
        answers = await self._send(commands, [at])
        return None if answers is None else answers[0] == 1

    async def delete(self, namespace: str, keys: Sequence[str]) -> int:
        """Remove keys; returns how many there were, 0 if Redis is unreachable."""
        at = [redis_key(namespace, key, self._root) for key in keys]
        commands: list[tuple[Any, ...]] = [("UNLINK", key) for key in at]
        commands.append(self._backplane.message("drop", namespace, list(keys)))
        answers = await self._send(commands, at)
        return 0 if answers is None else sum(1 for answer in answers[:-1] if answer == 1)

    async def _send(self, commands: list[tuple[Any, ...]], at: list[bytes]) -> list[Any] | None:
        """The answers; None if Redis did not accept everything, which is then repeated later."""
        try:
            answers = await self.link.pipeline(commands)
        except asyncio.CancelledError:
            self._resync.missed(at)  # cancelled half-way: Redis may still hold the old value
            raise
        except Exception as error:
            self._resync.missed(at)
            await self._not_taken(error)
            return None
        if not self._resync.in_step:
            self._resync.taken(at)
        return answers

    async def drop_pattern(self, namespace: str, pattern: str, told: str) -> list[str]:
        """Remove the keys of a namespace that match a glob; returns them. O(keys in Redis)."""
        start = len(namespace_prefix(namespace, self._root))
        matches = compile_glob(pattern).fullmatch  # the one that L1 asks too
        gone: list[str] = []
        try:
            async for found in self.link.scan(redis_pattern(namespace, pattern, self._root), SCAN_COUNT):
                named = {at: _name(at[start:]) for at in found if isinstance(at, bytes)}
                meant = [at for at, key in named.items() if matches(key)]
                await self.link.unlink(meant)
                gone += [named[at] for at in meant]
            await self.link.execute(*self._backplane.message(told, namespace, [pattern]))
        except asyncio.CancelledError:
            self._resync.missed_all()
            raise
        except Exception as error:
            self._resync.missed_all()
            await self._not_taken(error)
        return gone

    async def drop_values(self) -> None:
        """Remove the values of every namespace. O(keys in Redis)."""
        try:
            async for found in self.link.scan(every_value(self._root), SCAN_COUNT):
                await self.link.unlink(found)
            await self.link.execute(*self._backplane.message("all", "", []))
        except asyncio.CancelledError:
            self._resync.missed_all()
            raise
        except Exception as error:
            self._resync.missed_all()
            await self._not_taken(error)

    async def drop_tags(self, tags: Sequence[str]) -> None:
        """Invalidate every value with any of the tags, by deleting the tags' tokens."""
        # The mark that some tag was dropped comes first, since a reader of tokens after a load reads it last.
        mark = tag_key(ANY_TAG, self._root)
        first = [("SET", mark, secrets.token_bytes(TOKEN), "PX", MARK_MILLISECONDS)]
        if self.link.cluster:
            try:
                await self._send(first, [mark])
            except asyncio.CancelledError:
                self._resync.missed([tag_key(tag, self._root) for tag in tags])
                raise
        for start in range(0, len(tags), PIECE_KEYS):
            piece = tags[start : start + PIECE_KEYS]
            at = [tag_key(tag, self._root) for tag in piece]
            missing = [mark, *at]  # a mark that is missing counts as changed, too
            commands: list[tuple[Any, ...]] = [] if self.link.cluster else list(first)
            commands += [("UNLINK", key) for key in at]
            commands.append(self._backplane.message("tags", "", list(piece)))
            try:
                await self._send(commands, missing)
            except asyncio.CancelledError:
                self._resync.missed([tag_key(tag, self._root) for tag in tags[start:]])
                raise

    async def _not_taken(self, error: Exception) -> None:
        self._failures.failed(error)
        if not isinstance(error, RedisUnavailableError):
            # Refused, as by a full server, which still accepts deletions: the old value must go.
            await self._resync.run()

    async def stop(self) -> None:
        """Free what is kept for commands."""
        await self._open.stop()


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _name(key: bytes) -> str:
    try:
        return key.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # not ours; another program wrote it
        return key.decode("utf-8", "replace")
