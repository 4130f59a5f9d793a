"""What can be instrumented, and how wrong arguments are refused."""

import subprocess
import sys
from typing import Any

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.query_optimizer.instruments import instrument, uninstrument


@pytest.mark.parametrize("obj", [None, 7, "postgresql://localhost", object(), subprocess])
def test_other_objects_are_refused(obj: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="obj = "):
        instrument(obj)
    with pytest.raises(InvalidArgumentError, match="obj = "):
        uninstrument(obj)


@pytest.mark.parametrize(
    "options",
    [
        {"cache": 1},
        {"cache": None},
        {"ttl": 0},
        {"ttl": float("nan")},
        {"ttl": True},
        {"scope": object()},
        {"scope": ["a"]},
        {"tenant": "ann"},
        {"optimizer": object()},
    ],
)
async def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    aiosqlite = pytest.importorskip("aiosqlite")
    async with aiosqlite.connect(":memory:") as connection:
        with pytest.raises(InvalidArgumentError, match=f"{next(iter(options))} = "):
            instrument(connection, **options)
        assert not uninstrument(connection)


@pytest.mark.server
def test_no_driver_is_imported_before_its_use() -> None:
    code = (
        "import sys, bot.core.query_optimizer.instruments\n"
        "drivers = ('asyncpg', 'aiosqlite', 'asyncmy', 'psycopg', 'sqlalchemy')\n"
        "print([name for name in drivers if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
