"""The guide's two load tests, run against the service: what they ask for is there, and nothing fails."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.docs.guide import blocks
from tests.service.conftest import ROOT, Service


def test_the_guides_simple_load_test_completes(service: Service, tmp_path: Path) -> None:
    [block] = blocks("Simple Load Test")
    assert "http://localhost:8000/" in block
    script = tmp_path / "test_load.py"
    script.write_text(block.replace("http://localhost:8000/", f"http://127.0.0.1:{service.port}/"))
    shown = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr[-3000:]
    assert re.match(r"Completed 1000/1000 in [\d.]+s\nThroughput: \d+ req/s\n", shown.stdout)
    figures = service.call("/health").body["phase4"]["query_optimizer"]
    assert figures["total_executions"] <= 5, "one execution served them all"


def test_the_locust_file_asks_for_what_the_guide_asks_for() -> None:
    [block] = blocks("Locust Load Test")
    ours = (ROOT / "tests/load/locustfile.py").read_text(encoding="utf-8")
    calls = r'self\.client\.(get|post)\(\s*"([^"]+)"'
    assert sorted(re.findall(calls, ours)) == sorted(re.findall(calls, block))
    assert "between(1, 5)" in block
    assert "between(1, 5)" in ours


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Service]:
    """A service over a data set of its own, which the load changes."""
    made = Service(tmp_path / "data", ENABLE_BATCH_PROCESSOR="1")
    made.start()
    yield made
    made.close()


@pytest.mark.skipif(find_spec("locust") is None, reason="locust is part of the bench extra")
def test_locust_finds_no_failure(loaded: Service, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "locust", "-f", str(ROOT / "tests/load/locustfile.py"), "--headless",
        "-u", "30", "-r", "30", "-t", "5s", "--csv", str(tmp_path / "load"),
        "--host", f"http://127.0.0.1:{loaded.port}",
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert shown.returncode == 0, shown.stderr[-3000:]
    with (tmp_path / "load_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    assert int(rows["Aggregated"]["Failure Count"]) == 0
    assert {"/api/data", "/api/batch", "/api/upload"} <= rows.keys()
