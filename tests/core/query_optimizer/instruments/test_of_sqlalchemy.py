"""The queries of SQLAlchemy's async engines, on real databases."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

sqlalchemy = pytest.importorskip("sqlalchemy")
pytest.importorskip("greenlet")

from sqlalchemy import text  # noqa: E402
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine  # noqa: E402
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column  # noqa: E402

from bot.core._shared.errors import InvalidArgumentError  # noqa: E402
from bot.core.query_optimizer import QueryOptimizer  # noqa: E402
from bot.core.query_optimizer.instruments import instrument, uninstrument  # noqa: E402


class Base(DeclarativeBase):
    pass


class Seen(Base):
    __tablename__ = "seen"
    id: Mapped[int] = mapped_column(primary_key=True)
    v: Mapped[int]


@pytest.fixture(params=[pytest.param("postgresql", marks=pytest.mark.server), "sqlite"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    if request.param == "sqlite":
        url = f"sqlite+aiosqlite:///{tmp_path / 'seen.db'}"
    else:
        url = str(request.getfixturevalue("postgresql_url")).replace(
            "postgresql://", "postgresql+psycopg://", 1
        )
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(sqlalchemy.insert(Seen), [{"id": n, "v": n} for n in range(100)])
    yield engine
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
    await engine.dispose()


async def cached(optimizer: QueryOptimizer, engine: Any) -> int:
    async def read(query: str, params: Any) -> Any:
        async with engine.connect() as connection:
            return (await connection.execute(text(query))).scalar()

    return int(await optimizer.execute("SELECT v FROM seen WHERE id = 3", None, read))


async def test_the_n_plus_one_of_an_orm_has_its_line(seen: QueryOptimizer, engine: Any) -> None:
    instrument(engine)
    async with AsyncSession(engine) as session:
        for number in range(12):
            row = await session.get(Seen, number)
            assert row is not None
            assert row.v == number
    assert seen.snapshot().total_executions == 12
    [pattern] = await seen.get_n_plus_one_patterns()
    assert [site.rpartition(":")[0] for site in pattern.call_sites] == [__file__]
    assert pattern.count == 12


async def test_an_engine_may_be_instrumented_before_its_first_connection(
    seen: QueryOptimizer, engine: Any
) -> None:
    new = instrument(create_async_engine(engine.url))
    async with AsyncSession(new) as session:
        row = await session.get(Seen, 3)
        assert row is not None
    assert seen.snapshot().total_executions == 1
    await new.dispose()


async def test_what_a_session_wrote_is_dropped_when_it_commits(seen: QueryOptimizer, engine: Any) -> None:
    instrument(engine)
    async with AsyncSession(engine) as session:
        row = await session.get(Seen, 3)
        assert row is not None
        row.v = 4
        await session.flush()
        assert await cached(seen, engine) == 3
        await session.commit()
        assert await cached(seen, engine) == 4
        row = await session.get(Seen, 3)
        assert row is not None
        row.v = 5
        await session.flush()
        assert await cached(seen, engine) == 4
        await session.rollback()
    assert await cached(seen, engine) == 4


async def test_a_write_on_a_connection_that_is_dropped(seen: QueryOptimizer, engine: Any) -> None:
    instrument(engine)
    assert await cached(seen, engine) == 3
    async with engine.connect() as connection:
        await connection.execute(text("UPDATE seen SET v = 4 WHERE id = 3"))
    assert await cached(seen, engine) == 3
    auto = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with auto.connect() as connection:
        await connection.execute(text("UPDATE seen SET v = 5 WHERE id = 3"))
        assert await cached(seen, engine) == 5


async def test_other_instances_are_told_before_the_writer_goes_on(seen: QueryOptimizer, engine: Any) -> None:
    told: list[list[str]] = []

    async def tell(tables: list[str]) -> None:
        await asyncio.sleep(0)
        told.append(tables)

    seen.after_write(tell)
    instrument(engine)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE seen SET v = 4 WHERE id = 3"))
        assert told == [["seen"]]
    assert told == [["seen"], ["seen"]]
    seen.after_write(None)


async def test_errors_and_undoing(seen: QueryOptimizer, engine: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="cache = True"):
        instrument(engine, cache=True)
    instrument(instrument(engine))
    async with engine.connect() as connection:
        with pytest.raises(sqlalchemy.exc.DBAPIError):
            await connection.execute(text("SELECT * FROM nowhere"))
    async with engine.connect() as connection:
        slow = asyncio.create_task(connection.execute(text("UPDATE seen SET v = 9")))
        await asyncio.sleep(0)
        slow.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await slow
    await seen.reset_statistics()
    assert uninstrument(engine)
    assert not vars(engine.sync_engine.dialect).keys() & {"do_commit", "do_rollback"}
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE seen SET v = 4 WHERE id = 3"))
    assert seen.snapshot().total_executions == 0
