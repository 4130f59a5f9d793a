"""The command ``check``: gather, judge, print."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import os
import shutil
import sys
from pathlib import Path

from bot.core.phase4_config import ConfigError, Phase4Config
from bot.service.check import rules
from bot.service.check.findings import Finding, as_json, as_table, fail, failed, ok

DEFAULT_TIMEOUT = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Verify a deployment before it happens: settings, memory, file descriptors, packages, and every "
        "server that the settings name. Exit status 1 if something would fail; warnings do not fail."
    )
    parser.add_argument("--format", choices=["table", "json"], default="table", help="(table)")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=DEFAULT_TIMEOUT,
        help=f"seconds that a server may take to answer; all are asked at once ({DEFAULT_TIMEOUT:g})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; returns the exit status."""
    # --port is checked by then, and PORT is not read with it.
    port = os.environ.get("PORT", "").strip() if arguments.port is None else ""
    findings = asyncio.run(check(timeout=arguments.timeout, data_dir=Path(arguments.data_dir), port=port))
    if arguments.format == "json":
        print(as_json(findings))
    else:
        print(as_table(findings, shutil.get_terminal_size((100, 24)).columns))
    return 1 if failed(findings) else 0


async def check(
    config: Phase4Config | None = None,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    data_dir: Path = Path("data"),
    port: str = "",
) -> list[Finding]:
    """Every finding, in the order of the table; without ``config``, of the settings as the bot loads them.

    ``port`` is the environment's ``PORT``.
    """
    findings = [rules.python_version(sys.version_info[:3]), *rules.port(port)]
    if config is None:
        try:
            config = Phase4Config.load()
        except ConfigError as error:
            # Without settings there is nothing else to hold against the machine.
            advice = "correct the setting; nothing else was checked"
            return [*findings, *(fail("settings", problem, advice) for problem in error.problems)]
    from bot.core.connection_pool_manager.specs import urls_of
    from bot.service.check import servers

    urls = urls_of(config)
    made = rules.pools(config, urls)
    needed = list(rules.ALWAYS)
    for backend in sorted(rules.backends_in_use(config, urls)):
        needed += [name for name in rules.BY_BACKEND[backend] if name not in needed]
    findings += rules.packages(needed, {name: _installed(name) for name in needed})
    findings.append(rules.services(config))
    findings += rules.database_url(config.DATABASE_URL)
    findings += rules.conflicts(config)
    findings.append(rules.memory(config, *_free_memory()))
    findings.append(rules.descriptors(config, made, _descriptor_limit()))
    findings.append(await asyncio.to_thread(_disk, data_dir))
    named = servers.servers(config, made)
    reached = await asyncio.gather(*[servers.reach(server, timeout) for server in named])
    findings += [finding for found in reached for finding in found]
    if config.ENABLE_LOAD_BALANCER:
        findings += await asyncio.gather(
            *[
                servers.reach_instance(instance.id, instance.address, instance.port, timeout)
                for instance in config.LOAD_BALANCER_INSTANCES
            ]
        )
    if not named:
        findings.append(ok("servers", "no setting names one"))
    return findings


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _free_memory() -> tuple[float, str]:
    """MB that may still be taken, and what limits it."""
    import psutil

    free = psutil.virtual_memory().available / rules.MB
    limited = _free_in_container(Path("/sys/fs/cgroup"))
    if limited is not None and limited < free:
        return limited, "this container"
    return free, "this machine"


def _free_in_container(cgroup: Path) -> float | None:
    """MB below the memory limit of the control group, version 2 or 1; None where there is none."""
    for limit_file, used_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit = (cgroup / limit_file).read_text().strip()
            used = (cgroup / used_file).read_text().strip()
        except OSError:
            continue
        if limit.isdigit() and int(limit) < 1 << 60:  # version 1 writes a huge number for none
            return (int(limit) - int(used)) / rules.MB
    return None


def _disk(data_dir: Path) -> Finding:
    nearest = data_dir.absolute()
    while not nearest.exists():  # made at the first start
        nearest = nearest.parent
    return rules.disk(
        str(data_dir), os.access(nearest, os.W_OK | os.X_OK), shutil.disk_usage(nearest).free / rules.MB
    )


def _descriptor_limit() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 600:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, more than 0 and at most 600")
    return value
