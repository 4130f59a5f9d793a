"""The channel on which instances that share a Redis tell each other of changes."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

import msgspec

from bot.core._shared.masking import one_line
from bot.core.cache_manager.failures import Failures
from bot.core.cache_manager.keys import channel_of
from bot.core.cache_manager.local import LocalTier
from bot.core.redis_link import RedisLink, Subscription

logger = logging.getLogger(__name__)

MAX_MESSAGE = 4_194_304
"""Bytes of a message from another instance; those sent here are smaller."""

Listener = Callable[[list[str] | None], None]
"""Takes the items of a message, or None when messages may have been missed."""


class Backplane:
    """Tells the other instances of changes, and applies theirs to ``local``.

    A message is (id of the sender, what happened, namespace or tag or topic, keys or items). What happened is
    one of: "drop" and "load" of keys, "tags", "pattern", "clear", "all", which :meth:`LocalTier.apply` knows,
    "tell", a message of another service to its ``listeners``, and "lost": some of these did not arrive.
    """

    def __init__(
        self,
        link: RedisLink,
        local: LocalTier,
        listeners: dict[str, Listener],
        on_hearing: Callable[[], None],
        failures: Failures,
    ) -> None:
        """``on_hearing`` is called whenever :attr:`hearing` was set."""
        self._link = link
        self._local = local
        self._listeners = listeners
        self._on_hearing = on_hearing
        self._failures = failures
        self._id = secrets.token_bytes(8)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(tuple[bytes, str, str, list[str]]).decode
        self.channel = channel_of(database_of(link), link.root)
        """The channel of the instances that share a database. Redis channels span databases, so it names the
        number.
        """
        self.subscription: Subscription | None = None
        self.hearing = False
        """Whether the subscription is established; until then L1 may be stale. Changed only by _state."""
        self.malformed = 0
        """How many messages were malformed."""

    def message(self, what: str, name: str, keys: list[str]) -> tuple[str, str, bytes]:
        """The command that tells the other instances."""
        return ("PUBLISH", self.channel, self._encode((self._id, what, name, keys)))

    def start(self) -> None:
        """Receive other instances' changes until :meth:`stop`."""
        self.subscription = self._link.listen(self.channel, self._heard, self._state)

    async def settled(self) -> None:
        """Wait until the subscription is established or has failed."""
        self._link.here()
        if self.subscription is not None and self.subscription.beginning and not self._link.owner.elsewhere:
            await self.subscription.settled()

    async def tell(self, topic: str, items: list[str]) -> bool:
        """Send the other instances a message of another service; False if Redis is unreachable."""
        try:
            await self._link.execute(*self.message("tell", topic, items))
        except Exception as error:
            self._failures.failed(error)
            return False
        return True

    def missed(self) -> None:
        """Messages may have been missed, so anything may have changed."""
        self._local.forget()
        for listener in self._listeners.values():
            listener(None)

    async def stop(self) -> None:
        """Stop receiving."""
        if self.subscription is not None:
            await self.subscription.stop()

    def _heard(self, raw: bytes) -> None:
        try:
            if len(raw) > MAX_MESSAGE:
                raise ValueError(f"{len(raw):,} bytes")
            sender, what, name, keys = self._decode(raw)
            if sender == self._id:
                return
            if what != "tell" and what != "lost":
                self._local.apply(what, name, keys)
            elif (listener := self._listeners.get(name)) is not None:
                listener(keys if what == "tell" else None)
        except Exception as error:
            # Not a message of an instance. Its meaning is unknown, so everything may have changed.
            self.malformed += 1
            if self.malformed == 1:
                logger.warning(
                    "L1 is emptied, because a message on %s is malformed: %s",
                    one_line(self.channel),
                    one_line(error),
                )
            self._local.forget()

    def _state(self, stands: bool) -> None:
        if stands:
            self.missed()
        self.hearing = stands
        self._on_hearing()


def database_of(link: RedisLink) -> int:
    """The number of the database that a link's URL names."""
    pool = getattr(link.client(), "connection_pool", None)  # a cluster has one database
    number = pool.connection_kwargs.get("db") if pool is not None else 0
    return int(number or 0)
