"""Writes ``docs/statistics.md``: every key of the statistics, its type, its meaning and its metric.

``python -m tools.statistics_reference`` writes it; a test checks that it is current.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, get_args, get_type_hints

from msgspec import UNSET

from bot.core.phase4_statistics.batch_processor import BatchProcessorFigures
from bot.core.phase4_statistics.cache_manager import CacheManagerFigures
from bot.core.phase4_statistics.connection_pools import PoolFigures
from bot.core.phase4_statistics.fields import Figures, Metric, declared
from bot.core.phase4_statistics.load_balancer import InstanceFigures, LoadBalancerFigures
from bot.core.phase4_statistics.outbound import OutboundFigures
from bot.core.phase4_statistics.query_optimizer import QueryOptimizerFigures
from bot.core.phase4_statistics.rate_limiter import LimitFigures, RateLimiterFigures, SlotFigures

ROOT = Path(__file__).resolve().parent.parent

SECTIONS: tuple[tuple[str, type[Figures]], ...] = (
    ("Query optimizer", QueryOptimizerFigures),
    ("Cache manager", CacheManagerFigures),
    ("Connection pools: each pool", PoolFigures),
    ("Rate limiter", RateLimiterFigures),
    ("Rate limiter: each of `limits`", LimitFigures),
    ("Rate limiter: each of `slots`", SlotFigures),
    ("Batch processor", BatchProcessorFigures),
    ("Load balancer", LoadBalancerFigures),
    ("Load balancer: each of `instances`", InstanceFigures),
    ("Outbound", OutboundFigures),
)

INTRODUCTION = """\
# Statistics

Generated from `bot/core/phase4_statistics` by `python -m tools.statistics_reference`.

`await service.get_statistics()` returns these figures as a dict that is ready for JSON.
`service.statistics()` does the same for code that cannot await; `service.snapshot()` returns a frozen
Struct, so that a type checker knows each figure. `get_phase4_status()` has the figures of every service that
is on. The connection pool manager has a dict of figures for each pool, by name.

Counts are since the start or the last `reset_statistics()`. Percentages are from 0 to 100. A key that ends in
`_ms` is in milliseconds, one that ends in `_seconds` in seconds, one that ends in `_mb` in units of 1,048,576
bytes. The last column names the [metric](metrics.md) of a figure; metrics are in seconds and
bytes."""


class Entry(NamedTuple):
    """A key as the page shows it."""

    key: str
    type: str
    meaning: str
    metric: str


def entries(kind: type[Figures]) -> list[Entry]:
    """The keys of ``kind`` in order: its fields, then its second keys."""
    hints, docs = get_type_hints(kind), _docstrings(kind)
    metrics: dict[str, list[Metric]] = {}
    for key, metric in declared(kind, Metric):
        metrics.setdefault(key, []).append(metric)
    found = []
    for key in kind.__struct_fields__:
        of_it = metrics.get(key, [])
        meaning = docs.get(key) or next((metric.help for metric in of_it), "")
        if hints[key] is bool:
            meaning = re.sub(r"^1 (?=if|while)", "True ", meaning)
        found.append(Entry(key, _shown(hints[key]), meaning, ", ".join(_name(kind, each) for each in of_it)))
    for key, value in vars(kind).items():
        if isinstance(value, property) and value.fget is not None:
            hint = get_type_hints(value.fget)["return"]
            found.append(Entry(key, _shown(hint), inspect.cleandoc(value.__doc__ or ""), ""))
    return found


def _docstrings(kind: type[Figures]) -> dict[str, str]:
    """What stands as a string behind a field."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = inspect.cleandoc(str(text.value.value))
    return found


def _shown(hint: Any) -> str:
    if isinstance(hint, UnionType):
        parts = [each for each in get_args(hint) if each is not type(UNSET)]
        return " or ".join("null" if each is type(None) else _shown(each) for each in parts)
    return str(getattr(hint, "__origin__", hint).__name__)


def _name(kind: type[Figures], metric: Metric) -> str:
    name = f"{metric.name}_total" if metric.kind == "counter" else metric.name
    labels = [kind.label] if kind.label else []
    labels += [f'{label}="{value}"' for label, value in zip(metric.labels, metric.values, strict=True)]
    return f"`{name}{{{','.join(labels)}}}`" if labels else f"`{name}`"


def reference() -> str:
    """The page in Markdown."""
    lines = [INTRODUCTION]
    for title, kind in SECTIONS:
        lines += ["", f"## {title}", "", "| key | type | meaning | metric |", "|---|---|---|---|"]
        for entry in entries(kind):
            meaning = entry.meaning.replace("\n", " ").replace("``", "`").rstrip(".").replace("|", "\\|")
            lines.append(f"| `{entry.key}` | {entry.type} | {meaning} | {entry.metric} |")
    return "\n".join(lines) + "\n"


FILES = {ROOT / "docs" / "statistics.md": reference}

if __name__ == "__main__":
    for path, content in FILES.items():
        path.write_text(content(), encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
