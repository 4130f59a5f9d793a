"""What the report says about indexes that a database has (pure)."""

from __future__ import annotations

from typing import Any

from bot.core.query_optimizer.workload.existing import (
    ExistingIndex,
    IndexUse,
    Needless,
    invalid,
    needless,
    overlapping,
    unused,
)
from bot.core.query_optimizer.workload.wording import counted, duration, size_of


def existing_as_text(use: IndexUse, dialect: str, *, may_name: bool) -> list[str]:
    """Lines on what can be dropped; ``may_name``: whether scans were counted long enough."""
    lines: list[str] = []
    for title, pairs, drop in (
        ("Indexes that another one makes needless:", needless(use.indexes), True),
        (
            "Indexes that another one begins with; it lacks their order by primary key, so look for "
            "ORDER BY of that:",
            overlapping(use.indexes),
            False,
        ),
    ):
        if pairs:
            lines += ["", title]
        for pair in pairs:
            lines.append(f"  {_said_of(pair.index)}: {_why(pair)}")
            if drop:
                lines.append(f"      {drop_of(pair.index, dialect)}")
    if (never := unused(use.indexes)) and may_name:
        lines += ["", f"Indexes without a scan in {duration(use.seconds or 0.0)} ({use.since}):"]
        lines += [f"  {_said_of(each)}" for each in never]
        lines.append("  One that was created later, or that a rare job needs, looks the same.")
    if broken := invalid(use.indexes):
        lines += ["", "Indexes that no query can use (a build failed, or they are disabled):"]
        lines += [f"  {_said_of(each)}" for each in broken]
    return lines


def existing_as_dict(use: IndexUse, dialect: str, *, may_name: bool) -> dict[str, Any]:
    """The same for programs."""

    def told(index: ExistingIndex) -> dict[str, Any]:
        return {
            "schema": index.schema,
            "table": index.table,
            "name": index.name,
            "bytes": index.size,
            "scans": index.scans,
        }

    return {
        "counted_seconds": use.seconds,
        "counted": use.since,
        "needless": [
            {**told(pair.index), "by": pair.by.full_name, "ddl": drop_of(pair.index, dialect)}
            for pair in needless(use.indexes)
        ],
        "overlapping": [{**told(pair.index), "by": pair.by.full_name} for pair in overlapping(use.indexes)],
        "unused": [told(each) for each in unused(use.indexes)] if may_name else None,
        "unusable": [told(each) for each in invalid(use.indexes)],
    }


def drop_of(index: ExistingIndex, dialect: str) -> str:
    """The statement that drops it."""
    if dialect == "mysql":
        table, name = ("`" + each.replace("`", "``") + "`" for each in (index.table, index.name))
        return f"ALTER TABLE {table} DROP INDEX {name};"
    names = ".".join('"' + name.replace('"', '""') + '"' for name in (index.schema, index.name) if name)
    return f"DROP INDEX CONCURRENTLY {names};"


def _why(pair: Needless) -> str:
    how = "is the same" if pair.is_duplicate else "has its keys and more"
    if pair.index.order and pair.index.order == pair.by.order and not pair.is_duplicate:
        how = "has the same entries: InnoDB adds the primary key"
    return f"{pair.by.full_name} ({_keys(pair.by)}) {how}"


def _said_of(index: ExistingIndex) -> str:
    size = "" if index.size is None else f", {size_of(index.size)}"
    scans = "" if index.scans is None else f", {counted(index.scans, 'scan')}"
    return f"{index.full_name} on {index.table} ({_keys(index)}){size}{scans}"


def _keys(index: ExistingIndex) -> str:
    return ", ".join(key.text for key in index.keys)
