"""How far a broadcast is: the callback, and the bar on a real terminal."""

import asyncio
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from bot.core.outbound import BroadcastProgress, Limits, Outbound, terminal_progress
from bot.core.outbound.broadcast.progress import Rate, line_of


def at(done, total=1_000, *, name="news", running=True, **figures):
    known = {
        "sent": done,
        "blocked": 0,
        "deactivated": 0,
        "not_found": 0,
        "failed": 0,
        "rate": 30.0,
        "eta": 65.0,
    }
    return BroadcastProgress(name=name, done=done, total=total, running=running, **known | figures)


@pytest.fixture
async def outbound():
    service = Outbound()
    await service.enable(Limits(chat=(1_000, 1.0), bulk=(100, 0.1)), broadcast_store="")
    yield service
    await service.disable()


async def send(chat):
    await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_callback_is_told_a_few_times_a_second_and_at_the_end(outbound, kind):
    told = []

    async def later(progress):
        await asyncio.sleep(0)
        told.append(progress)

    on_progress = told.append if kind == "sync" else later
    await outbound.broadcast("news", list(range(1, 1_001)), send, on_progress=on_progress)
    dones = [progress.done for progress in told]
    assert dones == sorted(dones)
    assert 2 <= len(told) < 100
    first, last = told[0], told[-1]
    assert (first.total, first.running) == (1_000, True)
    assert (last.done, last.sent, last.total, last.running) == (1_000, 1_000, 1_000, False)
    assert all(progress.eta >= 0 for progress in told if progress.eta is not None)
    with pytest.raises(AttributeError):
        last.done = 7


async def test_a_callback_that_raises_is_logged_and_stops_nothing(outbound, caplog):
    def broken(progress):
        raise KeyError("message_id")

    report = await outbound.broadcast("news", [1, 2, 3], send, on_progress=broken)
    assert report.sent == 3
    assert "the broadcast continues" in caplog.text


async def test_a_callback_that_hangs_stops_nothing(outbound, monkeypatch):
    monkeypatch.setattr("bot.core.outbound.broadcast.runner.GRACE", 0.05)

    async def hangs(progress):
        await asyncio.Event().wait()

    assert (await outbound.broadcast("news", [1, 2, 3], send, on_progress=hangs)).sent == 3


async def test_a_generator_tells_no_total_unless_it_is_given(outbound):
    told = []
    await outbound.broadcast("a", iter([1, 2, 3]), send, on_progress=told.append)
    assert told[0].total is None
    told.clear()
    await outbound.broadcast("b", iter([1, 2, 3]), send, on_progress=told.append, total=3)
    assert told[0].total == 3


def test_the_rate_is_that_of_the_last_seconds():
    rate = Rate()
    assert rate.now(100.0, 5_000) == 0.0, "what an earlier run did is no rate"
    for second in range(1, 31):
        shown = rate.now(100.0 + second, 5_000 + 10 * second)
    assert shown == pytest.approx(10.0)
    for second in range(31, 60):
        shown = rate.now(100.0 + second, 5_300)
    assert shown == 0.0


@pytest.mark.parametrize("columns", [1, 5, 10, 20, 40, 60, 80, 200])
@pytest.mark.parametrize(
    "name", ["news", "Новости дня, каждое утро", "新闻" * 30, "a\nb\x1b[31m", "e\u0301" * 30]
)
def test_a_line_is_never_wider_than_the_terminal(columns, name):
    import unicodedata

    line = line_of(at(437, name=name, blocked=12, failed=3), columns)
    cells = sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in line
    )
    assert cells <= columns
    assert line.isprintable() or any(map(unicodedata.combining, line))


def test_what_a_line_says():
    line = line_of(at(500, blocked=7, deactivated=1, failed=2), 100)
    assert re.fullmatch(r"news \[#+-+\] 50% 500/1,000 30\.0/s 1:05 left 8 unreachable 2 failed", line), line
    assert line_of(at(500, None, eta=None), 100) == "news 500 30.0/s"
    assert line_of(at(0, 0, eta=None), 100) == "news 0/0 30.0/s"


def test_a_log_file_gets_whole_lines_and_few():
    log = io.StringIO()
    show = terminal_progress(log)
    for done in range(0, 1_000, 10):
        show(at(done))
    show(at(1_000, running=False))
    assert log.getvalue() == "news 0% 0/1,000 30.0/s 1:05 left\nnews 100% 1,000/1,000 30.0/s\n"


def test_no_standard_error_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    terminal_progress()(at(1))


SCRIPT = """
import asyncio
from bot.core.outbound import Limits, Outbound

async def main():
    outbound = Outbound()
    await outbound.enable(Limits(bulk=(100, 0.1)), broadcast_store="")
    async def send(chat):
        await asyncio.sleep(0)
    await outbound.broadcast("news", list(range(1, 1001)), send, progress=True)
    await outbound.disable()

asyncio.run(main())
"""


@pytest.mark.server
def test_the_bar_on_a_real_terminal():
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.DEVNULL, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            part = os.read(master, 65_536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.wait() == 0
    text = shown.decode()
    assert text.count("kept in memory") == 1
    frames = [frame.split("\r\n")[0] for frame in text.split("\r\x1b[K")[1:]]
    assert len(frames) >= 3
    assert all(len(frame) <= 59 for frame in frames)
    assert frames[0].startswith("news [-")
    assert re.search(r"\[#+\] 100% 1,000/1,000", frames[-1])
    assert text.endswith("\r\n"), "the next line of the log begins at its beginning"


@pytest.mark.server
def test_no_bar_where_standard_error_is_no_terminal():
    process = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert "\r" not in process.stderr
    assert "\x1b" not in process.stderr
    assert process.stderr.rstrip().endswith("/s")
    assert process.stdout == ""
