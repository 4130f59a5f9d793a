"""The examples of docs/testing.md run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "testing.md").read_text(encoding="utf-8"), re.DOTALL
)
PRINTED = ["['You said: hello'] 0\n", "600 s\n"]


def test_each_example_prints_what_the_page_says():
    assert len(BLOCKS) == len(PRINTED)
    for block, printed in zip(BLOCKS, PRINTED, strict=True):
        ran = subprocess.run(
            [sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert (ran.stdout, ran.returncode) == (printed, 0), ran.stderr
