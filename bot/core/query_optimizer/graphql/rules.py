"""What the rules find in a GraphQL operation (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bot.core.query_optimizer.advice.rules.registry import Rule, register
from bot.core.query_optimizer.graphql.nodes import SIZES, selections_of, size_of
from bot.core.query_optimizer.models import Finding

MAX_PAGE = 1_000
"""Page size above which there is a finding."""

MANY_ALIASES = 10
"""Aliases of one field in one selection from which there is a finding."""

_LISTS = frozenset(("edges", "nodes"))


UNREADABLE = register("G001", "unreadable", "error")
SEVERAL_OPERATIONS = register("G006", "several_operations", "warning")
TOO_DEEP = register("G014", "too_deep", "error")
TOO_COMPLEX = register("G015", "too_complex", "error")


@dataclass
class _Seen:
    """What one pass over an operation and its fragments saw."""

    endless: list[str]
    """Fragments that spread each other in a circle."""
    unknown: list[str]
    """Fragments that are spread and not defined."""
    unused: list[str]
    """Fragments that are defined and not spread."""
    declared: set[str]
    """Variables that the operation declares."""
    variables: set[str] = field(default_factory=set)
    """Variables that it uses."""
    literals: dict[str, None] = field(default_factory=dict)
    pages: dict[str, int] = field(default_factory=dict)
    unbounded: dict[str, None] = field(default_factory=dict)
    introspection: bool = False
    duplicates: dict[str, None] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)


class _Check(NamedTuple):
    """A rule that reports names, and shows the first five of them."""

    rule: Rule
    names: Callable[[_Seen], Iterable[str]]
    message: str
    fix: str


_CHECKS = (
    _Check(
        register("G002", "fragment_cycle", "error"),
        lambda seen: seen.endless,
        "The fragments {0} spread each other in a circle, so the query has no end.",
        "Break the circle.",
    ),
    _Check(
        register("G003", "unknown_fragment", "error"),
        lambda seen: seen.unknown,
        "The fragments {0} are spread and not defined.",
        "Define or remove them.",
    ),
    _Check(
        register("G004", "unused_fragment", "info"),
        lambda seen: seen.unused,
        "The fragments {0} are not used by this operation.",
        "Remove them: servers refuse unused ones.",
    ),
    _Check(
        register("G005", "unknown_variable", "error"),
        lambda seen: sorted(seen.variables - seen.declared),
        "The variables {0} are used and not declared.",
        "Declare them after the operation's name.",
    ),
    _Check(
        register("G007", "unused_variable", "warning"),
        lambda seen: sorted(seen.declared - seen.variables),
        "The variables {0} are declared and not used.",
        "Remove them: they also split the cache.",
    ),
    _Check(
        register("G008", "inline_values", "info"),
        lambda seen: seen.literals,
        "The arguments {0} have their values in the text.",
        "Use variables: the text is parsed once, and values need no quoting.",
    ),
    _Check(
        register("G009", "unbounded_list", "warning"),
        lambda seen: seen.unbounded,
        "The connections {0} are asked for without a page size.",
        "Give first: or last:.",
    ),
    _Check(
        register("G010", "large_page", "warning"),
        lambda seen: [f"{name}: {size}" for name, size in seen.pages.items() if size > MAX_PAGE],
        "Pages of more than 1,000 are asked for ({0}).",
        "Fetch pages one after another, with a cursor.",
    ),
    _Check(
        register("G011", "many_aliases", "warning"),
        lambda seen: [f"{name} ({n} times)" for name, n in seen.aliases.items() if n >= MANY_ALIASES],
        "One field is asked for again and again under aliases: {0}.",
        "Use a field that takes a list, if the schema has one.",
    ),
    _Check(
        register("G012", "introspection", "info"),
        lambda seen: ["__schema"] if seen.introspection else [],
        "The query asks for the schema.",
        "Fetch the schema at build time, not while serving.",
    ),
    _Check(
        register("G013", "duplicate_field", "info"),
        lambda seen: seen.duplicates,
        "The fields {0} are selected twice in one place.",
        "Select them once.",
    ),
)


def findings_of(
    operation: Any, fragments: dict[str, Any], order: list[str], endless: list[str], unknown: list[str]
) -> list[Finding]:
    """``order``, ``endless`` and ``unknown`` are what :func:`.nodes.ordered` returns about the fragments."""
    seen = _Seen(
        endless=endless,
        unknown=unknown,
        unused=[name for name in fragments if name not in order],
        declared={item.variable.name.value for item in operation.variable_definitions or ()},
    )
    for definition in (operation, *[fragments[name] for name in order]):
        _look_directives(definition, seen)
        queue = [definition]
        for node in queue:
            if node.selection_set is not None:
                _look(node, seen)
                queue += [item for item in node.selection_set.selections if item.kind != "fragment_spread"]
    found: list[Finding] = []
    for check in _CHECKS:
        names = list(check.names(seen))
        if names:
            shown = ", ".join(names[:5])
            found.append(check.rule.finding((check.message.format(shown), check.fix)))
    return found


def _look(node: Any, seen: _Seen) -> None:
    times: dict[str, int] = {}
    texts: set[str] = set()
    for item in node.selection_set.selections:
        _look_directives(item, seen)
        if item.kind != "field":
            continue
        name = item.name.value
        seen.introspection = seen.introspection or name in ("__schema", "__type")
        sized = False
        for argument in item.arguments or ():
            key = argument.name.value
            size = _look_value(argument.value, f"{name}.{key}", seen, size=key.lower() in SIZES)
            sized = sized or size
        if not sized and any(s.kind == "field" and s.name.value in _LISTS for s in selections_of(item)):
            seen.unbounded[name] = None
        label = item.alias.value if item.alias is not None else name
        if item.alias is not None and item.alias.value != name:
            times[name] = times.get(name, 0) + 1
        if label in texts and item.selection_set is None:
            seen.duplicates[label] = None
        texts.add(label)
    for name, count in times.items():
        seen.aliases[name] = max(seen.aliases.get(name, 0), count)


def _look_directives(node: Any, seen: _Seen) -> None:
    for directive in node.directives or ():
        for argument in directive.arguments or ():
            _look_value(argument.value, "", seen, size=False)


def _look_value(value: Any, where: str, seen: _Seen, *, size: bool) -> bool:
    """Look at an argument; returns whether it is a page size, or an object that has one."""
    queue = [(size, value)]
    found = False
    for sized, item in queue:
        found = found or sized
        if item.kind == "variable":
            seen.variables.add(item.name.value)
        elif item.kind == "list_value":
            queue += [(sized, each) for each in item.values]
        elif item.kind == "object_value":
            queue += [(bool(where) and part.name.value.lower() in SIZES, part.value) for part in item.fields]
        elif item.kind in ("string_value", "int_value", "float_value") and where:
            page = size_of(item.value) if sized else 0
            name = where.rpartition(".")[0]
            if page:
                seen.pages[name] = max(page, seen.pages.get(name, 0))
            else:
                seen.literals[where] = None
    return found
