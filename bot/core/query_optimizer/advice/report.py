"""A file of SQL, statement by statement: what the command shows and counts."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from msgspec import structs

from bot.core.query_optimizer.advice.advisor import advise
from bot.core.query_optimizer.advice.rules.registry import register
from bot.core.query_optimizer.advice.rules.rule import STATEMENT_RULES
from bot.core.query_optimizer.models import SEVERITIES, Advice, Severity
from bot.core.query_optimizer.sql.analyzer import Reading, read
from bot.core.query_optimizer.sql.schema import Schema

# A warning: nothing else is known about a mistyped statement, and a check in CI must not let it pass unseen.
UNREADABLE = register("Q000", "unreadable", "warning").finding(
    ("This cannot be read as SQL.", "Correct it, or try another --dialect.")
)

_LINES = re.compile(r"\n")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a file, with the line it begins at."""

    line: int
    advice: Advice

    def as_dict(self, source: str) -> dict[str, Any]:
        advice = self.advice
        return {
            "file": source,
            "line": self.line,
            "query": advice.query,
            "query_type": advice.analysis.query_type.value,
            "fingerprint": advice.analysis.fingerprint,
            "tables": sorted(advice.analysis.reads | advice.analysis.writes),
            "findings": [
                {**asdict(finding), "line": self.line + finding.line - 1} for finding in advice.findings
            ],
            "index_suggestions": [asdict(suggestion) for suggestion in advice.index_suggestions],
            "optimized_query": advice.optimized_query,
            "columns": {clause: list(names) for clause, names in advice.columns.items()},
        }


def statements_of(text: str) -> list[tuple[int, str]]:
    """(line, statement) for each statement of a script, split by sqlparse; comments before it left out."""
    import sqlparse
    from sqlparse.exceptions import SQLParseError

    try:
        parts = sqlparse.split(text)
    except (SQLParseError, RecursionError):
        parts = [text]
    found = []
    position = 0
    for part in parts:
        start = text.find(part, position)
        if start < 0:
            start = position
        position = start + len(part)
        body = _without_leading_comments(part)
        if body.strip(" \n\t;"):
            begins = start + len(part) - len(body)
            found.append((len(_LINES.findall(text, 0, begins)) + 1, body.strip()))
    return found


_COMMENT = re.compile(r"\s*(?:--[^\n]*(?:\n|\Z)|/\*(?!!)(?:.|\n)*?\*/)\s*|[\s;]+")


def _without_leading_comments(part: str) -> str:
    position = 0
    while (match := _COMMENT.match(part, position)) is not None and match.end() > position:
        position = match.end()
    return part[position:]


def analyse_scripts(texts: list[str], dialect: str) -> list[list[Statement]]:
    """Advice on each statement of each script.

    Tables and indexes that one script creates are known in all of them.
    """
    schema = Schema()
    scripts = []
    for text in texts:
        readings = [(line, read(part, dialect)) for line, part in statements_of(text)]
        scripts.append(readings)
        for _, reading in readings:
            for census in reading.censuses:
                schema.learn(census)
    return [[Statement(line, _advice(reading, schema)) for line, reading in script] for script in scripts]


def schema_of_scripts(texts: list[str], dialect: str) -> Schema:
    """The tables and indexes that the scripts create."""
    schema = Schema()
    for text in texts:
        for _, part in statements_of(text):
            reading = read(part, dialect)
            for census in reading.censuses:
                schema.learn(census)
            reading.release()
    return schema


def known_codes() -> frozenset[str]:
    """Every code that a report can have."""
    return frozenset({UNREADABLE.code, *(rule.rule.code for rule in STATEMENT_RULES)})


def _advice(reading: Reading, schema: Schema) -> Advice:
    if reading.censuses:
        return advise(reading, schema)
    return Advice(reading.query, reading.analysis, reading.query, (UNREADABLE,), (str(UNREADABLE),))


def counts(statements: list[Statement]) -> dict[Severity, int]:
    found = dict.fromkeys(SEVERITIES, 0)
    for statement in statements:
        for finding in statement.advice.findings:
            found[finding.severity] += 1
    return found


def as_text(source: str, statements: list[Statement]) -> str:
    """The report for people: a block for each statement with findings."""
    lines: list[str] = []
    for statement in statements:
        advice = statement.advice
        if not advice.findings and not advice.index_suggestions:
            continue
        lines.append(f"{source}:{statement.line}: {_short(advice.query)}")
        for finding in advice.findings:
            line = statement.line + finding.line - 1
            lines.append(
                f"  {line}: {finding.severity} {finding.code} [{finding.name}] "
                f"{finding.message} {finding.fix}"
            )
        lines += [
            f"  index: {suggestion.ddl}  -- {suggestion.reason}" for suggestion in advice.index_suggestions
        ]
        if advice.optimized_query != advice.query:
            lines.append(f"  rewritten: {advice.optimized_query}")
        lines.append("")
    return "\n".join(lines)


def _short(query: str) -> str:
    flat = " ".join(query.split())
    return flat if len(flat) <= 100 else flat[:97] + "..."


def without(statement: Statement, codes: frozenset[str]) -> Statement:
    """The statement without findings of these codes."""
    advice = statement.advice
    kept = tuple(finding for finding in advice.findings if finding.code not in codes)
    if len(kept) == len(advice.findings):
        return statement
    kept_advice = structs.replace(advice, findings=kept, recommendations=tuple(map(str, kept)))
    return Statement(statement.line, kept_advice)
