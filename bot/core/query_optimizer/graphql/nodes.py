"""What a parsed GraphQL text consists of: selections, and fragments in the order of their use (pure)."""

from __future__ import annotations

from typing import Any

MAX_COMPLEXITY = 10**12
"""The largest complexity that is counted."""

SIZES = frozenset(
    ("first", "last", "limit", "pagesize", "page_size", "perpage", "per_page", "take", "count", "top")
)


def size_of(value: Any) -> int:
    """A page size as servers read it: a whole number, a float or a text of either; 0 if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0
    try:
        size = float(value[:40]) if isinstance(value, str) else value
    except ValueError:
        return 0
    if not size > 0:  # or NaN
        return 0
    return int(min(MAX_COMPLEXITY, size))


def definitions(document: Any) -> tuple[list[Any], dict[str, Any]]:
    found = [d for d in document.definitions if d.kind == "operation_definition"]
    fragments = {d.name.value: d for d in document.definitions if d.kind == "fragment_definition"}
    return found, fragments


def selections_of(node: Any) -> tuple[Any, ...]:
    return tuple(node.selection_set.selections) if node.selection_set is not None else ()


def spreads_in(node: Any) -> list[str]:
    """Names of the fragments spread in a definition, each once."""
    found: dict[str, None] = {}
    queue = list(selections_of(node))
    for selection in queue:
        if selection.kind == "fragment_spread":
            found[selection.name.value] = None
        elif selection.selection_set is not None:
            queue += selection.selection_set.selections
    return list(found)


def ordered(operation: Any, fragments: dict[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """(the fragments in use, each after those that it spreads; a cycle of fragments; unknown fragments)."""
    order: list[str] = []
    unknown: list[str] = []
    state: dict[str, int] = {}  # 1: begun, 2: done
    path: list[str] = []
    stack: list[tuple[str, bool]] = [(name, False) for name in reversed(spreads_in(operation))]
    circle: list[str] = []
    while stack:
        name, leave = stack.pop()
        if leave:
            state[name] = 2
            path.pop()
            order.append(name)
            continue
        if state.get(name) == 2:
            continue
        if state.get(name) == 1:
            circle = circle or path[path.index(name) :]
            continue
        if name not in fragments:
            if name not in unknown:
                unknown.append(name)
            continue
        state[name] = 1
        path.append(name)
        stack.append((name, True))
        stack += [(other, False) for other in reversed(spreads_in(fragments[name]))]
    return order, circle, unknown


def root_fields_of(operation: Any, fragments: dict[str, Any]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    seen: set[str] = set()
    queue = list(selections_of(operation))
    for selection in queue:
        if selection.kind == "field":
            found[selection.name.value] = None
        elif selection.kind == "inline_fragment":
            queue += selections_of(selection)
        elif selection.name.value in fragments and selection.name.value not in seen:
            seen.add(selection.name.value)
            queue += selections_of(fragments[selection.name.value])
    return tuple(found)
