"""Depth and complexity of a GraphQL operation (pure).

Depth counts fields from the root; complexity is one for each field times the page sizes around it (``first``,
``last``, ``limit`` and the like, literal or variable), as GitHub and graphql-cost-analysis count; fragments
count where they are spread, aliases separately, introspection like everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bot.core.query_optimizer.graphql.nodes import MAX_COMPLEXITY, SIZES, selections_of


class Measure:
    """Depth and complexity of one operation."""

    def __init__(self, operation: Any, fragments: dict[str, Any], variables: Mapping[str, Any]) -> None:
        self.operation = operation
        self.fragments = fragments
        self.sized_by_variables = False
        self.variables: dict[str, Any] = {}
        for definition in operation.variable_definitions or ():
            name = definition.variable.name.value
            default = definition.default_value
            if name in variables:
                self.variables[name] = variables[name]
            elif default is not None and default.kind == "int_value":
                self.variables[name] = int(default.value)
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
        for argument in selection.arguments or ():
            if argument.name.value.lower() not in SIZES:
                continue
            value = argument.value
            if value.kind == "int_value":
                size = max(size, min(MAX_COMPLEXITY, int(value.value[:20])))
            elif value.kind == "variable":
                self.sized_by_variables = True
                given = self.variables.get(value.name.value)
                if isinstance(given, int) and not isinstance(given, bool):
                    size = max(size, min(MAX_COMPLEXITY, given))
        return size
