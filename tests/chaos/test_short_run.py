"""A short run with what pip brings: two Redis servers and PostgreSQL, three instances and their front."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.chaos.__main__ import report
from tests.chaos.run import Times, run

SEED = int(os.environ.get("PHASE4_TEST_CHAOS_SEED", "1"))


@pytest.mark.server
async def test_nothing_is_violated(capsys: pytest.CaptureFixture[str]) -> None:
    times = Times(warm=3.0, faults=14.0, quiet=6.0)
    result = await run(SEED, times, mysql=False, tell=print, rest=0.8)
    report(result)
    assert not result.violations, f"seed {SEED}, logs in {result.folder}\n{capsys.readouterr().out}"
    assert result.folder is not None
    shutil.rmtree(result.folder)
