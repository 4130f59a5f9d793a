"""Any text to its analysis: in bounded time, and whatever the parsers make of it."""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from typing import Any

from bot.core._shared.masking import masked_traceback, one_line
from bot.core.query_optimizer.models import Advice, Analysis, QueryType
from bot.core.query_optimizer.sql.functions import NOTHING, Known
from bot.core.query_optimizer.sql.long_texts import SHORT, is_readable, outline, shorten

logger = logging.getLogger(__name__)

MAX_ADVISED = 8_000
"""Characters above which no advice is given on a text: the rules look at every pair of its parts."""

MAX_CONDITIONS = 250
"""ANDs and ORs above which no advice is given, for the same reason."""

TOO_LONG = "it is too long to be read while others wait"

_KINDS = {
    "select": QueryType.SELECT, "with": QueryType.SELECT, "values": QueryType.SELECT,
    "insert": QueryType.INSERT, "replace": QueryType.INSERT, "update": QueryType.UPDATE,
    "delete": QueryType.DELETE,
}  # fmt: skip


def analysis_of(query: str, dialect: str, known: Known = NOTHING) -> Analysis:
    """What a SQL text means. Never raises but for want of memory.

    Long texts are read without most of what they repeat; those that are long even so, by their words
    (:mod:`.sql.long_texts`). What a parser stumbles over is unknown: not cached, and it may write anything.
    """
    analyze = _analyzer()
    try:
        text: str | None = query
        if len(query) > SHORT:
            text = shorten(query, dialect)
        if text is None or not is_readable(text):
            return _outlined(query, dialect, known)
        analysis: Analysis = analyze(text, dialect, known)
        return analysis
    except MemoryError:
        raise
    except Exception as error:
        stumbled(error, "a SQL text")
        return unknown(query, dialect)


def _outlined(query: str, dialect: str, known: Known) -> Analysis:
    from bot.core.query_optimizer.sql.names import names_given

    found = outline(query, dialect, known.own)
    writes: frozenset[str] = frozenset()
    if found.writes:
        writes = frozenset(names_given(found.writes, dialect))
    word = found.word.upper() or "?"
    target = f" {found.writes}" if found.writes else ""
    if found.anything:
        from bot.core.query_optimizer.sql.analyzer import unreadable

        shown = f"{word} ... (a text too long to be read)"
        return unreadable(query, dialect, found.fingerprint, shown, TOO_LONG)
    return Analysis(
        query_type=_KINDS[found.word],
        fingerprint=found.fingerprint,
        normal_form=f"{word}{target} ... (a text too long to be read)",
        reads=frozenset(),
        writes=writes,
        writes_anything=False,
        not_cacheable=TOO_LONG,
    )


def unknown(query: str, dialect: str) -> Analysis:
    """The analysis of a text that a parser stumbled over."""
    from bot.core.query_optimizer.sql.analyzer import unreadable
    from bot.core.query_optimizer.sql.declarations import Declaration

    fingerprint = hashlib.blake2b(query.encode("utf-8", "replace"), digest_size=8).hexdigest()
    shown = "(a text that cannot be read)"
    try:
        return unreadable(query, dialect, fingerprint, shown)
    except MemoryError:
        raise
    except Exception as error:
        stumbled(error, "the words of a SQL text")
    return Analysis(
        query_type=QueryType.UNKNOWN,
        fingerprint=fingerprint,
        normal_form=shown,
        reads=frozenset(),
        writes=frozenset(),
        writes_anything=True,
        not_cacheable="it cannot be parsed",
        declares=(Declaration("doubt"),),
    )


def graphql_analysis_of(query: str) -> Analysis:
    """The same for a text that begins as GraphQL."""
    from bot.core.query_optimizer.graphql.operations import analyze_graphql

    try:
        return analyze_graphql(query)
    except MemoryError:
        raise
    except Exception as error:
        stumbled(error, "a GraphQL text")
        return unknown(query, "")


def advice_on(query: str, dialect: str, known: Known = NOTHING) -> Advice:
    """Advice on a SQL text. Long texts get none. Never raises but for want of memory."""
    advise, read = _advisers()
    if len(query) <= MAX_ADVISED and is_readable(query) and not _has_too_many_conditions(query):
        try:
            reading = read(query, dialect, known)
            advice: Advice = advise(reading)
            reading.release()
            return advice
        except MemoryError:
            raise
        except Exception as error:
            stumbled(error, "advice on a SQL text")
    return Advice(query, analysis_of(query, dialect, known), query)


_CONNECTIVE = re.compile(r"(?i)\b(?:AND|OR)\b")


def _has_too_many_conditions(query: str) -> bool:
    return len(query) > 1_000 and len(_CONNECTIVE.findall(query)) > MAX_CONDITIONS


def key_of_text(query: str) -> str:
    """Under what is remembered what a text means: itself, or, of a long one, a digest."""
    if len(query) <= SHORT:
        return query
    digest = hashlib.blake2b(query.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"\0{len(query)} {digest}"


def analysis_size(key: str, analysis: Analysis) -> int:
    """About what is held, in characters, for the bound on what is remembered."""
    names = sum(map(len, analysis.reads)) + sum(map(len, analysis.writes))
    size = len(key) + len(analysis.normal_form) + len(analysis.savepoint) + names + 500
    for operation in analysis.operations.values():
        size += analysis_size("", operation)
    reading = analysis.graphql
    if reading is not None:
        size += len(reading.normal_form) + 200 * len(reading.findings)
    return size


_said: set[str] = set()


def stumbled(error: Exception, over: str) -> None:
    """Log what a parser or a rule raised, once a kind; nothing of the text, which may be secret."""
    kind = f"{over}: {type(error).__name__}"
    if kind not in _said and len(_said) < 1_000:
        _said.add(kind)
        logger.warning(
            "The parser stumbled over %s (said once a kind): it is executed, and not cached", one_line(kind)
        )
    logger.debug("stumbled over %s\n%s", one_line(over), masked_traceback(error))


@functools.cache
def _analyzer() -> Any:
    """It imports sqlglot, so on the first query only."""
    from bot.core.query_optimizer.sql.analyzer import analyze

    return analyze


@functools.cache
def _advisers() -> Any:
    from bot.core.query_optimizer.advice.advise import advise
    from bot.core.query_optimizer.sql.analyzer import read

    return advise, read
