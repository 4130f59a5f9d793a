"""The report on a workload: what to do first, for people and for programs.

Without ``literals`` it has no value of any statement: texts are shown as shapes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from bot.core.query_optimizer.models import Finding, IndexSuggestion
from bot.core.query_optimizer.sql.fingerprint import shape as shape_of
from bot.core.query_optimizer.workload.existing import IndexUse
from bot.core.query_optimizer.workload.existing_report import existing_as_dict, existing_as_text
from bot.core.query_optimizer.workload.index_set import MergedIndex
from bot.core.query_optimizer.workload.judgement import Judged, Judgement
from bot.core.query_optimizer.workload.redaction import finding_without_values, has_value, values_of
from bot.core.query_optimizer.workload.shapes import Workload
from bot.core.query_optimizer.workload.wording import DAY, counted, cut, duration, printable

SHORTEST_PERIOD = 60.0
"""Seconds of a workload from which savings are told for a day."""


@dataclass(slots=True)
class Report:
    """What is told about a workload."""

    workload: Workload
    judgement: Judgement = field(default_factory=Judgement)
    sources: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    use: IndexUse | None = None
    dialect: str = ""
    """Of ``use``."""
    top: int = 20
    """Shapes that people are shown."""
    unused_after: float = 7 * DAY
    """Seconds that scans must have been counted before an index without any is named."""
    literals: bool = False

    def as_dict(self) -> dict[str, Any]:
        workload = self.workload
        period = workload.period
        found: dict[str, Any] = {
            "sources": self.sources,
            "calls": workload.calls,
            "seconds": round(workload.seconds, 6),
            "period_seconds": period,
            "shapes": [self._shape_as_dict(each) for each in self.judgement.judged],
            "indexes": [self._index_as_dict(each) for each in self.judgement.indexes],
            "indexes_without_evidence": [self._index_as_dict(each) for each in self.judgement.unproved],
            "indexes_left_out": [self._index_as_dict(each) for each in self.judgement.left_out],
            "notes": self._notes(),
        }
        if self.use is not None:
            found["existing_indexes"] = existing_as_dict(
                self.use, self.dialect, may_name=self._may_name_unused
            )
        return found

    def as_text(self) -> str:
        workload = self.workload
        lines = [f"Workload: {', '.join(self.sources)}"]
        period = workload.period
        within = f" within {duration(period)}" if period is not None else ""
        kept = len(self.judgement.judged)
        lines.append(
            f"  {counted(workload.calls, 'call')} of {counted(kept, 'shape')}, "
            f"{duration(workload.seconds)}{within}"
        )
        proved = [each for each in self.judgement.judged if each.saved > 0]
        others = [each for each in self.judgement.judged if each.saved <= 0]
        shown = proved[: self.top]
        number = 0
        if shown:
            lines += ["", "Do first, by the time that the planner says it saves:"]
            for each in shown:
                number += 1
                lines += self._shape_as_text(number, each)
        rest = others[: max(0, self.top - len(shown))]
        if rest:
            lines += ["", "By their time; there is no evidence of what a change would save:"]
            for each in rest:
                number += 1
                lines += self._shape_as_text(number, each)
        hidden = kept - len(shown) - len(rest)
        if hidden:
            left = sum(each.shape.seconds for each in self.judgement.judged) - sum(
                each.shape.seconds for each in (*shown, *rest)
            )
            lines += ["", f"{counted(hidden, 'more shape')}: {duration(left)} (--top)"]
        lines += self._indexes_as_text()
        if self.use is not None:
            lines += existing_as_text(self.use, self.dialect, may_name=self._may_name_unused)
        if notes := self._notes():
            lines += ["", "Notes:", *[f"  - {note}" for note in notes]]
        return "\n".join(map(printable, lines))

    def _share(self, seconds: float) -> float:
        total = self.workload.seconds
        return 100 * seconds / total if total else 0.0

    def _a_day(self, seconds: float) -> float | None:
        period = self.workload.period
        return None if period is None or period < SHORTEST_PERIOD else seconds * DAY / period

    def _shown(self, text: str, dialect: str) -> str:
        """A text with values, as it may be shown; empty if it may not."""
        if not text or self.literals:
            return text
        shown = shape_of(text, dialect)[1].replace(". . .", "...")
        return "" if "(a text" in shown else shown

    def _shape_as_text(self, number: int, each: Judged) -> list[str]:
        shape = each.shape
        text = shape.example if self.literals and shape.example else shape.normal_form
        lines = [f"{number:>3}. {cut(text)}"]
        if each.saved > 0:
            a_day = self._a_day(each.saved)
            lines.append(
                f"     saves about {duration(each.saved)} of {duration(shape.seconds)} "
                f"({each.improvement:.0f} %), {self._share(each.saved):.0f} % of all time"
                + (f", {duration(a_day)} a day" if a_day is not None else "")
            )
        figures = [f"{shape.calls:,} calls" if shape.calls != 1 else "1 call", duration(shape.seconds)]
        figures.append(f"{self._share(shape.seconds):.0f} % of all")
        if shape.mean is not None:
            figures.append(f"mean {duration(shape.mean)}")
        if shape.longest is not None:
            figures.append(f"longest {duration(shape.longest)}")
        if shape.mean_rows is not None:
            figures.append(f"{shape.mean_rows:,.1f} rows a call")
        lines.append(f"     {', '.join(figures)}  [{shape.fingerprint}]")
        if shape.nested:
            lines.append("     within other statements, as in a function: their time has it too")
        lines += [f"     index: {index.ddl}{_needs(index)}" for index in self._suggestions(each)]
        if evidence := self._evidence(each):
            lines.append(f"     evidence {each.basis}: {'; '.join(evidence)}")
        if (repeated := self._repeated(each)) is not None:
            lines.append(f"     {repeated}")
        lines += [
            f"     {finding.severity} {finding.code} [{finding.name}] {finding.message} {finding.fix}"
            for finding in self._findings(each)
        ]
        if rewritten := self._shown(each.rewritten, shape.dialect):
            lines.append(f"     rewritten: {cut(rewritten)}")
        return lines

    def _repeated(self, each: Judged) -> str | None:
        repeats = each.shape.repeats
        if not repeats.runs:
            return None
        runs = counted(repeats.runs, "run")
        text = (
            f"N+1: {runs} of up to {repeats.longest:,} different values on one connection, "
            f"{repeats.statements:,} statements in all."
        )
        if each.instead:
            sentence = each.instead[0].islower()
            shown = each.instead if sentence else self._shown(each.instead, each.shape.dialect)
            if shown:
                text += f" Use {'' if sentence else 'one query: '}{cut(shown)}"
        return text

    def _may_show(self, index: IndexSuggestion, dialect: str) -> bool:
        return self.literals or not has_value(index, dialect)

    def _suggestions(self, each: Judged) -> list[IndexSuggestion]:
        return [index for index in each.indexes if self._may_show(index, each.shape.dialect)]

    def _findings(self, each: Judged) -> list[Finding]:
        if self.literals or not each.findings:
            return list(each.findings)
        values = values_of(each.shape.example, each.shape.dialect)
        values += [value for value in each.shape.parameters or () if value]
        return [finding_without_values(finding, values) for finding in each.findings]

    def _evidence(self, each: Judged) -> list[str]:
        """Without the sentences that name an index which is not shown."""
        shown = self._suggestions(each)
        hidden = [", ".join(index.columns) for index in each.indexes if index not in shown]
        return [said for said in each.evidence if not any(columns in said for columns in hidden)]

    def _shape_as_dict(self, each: Judged) -> dict[str, Any]:
        shape, repeats = each.shape, each.shape.repeats
        found: dict[str, Any] = {
            "fingerprint": shape.fingerprint,
            "query": shape.normal_form,
            "dialect": shape.dialect,
            "databases": sorted(shape.databases),
            "users": sorted(shape.users),
            "nested": shape.nested,
            "calls": shape.calls,
            "seconds": round(shape.seconds, 6),
            "share_percent": round(self._share(shape.seconds), 2),
            "mean_seconds": shape.mean,
            "longest_seconds": shape.longest,
            "mean_rows": shape.mean_rows,
            "saved_seconds": round(each.saved, 6),
            "saved_seconds_a_day": self._a_day(each.saved) if each.saved else None,
            "estimated_improvement": each.improvement,
            "evidence": self._evidence(each),
            "evidence_basis": each.basis,
            "index_suggestions": [asdict(index) for index in self._suggestions(each)],
            "findings": [asdict(finding) for finding in self._findings(each)],
            "optimized_query": self._shown(each.rewritten, shape.dialect),
            "n_plus_one": None,
        }
        if repeats.runs:
            sentence = each.instead[:1].islower()
            found["n_plus_one"] = {
                "runs": repeats.runs,
                "longest": repeats.longest,
                "statements": repeats.statements,
                "instead": each.instead if sentence else self._shown(each.instead, shape.dialect),
            }
        if self.literals:
            found["example"] = shape.example
            found["parameters"] = shape.parameters
        return found

    def _indexes_as_text(self) -> list[str]:
        judgement = self.judgement
        lines: list[str] = []
        for title, indexes in (
            ("Indexes for this workload, those that save most first:", judgement.indexes),
            ("Indexes that the texts ask for; no plan shows what they save:", judgement.unproved),
        ):
            shown = [each for each in indexes if self._may_show(each.suggestion, each.dialect)]
            if shown:
                lines += ["", title]
            for each in shown:
                lines.append(f"  {each.ddl};{_needs(each.suggestion)}")
                lines.append(f"      {self._served(each)}")
        if left := judgement.left_out:
            seconds = sum(each.seconds for each in left)
            saving = f", which would save {duration(seconds)}" if seconds else ""
            lines += ["", f"{counted(len(left), 'more index', 'more indexes')}{saving} (--max-indexes)"]
        return lines

    def _served(self, index: MergedIndex) -> str:
        said = []
        if index.seconds:
            a_day = self._a_day(index.seconds)
            more = f", {duration(a_day)} a day" if a_day is not None else ""
            said.append(f"saves about {duration(index.seconds)}{more}")
        if index.together:
            said.append(f"{duration(index.together)} together with others of these")
        served = f"for {counted(len(index.shapes), 'shape')}: {', '.join(index.shapes[:8])}"
        if len(index.shapes) > 8:
            served += ", ..."
        return "; ".join([*said, served])

    def _index_as_dict(self, index: MergedIndex) -> dict[str, Any]:
        shown = self._may_show(index.suggestion, index.dialect)
        return {
            "table": index.suggestion.table,
            "ddl": index.ddl if shown else "",
            "extension": index.suggestion.extension,
            "saved_seconds": round(index.seconds, 6),
            "saved_seconds_together_with_others": round(index.together, 6),
            "shapes": index.shapes,
        }

    @property
    def _may_name_unused(self) -> bool:
        seconds = None if self.use is None else self.use.seconds
        return seconds is not None and seconds >= self.unused_after

    def _notes(self) -> list[str]:
        notes = list(self.notes)
        workload = self.workload
        if workload.dropped_shapes:
            notes.append(
                f"{workload.dropped_shapes:,} shapes are not listed: "
                f"{duration(workload.dropped_seconds)} together"
            )
        every = (*self.judgement.indexes, *self.judgement.unproved, *self.judgement.left_out)
        if hidden := sum(not self._may_show(each.suggestion, each.dialect) for each in every):
            notes.append(
                f"{counted(hidden, 'index', 'indexes')} with a constant of a statement: shown with --literals"
            )
        if self.use is not None:
            notes += self.use.notes
            seconds = self.use.seconds
            if seconds is not None and not self._may_name_unused:
                notes.append(
                    f"unused indexes are not named: scans were counted for {duration(seconds)} only "
                    f"({self.use.since}), and --unused-after is {self.unused_after / DAY:g} days"
                )
        if any(each.saved for each in self.judgement.judged):
            notes.append("savings are shares of the planner's cost, taken for shares of the time")
        return notes


def _needs(index: IndexSuggestion) -> str:
    """The extension that must be there first."""
    return f"  -- after CREATE EXTENSION {index.extension}" if index.extension else ""
