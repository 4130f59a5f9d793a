"""Names of tables as they are kept, and when two of them mean one table (pure).

A name is kept as it was qualified (``users``, ``public.users``), folded as its dialect folds. Two names
may mean one table if one ends with all the parts of the other: ``users`` may be any schema's, while
``a.users`` and ``b.users`` are two.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

GRAPHQL = "(graphql)"
"""The table that every GraphQL query reads and every mutation writes; no real table has this name."""

MONGODB = "(mongodb) "
"""What the names of MongoDB collections begin with; no real table has such a name."""


def is_mongodb(names: Iterable[str]) -> bool:
    """Whether these are collections of MongoDB."""
    return any(name.startswith(MONGODB) for name in names)


def collections_of(names: Iterable[str]) -> tuple[str, ...]:
    """These collections as people write them; without the marks of whole databases."""
    found = (name.removeprefix(MONGODB) for name in sorted(names) if name.startswith(MONGODB))
    return tuple([re.sub(r"\\(.)", r"\1", name.replace("/", ".", 1)) for name in found if name[-1:] != "/"])


ANY = "(any)"
"""Stands for every table: a reader of it depends on every write, a writer of it may have written anything."""

NEVER = "(never)"
"""Stands behind a view whose rows change without a write, as by now(): its readers are never cached."""

_POSTGRES_NAME = 63  # bytes; PostgreSQL cuts longer names, so two long ones may be one table
_PLAIN = re.compile(r"[\w$ -]+\Z")


def name_of(table: Any, dialect: str) -> str:
    """The name of a table as it is kept; "" for what is not a table's own name, such as a function."""
    args = table.args
    this = args.get("this")
    if not args.get("db") and this.__class__.__name__ == "Identifier":
        return fold(this.name, quoted=bool(this.args.get("quoted")), dialect=dialect)
    parts = []
    for part in (args.get("catalog"), args.get("db"), this):
        if part is None or part == "":
            continue
        if part.__class__.__name__ != "Identifier":
            return ""
        parts.append(fold(part.name, quoted=bool(part.args.get("quoted")), dialect=dialect))
    return parts[0] if len(parts) == 1 else ".".join(parts)


def fold(name: str, *, quoted: bool, dialect: str) -> str:
    """A part of a name as its database compares it.

    PostgreSQL keeps the case of quoted names alone; SQLite compares without case, and whether MySQL
    does depends on the server's machine, so without case is the safe side there. Of letters outside ASCII
    the case is never told apart.
    """
    if dialect == "postgres" and len(name) > _POSTGRES_NAME // 4:
        name = name.encode("utf-8", "replace")[:_POSTGRES_NAME].decode("utf-8", "ignore")
    if not name.isascii():
        # How a server compares other letters depends on its encoding, collation and file system: two names
        # that any of them may take for the same are the same here.
        name = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", name).casefold())
    elif not (quoted and dialect == "postgres"):
        name = name.lower()
    # A dot within a name must not look like a dot between names.
    if name.isidentifier() or _PLAIN.match(name):
        return name
    return '"' + name.replace('"', '""').replace(".", "\\.") + '"'


# Names that people give: "public.users", 'shop."Order"', `db`.`t`, [dbo].[t].
_PART = re.compile(r'\s*(?:"((?:[^"]|"")*)"|`((?:[^`]|``)*)`|\[([^\]]*)\]|([^."`\[\]]+?))\s*(?:\.|\Z)')


def names_given(name: str, dialect: str) -> list[str]:
    """The names, as kept, that a name written by a person may mean. Raises ValueError for no name.

    In PostgreSQL, mixed case without quotes may be meant either way: both names are returned.
    """
    parts: list[str] = []
    exact: list[str] = []
    position = 0
    while position < len(name):
        match = _PART.match(name, position)
        if match is None or match.end() == position:
            raise ValueError(name)
        plain = match.group(4)
        text = next(group for group in match.groups() if group is not None)
        quote = {1: '"', 2: "`", 3: "]"}.get(match.lastindex or 4, "")
        text = text.replace(quote * 2, quote) if quote and quote != "]" else text
        if not text.strip():
            raise ValueError(name)
        parts.append(fold(text, quoted=plain is None, dialect=dialect))
        exact.append(fold(text, quoted=True, dialect=dialect))
        position = match.end()
    if not parts or name.rstrip().endswith("."):
        raise ValueError(name)
    return list(dict.fromkeys((".".join(parts), ".".join(exact))))


@functools.lru_cache(maxsize=4096)
def parts_of(name: str) -> tuple[str, ...]:
    """The name, and the same without its qualifiers, one after the other: a.b.c, b.c, c."""
    pieces = re.split(r"(?<!\\)\.", name)
    return tuple(".".join(pieces[start:]) for start in range(len(pieces)))


@functools.lru_cache(maxsize=4096)
def read_marks(names: frozenset[str]) -> frozenset[str]:
    """What a result that read these tables is indexed by."""
    marks: set[str] = set()
    for name in names:
        whole, *shorter = parts_of(name)
        marks.add(whole)
        marks.update(f"?.{short}" for short in shorter)
    return frozenset(marks)


def write_marks(names: Iterable[str]) -> set[str]:
    """What the results that may have read one of these tables are indexed by.

    A result is indexed by ``s.t`` and ``?.t`` if it read s.t, and by ``t`` if it read t. A write to s.t
    concerns ``s.t`` and ``t``; one to t concerns ``t`` and ``?.t``; any write concerns ``ANY``.
    """
    marks: set[str] = set()
    for name in names:
        marks.update(parts_of(name))
        marks.add(f"?.{name}")
    if marks:
        marks.add(ANY)
    return marks
