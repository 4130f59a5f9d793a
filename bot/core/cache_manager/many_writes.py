"""Writes of many keys to both tiers, some hundred in one round trip."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from bot.core._shared.isolation import Frozen, freeze
from bot.core.cache_manager.changes import ChangesSince
from bot.core.cache_manager.codec import LARGE
from bot.core.cache_manager.l2 import PIECE_BYTES, PIECE_KEYS
from bot.core.cache_manager.models import Loaded
from bot.core.cache_manager.shared import SharedTier, frozen_as


class ManyWrites:
    """Writes of many keys through one tier. A large value has a round trip of its own."""

    def __init__(self, tier: SharedTier) -> None:
        self._tier = tier

    async def set_piece(
        self,
        namespace: str,
        pairs: Sequence[tuple[str, Any]],
        start: int,
        ttl: float,
        tags: tuple[str, ...],
        tokens: dict[str, bytes] | None,
    ) -> tuple[int, bool]:
        """Set as many pairs, from ``start``, as go in one round trip: how many, and whether L2 has them."""
        tier = self._tier
        sent: list[tuple[str, bytes]] = []
        left_out: list[str] = []
        frozen: list[tuple[str, Frozen]] = []
        large: Callable[[], Awaitable[bool]] | None = None
        size = 0
        for key, value in pairs[start : start + PIECE_KEYS]:
            body = tier.body_of(value)
            one = freeze(value) if body is None else frozen_as(value, body)
            if body is not None and len(body) > LARGE and tier.pack is not None:
                large = partial(tier.store, namespace, key, value, one, ttl, tags, body=body)
                break
            frozen.append((key, one))
            if body is None or (tags and tokens is None):
                left_out.append(key)
            else:
                sent.append((key, tier.payload_of(body, ttl, tags=tokens)))
                size += len(sent[-1][1])
            if size >= PIECE_BYTES:
                break
        for key, one in frozen:
            tier.local.store(namespace, key, one, ttl, tags)
            if tier.large.packing:
                tier.large.supersede(namespace, key)
        begun = tier.changes.count
        took = True
        if sent:
            took = await tier.l2.set_many(namespace, sent, max(1, int(ttl * 1000)), tags)
        if left_out:
            took = False
            await tier.l2.delete(namespace, left_out)
        if tier.changes.count != begun:
            for key, _ in sent:
                if tier.changes.since(begun, namespace, key, tags):
                    tier.l1.store.remove(namespace, key)
        if large is None:
            return len(frozen), took
        return len(frozen) + 1, (not tier.left and await large()) and took

    async def store_loaded(
        self,
        namespace: str,
        loaded: Sequence[Loaded],
        ttl: float,
        tokens: dict[str, bytes] | None,
        changed: ChangesSince,
    ) -> None:
        """Set what one load brought, some hundred in one round trip; ``tokens`` as in
        ``SharedTier.store``. What has ``changed`` since the load began is left out.
        """
        tier = self._tier
        milliseconds = max(1, int(ttl * 1000))
        position = 0
        while position < len(loaded) and not tier.left:
            sent: list[tuple[str, bytes]] = []
            left_out: list[str] = []
            large: Callable[[], Awaitable[bool]] | None = None
            size = 0
            stored: list[Loaded] = []
            for one in loaded[position : position + PIECE_KEYS]:
                key, value, frozen, tags = one
                if changed.concerns(key, tags):
                    position += 1
                    continue
                body = tier.body_of(value)
                kept = frozen if body is None else frozen_as(value, body)
                carried = {tag: tokens[tag] for tag in tags} if tokens is not None and tags else None
                if body is not None and len(body) > LARGE and tier.pack is not None:
                    large = partial(
                        tier.store, namespace, key, value, kept, ttl, tags,
                        loaded=True, tokens=carried, body=body,
                    )  # fmt: skip
                    break
                position += 1
                stored.append(one)
                tier.local.store(namespace, key, kept, ttl, tags)
                if tier.large.packing:
                    tier.large.supersede(namespace, key)
                if body is None or (tags and tokens is None):
                    left_out.append(key)
                    continue
                sent.append((key, tier.payload_of(body, ttl, tags=carried)))
                size += len(sent[-1][1])
                if size >= PIECE_BYTES:
                    break
            begun = tier.changes.count
            took = False
            if sent:
                every_tag = dict.fromkeys(tag for one in stored for tag in one.tags)
                took = await tier.l2.set_many(
                    namespace, sent, milliseconds, every_tag if tokens is not None else (), "load"
                )
            if left_out:
                await tier.l2.delete(namespace, left_out)
            if tier.changes.count != begun:
                await self._changed_meanwhile(namespace, stored, begun, took)
            if large is not None:
                one = loaded[position]
                position += 1
                if not tier.left and not tier.changes.since(begun, namespace, one.key, one.tags):
                    await large()

    async def _changed_meanwhile(
        self, namespace: str, loaded: Sequence[Loaded], begun: int, took: bool
    ) -> None:
        """Drop, of what was just stored, what another writer changed in the meantime; see
        ``SharedTier.store``.
        """
        tier = self._tier
        changed = [one for one in loaded if tier.changes.since(begun, namespace, one.key, one.tags)]
        newer: list[str] = []
        for one in changed:
            tier.l1.store.remove(namespace, one.key)
            if took and tier.changes.since(begun, namespace, one.key, one.tags, reloads=False):
                newer.append(one.key)
        if newer:
            await tier.l2.delete(namespace, newer)
