"""What an operator does through the dashboard's HTTP API, and what a stranger cannot do."""

import asyncio
import contextlib
import json
import logging
import threading

import pytest
from aiohttp import ClientSession, ClientTimeout, CookieJar, web

from bot.core.batch_processor import BatchClosedError, BatchProcessor
from bot.core.cache_manager import CacheManager
from bot.core.enhanced_startup_phase4 import (
    _runtime,
    initialize_phase4_services,
    mount_phase4,
    shutdown_phase4_services,
)
from bot.core.load_balancer import LoadBalancer
from bot.core.outbound import Outbound
from bot.core.phase4_admin import actions
from bot.core.phase4_admin.audit import KEPT, STRANGERS_A_MINUTE, Audit
from bot.core.phase4_admin.operations import OPERATIONS
from bot.core.rate_limiter import RateLimitConfig, RateLimiter
from tests.support.clock import VirtualClock

TOKEN = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
SLOW = RateLimitConfig(0.001, 3)
ALL_ON = {
    "ENABLE_CACHE_MANAGER": True,
    "ENABLE_RATE_LIMITER": True,
    "ENABLE_BATCH_PROCESSOR": True,
    "ENABLE_LOAD_BALANCER": True,
    "ENABLE_OUTBOUND": True,
    "ENABLE_QUERY_OPTIMIZER": True,
    "LOAD_BALANCER_CHECK_INTERVAL": 0,
    "BATCH_MAX_RETRIES": 0,
    "BATCH_TIMEOUT": 0.01,
}


@pytest.fixture(autouse=True)
async def ended(monkeypatch):
    """An audit of the test's own; every service off at its end."""
    monkeypatch.setattr(_runtime, "audit", None)
    yield
    await shutdown_phase4_services()


class Operator:
    """Calls the API of a mount, as curl or the page does."""

    def __init__(self, url, session, mounted):
        self.url = url
        self.session = session
        self.mounted = mounted

    async def ask(self, method, path, **options):
        async with self.session.request(method, f"{self.url}{path}", **options) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if answer.content_type == "application/json" else text

    async def act(self, action, headers=None, **fields):
        return await self.ask("POST", f"/actions/{action}", json=fields, headers=headers)

    async def raw(self, action, body, kind="application/json", **headers):
        given = {"Content-Type": kind, **headers} if kind else headers
        return await self.ask("POST", f"/actions/{action}", data=body, headers=given)

    async def audit(self, **options):
        _, told = await self.ask("GET", "/audit", **options)
        return [(line["action"], line["outcome"]) for line in told["lines"]]


@contextlib.asynccontextmanager
async def operating(app=None, *, handler_cancellation=False, **options):
    app = app or web.Application()
    mounted = mount_phase4(app, **options)
    runner = web.AppRunner(app, handler_cancellation=handler_cancellation)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with ClientSession(
            timeout=ClientTimeout(total=20), cookie_jar=CookieJar(unsafe=True)
        ) as session:
            yield Operator(f"http://127.0.0.1:{runner.addresses[0][1]}/phase4", session, mounted)
    finally:
        await runner.cleanup()


@pytest.fixture
async def operator():
    """An operator on this machine, and every service on."""
    assert (await initialize_phase4_services(ALL_ON))["success"]
    async with operating() as made:
        yield made


async def poison(*ids, error="no such file", redis_url=""):
    """Give items up, and have the handler well again after that."""

    async def broken(items):
        raise OSError(error)

    batches = BatchProcessor.get_instance()
    batches.process_handler = broken
    await batches.submit_many([{"file": item_id} for item_id in ids], keys=ids)
    await batches.flush()

    async def well(items):
        return {item.item_id: item.data for item in items}

    batches.process_handler = well
    return batches


# What each action does.


async def test_a_namespace_is_dropped(operator):
    cache = CacheManager.get_instance()
    for n in range(3):
        await cache.set(f"k{n}", n, namespace="users")
    await cache.set("k", 1, namespace="chats")
    assert await operator.act("cache.drop_namespace", namespace="users") == (
        200, {"done": 'Namespace "users" dropped: 3 keys.', "count": 3},
    )  # fmt: skip
    assert await cache.get("k0", namespace="users") is None
    assert await cache.get("k", namespace="chats") == 1
    assert (await operator.act("cache.drop_namespace", namespace="nobody's"))[1]["count"] == 0


async def test_a_tag_is_dropped(operator):
    cache = CacheManager.get_instance()
    await cache.set("a", 1, tags=("t",))
    await cache.set("b", 1)
    assert await operator.act("cache.drop_tag", tag="t") == (
        200, {"done": "Tag \"t\" dropped: 1 entry in this process's memory.", "count": 1},
    )  # fmt: skip
    assert await cache.get("b") == 1


async def test_a_client_is_reset_as_the_bot_names_it(operator):
    limiter = RateLimiter.get_instance()
    for client in (5, "5", None):
        for _ in range(4):
            await limiter.is_allowed(client, SLOW)
    assert await operator.act("limiter.reset_client", client=5) == (
        200, {"done": "Client 5 starts with full buckets and no backoff.", "count": 1},
    )  # fmt: skip
    assert (await limiter.is_allowed(5, SLOW))[0]
    assert not (await limiter.is_allowed("5", SLOW))[0], "another client"
    assert await operator.act("limiter.reset_client", client=77) == (
        200, {"done": 'Client 77 had nothing to reset. "77" is another client.', "count": 0},
    )  # fmt: skip
    assert (await operator.act("limiter.reset_client", client=None))[1]["count"] == 1


async def test_dead_letters_are_listed_shown_replayed_and_dropped(operator):
    batches = await poison("one", "two", "three/§", error="https://user:secret@host is away\nsecond line")
    status, told = await operator.ask("GET", "/dead-letters")
    assert status == 200
    assert told["total"] == 3
    assert [item["item_id"] for item in told["items"]] == ["three/§", "two", "one"]
    first = told["items"][0]
    assert first["data"] == "{'file': 'three/§'}"
    assert first["attempts"] == 1
    assert "secret" not in first["error"]
    assert "\n" not in first["error"]
    assert first["at"].endswith("+00:00")
    page = (await operator.ask("GET", "/dead-letters?offset=1&limit=1"))[1]
    assert (page["total"], [item["item_id"] for item in page["items"]]) == (3, ["two"])
    assert (await operator.ask("GET", "/dead-letters/three%2F%C2%A7"))[1]["item_id"] == "three/§"
    assert (await operator.ask("GET", "/dead-letters/four"))[0] == 404

    assert await operator.act("batch.replay_dead_letters", item_ids=["one", "gone"]) == (
        200, {"done": "1 dead letter submitted again; 1 not there (any more).", "count": 1},
    )  # fmt: skip
    assert await batches.get_result("one", timeout=10) == {"file": "one"}
    assert await operator.act("batch.drop_dead_letters", item_ids=["two", "three/§"]) == (
        200, {"done": "2 dead letters dropped.", "count": 2},
    )  # fmt: skip
    for action in ("replay", "drop"):
        assert (await operator.act(f"batch.{action}_dead_letters", item_ids=["two"]))[0] == 404


async def test_a_replay_for_which_there_is_no_room_says_so(operator):
    batches = await poison("one")
    await batches.enable(max_pending=1, batch_timeout=60)
    await batches.submit_item("another")
    status, told = await operator.act("batch.replay_dead_letters", item_ids=["one"])
    assert (status, told["error"]["code"]) == (409, "nothing_replayed")
    assert "there is no room" in told["error"]["message"]
    assert await batches.count_dead_letters() == 1


async def test_an_instance_is_drained_and_returned(operator):
    balancer = LoadBalancer.get_instance()
    for name, port in (("bot-1", 9001), ("bot-2", 9002)):
        await balancer.add_instance(name, "127.0.0.1", port)
    assert await operator.act("balancer.drain", instance="bot-2") == (
        200, {"done": '"bot-2" gets no new requests; 0 requests in progress.', "count": 0},
    )  # fmt: skip
    assert balancer.select_nowait().id == balancer.select_nowait().id == "bot-1"
    assert "No instance is left" in (await operator.act("balancer.drain", instance="bot-1"))[1]["done"]
    status, told = await operator.act("balancer.return", instance="bot-2")
    assert (status, told["count"]) == (200, 1)
    assert balancer.select_nowait().id == "bot-2"
    assert (await operator.act("balancer.return", instance="bot-2"))[1]["count"] == 0
    status, told = await operator.act("balancer.drain", instance="bot-3")
    assert status == 404
    assert told["error"]["message"] == (
        'instance = "bot-3": expected one of those that there are: bot-1, bot-2.'
    )


async def test_a_chat_is_held_and_released(operator):
    outbound = Outbound.get_instance()
    for chat in (-100, "@News", "42"):
        assert (await operator.act("outbound.hold", chat=chat, seconds=300))[0] == 200
        assert (await outbound.get_statistics())["chats_held"] == 1
        assert (await operator.act("outbound.release", chat=chat))[0] == 200
        assert (await operator.act("outbound.release", chat=chat))[0] == 404
    assert (await operator.act("outbound.hold", chat=None, seconds=0.5))[1]["done"] == (
        "Nothing is sent to any chat for 0.5 s."
    )
    assert (await operator.act("outbound.release", chat=None))[0] == 200


async def test_statistics_are_reset_and_caches_stay(operator):
    cache = CacheManager.get_instance()
    await cache.set("k", 1)
    await cache.get("k")
    assert await operator.act("statistics.reset") == (
        200, {"done": "The counters of 6 services start at zero.", "count": 6},
    )  # fmt: skip
    figures = await cache.get_statistics()
    assert (figures["l1_hits"], figures["l1_entries"]) == (0, 1)


# What is refused, and that it is.


@pytest.mark.parametrize(
    ("action", "body", "said"),
    [
        ("cache.drop_namespace", "{}", "namespace: missing; expected a text of 1 to 1,024 characters."),
        ("cache.drop_namespace", '{"namespace": 5}', "namespace = 5: expected a text"),
        ("cache.drop_namespace", '{"namespace": ""}', "namespace = '': expected a text"),
        ("cache.drop_tag", '{"tag": "t", "namespace": "n"}', "namespace: unknown; expected tag."),
        ("limiter.reset_client", '{"client": true}', "client = True: expected a whole number or a text"),
        ("limiter.reset_client", '{"client": 5.5}', "client = 5.5"),
        ("limiter.reset_client", '{"client": [5]}', "client = [5]"),
        ("batch.replay_dead_letters", '{"item_ids": "one"}', "item_ids = 'one': expected a list"),
        ("batch.replay_dead_letters", '{"item_ids": []}', "item_ids = []"),
        ("batch.drop_dead_letters", '{"item_ids": [1]}', "item_ids = [1]"),
        ("batch.drop_dead_letters", json.dumps({"item_ids": ["i"] * 1001}), "item_ids = ['i', 'i'"),
        ("balancer.drain", '{"instance": null}', "instance = None"),
        ("outbound.hold", '{"chat": 5}', "seconds: missing; expected a number above 0, at most 604,800"),
        ("outbound.hold", '{"chat": 5, "seconds": 0}', "seconds = 0"),
        ("outbound.hold", '{"chat": 5, "seconds": 1e9}', "seconds = 1000000000.0"),
        ("outbound.hold", '{"chat": "", "seconds": 5}', "chat = '': expected a chat's id"),
        ("outbound.hold", '{"chat": "  ", "seconds": 5}', "chat = ' ': expected a chat's id"),
        ("outbound.hold", '{"seconds": 5}', "chat: missing"),
        ("statistics.reset", '{"all": true}', "all: unknown; expected no fields."),
        ("statistics.reset", "[]", "The body is no JSON object"),
        ("statistics.reset", "", "The body is no JSON object"),
        ("statistics.reset", '{"a":' * 50_000, "The body is no JSON object"),
        ("statistics.reset", b"\xff\xfe", "The body is no JSON object"),
    ],
)  # fmt: skip
async def test_a_wrong_body_is_told_by_its_field_and_does_nothing(operator, action, body, said):
    status, told = await operator.raw(action, body)
    assert status == 400
    assert said in told["error"]["message"]
    [(audited, outcome)] = await operator.audit()
    assert audited == action
    assert outcome.startswith("refused: bad_request: ")


async def test_bodies_are_bounded_and_an_unknown_action_names_the_known(operator):
    assert (await operator.raw("cache.drop_tag", b" " * 500_000))[0] == 413
    status, told = await operator.act("cache.drop_everything")
    assert status == 404
    assert all(name in told["error"]["message"] for name in OPERATIONS)
    assert (await operator.ask("GET", "/actions/statistics.reset"))[0] == 405
    assert (await operator.ask("GET", "/dead-letters?offset=-1"))[0] == 400
    assert (await operator.ask("GET", "/dead-letters?limit=1000"))[0] == 400
    assert (await operator.ask("GET", "/dead-letters?page=1"))[0] == 400


async def test_off_services_answer_409(operator):
    await initialize_phase4_services(
        dict.fromkeys([name for name in ALL_ON if name.startswith("ENABLE")], False)
    )
    bodies = {
        "cache.drop_namespace": {"namespace": "n"}, "cache.drop_tag": {"tag": "t"},
        "limiter.reset_client": {"client": 5}, "batch.replay_dead_letters": {"item_ids": ["i"]},
        "batch.drop_dead_letters": {"item_ids": ["i"]}, "balancer.drain": {"instance": "i"},
        "balancer.return": {"instance": "i"}, "outbound.hold": {"chat": 5, "seconds": 5},
        "outbound.release": {"chat": 5},
    }  # fmt: skip
    assert bodies.keys() | {"statistics.reset"} == OPERATIONS.keys()
    for action, body in bodies.items():
        status, told = await operator.act(action, **body)
        assert status == 409, action
        assert told["error"]["code"] == "service_off"
    assert (await operator.ask("GET", "/dead-letters"))[0] == 409
    assert (await operator.act("statistics.reset"))[1]["count"] == 0


FOREIGN = [
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403),
    ({"Host": "evil.example"}, 403),
    ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),
    ({"X-Forwarded-For": "203.0.113.5"}, 403),
    ({"Content-Type": "text/plain"}, 415),
    ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
    ({"Content-Type": "application/json; charset=utf-8", "Content-Encoding": "gzip"}, 415),
]


@pytest.mark.parametrize(("headers", "status"), FOREIGN, ids=str)
async def test_a_page_of_another_site_never_acts_and_leaves_a_line(operator, headers, status):
    cache = CacheManager.get_instance()
    await cache.set("k", 1, namespace="users")
    sent = {"Content-Type": "application/json", **headers}
    answer = await operator.ask(
        "POST", "/actions/cache.drop_namespace", data=b'{"namespace": "users"}', headers=sent
    )
    assert answer[0] == status
    assert await cache.get("k", namespace="users") == 1
    [(action, outcome)] = await operator.audit()
    assert action == "cache.drop_namespace"
    assert outcome.startswith("refused: ")


async def test_without_a_content_type_nothing_is_done(operator):
    async with operator.session.post(
        f"{operator.url}/actions/statistics.reset", data=b"{}", skip_auto_headers=["Content-Type"]
    ) as answer:
        assert answer.status == 415


async def test_with_a_token_only_its_bearers_and_sessions_act_and_the_audit_tells_who():
    await initialize_phase4_services(ALL_ON)
    cache = CacheManager.get_instance()
    await cache.set("k", 1, namespace="users")
    async with operating(token=TOKEN) as operator:
        for headers in (
            {},
            {"Authorization": "Bearer wrong-wrong-wrong-wrong"},
            {"Cookie": "phase4_dashboard=1.2.3"},
        ):
            assert (await operator.act("cache.drop_namespace", namespace="users", headers=headers))[0] == 401
            for path in ("/dead-letters", "/dead-letters/i", "/audit"):
                assert (await operator.ask("GET", path, headers=headers))[0] == 401
        assert await cache.get("k", namespace="users") == 1
        assert (await operator.act("cache.drop_namespace", namespace="users", headers=BEARER))[0] == 200
        assert (await operator.ask("POST", "/dashboard/access", json={"token": TOKEN}))[0] == 204
        assert (await operator.act("cache.drop_tag", tag="t"))[0] == 200
        foreign = {"Origin": "http://evil.example"}
        assert (await operator.act("cache.drop_tag", tag="t", headers=foreign))[0] == 403, (
            "its cookie is no leave"
        )
        lines = (await operator.ask("GET", "/audit"))[1]["lines"]
        assert [(line["outcome"][:14], line["by"]) for line in lines] == [
            ("refused: forei", "127.0.0.1"),
            ('done: Tag "t" ', "127.0.0.1, session"),
            ("done: Namespac", "127.0.0.1"),
            *[("refused: token", "127.0.0.1")] * 3,
        ]
        assert TOKEN not in json.dumps(lines)


async def test_a_refusal_by_the_hosts_own_middleware_leaves_a_line_too():
    @web.middleware
    async def closed(request, handler):
        return web.Response(status=418) if request.method == "POST" else await handler(request)

    async with operating(web.Application(middlewares=[closed])) as operator:
        assert (await operator.act("statistics.reset"))[0] == 418
        assert await operator.audit() == [("statistics.reset", "refused: 418")]


async def test_a_refusal_within_an_application_of_the_hosts_leaves_a_line_and_the_hosts_paths_none():
    async def own(_):
        return web.Response(status=401)

    app, inner = web.Application(), web.Application()
    mounted = mount_phase4(inner, token=TOKEN)
    inner.router.add_post("/api/actions/{name}", own)
    app.add_subapp("/inner", inner)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/inner"
    async with ClientSession(timeout=ClientTimeout(total=20)) as session:
        for path in ("/api/actions/one", "/phase4/actions/cache.drop_tag", "/phase4/dashboard/access"):
            async with session.post(f"{url}{path}", json={"token": "wrong"}) as answer:
                assert answer.status == 401
    await runner.cleanup()
    lines = mounted.admin.actions.audit.lines()
    assert [(line.action, line.outcome) for line in lines] == [("cache.drop_tag", "refused: token_needed")]


# The audit.


async def test_a_line_of_the_log_is_one_line_and_cannot_be_forged(operator, caplog):
    caplog.set_level(logging.INFO, "bot.core.phase4_admin.audit")
    evil = 'n" by 10.0.0.1: done\nINFO forged\x1b[2J\u202e redis://:secret@host'
    await operator.act("cache.drop_namespace", namespace=evil)
    await operator.act("x\ny", namespace=evil)
    records = [record for record in caplog.records if record.name == "bot.core.phase4_admin.audit"]
    assert [record.levelname for record in records] == ["INFO", "INFO"]
    for record in records:
        message = record.getMessage()
        assert message.isprintable()
        assert "secret" not in message
    assert "by 127.0.0.1: done: Namespace" in records[0].getMessage()
    assert '\\" by 10.0.0.1' in records[0].getMessage(), "quoted, so it is no part of the line"


async def test_two_mounts_of_a_bot_have_one_audit(operator):
    async with operating() as other:
        assert (await other.act("statistics.reset"))[0] == 200
        assert await operator.audit() == await other.audit()
        assert len(await operator.audit()) == 1


async def test_the_audit_is_bounded_and_strangers_drive_nothing_out():
    clock = VirtualClock()
    audit = Audit(clock.time)
    audit.record("outbound.hold", "chat 5", "done", "127.0.0.1")
    clock.jump(1)
    for _ in range(5 * KEPT):
        audit.refused_stranger("cache.drop_tag", "refused: 401", "203.0.113.5")
    lines = audit.lines()
    assert len(lines) == 1 + STRANGERS_A_MINUTE
    assert lines[-1].action == "outbound.hold"
    clock.jump(60)
    audit.refused_stranger("cache.drop_tag", "refused: 401", "203.0.113.5")
    assert (
        audit.lines()[0].outcome == f"refused: 401 (and {5 * KEPT - STRANGERS_A_MINUTE} more refusals before)"
    )
    for n in range(2 * KEPT):
        audit.record("outbound.hold", f"chat {n}", "done", "127.0.0.1")
    assert len(audit.lines()) == KEPT


# At the same time, and in the middle.


async def test_two_operators_at_once_replay_an_item_once(operator):
    batches = await poison("one")
    answers = await asyncio.gather(
        *[operator.act("batch.replay_dead_letters", item_ids=["one"]) for _ in range(4)]
    )
    assert sorted(status for status, _ in answers) == [200, 404, 404, 404]
    assert await batches.get_result("one", timeout=10)
    assert len(await operator.audit()) == 4


@pytest.mark.parametrize("handler_cancellation", [False, True])
async def test_an_action_goes_on_when_its_client_leaves_and_is_audited(monkeypatch, handler_cancellation):
    """aiohttp cancels the handler of a client that left, if the host wants it."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    await initialize_phase4_services(ALL_ON)
    cache = CacheManager.get_instance()
    await cache.set("k", 1, namespace="users")
    clear = CacheManager.clear

    async def slow(self, namespace=None):
        begun.set()
        await go_on.wait()
        return await clear(self, namespace)

    monkeypatch.setattr(CacheManager, "clear", slow)
    async with operating(handler_cancellation=handler_cancellation) as operator:
        asking = asyncio.ensure_future(operator.act("cache.drop_namespace", namespace="users"))
        await begun.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert await operator.audit() == [], "it is under way"
        stopping = asyncio.ensure_future(operator.mounted.admin.actions.finish())
        await asyncio.sleep(0)
        assert not stopping.done(), "a stop waits for it"
        go_on.set()
        await stopping
        assert await cache.get("k", namespace="users") is None
        [(_, outcome)] = await operator.audit()
        assert outcome.startswith("done: ")


async def test_so_many_at_once_and_no_more(operator, monkeypatch):
    go_on = asyncio.Event()

    async def slow(self):
        await go_on.wait()

    monkeypatch.setattr(CacheManager, "reset_statistics", slow)
    running = [asyncio.ensure_future(operator.act("statistics.reset")) for _ in range(8)]
    async with asyncio.timeout(10):
        while len(operator.mounted.admin.actions._under_way) < 8:
            await asyncio.sleep(0.01)
    status, told = await operator.act("statistics.reset")
    assert (status, told["error"]["code"]) == (503, "busy")
    go_on.set()
    assert [(await task)[0] for task in running] == [200] * 8


async def test_a_service_that_is_switched_off_meanwhile_is_told(operator, monkeypatch):
    batches = await poison("one")

    async def late(item_ids):
        raise BatchClosedError("the batch processor was switched off")

    monkeypatch.setattr(batches._store, "replay", late)
    status, told = await operator.act("batch.replay_dead_letters", item_ids=["one"])
    assert (status, told["error"]["code"]) == (409, "service_off")


async def test_an_error_of_a_service_is_500_logged_and_audited(operator, monkeypatch, caplog):
    async def broken(self):
        raise RuntimeError("redis://:secret@host")

    monkeypatch.setattr(CacheManager, "reset_statistics", broken)
    status, told = await operator.act("statistics.reset")
    assert (status, told["error"]["code"]) == (500, "internal_error")
    assert await operator.audit() == [("statistics.reset", "failed: RuntimeError")]
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


async def test_services_on_another_threads_loop_are_asked_there():
    started, end = threading.Event(), threading.Event()
    seen = []

    async def bot():
        await initialize_phase4_services(ALL_ON)
        await CacheManager.get_instance().set("k", 1, namespace="users")
        Outbound.get_instance().hold(-100, 300)
        started.set()
        await asyncio.to_thread(end.wait)
        seen.append(await CacheManager.get_instance().get("k", namespace="users"))
        await shutdown_phase4_services()

    thread = threading.Thread(target=lambda: asyncio.run(bot()))
    thread.start()
    await asyncio.to_thread(started.wait)
    async with operating() as operator:
        assert (await operator.act("cache.drop_namespace", namespace="users"))[1]["count"] == 1
        assert (await operator.act("outbound.release", chat=-100))[0] == 200
        assert (await operator.ask("GET", "/dead-letters"))[1] == {"total": 0, "items": []}
        end.set()
        await asyncio.to_thread(thread.join)
    assert seen == [None]


async def test_a_bot_that_is_blocked_is_told_and_does_nothing_later(monkeypatch):
    monkeypatch.setattr(actions, "ANSWER_SECONDS", 0.2)
    started, blocked, end = threading.Event(), threading.Event(), threading.Event()
    seen = []

    async def bot():
        await initialize_phase4_services(ALL_ON)
        cache = CacheManager.get_instance()
        await cache.set("k", 1, namespace="users")
        started.set()
        blocked.wait()  # as a handler that calls something that blocks
        await asyncio.to_thread(end.wait)
        seen.append(await cache.get("k", namespace="users"))
        await shutdown_phase4_services()

    thread = threading.Thread(target=lambda: asyncio.run(bot()))
    thread.start()
    await asyncio.to_thread(started.wait)
    async with operating() as operator:
        status, told = await operator.act("cache.drop_namespace", namespace="users")
        assert (status, told["error"]["code"]) == (503, "bot_busy")
        assert "nothing was done" in told["error"]["message"]
        blocked.set()
        end.set()
        await asyncio.to_thread(thread.join)
        assert len(await operator.audit()) == 1
    assert seen == [1]
