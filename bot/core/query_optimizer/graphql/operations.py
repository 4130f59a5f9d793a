"""What a GraphQL text means: its operation, normal form, depth, complexity, and advice (pure).

Parsed by graphql-core, which is imported on the first GraphQL text and may be missing. Nesting is
counted before anything recurses, fragments are measured once each in the order of their use, so the
work is linear in the text, whatever the fragments multiply to.

Depth counts fields from the root; complexity is one for each field times the page sizes around it
(``first``, ``last``, ``limit`` and the like, literal or variable), as GitHub and graphql-cost-analysis
count; fragments count where they are spread, aliases each for themselves, introspection like all else.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from msgspec import structs

from bot.core.query_optimizer.models import Advice, Analysis, Finding, GraphQLReading, QueryType
from bot.core.query_optimizer.sql.names import GRAPHQL

MAX_TEXT = 200_000
"""Characters above which a text is not parsed."""

MAX_TOKENS = 15_000
"""Tokens above which a text is not parsed; graphql-java's default."""

MAX_OF_ALL = 200_000
"""Characters times operations of one text: each operation is read with the fragments that it shares."""

MAX_NESTING = 120
"""Brackets in one another above which a text is not parsed: the parser recurses."""

MAX_COMPLEXITY = 10**12
"""Where counting ends."""

MAX_PAGE = 1_000
"""Page size above which a finding says so."""

MANY_ALIASES = 10
"""Aliases of one field in one selection that are a finding."""

MISSING = "graphql-core is not installed: pip install graphql-core"

_START = re.compile(
    r"[\s,\ufeff]*(?:#[^\n\r]*[\n\r][\s,]*)*(?:\{(?!\s*\")|(query|mutation|subscription|fragment)\b(?=[\s,]*[\w({@#\ufeff]))"
)
_BRACKETS = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"""|"(?:[^"\\\n\r]|\\.)*"|#[^\n\r]*|([{(\[])|([})\]])', re.DOTALL
)
_SIZES = frozenset(
    ("first", "last", "limit", "pagesize", "page_size", "perpage", "per_page", "take", "count", "top")
)
_LISTS = frozenset(("edges", "nodes"))


def is_graphql(text: str) -> bool:
    """Whether a text begins as a GraphQL operation does, and as no SQL."""
    return _START.match(text) is not None


def operations(text: str) -> dict[str | None, GraphQLReading]:
    """What a text means, by name of the operation; under None, without a name given."""
    problem, too_large = _unreadable(text)
    if problem:
        return {None: _nothing(text, problem, too_large)}
    try:
        from graphql import GraphQLError, parse
    except ImportError:
        return {None: _nothing(text, MISSING, too_large=False)}
    try:
        document = parse(text, no_location=True, max_tokens=MAX_TOKENS)
    except GraphQLError as error:
        large = "tokens" in str(error.message)
        return {None: _nothing(text, f"it is not GraphQL: {error.message:.100}", large)}
    except RecursionError:
        return {None: _nothing(text, "it is nested too deeply", too_large=True)}
    return _operations(text, document)


def complexity_with(text: str, name: str | None, variables: Mapping[str, Any]) -> int:
    """The complexity of an operation whose page sizes are variables, with their values."""
    from graphql import parse

    document = parse(text, no_location=True, max_tokens=MAX_TOKENS)
    found, fragments = _definitions(document)
    operation = next((o for o in found if o.name is not None and o.name.value == name), found[0])
    order, _, _ = _ordered(operation, fragments)
    return _Measure(operation, fragments, variables).run(order)[1]


def _unreadable(text: str) -> tuple[str, bool]:
    if len(text) > MAX_TEXT:
        return f"it has {len(text):,} characters, more than {MAX_TEXT:,}", True
    depth = 0
    for match in _BRACKETS.finditer(text):
        kind = match.lastindex
        if kind == 1:
            depth += 1
            if depth > MAX_NESTING:
                return f"it is nested more than {MAX_NESTING} levels deep", True
        elif kind == 2:
            depth -= 1
    return "", False


def _nothing(text: str, problem: str, too_large: bool) -> GraphQLReading:
    match = _START.match(text)
    kind = (match.group(1) if match is not None else None) or "query"
    shown = "(a GraphQL text that cannot be shown without its data)"
    return GraphQLReading(
        kind="" if kind == "fragment" else kind,
        normal_form=text,
        shape=shown,
        fingerprint=_digest(text),
        problem=problem,
        too_large=too_large,
        findings=(
            _finding(
                "G001",
                "unreadable",
                "error",
                f"The text is not analysed: {problem}.",
                "Send a smaller, valid query.",
            ),
        )
        if problem is not MISSING
        else (),
    )


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _definitions(document: Any) -> tuple[list[Any], dict[str, Any]]:
    found = [d for d in document.definitions if d.kind == "operation_definition"]
    fragments = {d.name.value: d for d in document.definitions if d.kind == "fragment_definition"}
    return found, fragments


def _operations(text: str, document: Any) -> dict[str | None, GraphQLReading]:
    found, fragments = _definitions(document)
    if not found:
        return {None: _nothing(text, "it holds no operation", too_large=False)}
    if len(found) > 1 and len(found) * len(text) > MAX_OF_ALL:
        problem = f"it holds {len(found):,} operations in {len(text):,} characters: send fewer at a time"
        return {None: _nothing(text, problem, too_large=True)}
    read = {
        operation.name.value if operation.name is not None else None: _read(operation, fragments)
        for operation in found
    }
    if len(found) == 1:
        only = next(iter(read.values()))
        # A server takes the only operation whether it is named or not.
        read[None] = only
    else:
        kinds = {reading.kind for reading in read.values()}
        worst = next(kind for kind in ("subscription", "mutation", "query") if kind in kinds)
        message = "it holds several operations and no operation name was given"
        read[None] = GraphQLReading(
            kind=worst,
            normal_form=text,
            shape=" ".join(reading.shape for reading in read.values()),
            fingerprint=_digest(text),
            root_fields=tuple(dict.fromkeys(f for r in read.values() for f in r.root_fields)),
            depth=max(reading.depth for reading in read.values()),
            complexity=max(reading.complexity for reading in read.values()),
            problem=message,
            too_large=any(reading.too_large for reading in read.values()),
            findings=(
                _finding("G006", "several_operations", "warning",
                         "The text holds several operations, and which one runs is not told.",
                         "Send one operation, or its name as operation_name."),
            ),
        )  # fmt: skip
    return read


def _read(operation: Any, fragments: dict[str, Any]) -> GraphQLReading:
    order, endless, unknown = _ordered(operation, fragments)
    kind = operation.operation.value
    printer = _Printer(values=True)
    normal = printer.operation(operation, fragments, order)
    shape = _Printer(values=False).operation(operation, fragments, order)
    problem = ""
    if endless:
        problem = f"its fragments form a circle: {' -> '.join([*endless, endless[0]])}"
    elif unknown:
        problem = f"it spreads the unknown fragment {unknown[0]}"
    measure = _Measure(operation, fragments, {})
    depth, complexity = (0, 0) if problem else measure.run(order)
    return GraphQLReading(
        kind=kind,
        normal_form=normal,
        shape=shape,
        fingerprint=_digest(shape),
        root_fields=_root_fields(operation, fragments),
        depth=depth,
        complexity=complexity,
        sized_by_variables=measure.sized_by_variables,
        problem=problem,
        too_large=bool(endless),
        findings=tuple(_advise(operation, fragments, order, endless, unknown)),
    )


def _selections(node: Any) -> tuple[Any, ...]:
    return tuple(node.selection_set.selections) if node.selection_set is not None else ()


def _spreads(node: Any) -> list[str]:
    """Names of the fragments spread in a definition, each once."""
    found: dict[str, None] = {}
    queue = list(_selections(node))
    for selection in queue:
        if selection.kind == "fragment_spread":
            found[selection.name.value] = None
        elif selection.selection_set is not None:
            queue += selection.selection_set.selections
    return list(found)


def _ordered(operation: Any, fragments: dict[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """(the fragments in use, each after those it spreads; a circle of them; unknown ones)."""
    order: list[str] = []
    unknown: list[str] = []
    state: dict[str, int] = {}  # 1: begun, 2: done
    path: list[str] = []
    stack: list[tuple[str, bool]] = [(name, False) for name in reversed(_spreads(operation))]
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
        stack += [(other, False) for other in reversed(_spreads(fragments[name]))]
    return order, circle, unknown


def _root_fields(operation: Any, fragments: dict[str, Any]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    seen: set[str] = set()
    queue = list(_selections(operation))
    for selection in queue:
        if selection.kind == "field":
            found[selection.name.value] = None
        elif selection.kind == "inline_fragment":
            queue += _selections(selection)
        elif selection.name.value in fragments and selection.name.value not in seen:
            seen.add(selection.name.value)
            queue += _selections(fragments[selection.name.value])
    return tuple(found)


class _Measure:
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
        # (depth below, complexity) of fragments, told in the order of ``_ordered``.
        self.known: dict[str, tuple[int, int]] = {}

    def run(self, order: list[str]) -> tuple[int, int]:
        for name in order:
            self.known[name] = self._of(_selections(self.fragments[name]))
        return self._of(_selections(self.operation))

    def _of(self, selections: tuple[Any, ...]) -> tuple[int, int]:
        depth = complexity = 0
        for selection in selections:
            if selection.kind == "field":
                below, cost = self._of(_selections(selection)) if selection.selection_set else (0, 0)
                below += 1
                cost = 1 + cost * self._page(selection)
            elif selection.kind == "inline_fragment":
                below, cost = self._of(_selections(selection))
            else:
                below, cost = self.known.get(selection.name.value, (0, 0))
            depth = max(depth, below)
            complexity = min(MAX_COMPLEXITY, complexity + cost)
        return depth, complexity

    def _page(self, selection: Any) -> int:
        size = 1
        for argument in selection.arguments or ():
            if argument.name.value.lower() not in _SIZES:
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


class _Printer:
    """Prints what matters of an operation, in one way. Recursion is bounded by ``MAX_NESTING``."""

    def __init__(self, *, values: bool) -> None:
        self.values = values

    def operation(self, operation: Any, fragments: dict[str, Any], order: list[str]) -> str:
        kind = operation.operation.value
        variables = ", ".join(self._variable(item) for item in operation.variable_definitions or ())
        head = f"{kind}({variables})" if variables else kind if kind != "query" else ""
        parts = [f"{head}{self._directives(operation)}{self._selection_set(operation)}".strip()]
        for name in sorted(order):
            fragment = fragments[name]
            on = fragment.type_condition.name.value
            parts.append(
                f"fragment {name} on {on}{self._directives(fragment)}{self._selection_set(fragment)}"
            )
        return " ".join(parts)

    def _variable(self, item: Any) -> str:
        default = f" = {self._value(item.default_value)}" if item.default_value is not None else ""
        return f"${item.variable.name.value}: {_type(item.type)}{default}{self._directives(item)}"

    def _selection_set(self, node: Any) -> str:
        if node.selection_set is None:
            return ""
        return " { " + " ".join([self._selection(item) for item in node.selection_set.selections]) + " }"

    def _selection(self, item: Any) -> str:
        if item.kind == "field":
            alias = f"{item.alias.value}: " if item.alias is not None else ""
            head = f"{alias}{item.name.value}{self._arguments(item)}"
        elif item.kind == "inline_fragment":
            on = f" on {item.type_condition.name.value}" if item.type_condition is not None else ""
            head = f"...{on}"
        else:
            return f"...{item.name.value}{self._arguments(item)}{self._directives(item)}"
        return f"{head}{self._directives(item)}{self._selection_set(item)}"

    def _arguments(self, item: Any) -> str:
        # Their order means nothing.
        given = sorted(
            f"{argument.name.value}: {self._value(argument.value)}"
            for argument in getattr(item, "arguments", None) or ()
        )
        return f"({', '.join(given)})" if given else ""

    def _directives(self, item: Any) -> str:
        return "".join(
            [f" @{directive.name.value}{self._arguments(directive)}" for directive in item.directives or ()]
        )

    def _value(self, value: Any) -> str:
        kind = value.kind
        if kind == "variable":
            return f"${value.name.value}"
        if kind == "object_value":
            fields = sorted(f"{item.name.value}: {self._value(item.value)}" for item in value.fields)
            return "{" + ", ".join(fields) + "}"
        if kind == "list_value":
            inside = [self._value(item) for item in value.values]
            if not self.values and inside and all(item == "?" for item in inside):
                return "[?]"
            return "[" + ", ".join(inside) + "]"
        if kind in ("enum_value", "boolean_value", "null_value"):
            return (
                "null"
                if kind == "null_value"
                else str(value.value).lower()
                if kind[0] == "b"
                else str(value.value)
            )
        if not self.values:
            return "?"
        return json.dumps(value.value) if kind == "string_value" else str(value.value)


def _type(node: Any) -> str:
    if node.kind == "non_null_type":
        return f"{_type(node.type)}!"
    if node.kind == "list_type":
        return f"[{_type(node.type)}]"
    return str(node.name.value)


_TYPES = {
    "query": QueryType.QUERY,
    "mutation": QueryType.MUTATION,
    "subscription": QueryType.SUBSCRIPTION,
    "": QueryType.UNKNOWN,
}


def analyze_graphql(text: str) -> Analysis:
    """What a GraphQL text means to the cache; its operations by name if it holds several."""
    read = operations(text)
    found = _analysis(read[None])
    named = {name: _analysis(reading) for name, reading in read.items() if name is not None}
    return found if len(named) < 2 else structs.replace(found, operations=named)


def _analysis(reading: GraphQLReading) -> Analysis:
    kind = _TYPES[reading.kind]
    own = frozenset((GRAPHQL,))
    why = reading.problem if kind is QueryType.QUERY else f"{reading.kind or 'it'} is no query"
    return Analysis(
        query_type=kind,
        fingerprint=reading.fingerprint,
        normal_form=reading.shape,
        reads=own if kind is QueryType.QUERY else frozenset(),
        writes=own if kind in (QueryType.MUTATION, QueryType.UNKNOWN) else frozenset(),
        writes_anything=False,
        not_cacheable=why,
        graphql=reading,
    )


def variables_of(params: Any) -> Mapping[str, Any]:
    """The variables among the parameters of a query, or the arguments of a function that runs it."""
    if not isinstance(params, Mapping):
        return {}
    for name in ("variables", "variable_values"):
        if isinstance(params.get(name), Mapping):
            return dict(params[name])
    return params


def operation_name_of(params: Any) -> str | None:
    """The name of the operation to run, among the parameters; None if there is none."""
    if not isinstance(params, Mapping):
        return None
    name = params.get("operation_name", params.get("operationName"))
    return name if isinstance(name, str) else None


def measured(text: str, analysis: Analysis, params: Any) -> tuple[int, int]:
    """(depth, complexity) of an operation with the variables among ``params``."""
    reading = analysis.graphql
    if reading is None:
        return 0, 0
    variables = variables_of(params)
    if not reading.sized_by_variables or not variables:
        return reading.depth, reading.complexity
    return reading.depth, complexity_with(text, operation_name_of(params), variables)


def excess(
    text: str, analysis: Analysis, params: Any, max_depth: int, max_complexity: int
) -> tuple[str, int | None, int | None]:
    """(why an operation exceeds the limits, its depth and complexity); "" if it does not."""
    reading = analysis.graphql
    if reading is None:
        return "", None, None
    if reading.too_large:
        return f"GraphQL query refused: {reading.problem}", None, None
    depth, complexity = measured(text, analysis, params)
    if depth > max_depth:
        return f"GraphQL query refused: depth = {depth}, allowed are {max_depth}", depth, complexity
    if complexity > max_complexity:
        message = f"GraphQL query refused: complexity = {complexity}, allowed are {max_complexity}"
        return message, depth, complexity
    return "", depth, complexity


def advise_graphql(text: str, analysis: Analysis, params: Any, max_depth: int, max_complexity: int) -> Advice:
    """Findings on a GraphQL text, those about the limits among them."""
    reading = analysis.graphql
    findings = list(reading.findings) if reading is not None else []
    message, depth, complexity = excess(text, analysis, params, max_depth, max_complexity)
    if message and depth is not None and reading is not None:
        if depth > max_depth:
            findings.append(
                _finding("G014", "too_deep", "error",
                         f"The query is {depth} fields deep; {max_depth} are allowed.",
                         "Ask for less at a time.")
            )  # fmt: skip
        if complexity is not None and complexity > max_complexity:
            findings.append(
                _finding("G015", "too_complex", "error",
                         f"The query may cost {complexity} fields; {max_complexity} are allowed.",
                         "Ask for smaller pages or fewer fields.")
            )  # fmt: skip
    if reading is not None and complexity is not None:
        analysis = structs.replace(analysis, graphql=replace(reading, complexity=complexity))
    return Advice(
        query=text,
        analysis=analysis,
        optimized_query=text,
        findings=tuple(findings),
        recommendations=tuple(map(str, findings)),
        columns={"select": reading.root_fields} if reading is not None and reading.root_fields else {},
    )


# Advice.


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


def _advise(
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
            found.append(_finding(code, name, severity, message.format(shown), fix))

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
            _look_value(argument.value, f"{name}.{key}", seen, size=key.lower() in _SIZES)
            sized = sized or key.lower() in _SIZES
        if not sized and any(s.kind == "field" and s.name.value in _LISTS for s in _selections(item)):
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


def _finding(code: str, name: str, severity: Any, message: str, fix: str) -> Finding:
    return Finding(code, name, severity, message, fix)
