"""The front (``python -m bot --balance``) beside nginx and HAProxy, before the same instances.

The instances are two ports of one nginx that answers by itself, so that what is measured is the proxy. The
load is wrk's, in C, on keep-alive connections; rounds of the three are interleaved. Behind the throughput:
the front's memory while it passes an answer of 200 MB on, and while it takes in an upload.

Needs ``wrk``, ``nginx`` and ``haproxy`` on the machine (``apt-get install wrk nginx-light haproxy``); what
is missing is left out and named.

    python -m benchmarks.front [--rounds 5] [--seconds 3] [--clients 32]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import machine, verdict
from benchmarks.load.service import ROOT, free_port

LARGE_MB = 200
UPLOAD_MB = 16

INSTANCES = """
worker_processes 1;
daemon off;
pid {folder}/instances.pid;
error_log {folder}/instances.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_max_body_size 1g;
    client_body_temp_path {folder}/bodies;
    server {{
        listen 127.0.0.1:{ports[0]};
        listen 127.0.0.1:{ports[1]};
        location = /health {{ return 200 "ok"; }}
        location = /api/data {{ default_type application/json; return 200 '{answer}'; }}
        location /api/large {{ alias {folder}/large; }}
        location /api/take {{ proxy_pass http://127.0.0.1:{ports[0]}/api/data; }}
    }}
}}
"""

NGINX = """
worker_processes 1;
daemon off;
pid {folder}/proxy.pid;
error_log {folder}/proxy.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    upstream instances {{
        server 127.0.0.1:{ports[0]};
        server 127.0.0.1:{ports[1]};
        keepalive 256;
        keepalive_requests 1000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://instances;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For $remote_addr;
        }}
    }}
}}
"""

HAPROXY = """
global
    nbthread 1
    maxconn 8000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option forwardfor
    http-reuse always
frontend front
    bind 127.0.0.1:{port}
    default_backend instances
backend instances
    balance roundrobin
    option httpchk GET /health
    server one 127.0.0.1:{ports[0]} check
    server two 127.0.0.1:{ports[1]} check
"""

ANSWER = '{"id": 7, "username": "user_7", "tier": "free", "downloads": [1, 2, 3]}'


def wait_for(port: int, process: subprocess.Popen[bytes], path: str = "/api/data") -> None:
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).read()
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"nothing answers on port {port}")
        time.sleep(0.1)


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            wait_for(port, process)
            yield process
        except RuntimeError as error:
            log.seek(0)
            raise RuntimeError(f"{error}: {log.read().decode(errors='replace')[-1000:]}") from error
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def configured(folder: Path, name: str, text: str, **values: Any) -> str:
    path = folder / name
    path.write_text(text.format(folder=folder, **values))
    return str(path)


def requests_per_second(port: int, clients: int, seconds: float) -> float:
    """What wrk counts; raises if an answer was none of 2xx."""
    done = subprocess.run(
        ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", f"http://127.0.0.1:{port}/api/data"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    if "Non-2xx" in done or "Socket errors" in done:
        raise RuntimeError(done)
    found = re.search(r"Requests/sec:\s+([\d.]+)", done)
    assert found is not None, done
    return float(found[1])


class Peak:
    """The most memory that a process used inside the block, in MB above its start."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = psutil.Process(process.pid)
        self.before = self.most = self._rss()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _rss(self) -> float:
        return float(self._process.memory_info().rss) / 1e6

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self.most = max(self.most, self._rss())

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def slow_download(port: int) -> int:
    """An answer of LARGE_MB, taken in more slowly than it is sent; its bytes."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /api/large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        taken = 0
        while chunk := client.recv(1 << 20):
            taken += len(chunk)
            if taken % (16 << 20) < len(chunk):
                time.sleep(0.02)
    return taken


def upload(port: int) -> int:
    body = os.urandom(1 << 20) * UPLOAD_MB
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/take", data=body, method="PUT")
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=60) as answer:
        return int(answer.status)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=32)
    arguments = parser.parse_args()
    missing = [name for name in ("wrk", "nginx") if shutil.which(name) is None]
    if missing:
        print(f"benchmarks.front is left out: {' and '.join(missing)} not on this machine", file=sys.stderr)
        return 0
    print(f"{machine()}\n")
    folder = Path(tempfile.mkdtemp(prefix="phase4-front-"))
    folder.chmod(0o755)  # nginx's workers are another user where this is run as root
    ports = free_port(), free_port()
    with (folder / "large").open("wb") as large:
        for _ in range(LARGE_MB):
            large.write(os.urandom(1 << 20))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        instances = configured(folder, "instances.conf", INSTANCES, ports=ports, answer=ANSWER)
        stack.enter_context(running(["nginx", "-p", str(folder), "-c", instances], ports[0]))
        contenders: dict[str, int] = {"no proxy": ports[0]}

        def contender(name: str, command: Callable[[int], list[str]]) -> subprocess.Popen[bytes]:
            port = contenders[name] = free_port()
            return stack.enter_context(running(command(port), port))

        balance = ",".join(f"127.0.0.1:{port}" for port in ports)
        front = contender(
            "the front",
            lambda port: [sys.executable, "-m", "bot", "--port", str(port), "--balance", balance],
        )
        contender(
            "nginx",
            lambda port: [
                "nginx", "-p", str(folder), "-c",
                configured(folder, "proxy.conf", NGINX, ports=ports, port=port),
            ],
        )  # fmt: skip
        if shutil.which("haproxy"):
            contender(
                "HAProxy",
                lambda port: [
                    "haproxy", "-f", configured(folder, "haproxy.cfg", HAPROXY, ports=ports, port=port),
                ],
            )  # fmt: skip
        counted: dict[str, list[float]] = {name: [] for name in contenders}
        for round_number in range(arguments.rounds + 1):
            for name, port in contenders.items():
                found = requests_per_second(port, arguments.clients, arguments.seconds)
                if round_number:
                    counted[name].append(found)
        print(f"### Requests per second, {arguments.clients} clients\n")
        print("| | per second | times the front's |\n|---|---:|---:|")
        medians = {name: statistics.median(found) for name, found in counted.items()}
        for name, median in medians.items():
            print(f"| {name} | {median:,.0f} | {median / medians['the front']:.1f} |")
        print()
        with Peak(front) as peak:
            taken = slow_download(contenders["the front"])
        assert taken > LARGE_MB << 20, taken
        print(verdict(f"MB of memory for an answer of {LARGE_MB} MB", peak.most - peak.before, 32))
        with Peak(front) as peak:
            upload(contenders["the front"])
        print(verdict(f"MB of memory for an upload of {UPLOAD_MB} MB", peak.most - peak.before, 32))
    return 0


if __name__ == "__main__":
    sys.exit(main())
