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
from bot.core._shared.masking import one_line
from bot.core._shared.tasks import BackgroundTasks
from bot.core.cache_manager.codec import TOKEN, OtherVersionError
from bot.core.cache_manager.keys import (
    EVERY_VALUE,
    PREFIX,
    compile_glob,
    namespace_prefix,
    redis_key,
    redis_pattern,
)
from bot.core.cache_manager.tags import ANY_TAG, EXTEND, OPEN, decode_tokens, tag_key
from bot.core.redis_link import RedisLink, RedisUnavailableError, Subscription

logger = logging.getLogger(__name__)

SCAN_COUNT = 1000
PIECE_KEYS, PIECE_BYTES = 250, 262_144
"""Keys and bytes that go to Redis in one round trip: more would keep it, and this event loop, from others."""

MAX_MESSAGE = 4_194_304
"""Bytes of a message from another instance; those sent here are smaller."""

AT_ONCE = 32
"""Round trips with changes that are under way at once; each holds a connection."""

RETRY_FIRST, RETRY_LONGEST = 0.1, 5.0
"""Seconds between two attempts to have Redis hear of what it refused."""

MAX_UNSYNCED = 10_000
"""Keys changed while Redis was away that are remembered; beyond that the whole cache is dropped there."""

MARK_MILLISECONDS = 86_400_000

Change = tuple[str, str, list[str]]
"""What happened, to which namespace (or tag), with which keys."""


class L2:
    """Values in Redis. Reads fail as misses; writes that fail are made good when Redis is back."""

    def __init__(self, link: RedisLink, *, compress: bool) -> None:
        self.link = link
        self.compress = compress
        self.channel = f"{PREFIX}:changes:{database_of(link)}"
        """Where instances that share a database tell each other of changes; channels have no number."""
        self._id = secrets.token_bytes(8)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(tuple[bytes, str, str, list[str]]).decode
        self._open = link.batched_script(OPEN, decode_tokens)
        self._under_way: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}
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
        self.clock_offset: float | None = None
        """Seconds to add to the clock given to :meth:`read_clock` for Redis's time; None: not known."""
        self.read_clock_at = 0.0
        """When, by that clock, Redis's time is to be asked for again. The cache's to change."""
        self._accepted: asyncio.Event | None = None
        self.subscription: Subscription | None = None
        self._forget_moves = link.on_move(self._moved)
        self.errors = 0
        self._refusal_said = False
        self.undecodable = 0
        self.malformed = 0
        """Messages on the channel that no instance sends."""

    # Reading.

    def outdated(self, at: bytes) -> bool:
        """Whether what Redis holds under a key is older than what was set or dropped here."""
        return bool(self._unsynced_all) or at in self._unsynced

    def failed(self, error: Exception) -> None:
        """Count a failure; the first that is no outage is logged."""
        self.errors += 1
        if not isinstance(error, RedisUnavailableError) and not self._refusal_said:
            # That Redis is away is said by the link, once; this is another matter.
            self._refusal_said = True
            if isinstance(error, BackendError):
                logger.warning("Redis refused a cache operation: %s", one_line(error))
            else:
                logger.warning("Redis answered a cache operation with nonsense: %s", one_line(error))

    def unreadable(self, error: Exception) -> None:
        """Count bytes that are no value; the first are logged. An earlier version's are a miss."""
        if isinstance(error, OtherVersionError):
            return
        self.undecodable += 1
        if self.undecodable == 1:
            logger.warning("A value in Redis cannot be read and counts as a miss: %s", one_line(error))

    # Tags. See tags.py.

    def ask_tokens(self, tags: Iterable[str]) -> dict[str, asyncio.Future[bytes | None]]:
        """The tokens of tags, asked for with whatever else is read in this turn of the loop."""
        asked = {tag: self.link.reader.get(tag_key(tag)) for tag in tags}
        for future in asked.values():
            future.add_done_callback(_seen)  # it may turn out that nobody needs it
        return asked

    async def tokens(self, asked: dict[str, asyncio.Future[bytes | None]]) -> dict[str, bytes | None]:
        """What :meth:`ask_tokens` asked for; None for a tag that has no token, or none to be trusted."""
        found: dict[str, bytes | None] = {}
        failure: Exception | None = None
        for tag, future in asked.items():
            found[tag] = None
            try:
                token = await future
            except Exception as error:
                failure = failure or error
                continue
            if isinstance(token, bytes) and len(token) == TOKEN and not self.outdated(tag_key(tag)):
                found[tag] = token
        if failure is not None:
            self.failed(failure)
        return found

    async def open_tags(self, tags: Sequence[str], milliseconds: int) -> dict[str, bytes] | None:
        """The token of each tag, made where there is none; None if Redis does not tell them all.

        They live for as long as a value of so many milliseconds, at least. The last is told last.
        """
        if not self.link.available:
            return None
        try:
            argument = b"%d:%s" % (milliseconds, secrets.token_bytes(TOKEN))
            # Those of one turn of the loop travel together, in this order; not so in a cluster.
            apart = [tags[:-1], tags[-1:]] if self.link.cluster else [tags]
            found: list[bytes] = []
            for some in apart:
                found += await asyncio.gather(*[self._open.call(tag_key(tag), argument) for tag in some])
        except Exception as error:
            self.failed(error)
            return None
        tokens = dict(zip(tags, found, strict=True))
        if not self.in_step and any(self.outdated(tag_key(tag)) for tag in tags):
            return None
        return tokens

    # Writing. Each change travels with the message that tells the other instances.

    async def set(
        self,
        namespace: str,
        key: str,
        payload: bytes,
        milliseconds: int,
        tags: Iterable[str] = (),
        told: str = "drop",
    ) -> bool:
        """Store; False if Redis did not take it. ``told`` "load": no change, only loaded."""
        return await self.set_many(namespace, [(key, payload)], milliseconds, tags, told)

    async def set_many(
        self,
        namespace: str,
        items: Sequence[tuple[str, bytes]],
        milliseconds: int,
        tags: Iterable[str] = (),
        told: str = "drop",
    ) -> bool:
        """Store several in one round trip; False if Redis did not take them all.

        The tokens of ``tags``, which the payloads carry, live for as long as the values at least.
        """
        at = [redis_key(namespace, key) for key, _ in items]
        commands: list[tuple[Any, ...]] = [
            ("SET", where, payload, "PX", milliseconds) for where, (_, payload) in zip(at, items, strict=True)
        ]
        commands += [("EVAL", EXTEND, 1, tag_key(tag), milliseconds) for tag in tags]
        message = self._message(told, namespace, [key for key, _ in items])
        commands.append(("PUBLISH", self.channel, message))
        return await self._send(commands, at) is not None

    async def delete(self, namespace: str, keys: Sequence[str]) -> int:
        """Remove; how many there were, 0 if Redis is away."""
        at = [redis_key(namespace, key) for key in keys]
        commands: list[tuple[Any, ...]] = [("UNLINK", key) for key in at]
        commands.append(("PUBLISH", self.channel, self._message("drop", namespace, list(keys))))
        answers = await self._send(commands, at)
        return 0 if answers is None else sum(1 for answer in answers[:-1] if answer == 1)

    async def _send(self, commands: list[tuple[Any, ...]], at: list[bytes]) -> list[Any] | None:
        """The answers; None if Redis did not take it all, which is then made good."""
        try:
            async with self._place():
                answers = await self.link.pipeline(commands)
        except asyncio.CancelledError:
            self._missed(at)  # cancelled half-way: it may hold the old value
            raise
        except Exception as error:
            self._missed(at)
            await self._not_taken(error)
            return None
        if not self.in_step:
            self._heard_of(at)
            if self._accepted is not None:
                self._accepted.set()
        return answers

    def _place(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        place = self._under_way.get(loop)
        if place is None:
            self._under_way = {loop: asyncio.Semaphore(AT_ONCE)}
            place = self._under_way[loop]
        return place

    async def drop_pattern(self, namespace: str, pattern: str, told: str) -> list[str]:
        """Remove the keys of a namespace that match a glob: which they were. O(keys in Redis)."""
        start = len(namespace_prefix(namespace))
        matches = compile_glob(pattern).fullmatch  # the one that L1 asks too
        gone: list[str] = []
        try:
            async for found in self.link.scan(redis_pattern(namespace, pattern), SCAN_COUNT):
                named = {at: _name(at[start:]) for at in found if isinstance(at, bytes)}
                meant = [at for at, key in named.items() if matches(key)]
                await self.link.unlink(meant)
                gone += [named[at] for at in meant]
            await self.link.execute("PUBLISH", self.channel, self._message(told, namespace, [pattern]))
        except asyncio.CancelledError:
            self._missed_all()
            raise
        except Exception as error:
            self._missed_all()
            await self._not_taken(error)
        return gone

    async def drop_values(self) -> None:
        """Remove the values of every namespace. O(keys in Redis)."""
        try:
            async for found in self.link.scan(EVERY_VALUE, SCAN_COUNT):
                await self.link.unlink(found)
            await self.link.execute("PUBLISH", self.channel, self._message("all", "", []))
        except asyncio.CancelledError:
            self._missed_all()
            raise
        except Exception as error:
            self._missed_all()
            await self._not_taken(error)

    async def drop_tags(self, tags: Sequence[str]) -> None:
        """Make every value that carries any of the tags invalid, by taking the tags' tokens away."""
        # First the mark that some tag was dropped: who reads tokens after a load looks at it last.
        mark = tag_key(ANY_TAG)
        first = [("SET", mark, secrets.token_bytes(TOKEN), "PX", MARK_MILLISECONDS)]
        if self.link.cluster:
            try:
                await self._send(first, [mark])
            except asyncio.CancelledError:
                self._missed([tag_key(tag) for tag in tags])
                raise
        for start in range(0, len(tags), PIECE_KEYS):
            piece = tags[start : start + PIECE_KEYS]
            at = [tag_key(tag) for tag in piece]
            missing = [mark, *at]  # a mark that is gone is another one, too
            commands: list[tuple[Any, ...]] = [] if self.link.cluster else list(first)
            commands += [("UNLINK", key) for key in at]
            commands.append(("PUBLISH", self.channel, self._message("tags", "", list(piece))))
            try:
                await self._send(commands, missing)
            except asyncio.CancelledError:
                self._missed([tag_key(tag) for tag in tags[start:]])
                raise

    # Staying in step.

    def _message(self, what: str, name: str, keys: list[str]) -> bytes:
        return self._encode((self._id, what, name, keys))

    def listen(self, on_change: Callable[[Change], None], on_state: Callable[[bool], None]) -> None:
        """Hear of other instances' changes until :meth:`stop`; for the states see ``subscribe``."""

        def heard(raw: bytes) -> None:
            try:
                if len(raw) > MAX_MESSAGE:
                    raise ValueError(f"{len(raw):,} bytes")
                sender, what, name, keys = self._decode(raw)
                if sender != self._id:
                    on_change((what, name, keys))
            except Exception as error:
                # Not a message of ours: what it meant is unknown, so everything may have changed.
                self.malformed += 1
                if self.malformed == 1:
                    logger.warning(
                        "L1 is emptied: a message on %s is no one's: %s",
                        one_line(self.channel),
                        one_line(error),
                    )
                on_change(("all", "", []))

        self.subscription = self.link.listen(self.channel, heard, on_state)

    async def hearing_settled(self) -> None:
        """Wait until the subscription stands or is known not to, if that is not known yet."""
        self.link.here()
        if self.subscription is not None and self.subscription.beginning and not self.link.owner.elsewhere:
            await self.subscription.settled()

    async def tell(self, topic: str, items: list[str]) -> bool:
        """Send the other instances a message of another service's; False if Redis is away."""
        try:
            await self.link.execute("PUBLISH", self.channel, self._message("tell", topic, items))
        except Exception as error:
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

    async def _not_taken(self, error: Exception) -> None:
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
        await self._open.stop()

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
            await self.link.execute("PUBLISH", self.channel, self._message("all", "", []))
        except Exception as error:
            self.failed(error)
            return
        # Only now, and only what did not change again meanwhile: until then no read trusts these keys.
        if everything == self._unsynced_all:
            self._unsynced_all = 0
        self._heard_of([key for key, change in keys.items() if self._unsynced.get(key) == change])

    async def _drop_everything(self) -> None:
        async for found in self.link.scan(f"{PREFIX}:*".encode(), SCAN_COUNT):
            await self.link.unlink(found)

    # Redis's clock.

    async def read_clock(self, now: Callable[[], float]) -> None:
        """Learn how far Redis's time is from ``now``: ages are told by one clock for all instances."""
        before = now()
        try:
            seconds, microseconds = await self.link.execute("TIME")
            told = int(seconds) + int(microseconds) / 1e6
        except Exception as error:
            self.failed(error)
            return
        self.clock_offset = told - (before + now()) / 2


def database_of(link: RedisLink) -> int:
    """The number of the database that a link's URL names."""
    pool = getattr(link.client(), "connection_pool", None)  # a cluster has one database
    number = pool.connection_kwargs.get("db") if pool is not None else 0
    return int(number or 0)


def _seen(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


def _name(key: bytes) -> str:
    try:
        return key.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:  # not ours; another program wrote it
        return key.decode("utf-8", "replace")
