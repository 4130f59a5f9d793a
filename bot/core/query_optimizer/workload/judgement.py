"""What to do about each shape of a workload, and what that saves, as far as there is evidence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import structs

from bot.core.query_optimizer.advice.advisor import advise
from bot.core.query_optimizer.analyses import advice_on
from bot.core.query_optimizer.execution.batching import batched
from bot.core.query_optimizer.models import Advice, Evidence, Finding, IndexSuggestion, QueryType
from bot.core.query_optimizer.plans.explain import PlanReader
from bot.core.query_optimizer.plans.prepare import Explainer
from bot.core.query_optimizer.sql.analyzer import read
from bot.core.query_optimizer.sql.long_texts import SHORT, is_readable
from bot.core.query_optimizer.sql.schema import Schema
from bot.core.query_optimizer.workload.index_set import MergedIndex, Wish, merged, name_in, not_served
from bot.core.query_optimizer.workload.shapes import Shape
from bot.core.query_optimizer.workload.values import inlined, open_parameters

MAX_ADVISED = 300
"""Shapes that are advised on, those that took most time."""

_ADVISED = frozenset(
    (
        QueryType.SELECT,
        QueryType.INSERT,
        QueryType.UPDATE,
        QueryType.DELETE,
        QueryType.MERGE,
        QueryType.UNKNOWN,
    )
)


@dataclass(slots=True)
class Judged:
    """A shape with the advice on it."""

    shape: Shape
    findings: tuple[Finding, ...] = ()
    indexes: tuple[IndexSuggestion, ...] = ()
    rewritten: str = ""
    """A better form of the text, with its values; empty if none is known."""
    evidence: tuple[str, ...] = ()
    improvement: float = 0.0
    """Percent of its cost that the indexes save; 0.0 without evidence."""
    basis: str = ""
    """Of which values the evidence is."""
    instead: str = ""
    """Of N+1: the one query, with values, or a sentence; empty if nothing is known to give the same."""

    @property
    def saved(self) -> float:
        """Seconds of its time that would be saved, as far as there is evidence."""
        return self.shape.seconds * self.improvement / 100


@dataclass(slots=True)
class Judgement:
    """All that is known about a workload."""

    judged: list[Judged] = field(default_factory=list)
    """Those that save most first, then by time."""
    indexes: list[MergedIndex] = field(default_factory=list)
    left_out: list[MergedIndex] = field(default_factory=list)
    """Indexes beyond the number that was asked for."""
    unproved: list[MergedIndex] = field(default_factory=list)
    """Indexes that follow from texts alone: no plan was asked for."""


async def judge(
    shapes: Sequence[Shape],
    schema: Schema,
    explainers: dict[str, Explainer],
    *,
    databases: dict[str, str],
    max_indexes: int,
    timeout: float,
    taken: frozenset[str] = frozenset(),
) -> Judgement:
    """Advice on ``shapes``, which are those that took most time, in that order.

    ``explainers`` by dialect; ``databases`` the database of each, whose shapes alone are explained; ``taken``
    the names of indexes that there are, in lower case.
    """
    readers = {
        dialect: PlanReader(explainer, dialect, time.monotonic, timeout=timeout)
        for dialect, explainer in explainers.items()
    }
    found = Judgement()
    for shape in shapes[:MAX_ADVISED]:
        reader = readers.get(shape.dialect)
        if reader is not None and shape.databases and databases.get(shape.dialect) not in shape.databases:
            reader = None  # other tables may have these names
        found.judged.append(await _judged(shape, schema, reader))
    found.judged += [Judged(shape) for shape in shapes[MAX_ADVISED:]]
    found.judged.sort(key=lambda each: (-each.saved, -each.shape.seconds))
    proved, unproved = wishes_of(found.judged)
    found.indexes, found.left_out = merged(proved, max_indexes, taken)
    rest = not_served(unproved, found.indexes, taken)
    names = {name_in(each.ddl) for each in found.indexes}
    found.unproved, more = merged(rest, max_indexes, taken | names)
    found.left_out += more
    return found


def wishes_of(judged: Sequence[Judged]) -> tuple[list[Wish], list[Wish]]:
    """(the indexes of shapes with evidence, those of shapes without)."""
    proved: list[Wish] = []
    unproved: list[Wish] = []
    for each in judged:
        alone = len(each.indexes) == 1
        for suggestion in each.indexes:
            wish = Wish(
                suggestion,
                each.shape.fingerprint,
                each.saved if alone else 0.0,
                0.0 if alone else each.saved,
                each.shape.dialect,
            )
            (proved if each.improvement else unproved).append(wish)
    return proved, unproved


async def _judged(shape: Shape, schema: Schema, reader: PlanReader | None) -> Judged:
    found = Judged(shape)
    if not shape.example:
        return found
    text, parameters, basis = _text_of(shape)
    advice = _advice(text, shape.dialect, schema)
    if advice.analysis.query_type not in _ADVISED:
        return found
    found.findings = advice.findings
    found.indexes = advice.index_suggestions
    if advice.optimized_query != advice.query:
        found.rewritten = str(advice.optimized_query)
    found.instead = _instead(shape)
    if reader is None:
        return found
    evidence = await _evidence(shape, text, parameters, advice, reader)
    if evidence is not None:
        found.basis = basis
        found.evidence = evidence.sentences
        found.improvement = evidence.improvement
        if evidence.instead is not None:
            found.indexes = evidence.instead
        else:
            found.indexes = tuple(each for each in found.indexes if each.ddl not in evidence.served)
        if not found.indexes:
            found.improvement = 0.0  # nothing to do that would save it
    return found


def _text_of(shape: Shape) -> tuple[str, int, str]:
    """(a text to advise on, the number of its parameters without values, whose values it has)."""
    text = shape.example
    if shape.parameters is not None and shape.dialect == "postgres":
        with_values = inlined(text, shape.parameters)
        if with_values is not None:
            return with_values, 0, "with the values of its slowest call"
    if shape.dialect == "postgres" and "$" in text:
        opened = open_parameters(text, shape.mean_rows)
        if opened is not None:
            return (*opened, "for values of average frequency" if opened[1] else "with its values")
        return text, -1, ""
    if (
        shape.dialect == "mysql"
        and "?" in shape.normal_form
        and shape.normal_form.count("?") == text.count("?")
    ):
        return text, -1, ""  # a digest
    return text, 0, "with the values of its slowest call"


def _advice(text: str, dialect: str, schema: Schema) -> Advice:
    if len(text) > SHORT or not is_readable(text):
        return advice_on(text, dialect)
    reading = read(text, dialect)
    if not reading.censuses:
        return Advice(text, reading.analysis, text)
    advice = advise(reading, schema)
    reading.release()
    return advice


async def _evidence(
    shape: Shape, text: str, parameters: int, advice: Advice, reader: PlanReader
) -> Evidence | None:
    if parameters < 0:
        return None
    # What was logged within a function may name its variables.
    params = (None,) * parameters if parameters else None
    return await reader.evidence_for(structs.replace(advice, query=text), params)


def _instead(shape: Shape) -> str:
    """The one query in place of a run of them; empty if there was no run, or none is known."""
    repeats = shape.repeats
    if not repeats.runs:
        return ""
    samples = []
    for text, parameters in repeats.samples:
        with_values = text
        if parameters is not None and shape.dialect == "postgres":
            with_values = inlined(text, parameters) or text
        samples.append((with_values, None))
    return batched(shape.normal_form, samples, shape.dialect) or ""
