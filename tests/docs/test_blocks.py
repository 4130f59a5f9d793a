"""Every Python block of the documents runs as a file, and prints what the page says."""

import contextlib
import io
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from bot.core.phase4_service import Phase4Service

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    {*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")}
    - {ROOT / "CHANGELOG.md", ROOT / "docs" / "tutorial.md"}  # the tutorial's files grow from block to block
)
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?:\n(?:[Pp]rints(?:(?!\n\n).)*\n\n)?```text\n(?P<shown>.*?)^```)?",
    re.MULTILINE | re.DOTALL,
)
RUN_ELSEWHERE = ("bot.integrations", "bot.testing", "run_app")
"""Blocks with these words start a server or a framework, and have tests of their own."""


def blocks():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if any(name in match["code"] for name in RUN_ELSEWHERE):
                continue
            line = text.count("\n", 0, match.start()) + 1
            # A block that only defines what the bot's own main() calls prints nothing by itself.
            shown = match["shown"] if "asyncio.run(" in match["code"] else None
            yield pytest.param(match["code"], shown, id=f"{page.relative_to(ROOT).as_posix()}:{line}")


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """As in an empty folder, without settings of this repository and without a Redis at the usual port."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    Phase4Service.forget_instances()


@pytest.mark.parametrize(("code", "shown"), list(blocks()))
def test_it_runs_as_a_file(request, alone, redis_url, code, shown):
    file = alone / "block.py"
    code = code.replace("redis://127.0.0.1:6379/0", redis_url)
    if (example := "postgresql://bot@127.0.0.1:5432/bot") in code:
        code = code.replace(example, request.getfixturevalue("postgresql_url"))
    if (example := "mongodb://127.0.0.1:27017/bot") in code:
        code = code.replace(example, request.getfixturevalue("mongodb_url"))
    if "start_http_server(9100" in code:  # it listens, and registers, for as long as its process lives
        file.write_text(code.replace("start_http_server(9100", "start_http_server(0"), encoding="utf-8")
        subprocess.run([sys.executable, str(file)], cwd=alone, check=True)
        return
    file.write_text(code, encoding="utf-8")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(file), run_name="__main__")
    if shown is not None:
        assert printed.getvalue() == shown


def test_blocks_are_found():
    assert len(list(blocks())) > 20
