"""The second tier: Redis, shared by instances, and the channel on which they tell of changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from bot.core._shared.backoff import exponential
from bot.core._shared.errors import BackendError
from bot.core._shared.tasks import BackgroundTasks
from bot.core.cache_manager.keys import (
    EVERY_VALUE,
    compile_glob,
    namespace_prefix,
    parse_redis_key,
    redis_key,
    redis_pattern,
    tag_key,
)
from bot.core.redis_link import RedisLink, RedisUnavailableError, Subscription

logger = logging.getLogger(__name__)

CHANNEL = "p4c:changes"
SCAN_COUNT = 1000
RETRY_FIRST, RETRY_LONGEST = 0.1, 5.0
"""Seconds between two attempts to have Redis hear of what it refused."""

MAX_UNSYNCED = 10_000
"""Keys changed while Redis was away that are remembered; beyond that the whole cache is dropped there."""

# Takes the members of tags away, in one step that no other client comes between.
_TAKE_TAGS = """
local members = {}
for _, tag in ipairs(KEYS) do
  for _, member in ipairs(redis.call('SMEMBERS', tag)) do members[#members + 1] = member end
  redis.call('DEL', tag)
end
return members
"""

# A tag's set lives as long as the longest-lived of its members.
_ADD_TAG = """
redis.call('SADD', KEYS[1], ARGV[1])
local left = redis.call('PTTL', KEYS[1])
if left < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
"""

Change = tuple[str, str, list[str]]
"""What happened, to which namespace (or tag), with which keys."""


class L2:
    """Values in Redis. Reads fail as misses; writes that fail are made good when Redis is back."""

    def __init__(self, link: RedisLink, *, compress: bool) -> None:
        self.link = link
        self.compress = compress
        self._id = secrets.token_bytes(8)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(tuple[bytes, str, str, list[str]]).decode
        self._take_tags = link.script(_TAKE_TAGS)
        # Keys changed here while Redis did not hear of it. Changed only by _missed and _heard_of.
        self._unsynced: dict[bytes, int] = {}
        self.in_step = True
        """Whether Redis has heard of every change made here."""
        self._changes = 0
        # The change since which any key may be outdated; 0: none. Changed only by _missed* and resync.
        self._unsynced_all = 0
        # At most one: it tries until Redis has heard of everything. Spawned only by _keep_trying.
        self._tasks = BackgroundTasks()
        self._stopped = False
        self._accepted: asyncio.Event | None = None
        self.subscription: Subscription | None = None
        self._forget_moves = link.on_move(self._moved)
        self.errors = 0
        self._refusal_said = False
        self.undecodable = 0

    # Reading.

    def outdated(self, at: bytes) -> bool:
        """Whether what Redis holds under a key is older than what was set or dropped here."""
        return bool(self._unsynced_all) or at in self._unsynced

    def failed(self, error: BackendError) -> None:
        """Count a failure; the first that is no outage is logged."""
        self.errors += 1
        if not isinstance(error, RedisUnavailableError) and not self._refusal_said:
            # That Redis is away is said by the link, once; this is another matter.
            self._refusal_said = True
            logger.warning("Redis refused a cache operation: %s", error)

    def unreadable(self, error: Exception) -> None:
        """Count bytes that are no value; the first are logged."""
        self.undecodable += 1
        if self.undecodable == 1:
            logger.warning("A value in Redis cannot be read and counts as a miss: %s", error)

    # Writing. Each change travels with the message that tells the other instances.

    async def set(
        self,
        namespace: str,
        key: str,
        payload: bytes,
        milliseconds: int,
        tags: Sequence[str] = (),
        told: str = "drop",
    ) -> bool:
        """Store; False if Redis did not take it. ``told`` "load": no change, only loaded."""
        return await self.set_many(namespace, [(key, payload, milliseconds, tags)], told)

    async def set_many(
        self, namespace: str, items: Sequence[tuple[str, bytes, int, Sequence[str]]], told: str = "drop"
    ) -> bool:
        """Store several in one round trip; False if Redis did not take them all."""
        commands: list[tuple[Any, ...]] = []
        for key, payload, milliseconds, tags in items:
            at = redis_key(namespace, key)
            commands.append(("SET", at, payload, "PX", milliseconds))
            commands += [("EVAL", _ADD_TAG, 1, tag_key(tag), at, milliseconds) for tag in tags]
        keys = [key for key, *_ in items]
        commands.append(("PUBLISH", CHANNEL, self._message(told, namespace, keys)))
        return await self._send(commands, [redis_key(namespace, key) for key in keys]) is not None

    async def delete(self, namespace: str, keys: Sequence[str]) -> int:
        """Remove; how many there were, 0 if Redis is away."""
        at = [redis_key(namespace, key) for key in keys]
        commands: list[tuple[Any, ...]] = [("UNLINK", key) for key in at]
        commands.append(("PUBLISH", CHANNEL, self._message("drop", namespace, list(keys))))
        answers = await self._send(commands, at)
        return 0 if answers is None else sum(answers[:-1])

    async def _send(self, commands: list[tuple[Any, ...]], at: list[bytes]) -> list[Any] | None:
        """The answers; None if Redis did not take it all, which is then made good."""
        try:
            answers = await self.link.pipeline(commands)
        except BackendError as error:
            if "WRONGTYPE" in str(error):
                # Another program wrote over a tag: who carried it is not known any more.
                self._missed_all()
            else:
                self._missed(at)
            await self._not_taken(error)
            return None
        except (Exception, asyncio.CancelledError):
            self._missed(at)  # cancelled half-way: it may hold the old value
            raise
        if not self.in_step:
            self._heard_of(at)
            if self._accepted is not None:
                self._accepted.set()
        return answers

    async def drop_pattern(self, namespace: str, pattern: str, told: str) -> list[str]:
        """Remove the keys of a namespace that match a glob: which they were. O(keys in Redis)."""
        start = len(namespace_prefix(namespace))
        matches = compile_glob(pattern).fullmatch  # the one that L1 asks too
        gone: list[str] = []
        try:
            async for found in self.link.scan(redis_pattern(namespace, pattern), SCAN_COUNT):
                named = {at: _name(at[start:]) for at in found}
                meant = [at for at, key in named.items() if matches(key)]
                await self.link.unlink(meant)
                gone += [named[at] for at in meant]
            await self.link.execute("PUBLISH", CHANNEL, self._message(told, namespace, [pattern]))
        except BackendError as error:
            self._missed_all()
            await self._not_taken(error)
        return gone

    async def drop_values(self) -> None:
        """Remove the values of every namespace. O(keys in Redis)."""
        try:
            async for found in self.link.scan(EVERY_VALUE, SCAN_COUNT):
                await self.link.unlink(found)
            await self.link.execute("PUBLISH", CHANNEL, self._message("all", "", []))
        except BackendError as error:
            self._missed_all()
            await self._not_taken(error)

    async def drop_tags(self, tags: Sequence[str]) -> tuple[int, list[tuple[str, str]] | None]:
        """Remove what carries any of the tags: how many there were, and (namespace, key) of each.

        None instead of these if Redis refused to tell.
        """
        by_namespace: dict[str, list[str]] = {}
        gone = 0
        members: list[bytes] | None = None
        try:
            at = [tag_key(tag) for tag in tags]
            # The keys of one script lie on one node; in a cluster those of two tags need not.
            calls = [[key] for key in at] if self.link.cluster else [at]
            taken = await asyncio.gather(*[self._take_tags(keys) for keys in calls])
            members = list(dict.fromkeys(member for found in taken for member in found))
            for start in range(0, len(members), SCAN_COUNT):
                gone += await self.link.unlink(members[start : start + SCAN_COUNT])
            # By key, not by tag: what another instance read from here came without its tags.
            for at_member in members:
                with contextlib.suppress(ValueError):  # not ours; another program wrote into the set
                    namespace, key = parse_redis_key(at_member)
                    by_namespace.setdefault(namespace, []).append(key)
            commands = [
                ("PUBLISH", CHANNEL, self._message("drop", namespace, keys[start : start + SCAN_COUNT]))
                for namespace, keys in by_namespace.items()
                for start in range(0, len(keys), SCAN_COUNT)
            ]
            commands += [("PUBLISH", CHANNEL, self._message("tag", tag, [])) for tag in tags]
            await self.link.pipeline(commands)
        except (Exception, asyncio.CancelledError) as error:
            # Taken away, the members are known here alone; taken half-way, to nobody.
            if members is None:
                self._missed_all()
            else:
                self._missed(members)
            if not isinstance(error, BackendError):
                raise
            await self._not_taken(error)
            if members is None and not isinstance(error, RedisUnavailableError):
                return gone, None
        return gone, [(namespace, key) for namespace, keys in by_namespace.items() for key in keys]

    # Staying in step.

    def _message(self, what: str, name: str, keys: list[str]) -> bytes:
        return self._encode((self._id, what, name, keys))

    def listen(self, on_change: Callable[[Change], None], on_state: Callable[[bool], None]) -> None:
        """Hear of other instances' changes until :meth:`stop`; for the states see ``subscribe``."""

        def heard(raw: bytes) -> None:
            try:
                sender, what, name, keys = self._decode(raw)
            except (msgspec.DecodeError, UnicodeDecodeError):
                # Not a message of ours: what it meant is unknown, so everything may have changed.
                on_change(("all", "", []))
                return
            if sender != self._id:
                on_change((what, name, keys))

        self.subscription = self.link.listen(CHANNEL, heard, on_state)

    async def hearing_settled(self) -> None:
        """Wait until the subscription stands or is known not to, if that is not known yet."""
        self.link.here()
        if self.subscription is not None and self.subscription.beginning and not self.link.owner.elsewhere:
            await self.subscription.settled()

    async def tell(self, topic: str, items: list[str]) -> bool:
        """Send the other instances a message of another service's; False if Redis is away."""
        try:
            await self.link.execute("PUBLISH", CHANNEL, self._message("tell", topic, items))
        except BackendError as error:
            self.failed(error)
            return False
        return True

    def _missed(self, at: Iterable[bytes]) -> None:
        self.in_step = False
        for key in at:
            self._changes += 1
            if len(self._unsynced) >= MAX_UNSYNCED:
                self._unsynced_all = self._changes
                break
            self._unsynced[key] = self._changes
        self._keep_trying()

    def _missed_all(self) -> None:
        self.in_step = False
        self._changes += 1
        self._unsynced_all = self._changes
        self._keep_trying()

    def _heard_of(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._unsynced.pop(key, None)
        self.in_step = not self._unsynced and not self._unsynced_all

    async def _not_taken(self, error: BackendError) -> None:
        self.failed(error)
        if not isinstance(error, RedisUnavailableError):
            # Refused, as by a full server, which still takes deletions: the old value must go.
            await self.resync()

    def _moved(self) -> None:
        # The tasks of the event loop before have ended with it.
        self._tasks.abandon()
        if not self.in_step:
            self._keep_trying()

    def _keep_trying(self) -> None:
        if not self._stopped and not self._tasks:
            self._tasks.spawn(self._until_in_step(), name="cache-make-good")

    async def _until_in_step(self) -> None:
        """What is away tells of its return; what refuses does not, so it is asked again and again."""
        accepted = self._accepted = asyncio.Event()
        attempts = 0
        while not self.in_step:
            attempts += 1
            accepted.clear()
            # At least this long, since some servers take one command and refuse another for good.
            await asyncio.sleep(RETRY_FIRST)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(exponential(attempts, RETRY_FIRST, RETRY_LONGEST)):
                    await accepted.wait()
            if self.link.complete:
                await self.resync()

    async def stop(self) -> None:
        """Try no more."""
        self._stopped = True
        self._forget_moves()
        if self.subscription is not None:
            await self.subscription.stop()
        await self._tasks.stop()

    async def resync(self) -> None:
        """Drop in Redis what was changed here while it did not hear of it."""
        keys, everything = dict(self._unsynced), self._unsynced_all
        if not keys and not everything:
            return
        try:
            if everything:
                await self._drop_everything()
            at = list(keys)
            for start in range(0, len(at), SCAN_COUNT):
                part = [key for key in at[start : start + SCAN_COUNT] if key in self._unsynced]
                await self.link.unlink(part)
            await self.link.execute("PUBLISH", CHANNEL, self._message("all", "", []))
        except BackendError as error:
            self.failed(error)
            return
        # Only now, and only what did not change again meanwhile: until then no read trusts these keys.
        if everything == self._unsynced_all:
            self._unsynced_all = 0
        self._heard_of([key for key, change in keys.items() if self._unsynced.get(key) == change])

    async def _drop_everything(self) -> None:
        async for found in self.link.scan(b"p4c:*", SCAN_COUNT):
            await self.link.unlink(found)


def _name(key: bytes) -> str:
    try:
        return key.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # not ours; another program wrote it
        return key.decode("utf-8", "replace")
