"""Mutated requests against a real service and its front: no 500, no traceback, nothing that stays.

``PHASE4_HOSTILE_REQUESTS=10000`` runs longer, ``PHASE4_HOSTILE_SEED`` runs one again.
"""

import os
import random
import re
import socket
import time

import psutil
import pytest

from tests.service.conftest import Service

REQUESTS = int(os.environ.get("PHASE4_HOSTILE_REQUESTS", "300"))
SEED = int(os.environ.get("PHASE4_HOSTILE_SEED", random.randrange(1 << 32)))
SIX = {
    f"ENABLE_{name}": "true"
    for name in (
        "QUERY_OPTIMIZER", "CACHE_MANAGER", "CONNECTION_POOLING", "RATE_LIMITER", "BATCH_PROCESSOR",
        "LOAD_BALANCER",
    )
}  # fmt: skip

BATCH = b'{"items": [{"user_id": 1, "file_id": 2, "bytes_done": 3}]}'
PATHS = [
    b"/api", b"/api/data?user_id=1", b"/api/batch", b"/api/batch/abc", b"/api/upload", b"/api/execute",
    b"/api/activity?user_id=1", b"/health", b"/metrics", b"/dashboard", b"/dashboard/access",
]  # fmt: skip
HOSTS = [
    b"localhost", b"user@localhost", b"localhost:99999", b"localhost.", b"[::1]", b"[::1", b"evil.example",
    b"",
    b"127.0.0.1:80:80", b"\xff\xfe", b"localhost, localhost",
]  # fmt: skip
HEADERS = [
    b"Origin: null", b"Origin: http://evil.example", b"Origin: http://localhost@evil.example",
    b"Origin: \xff",
    b"Expect: 100-continue", b"Expect: 200-ok", b"Connection: Upgrade\r\nUpgrade: websocket",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA",
    b"Content-Encoding: gzip", b"Content-Encoding: x", b"Content-Type: text/plain",
    b"Content-Type: application/json; charset=utf-7", b"Content-Type: application/json; charset=nosuch",
    b"Content-Type: multipart/form-data", b"Content-Type: multipart/form-data; boundary=x",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity, chunked", b"Content-Length: -1",
    b"Content-Length: 5", b"Content-Length: 99999999999999999999", b"Range: bytes=0-",
    b"X-Request-Id: a\x00b",
    b"X-Forwarded-For: 1.2.3.4, \xff", b"X-Forwarded-Host: evil.example", b"Forwarded: for=\"[::\"",
    b"Cookie: a=b; c",
    b"Cookie: dashboard=\xff", b"Authorization: Basic !!!!", b"Authorization: Bearer \xff",
    b"If-None-Match: *",
    b"Host: second.example", b"Accept-Encoding: gzip;q=x", b"No colon", b" folded: x",
    b"Sec-Fetch-Site: cross-site",
]  # fmt: skip
BODIES = [
    b"", BATCH, b"null", b"[]", b"{", b"\xff" * 20, b"[" * 5000, b'{"items": {}}', b'{"items": [null]}',
    b'{"items": [{"user_id": 1e999, "file_id": NaN}]}', b'{"items": [{"user_id": ' + b"9" * 5000 + b"}]}",
    b'{"items": [{"user_id": "\\ud800", "file_id": "\\u0000"}]}', b"5\r\nabcde\r\n0\r\nX-Trailer: y\r\n\r\n",
    b"zz\r\n", b"FFFFFFFFFFFFFFFFF\r\nx", b"\x1f\x8b\x08\x00" + b"\x00" * 40, b"a" * 70_000,
]  # fmt: skip
QUERIES = [
    b"user_id=\xff",
    b"user_id=%ff%fe",
    b"user_id=" + b"9" * 400,
    b"user_id=-1",
    b"user_id=%00",
    b"a=" * 900,
]
ODD_PATHS = [
    b"*", b"/../../etc/passwd", b"/%2e%2e/%2e%2e/etc/passwd", b"/api/batch/%00", b"/api/batch/../../health",
    b"http://evil.example/api", b"http://[::1/api", b"//evil.example/api", b"/\xc3\xa9",
    b"/api/batch/%0d%0aX: y", b"",
    b"/api/batch/" + b"a" * 9000, b"/%", b"/api;x=1", b"/dashboard/../api", b"/dashboard/%2e%2e%2fsecret",
]  # fmt: skip
METHODS = [
    b"GET",
    b"POST",
    b"PUT",
    b"DELETE",
    b"HEAD",
    b"OPTIONS",
    b"TRACE",
    b"CONNECT",
    b"PATCH",
    b"G\x01T",
    b"get",
]


def request(chance: random.Random) -> bytes:
    path = chance.choice(PATHS if chance.random() < 0.8 else ODD_PATHS)
    if chance.random() < 0.2:
        path += (b"&" if b"?" in path else b"?") + chance.choice(QUERIES)
    body = chance.choice(BODIES)
    lines = [b" ".join([chance.choice(METHODS[:2] if chance.random() < 0.7 else METHODS), path,
                        chance.choice([b"HTTP/1.1"] * 8 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9",
    b""])])]  # fmt: skip
    lines.append(b"Host: " + (b"localhost" if chance.random() < 0.8 else chance.choice(HOSTS)))
    if chance.random() < 0.7:
        lines.append(b"Content-Length: %d" % len(body))
    if chance.random() < 0.6:
        lines.append(b"Content-Type: application/json")
    lines += chance.sample(HEADERS, chance.choice([0, 0, 1, 1, 2, 4]))
    if chance.random() < 0.02:
        lines += [b"X-%d: y" % n for n in range(chance.choice([200, 40_000]))]
    whole = b"\r\n".join(lines) + b"\r\n\r\n" + body
    kind = chance.random()
    if kind < 0.1:
        whole = whole[: chance.randrange(len(whole) + 1)]
    elif kind < 0.2:
        at = chance.randrange(len(whole))
        whole = whole[:at] + chance.randbytes(chance.randrange(1, 5)) + whole[at + 1 :]
    elif kind < 0.25:
        whole += whole  # pipelined
    return whole


def statuses(port: int, data: bytes) -> list[int]:
    """Send it, say that this was all, and read until the server closes or is silent."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.settimeout(0.3)
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while len(received) < 1 << 18 and (more := client.recv(65536)):
                received += more
        except OSError:
            pass  # refused before it was read to its end, or waits for more
    return [int(found) for found in re.findall(rb"HTTP/1\.[01] (\d{3}) ", received)]


class Front(Service):
    instance = 0

    def command(self):
        return ["-m", "bot", "--port", str(self.port), "--balance", f"127.0.0.1:{self.instance}"]


@pytest.fixture(scope="module")
def attacked(data_dir, redis_url):
    service = Service(data_dir, **SIX, REDIS_URL=redis_url)
    front = Front(data_dir, **SIX)
    front.instance = service.port
    try:
        service.start()
        front.start()
        yield service, front
    finally:
        front.close()
        service.close()


@pytest.mark.parametrize("which", [0, 1], ids=["service", "front"])
def test_no_mutated_request_is_a_fault_or_leaves_something(attacked, which):
    target = attacked[which]
    print(f"PHASE4_HOSTILE_SEED={SEED}")
    chance = random.Random(SEED + which)
    process = psutil.Process(target.process.pid)

    def attack(count: int) -> None:
        for number in range(count):
            data = request(chance)
            faults = [s for s in statuses(target.port, data) if s >= 500 and s not in (501, 503, 505)]
            assert not faults, (SEED, number, faults, data[:2000])

    attack(REQUESTS // 3)
    resident, descriptors = process.memory_info().rss, process.num_fds()
    attack(REQUESTS - REQUESTS // 3)
    assert target.call("/api/data?user_id=7").status == 200
    assert process.memory_info().rss - resident < 60e6
    # What an attacker left half-sent is closed within its deadline.
    deadline = time.monotonic() + 90
    while process.num_fds() > descriptors + 20 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert process.num_fds() <= descriptors + 20
    for each in attacked:
        assert "Traceback" not in each.output, each.output[each.output.index("Traceback") - 500 :][:6000]
