"""``python -m bot.service.cluster``: a front and some instances on this machine, to try failover out."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from typing import Any

from bot.service.settings import PARENT_VARIABLE

_PR_SET_PDEATHSIG = 1

RESTART_SECONDS = 1.0
"""How long an instance that ended is away before it is started again."""
STOP_SECONDS = 15.0
START_SECONDS = 60.0

# Ten times faster than the defaults: this is for watching.
_FRONT = {"LOAD_BALANCER_CHECK_INTERVAL": "1", "LOAD_BALANCER_RECOVERY_THRESHOLD": "2"}


class Cluster:
    """The processes: instances, which are started again when they end, and their front."""

    def __init__(self, port: int, instances: int, data_dir: str) -> None:
        self._port = port
        self._ports = _free_ports(instances)
        self._data_dir = data_dir
        # By port. Changed by _start only.
        self._processes: dict[int, Process] = {}
        self._stopping = False
        self._told_of_our_end = told_of_the_end_of(os.getpid())

    async def run(self) -> int:
        """Run until SIGINT or SIGTERM, or until the front ends; returns the exit status."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, stop.set)
        stopped = asyncio.ensure_future(stop.wait())
        keepers: list[asyncio.Future[None]] = []
        status = 0
        try:
            # The first one creates the data set; the others find it. The front comes when all answer.
            await self._start_instance(self._ports[0])
            await _first(self._until_up(self._ports[0]), stopped)
            for port in self._ports[1:]:
                await self._start_instance(port)
            for port in self._ports[1:]:
                await _first(self._until_up(port), stopped)
            keepers = [asyncio.ensure_future(self._keep(port)) for port in self._ports]
            if not stopped.done():
                balance = ",".join(f"127.0.0.1:{port}" for port in self._ports)
                front = await self._start(
                    self._port, ["--port", str(self._port), "--balance", balance], _FRONT
                )
                print(
                    f"Front on http://127.0.0.1:{self._port}; instances (kill -9 one and watch /health):\n"
                    + "\n".join(f"  port {p}  pid {self._processes[p].pid}" for p in self._ports),
                    flush=True,
                )
                ended = asyncio.ensure_future(front.wait())
                await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if ended.done() and not stopped.done():
                    status = ended.result() or 1
                ended.cancel()
        finally:
            self._stopping = True
            stopped.cancel()
            for keeper in keepers:
                keeper.cancel()
            await self._stop_all()
        return status

    async def _start_instance(self, port: int) -> None:
        arguments = ["--port", str(port), "--data-dir", self._data_dir, "--log-level", "warning"]
        await self._start(port, arguments, {"TRUSTED_PROXIES": "127.0.0.1"})

    async def _start(self, port: int, arguments: list[str], environ: dict[str, str]) -> Process:
        # A session of its own: Ctrl-C reaches this process only, which stops the front before the others.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bot", *arguments,
            env={**environ, **os.environ, PARENT_VARIABLE: str(os.getpid())},
            start_new_session=True, preexec_fn=self._told_of_our_end,
        )  # fmt: skip
        self._processes[port] = process
        return process

    async def _keep(self, port: int) -> None:
        while True:
            ended = await self._processes[port].wait()
            print(f"Instance on port {port} ended with {ended}; starting it again", flush=True)
            await asyncio.sleep(RESTART_SECONDS)
            await self._start_instance(port)
            print(f"  port {port}  pid {self._processes[port].pid}", flush=True)

    async def _until_up(self, port: int) -> None:
        async with asyncio.timeout(START_SECONDS):
            while True:
                # It listens before it has its data; it answers when it has.
                with contextlib.suppress(OSError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    try:
                        writer.write(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
                        if await reader.read(1):
                            return
                    finally:
                        writer.close()
                if self._processes[port].returncode is not None:
                    raise SystemExit(self._processes[port].returncode or 1)
                await asyncio.sleep(0.05)

    async def _stop_all(self) -> None:
        """The front first, so that its requests in progress still find their instances."""
        for ports in ([self._port], self._ports):
            running = [p for port in ports if (p := self._processes.get(port)) and p.returncode is None]
            for process in running:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            for process in running:
                try:
                    async with asyncio.timeout(STOP_SECONDS):
                        await process.wait()
                except TimeoutError:
                    process.kill()
                    await process.wait()


def told_of_the_end_of(parent: int) -> Callable[[], None] | None:
    """What a child runs first, so that the kernel sends it SIGTERM when its parent ends, however that ends.

    None where the kernel does not: there a child looks after its parent itself (``stop_with_parent``).
    """
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)  # before the fork: a child must not load anything

    def tell() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # it ended before that
            os.kill(os.getpid(), signal.SIGTERM)

    return tell


async def _first(work: object, stopped: asyncio.Future[Any]) -> None:
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    else:
        task.cancel()


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run what the arguments say; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bot.service.cluster", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="port of the front (8000)")
    parser.add_argument("--instances", type=int, default=3, choices=range(1, 33), metavar="N", help="(3)")
    parser.add_argument("--data-dir", default=os.environ.get("PHASE4_DATA_DIR", "data"), help="(./data)")
    arguments = parser.parse_args(argv)
    status = asyncio.run(Cluster(arguments.port, arguments.instances, arguments.data_dir).run())
    print("Stopped.", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
