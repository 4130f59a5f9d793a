"""Each bot of examples/ does what it promises, as ``make example`` runs it: against Telegram's limits."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.server


def play(bot: str, folder: Path) -> str:
    """What ``make example BOT=...`` prints; fails if it does not end well."""
    ran = subprocess.run(
        [sys.executable, ROOT / "examples" / "run.py", bot],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr, ran.stderr
    assert list(folder.iterdir()) == [], "an example left something behind"
    return ran.stdout


def test_the_aiogram_bot_counts_votes_and_is_never_refused(tmp_path):
    printed = play("aiogram", tmp_path)
    assert "    40  Pizza\n    0  Pasta\n    0  Salad\n" in printed
    assert "    12 of 13 have it\n" in printed
    assert re.search(r"cache: [1-9]\d % hits, queries: [1-9]\d % hits\n", printed)
    [(votes, transactions)] = re.findall(r"votes: (\d+) in (\d+) transactions", printed)
    assert int(votes) == 120
    assert int(transactions) < 60
    assert "refused by Telegram: 0\n" in printed
    assert "It refused 0 of them as too many.\nThe bot was told to stop, and ended well.\n" in printed


def test_the_ptb_bot_edits_its_board_within_the_limits_of_a_group(tmp_path):
    printed = play("ptb", tmp_path)
    board = "    1. Ann: 40\n    2. Bob: 20\n    3. Carla: 14\n    4. Dora: 10\n    5. Emil: 8\n"
    assert board in printed
    [most] = re.findall(r"in any minute of this group: (\d+) at most", printed)
    assert int(most) <= 20
    assert "    3 of 4 have it\n" in printed
    assert re.search(r"cache: [1-9]\d % hits, queries: [1-9]\d % hits\n", printed)
    [(messages, transactions)] = re.findall(r"messages: (\d+) in (\d+) transactions", printed)
    assert int(messages) == 92
    assert int(transactions) < 92
    assert "refused by Telegram: 0\n" in printed
    assert "It refused 0 of them as too many.\nThe bot was told to stop, and ended well.\n" in printed


def test_the_mirror_bot_repeats_no_upload_and_holds_one_group_alone(tmp_path):
    printed = play("mirror", tmp_path)
    assert len(re.findall(r"^Group \d: \d+ edits\n    .*All files are here\.$", printed, re.MULTILINE)) == 6
    assert "(parts of files sent: 48, of them twice: 0)" in printed
    assert "    40 new\n    Release 0\n" in printed
    assert "    1 of 2 have it\n" in printed
    assert re.search(r"cache: [1-9]\d % hits, queries: [1-9]\d % hits\n", printed)
    assert "It was told to refuse 2, and refused 2.\nRequests that came before a wait was over: 0." in printed
    [superseded] = re.findall(r"Superseded edits: (\d+)\.", printed)
    assert int(superseded) > 0, "group 1 was held for four seconds, and its status changed meanwhile"


def test_the_thanks_bot_is_watched_and_answered_from_the_cache_and_never_stale(tmp_path):
    printed = play("thanks", tmp_path)
    [hit_rate] = re.findall(r"^    hit rate: (\d+) %$", printed, re.MULTILINE)
    assert int(hit_rate) > 70
    query = re.escape("N+1: SELECT name , points FROM members WHERE id = ?")
    site = re.escape(str(ROOT / "examples" / "thanks_bot.py"))
    assert re.search(rf"^    {query}\n      1\d times at {site}:\d+ in points_of$", printed, re.MULTILINE)
    [(compared, exact)] = re.findall(
        r"compared with the database: (\d+), of them to the letter: (\d+)\.", printed
    )
    assert int(compared) > 300
    assert int(exact) >= 30
    assert "Stale answers: 0.\n" in printed


def test_the_mirror_bot_without_a_token_says_so(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "mirror_bot"],
        cwd=ROOT / "examples",
        env={"API_ID": "1", "API_HASH": "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 1
    assert "BOT_TOKEN (of @BotFather), API_ID and API_HASH (of my.telegram.org) must be set" in ran.stderr


def test_a_bot_without_a_token_says_so(tmp_path):
    for bot in ("aiogram_bot.py", "ptb_bot.py", "thanks_bot.py"):
        ran = subprocess.run(
            [sys.executable, ROOT / "examples" / bot],
            cwd=tmp_path,
            env={},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (ran.returncode, ran.stderr) == (1, "BOT_TOKEN is not set: it is what @BotFather gave you\n")


def test_a_bot_that_there_is_not_is_refused(tmp_path):
    ran = subprocess.run(
        [sys.executable, ROOT / "examples" / "run.py", "discord"], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("usage: python examples/run.py aiogram")
