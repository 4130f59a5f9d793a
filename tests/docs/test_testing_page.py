"""The examples of docs/testing.md and docs/integrations run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.server
@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("testing.md", ["['You said: hello'] 0\n", "600 s\n", "FLOOD_WAIT_X 0 %\n"]),
        ("integrations/pyrogram.md", ["['0', '1', '2']\n"]),
        ("integrations/aiogram.md", ["['0', '1', '2'] 0\n"]),
        ("integrations/ptb.md", ["['0', '1', '2'] 0\n", ""]),
    ],
)
def test_each_example_prints_what_the_page_says(page, printed):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == len(printed)
    for block, expected in zip(blocks, printed, strict=True):
        ran = subprocess.run(
            [sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert (ran.stdout, ran.returncode) == (expected, 0), ran.stderr
