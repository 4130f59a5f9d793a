"""``phase4 batch dead-letters``: an operator beside the bot's process, on a real Redis."""

import json
import subprocess
import sys

import pytest

from bot.core.batch_processor import DeadLetter
from bot.core.batch_processor.durable.values import letter_value, wanted_of
from bot.core.phase4_admin.batch_command import main
from tests.support.instances import ROOT
from tests.support.servers import RedisServer

pytestmark = pytest.mark.server

DEAD, ITEMS = "phase4:{batch:default}:dead", "phase4:{batch:default}:items"


def put(server, item_id, data, error="ValueError: no", priority=0, root=""):
    letter = DeadLetter(item_id, data, priority, 3, error, 1_700_000_000.0)
    server.execute("XADD", root + DEAD, "*", "v", letter_value(letter))


@pytest.fixture
def command(redis_server, monkeypatch, capsys, tmp_path):
    """``command("list", ...)``: exit status and what was printed; the settings come from the environment."""
    monkeypatch.setenv("BATCH_REDIS_URL", redis_server.url)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = main(["dead-letters", *arguments])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


def replayed(server):
    return [wanted_of(fields[b"v"])[:2] for _, fields in server.execute("XRANGE", ITEMS, "-", "+")]


def test_they_are_listed_the_newest_first_with_their_errors(command, redis_server):
    for n in range(3):
        put(redis_server, f"item-{n}", {"file": n}, f"OSError: disk {n}")
    status, printed = command("list", "--limit", "2")
    lines = printed.splitlines()
    assert status == 0
    assert lines[0].split() == ["DIED", "(UTC)", "ITEM", "TRIES", "ERROR"]
    assert lines[1].split() == ["2023-11-14", "22:13:20", "item-2", "3", "OSError:", "disk", "2"]
    assert lines[2].split()[2] == "item-1"
    assert lines[3] == "2 of 3 dead letters"
    assert command("list", "--offset", "3") == (0, "0 of 3 dead letters\n")
    assert json.loads(command("list", "--format", "json", "--oldest-first", "--limit", "1")[1]) == {
        "total": 3,
        "items": [
            {
                "item_id": "item-0", "at": "2023-11-14T22:13:20+00:00", "error": "OSError: disk 0",
                "attempts": 3, "priority": 0, "data": "{'file': 0}",
            }
        ],
    }  # fmt: skip


def test_one_is_shown_with_its_data(command, redis_server):
    put(redis_server, "item", {"text": "x" * 1000, "url": "redis://:secret@host/0"}, priority=7)
    status, printed = command("show", "item")
    assert status == 0
    assert "x" * 1000 in printed
    assert "secret" not in printed
    assert "priority  7" in printed
    assert command("show", "other") == (1, "no dead letter has the id other\n")


def test_some_are_replayed_and_what_was_not_is_told_by_the_exit_status(command, redis_server):
    for n in range(3):
        put(redis_server, f"item-{n}", n, priority=n)
    assert command("replay", "item-1", "item-1", "gone") == (
        1, "1 dead letter submitted again; 1 not there (any more)\n",
    )  # fmt: skip
    assert replayed(redis_server) == [("item-1", 1)]
    assert command("replay", "--all") == (0, "2 dead letters submitted again\n")
    assert redis_server.execute("XLEN", DEAD) == 0


def test_the_bots_bound_holds_here_too(command, redis_server, monkeypatch):
    monkeypatch.setenv("BATCH_MAX_PENDING", "2")
    for n in range(5):
        put(redis_server, f"item-{n}", n)
    status, printed = command("replay", "--all", "--format", "json")
    assert status == 1
    assert json.loads(printed) == {"replayed": 2, "missing": 0, "pending": 0, "no_room": 3}


def test_some_or_all_are_dropped(command, redis_server):
    for n in range(3):
        put(redis_server, f"item-{n}", n)
    assert command("drop", "item-0", "gone") == (1, "1 dead letter dropped; 1 not there (any more)\n")
    assert command("drop", "--all") == (0, "2 dead letters dropped\n")
    assert redis_server.execute("XLEN", DEAD) == 0


@pytest.mark.parametrize("action", ["replay", "drop"])
@pytest.mark.parametrize("chosen", [[], ["item", "--all"]])
def test_all_has_to_be_said_and_alone(command, redis_server, action, chosen):
    put(redis_server, "item", 1)
    assert command(action, *chosen) == (2, "expected either the ids of items, or --all\n")
    assert redis_server.execute("XLEN", DEAD) == 1


def test_a_line_stays_a_line_whatever_is_in_an_id_or_an_error(command, redis_server):
    put(redis_server, "two\nlines \x1b[31m", "\x1b]0;title\x07", "ValueError: a\nb\x1b[2J")
    for action in (("list",), ("show", "two\nlines \x1b[31m")):
        status, printed = command(*action)
        assert status == 0
        assert "\x1b" not in printed
        assert "'two\\nlines \\x1b[31m'" in printed
        assert all(line.isprintable() for line in printed.splitlines())
    assert command("replay", "two\nlines \x1b[31m")[0] == 0


def test_the_settings_of_a_project_name_redis_and_queue(redis_server, monkeypatch, tmp_path):
    monkeypatch.delenv("BATCH_REDIS_URL", raising=False)
    (tmp_path / "config.py").write_text(
        f"BATCH_REDIS_URL = {redis_server.url!r}\nBATCH_QUEUE_NAME = 'other'\nCACHE_DEFAULT_TTL = 'wrong'\n"
    )
    letter = DeadLetter("item", 1, 0, 3, "no", 1.0)
    redis_server.execute("XADD", "phase4:{batch:other}:dead", "*", "v", letter_value(letter))
    for how in (["-m", "bot"], ["-m", "phase4"]):
        done = subprocess.run(
            [sys.executable, *how, "batch", "dead-letters", "list", "--project", str(tmp_path)],
            capture_output=True, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
        assert done.stderr == ""
        assert done.stdout.splitlines()[-1] == "1 dead letter"
    assert main(["dead-letters", "list", "--redis", redis_server.url, "--queue", "other"]) == 0


def test_a_bots_class_of_settings_is_read_and_the_bot_is_not_started(
    redis_server, monkeypatch, tmp_path, capsys
):
    monkeypatch.delenv("BATCH_REDIS_URL", raising=False)
    (tmp_path / "bot").mkdir()
    (tmp_path / "bot" / "__init__.py").write_text("raise SystemExit('the bot was started')\n")
    (tmp_path / "bot" / "settings.py").write_text(
        f"class Config:\n    BATCH_REDIS_URL = {redis_server.url!r}\n    BATCH_QUEUE_NAME = 'of-the-class'\n"
    )
    (tmp_path / "main.py").write_text(
        "from bot.core.enhanced_startup_phase4 import initialize_phase4_services\n"
        "from bot.settings import Config\n\n"
        "async def main():\n    await initialize_phase4_services(from_host=Config)\n"
    )
    letter = DeadLetter("item", 1, 0, 3, "no", 1.0)
    redis_server.execute("XADD", "phase4:{batch:of-the-class}:dead", "*", "v", letter_value(letter))
    assert main(["dead-letters", "list", "--project", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 dead letter"


def test_without_a_url_it_tells_where_it_has_looked(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("BATCH_REDIS_URL", raising=False)
    (tmp_path / "config.py").write_text("BATCH_QUEUE_NAME = 'q'\n")
    assert main(["dead-letters", "list", "--project", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "BATCH_REDIS_URL is not set" in said
    assert "config.py as written" in said


@pytest.mark.parametrize(
    ("environment", "arguments", "status", "said"),
    [
        ({}, [], 2, "BATCH_REDIS_URL is not set"),
        ({"BATCH_REDIS_URL": "http://:secret@host"}, [], 2, "redis url = 'http://***@host'"),
        ({"BATCH_QUEUE_NAME": "no such name"}, [], 2, "BATCH_QUEUE_NAME = 'no such name'"),
        ({}, ["--redis", "redis://127.0.0.1:1", "--queue", "a b"], 2, "queue_name = 'a b'"),
        ({}, ["--project", "no such folder"], 2, "--project no such folder: no such folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(monkeypatch, capsys, tmp_path, environment, arguments, status, said):
    monkeypatch.chdir(tmp_path)
    for name in ("BATCH_REDIS_URL", "BATCH_QUEUE_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["dead-letters", "list", *arguments]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert "secret" not in printed.err


def test_without_redis_it_says_so_once_and_shows_no_password(capsys):
    server = RedisServer()
    assert main(["dead-letters", "list", "--redis", f"redis://user:secret@127.0.0.1:{server.port}/0"]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("is away") == 1
    assert "secret" not in printed.err + printed.out


@pytest.mark.parametrize("how", ["setting", "url"])
def test_under_a_prefix_of_keys(command, redis_server, monkeypatch, how):
    put(redis_server, "mine", "x", root="shop:")
    put(redis_server, "anothers", "x")
    if how == "setting":
        monkeypatch.setenv("PHASE4_KEY_PREFIX", "shop")
        where = ()
    else:
        where = ("--redis", f"{redis_server.url}?key_prefix=shop")
    status, printed = command("list", *where)
    assert status == 0
    assert "mine" in printed
    assert "anothers" not in printed
    assert command("replay", "mine", *where)[0] == 0
    assert redis_server.execute("XLEN", f"shop:{ITEMS}") == 1
    assert redis_server.execute("EXISTS", ITEMS) == 0


def test_a_prefix_that_is_none_is_said(command, monkeypatch):
    monkeypatch.setenv("PHASE4_KEY_PREFIX", "a:b")
    status, printed = command("list")
    assert status == 2
    assert "PHASE4_KEY_PREFIX = 'a:b'" in printed
