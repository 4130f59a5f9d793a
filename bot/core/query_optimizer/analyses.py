"""The analysis and the advice of any text: in bounded time, remembered, even if a parser fails."""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from bot.core._shared.masking import masked_traceback, one_line
from bot.core.phase4_config.query_optimizer import DEFAULTS
from bot.core.query_optimizer.errors import QueryTooComplexError
from bot.core.query_optimizer.execution.remembered import Remembered
from bot.core.query_optimizer.execution.results import key_of
from bot.core.query_optimizer.graphql.texts import MISSING, is_graphql, operation_name_of
from bot.core.query_optimizer.models import UNPARSED, Advice, Analysis, QueryType, Told
from bot.core.query_optimizer.sql.comments import untagged
from bot.core.query_optimizer.sql.dialects import IMPORTING, load_parser
from bot.core.query_optimizer.sql.functions import NOTHING, Known
from bot.core.query_optimizer.sql.long_texts import SHORT, is_readable, outline, shorten
from bot.core.query_optimizer.sql.numbers import is_same_for_all, without_numbers

logger = logging.getLogger(__name__)

MAX_ADVISED = 8_000
"""Characters above which no advice is given on a text: the rules look at every pair of its parts."""

MAX_CONDITIONS = 250
"""ANDs and ORs above which no advice is given, for the same reason."""

ANALYSES_CHARACTERS = 4_000_000
"""Characters of remembered query texts, each counted with 500 more."""

ALIKE_CHARACTERS = 1_000_000
"""The same, of what texts have in common that differ in numbers alone."""

TOO_LONG = "it is too long to be read while others wait"

_KINDS = {
    "select": QueryType.SELECT, "with": QueryType.SELECT, "values": QueryType.SELECT,
    "insert": QueryType.INSERT, "replace": QueryType.INSERT, "update": QueryType.UPDATE,
    "delete": QueryType.DELETE,
}  # fmt: skip


class Analyses:
    """Remembers what texts mean, and the advice on them.

    Both depend on the dialect, on the known functions, and for GraphQL on the limits. When one of these
    changes, what was remembered before is forgotten.
    """

    def __init__(self) -> None:
        self.dialect = ""
        self.known = NOTHING
        self.max_depth = DEFAULTS.graphql_max_depth
        """Fields of a GraphQL operation from the root to the deepest."""
        self.max_complexity = DEFAULTS.graphql_max_complexity
        """What a GraphQL operation may cost, in fields."""
        self._analyses: Remembered[Analysis] = Remembered(ANALYSES_CHARACTERS)
        self._advices: Remembered[Advice] = Remembered(ANALYSES_CHARACTERS)
        self._alike: Remembered[Told] = Remembered(ALIKE_CHARACTERS)
        """By the text without its numbers (:mod:`.sql.numbers`)."""
        self._missing_logged = False

    def __len__(self) -> int:
        """How many texts are remembered."""
        return len(self._analyses)

    def forget(self) -> None:
        self._analyses = Remembered(ANALYSES_CHARACTERS)
        self._advices = Remembered(ANALYSES_CHARACTERS)
        self._alike = Remembered(ALIKE_CHARACTERS)

    def limit(self, max_depth: int, max_complexity: int) -> None:
        """Set the limits of GraphQL operations."""
        if (max_depth, max_complexity) != (self.max_depth, self.max_complexity):
            self.max_depth, self.max_complexity = max_depth, max_complexity
            self._advices = Remembered(ANALYSES_CHARACTERS)

    def read_as(self, dialect: str, pure: frozenset[str]) -> bool:
        """Set the dialect, and ``pure``, the functions that change nothing. True if texts may now mean
        something else.
        """
        if (dialect, pure) == (self.dialect, self.known.pure):
            return False
        self.dialect, self.known = dialect, self.known._replace(pure=pure)
        self.forget()
        return True

    def own_functions(self, names: frozenset[str]) -> None:
        """Set the names of functions that the database defines itself."""
        self.known = self.known._replace(own=names)
        self.forget()

    def known_text(self, query: str) -> Analysis | None:
        """The analysis of a short text, if it is remembered and has no operations to choose from."""
        analysis = self._analyses.get(query)
        return None if analysis is None or analysis.operations else analysis

    def analyse(self, query: str, params: Any = None) -> Analysis:
        key = query if len(query) <= SHORT else key_of_text(query)
        analysis = self._analyses.get(key)
        if analysis is None:
            if is_graphql(query):
                analysis = graphql_analysis_of(query)
                if analysis.not_cacheable == MISSING and not self._missing_logged:
                    self._missing_logged = True
                    logger.warning("GraphQL is executed and not cached: %s", MISSING)
            elif (text := untagged(query)) is not query:
                return self.analyse(text, params)
            else:
                analysis = self._of_sql(query)
            self._analyses.put(key, analysis, analysis_size(key, analysis))
        if analysis.operations:
            return analysis.operations.get(operation_name_of(params) or "", analysis)
        return analysis

    def _of_sql(self, query: str) -> Analysis:
        alike = without_numbers(query)
        told = None if alike is None else self._alike.get(alike)
        if told is not None:
            return told.analysis
        analysis = analysis_of(query, self.dialect, self.known)
        if alike is not None and is_same_for_all(analysis):
            self._alike.put(alike, Told(analysis), analysis_size(alike, analysis))
        return analysis

    def _on_sql(self, query: str) -> Advice:
        alike = without_numbers(query)
        told = None if alike is None else self._alike.get(alike)
        analysis = self._analyses.get(query)
        if told is None and analysis is not None:
            told = Told(analysis)
        advice = advice_on(query, self.dialect, self.known, told)
        if advice.analysis.not_cacheable == UNPARSED:
            return advice
        if analysis is None and len(query) <= SHORT:
            self._analyses.put(query, advice.analysis, analysis_size(query, advice.analysis))
        # Without columns it is perhaps no whole advice: a rule may have failed.
        is_first = told is None or told.advice is None
        if alike is not None and is_first and advice.columns and is_same_for_all(advice.analysis):
            size = analysis_size(alike, advice.analysis) + advice.characters
            self._alike.put(alike, Told(advice.analysis, advice), size)
        return advice

    def key_of(self, query: str, params: Any) -> Hashable:
        """The key of a result: GraphQL by its normal form, SQL without a tracer's comments.

        Raises TypeError as ``results.key_of`` does.
        """
        text = untagged(query)
        if is_graphql(query):
            text = query
            reading = self.analyse(query, params).graphql
            if reading is not None:
                text = f"graphql {reading.normal_form}"
        return key_of(text, params)

    def advise(self, query: str, params: Any) -> Advice:
        if is_graphql(query):
            # Not remembered: it depends on the variables, and only parsing is slow.
            from bot.core.query_optimizer.graphql.limits import advise_graphql

            analysis = self.analyse(query, params)
            try:
                return advise_graphql(query, analysis, params, self.max_depth, self.max_complexity)
            except MemoryError:
                raise
            except Exception as error:
                stumbled(error, "advice on a GraphQL text")
                return Advice(query, analysis, query)
        text = untagged(query)
        if text is not query:
            return self.advise(text, params).of(query)
        if len(query) > MAX_ADVISED:
            return Advice(query, self.analyse(query), query)
        advice = self._advices.get(query)
        if advice is None:
            advice = self._on_sql(query)
            self._advices.put(query, advice, advice.characters)
        return advice

    def refuse_excess(self, analysis: Analysis, query: str, params: Any) -> None:
        """Raise QueryTooComplexError for a GraphQL operation beyond the limits."""
        from bot.core.query_optimizer.graphql.limits import excess

        try:
            message, depth, complexity = excess(query, analysis, params, self.max_depth, self.max_complexity)
        except MemoryError:
            raise
        except Exception as error:
            stumbled(error, "the measuring of a GraphQL text")
            return
        if message:
            raise QueryTooComplexError(message, depth=depth, complexity=complexity)


def analysis_of(query: str, dialect: str, known: Known = NOTHING) -> Analysis:
    """What a SQL text means. Never raises, except MemoryError.

    Long texts are read without most of their repetitions; if they are still too long, by their words
    (:mod:`.sql.long_texts`). A text on which a parser fails is unknown: it is not cached, and may write
    anything.
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
    """The analysis of a text on which a parser failed."""
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
        not_cacheable=UNPARSED,
        declares=(Declaration("doubt"),),
    )


def graphql_analysis_of(query: str) -> Analysis:
    """The analysis of a text that begins as GraphQL."""
    from bot.core.query_optimizer.graphql.operations import analyze_graphql

    try:
        return analyze_graphql(query)
    except MemoryError:
        raise
    except Exception as error:
        stumbled(error, "a GraphQL text")
        return unknown(query, "")


def advice_on(query: str, dialect: str, known: Known = NOTHING, told: Told | None = None) -> Advice:
    """Advice on a SQL text. Long texts get none. Never raises, except MemoryError.

    ``told`` is what a text that means the same has told.
    """
    advise, read = _advisers()
    if len(query) <= MAX_ADVISED and is_readable(query) and not _has_too_many_conditions(query):
        try:
            reading = read(query, dialect, known, None if told is None else told.analysis)
            advice: Advice = advise(reading, None, None if told is None else told.advice)
            reading.release()
            return advice
        except MemoryError:
            raise
        except Exception as error:
            stumbled(error, "advice on a SQL text")
    return Advice(query, analysis_of(query, dialect, known), query)


def advice_on_document(query: Mapping[str, Any] | Sequence[Any], options: Any) -> Advice | None:
    """Advice on a MongoDB filter, pipeline or command; None for one that the rules cannot read."""
    from bot.core.query_optimizer.mongodb.documents import advise_mongo

    try:
        return advise_mongo(query, options)
    except MemoryError:
        raise
    except Exception as error:
        stumbled(error, "a MongoDB query")
        return None


_CONNECTIVE = re.compile(r"(?i)\b(?:AND|OR)\b")


def _has_too_many_conditions(query: str) -> bool:
    return len(query) > 1_000 and len(_CONNECTIVE.findall(query)) > MAX_CONDITIONS


def key_of_text(query: str) -> str:
    """The key under which a text is remembered: the text itself, or a digest of a long one."""
    if len(query) <= SHORT:
        return query
    digest = hashlib.blake2b(query.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"\0{len(query)} {digest}"


def analysis_size(key: str, analysis: Analysis) -> int:
    """The approximate size of a remembered analysis, in characters."""
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
    """Log what a parser or a rule raised, once for each kind; nothing of the text, which may be secret."""
    kind = f"{over}: {type(error).__name__}"
    if kind not in _said and len(_said) < 1_000:
        _said.add(kind)
        logger.warning(
            "The parser failed on %s (logged once for each kind): it is executed, and not cached",
            one_line(kind),
        )
    logger.debug("stumbled over %s\n%s", one_line(over), masked_traceback(error))


@functools.cache
def _analyzer() -> Any:
    """Imports sqlglot, so only on the first query, or before it (see :mod:`.preload`)."""
    with IMPORTING:
        load_parser()
        from bot.core.query_optimizer.sql.analyzer import analyze

        return analyze


@functools.cache
def _advisers() -> Any:
    _analyzer()
    with IMPORTING:
        from bot.core.query_optimizer.advice.advisor import advise
        from bot.core.query_optimizer.sql.analyzer import read

        return advise, read
