"""Indexes that a database has: which another one makes needless, which were never scanned (pure).

Nothing is called needless that is not proved to be: an index of the same table and method, with the same
predicate, must begin with the same keys, by the same operator classes, collations and directions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple


class Key(NamedTuple):
    """A key of an index."""

    text: str
    """The column's name, or the expression as SQL."""
    operators: str = ""
    """The operator class with its options; of MySQL, the number of characters."""
    collation: str = ""
    options: str = ""
    """The direction, and where NULL stands."""


@dataclass(frozen=True, slots=True)
class ExistingIndex:
    """An index of a database."""

    schema: str
    table: str
    name: str
    method: str
    keys: tuple[Key, ...]
    include: frozenset[str] = frozenset()
    predicate: str = ""
    unique: bool = False
    """Also if it is primary, or an exclusion."""
    bound: bool = False
    """Whether something depends on it: a constraint, a foreign key, replication, a partitioned table."""
    valid: bool = True
    """Whether queries can use it."""
    size: float | None = None
    """Bytes; None if it is not known."""
    scans: int | None = None
    """Since the statistics began; None if it is not known."""
    created: str = ""
    """The DDL that creates it; empty if it is not known."""
    order: tuple[Key, ...] = ()
    """The whole order of its entries, with the primary key that InnoDB adds; ``keys`` if empty."""

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}" if self.schema else self.name


class IndexUse(NamedTuple):
    """The indexes of a database and how long their scans were counted."""

    indexes: list[ExistingIndex]
    seconds: float | None
    """None if scans are not counted."""
    since: str
    """Of what these seconds are, in words."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Needless:
    """An index that another one replaces."""

    index: ExistingIndex
    by: ExistingIndex

    @property
    def is_duplicate(self) -> bool:
        return self.index.keys == self.by.keys and self.index.include == self.by.include


def needless(indexes: Iterable[ExistingIndex]) -> list[Needless]:
    """The indexes that another one makes needless, the largest first; those others are all kept."""
    by_table: dict[tuple[str, str], list[ExistingIndex]] = {}
    for index in indexes:
        by_table.setdefault((index.schema, index.table), []).append(index)
    found: list[Needless] = []
    for group in by_table.values():
        # The longest, and of equal ones what must stay, then what is used most, replaces the others.
        kept: list[ExistingIndex] = []
        for index in sorted(group, key=_rank):
            by = next((other for other in kept if replaces(other, index)), None)
            if by is None:
                kept.append(index)
            else:
                found.append(Needless(index, by))
    return sorted(found, key=lambda each: (-(each.index.size or 0.0), each.index.full_name))


def _rank(index: ExistingIndex) -> tuple[int, int, bool, bool, int, str]:
    return (
        -len(index.order or index.keys),
        -len(index.include),
        not index.bound,
        not index.unique,
        -(index.scans or 0),
        index.name,
    )


def replaces(other: ExistingIndex, index: ExistingIndex) -> bool:
    """Whether ``other`` serves every query that ``index`` serves, and nothing else needs ``index``."""
    if index.unique or index.bound or not index.valid or not other.valid:
        return False
    if (other.method, other.predicate) != (index.method, index.predicate):
        return False
    if index.method.lower() != "btree":
        return (other.keys, other.include) == (index.keys, index.include)
    mine, theirs = index.order or index.keys, other.order or other.keys
    if theirs[: len(mine)] != mine:
        return False
    return index.include <= other.include | {key.text for key in other.keys}


def overlapping(indexes: Sequence[ExistingIndex]) -> list[Needless]:
    """Of InnoDB: indexes that another one begins with, without the order by primary key that they have."""
    spare = {each.index for each in needless(indexes)}
    kept = [index for index in indexes if index not in spare]
    found = []
    for index in kept:
        bare = replace(index, order=())
        by = next((other for other in kept if _begins(other, index, bare)), None) if index.order else None
        if by is not None:
            found.append(Needless(index, by))
    return found


def _begins(other: ExistingIndex, index: ExistingIndex, bare: ExistingIndex) -> bool:
    """Whether ``other`` has the keys of ``index`` first, and more; ``bare`` is it without InnoDB's own."""
    if (other.schema, other.table) != (index.schema, index.table) or len(other.keys) <= len(index.keys):
        return False
    return replaces(replace(other, order=()), bare)


def unused(indexes: Sequence[ExistingIndex]) -> list[ExistingIndex]:
    """Indexes that were never scanned and that nothing needs, the largest first.

    Neither those that another one makes needless, nor that other one: both must not be dropped.
    """
    pairs = needless(indexes)
    settled = {pair.index for pair in pairs} | {pair.by for pair in pairs}
    found = [
        each
        for each in indexes
        if each.scans == 0 and each.valid and not each.unique and not each.bound and each not in settled
    ]
    return sorted(found, key=lambda each: (-(each.size or 0.0), each.full_name))


def invalid(indexes: Iterable[ExistingIndex]) -> list[ExistingIndex]:
    """Indexes that queries cannot use, as a CREATE INDEX CONCURRENTLY that failed leaves one."""
    return [each for each in indexes if not each.valid]
