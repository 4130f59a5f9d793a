"""The dashboard over HTTP: the page, the stream, the token, and that stopping does not wait for viewers."""

import asyncio
import json
import re
import socket
import urllib.error
import urllib.request
from typing import NamedTuple

import pytest
from aiohttp import ClientSession, web

from bot.core.enhanced_startup_phase4 import phase4_library
from bot.core.phase4_admin import pages
from bot.core.phase4_admin.access import Access, is_loopback, valid_token
from bot.core.phase4_admin.events import EventLog
from bot.core.phase4_admin.feed import MAX_OF_ONE, MAX_VIEWERS, Feed
from bot.core.query_optimizer import QueryOptimizer
from bot.service.app_keys import MOUNTED
from bot.service.server import create_app
from bot.service.settings import ServiceSettings
from tests.service.conftest import Service
from tests.support.servers import free_port

KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
TOKEN = "correct-horse-battery-staple"


def get(service, path, method="GET", body=None, **headers):
    request = urllib.request.Request(
        f"http://127.0.0.1:{service.port}{path}",
        method=method, data=body, headers={name.replace("_", "-"): value for name, value in headers.items()},
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.headers, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


def test_the_page_brings_all_it_needs_and_asks_nobody_else(service):
    status, headers, text = get(service, "/")
    assert (status, headers.get_content_type()) == (200, "text/html")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "//" not in text
    assert " style=" not in text, "the policy forbids it"
    files = re.findall(r'(?:href|src)="(dashboard/[^"]+)"', text)
    assert files == ["dashboard/icon.svg", "dashboard/dashboard.css", "dashboard/dashboard.js"]
    seen = []
    while files:
        seen.append(path := files.pop())
        status, headers, content = get(service, f"/{path}")
        assert (status, headers.get_content_type()) == (200, KINDS[path.rpartition(".")[2]])
        assert "http" not in content.replace("http://www.w3.org/2000/svg", "").replace(
            "not https", ""
        ).replace("Without https", "")
        assert get(service, f"/{path}", If_None_Match=headers["ETag"])[0] == 304
        assert "innerHTML" not in content
        # A module that a module imports is served too, and each that is served is imported.
        files += [
            f"dashboard/{name}"
            for name in re.findall(r'from "\./(.+?)"', content)
            if f"dashboard/{name}" not in [*files, *seen]
        ]
    assert sorted(f"/{path}" for path in seen) == sorted(pages._FILES)


def test_who_asks_for_json_gets_the_index(service):
    for path, headers in (("/", {"Accept": "application/json"}), ("/api", {})):
        index = json.loads(get(service, path, **headers)[2])
        assert "/metrics" in index["paths"]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("a.localhost", True),
        ("0.0.0.0", False), ("::", False), ("", False), ("10.0.0.1", False), ("localhost.example", False),
    ],
)  # fmt: skip
def test_a_token_is_made_for_whatever_is_not_the_loopback(host, loopback):
    access = Access(host)
    assert is_loopback(host) is loopback
    assert access.needed is access.made is not loopback
    assert Access(host, TOKEN).needed


@pytest.mark.parametrize("token", ["short", "with a space in the middle", "ünicode-token-of-some-length"])
def test_a_token_that_cannot_serve_is_refused_and_not_quoted(token):
    with pytest.raises(ValueError, match="at least 16") as caught:
        valid_token(token)
    assert token not in str(caught.value)


@pytest.fixture(scope="module")
def guarded(data_dir):
    running = Service(data_dir, PHASE4_DASHBOARD_TOKEN=TOKEN)
    running.start()
    yield running
    running.close()


def test_without_the_token_there_are_no_figures(guarded):
    for path in (
        "/dashboard/feed", "/dashboard/snapshot", "/dashboard/history?seconds=600", "/dashboard/queries/0",
        "/metrics",
    ):  # fmt: skip
        forged = {"Cookie": f"{Access('', TOKEN).cookie}=9999999999.00"}
        for headers in ({}, {"Authorization": "Bearer wrong"}, forged):
            status, answer, _ = get(guarded, path, **headers)
            assert status == 401
            assert answer["WWW-Authenticate"].startswith("Bearer")
    assert get(guarded, "/")[0] == 200, "the page alone holds no figure"
    assert get(guarded, "/health")[0] == 200, "load balancers ask without a token"


def test_a_bearer_token_and_a_cookie_open_it(guarded):
    assert get(guarded, "/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
    assert get(guarded, "/dashboard/access", "POST", b'{"token": "wrong"}')[0] == 401
    assert get(guarded, "/dashboard/access", "POST", b"nonsense")[0] == 400
    status, headers, _ = get(guarded, "/dashboard/access", "POST", json.dumps({"token": TOKEN}).encode())
    assert status == 204
    assert "HttpOnly" in headers["Set-Cookie"]
    assert "SameSite=Strict" in headers["Set-Cookie"]
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert TOKEN not in cookie
    assert json.loads(get(guarded, "/dashboard/access", Cookie=cookie)[2]) == {
        "needed": True,
        "granted": True,
    }
    assert get(guarded, "/metrics", Cookie=cookie)[0] == 200
    assert get(guarded, "/metrics", Cookie=cookie[:-1] + ("0" if cookie[-1] != "0" else "1"))[0] == 401


def sign_in(service, **headers):
    """The cookie, and all that is said of it."""
    told = get(service, "/dashboard/access", "POST", json.dumps({"token": TOKEN}).encode(), **headers)[1]
    return told["Set-Cookie"].partition(";")[0], told["Set-Cookie"]


def test_signing_out_ends_the_session_and_copies_of_its_cookie(guarded):
    (cookie, _), (other, _) = sign_in(guarded), sign_in(guarded)
    assert cookie != other, "each session is one of its own"
    assert get(guarded, "/metrics", Cookie=cookie)[0] == 200
    assert get(guarded, "/dashboard/access", "DELETE", Cookie=cookie)[0] == 204
    assert get(guarded, "/metrics", Cookie=cookie)[0] == 401
    assert get(guarded, "/metrics", Cookie=other)[0] == 200
    made_up = other[:-1] + ("0" if other[-1] != "0" else "1")
    assert get(guarded, "/dashboard/access", "DELETE", Cookie=made_up)[0] == 204
    assert get(guarded, "/metrics", Cookie=other)[0] == 200, "who has no session ends none"


def test_a_cookie_is_for_https_alone_if_the_browser_came_by_it(guarded):
    assert "Secure" not in sign_in(guarded)[1]
    assert "Secure" in sign_in(guarded, X_Forwarded_Proto="https")[1]
    assert "Secure" in sign_in(guarded, Host="bot.internal", Origin="https://bot.internal")[1]
    assert "Path=/" in sign_in(guarded)[1]


def test_wrong_tokens_are_told_once_a_minute(data_dir):
    running = Service(data_dir, PHASE4_DASHBOARD_TOKEN=TOKEN)
    running.start()
    try:
        for _ in range(5):
            assert get(running, "/metrics", Authorization="Bearer a-wrong-token-of-some-length")[0] == 401
            get(running, "/dashboard/access", "POST", b'{"token": "a-wrong-token-of-some-length"}')
        running.stop()
    finally:
        running.close()
    assert running.output.count("request(s) with a wrong token, the last from 127.0.0.1") == 1
    assert "a-wrong-token" not in running.output


def test_a_session_ends():
    now = [1_000_000.0]
    access = Access("0.0.0.0", TOKEN, now=lambda: now[0])
    cookie = access._session(int(now[0]) + 60, "one")
    assert access._is_session(cookie)
    assert not Access("0.0.0.0", TOKEN + "x", now=lambda: now[0])._is_session(cookie), "with its token"
    for forged in (
        cookie.replace("one", "two"),
        cookie.replace("1000060", "9000060"),
        cookie[1:],
        "",
        "..",
        "1.é.2",
    ):
        assert not access._is_session(forged)
    now[0] += 61
    assert not access._is_session(cookie)


def test_the_token_is_in_no_log(data_dir):
    running = Service(data_dir, PHASE4_DASHBOARD_TOKEN=TOKEN)
    running.start()
    get(running, "/dashboard/access", "POST", json.dumps({"token": TOKEN}).encode())
    get(running, "/metrics", Authorization=f"Bearer {TOKEN}")
    running.stop()
    assert TOKEN not in running.output


def test_an_open_dashboard_answers_to_localhost_only(service):
    status, _, text = get(service, "/dashboard/feed", Host="evil.example")
    assert status == 403
    assert "PHASE4_ALLOWED_HOSTS" in text


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "Via"])
@pytest.mark.parametrize("path", ["/dashboard/feed", "/metrics"])
def test_what_a_proxy_on_this_machine_passes_on_is_not_from_this_machine(service, path, header):
    status, _, text = get(service, path, **{header.replace("-", "_"): "203.0.113.5"})
    assert status == 403
    assert "PHASE4_DASHBOARD_TOKEN" in text


def test_health_tells_strangers_no_more_than_how_it_is(service):
    assert service.call("/health").body["phase4"]
    for stranger in ({"X_Forwarded_For": "203.0.113.5"}, {"Host": "rebind.example"}):
        assert service.call("/health", **stranger).body == {"status": "ok"}


def test_a_stop_does_not_wait_for_viewers(own_service):
    own_service.start()
    with socket.create_connection(("127.0.0.1", own_service.port)) as viewer:
        viewer.sendall(b"GET /dashboard/feed HTTP/1.1\r\nHost: localhost\r\n\r\n")
        viewer.settimeout(10)
        seen = b""
        while b"data: " not in seen:
            seen += viewer.recv(65_536)
        assert own_service.stop() == 0
    assert "cut off" not in own_service.output


class Running(NamedTuple):
    url: str
    feed: Feed


@pytest.fixture
async def app(data_dir):
    app = create_app(
        ServiceSettings(data_dir=data_dir), {"ENABLE_QUERY_OPTIMIZER": True, "ENABLE_RATE_LIMITER": True}
    )
    app[MOUNTED].admin.feed._interval = 0.02
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", free_port())
    await site.start()
    yield Running(site.name, app[MOUNTED].admin.feed)
    await runner.cleanup()


@pytest.fixture
async def session():
    async with ClientSession() as session:
        yield session


async def next_state(response):
    async with asyncio.timeout(20):
        async for line in response.content:
            if line.startswith(b"data: "):
                return json.loads(line[6:])
    raise AssertionError("the stream ended")


async def until(condition, what):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


async def test_samples_are_taken_while_nobody_looks_and_a_viewer_sees_them(app, session):
    feed = app.feed
    assert feed.viewers == 0
    await until(lambda: len(feed._history) > 3, "samples without a viewer")
    async with session.get(f"{app.url}/dashboard/feed") as one:
        state = await next_state(one)
    assert len(state["history"]["t"]) > 3, "what was before it came"
    assert all(len(values) == len(state["history"]["t"]) for values in state["history"]["series"].values())


async def test_viewers_share_a_sampler_which_goes_on_without_them(app, session):
    feed = app.feed
    async with session.get(f"{app.url}/dashboard/feed") as one:
        first = await next_state(one)
        sampler = feed._sampler
        async with session.get(f"{app.url}/dashboard/feed") as other:
            await next_state(other)
            assert feed._sampler is sampler
            assert feed.viewers == 2
        await until(lambda: feed.viewers == 1, "one has left")
        assert (await next_state(one))["time"] > first["time"]
    await until(lambda: feed.viewers == 0, "both have left")
    seen = feed._sample
    await until(lambda: feed._sample is not seen, "it goes on")
    assert feed._sampler is sampler


async def test_the_first_who_looks_sees_the_present_and_not_the_last_sample(app, session):
    feed = app.feed
    await until(lambda: feed._sample is not None, "a sample was taken")
    feed._interval = 3_600.0
    await asyncio.sleep(0.05)  # the sampler now waits for its hour
    before = feed._sample
    feed._measured_at -= 3_000.0
    await QueryOptimizer.get_instance().record_execution("SELECT 1", 2_500.0)
    async with session.get(f"{app.url}/dashboard/feed") as one:
        async with asyncio.timeout(10):
            assert (await next_state(one))["time"] >= before.at
        facts = {fact["label"]: fact["value"] for fact in feed._state["services"][0]["facts"]}
        assert facts["Slow executions"] == 1
        sample = feed._sample
        async with session.get(f"{app.url}/dashboard/feed") as other:
            await next_state(other)
        assert feed._sample is sample, "another one takes what is there"


async def test_what_only_the_page_needs_is_not_put_together_for_nobody(app, monkeypatch):
    asked = []
    monkeypatch.setattr(app.feed, "_compose", asked.append)
    seen = app.feed._sample
    await until(lambda: app.feed._sample is not seen, "a sample was taken")
    assert asked == []


async def test_the_past_is_told_by_range(app, session):
    await until(lambda: app.feed._sample is not None, "a sample was taken")
    for seconds, step in ((3_600, 30), (21_600, 90), (86_400, 360)):
        async with session.get(f"{app.url}/dashboard/history?seconds={seconds}") as answer:
            told = await answer.json()
        assert told["step"] == step
        assert {"lag", "memory", "query_hit_rate"} <= told["series"].keys()
        assert set(told["series"]["memory"]) == {"mean", "low", "high"}
        assert told["series"]["memory"]["mean"][-1] > 1
    for wrong in ("", "?seconds=5", "?seconds=1e309", "?seconds=nan", "?seconds=" + "9" * 5_000):
        async with session.get(f"{app.url}/dashboard/history{wrong}") as answer:
            assert answer.status == 400
            assert "600, 3600, 21600, 86400" in (await answer.json())["error"]["message"]


async def test_what_is_no_number_in_json_is_none(app, session):
    library = app.feed._library

    async def odd():
        status = await library.status()
        status["process"] = {
            "rss_mb": float("nan"),
            "cpu_percent": float("inf"),
            "open_fds": 5,
            "more": [-float("inf")],
        }
        return status

    app.feed._library = library._replace(status=odd)
    app.feed._measured_at = float("-inf")
    async with session.get(f"{app.url}/dashboard/feed") as one:
        async with asyncio.timeout(20):
            while (state := await next_state(one))["process"].get("more") is None:
                pass
    assert state["process"] == {"rss_mb": None, "cpu_percent": None, "open_fds": 5, "more": [None]}
    async with session.get(f"{app.url}/dashboard/snapshot") as answer:
        assert "NaN" not in await answer.text()


async def test_a_stream_after_the_end_starts_nothing(app):
    app.feed.close()
    assert [event async for event in app.feed.stream()] == [b"retry: 2000\n\n"]
    assert not app.feed.sampling
    assert app.feed.viewers == 0


async def test_a_query_is_opened_on_request(app, session):
    optimizer = QueryOptimizer.get_instance()
    await optimizer.record_execution("SELECT * FROM users WHERE email = 'hunter2'", 2_500.0)
    async with session.get(f"{app.url}/dashboard/snapshot") as answer:
        [listed] = (await answer.json())["slow"]
    async with session.get(f"{app.url}/dashboard/queries/{listed['fingerprint']}") as answer:
        opened = await answer.json()
    assert opened["query"] == "SELECT * FROM users WHERE email = ?"
    assert opened["indexes"][0]["ddl"] == "CREATE INDEX idx_users_email ON users (email)"
    assert "test_dashboard.py" in opened["where"][0]
    assert [finding["code"] for finding in opened["findings"]] == ["Q003"]
    assert "hunter2" not in json.dumps(opened)
    for unknown in ("0" * 16, "%00", "é"):
        async with session.get(f"{app.url}/dashboard/queries/{unknown}") as answer:
            assert answer.status == 404


async def test_figures_that_cannot_be_read_stop_the_stream_and_not_the_sampling(app, session, caplog):
    library = app.feed._library

    async def broken():
        raise RuntimeError("no status today")

    app.feed._library = library._replace(status=broken)
    await until(lambda: "no status today" in caplog.text, "it is told")
    async with session.get(f"{app.url}/dashboard/feed") as one:
        before = await next_state(one)
        app.feed._library = library
        assert (await next_state(one))["time"] > before["time"]
    assert caplog.text.count("RuntimeError: no status today") == 1


async def test_one_who_opens_many_streams_puts_nobody_out_and_keeps_nobody_out(app):
    feed = app.feed
    operator = feed.stream(client="operator", session="hers")
    await anext(operator)
    streams = [feed.stream(client="attacker") for _ in range(400)]
    for stream in streams:
        await anext(stream)
    assert feed.viewers == MAX_OF_ONE + 1
    async with asyncio.timeout(10):
        assert [event async for event in streams[0]] == [], "the oldest of the attacker's ends"
        assert (await anext(operator)).startswith(b"id: ")
    for stream in [*streams, operator]:
        await stream.aclose()
    assert feed.viewers == 0


async def test_with_all_places_taken_the_client_with_the_most_streams_loses_one(app):
    feed = app.feed
    few = [feed.stream(client=f"10.0.0.{n}") for n in range(MAX_VIEWERS - 10)]
    many = [feed.stream(client="attacker", session=str(n)) for n in range(10)]
    late = feed.stream(client="operator")
    for stream in [*few, *many, late]:
        await anext(stream)
    assert feed.viewers == MAX_VIEWERS
    async with asyncio.timeout(10):
        assert [event async for event in many[0]] == []
        for stream in [*few, late]:
            assert (await anext(stream)).startswith(b"id: ")
    for stream in [*few, *many, late]:
        await stream.aclose()


async def test_a_stream_ends_with_its_session(data_dir, session):
    app = create_app(ServiceSettings(data_dir=data_dir, dashboard_token=TOKEN))
    app[MOUNTED].admin.feed._interval = 0.02
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/dashboard"
        async with session.post(f"{url}/access", json={"token": TOKEN}) as signed_in:
            name = Access("", TOKEN).cookie
            copy = {"Cookie": f"{name}={signed_in.cookies[name].value}"}
        async with ClientSession() as thief, thief.get(f"{url}/feed", headers=copy) as stolen:
            await next_state(stolen)
            async with session.delete(f"{url}/access", headers=copy) as signed_out:
                assert signed_out.status == 204
            async with asyncio.timeout(10):
                await stolen.read()  # to its end
            async with thief.get(f"{url}/feed", headers=copy) as again:
                assert again.status == 401
    finally:
        await runner.cleanup()


async def test_a_viewer_that_comes_back_gets_what_it_missed_only(app, session):
    async with session.get(f"{app.url}/dashboard/feed") as one:
        first = await next_state(one)
        second = await next_state(one)
    async with session.get(
        f"{app.url}/dashboard/feed", headers={"Last-Event-ID": str(first["time"])}
    ) as back:
        times = (await next_state(back))["history"]["t"]
    assert min(times) > first["time"]
    assert second["time"] in times


async def test_a_viewer_that_stalls_is_dropped(app, session, monkeypatch):
    monkeypatch.setattr(pages, "STALL_SECONDS", 0.2)
    feed = app.feed
    feed._interval = 0.0
    host, _, port = app.url.removeprefix("http://").partition(":")
    with socket.socket() as viewer:
        viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        viewer.setblocking(False)
        await asyncio.get_running_loop().sock_connect(viewer, (host, int(port)))
        await asyncio.get_running_loop().sock_sendall(
            viewer, b"GET /dashboard/feed HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        await until(lambda: feed.viewers == 1, "it looks")
        async with asyncio.timeout(30):
            while feed.viewers:
                await asyncio.sleep(0.05)


async def test_findings_are_shown_and_nothing_of_a_users(app, session):
    optimizer = QueryOptimizer.get_instance()
    await optimizer.record_execution("SELECT * FROM users WHERE name = 'hunter2'", 2_500.0)

    async def fetch(query, params):
        return [(params,)]

    with optimizer.request():
        for number in range(20):
            await optimizer.execute("SELECT * FROM files WHERE owner = ?", (f"hunter{number}",), fetch)
    async with session.get(f"{app.url}/dashboard/feed") as one:
        state = await next_state(one)
    [slow] = state["slow"]
    assert slow["max_ms"] == 2_500.0
    assert "users" in slow["query"]
    [pattern] = state["n_plus_one"]
    assert pattern["count"] >= 10
    assert any("Slow query" in event["text"] for event in state["events"])
    assert "hunter" not in json.dumps(state)
    assert {service["key"]: service["state"] for service in state["services"]}["query_optimizer"] == "on"
    assert len(state["headlines"]) == 6


async def test_a_clock_that_is_set_back_does_not_stop_the_stream(clock):
    feed = Feed(phase4_library(), EventLog(), lambda: 0.0, clock=clock)
    stream = feed.stream()
    await anext(stream)
    ahead = asyncio.ensure_future(anext(stream))
    await clock.advance(0)
    before = sample(await ahead)
    clock.shift_wall(-3600)
    later = asyncio.ensure_future(anext(stream))
    await clock.advance(2)
    after = sample(await later)
    assert after["time"] < before["time"]
    assert after["history"]["t"] == [after["time"]], "nothing lies ahead of the present"
    await stream.aclose()
    feed.close()


def sample(event):
    return json.loads(event.decode().partition("data: ")[2])


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[" * 4_000, b'{"token": 7}', b"no json"])
def test_what_is_no_token_is_refused_whatever_it_is(service, body):
    status, _, text = get(service, "/dashboard/access", "POST", body, Content_Type="text/plain; charset=foo")
    assert status in (400, 401, 413)
    assert json.loads(text)["error"]["code"] in ("bad_request", "wrong_token", "too_large")


def test_metrics_without_a_token_answer_to_no_name_from_elsewhere(service):
    assert get(service, "/metrics")[0] == 200
    assert get(service, "/metrics", Host="evil.example:8000")[0] == 403


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=abc", "text/plain; version=1.x.y"])
def test_metrics_are_told_in_the_usual_format_to_who_asks_for_none_there_is(service, accept):
    status, headers, _ = get(service, "/metrics", Accept=accept)
    assert (status, headers.get_content_type()) == (200, "text/plain")
