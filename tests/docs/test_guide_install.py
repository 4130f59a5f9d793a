"""The guide's shell commands: what it installs, and the tests that it runs."""

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.docs.guide import blocks

pytestmark = pytest.mark.server

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("heading", ["1. Install Dependencies", "Step 1:"])
def test_the_file_that_is_installed_is_there_and_pip_accepts_it(heading):
    [block] = blocks(heading, "bash")
    [line] = [line for line in block.splitlines() if line.startswith("pip install")]
    assert line == "pip install -r requirements-phase4.txt"
    # Everything is installed already, so that pip reads the file and asks no network.
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps", "-r"]
    shown = subprocess.run(
        [*command, "requirements-phase4.txt"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert "Would install" not in shown.stdout


def test_what_the_file_lists_is_what_the_package_asks_for():
    project = (ROOT / "pyproject.toml").read_text()
    for line in (ROOT / "requirements-phase4.txt").read_text().splitlines():
        requirement = line.split("#")[0].strip()
        if requirement:
            assert f'"{requirement}"' in project, requirement


def listed():
    lines = (ROOT / "requirements-phase4.txt").read_text().splitlines()
    return [Requirement(text) for line in lines if (text := line.split("#")[0].strip())]


def with_what_they_need(requirements):
    """Names of the packages that pip installs for them."""
    found, queue = set(), [(r, "") for r in requirements]
    while queue:
        requirement, extra = queue.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in found:
                found.add((name, wanted))
                queue += [(Requirement(text), wanted) for text in requires(name) or ()]
    return {name for name, _ in found}


def test_the_suite_passes_with_nothing_else_installed():
    kept = with_what_they_need(listed()) | {"bot-phase4"}
    hidden = [
        package
        for package, owners in packages_distributions().items()
        if package.isidentifier() and not kept & {canonicalize_name(owner) for owner in owners}
    ]
    assert "asyncpg" in hidden
    code = (
        "import sys; sys.modules.update(dict.fromkeys(sys.argv[1].split(','))); "
        "import pytest; sys.exit(pytest.main(sys.argv[2:]))"
    )
    suite = "tests/test_phase4_integration.py"
    # On asyncio's own loop: another would have to be installed.
    environment = {name: value for name, value in os.environ.items() if name != "PHASE4_TEST_LOOP"}
    shown = subprocess.run(
        [sys.executable, "-c", code, ",".join(hidden), "-p", "pytest_asyncio.plugin", "-q", suite],
        capture_output=True,
        text=True,
        cwd=ROOT,
        # The plugins of what is hidden would be loaded otherwise.
        env={**environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        check=False,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_graphql_is_cached_after_the_guides_own_install():
    assert "graphql-core" in with_what_they_need(listed())


def commands():
    [block] = blocks("Unit Tests", "bash")
    return [line for line in block.splitlines() if line.startswith("pytest")]


@pytest.mark.parametrize("line", commands())
def test_the_unit_test_commands_pass(line, tmp_path):
    arguments = shlex.split(line)[1:]
    arguments = [f"{a}:{tmp_path}" if a == "--cov-report=html" else a for a in arguments]
    if "--cov=bot.core" in arguments:
        try:
            version("pytest-cov")
        except PackageNotFoundError:
            pytest.skip("pytest-cov is not installed")
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert shown.returncode == 0, shown.stdout
    passed = re.search(r"(\d+) passed", shown.stdout)
    assert passed is not None
    assert int(passed[1]) > 0
