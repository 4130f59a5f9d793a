"""The broadcast of docs/outbound.md runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "outbound.md").read_text(encoding="utf-8")


@pytest.mark.server
def test_the_broadcast_prints_what_the_page_says():
    section = PAGE[PAGE.index("\n## Broadcasts") :]
    [block] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    ran = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.returncode) == ("39 of 40 have it\n7 is gone\n", 0), ran.stderr
    assert "It prints `39 of 40 have it` and `7 is gone`" in PAGE
