"""How to copy one nested value: worked out once when it is kept, followed at each read (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bot.core._shared.measuring import ATOMS

Copy = Callable[[Any], Any]

PLAN_SIZE, STEP_SIZE = 250, 100
"""Bytes of a plan, and of each part that it names."""

MAX_STEPS = 32
"""Parts that a plan names one by one; a container with more is copied by looking at each part."""

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
        steps = self._steps(value.items())
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
    return [row.copy() for row in rows]  # faster than map for the few rows that most have


def _same(steps: tuple[tuple[Any, Copy], ...]) -> Copy | None:
    first = steps[0][1]
    return first if all(copy is first for _, copy in steps) else None


def _dict_copy(steps: tuple[tuple[Any, Copy], ...]) -> Copy:
    if len(steps) == 1:
        ((name, only),) = steps

        def copy_with_one(value: Any) -> Any:
            made = value.copy()
            made[name] = only(made[name])
            return made

        return copy_with_one

    def copy(value: Any) -> Any:
        made = value.copy()
        for key, part in steps:
            made[key] = part(made[key])
        return made

    return copy


def _list_copy(steps: tuple[tuple[int, Copy], ...]) -> Copy:
    def copy(value: Any) -> Any:
        made = value[:]
        for index, part in steps:
            made[index] = part(made[index])
        return made

    return copy


def _all_items_copied(part: Copy) -> Copy:
    def copy(value: Any) -> Any:
        return [*map(part, value)]

    return copy


def _all_values_copied(part: Copy) -> Copy:
    def copy(value: Any) -> Any:
        return dict(zip(value, map(part, value.values()), strict=False))  # strict costs a tenth

    return copy


def _tuple_copy(steps: tuple[tuple[int, Copy], ...]) -> Copy:
    inner = _list_copy(steps)

    def copy(value: Any) -> Any:
        return tuple(inner([*value]))

    return copy
