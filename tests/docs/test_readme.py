"""The README's Python blocks run as written, and its commands are the Makefile's."""

import re
import sqlite3
from pathlib import Path

import pytest

from bot.core.cache_manager import CacheManager
from bot.core.enhanced_startup_phase4 import initialize_phase4_services, shutdown_phase4_services
from bot.core.rate_limiter import RateLimitExceeded
from tests.docs.guide import run

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


class Database:
    def __init__(self):
        self._connection = sqlite3.connect(":memory:")
        self._connection.executescript(
            "CREATE TABLE users (id INTEGER, name TEXT); INSERT INTO users VALUES (1, 'ann')"
        )
        self.queries = []

    async def fetch(self, query, params=()):
        self.queries.append(query)
        return self._connection.execute(query, params).fetchall()


@pytest.fixture(autouse=True)
async def stopped():
    yield
    await shutdown_phase4_services()


async def test_start_status_and_stop(capsys):
    await run(BLOCKS[0], {})
    shown = capsys.readouterr().out
    assert "Phase 4: " in shown
    assert "RateLimiter" in shown
    assert shown.endswith("\n0\n")


async def test_limits():
    await initialize_phase4_services({"ENABLE_RATE_LIMITER": True})
    readme = await run(BLOCKS[1], {"__name__": "readme"})
    answers = [await readme["upload"](1, "a.pdf") for _ in range(6)]
    assert answers[:5] == ["a.pdf stored"] * 5
    assert answers[5] == "Too many uploads: try again in 0.5 s"
    for _ in range(3):
        assert await readme["search"](1, "text") == "text"
    with pytest.raises(RateLimitExceeded):
        await readme["search"](1, "text")


async def test_a_query_through_the_optimizer():
    await initialize_phase4_services({"ENABLE_QUERY_OPTIMIZER": True})
    db = Database()
    readme = await run(BLOCKS[2], {"db": db})
    assert [await readme["user"](1) for _ in range(3)] == [[(1, "ann")]] * 3
    assert len(db.queries) == 1


async def test_the_cache():
    await CacheManager.get_instance().enable()
    db = Database()
    readme = await run(BLOCKS[3], {"db": db, "__name__": "readme"})
    assert [await readme["get_user"](1) for _ in range(3)] == [[(1, "ann")]] * 3
    await readme["rename"](1, "bea")
    assert await readme["get_user"](1) == [(1, "bea")]
    assert len(db.queries) == 3


def test_every_block_is_run_here():
    assert len(BLOCKS) == 4


def test_the_commands_without_make_are_those_of_make():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for locked in ("requirements/service.txt", "requirements/dev.txt"):
        assert f"pip install --quiet --require-hashes --requirement {locked}" in makefile
        assert f"pip install --quiet --require-hashes -r {locked}" in README
    assert "pip install --quiet --no-deps --editable ." in makefile
    assert README.count("pip install --quiet --no-deps --editable .") == 2
    for tool in ("ruff check .", "mypy", "pytest"):
        assert f"-m {tool}" in makefile
        assert f"-m {tool}" in README
    for target in re.findall(r"^make ([\w-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_every_page_it_names_is_there():
    for page in re.findall(r"\]\((docs/[\w.]+)\)", README):
        assert (ROOT / page).exists()
