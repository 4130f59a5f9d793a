"""sqlglot's readers of the dialects, made once: making one costs as much as splitting a query (pure)."""

from __future__ import annotations

import functools
import logging
import threading
from typing import Any

IMPORTING = threading.RLock()
"""Held by whoever imports sqlglot or what imports it: its modules import one another, so two threads that
begin at different ends would wait for each other."""


def load_parser() -> None:
    """Import sqlglot, after which no part of this package but :func:`dialect_of` imports more of it."""
    with IMPORTING:
        import sqlglot  # noqa: F401


@functools.cache
def dialect_of(name: str) -> Any:
    """sqlglot's reader and writer of a dialect; "" is its own, which accepts parts of all dialects."""
    with IMPORTING:
        from sqlglot.dialects.dialect import Dialect

        log = logging.getLogger("sqlglot")
        if log.level == logging.NOTSET:
            log.setLevel(logging.ERROR)  # its warnings quote the query, and with it a user's data
        return Dialect.get_or_raise(name or None)


@functools.cache
def sqlglot_error() -> type[Exception]:
    """What sqlglot raises; looked up once, since sqlglot is imported late."""
    from sqlglot.errors import SqlglotError

    return SqlglotError


_of_this_thread = threading.local()


def statements_of(tokens: list[Any], query: str, dialect: str) -> list[Any]:
    """The statements made of these tokens of ``query``. Raises as sqlglot does if they are not SQL."""
    parsers: dict[Any, Any] = _of_this_thread.__dict__
    parser = parsers.get((dialect,))
    if parser is None:
        from sqlglot.errors import ErrorLevel

        parser = parsers[dialect,] = dialect_of(dialect).parser(error_level=ErrorLevel.RAISE)
    try:
        statements: list[Any] = parser.parse(tokens, query)
    finally:
        parser.reset()  # it would keep the text, and with it a user's data
    return statements


def tokens_in(query: str, dialect: str) -> list[Any]:
    """The tokens of a text. Raises as sqlglot does if it cannot split the text."""
    # A tokenizer keeps state, so each thread has its own.
    tokenizers: dict[str, Any] = _of_this_thread.__dict__
    tokenizer = tokenizers.get(dialect)
    if tokenizer is None:
        tokenizer = tokenizers[dialect] = dialect_of(dialect).tokenizer()
    tokens: list[Any] = tokenizer.tokenize(query)
    return tokens
