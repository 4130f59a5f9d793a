"""What a SQL text means: its type, what it reads and writes, whether its result may be cached."""

from __future__ import annotations

import functools
import re
from typing import Any

from msgspec import Struct, structs

from bot.core.query_optimizer.execution.transactions import transaction_of
from bot.core.query_optimizer.models import UNPARSED, Analysis, QueryType
from bot.core.query_optimizer.sql.census import Census
from bot.core.query_optimizer.sql.controls import is_control, sets_transaction
from bot.core.query_optimizer.sql.declarations import EVERY_EVENT
from bot.core.query_optimizer.sql.definitions import declared_by_words, replacing, written_by_words
from bot.core.query_optimizer.sql.dialects import sqlglot_error, statements_of, tokens_in
from bot.core.query_optimizer.sql.fingerprint import is_too_deep, shape_of, tokens_of
from bot.core.query_optimizer.sql.functions import NOTHING, Known
from bot.core.query_optimizer.sql.parameters import Parameters
from bot.core.query_optimizer.sql.rewording import reworded
from bot.core.query_optimizer.sql.tables import Effects, effects
from bot.core.query_optimizer.sql.writes import HARMLESS

# No backtracking: a comment that could also end later would double the time with each comment.
_FIRST_WORD = re.compile(r"\s*+(?:--[^\n]*+\n\s*+|/\*(?>.*?\*/)\s*+)*+([A-Za-z]+)", re.DOTALL)
_BY_WORD = {
    "select": QueryType.SELECT, "with": QueryType.SELECT, "values": QueryType.SELECT,
    "insert": QueryType.INSERT, "replace": QueryType.INSERT, "update": QueryType.UPDATE,
    "delete": QueryType.DELETE, "merge": QueryType.MERGE, "create": QueryType.DDL, "drop": QueryType.DDL,
    "alter": QueryType.DDL, "truncate": QueryType.DDL, "begin": QueryType.TRANSACTION,
    "start": QueryType.TRANSACTION, "commit": QueryType.TRANSACTION, "rollback": QueryType.TRANSACTION,
    "savepoint": QueryType.TRANSACTION, "release": QueryType.TRANSACTION, "end": QueryType.TRANSACTION,
    "abort": QueryType.TRANSACTION,
}  # fmt: skip


_TRANSACTIONS = {
    "begin": "begin", "start": "begin", "commit": "commit", "end": "commit", "abort": "rollback",
    "rollback": "rollback", "savepoint": "savepoint", "release": "release",
}  # fmt: skip
# They may run what they explain.
_RUN = frozenset(("explain", "describe", "desc", "analyze"))
_END = re.compile(
    r"(?i)(?:END|COMMIT|ROLLBACK|ABORT)(?:\s+(?:TRANSACTION|WORK|AND|NO|CHAIN|RELEASE))*+[\s;]*\Z"
)
_CHAIN = re.compile(r"(?i)\bAND\s+CHAIN\b")


def analyze(query: str, dialect: str, known: Known = NOTHING) -> Analysis:
    """Analyse any text; what cannot be read is UNKNOWN, never cached, and taken to write anything."""
    reading = read(query, dialect, known)
    reading.release()
    return reading.analysis


class Reading(Struct, frozen=True):
    """A text that was read once: what it means, and its statements for further questions."""

    query: str
    dialect: str
    analysis: Analysis
    censuses: list[Census]
    """One for each statement; none if the text cannot be parsed."""
    tokens: list[Any]
    parameters: Parameters

    def release(self) -> None:
        """Take the trees apart: a node and its parent refer to each other, so only slow garbage collection
        would free them. Afterwards only ``analysis`` may be used.
        """
        for census in self.censuses:
            census.release()


_CLOCK = re.compile(r"(?i)\b(?:date|time|datetime|julianday|unixepoch|strftime|timediff)\W*\(")
_EXECUTABLE_COMMENT = re.compile(r"(?i)/\*M?!")


def read(query: str, dialect: str, known: Known = NOTHING, meaning: Analysis | None = None) -> Reading:
    """Tokenize, parse and walk a text once, and say what it means; ``meaning`` if that is known already."""
    tokens = tokens_of(query, dialect)
    parameters = Parameters()
    statements, parsed = None, query
    if tokens and not is_too_deep(query, tokens):
        statements, parsed = _parse(query, tokens, dialect, parameters)
    if meaning is not None:
        censuses = [Census(statement) for statement in statements or ()]
        return Reading(query, dialect, meaning, censuses, (tokens or []) if censuses else [], parameters)
    fingerprint, normal_form = shape_of(query, tokens, dialect)
    if statements is None:
        unreadable = _read_elsewhere(query, fingerprint, normal_form, known) if dialect == "" else None
        if unreadable is None:
            unreadable = _unreadable(query, tokens or [], fingerprint, normal_form, dialect)
        return Reading(query, dialect, unreadable, [], [], parameters)
    censuses = [Census(statement) for statement in statements]
    kind = _type_of(statements[0]) if len(statements) == 1 else QueryType.SCRIPT
    found = [
        _with_transaction(effects(census, dialect, known, parsed), census, dialect) for census in censuses
    ]
    if "/*" in query and dialect != "postgres" and dialect != "sqlite" and _EXECUTABLE_COMMENT.search(query):
        # MySQL or MariaDB executes what looks like a comment here, and no parser here reads it.
        found.append(Effects(frozenset(), frozenset(), anything=True, reason="it has code in a comment"))
    if "rollback" in [effect.transaction for effect in found] and _CHAIN.search(query):
        # Which the parser does not tell.
        found = [e._replace(transaction="chain") if e.transaction == "rollback" else e for e in found]
    takes_moments = dialect in ("postgres", "") or (dialect == "sqlite" and _CLOCK.search(query) is not None)
    analysis = _summary(kind, fingerprint, normal_form, found, takes_moments)
    if dialect in ("sqlite", "") and analysis.declares:
        analysis = structs.replace(analysis, declares=replacing(analysis.declares, query))
    return Reading(query, dialect, analysis, censuses, tokens or [], parameters)


def _read_elsewhere(query: str, fingerprint: str, normal_form: str, known: Known) -> Analysis | None:
    """What a text means that is not read without a dialect, by all of those that read it together.

    It gives the meaning only: advice needs the way in which it is written.
    """
    readings = []
    for dialect in ("postgres", "mysql", "sqlite"):
        tokens = tokens_of(query, dialect)
        if not tokens or is_too_deep(query, tokens):
            continue
        statements, parsed = _parse(query, tokens, dialect, Parameters())
        if statements is not None:
            censuses = [Census(statement) for statement in statements]
            kind = _type_of(statements[0]) if len(statements) == 1 else QueryType.SCRIPT
            found = [_with_transaction(effects(census, "", known, parsed), census, "") for census in censuses]
            readings.append((kind, found))
            for census in censuses:
                census.release()
    shapes = {(kind, tuple([effect.transaction for effect in found])) for kind, found in readings}
    if len(shapes) != 1 or _EXECUTABLE_COMMENT.search(query) or _CHAIN.search(query):
        return None
    merged = [
        Effects(
            reads=frozenset().union(*[effect.reads for effect in same]),
            writes=frozenset().union(*[effect.writes for effect in same]),
            anything=any(effect.anything for effect in same),
            reason=next((effect.reason for effect in same if effect.reason), ""),
            transaction=same[0].transaction,
            declares=tuple(each for effect in same for each in effect.declares),
            events=frozenset().union(*[effect.events for effect in same]),
        )
        for same in zip(*[found for _, found in readings], strict=True)
    ]
    return _summary(readings[0][0], fingerprint, normal_form, merged, takes_moments=True)


def _with_transaction(effect: Effects, census: Census, dialect: str) -> Effects:
    """What statements that are no definitions do to the transaction beside what they say."""
    statement = census.statement
    if effect.transaction or _type_of(statement) is not QueryType.OTHER:
        return effect
    if statement.__class__.__name__ == "Command":
        words = f"{statement.this} {statement.text('expression')[:100]}".lower().split()
    else:
        words = statement.sql().lower().split()[:2] if statement.key == "set" else [statement.key]
    return effect._replace(transaction=transaction_of(words, dialect)[0])


def _summary(
    kind: QueryType, fingerprint: str, normal_form: str, found: list[Effects], takes_moments: bool
) -> Analysis:
    """The meaning of a text, from the meanings of its statements."""
    first = found[0]
    reads, writes, anything, declares = first.reads, first.writes, first.anything, first.declares
    if len(found) > 1:
        reads = reads.union(*[effect.reads for effect in found])
        writes = writes.union(*[effect.writes for effect in found])
        anything = any(effect.anything for effect in found)
        declares = tuple([each for effect in found for each in effect.declares])
    reasons = [effect.reason for effect in found if effect.reason]
    if kind is QueryType.SCRIPT:
        reasons.insert(0, "several statements in one text")
    elif kind is not QueryType.SELECT:
        reasons.insert(0, f"{kind.value} is no read")
    elif writes and not reasons:
        reasons.append("it writes")
    elif anything and not reasons:
        reasons.append("it may write")
    transaction = first.transaction
    if len(found) > 1:
        transaction, _ = _in_sequence([(effect.transaction, "") for effect in found])
    return Analysis(
        query_type=kind,
        fingerprint=fingerprint,
        normal_form=normal_form,
        reads=reads,
        writes=writes,
        writes_anything=anything,
        not_cacheable=reasons[0] if reasons else "",
        transaction=transaction,
        takes_moments=takes_moments,
        declares=tuple(dict.fromkeys(declares)) if declares else (),
        events=_events(found, normal_form),
    )


# UPDATE OR REPLACE, REPLACE INTO: rows may be deleted for others. The parser does not always tell.
_REPLACES = re.compile(r"(?i)\bREPLACE\b(?!\s*\()")


def _events(found: list[Effects], normal_form: str) -> frozenset[str]:
    if "REPLACE" in normal_form.upper() and _REPLACES.search(normal_form):
        return EVERY_EVENT
    if len(found) == 1:
        return found[0].events
    return frozenset().union(*[effect.events for effect in found if effect.writes])


def _in_sequence(steps: list[tuple[str, str]]) -> tuple[str, str]:
    """(what the statements of one text do to the transaction together, the savepoint that begins one)"""
    ended = other = ""
    opened = False
    savepoints: list[str] = []
    for what, name in steps:
        if what == "autocommit off":
            other = what
        elif what == "savepoint" and (savepoints or not opened):
            opened = True
            savepoints.append(name)
        elif what == "begin":
            opened = True
        elif what in ("commit", "rollback", "chain", "autocommit on"):
            own = opened and not savepoints and ended in ("", "script")
            ended = "script" if own else "rollback" if what == "rollback" else "commit"
            opened = what == "chain"
            savepoints.clear()
        elif what == "release" and name in savepoints:
            while savepoints.pop() != name:
                pass
            opened = bool(savepoints)  # its release leaves earlier transactions as they were
        elif what in ("release", "back", "implicit") and not opened:
            other = other or what
    if other == "autocommit off":
        return other, ""
    if opened:
        if ended:
            return "chain", ""
        return ("savepoint", savepoints[0]) if savepoints else ("begin", "")
    return ended or other, ""


def _parse(
    query: str, tokens: list[Any], dialect: str, parameters: Parameters
) -> tuple[list[Any] | None, str]:
    """(the statements, the text that they were parsed from)"""
    try:
        plain = reworded(query, tokens, dialect)
        if plain != query:
            query, tokens = plain, tokens_of(plain, dialect) or []
        if "%" in query or "?" in query or "$" in query:
            plain = parameters.name_all(query, tokens)
            if plain != query:
                query, tokens = plain, tokens_in(plain, dialect)
        parsed = statements_of(tokens, query, dialect)
    except (sqlglot_error(), RecursionError, ValueError, TypeError, NameError, AttributeError, LookupError):
        # The last few are what the parser raises for texts that are not SQL at all.
        return None, query
    statements = [
        # A comment after the last semicolon comes as a statement of nothing.
        statement
        for statement in parsed
        if statement is not None and statement.__class__.__name__ != "Semicolon"
    ]
    # The parser also takes bare expressions ("FROBNICATE ALL" is a column with an alias to it).
    if not statements or any(_type_of(statement) is QueryType.UNKNOWN for statement in statements):
        return None, query
    return statements, query


def _unreadable(query: str, tokens: list[Any], fingerprint: str, normal_form: str, dialect: str) -> Analysis:
    match = _FIRST_WORD.match(query[:10_000])
    word = match.group(1).lower() if match else ""
    transaction, savepoint = _TRANSACTIONS.get(word, ""), ""
    if transaction:
        transaction, savepoint = _what_is_left(tokens, transaction)
    other, harmless = transaction_of([token.text.lower() for token in tokens[:3]], dialect)
    if other or harmless:
        transaction = other
    written = written_by_words(query, dialect)
    is_end = (match is not None and _END.match(query, match.start(1)) is not None) or is_control(tokens)
    harmless = harmless or sets_transaction(query)
    if transaction in ("commit", "rollback") and _CHAIN.search(query):
        transaction = "chain"
    return Analysis(
        query_type=_BY_WORD.get(word, QueryType.UNKNOWN),
        fingerprint=fingerprint,
        normal_form=normal_form,
        reads=frozenset(),
        writes=written,
        writes_anything=not is_end
        and not written
        and ((word not in HARMLESS and not harmless) or word in _RUN or ";" in query),
        not_cacheable=UNPARSED,
        transaction=transaction,
        savepoint=savepoint,
        declares=() if is_end else replacing(declared_by_words(query, dialect), query),
    )


_LAST_WORD = re.compile(r"(?i)(?:\A|[\s;])(?:COMMIT|END|ROLLBACK|ABORT)(?:\s+(?:TRANSACTION|WORK))?[\s;]*\Z")


def unreadable(query: str, dialect: str, fingerprint: str, normal_form: str, why: str = UNPARSED) -> Analysis:
    """What the first and the last words of an unparsed text tell."""
    found = _unreadable(query, [], fingerprint, normal_form, dialect)
    transaction = found.transaction
    if transaction == "begin" and _LAST_WORD.search(query[-200:]):
        transaction = "script"  # a script that ends what it begins
    return structs.replace(found, not_cacheable=why, transaction=transaction)


def _what_is_left(tokens: list[Any], first: str) -> tuple[str, str]:
    """What a text that cannot be parsed does to the transaction, by the first words of its statements."""
    if not tokens:
        return first, ""
    statements: list[list[str]] = [[]]
    for token in tokens:
        text = token.text.lower()
        if text in ("trigger", "procedure", "function"):
            return first, ""  # its body has a BEGIN and an END of another kind
        if text == ";":
            statements.append([])
        elif len(statements[-1]) < 5:
            statements[-1].append(text)
    steps = []
    for words in statements:
        what = _TRANSACTIONS.get(words[0], "") if words else ""
        if what == "rollback" and "to" in words:
            what = "back"
        steps.append((what, words[-1] if words else ""))
    if len(steps) == 1 or not any(statements[1:]):
        return steps[0]
    return _in_sequence(steps)


def _type_of(statement: Any) -> QueryType:
    return _type_of_class(statement.__class__)


@functools.cache
def _type_of_class(kind: type) -> QueryType:
    from sqlglot import exp

    kinds: tuple[tuple[Any, QueryType], ...] = (
        ((exp.Query, exp.Values), QueryType.SELECT),
        (exp.Insert, QueryType.INSERT),
        (exp.Update, QueryType.UPDATE),
        (exp.Delete, QueryType.DELETE),
        (exp.Merge, QueryType.MERGE),
        ((exp.Create, exp.Drop, exp.Alter, exp.TruncateTable), QueryType.DDL),
        ((exp.Transaction, exp.Commit, exp.Rollback), QueryType.TRANSACTION),
        (
            (
                exp.Command,
                exp.Set,
                exp.Use,
                exp.Pragma,
                exp.Describe,
                exp.Show,
                exp.Analyze,
                exp.Copy,
                exp.Comment,
                exp.Grant,
                exp.Revoke,
                exp.Kill,
            ),
            QueryType.OTHER,
        ),
    )
    for classes, found in kinds:
        if issubclass(kind, classes):
            return found
    return QueryType.UNKNOWN
