"""How to copy one nested value: worked out once when it is kept, followed at each read (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from sys import getsizeof
from typing import Any

from bot.core._shared.measuring import ATOMS

Copy = Callable[[Any], Any]

PLAN_SIZE, STEP_SIZE = 250, 100
"""Bytes of a plan, and of each part that it names."""

MAX_STEPS = 32
"""Parts that a plan names one by one; a container with more is copied by looking at each part."""

MAX_OPENED = 3
"""Parts that can change of a dict that is kept opened, see :meth:`Planner.keep`."""

MAX_PLANS = 64
"""Different shapes in one value; what is beyond them is copied in the same way."""


class Planner:
    """Makes the plan of one value: a tree of dicts, lists, tuples, sets, bytearrays and atoms.

    A plan copies only what can change, where it knows it to be: it looks at no type and at no atom. It is
    right for this value alone, which therefore nobody may change. Parts of the same shape share a plan.
    """

    __slots__ = ("_known", "size")

    def __init__(self) -> None:
        # Shape -> its plan. Changed by _made.
        self._known: dict[Any, Copy] = {}
        self.size = 0
        """Bytes of all plans made."""

    def keep(self, value: Any) -> tuple[Any, Copy]:
        """A private copy of a value that can change, as it is copied fastest, and what copies that.

        A dict with few parts that can change is kept opened: itself with None for each of them, then the
        parts. So a copy need not look them up.
        """
        if type(value) is dict:
            steps = self._steps(value.items())
            if 0 < len(steps) <= MAX_OPENED:
                return self._opened(value, steps)
            plan: Copy | None = self._for_steps(value, steps)
        else:
            plan = self.plan(value)
        assert plan is not None
        return plan(value), plan

    def _opened(self, value: dict[Any, Any], steps: tuple[tuple[Any, Copy], ...]) -> tuple[Any, Copy]:
        root = value.copy()
        parts = []
        known = []
        for key, copy in steps:
            part = root[key]
            root[key] = None
            parts.append(copy(part))
            known.append((key, copy_of_rows(part) if copy is copy_rows else copy))
        kept = (root, *parts)
        self.size += PLAN_SIZE + STEP_SIZE * len(steps) + getsizeof(kept)
        return kept, _OPENED[len(steps)](*known)

    def plan(self, value: Any) -> Copy | None:
        """A function that copies ``value``; None if it cannot change and needs no copy."""
        kind = type(value)
        if kind is dict:
            return self._of_dict(value)
        if kind is list:
            return self._of_list(value)
        if kind is tuple:
            steps = self._steps(enumerate(value))
            return self._made("tuple", steps, _tuple_copy) if steps else None
        if kind is set:
            return set.copy
        return bytearray.copy if kind is bytearray else None  # atoms, and frozensets, whose members are fixed

    def _steps(self, items: Iterable[tuple[Any, Any]]) -> tuple[tuple[Any, Copy], ...]:
        """(key or index, plan) of the parts that can change."""
        return tuple(
            [
                (key, copy)
                for key, item in items
                if type(item) not in ATOMS and (copy := self.plan(item)) is not None
            ]
        )

    def _of_dict(self, value: dict[Any, Any]) -> Copy:
        return self._for_steps(value, self._steps(value.items()))

    def _for_steps(self, value: dict[Any, Any], steps: tuple[tuple[Any, Copy], ...]) -> Copy:
        if not steps:
            return dict.copy
        if len(steps) == len(value) > 2 and (same := _same(steps)) is not None:
            return self._made("every value", same, _all_values_copied)
        return self._made("dict", steps, _dict_copy)

    def _of_list(self, value: list[Any]) -> Copy:
        steps = self._steps(enumerate(value))
        if not steps:
            return list.copy
        if len(steps) == len(value) and (same := _same(steps)) is not None:
            if same is dict.copy:
                return copy_rows
            return self._made("every item", same, _all_items_copied)
        return self._made("list", steps, _list_copy)

    def _made(self, kind: str, how: Any, make: Callable[[Any], Copy]) -> Copy:
        named = len(how) if type(how) is tuple else 0
        if named > MAX_STEPS:
            return copy_tree
        known = self._known.get((kind, how))
        if known is None:
            if len(self._known) >= MAX_PLANS:
                return copy_tree
            known = self._known[kind, how] = make(how)
            self.size += PLAN_SIZE + STEP_SIZE * named
        return known


def copy_tree(value: Any) -> Any:
    """A copy of such a tree without a plan."""
    kind = type(value)
    if kind in ATOMS:
        return value
    if kind is dict:
        return {key: item if type(item) in ATOMS else copy_tree(item) for key, item in value.items()}
    if kind is list:
        return [item if type(item) in ATOMS else copy_tree(item) for item in value]
    if kind is tuple:
        return tuple([copy_tree(item) for item in value])
    # Members of a set are hashable, and of what else there is, no member can change.
    return value if kind is frozenset else value.copy()


def copy_rows(rows: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
    """A copy of a list of flat dicts, as drivers answer with."""
    count = len(rows)
    if count < 5:  # most have few, and then a loop takes as long as the copies themselves
        if count == 1:
            (a,) = rows
            return [a.copy()]
        if count == 2:
            a, b = rows
            return [a.copy(), b.copy()]
        if count == 3:
            a, b, c = rows
            return [a.copy(), b.copy(), c.copy()]
    return [row.copy() for row in rows]


def copy_of_rows(rows: list[dict[Any, Any]]) -> Copy:
    """What copies a list of just as many flat dicts."""
    return _OF_FEW.get(len(rows), copy_rows)


def _one_row(rows: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
    (a,) = rows
    return [a.copy()]


def _two_rows(rows: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
    a, b = rows
    return [a.copy(), b.copy()]


def _three_rows(rows: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
    a, b, c = rows
    return [a.copy(), b.copy(), c.copy()]


def _four_rows(rows: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
    a, b, c, d = rows
    return [a.copy(), b.copy(), c.copy(), d.copy()]


# Where their number is known already.
_OF_FEW: dict[int, Copy] = {1: _one_row, 2: _two_rows, 3: _three_rows, 4: _four_rows}


def _same(steps: tuple[tuple[Any, Copy], ...]) -> Copy | None:
    first = steps[0][1]
    return first if all(copy is first for _, copy in steps) else None


def _dict_copy(steps: tuple[tuple[Any, Copy], ...]) -> Copy:
    # Written out for few steps: the loop over them would take an eighth of a copy.
    if len(steps) == 1:
        ((key, part),) = steps
        return _with_one(key, part)
    if len(steps) == 2:
        return _with_two(*steps)
    if len(steps) == 3:
        return _with_three(*steps)

    def copy(value: Any) -> Any:
        made = value.copy()
        for key, part in steps:
            made[key] = part(made[key])
        return made

    return copy


def _with_one(key: Any, part: Copy) -> Copy:
    def copy(value: Any) -> Any:
        made = value.copy()
        made[key] = part(made[key])
        return made

    return copy


def _with_two(first: tuple[Any, Copy], second: tuple[Any, Copy]) -> Copy:
    (key_1, part_1), (key_2, part_2) = first, second

    def copy(value: Any) -> Any:
        made = value.copy()
        made[key_1] = part_1(made[key_1])
        made[key_2] = part_2(made[key_2])
        return made

    return copy


def _with_three(first: tuple[Any, Copy], second: tuple[Any, Copy], third: tuple[Any, Copy]) -> Copy:
    (key_1, part_1), (key_2, part_2), (key_3, part_3) = first, second, third

    def copy(value: Any) -> Any:
        made = value.copy()
        made[key_1] = part_1(made[key_1])
        made[key_2] = part_2(made[key_2])
        made[key_3] = part_3(made[key_3])
        return made

    return copy


def _opened_one(first: tuple[Any, Copy]) -> Copy:
    key, part = first

    def copy(kept: Any) -> Any:
        root, a = kept
        made = root.copy()
        made[key] = part(a)
        return made

    return copy


def _opened_two(first: tuple[Any, Copy], second: tuple[Any, Copy]) -> Copy:
    (key_1, part_1), (key_2, part_2) = first, second

    def copy(kept: Any) -> Any:
        root, a, b = kept
        made = root.copy()
        made[key_1] = part_1(a)
        made[key_2] = part_2(b)
        return made

    return copy


def _opened_three(first: tuple[Any, Copy], second: tuple[Any, Copy], third: tuple[Any, Copy]) -> Copy:
    (key_1, part_1), (key_2, part_2), (key_3, part_3) = first, second, third

    def copy(kept: Any) -> Any:
        root, a, b, c = kept
        made = root.copy()
        made[key_1] = part_1(a)
        made[key_2] = part_2(b)
        made[key_3] = part_3(c)
        return made

    return copy


_OPENED: dict[int, Callable[..., Copy]] = {1: _opened_one, 2: _opened_two, 3: _opened_three}


def _list_copy(steps: tuple[tuple[int, Copy], ...]) -> Copy:
    def copy(value: Any) -> Any:
        made = value[:]
        for index, part in steps:
            made[index] = part(made[index])
        return made

    return copy


def _all_items_copied(part: Copy) -> Copy:
    def copy(value: Any) -> Any:
        count = len(value)
        if count == 1:
            (a,) = value
            return [part(a)]
        if count == 2:
            a, b = value
            return [part(a), part(b)]
        if count == 3:
            a, b, c = value
            return [part(a), part(b), part(c)]
        return [*map(part, value)]

    return copy


def _all_values_copied(part: Copy) -> Copy:
    def copy(value: Any) -> Any:
        made = value.copy()
        for key, item in value.items():
            made[key] = part(item)
        return made

    return copy


def _tuple_copy(steps: tuple[tuple[int, Copy], ...]) -> Copy:
    inner = _list_copy(steps)

    def copy(value: Any) -> Any:
        return tuple(inner([*value]))

    return copy
