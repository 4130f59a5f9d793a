"""The service as a child process, as a user starts it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from bot.service.postgresql_database import PostgresqlDatabase
from tests.support.apart import execute_on_postgresql, run_apart
from tests.support.servers import free_port

ROOT = Path(__file__).resolve().parents[2]


class Answer(NamedTuple):
    status: int
    headers: Any
    body: Any


class _From(urllib.request.HTTPHandler):
    """Connects from a given address."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._source = source

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(http.client.HTTPConnection, source_address=(self._source, 0)), request)


class Service:
    """``python -m bot`` on a free port."""

    def __init__(self, data_dir: Path, **environ: str) -> None:
        self.port = free_port()
        self.data_dir = data_dir
        self.environ = {**os.environ, **environ}
        self.process: subprocess.Popen[str] | None = None
        self.output = ""
        """What it has printed so far, its log included."""
        self._reader: threading.Thread | None = None

    def command(self) -> list[str]:
        return ["-m", "bot", "--port", str(self.port), "--data-dir", str(self.data_dir)]

    def start(self, *, wait: bool = True) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *self.command()],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=self.environ,
        )  # fmt: skip
        self.output = ""
        # Read all along: a full pipe would make the service wait for its reader.
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._reader.start()
        if wait:
            self.wait_until_up()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self.output += line

    def finish(self, timeout: float = 30.0) -> str:
        """Wait for its end; what it printed."""
        assert self.process is not None
        assert self._reader is not None
        self.process.wait(timeout)
        self._reader.join(timeout)
        return self.output

    def wait_until_up(self, timeout: float = 90.0) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, self.finish()
            with contextlib.suppress(OSError):
                self.call("/health")
                return
            time.sleep(0.05)
        raise AssertionError("the service did not come up")

    def call(
        self,
        path: str,
        *,
        method: str = "GET",
        body: bytes | None = None,
        source: str = "127.0.0.1",
        **headers: str,
    ) -> Answer:
        """``source``: the client's address, any of the loopback's; limits are counted by it."""
        opener = urllib.request.build_opener(_From(source))
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", method=method, data=body,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )  # fmt: skip
        try:
            with opener.open(request, timeout=20) as response:
                return Answer(response.status, response.headers, json.loads(response.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, json.loads(error.read()))

    def stop(self, number: int = signal.SIGINT) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        self.finish()
        return self.process.returncode

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.finish()


@pytest.fixture(scope="session")
def empty_postgresql(postgresql_url: str) -> Iterator[Callable[[], str]]:
    """Makes the urls of new, empty PostgreSQL databases."""
    made: list[str] = []

    def make() -> str:
        name = f"phase4_service_{os.getpid()}_{len(made)}"
        execute_on_postgresql(postgresql_url, f"CREATE DATABASE {name}")
        made.append(name)
        return urlsplit(postgresql_url)._replace(path=f"/{name}").geturl()

    yield make
    for name in made:
        execute_on_postgresql(postgresql_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def service_postgresql_url(empty_postgresql: Callable[[], str]) -> str:
    """A PostgreSQL database that holds the data set."""
    url = empty_postgresql()
    run_apart(lambda: PostgresqlDatabase(url).prepare(lambda line: None))
    return url


@pytest.fixture(scope="module")
def service(data_dir: Path) -> Iterator[Service]:
    running = Service(data_dir)
    running.start()
    yield running
    running.close()


@pytest.fixture
def own_service(data_dir: Path) -> Iterator[Service]:
    """A service of the test's own, not yet started."""
    made = Service(data_dir)
    yield made
    made.close()
