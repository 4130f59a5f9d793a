"""A GraphQL operation with its variables: how large it is, whether it may run, and advice (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from msgspec import structs

from bot.core.query_optimizer.graphql.measure import Measure
from bot.core.query_optimizer.graphql.nodes import definitions, ordered
from bot.core.query_optimizer.graphql.operations import MAX_TOKENS
from bot.core.query_optimizer.graphql.rules import TOO_COMPLEX, TOO_DEEP
from bot.core.query_optimizer.graphql.texts import operation_name_of
from bot.core.query_optimizer.models import Advice, Analysis


def complexity_with(text: str, name: str | None, variables: Mapping[str, Any]) -> int:
    """The complexity of an operation whose page sizes are variables, with their values."""
    from graphql import parse

    document = parse(text, no_location=True, max_tokens=MAX_TOKENS)
    found, fragments = definitions(document)
    operation = next((o for o in found if o.name is not None and o.name.value == name), found[0])
    order, _, _ = ordered(operation, fragments)
    return Measure(operation, fragments, variables).run(order)[1]


def variables_of(params: Any) -> Mapping[str, Any]:
    """The variables among the parameters of a query, or the arguments of a function that runs it."""
    if not isinstance(params, Mapping):
        return {}
    for name in ("variables", "variable_values"):
        if isinstance(params.get(name), Mapping):
            return dict(params[name])
    return params


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
    """(why an operation exceeds the limits, its depth and complexity); the first is "" if it does not."""
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
                TOO_DEEP.finding(
                    (f"The query is {depth} fields deep; {max_depth} are allowed.", "Ask for less at a time.")
                )
            )
        if complexity is not None and complexity > max_complexity:
            findings.append(
                TOO_COMPLEX.finding(
                    (
                        f"The query may cost {complexity} fields; {max_complexity} are allowed.",
                        "Ask for smaller pages or fewer fields.",
                    )
                )
            )
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
