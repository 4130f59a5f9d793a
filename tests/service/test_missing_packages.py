"""``python -m bot`` where a package is not installed: one sentence, and what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.service.conftest import Service

pytestmark = pytest.mark.server

ROOT = Path(__file__).resolve().parents[2]


def without(module: str) -> str:
    """``python -m bot`` where a module is not installed, as a program."""
    return (
        f"import runpy, sys; sys.modules[{module!r}] = None; "
        "runpy.run_module('bot', run_name='__main__', alter_sys=True)"
    )


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
    shown = subprocess.run(
        [sys.executable, "-c", without(module), "--data-dir", str(tmp_path), *arguments],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert shown.returncode == 1
    [line] = shown.stderr.splitlines()
    assert line.startswith(f"{module} is missing: pip install {install} (")
    assert "make run" in line


class WithoutPrometheus(Service):
    def command(self) -> list[str]:
        return ["-c", without("prometheus_client"), *super().command()[2:]]


def test_without_prometheus_client_all_runs_but_the_metrics_which_say_what_to_install(data_dir):
    service = WithoutPrometheus(data_dir)
    try:
        service.start()
        assert service.call("/health").status == 200
        assert service.call("/api/data?user_id=1").status == 200
        answer = service.call("/metrics")
        assert answer.status == 501
        assert answer.body["error"]["message"] == (
            "Metrics need prometheus-client: pip install prometheus-client."
        )
        assert "Traceback" not in service.output
    finally:
        service.close()
