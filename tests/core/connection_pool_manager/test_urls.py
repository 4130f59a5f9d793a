"""What a pool's url may say, and what is told of one that says something else."""

import sqlite3

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.connection_pool_manager import ConnectionPoolManager, PoolSetupError
from bot.core.phase4_config import Phase4Config


@pytest.fixture
async def pools():
    manager = ConnectionPoolManager()
    yield manager
    await manager.disable()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "ä file?.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (n)")
    connection.close()
    return str(path).replace("?", "%3F").replace(" ", "%20")


@pytest.mark.parametrize("form", ["sqlite:///{}?mode=ro", "sqlite:///file:{}?mode=ro&uri=true"])
async def test_sqlites_own_options_work_in_a_url(pools, file, form):
    await pools.create_pool("p", "sqlite", 1, 2, url=form.format(file))
    async with pools.connection("p") as conn:
        assert await (await conn.execute("SELECT count(*) FROM t")).fetchone() == (0,)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await conn.execute("INSERT INTO t VALUES (1)")


async def test_options_of_python_and_of_sqlite_go_together(pools, file):
    await pools.create_pool("p", "sqlite", 1, 1, url=f"sqlite:///{file}?timeout=1.5&mode=rw&cache=private")
    async with pools.connection("p") as conn:
        await conn.execute("INSERT INTO t VALUES (1)")
        await conn.commit()


async def test_a_memory_database_with_a_name_lives_as_long_as_its_pool(pools):
    url = "sqlite:///file:phase4-test?mode=memory&cache=shared&uri=true"
    await pools.create_pool("p", "sqlite", 0, 2, url=url)
    async with pools.connection("p") as conn:
        await conn.execute("CREATE TABLE t (n)")
        await conn.commit()
    async with pools.connection("p") as one, pools.connection("p") as two:
        for conn in (one, two):
            assert await (await conn.execute("SELECT count(*) FROM t")).fetchone() == (0,)


async def test_a_file_that_mode_forbids_to_make_is_an_error(pools, tmp_path):
    with pytest.raises(Exception, match="unable to open"):
        await pools.create_pool("p", "sqlite", url=f"sqlite:///{tmp_path}/none.db?mode=rw")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("backend", "url", "word"),
    [
        ("sqlite", "sqlite:///p.db?mood=ro", "mode"),
        ("sqlite", "sqlite:///p.db?timeout=soon", "timeout"),
        ("redis", "redis+cluster://127.0.0.1/0", "redis://"),
        ("mongodb", "mongodb+motor://127.0.0.1/x", "mongodb://"),
        ("postgresql", "mysql://127.0.0.1/x", "backend 'postgresql'"),
    ],
)
async def test_an_url_that_the_backend_does_not_take_is_named(pools, backend, url, word):
    with pytest.raises(InvalidArgumentError, match=word):
        await pools.create_pool("p", backend, url=url)


@pytest.mark.parametrize("scheme", ["postgres+asyncpg", "postgresql+asyncpg", "postgresql+psycopg2"])
async def test_an_url_of_sqlalchemys_is_understood(pools, postgresql_url, scheme):
    url = scheme + postgresql_url[postgresql_url.index("://") :]
    await pools.create_pool("p", "postgresql", 1, 1, url=url)
    async with pools.connection("p") as conn:
        assert await conn.fetchval("SELECT 7") == 7


@pytest.mark.parametrize("database", ["mongodb://u:hunter2@db/app", "mysql://u:hunter2@db/app"])
async def test_a_pool_does_not_take_a_local_default_where_another_database_was_named(pools, database):
    from bot.core.connection_pool_manager.service import urls_of

    config = Phase4Config.from_mapping(
        {"DATABASE_URL": database, "DATABASE_POOLS": {"p": {"backend": "postgresql"}}}
    )
    urls = {**urls_of(config), "DATABASE_URL": config.DATABASE_URL}
    with pytest.raises(PoolSetupError, match=r"'postgresql', and DATABASE_URL = \w+://") as caught:
        await pools.enable(pools=config.DATABASE_POOLS, urls=urls)
    assert "hunter2" not in str(caught.value)
    assert await pools.get_statistics() == {}
