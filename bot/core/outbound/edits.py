"""Edits that need not be sent, because the message shows what they would make of it (pure)."""

from __future__ import annotations

from typing import Any

from bot.core.outbound.keys import Key, messages_of
from bot.core.outbound.lanes import Claim, Entry
from bot.core.outbound.models import Chat
from bot.core.outbound.scheduler import Scheduler
from bot.core.outbound.shown import Last, Message, Shown


class Edits:
    """What messages are known to show, and the edits of them that wait.

    A caller whose edit is left out gets the result of the edit that made the message what it is.
    """

    def __init__(self, scheduler: Scheduler, *, skip_equal: bool) -> None:
        self._scheduler = scheduler
        self._skip_equal = skip_equal
        self._shown = Shown()

    @property
    def skips_equal(self) -> bool:
        """Whether an edit to what its message shows already is left out."""
        return self._skip_equal

    def configure(self, *, skip_equal: bool) -> None:
        """Leave such edits out, or send them."""
        self._skip_equal = skip_equal
        if not skip_equal:
            self._shown.clear()

    # Before an edit waits.

    def last_equal(self, message: Key, key: Key | None, content: bytes) -> tuple[Last, list[Entry]] | None:
        """If an edit need not be sent, the edit before it, and those that wait and need not be sent either.

        None if the message may show something else, or will: edits that another kind of request would not
        supersede leave first.
        """
        last = self._shown.equal(message, content)
        if last is None:
            return None
        waiting = self._scheduler.edits_waiting(message)
        if any(key is None or entry.key != key for entry in waiting):
            return None
        return last, waiting

    def forget(self, chat: Chat, message_id: object) -> None:
        """Something else changes or deletes the message, or each of several."""
        for message in messages_of(chat, message_id):
            self._shown.forget(message)

    # While it is sent.

    def left(self, entry: Entry) -> Message | None:
        """A request leaves; what is returned, if it is an edit, is to be given to a method below."""
        return None if entry.message is None else self._shown.left(entry.message)

    def succeeded(
        self, message: Key, edited: Message, content: bytes | None, result: Any, now: float
    ) -> list[Entry]:
        """An edit took effect; those that wait to make the same of the message, which need not be sent."""
        self._shown.succeeded(edited, content, result, now)
        waiting = self._scheduler.edits_waiting(message)
        same = content is not None and {entry.claims[-1].content for entry in waiting} == {content}
        return waiting if same and content is not None and self._shown.equal(message, content) else []

    def refused(self, edited: Message) -> None:
        """Telegram did nothing: what was shown still is."""
        self._shown.refused(edited)

    def failed(self, edited: Message, now: float) -> None:
        """Nobody knows what came of the edit, nor when."""
        self._shown.failed(edited, now)

    def end(self, waiting: list[Entry], now: float) -> list[Claim]:
        """They need not be sent: the claims that shared them, over."""
        return [claim for entry in waiting for claim in self._scheduler.end_waiting(entry, now)]

    def clear(self) -> None:
        """Nothing is known of any message."""
        self._shown.clear()

    def check_invariants(self) -> None:
        self._shown.check_invariants()
