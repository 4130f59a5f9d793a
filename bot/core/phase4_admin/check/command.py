"""The commands ``phase4 check`` and ``python -m bot check``: gather, judge, print."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bot.core.phase4_admin.check import of_service, rules
from bot.core.phase4_admin.check.findings import Finding, as_json, as_table, fail, failed, ok, warn
from bot.core.phase4_admin.check.project import Reader, interpreter
from bot.core.phase4_config import ConfigError, Phase4Config

DEFAULT_TIMEOUT = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of ``phase4 check``."""
    _describe(parser)
    parser.add_argument(
        "--project", default=".", metavar="DIR", help="the folder that the bot is started in (this one)"
    )
    parser.add_argument(
        "--python",
        metavar="PATH",
        help="the bot's interpreter; else that of a venv in its folder, or this one",
    )
    _add_common(parser)


def add_service_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of ``python -m bot check``, which checks the demonstration service."""
    _describe(parser)
    _add_common(parser)


def _describe(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Verify a deployment before it happens: settings, memory, file descriptors, packages, and every "
        "server that the settings name. The bot is not started. Exit status 1 if something would fail; "
        "warnings do not fail."
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=["table", "json"], default="table", help="(table)")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=DEFAULT_TIMEOUT,
        help=f"seconds that a server may take to answer; all are asked at once ({DEFAULT_TIMEOUT:g})",
    )


def run(arguments: argparse.Namespace) -> int:
    """``phase4 check``: print what was found of a project; returns the exit status."""
    root = Path(arguments.project).expanduser()
    if not root.is_dir():
        print(f"--project {arguments.project}: no such folder", file=sys.stderr)
        return 2
    root = root.resolve()
    if arguments.python is not None and not Path(arguments.python).is_file():
        print(f"--python {arguments.python}: no such file", file=sys.stderr)
        return 2
    python = interpreter(root) if arguments.python is None else Path(arguments.python).absolute()
    if (own := _own_command(root, python)) is not None:
        given = ["--project", str(root), "--python", str(python), "--format", arguments.format]
        # Its drivers and its version of the library are those that will run.
        return subprocess.run(  # noqa: S603
            [*own, "check", *given, "--timeout", f"{arguments.timeout:g}"], cwd=root, check=False
        ).returncode
    return _print(asyncio.run(check_project(root, python, timeout=arguments.timeout)), arguments.format)


def run_service(arguments: argparse.Namespace) -> int:
    """``python -m bot check``: print what was found of the demonstration service."""
    # --port is checked by then, and PORT is not read with it.
    port = os.environ.get("PORT", "").strip() if arguments.port is None else ""
    findings = asyncio.run(check(timeout=arguments.timeout, data_dir=Path(arguments.data_dir), port=port))
    return _print(findings, arguments.format)


def _print(findings: list[Finding], form: str) -> int:
    if form == "json":
        print(as_json(findings))
    else:
        print(as_table(findings, shutil.get_terminal_size((100, 24)).columns))
    return 1 if failed(findings) else 0


def _own_command(root: Path, python: Path) -> list[str] | None:
    """How the bot's interpreter runs this command with the bot's library; None: it is this one, or cannot."""
    if python == Path(sys.executable):
        return None
    embedded = root / "phase4.py"
    command = [str(python), str(embedded)] if embedded.is_file() else [str(python), "-P", "-m", "phase4"]
    try:
        tried = subprocess.run(  # noqa: S603
            [*command, "--version"], cwd=root, capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return command if tried.returncode == 0 else None


async def check_project(root: Path, python: Path, *, timeout: float = DEFAULT_TIMEOUT) -> list[Finding]:
    """Every finding of a bot, whose settings are read without starting it; ``python``: its interpreter."""
    read = await asyncio.to_thread(Reader(root, python, os.environ).read)
    findings = [rules.python_version(sys.version_info[:3]), *read.findings]
    if failed(read.findings):
        return findings
    try:
        config, warnings = Phase4Config.read(
            read.overrides, host=read.host, modules=read.modules, environ=read.environ
        )
    except ConfigError as error:
        return [*findings, *_refused(error)]
    findings += [warn("settings", warning, "correct it there, or take that line out") for warning in warnings]
    return findings + await _check(config, timeout, None)


async def check(
    config: Phase4Config | None = None,
    *,
    timeout: float = DEFAULT_TIMEOUT,
    data_dir: Path = Path("data"),
    port: str = "",
) -> list[Finding]:
    """Every finding of the demonstration service; without ``config``, of the settings as it loads them.

    ``port`` is the environment's ``PORT``.
    """
    findings = [rules.python_version(sys.version_info[:3]), *of_service.port(port)]
    if config is None:
        try:
            config = Phase4Config.load()
        except ConfigError as error:
            return [*findings, *_refused(error)]
    return findings + await _check(config, timeout, data_dir)


def _refused(error: ConfigError) -> list[Finding]:
    # Without settings there is nothing else to hold against the machine.
    advice = "correct the setting; nothing else was checked"
    return [fail("settings", problem, advice) for problem in error.problems]


async def _check(config: Phase4Config, timeout: float, data_dir: Path | None) -> list[Finding]:
    """Settings against each other, machine and servers; ``data_dir``: the service's, None for a bot."""
    from bot.core.connection_pool_manager.specs import urls_of
    from bot.core.phase4_admin.check import servers

    service = data_dir is not None
    urls = urls_of(config)
    made = rules.pools(config, urls, service)
    needed = [*rules.ALWAYS, *(rules.OF_SERVICE if service else ())]
    if config.PHASE4_DASHBOARD_PORT:
        needed += [name for name in rules.OF_DASHBOARD if name not in needed]
    for backend in sorted(rules.backends_in_use(config, urls)):
        needed += [name for name in rules.BY_BACKEND[backend] if name not in needed]
    findings = list(rules.packages(needed, {name: _installed(name) for name in needed}))
    findings.append(rules.services(config))
    if service:
        findings += of_service.database_url(config.DATABASE_URL)
    findings += rules.conflicts(config)
    findings.append(rules.memory(config, *_free_memory()))
    findings.append(rules.descriptors(config, made, _descriptor_limit()))
    if data_dir is not None:
        findings.append(await asyncio.to_thread(_disk, data_dir))
    named = servers.servers(config, made, service)
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
    return of_service.disk(
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
