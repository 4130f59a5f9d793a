"""The same load from wrk, which is written in C: it takes a fraction of a core where asyncio takes one.

What wrk cannot tell is left out: it has no response times by kind of request.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.load.workload import requests

SCRIPT = Path(__file__).with_name("mix.lua")
PREPARED = 40_000
"""Requests that are written down before a run; a longer run begins again at the first."""
ANSWER_TIMEOUT = 60
THREADS = 1


def there() -> bool:
    return shutil.which("wrk") is not None


def load(
    port: int, *, clients: int, seconds: float, warmup: float, mix: dict[str, int], seed: int = 1
) -> dict[str, Any]:
    """The report of ``benchmarks.load.client`` without ``by_kind``. Raises RuntimeError if wrk fails."""
    with tempfile.TemporaryDirectory(prefix="phase4-wrk-") as folder:
        for turn, duration in enumerate((warmup, seconds)):
            # Other requests than the warm-up's, as later ones are not those of the first minute.
            path = Path(folder, f"requests-{turn}")
            _write(path, seed + turn, mix)
            report = _run(port, path, clients, duration)
    return report


def _write(path: Path, seed: int, mix: dict[str, int]) -> None:
    with path.open("wb") as file:
        for request in itertools.islice(requests(seed, mix=mix), PREPARED):
            file.write(b"%d\n%b" % (len(request.data), request.data))


def _run(port: int, path: Path, clients: int, seconds: float) -> dict[str, Any]:
    command = [
        "wrk", f"-t{THREADS}", f"-c{clients}", f"-d{max(1, round(seconds))}s",
        f"--timeout={ANSWER_TIMEOUT}s", "-s", str(SCRIPT), f"http://127.0.0.1:{port}", "--",
        str(path), str(THREADS),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    if shown.returncode or not shown.stdout.strip():
        raise RuntimeError(f"wrk failed: {shown.stderr[-2000:]}{shown.stdout[-2000:]}")
    report: dict[str, Any] = json.loads(shown.stdout.strip().splitlines()[-1])
    report["per_second"] = report["answered"] / report["seconds"]
    return report
