"""Depth and complexity of a GraphQL operation (pure).

Depth counts fields from the root; complexity is one for each field times the page sizes around it (``first``,
``last``, ``limit`` and the like, literal or variable, also within an input object), as GitHub and
graphql-cost-analysis count; fragments count where they are spread, aliases separately, introspection like
everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bot.core.query_optimizer.graphql.nodes import MAX_COMPLEXITY, SIZES, selections_of, size_of

MAX_PARTS = 100_000
"""Parts of a variable in which page sizes are looked for; one with more is too complex."""


class Measure:
    """Depth and complexity of one operation."""

    def __init__(self, operation: Any, fragments: dict[str, Any], variables: Mapping[str, Any]) -> None:
        self.operation = operation
        self.fragments = fragments
        self.sized_by_variables = False
        self.variables: dict[str, Any] = {}
        """Their values, or the nodes of their defaults."""
        self._sizes: dict[tuple[str, bool], int] = {}
        self.objects: set[str] = set()
        """Variables of a type that may be an input object."""
        for definition in operation.variable_definitions or ():
            name = definition.variable.name.value
            default = definition.default_value
            if name in variables:
                self.variables[name] = variables[name]
            elif default is not None:
                self.variables[name] = default
            if _may_hold_sizes(definition.type):
                self.objects.add(name)
        # (depth below, complexity) of fragments, computed in the order of ``ordered``.
        self.known: dict[str, tuple[int, int]] = {}

    def run(self, order: list[str]) -> tuple[int, int]:
        for name in order:
            self.known[name] = self._of(selections_of(self.fragments[name]))
        return self._of(selections_of(self.operation))

    def _of(self, selections: tuple[Any, ...]) -> tuple[int, int]:
        depth = complexity = 0
        for selection in selections:
            if selection.kind == "field":
                below, cost = self._of(selections_of(selection)) if selection.selection_set else (0, 0)
                below += 1
                cost = 1 + cost * self._page(selection)
            elif selection.kind == "inline_fragment":
                below, cost = self._of(selections_of(selection))
            else:
                below, cost = self.known.get(selection.name.value, (0, 0))
            depth = max(depth, below)
            complexity = min(MAX_COMPLEXITY, complexity + cost)
        return depth, complexity

    def _page(self, selection: Any) -> int:
        size = 1
        queue = [(a.name.value.lower() in SIZES, a.value) for a in selection.arguments or ()]
        for sized, value in queue:  # grows while it is read
            if value.kind == "variable":
                name = value.name.value
                if sized or name in self.objects:
                    self.sized_by_variables = True
                    size = max(size, self._given(name, sized=sized))
            elif value.kind == "object_value":
                queue += [(part.name.value.lower() in SIZES, part.value) for part in value.fields]
            elif value.kind == "list_value":
                queue += [(sized, item) for item in value.values]
            elif sized:
                size = max(size, size_of(getattr(value, "value", None)))
        return size

    def _given(self, name: str, *, sized: bool) -> int:
        """The largest page size in a variable; it is looked for once, however often the variable is used."""
        known = self._sizes.get((name, sized))
        if known is None:
            known = self._sizes[name, sized] = _largest(self.variables.get(name), sized=sized)
        return known


def _largest(given: Any, *, sized: bool) -> int:
    size = 0
    queue = [(sized, given)]
    for is_size, value in queue:  # grows while it is read
        parts: list[tuple[bool, Any]] = []
        kind = getattr(value, "kind", "")
        if kind == "object_value":
            parts = [(part.name.value.lower() in SIZES, part.value) for part in value.fields]
        elif kind == "list_value":
            parts = [(is_size, item) for item in value.values]
        elif isinstance(value, Mapping):
            parts = [(str(key).lower() in SIZES, item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            parts = [(is_size, item) for item in value]
        elif is_size:
            size = max(size, size_of(getattr(value, "value", value)))
        queue += [part for part in parts if part[0] or not isinstance(part[1], int | float | str)]
        if len(queue) > MAX_PARTS:
            return MAX_COMPLEXITY  # what cannot be measured is refused
    return size


def _may_hold_sizes(declared: Any) -> bool:
    while declared.kind != "named_type":
        declared = declared.type
    return declared.name.value not in _SCALARS


_SCALARS = frozenset(("Int", "Float", "String", "Boolean", "ID"))
