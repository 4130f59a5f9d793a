"""The examples of docs/operating.md run as they stand, but for their ports."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")


def block(heading):
    """The Python of a section, and the port that it is given here."""
    section = PAGE[PAGE.index(f"\n### {heading}\n") :]
    port = free_port()
    return re.sub("808[01]", str(port), re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]), port


@pytest.mark.server
@pytest.mark.parametrize(
    "heading",
    ["In a bot of aiogram, on a port", "In a bot of python-telegram-bot", "In a bot of kurigram"],
)
def test_each_bot_prints_where_its_dashboard_is(heading):
    text, port = block(heading)
    ran = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.returncode) == (f"http://127.0.0.1:{port}/\n", 0), ran.stderr


@pytest.mark.server
def test_the_aiohttp_application_serves_it_below_phase4():
    text, port = block("In an aiohttp application")
    process = subprocess.Popen([sys.executable, "-c", text], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        status, body = asked(process, f"http://127.0.0.1:{port}/phase4/health")
        assert status == 200
        assert "cache_manager" in json.loads(body)["phase4"]["services"]
        assert b"<!doctype html>" in asked(process, f"http://127.0.0.1:{port}/phase4/")[1]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def asked(process, url):
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.read()
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_setting_is_written_as_it_is_called():
    text, _ = block("By a setting")
    assert "PHASE4_DASHBOARD_PORT = " in text
