"""A record of what a test's bot asked of the server, and what it was told (pure)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct


class Call(Struct, frozen=True, kw_only=True):
    """One request. ``time``: seconds of the server's clock at which it arrived."""

    time: float
    bot: int
    """The bot's user id; its token is not kept."""
    method: str
    """As the API spells it, such as sendMessage."""
    chat: int | None
    """The chat's id; None if the request has none or names one that does not exist."""
    kind: str
    """What it counts as: message, edit, action or other."""
    cost: int
    """Messages that it asks for."""
    done: int
    """Messages, edits or actions that were admitted and done; less than ``cost`` for a partial album."""
    parameters: dict[str, Any]
    """As they came; of a file its name and size."""
    code: int
    """HTTP status of the answer; 0: the connection was closed without one."""
    description: str
    """Of an error; "" otherwise."""
    retry_after: int
    """Seconds that a refusal told; 0: none."""
    in_penalty: bool
    """It came before the time that an earlier refusal had told."""


class Log:
    """The latest calls, oldest first, as they arrived."""

    def __init__(self, size: int) -> None:
        self._calls: deque[Call] = deque(maxlen=size)
        self.forgotten = 0
        """Calls that had no more room."""

    def add(self, call: Call) -> None:
        """Keep a call that was answered."""
        if len(self._calls) == self._calls.maxlen:
            self.forgotten += 1
        self._calls.append(call)

    def clear(self) -> None:
        """Forget all calls."""
        self._calls.clear()
        self.forgotten = 0

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(tuple(self._calls))

    def __getitem__(self, index: int) -> Call:
        return self._calls[index]

    def of(
        self,
        method: str | None = None,
        *,
        chat: int | None = None,
        bot: int | None = None,
        where: Callable[[Call], bool] | None = None,
    ) -> list[Call]:
        """The calls of a method, to a chat, by a bot, or for which ``where`` is true; None means any."""
        return [
            call
            for call in self._calls
            if (method is None or call.method.lower() == method.lower())
            and (chat is None or call.chat == chat)
            and (bot is None or call.bot == bot)
            and (where is None or where(call))
        ]

    def refused(self, chat: int | None = None, *, groups: bool | None = None) -> list[Call]:
        """Calls that were told to come later. ``groups``: True only to groups, False only to users."""
        return [
            call
            for call in self.of(chat=chat)
            if call.retry_after and (groups is None or (call.chat is not None and (call.chat < 0) is groups))
        ]

    def in_penalties(self, chat: int | None = None) -> list[Call]:
        """Calls that came before the time that an earlier refusal had told."""
        return [call for call in self.of(chat=chat) if call.in_penalty]

    def most_in_window(
        self,
        chat: int | None,
        seconds: float,
        *,
        kinds: tuple[str, ...] = ("message", "edit"),
        bot: int | None = None,
    ) -> int:
        """The most that was done within any ``seconds`` in a chat, or in all chats if it is None.

        Counts messages and edits, as the server's limits do by default; two that are exactly
        ``seconds`` apart are not within them.
        """
        within: deque[tuple[float, int]] = deque()
        counted = most = 0
        for call in sorted(self.of(chat=chat, bot=bot), key=lambda call: call.time):
            if not call.done or call.kind not in kinds:
                continue
            within.append((call.time, call.done))
            counted += call.done
            while within[0][0] + seconds <= call.time + 1e-9:
                counted -= within.popleft()[1]
            most = max(most, counted)
        return most
