"""A front shows what its instances tell of themselves, and which of them tell nothing."""

import asyncio
import json

import pytest
from aiohttp import ClientSession, web

from bot.core.load_balancer import LoadBalancer
from bot.service import side_by_side
from bot.service.side_by_side import SideBySide
from tests.support.servers import free_port

WELL = {
    "time": 1.0, "interval": 2.0, "uptime": 61.5, "version": "9.8.7", "bot": "Бот №1", "lag_ms": 0.4,
    "process": {"rss_mb": 80.5, "cpu_percent": None, "threads": 4},
    "services": [{"key": "cache_manager", "state": "on", "facts": []}],
    "headlines": [{"key": "query_hit_rate", "value": 71.5, "x": 1}, {"key": "block_rate", "value": None}],
}  # fmt: skip


class Asked:
    """An instance's dashboard that answers as a test wants it to."""

    def __init__(self):
        self.answer = WELL
        self.seen = []

    async def get(self, request):
        self.seen.append(request.headers.get("Authorization"))
        if callable(self.answer):
            return await self.answer(request)
        return web.json_response(self.answer)


@pytest.fixture
async def instance():
    asked = Asked()
    app = web.Application()
    app.router.add_get("/dashboard/snapshot", asked.get)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    asked.port = runner.addresses[0][1]
    yield asked
    await runner.cleanup()


@pytest.fixture
async def shown(instance, clock):
    balancer = LoadBalancer()
    await balancer.enable(check_interval=60.0)
    await balancer.add_instance("one", "127.0.0.1", instance.port)
    made = SideBySide(balancer, "correct-horse-battery-staple", now=clock.monotonic)
    made.balancer = balancer
    await made.start()
    yield made
    await made.stop()
    await balancer.disable()


async def rows(shown, clock):
    clock.jump(side_by_side.FRESH_SECONDS + 1)
    async with asyncio.timeout(20):
        return json.loads((await shown.get(None)).body)["instances"]


async def test_an_instance_is_shown_as_it_tells_of_itself(shown, instance, clock):
    [row] = await rows(shown, clock)
    assert row == {
        "name": "one", "balanced": "healthy", "answers": True, "bot": "Бот №1", "version": "9.8.7",
        "time": 1.0, "uptime": 61.5, "lag_ms": 0.4, "process": {"rss_mb": 80.5, "cpu_percent": None},
        "services": [{"key": "cache_manager", "state": "on"}],
        "headlines": {"query_hit_rate": 71.5, "block_rate": None},
    }  # fmt: skip
    assert instance.seen == ["Bearer correct-horse-battery-staple"]


async def test_one_round_serves_all_who_look(shown, instance, clock):
    clock.jump(10)
    await asyncio.gather(*(shown.get(None) for _ in range(20)))
    await shown.get(None)
    assert len(instance.seen) == 1
    impatient = asyncio.ensure_future(rows(shown, clock))
    patient = asyncio.ensure_future(rows(shown, clock))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient)[0]["answers"], "one that leaves does not end it"


async def test_a_dead_one_is_shown_as_such_beside_the_others(shown, clock):
    await shown.balancer.add_instance("dead", "127.0.0.1", free_port())
    one, dead = await rows(shown, clock)
    assert one["answers"]
    assert not dead["answers"]
    assert "Connect call failed" in dead["reason"] or "Cannot connect" in dead["reason"]
    assert (await rows(shown, clock))[1]["since"] == dead["since"], "since it first did not answer"
    await shown.balancer.remove_instance("dead", drain=False)
    await rows(shown, clock)
    assert shown._silent == {}


async def endless(request):
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65_536)


async def silent(request):
    while request.transport is not None:
        await asyncio.sleep(0.01)
    return web.Response()


def says(status, text="", **headers):
    async def answer(request):
        return web.Response(status=status, text=text, headers=headers)

    return answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (silent, "nothing within"),
        (endless, "an answer of more than 1,048,576 bytes"),
        (says(401), "it asks for a token"),
        (says(403), "it asks for a token"),
        (says(404), "HTTP 404"),
        (says(302, Location="http://127.0.0.1:1/"), "HTTP 302"),
        (says(200, "<html>"), "an answer that is no dashboard's"),
        (says(200, "[" * 500_000), "an answer that is no dashboard's"),
        (says(200, json.dumps(WELL | {"uptime": "x"})), "an answer that is no dashboard's"),
        (says(200, "{}"), "an answer that is no dashboard's"),
    ],
)
async def test_what_is_no_answer_is_told_within_bounds(shown, instance, clock, monkeypatch, answer, reason):
    monkeypatch.setattr(side_by_side, "ANSWER_SECONDS", 0.5)
    if answer is silent:
        await shown.stop()
        await shown.start()
    instance.answer = answer
    [row] = await rows(shown, clock)
    assert not row["answers"]
    assert reason in row["reason"]
    instance.answer = WELL
    [row] = await rows(shown, clock)
    assert row["answers"], "it is well again"


async def test_a_hostile_instance_fills_no_page(shown, instance, clock):
    instance.answer = WELL | {
        "version": "9" * 100_000,
        "bot": "a\nb\x1b[31m" * 1_000,
        "services": [{"key": "k" * 1_000, "state": "s" * 1_000}] * 300,
    }
    [row] = await rows(shown, clock)
    assert len(json.dumps(row)) < 20_000
    assert "\n" not in row["bot"]


async def test_a_front_asks_its_own_instances(start_instances, data_dir, session_of_front):
    front = await session_of_front(start_instances("", ""))
    told = (await front("/dashboard/instances"))["instances"]
    assert [row["answers"] for row in told] == [True, True]
    assert all(row["headlines"].keys() >= {"query_hit_rate", "block_rate"} for row in told)
    assert (await front("/dashboard/snapshot"))["front"] is True


@pytest.fixture
async def session_of_front(data_dir):
    from tests.service.test_front import Front

    made = []

    async def started(instances):
        front = Front(data_dir, instances)
        made.append(front)
        await asyncio.to_thread(front.start)
        session = ClientSession()
        made.append(session)

        async def get(path):
            async with session.get(f"http://127.0.0.1:{front.port}{path}") as answer:
                assert answer.status == 200
                return await answer.json()

        return get

    yield started
    for one in reversed(made):
        closed = one.close()
        if closed is not None:
            await closed
