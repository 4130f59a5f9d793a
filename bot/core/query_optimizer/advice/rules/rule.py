"""A rule for SQL statements: a function of one node and of what is known around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from bot.core.query_optimizer.advice.rules.facts import Facts
from bot.core.query_optimizer.advice.rules.registry import Remark, Rule, register
from bot.core.query_optimizer.models import Severity

Check = Callable[[Any, Facts], Remark | None]

Needs = Callable[[frozenset[type]], bool]


class StatementRule(NamedTuple):
    rule: Rule
    classes: tuple[type, ...]
    check: Check
    needs: Needs
    """Whether it can find anything in a statement made of nodes of these classes."""


STATEMENT_RULES: list[StatementRule] = []
RULES_BY_CLASS: dict[type, list[StatementRule]] = {}


def rule(
    code: str, name: str, severity: Severity, *classes: type, needs: tuple[type, ...] | Needs = ()
) -> Callable[[Check], Check]:
    """Register a rule for nodes of these classes; ``needs``: one of these must be in the statement too."""

    required = () if callable(needs) else needs

    def there(kinds: frozenset[type]) -> bool:
        return not required or not kinds.isdisjoint(required)

    def decorated(check: Check) -> Check:
        known = register(code, name, severity)
        found = StatementRule(known, classes, check, needs if callable(needs) else there)
        STATEMENT_RULES.append(found)
        for kind in classes:
            RULES_BY_CLASS.setdefault(kind, []).append(found)
        return check

    return decorated
