"""The running service, over HTTP."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from bot.service.data_api import MOST_FOUND
from bot.service.serving import DRAIN_SECONDS
from bot.service.upload_api import LEFTOVER_SECONDS
from tests.service.conftest import Service


def test_the_second_read_comes_from_the_cache(service):
    before = service.call("/health").body["phase4"]["query_optimizer"]["cache_hits"]
    first = service.call("/api/data?user_id=1")
    second = service.call("/api/data?user_id=1")
    assert (first.status, first.headers["X-Cache"]) == (200, "miss")
    assert (second.status, second.headers["X-Cache"]) == (200, "hit")
    assert first.body == second.body
    assert first.body["user"]["id"] == 1
    assert len(first.body["recent"]) == 10
    assert service.call("/health").body["phase4"]["query_optimizer"]["cache_hits"] == before + 3


def test_totals_and_search(service):
    body = service.call("/api/data").body
    assert {row["kind"] for row in body["by_kind"]} == {"video", "audio", "archive", "image", "document"}
    found = service.call("/api/data?search=debian").body["files"]
    assert 0 < len(found) <= 20
    assert all("debian" in row["name"] for row in found)
    assert service.call("/api/data?search=100%25_").body["files"] == [], "wildcards are taken literally"


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/api/data?user_id=0", 400, "user_id = '0'"),
        ("/api/data?user_id=-1", 400, "whole number"),
        ("/api/data?user_id=1%27%20OR%201=1", 400, "whole number"),
        ("/api/data?user_id=%C2%B2", 400, "whole number"),
        ("/api/data?user_id=99999999999999999999999", 400, "whole number"),
        ("/api/data?user_id=9000000000", 404, "no user 9000000000"),
        ("/api/data?user_id=1&search=ab", 400, "not both"),
        ("/api/data?user=1", 400, "user: unknown"),
        ("/api/data?search=a", 400, "2 to 64"),
        ("/api/data?search=a%00b", 400, "no control characters"),
        ("/api/data?search=" + "a" * 65, 400, "2 to 64"),
        ("/nowhere", 404, "No such path"),
    ],
)
def test_bad_input_is_answered_in_json_with_the_request_id(service, path, status, word):
    answer = service.call(path)
    assert answer.status == status
    assert word in answer.body["error"]["message"]
    assert answer.body["request_id"] == answer.headers["X-Request-Id"]


def test_a_method_that_is_not_allowed_says_which_are(service):
    answer = service.call("/api/data", method="DELETE")
    assert (answer.status, answer.body["error"]["code"]) == (405, "method_not_allowed")
    assert "GET" in answer.headers["Allow"]


def test_a_request_id_fit_for_a_log_is_kept_and_another_is_not(service):
    assert service.call("/api", X_Request_Id="abc-1").headers["X-Request-Id"] == "abc-1"
    assert service.call("/api", X_Request_Id="a b; c").headers["X-Request-Id"] != "a b; c"


def test_five_uploads_pass_and_the_sixth_is_told_when_to_come_back(service):
    answers = []
    while sum(answer.status == 429 for answer in answers) < 2:  # a slow machine lets more pass meanwhile
        answers.append(service.call(f"/api/upload?user_id={1001 + len(answers)}", source="127.0.1.1"))
        assert len(answers) < 500
    refused = [answer for answer in answers if answer.status == 429]
    assert [answer.status for answer in answers[:5]] == [200] * 5
    assert answers[0].headers["X-RateLimit-Limit"] == "5"
    assert answers[0].headers["X-RateLimit-Remaining"] == "4"
    for answer in refused:
        assert answer.headers["Retry-After"] == "1", "a burst costs the refill time"
        assert 0 < answer.body["error"]["retry_after"] <= 0.5
    other = service.call("/api/upload?user_id=1001", source="127.0.1.2")
    assert other.status == 200, "whoever names a user, it is the address that is limited"
    assert service.call("/health").body["phase4"]["rate_limiter"]["total_blocked"] >= 2


def test_an_upload_keeps_the_searches_that_it_cannot_change(data_dir):
    service = Service(data_dir, ENABLE_CACHE_MANAGER="1")
    service.start()
    try:
        full, narrow = "/api/data?search=debian", "/api/data?search=debian%20of%20ours"
        assert len(service.call(full).body["files"]) == MOST_FOUND
        assert service.call(narrow).body["files"] == []
        name = "debian%20of%20ours.iso"
        uploaded = service.call(f"/api/upload?user_id=8&name={name}", method="POST", body=b"bytes")
        assert uploaded.status == 201
        assert service.call(full).headers["X-Cache"] == "hit", "a new file would stand behind the 20 it shows"
        found = service.call(narrow)
        assert (found.headers["X-Cache"], len(found.body["files"])) == ("miss", 1)
    finally:
        service.close()


def test_an_upload_is_stored_under_its_digest_and_found_at_once(service):
    content = b"some bytes" * 1000
    before = service.call("/api/data?search=my%20upload").body["files"]
    target = "/api/upload?user_id=7&name=my%20upload.pdf"
    answer = service.call(target, method="POST", body=content, source="127.0.1.3")
    assert answer.status == 201
    digest = hashlib.sha256(content).hexdigest()
    assert (answer.body["size_bytes"], answer.body["sha256"]) == (10_000, digest)
    assert (service.data_dir / "uploads" / digest).read_bytes() == content
    after = service.call("/api/data?search=my%20upload")
    assert len(after.body["files"]) == len(before) + 1, "the write dropped the cached search"
    assert after.body["files"][-1]["name"] == "my upload.pdf"


@pytest.mark.parametrize(
    ("query", "body", "status", "word"),
    [
        ("name=../../etc/passwd", b"x", 400, "name: expected"),
        ("", b"x", 400, "name: expected"),
        ("name=a.pdf", b"", 400, "empty"),
        ("name=a.pdf&user_id=9000000000", b"x", 404, "no user"),
        ("name=a.pdf", b"x" * (16 * 1024 * 1024 + 1), 413, "at most"),
    ],
)
def test_a_bad_upload_leaves_nothing(service, query, body, status, word):
    uploads = service.data_dir / "uploads"
    before = set(uploads.glob("*"))
    # A client of its own: the limit is not what is tested here.
    own = f"127.0.2.{len(query) + len(body) % 3 + 1}"
    try:
        answer = service.call(f"/api/upload?{query}", method="POST", body=body, source=own)
    except OSError:
        assert status == 413, "only a refused large body may be cut off while it is sent"
    else:
        assert answer.status == status
        assert word in answer.body["error"]["message"]
    assert set(uploads.glob("*")) == before


def test_an_upload_that_the_database_does_not_take_leaves_nothing(own_service):
    own_service.start()
    database = sqlite3.connect(own_service.data_dir / "phase4.db", isolation_level=None)
    with contextlib.closing(database):
        database.execute("BEGIN IMMEDIATE")
        answer = own_service.call("/api/upload?name=orphan.pdf", method="POST", body=b"nobody's")
    assert answer.status == 503
    digest = hashlib.sha256(b"nobody's").hexdigest()
    assert not [
        file for file in own_service.data_dir.glob("uploads/*") if file.name in (digest,) or file.suffix
    ]
    assert own_service.call("/api/upload?name=orphan.pdf", method="POST", body=b"nobody's").status == 201
    assert (own_service.data_dir / "uploads" / digest).read_bytes() == b"nobody's"


@pytest.mark.parametrize("path", ["/api/execute", "/api/batch", "/api/upload?name=a.pdf&user_id=1777"])
def test_a_body_that_is_not_what_its_headers_say_is_the_clients_fault(service, path):
    answer = service.call(path, method="POST", body=b"not gzip", Content_Encoding="gzip", source="127.0.1.4")
    assert (answer.status, answer.body["error"]["code"]) == (400, "bad_request")


def test_a_client_that_stops_sending_its_upload_is_told_so(data_dir):
    slow = Service(data_dir)
    slow.command = lambda: [
        "-c",
        "import sys; from bot.service import cli, bodies; bodies.READ_SECONDS = 0.3; "
        f"sys.exit(cli.main(['--port', '{slow.port}', '--data-dir', {str(data_dir)!r}]))",
    ]
    slow.start()
    try:
        with socket.create_connection(("127.0.0.1", slow.port), timeout=20) as client:
            client.sendall(
                b"POST /api/upload?name=a.pdf HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf"
            )
            assert client.recv(100).startswith(b"HTTP/1.1 408")
        assert not list(data_dir.glob("uploads/*.part"))
    finally:
        slow.close()


def test_what_a_killed_process_left_of_an_upload_is_removed_at_the_next_start(tmp_path, data_dir):
    folder = tmp_path / "uploads"
    folder.mkdir()
    old, young, stored = (folder / name for name in ("old.part", "young.part", "0" * 64))
    for path in (old, young, stored):
        path.write_bytes(b"x")
    long_ago = time.time() - LEFTOVER_SECONDS - 1
    os.utime(old, (long_ago, long_ago))
    os.utime(stored, (long_ago, long_ago))
    shutil.copy(data_dir / "phase4.db", tmp_path / "phase4.db")
    service = Service(tmp_path)
    service.start()
    service.close()
    assert sorted(folder.iterdir()) == sorted([young, stored])


def test_load_from_a_hundred_clients_at_once_is_answered(service):
    failures = []

    def client(number):
        for turn in range(3):
            answer = service.call(f"/api/data?user_id={(number * 7 + turn) % 50 + 1}")
            if answer.status != 200:
                failures.append(answer)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert service.call("/health").body["status"] == "ok"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_exits_0(own_service, number):
    own_service.start()
    assert own_service.stop(number) == 0
    assert "Stopped." in own_service.output
    assert "Traceback" not in own_service.output


def test_a_request_in_progress_is_finished_before_the_end(own_service):
    own_service.start()
    body = b"x" * 100_000
    with socket.create_connection(("127.0.0.1", own_service.port)) as client:
        head = f"POST /api/upload?name=slow.pdf HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body[:50_000])
        time.sleep(0.3)  # the request is in the handler
        own_service.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        client.sendall(body[50_000:])
        client.settimeout(DRAIN_SECONDS)
        answer = client.recv(65_536).decode()
    assert answer.startswith("HTTP/1.1 201")
    assert own_service.process.wait(timeout=DRAIN_SECONDS + 5) == 0


@pytest.mark.parametrize("path", ["/api/batch", "/api/upload?name=cut.pdf"])
def test_a_client_that_hangs_up_is_one_line_of_the_log(own_service, path):
    own_service.start()
    with socket.create_connection(("127.0.0.1", own_service.port)) as client:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Request-Id: cut-short\r\nContent-Length: 1000\r\n\r\n"
        client.sendall(head.encode() + b'{"items"')
        time.sleep(0.3)  # the request is in the handler
    assert own_service.stop(signal.SIGTERM) == 0
    [line] = [line for line in own_service.output.splitlines() if "cut-short" in line]
    assert " INFO " in line
    assert line.endswith(f"POST {path}: the client hung up [cut-short]")
    assert "Traceback" not in own_service.output


def test_a_taken_port_is_a_clear_message(service, data_dir):
    second = Service(data_dir)
    second.port = service.port
    second.start(wait=False)
    output = second.finish()
    assert second.process.returncode == 1
    assert f"127.0.0.1:{service.port} is already in use" in output
    assert "--port" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(("port", "words"), [("70000", "expected a port"), ("many", "expected a port")])
def test_a_bad_port_of_the_environment_is_named(data_dir, port, words):
    import os
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "bot", "--data-dir", str(data_dir)],
        capture_output=True, text=True, env={**os.environ, "PORT": port}, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"PORT = '{port}'" in done.stderr
    assert words in done.stderr


def test_it_runs_on_uvloop_where_it_is_asked_to(data_dir):
    pytest.importorskip("uvloop")
    service = Service(data_dir, PHASE4_LOOP="uvloop")
    service.start()
    try:
        maps = Path(f"/proc/{service.process.pid}/maps")
        assert not maps.exists() or "/uvloop/" in maps.read_text()  # Linux has them
        states = [service.call("/api/data?user_id=1").headers["X-Cache"] for _ in range(2)]
        assert states == ["miss", "hit"]
        assert service.stop(signal.SIGTERM) == 0
        assert "Traceback" not in service.output
    finally:
        service.close()


def test_an_unknown_loop_is_a_clear_message(data_dir):
    service = Service(data_dir, PHASE4_LOOP="trio")
    service.start(wait=False)
    assert service.finish().strip() == "--loop or PHASE4_LOOP = 'trio': expected asyncio or uvloop"
    assert service.process.returncode == 2


def test_with_every_flag_off_the_service_answers_the_same(service, data_dir):
    plain = Service(data_dir, ENABLE_QUERY_OPTIMIZER="0", ENABLE_RATE_LIMITER="0")
    plain.start()
    try:
        answer = plain.call("/api/data?user_id=1")
        assert (answer.status, answer.headers["X-Cache"]) == (200, "off")
        assert answer.body == service.call("/api/data?user_id=1").body
        assert [plain.call("/api/upload").status for _ in range(7)] == [200] * 7
        assert plain.call("/health").body["phase4"]["services"] == {}
    finally:
        plain.close()


def test_a_service_that_cannot_start_is_logged_and_the_rest_runs(data_dir):
    broken = Service(data_dir, RATE_LIMIT_DEFAULT_RPS="-1")
    broken.start()
    try:
        assert broken.call("/api/data?user_id=1").status == 200
        assert broken.stop() == 0
        assert "RATE_LIMIT_DEFAULT_RPS = -1" in broken.output
    finally:
        broken.close()


def test_the_log_tells_each_request_once(own_service):
    own_service.start()
    request_id = own_service.call("/api/data?user_id=2").headers["X-Request-Id"]
    own_service.stop()
    [line] = [line for line in own_service.output.splitlines() if request_id in line]
    assert "GET /api/data?user_id=2 200" in line
    assert "cache=miss" in line


def test_health_counts_what_is_open(service):
    figures = service.call("/health").body["phase4"]["process"]
    for _ in range(20):
        service.call("/api/data?user_id=3")
    after = service.call("/health").body["phase4"]["process"]
    assert after["open_fds"] <= figures["open_fds"] + 2
    assert json.dumps(after)


def test_two_processes_share_answers_and_hear_of_each_others_writes(data_dir, redis_url):
    both = {"ENABLE_CACHE_MANAGER": "1", "CACHE_L2_REDIS_URL": redis_url}
    first, second = Service(data_dir, **both), Service(data_dir, **both)
    try:
        first.start()
        second.start()
        name = f"shared {time.time_ns()}"
        path = f"/api/data?search={name.replace(' ', '%20')}"
        assert first.call(path).headers["X-Cache"] == "miss"
        assert second.call(path).headers["X-Cache"] == "hit", "from Redis, where the first put it"
        assert second.call(path).body["files"] == []
        upload = f"/api/upload?user_id=9&name={name.replace(' ', '%20')}.pdf"
        assert first.call(upload, method="POST", body=b"content").status == 201
        deadline = time.monotonic() + 5
        while not second.call(path).body["files"]:
            assert time.monotonic() < deadline, "the second process still serves the old answer"
        assert first.call(path).body == second.call(path).body
        status = second.call("/health").body["phase4"]["cache_manager"]
        assert status["l2_connected"] is True
        assert status["l2_hits"] >= 1
    finally:
        first.close()
        second.close()


def test_redis_that_goes_away_is_a_slower_answer_and_no_error(data_dir, redis_server):
    running = Service(data_dir, ENABLE_CACHE_MANAGER="1", CACHE_L2_REDIS_URL=redis_server.url)
    try:
        running.start()
        assert running.call("/api/data?user_id=4").status == 200
        redis_server.kill()
        for user in range(5, 15):
            assert running.call(f"/api/data?user_id={user}").status == 200
        assert running.call("/health").body["phase4"]["cache_manager"]["degraded"] is True
        assert running.stop() == 0
        assert running.output.count("going on without it") == 1
    finally:
        running.close()


def test_polls_of_health_are_not_logged(own_service):
    own_service.start()
    for _ in range(5):
        assert own_service.call("/health").status == 200
    own_service.call("/api/data?user_id=2")
    assert own_service.stop() == 0
    assert "GET /api/data" in own_service.output
    assert "GET /health" not in own_service.output
