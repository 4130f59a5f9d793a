"""``python -m bot`` where a package is not installed: one sentence, and what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.server

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("module", "arguments", "install"),
    [
        ("msgspec", ["check"], "-r requirements-phase4.txt"),
        ("msgspec", ["status"], "-r requirements-phase4.txt"),
        ("msgspec", [], "-r requirements-phase4.txt"),
        ("psutil", ["check"], "-r requirements-phase4.txt"),
        ("aiohttp", [], "aiohttp aiosqlite prometheus-client"),
    ],
)
def test_what_is_missing_is_named_with_the_command(module, arguments, install, tmp_path):
    hidden = (
        f"import runpy, sys; sys.modules[{module!r}] = None; "
        "runpy.run_module('bot', run_name='__main__', alter_sys=True)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", hidden, "--data-dir", str(tmp_path), *arguments],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert shown.returncode == 1
    [line] = shown.stderr.splitlines()
    assert line.startswith(f"{module} is missing: pip install {install} (")
    assert "make run" in line
