"""Whose requests are taken: not those that a foreign web page has a browser send."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from bot.core.phase4_admin.access import Access
from bot.core.phase4_admin.request_guard import AllowedHosts, check_json, guard, same_origin
from bot.service.middleware import around_request

TOKEN = "a-token-of-the-operator"


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:8000", True), ("127.0.0.1:8000", True), ("[::1]:8000", True), ("[fe80::1%25eth0]", True),
        ("203.0.113.5", True), ("bot-1:8001", True), ("bot-1.internal", True), ("bot.svc.local:1", True),
        ("bot.example.com:8000", True), ("BOT.example.com.", True),
        ("rebind.example", False), ("127.0.0.1.rebind.example", False), ("localhost.example", False),
        ("bot.example.com.evil.example", False), ("", False), ("internal.example:80", False),
        ("\u0431\u043e\u0442.example", False),
    ],
)  # fmt: skip
def test_names_that_a_web_page_can_have_are_not_answered_to_unless_they_are_given(host, allowed):
    assert AllowedHosts(["bot.example.com"]).allows(host) is allowed


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://localhost:8000", "localhost:8000", True),
        ("http://bot.example.com", "bot.example.com", True),
        ("https://bot.example.com", "bot.example.com:443", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://localhost:8001", "localhost:8000", False),
        ("http://localhost.evil.example:8000", "localhost:8000", False),
        ("null", "localhost:8000", False),
        ("", "localhost:8000", False),
        ("file://", "localhost:8000", False),
        ("http://localhost:99999", "localhost:8000", False),
        ("http://[::1", "localhost:8000", False),
    ],
)
def test_origins(origin, host, same):
    assert same_origin(origin, host) is same


@pytest.fixture
async def client(request):
    access = Access("127.0.0.1", getattr(request, "param", ""))
    app = web.Application(middlewares=[around_request, guard(access, AllowedHosts())])

    async def answer(asked):
        if asked.method == "POST":
            check_json(asked)
        return web.json_response({"well": True})

    for path in ("/api/data", "/api/batch", "/health", "/metrics", "/", "/dashboard/feed"):
        app.router.add_route("*", path, answer)
    async with TestClient(TestServer(app)) as made:
        yield made


@pytest.mark.parametrize("path", ["/api/data", "/metrics", "/dashboard/feed"])
async def test_a_name_that_is_not_known_is_refused_and_told_what_to_set(client, path):
    async with client.get(path, headers={"Host": "rebind.example"}) as answer:
        assert answer.status == 403
        error = (await answer.json())["error"]
    assert error["code"] == "unknown_host"
    assert "PHASE4_ALLOWED_HOSTS" in error["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_a_foreign_page_sends_is_refused(client, method, headers):
    async with client.request(method, "/api/batch", headers=headers) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (403, "foreign_origin")


async def test_the_services_own_page_is_heard(client):
    own = {"Origin": f"http://127.0.0.1:{client.port}", "Sec-Fetch-Site": "same-origin"}
    async with client.post("/api/batch", json={}, headers=own) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200), ("application/json; charset=utf-8", 200),
        ("application/vnd.bot+json", 200),
        ("application/x-www-form-urlencoded", 200), ("application/octet-stream", 200),
        ("text/plain", 415), ("text/plain;charset=utf-8", 415), ("multipart/form-data; boundary=x", 415),
    ],
)  # fmt: skip
async def test_types_that_a_form_can_send_are_no_json(client, kind, status):
    async with client.post("/api/batch", data=b"{}", headers={"Content-Type": kind}) as answer:
        assert answer.status == status


async def test_a_browsers_form_is_not_taken_for_curl(client):
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Origin": f"http://127.0.0.1:{client.port}",
    }
    async with client.post("/api/batch", data=b"{}", headers=headers) as answer:
        assert answer.status == 415


@pytest.mark.parametrize("path", ["/", "/health"])
async def test_what_tells_nothing_is_for_everybody(client, path):
    async with client.get(path, headers={"Host": "rebind.example"}) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("client", [TOKEN], indirect=True)
async def test_who_has_the_token_may_ask_by_any_name(client):
    headers = {"Host": "bot.example.com", "Authorization": f"Bearer {TOKEN}"}
    async with client.get("/api/data", headers=headers) as answer:
        assert answer.status == 200
    async with client.get("/api/data", headers={**headers, "Authorization": "Bearer wrong"}) as answer:
        assert answer.status == 403
