"""A dashboard in somebody's bot: in its own aiohttp application, or on a port."""

import asyncio
import contextlib
import json
import logging
import socket
import subprocess
import sys
import threading
from unittest.mock import Mock

import pytest
from aiohttp import ClientSession, ClientTimeout, CookieJar, TCPConnector, web
from aiohttp.test_utils import make_mocked_request

from bot.core._shared.errors import InvalidArgumentError
from bot.core.enhanced_startup_phase4 import (
    initialize_phase4_services,
    mount_phase4,
    shutdown_phase4_services,
)
from bot.core.phase4_admin.access import Access
from bot.core.phase4_admin.api_errors import ApiError
from bot.core.phase4_admin.feed import MAX_OF_ONE
from tests.support.servers import free_port

TOKEN = "correct-horse-battery-staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(autouse=True)
async def ended():
    yield
    await shutdown_phase4_services()


@pytest.fixture
async def session():
    async with ClientSession(timeout=ClientTimeout(total=20), cookie_jar=CookieJar(unsafe=True)) as made:
        yield made


@contextlib.asynccontextmanager
async def serving(app, host="127.0.0.1"):
    """A host's application, and its address."""
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, host, 0)
    await site.start()
    try:
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def told(session, url, method="GET", **options):
    async with session.request(method, url, **options) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if answer.content_type == "application/json" else text


class HostError(Exception):
    """What the host answers in its own way."""


@web.middleware
async def own_pages(request, handler):
    """A host that has a page of its own for every error, and asks everybody for a header."""
    if request.headers.get("X-Host") == "no":
        return web.Response(status=418)
    try:
        response = await handler(request)
    except web.HTTPException as error:
        return web.Response(status=error.status, text="the host's own page")
    response.headers["X-Host-Saw"] = "yes"
    return response


async def test_a_host_keeps_its_paths_and_its_middlewares(session):
    async def own_health(_):
        return web.Response(text="the host's own")

    app = web.Application(middlewares=[own_pages])
    app.router.add_get("/health", own_health)
    app.router.add_get("/{anything:.*}", own_health)
    mounted = await mount_phase4(app, name="Бот №1")
    assert mounted.url == "/phase4/"
    async with serving(app) as url:
        assert await told(session, f"{url}/health") == (200, "the host's own")
        status, page = await told(session, f"{url}/phase4")
        assert status == 200
        assert "<!doctype html>" in page, "the path without its slash leads to the page"
        for file in ("dashboard.css", "dashboard.js", "icon.svg"):
            assert (await told(session, f"{url}/phase4/dashboard/{file}"))[0] == 200
        status, health = await told(session, f"{url}/phase4/health")
        assert (status, health["status"], health["phase4"]["services"]) == (200, "ok", {})
        assert (await told(session, f"{url}/phase4/dashboard/snapshot"))[1]["bot"] == "Бот №1"
        assert "phase4_info" in (await told(session, f"{url}/phase4/metrics"))[1]
        assert (await told(session, f"{url}/phase4/health", headers={"X-Host": "no"}))[0] == 418
        status, refused = await told(
            session, f"{url}/phase4/metrics", headers={"Origin": "http://evil.example"}
        )
        assert (status, refused["error"]["code"]) == (403, "foreign_origin"), "an answer, not the host's page"


async def test_services_may_start_before_or_after_and_stop_meanwhile(session):
    app = web.Application()
    mount_phase4(app)
    await initialize_phase4_services({"ENABLE_CACHE_MANAGER": True})
    async with serving(app) as url:
        running = (await told(session, f"{url}/phase4/health"))[1]["phase4"]["services"]
        assert "cache_manager" in running
        await initialize_phase4_services({"ENABLE_RATE_LIMITER": True, "ENABLE_CACHE_MANAGER": False})
        running = (await told(session, f"{url}/phase4/health"))[1]["phase4"]["services"]
        assert "rate_limiter" in running
        assert "cache_manager" not in running
        await shutdown_phase4_services()
        assert (await told(session, f"{url}/phase4/health"))[1]["phase4"]["services"] == {}


async def test_two_mounts_in_one_application_each_with_its_own_token(session):
    app = web.Application()
    mount_phase4(app, token=TOKEN)
    mount_phase4(app, prefix="/другой", token="another-token-of-some-length")
    async with serving(app) as url:
        assert (await told(session, f"{url}/phase4/metrics", headers=BEARER))[0] == 200
        assert (await told(session, f"{url}/другой/metrics", headers=BEARER))[0] == 401
        for base, token in (("phase4", TOKEN), ("другой", "another-token-of-some-length")):
            signing = f"{url}/{base}/dashboard/access"
            assert (await told(session, signing, "POST", json={"token": token}))[0] == 204
        # One browser, one jar of cookies: signing in to the second has not signed out of the first.
        for base in ("phase4", "другой"):
            known = await told(session, f"{url}/{base}/dashboard/access")
            assert known == (200, {"needed": True, "granted": True})
        async with session.get(f"{url}/другой", allow_redirects=False) as answer:
            assert answer.status == 308
            assert answer.headers["Location"].isascii()
        assert "<!doctype html>" in (await told(session, f"{url}/другой"))[1]


@pytest.mark.parametrize("prefix", ["phase4", "/a b", "/{id}", "/a?b", "/a//b", "/a\n", 7])
def test_a_prefix_that_is_no_path_is_refused(prefix):
    with pytest.raises(InvalidArgumentError, match="prefix = "):
        mount_phase4(web.Application(), prefix=prefix)


def test_a_path_that_is_taken_is_named_and_nothing_is_added():
    app = web.Application()
    mount_phase4(app)
    before = len(app.router.routes())
    with pytest.raises(InvalidArgumentError, match="GET /phase4 is already served"):
        mount_phase4(app)
    assert len(app.router.routes()) == before
    app.router.add_get("/own/health", own_pages)
    with pytest.raises(InvalidArgumentError, match="GET /own/health is already served"):
        mount_phase4(app, prefix="/own/")
    mount_phase4(app, prefix="/")


async def test_an_application_within_the_hosts(session):
    app, inner = web.Application(), web.Application()
    mount_phase4(inner)
    app.add_subapp("/inner", inner)
    async with serving(app) as url:
        assert "<!doctype html>" in (await told(session, f"{url}/inner/phase4"))[1]
        assert (await told(session, f"{url}/inner/phase4/dashboard/snapshot"))[0] == 200
        assert (await told(session, f"{url}/phase4/health"))[0] == 404


async def test_an_application_that_has_started_takes_no_more():
    app = web.Application()
    async with serving(app):
        with pytest.raises(InvalidArgumentError, match="before its start, or on a port"):
            mount_phase4(app)


def test_an_address_goes_with_a_port():
    with pytest.raises(InvalidArgumentError, match=r"host = .0\.0\.0\.0"):
        mount_phase4(web.Application(), host="0.0.0.0")


@pytest.mark.parametrize("target", ["8081", None, 70_000, -1, True, 80.5, object()])
async def test_what_is_neither_an_application_nor_a_port_is_refused(target):
    with pytest.raises(InvalidArgumentError, match="target = "):
        await mount_phase4(target)


async def test_a_wrong_token_opens_nothing_and_is_not_quoted(session, caplog):
    app = web.Application()
    mounted = mount_phase4(app, token=TOKEN)
    async with serving(app) as url:
        assert await told(session, f"{url}/phase4/health") == (200, {"status": "ok"})
        for headers in ({}, {"Authorization": "Bearer wrong-Ключ"}, {"Authorization": f"Basic {TOKEN}"}):
            for path in ("metrics", "dashboard/feed", "dashboard/snapshot", "dashboard/history?seconds=600"):
                status, answer = await told(session, f"{url}/phase4/{path}", headers=headers)
                assert (status, answer["error"]["code"]) == (401, "token_needed")
        wrong = await told(session, f"{url}/phase4/dashboard/access", "POST", json={"token": "guessed"})
        assert (wrong[0], wrong[1]["error"]["code"]) == (401, "wrong_token")
        forged = {"Cookie": f"{mounted.admin.access.cookie}=9999999999.1.00"}
        assert (await told(session, f"{url}/phase4/dashboard/feed", headers=forged))[0] == 401
        assert (await told(session, f"{url}/phase4/health", headers=BEARER))[1]["phase4"]["services"] == {}
    assert TOKEN not in caplog.text
    with pytest.raises(InvalidArgumentError) as refused:
        mount_phase4(web.Application(), token="too short")
    assert "too short" not in str(refused.value)


async def test_the_token_of_the_settings_is_asked_for(session, monkeypatch):
    monkeypatch.setenv("PHASE4_DASHBOARD_TOKEN", TOKEN)
    app = web.Application()
    mount_phase4(app)
    async with serving(app) as url:
        assert (await told(session, f"{url}/phase4/metrics"))[0] == 401
        assert (await told(session, f"{url}/phase4/metrics", headers=BEARER))[0] == 200


async def test_without_a_token_only_this_machine_is_answered(session):
    app = web.Application()
    mount_phase4(app)
    async with serving(app) as url:
        foreign = await told(session, f"{url}/phase4/health", headers={"Origin": "https://evil.example"})
        assert foreign == (200, {"status": "ok"}), "a host may allow every page to read its answers"
        for headers in ({"Host": "bot.example"}, {"X-Forwarded-For": "203.0.113.5"}, {"Via": "1.1 proxy"}):
            assert await told(session, f"{url}/phase4/health", headers=headers) == (200, {"status": "ok"})
            for path in ("metrics", "dashboard/feed", "dashboard/access"):
                status, answer = await told(session, f"{url}/phase4/{path}", headers=headers)
                assert (status, answer["error"]["code"]) == (403, "loopback_only")


@pytest.mark.parametrize("peer", ["203.0.113.5", "172.17.0.1", "2001:db8::1", ""])
def test_a_peer_elsewhere_is_not_local_whatever_name_it_asks_by(peer):
    transport = Mock()
    transport.get_extra_info = lambda name, default=None: (peer, 1) if name == "peername" else default
    access = Access("127.0.0.1")
    asked = make_mocked_request("GET", "/", headers={"Host": "localhost"}, transport=transport)
    assert not access.may_look(asked)
    with pytest.raises(ApiError) as refused:
        access.check_name(asked)
    assert refused.value.code == "loopback_only"


async def test_a_page_of_another_site_is_refused_with_the_token_too(session):
    app = web.Application()
    mount_phase4(app, token=TOKEN)
    async with serving(app) as url:
        signing = f"{url}/phase4/dashboard/access"
        for foreign in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            for method, path in (("GET", f"{url}/phase4/metrics"), ("POST", signing), ("DELETE", signing)):
                status, answer = await told(session, path, method, headers={**BEARER, **foreign})
                assert (status, answer["error"]["code"]) == (403, "foreign_origin")
        # Behind a proxy by https, which says under which name it was asked for.
        proxied = {"Origin": "https://bot.example", "Host": "bot.example", "X-Forwarded-Proto": "https"}
        async with session.post(signing, json={"token": TOKEN}, headers=proxied) as answer:
            assert answer.status == 204
            assert "Secure" in answer.headers["Set-Cookie"]


async def test_the_hosts_own_check_decides_what_health_says(session):
    trouble = "the webhook is not set"

    async def check():
        if trouble == "raise":
            raise HostError("boom")
        return trouble

    async def figures():
        return {"updates": 7}

    app = web.Application()
    mount_phase4(app, token=TOKEN, health=check, figures=figures)
    async with serving(app) as url:
        assert await told(session, f"{url}/phase4/health") == (503, {"status": "down"})
        status, health = await told(session, f"{url}/phase4/health", headers=BEARER)
        assert (status, health["status"], health["reason"]) == (503, "down", "the webhook is not set")
        assert health["updates"] == 7
        trouble = "raise"
        status, health = await told(session, f"{url}/phase4/health", headers=BEARER)
        assert (status, health["reason"]) == (503, "the host's check failed: HostError: boom")
        trouble = ""
        assert await told(session, f"{url}/phase4/health") == (200, {"status": "ok"})


async def test_a_port_of_its_own_until_the_shutdown(session):
    mounted = await mount_phase4(0)
    assert mounted.url == f"http://127.0.0.1:{mounted.port}/"
    other = await mount_phase4(0, prefix="/bot")
    assert (await told(session, f"{mounted.url}health"))[1]["status"] == "ok"
    assert (await told(session, f"{other.url}health"))[1]["status"] == "ok"
    await other.close()
    await other.close()
    assert refuses(other.port)
    assert (await told(session, f"{mounted.url}metrics"))[0] == 200
    await shutdown_phase4_services()
    assert refuses(mounted.port)


async def until(holds):
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


def refuses(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def test_a_port_that_is_taken_is_an_error_of_the_call_and_a_warning_of_the_setting(session):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port} is already in use"):
            await mount_phase4(port)
        report = await initialize_phase4_services(
            {"ENABLE_CACHE_MANAGER": True, "PHASE4_DASHBOARD_PORT": port}
        )
    assert report["success"]
    assert "CacheManager" in report["services_initialized"]
    [warning] = [text for text in report["warnings"] if "PHASE4_DASHBOARD_PORT" in text]
    assert f"127.0.0.1:{port} is already in use" in warning
    # And again, when it is free.
    settings = {"ENABLE_CACHE_MANAGER": True, "PHASE4_DASHBOARD_PORT": port}
    assert (await initialize_phase4_services(settings))["warnings"] == []
    assert (await told(session, f"http://127.0.0.1:{port}/health"))[0] == 200
    streams = await session.get(f"http://127.0.0.1:{port}/dashboard/feed")
    assert (await initialize_phase4_services(settings))["warnings"] == []
    assert not streams.content.at_eof(), "the same settings again: it goes on"
    elsewhere = free_port()
    await initialize_phase4_services({**settings, "PHASE4_DASHBOARD_PORT": elsewhere})
    assert refuses(port)
    assert (await told(session, f"http://127.0.0.1:{elsewhere}/health"))[0] == 200
    await initialize_phase4_services({**settings, "PHASE4_DASHBOARD_PORT": 0})
    assert refuses(elsewhere)
    streams.close()


async def test_other_machines_need_a_token():
    with pytest.raises(InvalidArgumentError, match="needs a token"):
        await mount_phase4(0, host="0.0.0.0")
    mounted = await mount_phase4(0, host="0.0.0.0", token=TOKEN)
    assert mounted.url.startswith("http://localhost:")
    port = free_port()
    settings = {"PHASE4_DASHBOARD_PORT": port, "PHASE4_DASHBOARD_HOST": "0.0.0.0"}
    [warning] = (await initialize_phase4_services(settings))["warnings"]
    assert "needs a token" in warning
    settings["PHASE4_DASHBOARD_TOKEN"] = "short"
    [warning] = (await initialize_phase4_services(settings))["warnings"]
    assert "at least 16" in warning
    assert "'short'" not in warning


async def test_open_feeds_do_not_hold_up_the_end(session):
    mounted = await mount_phase4(0)
    streams = [await session.get(f"{mounted.url}dashboard/feed") for _ in range(3)]
    for stream in streams:
        assert (await stream.content.readline()).startswith(b"retry")
    async with asyncio.timeout(5):
        await shutdown_phase4_services()
    for stream in streams:
        await stream.content.read()
    app = web.Application()
    mount_phase4(app)
    async with serving(app) as url:
        stream = await session.get(f"{url}/phase4/dashboard/feed")
        assert (await stream.content.readline()).startswith(b"retry")
    await stream.content.read()


async def test_four_hundred_feeds_leave_room_for_the_rest(session):
    mounted = await mount_phase4(0, token=TOKEN)

    async def look():
        async with crowd.get(f"{mounted.url}dashboard/feed", headers=BEARER) as stream:
            await stream.content.read()

    async with ClientSession(connector=TCPConnector(limit=0)) as crowd:
        looking = [asyncio.create_task(look()) for _ in range(400)]
        # All but the last few are ended or refused, each for a later one of the same client.
        await until(lambda: sum(task.done() for task in looking) >= 400 - MAX_OF_ONE)
        assert mounted.admin.feed.viewers <= MAX_OF_ONE
        assert (await told(session, f"{mounted.url}health", headers=BEARER))[0] == 200
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)


SETTINGS = "{'ENABLE_CACHE_MANAGER': True, 'ENABLE_RATE_LIMITER': True, 'PHASE4_DASHBOARD_PORT': %d}"


def apart(prepare, port, then):
    """What another process prints that starts the services."""
    code = (
        f"import asyncio, sys; {prepare}; from bot.core.enhanced_startup_phase4 import *; "
        f"report = asyncio.run(initialize_phase4_services({SETTINGS % port})); {then}"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return shown.stdout.strip()


@pytest.mark.server
def test_what_is_not_mounted_is_not_imported():
    loaded = apart("pass", 0, "print(*sys.modules)").split()
    assert not [
        name for name in loaded if name.startswith(("aiohttp", "prometheus", "bot.core.phase4_admin"))
    ]


@pytest.mark.server
def test_without_aiohttp_the_services_run_and_the_report_says_what_to_install():
    said = apart("sys.modules['aiohttp'] = None", 18_000, "print(report['success'], report['warnings'])")
    assert said.startswith("True")
    assert "pip install aiohttp" in said


async def test_a_mount_leaves_no_handler_of_the_log_behind():
    log = logging.getLogger("bot.core")
    before = list(log.handlers)
    mounted = await mount_phase4(0)
    assert len(log.handlers) == len(before) + 1
    await mounted.close()
    assert log.handlers == before


async def test_a_mount_that_is_cancelled_on_the_way_leaves_nothing():
    """At whichever of its awaits."""
    log = logging.getLogger("bot.core")
    handlers = list(log.handlers)
    port = free_port()
    for steps in range(60):
        mounting = asyncio.ensure_future(mount_phase4(port))
        for _ in range(steps):
            await asyncio.sleep(0)
        if mounting.done():
            break
        mounting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await mounting
            await shutdown_phase4_services()  # it was there before it heard of the cancellation
        assert refuses(port)
        assert log.handlers == handlers
    assert mounting.done()
    # uvloop opens a port on an address without a suspension.
    assert steps > (0 if type(asyncio.get_running_loop()).__module__ == "uvloop" else 1)
    await shutdown_phase4_services()
    assert refuses(port)
    assert log.handlers == handlers


def run_on_another_loop(kind, work):
    if kind == "uvloop":
        uvloop = pytest.importorskip("uvloop")
        return uvloop.run(work)
    return asyncio.run(work)


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_port_is_served_again_when_its_event_loop_has_ended_without_a_shutdown(kind):
    port = free_port()

    async def serve():
        mounted = await mount_phase4(port)
        async with ClientSession() as session:
            return await told(session, f"{mounted.url}health")

    for _ in range(2):
        status, health = run_on_another_loop(kind, serve())
        assert (status, health["status"]) == (200, "ok")
    asyncio.run(shutdown_phase4_services())
    assert refuses(port)


async def test_a_host_may_serve_from_another_thread_than_its_bot(session):
    await initialize_phase4_services({"ENABLE_QUERY_OPTIMIZER": True})
    up, stop = threading.Event(), threading.Event()
    found = {}

    def serve():
        async def main():
            app = web.Application()
            mount_phase4(app)
            async with serving(app) as url:
                found["url"] = url
                up.set()
                await asyncio.to_thread(stop.wait)

        asyncio.run(main())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        await asyncio.to_thread(up.wait)
        services = (await told(session, f"{found['url']}/phase4/health"))[1]["phase4"]["services"]
        assert "query_optimizer" in services
        assert "phase4_query_cache_hits" in (await told(session, f"{found['url']}/phase4/metrics"))[1]
        assert (await told(session, f"{found['url']}/phase4/dashboard/snapshot"))[1]["services"]
    finally:
        stop.set()
        await asyncio.to_thread(thread.join)


async def test_metrics_without_their_package_are_one_sentence(session, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client.exposition", None)
    mounted = await mount_phase4(0)
    status, answer = await told(session, f"{mounted.url}metrics")
    assert status == 501
    assert "pip install prometheus-client" in answer["error"]["message"]
    assert (await told(session, f"{mounted.url}health"))[0] == 200


async def test_the_page_calls_the_bot_by_the_call_the_setting_or_its_folder(session, monkeypatch, tmp_path):
    folder = tmp_path / "Мой бот"
    folder.mkdir()
    monkeypatch.chdir(folder)
    app = web.Application()
    mount_phase4(app, prefix="/folder")
    monkeypatch.setenv("PHASE4_DASHBOARD_NAME", " Files bot\n ")
    mount_phase4(app, prefix="/setting")
    mount_phase4(app, prefix="/call", name="Bot 7")
    async with serving(app) as url:
        for path, name in (("folder", "Мой бот"), ("setting", "Files bot"), ("call", "Bot 7")):
            assert (await told(session, f"{url}/{path}/dashboard/snapshot"))[1]["bot"] == name
