"""Keeps notable query shapes (slow, or N+1): the whole shape, its call sites, one query of it (pure).

The query with its values never leaves this process, nor the optimizer: advice and EXPLAIN need it, and what
they answer names tables and columns only (see :mod:`bot.core.query_optimizer.details`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from bot.core.query_optimizer.execution.call import Call

MAX_SPECIMENS = 200
"""Shapes kept; the one that was not noted for the longest time is dropped first."""

MAX_TEXT = 8_000
"""Characters of a shape that are kept, and of a query that is kept at all."""

MAX_CALL_SITES = 5
MAX_VALUES = 100
MAX_VALUE = 1_000
"""Parameters of a query that are kept, and characters or bytes of each; without them it is not explained."""


class Specimen(Struct):
    """One shape, and the last query of it."""

    shape: str
    query: str
    """Empty if it was too long."""
    params: Any
    call_sites: list[str]


class Specimens:
    """The shapes noted last, bounded in number and size."""

    def __init__(self) -> None:
        # fingerprint -> what is known. Changed by note and clear only.
        self._known: OrderedDict[str, Specimen] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, fingerprint: str) -> Specimen | None:
        return self._known.get(fingerprint)

    def note(self, call: Call, site: str) -> None:
        """A notable query ran at ``site`` ("": unknown)."""
        known = self._known.get(call.analysis.fingerprint)
        if known is None:
            if len(self._known) >= MAX_SPECIMENS:
                self._known.popitem(last=False)
            known = Specimen(call.analysis.normal_form[:MAX_TEXT], "", None, [])
            self._known[call.analysis.fingerprint] = known
        else:
            self._known.move_to_end(call.analysis.fingerprint)
        if len(call.query) <= MAX_TEXT:
            known.query, known.params = call.query, _kept(call.params)
        if site and site not in known.call_sites and len(known.call_sites) < MAX_CALL_SITES:
            known.call_sites.append(site)

    def clear(self) -> None:
        self._known.clear()

    def check_invariants(self) -> None:
        assert len(self._known) <= MAX_SPECIMENS
        for known in self._known.values():
            assert len(known.shape) <= MAX_TEXT
            assert len(known.query) <= MAX_TEXT
            assert len(known.call_sites) <= MAX_CALL_SITES


def _kept(params: Any) -> Any:
    """A copy of the parameters if they are few and small, else None."""
    if hasattr(params, "kept"):
        return params.kept()
    if isinstance(params, Mapping):
        values: list[Any] = [*params.keys(), *params.values()] if len(params) <= MAX_VALUES else [None]
        kept: Any = dict(params) if len(params) <= MAX_VALUES else None
    elif isinstance(params, list | tuple):
        values = list(params) if len(params) <= MAX_VALUES else [None]
        kept = tuple(params) if len(params) <= MAX_VALUES else None
    else:
        values, kept = [params], params
    return kept if all(map(_is_small, values)) else None


def _is_small(value: Any) -> bool:
    if isinstance(value, str | bytes | bytearray):
        return len(value) <= MAX_VALUE
    if isinstance(value, int) and not isinstance(value, bool):
        return value.bit_length() <= 8 * MAX_VALUE
    # Dates, decimals and the like; containers may hold anything.
    return not isinstance(value, Mapping | list | tuple | set | frozenset)
