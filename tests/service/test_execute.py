"""``/api/execute``, what peers call."""

import json

import pytest


def execute(service, body):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return service.call("/api/execute", method="POST", body=raw)


def test_data_is_what_get_answers(service):
    for arguments, query in (
        ({"user_id": 5}, "?user_id=5"),
        ({"search": "debian"}, "?search=debian"),
        ({}, ""),
    ):
        answer = execute(service, {"command": "data", **arguments})
        assert answer.status == 200
        assert answer.body == {"command": "data", "result": service.call(f"/api/data{query}").body}
        assert answer.headers["X-Cache"] in ("hit", "miss")


def test_ping(service):
    assert execute(service, {"command": "ping"}).body == {"command": "ping", "result": "pong"}


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"", 400, "expected JSON"),
        (b"{", 400, "expected JSON"),
        ([], 400, "expected JSON"),
        ({}, 400, "command"),
        ({"command": "drop"}, 400, "drop"),
        ({"command": "data", "user_id": 0}, 400, "user_id"),
        ({"command": "data", "user_id": "1"}, 400, "user_id"),
        ({"command": "data", "user_id": 1, "search": "ab"}, 400, "not both"),
        ({"command": "data", "limit": 1}, 400, "limit"),
        ({"command": "data", "search": "a"}, 400, "2 to 64"),
        ({"command": "ping", "user_id": 1}, 400, "no arguments"),
        ({"command": "data", "user_id": 9_000_000_000}, 404, "no user"),
        (b"[" * 100_000, 400, "expected JSON"),
    ],
)
def test_a_bad_command_is_refused_with_the_reason(service, body, status, word):
    answer = execute(service, body)
    assert answer.status == status
    assert word in answer.body["error"]["message"]
