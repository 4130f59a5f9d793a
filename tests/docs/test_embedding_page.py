"""docs/embedding.md, run as written in the folder of a small bot."""

import re
import site
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.server

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/embedding.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
INSTALL = ".venv/bin/python -m pip install -r requirements-phase4.txt"
MAIN = re.search(r"In `bot/__main__.py`.*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def bot(tmp_path):
    """A bot with an environment that has no package, and the repository beside it as phase4."""
    host = tmp_path / "bot"
    (host / "bot").mkdir(parents=True)
    (host / "bot/__init__.py").write_text("import logging\n")
    (host / "requirements.txt").write_text("aiohttp\n")
    (tmp_path / "phase4").symlink_to(ROOT)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(host / ".venv")], check=True)
    return host


def install(host):
    """What pip would: the packages that this environment has, so that the test asks no network."""
    [packages] = (host / ".venv").glob("lib/python3*/site-packages")
    (packages / "installed.pth").write_text("\n".join(site.getsitepackages()))


def test_the_commands_work_as_written(bot):
    assert COMMANDS.count(INSTALL) == 1
    said = []
    for line in COMMANDS:
        if line == INSTALL:
            assert (bot / "requirements-phase4.txt").exists()
            install(bot)
            continue
        shown = subprocess.run(line, shell=True, cwd=bot, capture_output=True, text=True, check=False)
        said.append((line, shown.returncode, shown.stdout + shown.stderr))
    look, first, second, check, tests = said
    assert (look[1], "Nothing was touched" in look[2]) == (0, True)
    assert (first[1], "NOT PROVEN YET" in first[2]) == (3, True), first
    assert (second[1], "Proven: " in second[2]) == (0, True), second
    assert check[1] == 0, check
    assert (tests[1], bool(re.search(r"\b2\d passed", tests[2]))) == (0, True), tests


def test_the_start_works_as_written(bot):
    install(bot)
    subprocess.run(
        [sys.executable, "../phase4/phase4.py", "embed", "."], cwd=bot, check=True, capture_output=True
    )
    from tests.support.servers import free_port

    assert MAIN is not None
    port = free_port()
    text = (
        MAIN[1]
        .replace("8081", str(port))
        .replace(
            "    ...  # the bot runs",
            "    import urllib.request\n"
            f"    page = await asyncio.to_thread(urllib.request.urlopen, 'http://127.0.0.1:{port}/')\n"
            "    print('page', page.status)",
        )
    )
    (bot / "bot/__main__.py").write_text(f"import asyncio\n{text}\nasyncio.run(main())\n")
    shown = subprocess.run(
        [".venv/bin/python", "-m", "bot"], cwd=bot, capture_output=True, text=True, check=False, timeout=60
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines() == [
        "Phase 4: 2 service(s) running: QueryOptimizer, RateLimiter",
        "page 200",
    ]


def test_the_clash_looks_as_shown(bot):
    (bot / "bot/core").mkdir()
    (bot / "bot/core/cache_manager.py").write_text("class CacheManager: ...\n")
    (bot / "bot/modules").mkdir()
    (bot / "bot/modules/mirror.py").write_text("from bot.core.cache_manager import CacheManager\n")
    shown = subprocess.run(
        [sys.executable, "../phase4/phase4.py", "embed", "."],
        cwd=bot,
        capture_output=True,
        text=True,
        check=False,
    )
    [example] = [
        text for text in re.findall(r"^```text\n(.*?)^```", PAGE, re.M | re.S) if "Nothing was" in text
    ]
    assert shown.returncode == 1
    assert shown.stdout.startswith(example)
