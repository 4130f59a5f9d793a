"""What a GraphQL text means: its operations, their normal forms, what they read and write (pure).

Parsed by graphql-core, which is imported on the first GraphQL text and may be missing. Nesting is checked
before anything recurses, and each fragment is measured once, in the order of use. So the work is linear in
the text, however much the fragments multiply.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from msgspec import structs

from bot.core.query_optimizer.graphql.measure import Measure
from bot.core.query_optimizer.graphql.nodes import definitions, ordered, root_fields_of
from bot.core.query_optimizer.graphql.printer import Printer
from bot.core.query_optimizer.graphql.rules import SEVERAL_OPERATIONS, UNREADABLE, findings_of
from bot.core.query_optimizer.graphql.texts import MISSING, first_word
from bot.core.query_optimizer.models import Analysis, GraphQLReading, QueryType
from bot.core.query_optimizer.sql.names import GRAPHQL

MAX_TEXT = 200_000
"""Characters above which a text is not parsed."""

MAX_TOKENS = 15_000
"""Tokens above which a text is not parsed; graphql-java's default."""

MAX_OF_ALL = 200_000
"""Characters times operations of one text: each operation is read with the fragments that it shares."""

MAX_NESTING = 120
"""Levels of nesting above which a text is not parsed: the parser recurses."""

_BRACKETS = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"""|"(?:[^"\\\n\r]|\\.)*"|#[^\n\r]*|([{(\[])|([})\]])', re.DOTALL
)


def operations(text: str) -> dict[str | None, GraphQLReading]:
    """What a text means, by name of the operation; None stands for a request without a name."""
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
    kind = first_word(text) or "query"
    shown = "(a GraphQL text that cannot be shown without its data)"
    return GraphQLReading(
        kind="" if kind == "fragment" else kind,
        normal_form=text,
        shape=shown,
        fingerprint=_digest(text),
        problem=problem,
        too_large=too_large,
        findings=(
            UNREADABLE.finding((f"The text is not analysed: {problem}.", "Send a smaller, valid query.")),
        )
        if problem is not MISSING
        else (),
    )


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()


def _operations(text: str, document: Any) -> dict[str | None, GraphQLReading]:
    found, fragments = definitions(document)
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
                SEVERAL_OPERATIONS.finding(
                    (
                        "The text holds several operations, and which one runs is not told.",
                        "Send one operation, or its name as operation_name.",
                    )
                ),
            ),
        )
    return read


def _read(operation: Any, fragments: dict[str, Any]) -> GraphQLReading:
    order, endless, unknown = ordered(operation, fragments)
    kind = operation.operation.value
    printer = Printer(values=True)
    normal = printer.operation(operation, fragments, order)
    shape = Printer(values=False).operation(operation, fragments, order)
    problem = ""
    if endless:
        problem = f"its fragments form a circle: {' -> '.join([*endless, endless[0]])}"
    elif unknown:
        problem = f"it spreads the unknown fragment {unknown[0]}"
    measure = Measure(operation, fragments, {})
    depth, complexity = (0, 0) if problem else measure.run(order)
    return GraphQLReading(
        kind=kind,
        normal_form=normal,
        shape=shape,
        fingerprint=_digest(shape),
        root_fields=root_fields_of(operation, fragments),
        depth=depth,
        complexity=complexity,
        sized_by_variables=measure.sized_by_variables,
        problem=problem,
        too_large=bool(endless),
        findings=tuple(findings_of(operation, fragments, order, endless, unknown)),
    )


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
