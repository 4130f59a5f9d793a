"""What an instance asks of the budget that it shares, as bytes, and what it has reserved itself (pure)."""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections import deque
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple, Protocol

from bot.core._shared.errors import invalid
from bot.core.outbound.gates import Gate
from bot.core.outbound.models import Chat, Kind, is_private
from bot.core.outbound.rates import Rates

LEASE = 30.0
"""Seconds for which what is in flight counts without being renewed, as in admission.lua."""

MOST_REMEMBERED = 100_000
"""Own reservations of the last windows that Redis can be told anew."""

LONGEST = 1_000_000.0
"""Seconds that are believed of Redis at most."""

_ADMIT, _STAMP, _LEFT, _REFUND, _HOLD, _GREET, _RELEASE = range(7)
_WINDOWS, _BUCKET, _UNSCALED = 1, 2, 3
_CALL = struct.Struct("<BB16s8d")
_PAIR = struct.Struct("<dd")
_NO_ID = bytes(16)
RELEASED = "p4o:release"
"""The channel on which admission.lua tells of released chats."""
_TOKEN = re.compile(r"(\d{1,20}):[\w-]{10,}", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_.@-]{1,64}", re.ASCII)


class Scope(IntEnum):
    """What stands in a request's way, as admission.lua says it."""

    CLEAR = 0
    CHAT_FULL = 1
    GATE_FULL = 2
    CHAT_HELD = 3
    ALL_HELD = 4
    FORGOTTEN = 5
    """Redis has lost its memory since this instance last asked."""


class Verdict(NamedTuple):
    """An answer to one call."""

    scope: Scope
    wait: float


def tag_of(bot_id: int | str) -> bytes:
    """What every key of a bot's budget begins with.

    A token counts as the id in front of its colon; no part of the secret goes anywhere. Raises ValueError for
    what is no id.
    """
    if isinstance(bot_id, bool) or not isinstance(bot_id, int | str) or bot_id == "":
        raise invalid("bot_id", type(bot_id).__name__, "a bot's id, its token, or another name of it")
    name = str(bot_id).strip()
    token = _TOKEN.fullmatch(name)
    if token is not None:
        name = token[1]
    elif not _PLAIN.fullmatch(name):
        name = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return b"{p4o:%b}" % name.encode()


def _key(tag: bytes, kind: bytes, chat: Chat) -> bytes:
    if chat is None:
        name = b""
    elif type(chat) is int:
        name = b"%d" % chat
    else:
        name = str(chat).encode("utf-8", "surrogatepass")
        if len(name) > 64:
            name = b"#" + hashlib.sha256(name).hexdigest().encode()
    return b"%b:%b:%b" % (tag, kind, name)


class Asking(Protocol):
    """What a reservation has to know of the request that asks for it: an Entry of ``lanes``."""

    @property
    def kind(self) -> Kind: ...
    @property
    def chat(self) -> Chat: ...
    @property
    def cost(self) -> int: ...
    @property
    def gate(self) -> Gate: ...
    @property
    def answers(self) -> bool: ...
    @property
    def starved(self) -> bool: ...


class Reservation:
    """A request's place in the windows that all instances share."""

    __slots__ = ("cost", "flags", "gate", "id", "interval", "key", "longest", "most", "reserved_at",
                 "windows")  # fmt: skip

    def __init__(self, tag: bytes, number: bytes, request: Asking, rates: Rates, now: float) -> None:
        self.id = number
        self.reserved_at = now
        self.cost = float(request.cost)
        self.windows: tuple[tuple[int, float], ...] = ()
        self.interval = 0.0
        kind, mode = b"n", 0
        chat = request.chat
        if request.kind is Kind.TYPING:
            kind, mode, self.windows = b"t", _UNSCALED, tuple(rates.typing)
        elif request.kind in (Kind.SEND, Kind.EDIT) and chat is not None:
            separate = request.kind is Kind.EDIT and not rates.shared_edits
            if is_private(chat):
                kind, mode, self.interval = b"f" if separate else b"b", _BUCKET, rates.interval
            else:
                kind, mode, self.windows = b"e" if separate else b"w", _WINDOWS, (rates.group,)
        if not self.windows and mode != _BUCKET:
            kind, mode = b"n", 0
        self.key = _key(tag, kind, chat)
        self.longest = max((length for _, length in self.windows), default=0.0)
        if self.windows:
            # What costs more than the windows allow leaves alone; it need not be counted more often.
            self.cost = float(min(request.cost, max(most for most, _ in self.windows)))
        gate = request.gate
        self.gate = rates.paid if gate is Gate.PAID else rates.bulk
        # Within how many of the gate it leaves. (Nobody asks for an answer in bulk.)
        self.most = (rates.bulk_of_others if gate is Gate.BULK else self.gate)[0]
        passing = {Gate.NONE: 0, Gate.BULK: 2 if request.answers else 1, Gate.PAID: 3}[gate]
        self.flags = mode + 4 * passing + (16 if request.starved else 0)

    def admit(self, rates: Rates, debt: float, epoch: float) -> bytes:
        """Ask for the place. ``debt``: in how many seconds the chat's bucket is full here."""
        most, length = self.gate
        return b"".join(
            [
                _CALL.pack(
                    _ADMIT, self.flags, self.id, self.cost, epoch, most, length,
                    self.interval, rates.burst, debt, self.most,
                ),
                *[_PAIR.pack(*window) for window in self.windows],
            ]
        )  # fmt: skip

    def stamp(self, age: float) -> bytes:
        """It was answered so many seconds ago; less than 0: it is in flight."""
        longest, interval = self.longest, self.interval
        return _CALL.pack(_STAMP, self.flags, self.id, self.cost, age, longest, 0, interval, 0, 0, 0)

    def left(self) -> bytes:
        """It leaves now: so it counts from now on in the windows of all chats."""
        return _CALL.pack(_LEFT, self.flags, self.id, self.cost, 0, *self.gate, 0, 0, 0, 0)

    def refund(self) -> bytes:
        """It has not left after all, or was refused."""
        return _CALL.pack(_REFUND, self.flags, self.id, self.cost, 0, *self.gate, self.interval, 0, 0, 0)

    @property
    def counts_in_chat(self) -> bool:
        """Whether it counts in a window of its chat until it is answered."""
        return bool(self.windows)

    @property
    def counts_in_bucket(self) -> bool:
        """Whether it takes from the bucket of a private chat."""
        return self.interval > 0.0

    @property
    def counts_in_gate(self) -> bool:
        """Whether it counts in a window of all chats."""
        return self.flags & 12 != 0


def hold(tag: bytes, chat: Chat, seconds: float, *, refused: bool, share: float = 1.0) -> tuple[bytes, bytes]:
    """Key and call that tell all instances of a hold; None is all chats."""
    call = _CALL.pack(_HOLD, 0, _NO_ID, min(seconds, LONGEST), refused, share, chat is None, 0, 0, 0, 0)
    return _key(tag, b"n", chat), call


def release(tag: bytes, chat: Chat) -> tuple[bytes, bytes]:
    """Key and call that end a hold for all instances; None is that of all chats.

    The script publishes the key, by which each instance knows which chat is meant.
    """
    return _key(tag, b"n", chat), _CALL.pack(_RELEASE, 0, _NO_ID, 0, 0, 0, chat is None, 0, 0, 0, 0)


def greeting(tag: bytes) -> tuple[bytes, bytes]:
    """Key and call that only hear when Redis's memory began."""
    return _key(tag, b"n", None), _CALL.pack(_GREET, 0, _NO_ID, 0, 0, 0, 0, 0, 0, 0, 0)


class Answers(NamedTuple):
    """What a run of the script answered."""

    epoch: float
    verdicts: list[Verdict]


def decode(answer: object, calls: int) -> Answers:
    """The answers to so many calls. Raises ValueError for what the script cannot have said."""
    if not isinstance(answer, bytes) or len(answer) != 16 * (calls + 1):
        raise ValueError(f"expected {16 * (calls + 1)} bytes")
    numbers = struct.unpack(f"<{2 * (calls + 1)}d", answer)
    if not all(map(math.isfinite, numbers)):
        raise ValueError("not all numbers are finite")
    verdicts = []
    for position in range(2, len(numbers), 2):
        scope, wait = numbers[position], numbers[position + 1]
        if scope not in (0, 1, 2, 3, 4, 5) or wait < 0.0:
            raise ValueError("no such verdict")
        verdicts.append(Verdict(Scope(int(scope)), min(wait, LONGEST)))
    return Answers(numbers[1], verdicts)


class Own:
    """The reservations of this instance that count: those in flight, and those answered lately."""

    def __init__(self) -> None:
        # Changed by the methods below only.
        self.in_flight: dict[bytes, Reservation] = {}
        self._answered: deque[tuple[float, Reservation]] = deque(maxlen=MOST_REMEMBERED)

    def left(self, reservation: Reservation) -> None:
        """It is reserved, or leaves without being."""
        if reservation.counts_in_chat:
            self.in_flight[reservation.id] = reservation

    def answered(self, reservation: Reservation, now: float) -> bool:
        """Its answer came; whether it counted until then."""
        known = self.in_flight.pop(reservation.id, None)
        if known is not None:
            self._purge(now)
            self._answered.append((now, known))
        return known is not None

    def given_back(self, reservation: Reservation) -> None:
        """It counts no more."""
        self.in_flight.pop(reservation.id, None)

    def all(self, now: float) -> Iterator[tuple[Reservation, float]]:
        """Each with its age, as Reservation.stamp has it."""
        self._purge(now)
        for reservation in self.in_flight.values():
            yield reservation, -1.0
        for at, reservation in self._answered:
            if now - at < reservation.longest:
                yield reservation, now - at

    def _purge(self, now: float) -> None:
        answered = self._answered
        while answered and now - answered[0][0] >= answered[0][1].longest:
            answered.popleft()

    def __len__(self) -> int:
        return len(self.in_flight) + len(self._answered)
