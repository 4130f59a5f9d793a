"""The servers of a run: of its own, on free ports, in folders of its own."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import redis

from tests.support.replication import PostgresqlGroup
from tests.support.servers import ChildServer, RedisServer, free_port

DATABASE = "chaos"


class KeepingRedis(RedisServer):
    """A Redis for queues: what it has acknowledged survives a kill."""

    def __init__(self) -> None:
        super().__init__(extra=("--appendonly", "yes", "--appendfsync", "always"))


class MariaDb(ChildServer):
    """A MariaDB of the run's own. ``url`` is of a user whom ``read_only`` binds."""

    program = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin:/usr/local/sbin")
    installer = shutil.which("mariadb-install-db")

    def __init__(self) -> None:
        super().__init__()
        self.root_port = free_port()
        """Of the run itself: a server that is out of connections still answers there."""

    @classmethod
    def is_there(cls) -> bool:
        return cls.program is not None and cls.installer is not None

    @property
    def data(self) -> Path:
        return Path(self.directory) / "data"

    def command(self) -> list[str]:
        assert self.program is not None
        return [
            self.program, "--no-defaults", f"--datadir={self.data}", f"--port={self.port}",
            "--bind-address=127.0.0.1", f"--socket={self.directory}/socket", "--user=root",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M", "--max-connections=60",
            "--performance-schema=OFF", f"--pid-file={self.directory}/pid",
            f"--extra-port={self.root_port}", "--extra-max-connections=5",
        ]  # fmt: skip

    def install(self) -> None:
        assert self.installer is not None
        subprocess.run(
            [self.installer, "--no-defaults", f"--datadir={self.data}", "--user=root",
             "--auth-root-authentication-method=normal", "--skip-test-db"],
            check=True, capture_output=True,
        )  # fmt: skip

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as root; the rows of the last one."""
        text = subprocess.run(
            ["mariadb", "--no-defaults", "-h127.0.0.1", f"-P{self.root_port}", "-uroot", "--skip-ssl",
             "--batch", "-N", "-e", "; ".join(statements)],
            check=True, capture_output=True, text=True, timeout=20,
        )  # fmt: skip
        return [tuple(line.split("\t")) for line in text.stdout.splitlines()]

    def prepare(self) -> None:
        self.execute(
            f"CREATE DATABASE {DATABASE}",
            "CREATE USER bot@'127.0.0.1' IDENTIFIED BY 'secret'",
            f"GRANT ALL ON {DATABASE}.* TO bot@'127.0.0.1'",
            f"CREATE TABLE {DATABASE}.cached (id INT PRIMARY KEY, version INT NOT NULL) ENGINE=InnoDB",
        )


class Servers:
    """All of them; ``mysql`` is None where no MariaDB is installed, or none is wanted."""

    def __init__(self, with_mysql: bool) -> None:
        self.cache = RedisServer()
        self.queue = KeepingRedis()
        self.postgresql: Any = None
        self.mysql = MariaDb() if with_mysql and MariaDb.is_there() else None

    def start(self) -> None:
        self.cache.start()
        self.queue.start()
        self._group = PostgresqlGroup(replicas=0)
        self.postgresql = self._group.servers[0]
        if self.mysql is not None:
            self.mysql.install()
            self.mysql.start()
            self.mysql.prepare()

    @property
    def by_target(self) -> dict[str, ChildServer]:
        found: dict[str, ChildServer] = {
            "cache": self.cache, "queue": self.queue, "postgresql": self.postgresql,
        }  # fmt: skip
        return found if self.mysql is None else {**found, "mysql": self.mysql}

    def backends(self) -> int:
        """How many connections PostgreSQL serves, seen from outside."""
        process = self.postgresql.process
        if process is None:
            return 0
        found = 0
        for child in psutil.Process(process.pid).children():
            with contextlib.suppress(psutil.Error):
                found += "127.0.0.1(" in " ".join(child.cmdline())
        return found

    def close(self) -> None:
        for server in (self.cache, self.queue, self.postgresql, self.mysql):
            if server is not None:
                with contextlib.suppress(ProcessLookupError):
                    server.close()


def until_redis_answers(server: RedisServer, seconds: float = 20.0) -> None:
    """A port that listens may still load its file."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(redis.RedisError):
            server.execute("PING")
            return
        if time.monotonic() > deadline:
            raise RuntimeError("a Redis does not answer")
        time.sleep(0.02)
