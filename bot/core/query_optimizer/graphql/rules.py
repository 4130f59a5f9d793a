"""What the rules find in a GraphQL operation (pure)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bot.core.query_optimizer.graphql.nodes import MAX_COMPLEXITY, SIZES, selections_of
from bot.core.query_optimizer.models import Finding

MAX_PAGE = 1_000
"""Page size above which a finding says so."""

MANY_ALIASES = 10
"""Aliases of one field in one selection that are a finding."""

_LISTS = frozenset(("edges", "nodes"))


@dataclass
class _Seen:
    """What one pass over an operation and its fragments saw."""

    variables: set[str] = field(default_factory=set)
    literals: dict[str, None] = field(default_factory=dict)
    pages: dict[str, int] = field(default_factory=dict)
    unbounded: dict[str, None] = field(default_factory=dict)
    introspection: bool = False
    duplicates: dict[str, None] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)


def findings_of(
    operation: Any, fragments: dict[str, Any], order: list[str], endless: list[str], unknown: list[str]
) -> list[Finding]:
    seen = _Seen()
    for definition in (operation, *[fragments[name] for name in order]):
        _look_directives(definition, seen)
        queue = [definition]
        for node in queue:
            if node.selection_set is not None:
                _look(node, seen)
                queue += [item for item in node.selection_set.selections if item.kind != "fragment_spread"]
    declared = {item.variable.name.value for item in operation.variable_definitions or ()}
    unused = [name for name in fragments if name not in order]
    found: list[Finding] = []

    def say(code: str, name: str, severity: Any, names: Any, message: str, fix: str) -> None:
        if names:
            shown = ", ".join(list(names)[:5]) if not isinstance(names, bool) else ""
            found.append(finding(code, name, severity, message.format(shown), fix))

    say(
        "G002",
        "fragment_cycle",
        "error",
        endless,
        "The fragments {0} spread each other in a circle, so the query has no end.",
        "Break the circle.",
    )
    say(
        "G003",
        "unknown_fragment",
        "error",
        unknown,
        "The fragments {0} are spread and not defined.",
        "Define or remove them.",
    )
    say(
        "G004",
        "unused_fragment",
        "info",
        unused,
        "The fragments {0} are not used by this operation.",
        "Remove them: servers refuse unused ones.",
    )
    say(
        "G005",
        "unknown_variable",
        "error",
        sorted(seen.variables - declared),
        "The variables {0} are used and not declared.",
        "Declare them after the operation's name.",
    )
    say(
        "G007",
        "unused_variable",
        "warning",
        sorted(declared - seen.variables),
        "The variables {0} are declared and not used.",
        "Remove them: they also split the cache.",
    )
    say(
        "G008",
        "inline_values",
        "info",
        seen.literals,
        "The arguments {0} have their values in the text.",
        "Use variables: the text is parsed once, and values need no quoting.",
    )
    say(
        "G009",
        "unbounded_list",
        "warning",
        seen.unbounded,
        "The connections {0} are asked for without a page size.",
        "Give first: or last:.",
    )
    say(
        "G010",
        "large_page",
        "warning",
        [f"{name}: {size}" for name, size in seen.pages.items() if size > MAX_PAGE],
        "Pages of more than 1,000 are asked for ({0}).",
        "Fetch pages one after another, with a cursor.",
    )
    say(
        "G011",
        "many_aliases",
        "warning",
        [f"{name} ({times} times)" for name, times in seen.aliases.items() if times >= MANY_ALIASES],
        "One field is asked for again and again under aliases: {0}.",
        "Use a field that takes a list, if the schema has one.",
    )
    say(
        "G012",
        "introspection",
        "info",
        seen.introspection,
        "The query asks for the schema.",
        "Fetch the schema at build time, not while serving.",
    )
    say("G013", "duplicate_field", "info", seen.duplicates,
        "The fields {0} are selected twice in one place.", "Select them once.")  # fmt: skip
    return found


def _look(node: Any, seen: _Seen) -> None:
    times: dict[str, int] = {}
    texts: set[str] = set()
    for item in node.selection_set.selections:
        _look_directives(item, seen)
        if item.kind == "fragment_spread":
            continue
        if item.kind != "field":
            continue
        name = item.name.value
        seen.introspection = seen.introspection or name in ("__schema", "__type")
        sized = False
        for argument in item.arguments or ():
            key = argument.name.value
            _look_value(argument.value, f"{name}.{key}", seen, size=key.lower() in SIZES)
            sized = sized or key.lower() in SIZES
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


def _look_value(value: Any, where: str, seen: _Seen, *, size: bool) -> None:
    queue = [value]
    for item in queue:
        if item.kind == "variable":
            seen.variables.add(item.name.value)
        elif item.kind == "list_value":
            queue += item.values
        elif item.kind == "object_value":
            queue += [part.value for part in item.fields]
        elif item.kind == "int_value" and size:
            seen.pages[where.rpartition(".")[0]] = min(MAX_COMPLEXITY, int(item.value[:20]))
        elif item.kind in ("string_value", "int_value", "float_value") and where:
            seen.literals[where] = None


def finding(code: str, name: str, severity: Any, message: str, fix: str) -> Finding:
    return Finding(code, name, severity, message, fix)
