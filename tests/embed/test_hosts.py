"""Whole bots: Phase 4 is put into them, proven by their interpreter, used under their loop, taken out."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bot.embed.manifest import FOLDER
from bot.embed.payload import SETTINGS as SETTINGS_FILE
from tests.embed.conftest import contents, make
from tests.embed.hosts import MIRROR, ORIGINAL, OWN_SERVICES, SETTINGS, USES_EACH_SERVICE

pytestmark = pytest.mark.server

ROOT = Path(__file__).resolve().parents[2]
NAMED = [path for path in os.environ.get("PHASE4_TEST_PYTHONS", "").split(os.pathsep) if path]
"""Interpreters of other versions that have requirements-phase4.txt and uvloop installed."""
PYTHONS = [sys.executable, *NAMED]
LOOPS = ["asyncio", *(["uvloop"] if sys.platform != "win32" else [])]


def bare_pythons():
    """Interpreters of this machine, of any version that Phase 4 runs on; they have none of its packages."""
    names = {shutil.which(f"python3.{minor}") for minor in range(11, 20)} | {sys.executable}
    for name in sorted(filter(None, names)):
        code = "import sys, venv; sys.exit(sys.version_info < (3, 11))"
        if subprocess.run([name, "-I", "-c", code], capture_output=True, check=False).returncode == 0:
            yield name


def embed(host, *arguments, python=sys.executable):
    return subprocess.run(
        [sys.executable, "-m", "bot.embed", str(host), "--python", str(python), *arguments],
        capture_output=True, text=True, cwd=ROOT, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture
def unproven(run, monkeypatch):
    """The same without the proof, which takes its time, for tests of something else."""
    monkeypatch.setattr("bot.embed.command._prove", lambda host, look: 0)
    return run


def run_bot(host, loop, python=sys.executable):
    """Start the bot as its author does; what it says that it did."""
    shown = subprocess.run(
        [str(python), "-m", "bot"],
        capture_output=True, text=True, cwd=host, timeout=120, check=False,
        env={**os.environ, "HOST_LOOP": loop},
    )  # fmt: skip
    said = re.search(r"^USED (.*)$", shown.stdout, re.MULTILINE)
    assert shown.returncode == 0, shown.stderr
    assert said is not None, shown.stdout + shown.stderr
    return json.loads(said[1])


def everything(loop):
    return {
        "loop": "uvloop" if loop == "uvloop" else "asyncio.unix_events",
        "errors": [],
        "started": sorted([*OWN_SERVICES.values(), "Outbound"]),
        "query": [["debian.iso"]],
        "cached": {"name": "debian.iso"},
        "allowed": [True, True, False],
        "batch": 42,
        "routed": "bot-1 did work",
        "sent": "sent",
        "hits": 1,
        "stopped": True,
        "tasks": [],
    }


def used(host, loop, python=sys.executable):
    found = run_bot(host, loop, python)
    return {**found, "started": sorted(found["started"])}


class TestOriginal:
    """The bot that this design comes from has modules of the same names."""

    @pytest.fixture
    def host(self, tmp_path):
        return make(tmp_path / "original", ORIGINAL)

    def test_every_clash_is_told_and_nothing_is_touched(self, host):
        before = contents(host)
        shown = embed(host)
        assert shown.returncode == 1
        for module in OWN_SERVICES:
            assert f"bot/core/{module}.py: Phase 4's package bot/core/{module}/ would hide it" in shown.stdout
        for name in (
            "bot/core/enhanced_startup_phase4.py",
            "requirements-phase4.txt",
            "tests/test_phase4_integration.py",
        ):
            assert f"  {name}: a file of the bot's" in shown.stdout
        assert shown.stdout.startswith("Nothing was touched.\n\n9 names")
        for line in (
            "bot/core/startup.py:2 imports initialize_phase4_services from bot.core.enhanced_startup_phase4",
            "bot/core/performance_optimizer.py:1 imports CacheManager from bot.core.cache_manager",
            "bot/core/performance_optimizer.py:2 imports bot.core.rate_limiter",
            "bot/core/enhanced_startup_phase4.py:3 imports BackendType, ConnectionPoolManager",
            "bot/helper/ext_utils/status_utils.py:1 imports QueryOptimizer, QueryHistory",
            "bot/modules/settings_ui.py:2 imports bot.core.load_balancer",
            "Phase 4's bot.core.query_optimizer has no QueryHistory",
        ):
            assert line in shown.stdout
        assert "update.py resets the folder to UPSTREAM_REPO at each start" in shown.stdout
        assert "metrics.py" not in shown.stdout, "Phase 4's is phase4_metrics.py"
        assert contents(host) == before

    def test_what_git_would_not_store_is_told(self, host):
        subprocess.run(["git", "init", "-q", str(host)], check=True)
        assert ".gitignore keeps git from storing requirements-phase4.txt" in embed(host).stdout

    @pytest.mark.parametrize("python", PYTHONS)
    def test_all_services_run_under_its_loop(self, host, python):
        shown = embed(host, "--replace", python=python)
        assert shown.returncode == 0, shown.stdout + shown.stderr
        assert "BREAKS: Phase 4's bot.core.query_optimizer has no QueryHistory" in shown.stdout
        assert "Proven: " in shown.stdout
        assert not (host / "started").exists(), "the bot was not started by the proof"
        make(
            host,
            {
                "bot/core/startup.py": USES_EACH_SERVICE + "\n\nasync def start():\n    await use_phase4()\n",
                SETTINGS_FILE: ORIGINAL[SETTINGS_FILE]
                + "".join(f"{name} = {value!r}\n" for name, value in SETTINGS.items()),
            },
        )
        for loop in LOOPS:
            assert used(host, loop, python) == everything(loop)

    def test_remove_gives_its_own_back(self, host, unproven):
        before = contents(host)
        assert unproven(host, "--replace")[0] == 0
        status, said = unproven(host, "--remove")
        assert status == 0
        assert "9 files put back" in said
        assert contents(host) == before
        assert not (host / FOLDER).exists()

    def test_the_guides_command_passes_in_it(self, host, unproven):
        unproven(host, "--replace")
        shown = subprocess.run(
            [sys.executable, "-m", "pytest", "tests/test_phase4_integration.py", "-v"],
            capture_output=True, text=True, cwd=host, timeout=300, check=False,
        )  # fmt: skip
        assert shown.returncode == 0, shown.stdout
        assert re.search(r"\b2\d passed", shown.stdout)


class TestMirror:
    """A bot with its settings in a class, in config.py and in MongoDB, and without any clash."""

    @pytest.fixture
    def host(self, tmp_path):
        return make(tmp_path / "mirror", MIRROR)

    def test_it_goes_in_without_a_question(self, host):
        shown = embed(host)
        assert shown.returncode == 0, shown.stdout + shown.stderr
        assert "requirements.txt: Phase 4's block has" in shown.stdout
        named = (host / "requirements.txt").read_text().splitlines()
        assert "msgspec>=0.20" in named
        assert named.count("psutil") == 1
        assert not any(line.startswith("psutil>=") for line in named)

    async def test_all_services_run_with_settings_from_mongodb(self, host, mongodb_url, unproven):
        from pymongo import AsyncMongoClient

        client = AsyncMongoClient(mongodb_url)
        await client.mltb.settings.replace_one(
            {"_id": "1"}, {"_id": "1", "STATUS_LIMIT": 4, **SETTINGS}, upsert=True
        )
        await client.close()
        unproven(host)
        make(
            host,
            {
                "config.py": f"{MIRROR['config.py']}DATABASE_URL = {mongodb_url!r}\n",
                "bot/core/phase4_use.py": USES_EACH_SERVICE,
                "bot/core/startup.py": MIRROR["bot/core/startup.py"]
                + "    from .phase4_use import use_phase4\n\n    await use_phase4(from_host=Config)\n",
            },
        )
        for loop in LOOPS:
            assert await asyncio.to_thread(used, host, loop) == everything(loop)

    def test_remove_leaves_it_as_it_was(self, host, unproven):
        before = contents(host)
        unproven(host)
        unproven(host, "--remove")
        assert contents(host) == before


class TestProof:
    @pytest.fixture
    def host(self, tmp_path):
        return make(tmp_path / "мой бот", {"bot/__init__.py": "open('started', 'w'); raise SystemExit(7)\n"})

    def test_a_package_that_ends_the_process_is_not_run(self, host):
        shown = embed(host)
        assert shown.returncode == 0, shown.stdout + shown.stderr
        assert not (host / "started").exists()

    def test_packages_that_are_missing_are_named_with_the_command(self, host):
        environment = host / "venv"
        for python in bare_pythons():
            subprocess.run([python, "-m", "venv", "--clear", "--without-pip", str(environment)], check=True)
            shown = subprocess.run(
                [sys.executable, "-m", "bot.embed", str(host)],
                capture_output=True, text=True, cwd=ROOT, check=False,
            )  # fmt: skip
            assert shown.returncode == 3, shown.stdout + shown.stderr
            assert "NOT PROVEN YET" in shown.stdout
            assert "  msgspec>=0.20\n" in shown.stdout
            assert f"{environment}/bin/python -m pip install -r requirements-phase4.txt" in shown.stdout

    def test_another_package_of_the_same_name_is_told(self, host, tmp_path, monkeypatch):
        """Without an ``__init__.py`` of its own the bot's package comes after any that has one."""
        (host / "bot/__init__.py").unlink()
        other = make(tmp_path, {"elsewhere/bot/__init__.py": ""}) / "elsewhere"
        monkeypatch.setenv("PYTHONPATH", str(other))
        shown = embed(host)
        assert shown.returncode == 1
        assert f"imports `bot` from {other}/bot/__init__.py" in shown.stdout

    def test_a_file_that_was_changed_and_fails_is_told(self, host, unproven):
        unproven(host)
        make(host, {"bot/core/rate_limiter/bucket.py": "raise ValueError('mine')\n"})
        shown = embed(host)
        assert shown.returncode == 1
        assert "bot.core.rate_limiter.bucket: ValueError: mine" in shown.stdout

    def test_the_command_in_an_embedded_bot(self, host, unproven):
        unproven(host)
        shown = subprocess.run(
            [sys.executable, "-m", "phase4", "--version"],
            capture_output=True,
            text=True,
            cwd=host,
            check=False,
        )
        assert shown.stdout.startswith("phase4 ")
        assert not (host / "started").exists()
