"""One set of indexes for many statements: an index also serves those that want its beginning (pure).

A statement wants columns that are compared for equality, in any order, and after them others in a given
order. Such wishes are ordered partitions: blocks of columns, within which the order is free. Two of them can
be served by one index if the blocks of both can be refined to one sequence that begins with all of each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bot.core.query_optimizer.advice.index_ddl import MAX_NAME, index_name
from bot.core.query_optimizer.models import IndexSuggestion

Blocks = tuple[frozenset[str], ...]
"""Keys as the DDL lists them; within a block in any order."""

MAX_KEYS = 8
"""Keys of a merged index."""


@dataclass(slots=True)
class Wish:
    """An index that would serve a shape."""

    suggestion: IndexSuggestion
    shape: str
    """The shape's fingerprint."""
    seconds: float = 0.0
    """What it would save, of all the shape's time, if this index alone does it."""
    together: float = 0.0
    """What it would save together with other indexes of the shape."""
    dialect: str = ""


@dataclass(slots=True)
class MergedIndex:
    """An index that serves one wish or several."""

    suggestion: IndexSuggestion
    blocks: Blocks
    dialect: str
    wishes: list[Wish] = field(default_factory=list)
    ddl: str = ""

    @property
    def shapes(self) -> list[str]:
        """Fingerprints of the shapes that it serves, those that it saves most first."""
        ordered = sorted(self.wishes, key=lambda wish: -(wish.seconds + wish.together))
        return list(dict.fromkeys(wish.shape for wish in ordered))

    @property
    def seconds(self) -> float:
        """What it saves alone."""
        return sum(wish.seconds for wish in self.wishes)

    @property
    def together(self) -> float:
        """What it saves with others of the set, which tell the same seconds."""
        return sum(wish.together for wish in self.wishes)

    @property
    def weight(self) -> tuple[float, float, int]:
        return self.seconds + self.together, self.seconds, len(self.wishes)


def merged(
    wishes: Iterable[Wish], most: int, taken: frozenset[str] = frozenset()
) -> tuple[list[MergedIndex], list[MergedIndex]]:
    """(the indexes that save most, at most ``most`` of them; those that are left out).

    ``taken`` are names, in lower case, that no new index may have.

    Wishes that save more come first: where an index can serve the one wish or the other, it serves that.
    """
    found: list[MergedIndex] = []
    for wish in sorted(wishes, key=lambda each: (-each.seconds - each.together, each.suggestion.ddl)):
        _place(wish, found)
    # An index may have become the beginning of one that was made later.
    kept: list[MergedIndex] = []
    for index in sorted(found, key=lambda each: -sum(map(len, each.blocks))):
        host = next((other for other in kept if _merge(other, index)), None)
        if host is None:
            kept.append(index)
    kept.sort(key=lambda each: each.weight, reverse=True)
    _name(kept, taken)
    return kept[:most], kept[most:]


def not_served(
    wishes: Iterable[Wish], indexes: Sequence[MergedIndex], taken: frozenset[str] = frozenset()
) -> list[Wish]:
    """The wishes that none of the indexes serves as wide as it is; the others are added to theirs."""
    rest = []
    for wish in wishes:
        made = MergedIndex(wish.suggestion, blocks_of(wish.suggestion), wish.dialect, [wish])
        if not any(_merge(index, made, widen=False) for index in indexes):
            rest.append(wish)
    _name(indexes, taken)
    return rest


def _name(indexes: Iterable[MergedIndex], taken: frozenset[str]) -> None:
    names = set(taken)
    for index in indexes:
        index.ddl = _ddl(index, names)


def _place(wish: Wish, found: list[MergedIndex]) -> None:
    made = MergedIndex(wish.suggestion, blocks_of(wish.suggestion), wish.dialect, [wish])
    for index in sorted(found, key=lambda each: each.weight, reverse=True):
        if _merge(index, made):
            return
    found.append(made)


def _merge(index: MergedIndex, other: MergedIndex, *, widen: bool = True) -> bool:
    """Make ``index`` serve what the other serves, if it can; ``widen``: whether it may get more keys."""
    if _kind(index) != _kind(other):
        return False
    one, two = index.suggestion, other.suggestion
    if index.blocks == other.blocks and one.method != "btree":
        blocks: Blocks | None = index.blocks
    else:
        blocks = refined(index.blocks, other.blocks) if one.method == "btree" else None
    if blocks is None or sum(map(len, blocks)) > MAX_KEYS:
        return False
    if not widen and (
        sum(map(len, blocks)) > sum(map(len, index.blocks)) or not {*two.include} <= {*one.include}
    ):
        return False
    if one.include != two.include:
        keys = frozenset[str]().union(*blocks)
        if not {*one.include, *two.include} <= {*(one.include or two.include), *keys}:
            return False  # a wider index than either statement asks for
        longer = one if one.include else two
        index.suggestion = longer
    index.blocks = blocks
    index.wishes += other.wishes
    return True


def _kind(index: MergedIndex) -> tuple[str, ...]:
    each = index.suggestion
    return index.dialect, each.table, each.method, each.predicate, each.extension


def refined(one: Blocks, other: Blocks) -> Blocks | None:
    """The blocks that serve both; None if no order of columns does."""
    found: list[frozenset[str]] = []
    left, right = list(one), list(other)
    while left and right:
        first, second = left[0], right[0]
        common = first & second
        if common != first and common != second:
            return None
        found.append(common)
        for blocks, block in ((left, first), (right, second)):
            if block == common:
                del blocks[0]
            else:
                blocks[0] = block - common
    # A column that comes again later in the other is served by its first place only if it is the same key.
    rest = left or right
    seen = frozenset[str]().union(*found)
    if any(block & seen for block in rest):
        return None
    return (*found, *rest)


def blocks_of(suggestion: IndexSuggestion) -> Blocks:
    keys = keys_of(suggestion.ddl)
    equal = len(suggestion.equality_columns)
    if suggestion.method != "btree":
        return tuple(frozenset((key,)) for key in keys)
    head = (frozenset(keys[:equal]),) if equal else ()
    return (*head, *[frozenset((key,)) for key in keys[equal:]])


def keys_of(ddl: str) -> list[str]:
    """The keys of a CREATE INDEX, as it lists them."""
    start, end = _list_of(ddl)
    return _split(ddl[start + 1 : end])


def _list_of(ddl: str) -> tuple[int, int]:
    """Where the list of keys opens and closes."""
    start, depth = -1, 0
    for place, letter in _outside_quotes(ddl):
        if letter == "(":
            if depth == 0:
                start = place
            depth += 1
        elif letter == ")":
            depth -= 1
            if depth == 0:
                return start, place
    raise ValueError(f"no list of keys: {ddl[:200]}")


def _split(listed: str) -> list[str]:
    parts, begin, depth = [], 0, 0
    for place, letter in _outside_quotes(listed):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append(listed[begin:place].strip())
            begin = place + 1
    return [*parts, listed[begin:].strip()]


def _outside_quotes(text: str) -> Iterable[tuple[int, str]]:
    quote = ""
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'`":
            quote = letter
        else:
            yield place, letter


def _ddl(index: MergedIndex, names: set[str]) -> str:
    """The statement that creates it, with the keys in the order that serves all; its name joins ``names``."""
    suggestion = index.suggestion
    keys = _ordered(index)
    ddl = suggestion.ddl
    before, _, rest = ddl.partition(" ON ")
    within, _, name = before.removeprefix("CREATE INDEX ").rpartition(".")
    if keys != keys_of(ddl):
        name = index_name(suggestion.table.rpartition(".")[2], map(_word, keys))
        start, end = _list_of(rest)
        rest = f"{rest[: start + 1]}{', '.join(keys)}{rest[end:]}"
        held = [each for each in suggestion.include if each not in keys]
        if len(held) != len(suggestion.include):
            old = f" INCLUDE ({', '.join(suggestion.include)})"
            rest = rest.replace(old, f" INCLUDE ({', '.join(held)})" if held else "", 1)
    unique, number = name, 1
    while unique.lower() in names:
        number += 1
        unique = f"{name[: MAX_NAME - 5]}_{number}"
    names.add(unique.lower())
    return f"CREATE INDEX {within + '.' if within else ''}{unique} ON {rest}"


def name_in(ddl: str) -> str:
    """The name that a CREATE INDEX gives, in lower case."""
    return ddl.partition(" ON ")[0].removeprefix("CREATE INDEX ").rpartition(".")[2].lower()


def _word(key: str) -> str:
    """A key as a part of a name."""
    return "_".join(re.findall(r"\w+", key.removesuffix(" DESC")))


def _ordered(index: MergedIndex) -> list[str]:
    """The keys; where the order is free, as the statement lists them that saves most."""
    preferred: Sequence[str] = list(
        dict.fromkeys(key for wish in index.wishes for key in keys_of(wish.suggestion.ddl))
    )
    return [key for block in index.blocks for key in sorted(block, key=preferred.index)]
