"""Every node of a statement, found in one walk and sorted by class (pure).

Rules, effects and index suggestions use these lists and never walk the tree themselves, so that the cost of
an analysis does not grow with the number of rules.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any


class Census:
    """A statement's nodes by their exact class, each list from the outside in, left to right."""

    __slots__ = ("_nodes", "_sources", "by_class", "statement")

    def __init__(self, statement: Any) -> None:
        self.statement = statement
        self.by_class: dict[type, list[Any]] = {}
        self._sources: frozenset[str] | None = None
        expression, leaves = _classes()
        by_class = self.by_class
        queue = self._nodes = [statement]
        for node in queue:  # grows while it is read
            kind = node.__class__
            found = by_class.get(kind)
            if found is None:
                by_class[kind] = [node]
            else:
                found.append(node)
            if kind in leaves:
                continue
            for value in node.args.values():
                if value.__class__ is list:
                    queue += [item for item in value if isinstance(item, expression)]
                elif isinstance(value, expression):
                    queue.append(value)

    def all(self, *classes: type) -> list[Any]:
        """The nodes of exactly these classes."""
        by_class = self.by_class
        if len(classes) == 1:
            return by_class.get(classes[0], [])
        return [node for kind in classes for node in by_class.get(kind, ())]

    @property
    def sources(self) -> frozenset[str]:
        """Names, in lower case, that tables go by."""
        if self._sources is None:
            names = set()
            for table in self.by_class.get(_table(), ()):
                args = table.args
                alias = args.get("alias")
                named = args.get("this") if alias is None else alias.args.get("this")
                name = None if named is None else named.args.get("this")
                if name.__class__ is str:
                    names.add(name.lower())
            self._sources = frozenset(names)
        return self._sources

    def has(self, classes: Iterable[type]) -> bool:
        return not self.by_class.keys().isdisjoint(classes)

    def release(self) -> None:
        """Take the tree apart, so that it is freed at once."""
        for node in self._nodes:
            node.args.clear()


@functools.cache
def _classes() -> tuple[type, frozenset[type]]:
    from sqlglot import exp

    # The nodes below these add no information.
    leaves = (exp.Column, exp.Literal, exp.Identifier, exp.Boolean, exp.Null, exp.DataType, exp.Hint)
    return exp.Expr, frozenset(leaves)


@functools.cache
def _table() -> type:
    from sqlglot import exp

    return exp.Table


@functools.lru_cache(maxsize=1024)
def functions_among(kinds: tuple[type, ...]) -> tuple[type, ...]:
    """Those of a statement's classes that are calls."""
    from sqlglot import exp

    return tuple(kind for kind in kinds if issubclass(kind, exp.Func) and not issubclass(kind, exp.Connector))
