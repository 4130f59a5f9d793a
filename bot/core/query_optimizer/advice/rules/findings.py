"""What all rules for SQL find in a statement."""

from __future__ import annotations

import functools
from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.advice.rules import (
    conditions,
    filters,
    grouping,
    joins,
    migrations,
    ordering,
    selection,
    writes,
)
from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.advice.rules.rule import RULES_BY_CLASS, StatementRule
from bot.core.query_optimizer.models import Finding
from bot.core.query_optimizer.sql.scopes import (
    COMPARISONS,
    line_of,
)

_REGISTERED = (conditions, filters, grouping, joins, migrations, ordering, selection, writes)
"""Their rules are known once they are imported."""


def findings_of(facts: Facts) -> list[Finding]:
    """What the rules find in one statement, in the order of their codes, each thing once."""
    found: dict[tuple[str, str], Finding] = {}
    by_class = facts.census.by_class
    for kind, rules in _applicable(tuple(by_class)):
        nodes = by_class[kind]
        if kind in _COMPARISONS:
            nodes = [node for node in nodes if not _is_plain(node.args)]
        for applied in rules:
            known, check = applied.rule, applied.check
            for node in nodes:
                remark = check(node, facts)
                if remark is not None and (known.code, remark[0]) not in found:
                    found[known.code, remark[0]] = known.finding(remark, line_of(node))
    if len(found) < 2:
        return list(found.values())
    return sorted(found.values(), key=lambda finding: (finding.code, finding.line))


_COMPARISONS = frozenset((*COMPARISONS, exp.NEQ))


def _is_plain(args: dict[str, Any]) -> bool:
    """Whether a comparison is of a column with a literal: most are, and no rule concerns them."""
    return args["this"].__class__ is exp.Column and args["expression"].__class__ is exp.Literal


@functools.lru_cache(maxsize=1024)
def _applicable(kinds: tuple[type, ...]) -> tuple[tuple[type, tuple[StatementRule, ...]], ...]:
    """The rules that may find something in a statement made of nodes of these classes."""
    there = frozenset(kinds)
    chosen = []
    for kind in kinds:
        rules = tuple(rule for rule in RULES_BY_CLASS.get(kind, ()) if rule.needs(there))
        if rules:
            chosen.append((kind, rules))
    return tuple(chosen)
