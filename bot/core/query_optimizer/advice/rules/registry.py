"""Every rule by its code: Q for SQL, G for GraphQL, M for MongoDB (pure)."""

from __future__ import annotations

from typing import NamedTuple

from bot.core.query_optimizer.models import Finding, Severity

Remark = tuple[str, str]
"""(what is wrong, what to do)"""


class Rule(NamedTuple):
    """What all findings of a rule have in common; ``docs/query_rules.md`` explains each code."""

    code: str
    """Its meaning never changes."""
    name: str
    severity: Severity

    def finding(self, remark: Remark, line: int = 1) -> Finding:
        return Finding(self.code, self.name, self.severity, *remark, line)


RULES: dict[str, Rule] = {}
"""Rules by code; a rule is added when its module is imported. Changed only by :func:`register`."""


def register(code: str, name: str, severity: Severity) -> Rule:
    """Raises ValueError for a code that another rule has."""
    if code in RULES:
        raise ValueError(f"rule {code} = {name!r}: the code is taken by {RULES[code].name!r}")
    rule = RULES[code] = Rule(code, name, severity)
    return rule
