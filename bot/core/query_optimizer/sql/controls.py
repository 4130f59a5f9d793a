"""Statements that only begin, end or mark a transaction, by their words (pure).

The parser does not read most of their options, nor savepoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

_BEGINS = frozenset(
    (
        "transaction tran work isolation level serializable repeatable read committed uncommitted only write "
        "deferrable not , with consistent snapshot deferred immediate exclusive concurrent"
    ).split()
)
_ENDS = frozenset("transaction work and no chain release".split())
_SETS = re.compile(
    r"(?is)\A\s*SET\s+(?:(?:SESSION\s+|GLOBAL\s+|LOCAL\s+)?TRANSACTION|SESSION\s+CHARACTERISTICS|CONSTRAINTS)\s"
)
_DEFINES = re.compile(r"(?i)\b(?:create|alter|rename|do|call|execute|exec)\b")
_LITERALS = re.compile(r"'(?:[^']|'')*+'")


def is_control(tokens: Sequence[Any]) -> bool:
    """Whether each statement of a text, by its tokens, is a BEGIN, COMMIT, ROLLBACK or about a savepoint."""
    statements = list(split(tokens))
    return bool(statements) and all(map(_is_control, statements))


def split(tokens: Iterable[Any]) -> Iterable[list[str]]:
    """The words of each statement, in lower case."""
    words: list[str] = []
    for token in tokens:
        if token.text == ";":
            if words:
                yield words
            words = []
        else:
            words.append(token.text.lower())
    if words:
        yield words


def _is_control(words: list[str]) -> bool:
    first, rest = words[0], words[1:]
    if first in ("begin", "start"):
        return _BEGINS.issuperset(rest)
    if first in ("commit", "end", "abort", "rollback"):
        if first == "rollback" and "to" in rest[:2]:
            name = rest[rest.index("to") + 1 :]
            return _is_savepoint(name[1:] if name[:1] == ["savepoint"] and len(name) > 1 else name)
        return _ENDS.issuperset(rest)
    if first == "release" and rest[:1] == ["savepoint"] and len(rest) > 1:
        rest = rest[1:]
    return first in ("savepoint", "release") and _is_savepoint(rest)


def _is_savepoint(name: list[str]) -> bool:
    return len(name) == 1


def sets_transaction(text: str) -> bool:
    """Whether a text only sets how transactions behave: SET TRANSACTION, SET CONSTRAINTS."""
    match = _SETS.match(text)
    return match is not None and ";" not in text[match.end() :].rstrip().removesuffix(";")


def may_define_later(text: str) -> bool:
    """Whether a statement after the first one of a text may define something, as far as its words tell."""
    if ";" not in text:
        return False
    words = _LITERALS.sub("''", text)
    # From the first semicolon on; a pattern that has it would begin anew at each of them.
    return ";" in words and _DEFINES.search(words, words.index(";")) is not None
