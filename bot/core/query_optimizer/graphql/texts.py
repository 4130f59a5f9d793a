"""Recognises GraphQL texts, without what is needed to read them: a bot may never send one (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MISSING = "graphql-core is not installed: pip install graphql-core"

_START = re.compile(
    r"[\s,\ufeff]*(?:#[^\n\r]*[\n\r][\s,]*)*(?:\{(?!\s*\")|(query|mutation|subscription|fragment)\b(?=[\s,]*[\w({@#\ufeff]))"
)


def is_graphql(text: str) -> bool:
    """Whether a text begins like a GraphQL operation, and unlike any SQL."""
    return _START.match(text) is not None


def first_word(text: str) -> str | None:
    """query, mutation, subscription or fragment; None if the text begins with none of them."""
    match = _START.match(text)
    return match.group(1) if match is not None else None


def operation_name_of(params: Any) -> str | None:
    """The name of the operation to run, among the parameters; None if there is none."""
    if not isinstance(params, Mapping):
        return None
    name = params.get("operation_name", params.get("operationName"))
    return name if isinstance(name, str) else None
