"""The README's way into a bot that has a package ``bot`` of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.server

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

HOST = {
    "bot/__init__.py": "",
    "bot/__main__.py": """
import asyncio
from bot.core import handlers
from bot.core.enhanced_startup_phase4 import initialize_phase4_services, shutdown_phase4_services
from bot.core.phase4_metrics import register_phase4_metrics
from prometheus_client import CollectorRegistry, generate_latest

async def main():
    status = await initialize_phase4_services(dict.fromkeys(handlers.FLAGS, True))
    registry = CollectorRegistry()
    register_phase4_metrics(registry)
    print("phase4_info" in generate_latest(registry).decode())
    print(status["success"], len(status["services_initialized"]), status["errors"])
    print(await shutdown_phase4_services())

asyncio.run(main())
""",
    "bot/core/__init__.py": "WHOSE = 'the host'\n",
    "bot/core/metrics.py": "WHOSE = 'the host'\n",  # bots have one of their own
    "bot/core/handlers.py": """
import config_enhancements_phase4
FLAGS = [name for name in vars(config_enhancements_phase4) if name.startswith("ENABLE_")]
""",
}


def commands():
    block = re.search(r"^## Use it in a bot\n.*?^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert block is not None
    lines = block[1].splitlines()
    assert lines[-1] == "pip install -r requirements-phase4.txt"
    return lines[:-1]


def test_the_library_is_copied_into_the_bots_own_package(tmp_path):
    (tmp_path / "phase4").symlink_to(ROOT)
    host = tmp_path / "host"
    for name, text in HOST.items():
        path = host / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for line in commands():
        # Some versions of cp end with 1 when -n left something as it was.
        subprocess.run(line, shell=True, cwd=host, check=False)
    for own in ("bot/core/__init__.py", "bot/core/metrics.py"):
        assert (host / own).read_text() == HOST[own]
    shown = subprocess.run(
        [sys.executable, "-m", "bot"],
        capture_output=True, text=True, cwd=host, timeout=60, check=False,
    )  # fmt: skip
    assert shown.stdout.splitlines() == ["True", "True 7 []", "True"], shown.stderr
