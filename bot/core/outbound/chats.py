"""The chats that are known (pure)."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator

from bot.core.outbound.lanes import ChatState
from bot.core.outbound.models import Chat
from bot.core.outbound.rates import Rates

FORGET_AFTER = 10.0
"""Seconds after which idle chats are looked for while nothing waits, so that many are found at once."""


class Chats:
    """What is known of each chat that was written to lately, or is held.

    One is forgotten once it is as if it had never been written to: two are looked at for each new one, and
    all when :meth:`forget_idle` is called.
    """

    def __init__(self) -> None:
        # Least recently used first. Changed by the methods below only.
        self._states: OrderedDict[Chat, ChatState] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[ChatState]:
        return iter(self._states.values())

    def get(self, chat: Chat) -> ChatState | None:
        """What is known of it, if anything."""
        return self._states.get(chat)

    def use(self, chat: Chat, rates: Rates, now: float) -> ChatState:
        """What is known of a chat that is about to be written to or held; from now on it is known."""
        states = self._states
        state = states.get(chat)
        if state is None:
            self._forget_some(rates, now)
            state = states[chat] = ChatState(chat)
        else:
            states.move_to_end(chat)
        return state

    def held(self, now: float) -> int:
        """Chats in a penalty."""
        return sum(state.held_until > now for state in self)

    def holds(self, now: float) -> Iterator[tuple[Chat, float, float]]:
        """Chats that are held or slowed down: for how many seconds, and their share of their rate."""
        for state in self:
            share = state.slowdown.share(now)
            if state.id is not None and (state.held_until > now or share < 1.0):
                yield state.id, max(0.0, state.held_until - now), share

    def _forget_some(self, rates: Rates, now: float) -> None:
        states = self._states
        for _ in range(min(2, len(states))):
            chat, state = next(iter(states.items()))
            if state.idle_at(rates) <= now:
                del states[chat]
            else:
                states.move_to_end(chat)

    def forget_idle(self, rates: Rates, now: float) -> None:
        """Forget every chat that makes no difference any more; a look at each."""
        idle = [state.id for state in self if state.idle_at(rates) <= now]
        for chat in idle:
            del self._states[chat]
        if len(idle) > len(self._states):
            self._states = OrderedDict(self._states)  # one that shrinks keeps the room of all that it held

    def forget_at(self, rates: Rates) -> float:
        """When to look for idle chats; inf: no need to."""
        if not self._states:
            return math.inf
        return next(iter(self)).idle_at(rates) + FORGET_AFTER

    def check_invariants(self) -> None:
        for chat, state in self._states.items():
            assert state.id == chat
            state.check_invariants()
