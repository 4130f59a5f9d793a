"""The command ``phase4``: which commands there are, and whose code it runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.server

ROOT = Path(__file__).resolve().parents[1]


def phase4(*arguments, folder=ROOT, **options):
    return subprocess.run(
        [sys.executable, str(folder / "phase4.py"), *arguments],
        capture_output=True, text=True, timeout=60, check=False, **options,
    )  # fmt: skip


def test_the_version():
    from bot.core._shared import __version__

    assert phase4("--version").stdout == f"phase4 {__version__}\n"


def test_help_lists_the_commands():
    shown = phase4("--help").stdout
    for command in ("status", "sql", "embed"):
        assert f"\n    {command} " in shown


def test_each_command_has_help_of_its_own():
    for command in ("status", "sql", "embed"):
        assert phase4(command, "--help").stdout.startswith(f"usage: phase4 {command} ")


def test_a_command_does_its_work():
    shown = phase4("sql", input="DELETE FROM users")
    assert shown.returncode == 1
    assert "error Q002" in shown.stdout


@pytest.mark.parametrize("arguments", [[], ["dance"], ["status", "--dance"]])
def test_misuse_is_exit_status_2(arguments):
    shown = phase4(*arguments)
    assert shown.returncode == 2
    assert shown.stderr.startswith("usage: phase4")


def test_a_python_that_is_too_old_is_one_sentence(monkeypatch, capsys):
    """The files themselves can be read by Python 3.7 and later."""
    import phase4 as command
    from bot.embed.__main__ import main

    monkeypatch.setattr(sys, "version_info", (3, 10, 1))
    for run in (command.main, main):
        assert run(["--version"]) == 2
        assert capsys.readouterr().err.startswith("Phase 4 needs Python 3.11 or later; this is ")


def test_a_package_that_is_missing_is_one_sentence():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules['sqlglot'] = None; import phase4; "
        + ("sys.exit(phase4.main(['sql']))")
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], input="SELECT 1", capture_output=True, text=True, check=False
    )
    assert shown.returncode == 1
    assert shown.stderr == "sqlglot is missing: pip install -r requirements-phase4.txt\n"


@pytest.fixture
def host(tmp_path):
    """A bot that ends the process when its package is imported, with Phase 4 in it."""
    for folder in ("bot/core", "bot/integrations"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "phase4.py", tmp_path)
    for own in ("bot/__init__.py", "bot/core/__init__.py"):
        (tmp_path / own).write_text("print('the bot starts'); raise SystemExit(3)\n")
    return tmp_path


def test_a_bots_own_package_is_not_run(host):
    shown = phase4("sql", input="DELETE FROM users", folder=host, cwd=host)
    assert (shown.returncode, "the bot starts" in shown.stdout) == (1, False)
    assert "error Q002" in shown.stdout


def test_the_path_of_a_bot_does_not_reach_the_installed_command(host):
    """Images of bots set PYTHONPATH, and the installed command finds its own package all the same."""
    shown = phase4("--version", env={**os.environ, "PYTHONPATH": str(host)}, cwd=host)
    assert (shown.returncode, shown.stdout.split()[0]) == (0, "phase4")


def test_a_bot_has_no_command_that_it_was_not_given(host):
    assert "\n    embed " not in phase4("--help", folder=host).stdout
    shown = phase4("embed", ".", folder=host)
    assert (shown.returncode, "embed is not here: run it where Phase 4 is installed" in shown.stderr) == (
        2,
        True,
    )
