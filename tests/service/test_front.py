"""``python -m bot --balance`` and the cluster, as a user starts them."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import aiohttp
import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from bot.core.load_balancer import LoadBalancer
from bot.core.phase4_admin.client_address import TRUSTED_PROXIES
from bot.service.front import Front as passing_on
from bot.service.middleware import around_request
from bot.service.serving import stop_with_parent
from tests.service.conftest import ROOT, Service


class Front(Service):
    def __init__(self, data_dir, instances, **environ):
        super().__init__(
            data_dir, LOAD_BALANCER_CHECK_INTERVAL="0.1", LOAD_BALANCER_RECOVERY_THRESHOLD="2", **environ
        )
        self.balance = ",".join(f"127.0.0.1:{instance.port}" for instance in instances)

    def command(self):
        return ["-m", "bot", "--port", str(self.port), "--balance", self.balance]


class Cluster(Service):
    def command(self):
        return ["-m", "bot.service.cluster", "--port", str(self.port), "--data-dir", str(self.data_dir)]

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.stop()  # killed, it would leave its instances behind

    def pids(self):
        return [int(pid) for pid in re.findall(r"pid (\d+)", self.output)]


def eventually(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_front_passes_on_fails_over_and_tells(data_dir, start_instances, monkeypatch):
    monkeypatch.setenv(
        "TRUSTED_PROXIES", "127.0.0.1"
    )  # the instances believe what the front says of its clients
    instances = start_instances("", "", "")
    front = Front(data_dir, instances)
    front.start()
    try:
        answers = [front.call("/api/data?user_id=1") for _ in range(6)]
        assert {answer.status for answer in answers} == {200}
        assert len({answer.headers["X-Instance"] for answer in answers}) == 3
        refused = front.call("/api/data?user_id=0", X_Request_Id="mine-1")
        assert (refused.status, refused.body["request_id"]) == (400, "mine-1")
        command = front.call("/api/execute", method="POST", body=b'{"command": "ping"}')
        assert command.body["result"] == "pong"
        stored = front.call("/api/upload?name=front.pdf&user_id=11", method="POST", body=b"x" * 100_000)
        assert (stored.status, stored.body["size_bytes"]) == (201, 100_000)
        batch = b'{"items": [{"user_id": 1, "file_id": 900000000}]}'
        taken = front.call("/api/batch", method="POST", body=batch)
        assert front.call(f"/api/batch/{taken.body['batch_id']}").body["items"] == taken.body["items"]
        limited = [front.call("/api/upload", source="127.0.3.1") for _ in range(5)]
        while limited[-1].status != 429:  # a slow machine lets more pass meanwhile
            limited.append(front.call("/api/upload", source="127.0.3.1"))
            assert len(limited) < 500
        assert {answer.status for answer in limited[:-1]} == {200}
        assert len({answer.headers["X-Instance"] for answer in limited}) == 1, "one counts a client"

        instances[0].kill()
        assert [front.call("/api/data?user_id=2").status for _ in range(12)] == [200] * 12
        gone = f"127.0.0.1:{instances[0].port}"
        eventually(lambda: front.call("/health").body["instances"][gone] in ("unhealthy", "ejected"))
        health = front.call("/health")
        assert (health.status, health.body["status"]) == (200, "degraded")
        [degraded] = health.body["degraded"]
        assert (degraded["service"], degraded["state"]) == ("load_balancer", "degraded")
        assert f"1 of 3 instances out: {gone}" in degraded["reason"]
        assert front.call("/health", Host="elsewhere.example").body == {"status": "ok"}, "up or down, no more"
        with urllib.request.urlopen(f"http://127.0.0.1:{front.port}/metrics", timeout=20) as metrics:
            assert "load_balancer" in metrics.read().decode()
        for instance in instances[1:]:
            instance.kill()
        assert front.call("/api/data").status == 502
        eventually(lambda: front.call("/health").status == 503)
        assert front.stop() == 0
        assert "Traceback" not in front.output
    finally:
        front.close()


@pytest.fixture
async def fronted():
    """A front in this process before instances that answer as the test says."""
    balancer, servers, clients = LoadBalancer(), [], []
    await balancer.enable(check_interval=60.0)
    front = web.Application(middlewares=[around_request])
    front[TRUSTED_PROXIES] = frozenset()
    passing = passing_on(balancer)
    front.router.add_route("*", "/api/{path:.+}", passing.handle)
    await passing.start()

    async def start(*handlers):
        for n, handler in enumerate(handlers):
            instance = web.Application(client_max_size=2**24)
            instance.router.add_route("*", "/{path:.*}", handler)
            servers.append(TestServer(instance))
            await servers[-1].start_server()
            await balancer.add_instance(f"i{n}", "127.0.0.1", servers[-1].port)
        clients.append(TestClient(TestServer(front)))
        await clients[-1].start_server()
        return clients[-1]

    yield start
    for client in clients:
        await client.close()
    await passing.stop()
    await balancer.disable()
    for server in servers:
        await server.close()


def answering(status, **headers):
    async def answer(request):
        asked.append(request.raw_path)
        headers_ = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response({"error": {"code": "of the instance"}}, status=status, headers=headers_)

    asked = answer.asked = []
    return answer


async def test_an_instance_that_says_when_to_come_back_is_passed_back(fronted):
    full = answering(503, Retry_After="3", X_Of_The_Instance="kept", Keep_Alive="timeout=5")
    client = await fronted(full, full)
    for _ in range(20):  # no failure: nobody is left alone for it
        async with client.post("/api/batch", data=b"{}") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "3")
            assert (await answer.json())["error"]["code"] == "of the instance"
            assert answer.headers["X-Instance"] in ("i0", "i1")
            assert answer.headers["X-Of-The-Instance"] == "kept"
            assert "Keep-Alive" not in answer.headers
    assert len(full.asked) == 20, "what may not be repeated is asked once"


async def test_what_may_be_repeated_is_asked_elsewhere_before_a_503_is_passed_back(fronted):
    full, well = answering(503, Retry_After="3"), answering(200)
    client = await fronted(full, well)
    for _ in range(4):
        async with client.get("/api/data") as answer:
            assert answer.status == 200
    assert full.asked


async def test_a_503_that_no_other_instance_betters_is_passed_back(fronted):
    full, failing = answering(503, Retry_After="3"), answering(500)
    client = await fronted(full, failing)
    async with client.get("/api/data") as answer:
        assert (answer.status, answer.headers["Retry-After"], answer.headers["X-Instance"]) == (
            503,
            "3",
            "i0",
        )
    assert (len(full.asked), len(failing.asked)) == (1, 1)


async def test_a_failure_is_passed_back_where_the_request_may_not_be_repeated_and_counts(fronted):
    failing = answering(500)
    client = await fronted(failing, answering(200))
    found = []
    for _ in range(60):
        async with client.post("/api/anything", data=b"x") as answer:
            found.append((answer.status, answer.headers["X-Instance"]))
    assert set(found) == {(500, "i0"), (200, "i1")}
    assert len(failing.asked) == found.count((500, "i0")) < 20, "it is left alone for a while"


async def test_a_failure_of_what_may_be_repeated_is_no_answer(fronted):
    client = await fronted(answering(500), answering(503))
    async with client.get("/api/data") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (502, "no_answer")


@pytest.mark.parametrize("host", ["", "http://front.example:80"])
@pytest.mark.parametrize(
    "path", ["/api/data?user_id=1&q=a%20b+c%2Bd&e", "/api/a%2Fb/%C3%A9//c?x=%zz&y=a?b:c@d"]
)
async def test_a_target_is_passed_on_as_it_came_also_with_the_host_before_it(fronted, host, path):
    well = answering(200)
    client = await fronted(well)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(f"GET {host}{path} HTTP/1.1\r\nHost: front.example\r\nConnection: close\r\n\r\n".encode())
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    assert well.asked == [path]


async def test_an_encoding_survives_and_only_what_the_client_asks_for_is_asked(fronted):
    asked = []

    async def packed(request):
        asked.append(dict(request.headers))
        answer = web.json_response({"a": "b" * 2_000})
        answer.enable_compression()
        return answer

    client = await fronted(packed)
    async with client.get("/api/data", headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert (await answer.json())["a"] == "b" * 2_000
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(b"GET /api/data HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\nConnection: close\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b"Content-Encoding" not in head
    assert body.startswith(b'{"a"')
    assert "Accept-Encoding" not in asked[-1]
    assert "User-Agent" not in asked[-1]
    assert asked[-1]["Cookie"] == "a=b"
    writer.close()


async def test_head_has_the_length_that_get_would_have(fronted):
    async def sized(request):
        return web.Response(body=b"x" * 12_345, headers={"ETag": "one"})

    client = await fronted(sized)
    async with client.head("/api/data") as answer:
        assert (answer.headers["Content-Length"], answer.headers["ETag"]) == ("12345", "one")


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body(fronted, status):
    async def empty(request):
        return web.Response(status=status, headers={"ETag": "one"})

    client = await fronted(empty)
    for _ in range(2):  # on one connection: a body that is none would be taken for the next answer
        async with client.get("/api/data") as answer:
            assert (answer.status, answer.headers["ETag"], await answer.read()) == (status, "one", b"")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_answer_is_passed_on_as_it_comes(fronted, chunked):
    block = bytes(range(256)) * 1_024
    go_on = asyncio.Event()

    async def large(request):
        answer = web.StreamResponse(headers={} if chunked else {"Content-Length": str(len(block) * 8)})
        await answer.prepare(request)
        for number in range(8):
            if number == 4:
                await go_on.wait()
            await answer.write(block)
        return answer

    client = await fronted(large)
    async with client.get("/api/data") as answer:
        first = await answer.content.readexactly(len(block) * 3)
        go_on.set()
        assert first + await answer.read() == block * 8
        assert answer.headers["X-Request-Id"]


async def test_an_answer_that_breaks_off_is_not_passed_for_whole(fronted):
    async def breaking(request):
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"x" * 300_000)
        request.transport.abort()
        return answer

    async def ask():
        async with client.get("/api/data") as answer:
            return await answer.read()

    client = await fronted(breaking)
    with pytest.raises(aiohttp.ClientError):
        await ask()


async def test_a_large_body_reaches_the_instance_that_is_tried_second(fronted):
    got = []

    async def failing(request):
        await request.read()
        return web.Response(status=500)

    async def taking(request):
        got.append(await request.read())
        return web.Response(status=201)

    client = await fronted(failing, taking)
    body = bytes(range(256)) * 2_000
    for _ in range(4):
        async with client.post("/api/execute", data=body) as answer:
            assert answer.status == 201
    assert got == [body] * 4


@pytest.mark.server
@pytest.mark.parametrize("balance", ["here", "h:0", "h:99999", "h:1,h:1", "h:1,"])
def test_a_bad_list_is_a_clear_message(balance):
    shown = subprocess.run(
        [sys.executable, "-m", "bot", "--balance", balance],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=30,
    )
    assert shown.returncode == 2
    assert "expected HOST:PORT" in shown.stderr or "named twice" in shown.stderr


def test_a_cluster_serves_starts_a_killed_instance_again_and_stops_with_0(data_dir):
    cluster = Cluster(data_dir)
    cluster.start(wait=False)
    try:
        cluster.wait_until_up(60)
        eventually(lambda: list(cluster.call("/health").body["instances"].values()) == ["healthy"] * 3)
        eventually(lambda: len(cluster.pids()) == 3)
        os.kill(cluster.pids()[0], signal.SIGKILL)
        answers = [cluster.call("/api/data?user_id=1").status for _ in range(10)]
        assert set(answers) == {200}, "callers do not notice: " + cluster.output
        eventually(lambda: len(cluster.pids()) == 4)
        os.kill(cluster.pids()[3], 0)  # it lives
        assert cluster.stop() == 0
        for pid in cluster.pids():
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        assert cluster.output.rstrip().endswith("Stopped.")
    finally:
        cluster.close()


def test_reads_at_an_instance_that_falls_silent_are_answered_by_another(data_dir, start_instances):
    instances = start_instances("", "")
    # The checks would not notice for a minute.
    front = Front(data_dir, instances, LOAD_BALANCER_CHECK_TIMEOUT="60", LOAD_BALANCER_REQUEST_TIMEOUT="55")
    front.start()
    try:
        for number in range(40):  # until it is known how long answers take
            assert front.call(f"/api/data?user_id={number + 1}").status == 200
        instances[0].freeze()
        # Each within the 20 s of a call, long before the request's own limit.
        answers = [front.call(f"/api/data?user_id={number + 1}") for number in range(6)]
        assert {answer.status for answer in answers} == {200}
        assert {answer.headers["X-Instance"] for answer in answers} == {f"127.0.0.1:{instances[1].port}"}
    finally:
        front.close()


def running(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_a_cluster_that_is_killed_takes_its_processes_along(data_dir):
    cluster = Cluster(data_dir)
    cluster.start(wait=False)
    children = []
    try:
        cluster.wait_until_up(60)
        eventually(lambda: len(cluster.pids()) == 3)
        children = [child.pid for child in psutil.Process(cluster.process.pid).children()]
        assert len(children) == 4
        cluster.process.kill()
        eventually(lambda: not any(map(running, children)))
    finally:
        for pid in filter(running, children):
            os.kill(pid, signal.SIGKILL)
        cluster.finish()


@pytest.mark.parametrize("parent", ["", "none"])
async def test_without_a_cluster_there_is_nothing_to_look_after(parent):
    stop = asyncio.Event()
    await stop_with_parent(stop, parent)
    assert not stop.is_set()


async def test_a_process_stops_when_its_cluster_has_ended():
    stop = asyncio.Event()
    await stop_with_parent(stop, str(os.getpid()))  # which is not this one's parent
    assert stop.is_set()
