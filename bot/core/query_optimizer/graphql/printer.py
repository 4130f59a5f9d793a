"""Prints GraphQL operations in a normal form, with their values or without (pure)."""

from __future__ import annotations

import json
from typing import Any


class Printer:
    """Prints the relevant parts of an operation in a normal form. Recursion is bounded by ``MAX_NESTING``."""

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
