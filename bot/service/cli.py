"""The command line: options, environment, exit status."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bot.core.phase4_admin import HOSTS_VARIABLE, TOKEN_VARIABLE, batch_command, check, status
from bot.core.phase4_admin.check.of_service import parse_port
from bot.service.settings import ServiceSettings

DEFAULT_PORT = 8000
LOOPS = ("asyncio", "uvloop")
LOOP_VARIABLE = "PHASE4_LOOP"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments say; returns the exit status."""
    arguments = _parser().parse_args(argv)
    if arguments.command is not None:
        exit_status: int = arguments.run(arguments)
        return exit_status
    logging.basicConfig(
        level=arguments.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        port = arguments.port if arguments.port is not None else _port_from_environment()
        loop_factory = _loop_factory(arguments.loop)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    # Not above: check and status need no web server.
    from bot.core.phase4_admin.access import valid_token
    from bot.service.serving import serve

    token = arguments.token if arguments.token is not None else os.environ.get(TOKEN_VARIABLE, "").strip()
    if token or arguments.token is not None:
        try:
            valid_token(token)
        except ValueError as error:
            named = TOKEN_VARIABLE if arguments.token is None else "--token"
            print(f"{named}: {error}", file=sys.stderr)
            return 2
    settings = ServiceSettings(
        host=arguments.host.strip("[]"),
        port=port,
        data_dir=Path(arguments.data_dir),
        balance=arguments.balance,
        trusted_proxies=_names("TRUSTED_PROXIES"),
        allowed_hosts=_names(HOSTS_VARIABLE),
        dashboard_token=token,
    )
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(serve(settings))
    except KeyboardInterrupt:
        # Only before the service has taken over the signal; it had nothing to drain yet.
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bot", description="The Phase 4 bot service: serves, unless a command is given."
    )
    parser.add_argument(
        "--host",
        default=os.environ.get("HOST", "127.0.0.1"),
        help="address to listen on (127.0.0.1); ::, every address of this machine, of IPv4 and IPv6",
    )
    parser.add_argument(
        "--port", type=_port, help=f"port to listen on; else the environment's PORT, else {DEFAULT_PORT}"
    )
    parser.add_argument(
        "--data-dir",
        default=os.environ.get("PHASE4_DATA_DIR", "data"),
        help="folder of the embedded database and of uploads (./data)",
    )
    parser.add_argument(
        "--token",
        help=f"what the dashboard and /metrics ask for; else the environment's {TOKEN_VARIABLE} (better: "
        f"other users of the machine see arguments), else none on the loopback and a new one elsewhere",
    )
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"], help="(info)"
    )
    parser.add_argument(
        "--loop",
        metavar="|".join(LOOPS),
        default=os.environ.get(LOOP_VARIABLE, "").strip() or LOOPS[0],
        help=f"the event loop; else the environment's {LOOP_VARIABLE}, else {LOOPS[0]}",
    )
    parser.add_argument(
        "--balance",
        type=_instances,
        default=(),
        metavar="HOST:PORT,...",
        help="front these instances: their /api/* through the load balancer, no data of its own",
    )
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    for name, add_arguments, run, about in (
        (
            "check", check.add_service_arguments, check.run_service,
            "verify settings, machine and servers before a deployment",
        ),
        ("status", status.add_arguments, status.run, "show a running service's figures"),
        (
            "batch", batch_command.add_arguments, batch_command.run,
            "list, show, replay or drop dead letters of a durable queue",
        ),
    ):  # fmt: skip
        command = commands.add_parser(name, help=about)
        add_arguments(command)
        command.set_defaults(run=run)
    return parser


def _names(variable: str) -> frozenset[str]:
    """What an environment variable lists, with commas or spaces between."""
    return frozenset(re.findall(r"[^,\s]+", os.environ.get(variable, "")))


def _port(text: str) -> int:
    try:
        return parse_port(text)
    except ValueError as error:
        # Of a plain ValueError argparse would not show what it says.
        raise argparse.ArgumentTypeError(str(error)) from None


def _instances(text: str) -> tuple[tuple[str, int], ...]:
    found = []
    for part in text.split(","):
        host, colon, port = part.strip().rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65_535:
            raise argparse.ArgumentTypeError(f"{part.strip()!r}: expected HOST:PORT, or several with commas")
        found.append((host.strip("[]"), int(port)))
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r}: an instance is named twice")
    return tuple(found)


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop, None for asyncio's own; raises ValueError."""
    if name not in LOOPS:
        raise ValueError(f"--loop or {LOOP_VARIABLE} = {name!r}: expected {' or '.join(LOOPS)}")
    if name == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        raise ValueError(f"--loop or {LOOP_VARIABLE} = {name!r}: it is missing: pip install uvloop") from None
    return uvloop.new_event_loop


def _port_from_environment() -> int:
    text = os.environ.get("PORT", "").strip()
    if not text:
        return DEFAULT_PORT
    try:
        return parse_port(text)
    except ValueError as error:
        raise ValueError(f"PORT = {error}") from None
