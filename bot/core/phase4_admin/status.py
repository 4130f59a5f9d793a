"""``phase4 status URL``: the ``/health`` of a running bot as a table, once or live."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TextIO

from bot.core._shared.masking import mask_url, one_line
from bot.core.phase4_admin import TOKEN_VARIABLE

DEFAULT_URL = "http://127.0.0.1:8000"
PREFIX = "/phase4"
"""Where a bot's own web application has it, unless it says otherwise."""
_EXPECTED = "is it the address of mount_phase4 or PHASE4_DASHBOARD_PORT?"
TIMEOUT = 5.0
"""Seconds that the service may take to answer."""
_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


class Row(NamedTuple):
    """One figure: what it is, what it says, and the guide's target with whether it is met."""

    name: str
    value: str
    target: str = ""
    met: bool | None = None


class UnreachableError(Exception):
    """The bot did not answer, or its token is missing, or what answered is something else."""


class NoFiguresError(UnreachableError):
    """It answers, but tells no figures: it is something else, or wants a token."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Show a running bot's figures, those of the guide's dashboard with their targets, and which services "
        "are degraded, why and since when. Exit status 1 if it is down or cannot be reached."
    )
    parser.add_argument(
        "url", nargs="?", default=DEFAULT_URL,
        help=f"where the bot has it mounted, such as http://127.0.0.1:8081 or http://host/phase4 "
        f"({DEFAULT_URL})",
    )  # fmt: skip
    parser.add_argument("--watch", action="store_true", help="show it again and again until Ctrl-C")
    parser.add_argument("--interval", type=_seconds, default=2.0, help="seconds between two looks (2)")
    parser.add_argument("--format", choices=["table", "json"], default="table", help="(table)")
    parser.add_argument(
        "--token", dest="status_token",
        help=f"the service's token; else the environment's {TOKEN_VARIABLE} (better: other users of the "
        f"machine see arguments)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Print the status; returns the exit status."""
    try:
        url = _health_url(arguments.url)
        token = _token(arguments.status_token)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2

    def fetch(address: str) -> dict[str, Any]:
        try:
            return _fetch(address, token)
        except NoFiguresError:
            # A bot's web application may have a /health of its own, and ours below its prefix.
            below = address.removesuffix("/health") + PREFIX + "/health"
            with contextlib.suppress(UnreachableError):
                return _fetch(below, token)
            raise

    if not arguments.watch:
        return _show_once(url, arguments.format, sys.stdout, fetch)
    try:
        while True:
            if sys.stdout.isatty():
                sys.stdout.write(_CLEAR)
            _show_once(url, arguments.format, sys.stdout, fetch)
            sys.stdout.write("\n" if not sys.stdout.isatty() else "")
            sys.stdout.flush()
            time.sleep(arguments.interval)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # A pager or head that has seen enough; Python must not complain about the rest either.
        sys.stdout = None
        return 0


def _show_once(url: str, form: str, out: TextIO, fetch: Callable[[str], dict[str, Any]] | None = None) -> int:
    try:
        health = (fetch or _fetch)(url)
    except UnreachableError as error:
        print(error, file=out if form == "table" else sys.stderr)
        return 1
    print(json.dumps(health, indent=2) if form == "json" else as_table(health), file=out)
    return 0 if health.get("status") in ("ok", "degraded") else 1


def _health_url(text: str) -> str:
    parts = urllib.parse.urlsplit(text if "://" in text else f"http://{text}")
    try:
        well = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        well = False
    if not well:
        raise ValueError(f"URL = {mask_url(text)!r}: expected http://host:port")
    path = parts.path.rstrip("/")
    return urllib.parse.urlunsplit(
        (parts.scheme, parts.netloc, path.removesuffix("/health") + "/health", "", "")
    )


def _token(given: str | None) -> str:
    token = os.environ.get(TOKEN_VARIABLE, "").strip() if given is None else given
    if not token.isascii() or not token.isprintable():
        named = TOKEN_VARIABLE if given is None else "--token"
        raise ValueError(f"{named}: expected printable ASCII characters")
    return token


def _fetch(url: str, token: str = "") -> dict[str, Any]:
    shown = mask_url(url)
    request = urllib.request.Request(url)  # noqa: S310 - http or https, see above
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310
            body = response.read()
    except urllib.error.HTTPError as error:
        body = error.read()  # 503 carries the status of a service that is down
        if error.code != 503:
            raise NoFiguresError(f"{shown} answers {error.code}: {_EXPECTED}") from None
    except http.client.HTTPException as error:
        said = type(error).__name__
        raise UnreachableError(f"{shown} does not speak HTTP ({said}): {_EXPECTED}") from None
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise UnreachableError(
            f"{shown} cannot be reached: {getattr(reason, 'strerror', None) or reason}"
        ) from None
    try:
        health = json.loads(body)
    except ValueError:
        health = None
    if isinstance(health, dict) and health.keys() == {"status"} and health["status"] in ("ok", "down"):
        raise NoFiguresError(
            f"{shown} says {str(health['status'])[:20]!r}, and shows its figures only with its token: "
            f"set {TOKEN_VARIABLE}, or give --token (without a token it tells them on its own machine only)"
        )
    if not isinstance(health, dict) or not isinstance(health.get("phase4"), dict):
        raise NoFiguresError(f"{shown} answers, but not as Phase 4 does: {_EXPECTED}")
    return health


def as_table(health: Mapping[str, Any]) -> str:
    """The table of one answer of ``/health`` (pure)."""
    phase4 = health["phase4"]
    process = phase4.get("process", {})
    blocks: list[tuple[str, list[Row]]] = [
        (
            f"{str(health.get('status', '?')).upper() if health.get('status') != 'ok' else 'ok'}, "
            f"version {health.get('version', '?')}, {_time(phase4.get('timestamp'))}",
            [
                *([Row("reason", one_line(health["reason"], 200))] if health.get("reason") else []),
                *_answered(phase4.get("services", {})),
                Row("up", _duration(phase4.get("uptime_seconds", 0.0))),
                Row("memory", f"{process.get('rss_mb', 0):,.1f} MB"),
                Row(
                    "CPU of one core",
                    f"{process.get('cpu_percent', 0):.1f} %",
                    "< 60 %",
                    process.get("cpu_percent", 0) < 60,
                ),
                Row("threads, descriptors", f"{process.get('threads', 0)}, {process.get('open_fds', 0)}"),
                *_database(health.get("database", {})),
            ],
        )
    ]
    services = phase4.get("services", {})
    states = phase4.get("states", {})
    for name in [*services, *(name for name in states if name not in services)]:
        title, figures = _title(name, states.get(name, {})), services.get(name)
        if figures is None:
            if states[name].get("state") == "failed":
                blocks.append((title, []))
            continue
        if "error" in figures:
            blocks.append((title, [Row("error", str(figures["error"]))]))
            continue
        rows = _ROWS.get(name, _other)(figures)
        if name in _CACHES and all(_asked(services, cache) for cache in _CACHES):
            # One may stand before the other, and then gets the easy look-ups; both together are judged above.
            rows = (
                row._replace(target="", met=None) if row.name.endswith("hit rate") else row for row in rows
            )
        blocks.append((title, list(rows)))
    if not services and len(blocks) == 1:
        blocks.append(("Phase 4 is off", []))
    return "\n\n".join(_block(title, rows) for title, rows in blocks)


_CACHES = {
    "cache_manager": ("total_hits", "total_misses"),
    "query_optimizer": ("cache_hits", "cache_misses"),
}
"""Services that answer look-ups, and their counters of hits and misses."""


def _asked(services: Mapping[str, Any], cache: str) -> int:
    return sum(int(services.get(cache, {}).get(key) or 0) for key in _CACHES[cache])


def _answered(services: Mapping[str, Any]) -> Iterator[Row]:
    """The look-ups of both caches together, if both are asked.

    One that missed in the first and was answered by the second counts as a miss and a hit.
    """
    if not all(_asked(services, cache) for cache in _CACHES):
        return
    hits = sum(services[cache].get(keys[0]) or 0 for cache, keys in _CACHES.items())
    asked = sum(_asked(services, cache) for cache in _CACHES)
    yield _percent("look-ups answered", 100 * hits / asked, "> 70 %", lambda v: v > 70, asked)


def _title(service: str, state: Mapping[str, Any]) -> str:
    """``cache manager: DEGRADED since 2026-02-01 10:00:00Z: Redis does not answer``."""
    title = service.replace("_", " ")
    if state.get("state") not in ("degraded", "failed"):
        return title
    reason = one_line(state.get("reason") or "see the log", 300)
    return f"{title}: {state['state'].upper()} since {_time(state.get('since'))}: {reason}"


def _time(text: Any) -> str:
    return f"{str(text)[:19].replace('T', ' ')}Z" if text else "?"


def _block(title: str, rows: list[Row]) -> str:
    lines = [title]
    for row in rows:
        mark = "" if row.met is None else ("  ok" if row.met else "  OUT")
        target = f"target {row.target}" if row.target else ""
        lines.append(f"  {row.name:<26} {row.value:>16}  {target:<18}{mark}".rstrip())
    return "\n".join(lines)


def _database(figures: Mapping[str, Any]) -> Iterator[Row]:
    for name, value in figures.items():
        if isinstance(value, str | int | float):
            yield Row(f"database {name.replace('_', ' ')}", one_line(value))


def _query_optimizer(f: Mapping[str, Any]) -> Iterator[Row]:
    asked = f.get("cache_hits", 0) + f.get("cache_misses", 0)
    yield _percent("cache hit rate", f.get("cache_hit_rate_percent", 0.0), "> 70 %", lambda v: v > 70, asked)
    yield Row("hits, misses", f"{f.get('cache_hits', 0):,}, {f.get('cache_misses', 0):,}")
    yield Row("results cached", f"{f.get('cached_results_count', 0):,}")
    yield Row("execution, average", f"{f.get('avg_execution_time_ms', 0.0):,.1f} ms")
    yield Row("different queries", f"{f.get('total_unique_queries', 0):,}")
    yield Row("slow queries", f"{_count(f.get('slow_queries', 0)):,}")
    yield Row("N+1 patterns", f"{_count(f.get('n_plus_one_patterns', 0)):,}")
    streams = {state: f.get(f"change_streams_{state}", 0) for state in ("open", "lost", "unavailable")}
    if any(streams.values()):
        told = ", ".join(f"{number:,} {state}" for state, number in streams.items() if number)
        yield Row("change streams of MongoDB", told)


def _cache_manager(f: Mapping[str, Any]) -> Iterator[Row]:
    asked = f.get("total_hits", 0) + f.get("total_misses", 0)
    yield _percent("hit rate", f.get("overall_hit_rate_percent", 0.0), "> 70 %", lambda v: v > 70, asked)
    yield _percent("eviction rate", f.get("eviction_rate", 0.0), "< 10 %", lambda v: v < 10, asked)
    yield Row("L1 entries", f"{f.get('l1_entries', 0):,}")
    yield Row("L1 memory", f"{f.get('l1_memory_mb', 0.0):,.1f} of {f.get('l1_max_size_mb', 0):g} MB")
    if f.get("l2_enabled"):
        yield Row("L2", "connected" if f.get("l2_connected") else "AWAY")
        yield Row("L2 hits, misses", f"{f.get('l2_hits', 0):,}, {f.get('l2_misses', 0):,}")


def _connection_pool_manager(f: Mapping[str, Any]) -> Iterator[Row]:
    pools = {name: pool for name, pool in f.items() if isinstance(pool, dict)}
    if not pools:
        yield Row("pools", "none")
    for name, pool in pools.items():
        used = pool.get("utilization_percent", 0.0)
        # Below the band a pool is larger than it need be, which does no harm at night.
        yield Row(
            f"{name}: in use",
            f"{pool.get('active_connections', 0)} of {pool.get('max_size', 0)} ({used:.0f} %)",
            "50-80 % at peak",
            used <= 80,
        )
        yield Row(f"{name}: idle", f"{pool.get('idle_connections', 0)}")
        yield Row(
            f"{name}: wait mean, p99",
            f"{pool.get('avg_wait_time_ms', 0.0):.2f}, {pool.get('p99_wait_time_ms', 0.0):.2f} ms",
        )
        failed, leaked = pool.get("failed_acquisitions", 0), pool.get("leaked", 0)
        yield Row(f"{name}: failed, leaked", f"{failed:,}, {leaked:,}", "0, 0", not failed and not leaked)
        if pool.get("healthy") is False or pool.get("degraded"):
            word = "unhealthy" if pool.get("healthy") is False else "degraded"
            yield Row(f"{name}: {word}", str(pool.get("last_error") or "see the log"), "", False)


def _rate_limiter(f: Mapping[str, Any]) -> Iterator[Row]:
    asked = f.get("total_requests", 0)
    yield _percent("blocked", f.get("block_rate_percent", 0.0), "< 5 %", lambda v: v < 5, asked)
    yield Row("allowed, blocked", f"{f.get('total_allowed', 0):,}, {f.get('total_blocked', 0):,}")
    yield Row("clients held", f"{f.get('active_clients', 0):,}")
    if f.get("degraded"):
        yield Row("shared limits", "DEGRADED: local")


def _batch_processor(f: Mapping[str, Any]) -> Iterator[Row]:
    yield Row("throughput", f"{f.get('throughput_items_per_sec', 0.0):,.0f} items/s", "> 1000/s at load")
    yield Row("items pending", f"{f.get('pending_items', 0):,}")
    yield Row("items done, failed", f"{f.get('total_items_processed', 0):,}, {f.get('failed_items', 0):,}")
    yield Row("batches done, failed", f"{f.get('completed_batches', 0):,}, {f.get('failed_batches', 0):,}")
    yield Row("items per batch", f"{f.get('avg_batch_size', 0.0):,.1f}")


def _load_balancer(f: Mapping[str, Any]) -> Iterator[Row]:
    healthy, total = f.get("healthy_instances", 0), f.get("total_instances", 0)
    yield Row("instances healthy", f"{healthy} of {total}", "all", healthy == total)
    asked = f.get("total_requests", 0)
    yield _percent(
        "distribution variance", f.get("distribution_variance", 0.0), "< 10 %", lambda v: v < 10, asked
    )
    yield _percent("success", f.get("success_rate_percent", 0.0), "> 99 %", lambda v: v > 99, asked)
    yield Row("requests", f"{asked:,}")
    yield Row("response, average", f"{f.get('average_response_time_ms', 0.0):,.1f} ms")
    yield Row("strategy", str(f.get("strategy", "")))
    for instance in _instances(f.get("instances")):
        yield Row(*instance)


def _outbound(f: Mapping[str, Any]) -> Iterator[Row]:
    yield Row("sent, failed", f"{f.get('sent', 0):,}, {f.get('failed', 0):,}")
    queued, most = f.get("queued", 0), f.get("max_pending", 0)
    yield Row("queued", f"{queued:,} of {most:,}", "< 80 %", queued <= 0.8 * most)
    half, most_of_all = f.get("p50_wait_ms", 0.0), f.get("p99_wait_ms", 0.0)
    yield Row("wait, 50 % and 99 %", f"{half:,.0f} ms, {most_of_all:,.0f} ms")
    yield Row("refused by Telegram", f"{f.get('refusals', 0):,}")
    yield Row("chats held", f"{f.get('chats_held', 0):,}")
    held = f.get("held_globally_seconds", 0.0)
    yield Row("all chats held", f"{held:,.0f} s", "0 s", not held)
    if f.get("degraded"):
        yield Row("shared budget", "DEGRADED: local")


def _instances(given: Any) -> Iterator[tuple[str, str]]:
    if isinstance(given, Mapping):
        given = [{"id": key, **value} for key, value in given.items() if isinstance(value, Mapping)]
    for one in given if isinstance(given, list) else []:
        name = one.get("id", one.get("instance_id", "?"))
        state = one.get("state", one.get("status", one.get("healthy", "")))
        yield f"  {name}", {True: "healthy", False: "DOWN"}.get(state, str(state))


def _other(f: Mapping[str, Any]) -> Iterator[Row]:
    for name, value in f.items():
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            yield Row(name.replace("_", " "), one_line(value))


_ROWS: dict[str, Callable[[Mapping[str, Any]], Iterator[Row]]] = {
    "query_optimizer": _query_optimizer,
    "cache_manager": _cache_manager,
    "connection_pool_manager": _connection_pool_manager,
    "rate_limiter": _rate_limiter,
    "batch_processor": _batch_processor,
    "load_balancer": _load_balancer,
    "outbound": _outbound,
}


def _percent(name: str, value: float, target: str, met: Callable[[float], bool], asked: int) -> Row:
    """A share with its target; of nothing there is no verdict."""
    return Row(name, f"{value:.1f} %" if asked else "-", target, met(value) if asked else None)


def _count(value: Any) -> int:
    return len(value) if isinstance(value, list | dict | tuple) else int(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds from 0.1 to 3600")
    return value
