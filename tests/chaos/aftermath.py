"""What must hold of everything but requests: messages, accounts, memory, log lines (pure)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bot.testing.telegram_log import Call
from tests.chaos.instances import GROUP_WINDOW
from tests.chaos.ledger import instance_of
from tests.chaos.oracles import Violation
from tests.chaos.plan import History

MORE = {"rss_mb": 25.0, "fds": 20, "tasks": 20, "backends": 15}
"""What a process may gain until its end: connections of two pools of six, a few of Redis."""

EXPECTED: tuple[tuple[str, str], ...] = (
    (
        r"ERROR bot.core.connection_pool_manager.reports Pool '\w+': cannot connect",
        "a server is away: told once",
    ),
    (r"ERROR bot.core.batch_processor.dispatcher Batch of \d+ item", "retries are used up: dead letters"),
)
"""Patterns of errors in the logs that are no fault, each with the reason."""

_PROBLEM = re.compile(
    r"^\S+ \S+ (ERROR|CRITICAL) |Traceback \(most recent call last\)|never (retrieved|awaited)"
)
_WARNING = re.compile(r"ResourceWarning|RuntimeWarning")


def messages(calls: Iterable[Call], history: History) -> list[Violation]:
    """To each chat in the order of the calls; no refusal by Telegram but where the documents tell of one."""
    found = []
    newest: dict[tuple[int, str], int] = {}
    for call in calls:
        if call.method != "sendMessage" or call.chat is None:
            continue
        who, _, number = str(call.parameters["text"]).partition(" ")
        if call.code == 200 and call.done:
            if int(number) <= newest.get((call.chat, who), 0):
                found.append(
                    Violation("messages", f"chat {call.chat}: {number} of {who} is late", [str(call)])
                )
            newest[call.chat, who] = int(number)
        if call.code == 429 and not history.during(
            call.time - GROUP_WINDOW - 10, call.time, "queue", "telegram", "instance"
        ):
            found.append(Violation("messages", f"chat {call.chat}: refused by Telegram", [str(call)]))
    return found


def accounts(
    balances: Mapping[int, int], transfers: Mapping[str, tuple[int, int]], confirmed: Iterable[str]
) -> list[Violation]:
    """A transfer is there if its answer said so, and in both accounts or in none."""
    sums: dict[int, int] = defaultdict(int)
    for giver, taker in transfers.values():
        sums[giver] -= 1
        sums[taker] += 1
    found = [
        Violation("accounts", f"account {account} has {balance}, its transfers make {sums[account]}", [])
        for account, balance in balances.items()
        if balance != sums[account]
    ]
    return found + [
        Violation("accounts", f"the transfer {name} was confirmed and is gone", [])
        for name in confirmed
        if name not in transfers
    ]


Figures = Mapping[str, Mapping[str, float]]
"""Process -> figure -> value."""


def flat(before: Figures, after: Figures) -> list[Violation]:
    """Of a process that lived throughout: it has not more at the end than it had before anything broke.

    Descriptors, tasks and connections are those of an idle process, so pools may have grown meanwhile.
    """
    return [
        Violation("flat", f"{who}: {figure} {had[figure]:g} before, {after[who][figure]:g} after", [])
        for who, had in before.items()
        for figure, bound in MORE.items()
        if figure in had and after[who][figure] - had[figure] > bound
    ]


def surprises(folder: Path) -> list[Violation]:
    """Errors and tracebacks in the logs of all processes that are not on the list of expected ones."""
    found = []
    for path in sorted(folder.glob("*.log")):
        lines = path.read_text(errors="replace").splitlines()
        for number, line in enumerate(lines):
            if not (_PROBLEM.search(line) or _WARNING.search(line)):
                continue
            shown = lines[max(0, number - 1) : number + 30]
            if not any(re.search(pattern, "\n".join(shown[:2])) for pattern, _ in EXPECTED):
                found.append(Violation("surprises", f"{path.name}: {line[:150]}", shown))
    return found


def endings(
    events: Sequence[dict[str, Any]], stopped: Mapping[str, int], left: Mapping[str, Sequence[Any]]
) -> list[Violation]:
    """Every stop was clean, and nothing is left: no task, no connection of a server, no entry of a queue."""
    found = []
    for event in events:
        if event["kind"] == "stopped" and not event["clean"]:
            found.append(Violation("endings", f"{event['who']} did not stop cleanly", [str(event)]))
        if event["kind"] == "left" and event["tasks"]:
            found.append(Violation("endings", f"{event['who']} left tasks", event["tasks"]))
        if event["kind"] == "two holders":
            found.append(Violation("leases", f"{event['who']}: a connection had two holders", [str(event)]))
    for who, status in stopped.items():
        if status:
            found.append(Violation("endings", f"{who} ended with {status}", [instance_of(who)]))
    for what, things in left.items():
        if things:
            found.append(
                Violation("endings", f"{len(things)} left: {what}", [str(one) for one in things[:10]])
            )
    return found
