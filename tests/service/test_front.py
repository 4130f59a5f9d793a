"""``python -m bot --balance`` and the cluster, as a user starts them."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from bot.core.load_balancer import LoadBalancer
from bot.service.client_address import TRUSTED_PROXIES
from bot.service.front import Front as passing_on
from bot.service.middleware import around_request
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


def test_a_front_passes_on_fails_over_and_tells(data_dir, start_instances):
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
        limited = [front.call("/api/upload?user_id=12").status for _ in range(7)]
        assert limited == [200] * 5 + [429] * 2, "one client's limit is counted by one instance"

        instances[0].kill()
        assert [front.call("/api/data?user_id=2").status for _ in range(12)] == [200] * 12
        gone = f"127.0.0.1:{instances[0].port}"
        eventually(lambda: front.call("/health").body["instances"][gone] in ("unhealthy", "ejected"))
        health = front.call("/health")
        assert (health.status, health.body["status"]) == (200, "degraded")
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
            instance = web.Application()
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
    full = answering(503, Retry_After="3", X_Secret="kept")
    client = await fronted(full, full)
    for _ in range(20):  # no failure: nobody is left alone for it
        async with client.post("/api/batch", data=b"{}") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "3")
            assert (await answer.json())["error"]["code"] == "of the instance"
            assert answer.headers["X-Instance"] in ("i0", "i1")
            assert "X-Secret" not in answer.headers
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
