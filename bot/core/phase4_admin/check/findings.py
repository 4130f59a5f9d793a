"""What a check found, and how it is shown (pure)."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct

from bot.core._shared.masking import one_line

MAX_FOUND = 2_000
"""Characters of a text."""


NOT_READ = "not read"
"""The check whose findings name settings that could not be read: with one, nothing is ready."""


class State(StrEnum):
    """How a check ended. Only FAIL makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


class Finding(Struct, frozen=True):
    """One line of the table."""

    check: str
    """What was looked at: ``Redis``, ``memory``."""
    state: State
    found: str
    """What was seen, with figures."""
    advice: str = ""
    """What to do; empty when all is well."""


def ok(check: str, found: str) -> Finding:
    return Finding(check, State.OK, one_line(found, MAX_FOUND))


def warn(check: str, found: str, advice: str) -> Finding:
    return Finding(check, State.WARN, one_line(found, MAX_FOUND), one_line(advice, MAX_FOUND))


def fail(check: str, found: str, advice: str) -> Finding:
    return Finding(check, State.FAIL, one_line(found, MAX_FOUND), one_line(advice, MAX_FOUND))


def failed(findings: Sequence[Finding]) -> bool:
    return any(finding.state is State.FAIL for finding in findings)


def summary(findings: Sequence[Finding]) -> str:
    """One sentence for the last line."""
    count = {state: sum(1 for finding in findings if finding.state is state) for state in State}
    if count[State.FAIL]:
        verdict = "NOT ready to deploy"
    elif any(finding.check == NOT_READ for finding in findings):
        verdict = "not known whether it is ready: settings are left that could not be read"
    elif count[State.WARN]:
        verdict = "ready to deploy, after a look at the warnings"
    else:
        verdict = "ready to deploy"
    return f"{verdict}: {count[State.OK]} ok, {count[State.WARN]} warning(s), {count[State.FAIL]} failure(s)"


def as_table(findings: Sequence[Finding], width: int) -> str:
    """A table for a terminal ``width`` columns wide; advice stands below what it is about."""
    name = max(len(finding.check) for finding in findings)
    indent = " " * (6 + name + 2)
    room = max(40, width - len(indent))
    lines = []
    for finding in findings:
        body = textwrap.wrap(finding.found, room) or [""]
        if finding.advice:
            body += textwrap.wrap(finding.advice, room, initial_indent="-> ", subsequent_indent="   ")
        first = f"{finding.state.value:<6}{finding.check:<{name}}  "
        lines += [first + body[0], *(indent + line for line in body[1:])]
    return "\n".join(line.rstrip() for line in [*lines, "", summary(findings)])


def as_json(findings: Sequence[Finding]) -> str:
    """The same for programs: ``ok``, ``summary`` and ``findings``."""
    body = {
        "ok": not failed(findings),
        "summary": summary(findings),
        "findings": [
            {"check": f.check, "state": f.state.value.lower(), "found": f.found, "advice": f.advice}
            for f in findings
        ],
    }
    return json.dumps(body, indent=2)
