"""Transactions as they are seen in commands: what was written in each (pure)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

from bot.core.query_optimizer.mongodb.shapes import EVERYTHING

MAX_OPEN = 10_000
"""Transactions of one client that are remembered; one that was forgotten may have written anything."""


class WireTransaction(NamedTuple):
    session: Hashable
    number: Any
    begins: bool


def transaction_in(command: Mapping[str, Any]) -> WireTransaction | None:
    """The transaction of which a command is a part; a retryable write has a number, too, and is in none."""
    if command.get("autocommit") is not False:
        return None
    session = command.get("lsid")
    found = session.get("id") if isinstance(session, Mapping) else None
    return WireTransaction(
        bytes(found) if isinstance(found, bytes) else str(found),
        command.get("txnNumber"),
        bool(command.get("startTransaction")),
    )


class WireTransactions:
    """The open transactions of one client."""

    def __init__(self) -> None:
        # session -> (number of its transaction, names written in it, as filed). A session has one at a time.
        self._open: OrderedDict[Hashable, tuple[Any, set[str]]] = OrderedDict()

    def note(self, part: WireTransaction, written: frozenset[str]) -> None:
        """A command of a transaction has run, or may have."""
        known = self._open.get(part.session)
        if known is None or known[0] != part.number:
            if len(self._open) >= MAX_OPEN:
                self._open.popitem(last=False)
            # One whose beginning was not seen may have written anything.
            known = self._open[part.session] = part.number, set() if part.begins else {EVERYTHING}
        known[1].update(written)

    def end(self, part: WireTransaction, *, keep: bool) -> frozenset[str]:
        """What was written in a transaction that has ended; with ``keep`` its end may be told again."""
        known = self._open.get(part.session)
        if known is None or known[0] != part.number:
            return frozenset((EVERYTHING,))
        if not keep:
            del self._open[part.session]
        return frozenset(known[1])
