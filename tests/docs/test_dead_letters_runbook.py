"""The runbook of dead letters, run as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bot.core.batch_processor import BatchProcessor

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "runbooks" / "batch-dead-letters.md").read_text(encoding="utf-8")


async def poisoned(**options):
    async def broken(items):
        raise OSError("the backend is away")

    batches = BatchProcessor.get_instance()
    await batches.enable(broken, max_retries=0, batch_timeout=0.01, **options)
    await batches.submit_many(["a", "b", "c"], keys=["ITEM_ID", "ANOTHER_ID", "third"])
    await batches.flush()
    return batches


async def test_its_python_shows_and_repairs(capsys):
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    names = {}
    exec(compile(code, "the runbook", "exec"), names)
    batches = await poisoned()
    try:
        await names["look"]()
        shown = capsys.readouterr().out.splitlines()
        assert shown[0] == "3 dead letters"
        assert sorted(line.split()[0] for line in shown[1:]) == ["ANOTHER_ID", "ITEM_ID", "third"]
        assert "OSError: the backend is away a" in "".join(shown)
        await names["repair"]()
        assert "replayed=3" in capsys.readouterr().out
    finally:
        await batches.disable()


@pytest.mark.server
async def test_its_shell_shows_and_repairs(redis_server):
    batches = await poisoned(redis_url=redis_server.url, lease=60)
    await batches.disable()
    environment = {"BATCH_REDIS_URL": redis_server.url, "PATH": str(Path(sys.executable).parent)}
    lines = [
        line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
    ]
    said = []
    for line in lines:
        command = line.partition("#")[0].replace("phase4", f"{shlex.quote(sys.executable)} -m phase4", 1)
        done = subprocess.run(
            ["/bin/sh", "-c", command], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
        )
        said.append((done.returncode, (done.stdout + done.stderr).splitlines()[-1]))
    assert said == [
        (0, "3 dead letters"),
        (0, "data      'a'"),
        (0, "2 dead letters submitted again"),
        (0, "1 dead letter submitted again"),
        (1, "0 dead letters dropped; 1 not there (any more)"),
    ]
