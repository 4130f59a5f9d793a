"""What a pool's url may say, and what is told of one that says something else."""

import sqlite3

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.connection_pool_manager import ConnectionPoolManager, PoolSetupError
from bot.core.connection_pool_manager.drivers.base import check_address
from bot.core.phase4_config import Phase4Config, PoolSettings


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
        ("postgresql", "postgresql://h:notaport/db", "host:port"),
        ("postgresql", "postgresql://h:5432,i:99999/db", "up to 65535"),
        ("postgresql", "postgresql://u:hunter[2@h/db", "%5B for"),
        ("mysql", "mysql://u:hunter/2@h/db", "%2F for /"),
        ("mysql", "mysql://h/db?charset=utf9", "charset = 'utf9'"),
        ("redis", "redis://h:6379/first", "number of a database"),
        ("mongodb", "mongodb://h:x/db", "host:port"),
        ("mongodb", "mongodb://127.0.0.1:1/db?bogus=1", "bogus|Unknown option"),
        ("mongodb", "mongodb://127.0.0.1:1/d$b", "Bad database|[Nn]ame"),
    ],
)
async def test_an_url_that_the_backend_does_not_take_is_named(pools, backend, url, word):
    with pytest.raises(InvalidArgumentError, match=word) as caught:
        await pools.create_pool("p", backend, url=url)
    assert "hunter" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Unknown option")
@pytest.mark.parametrize(
    "address",
    [
        "redis://u:p%40%2F%3A%5B@h:6379/1", "redis://[::1]:6379", "redis://h", "postgresql:///db?host=/tmp",
        "postgresql://u:p@h:1,[fe80::1]:2/db", "mysql://ü:ä@bücher.example:3306/d", "mongodb://%2Ftmp%2Fm.sock/d",
        "mongodb+srv://u:p@cluster.example/db", "mongodb://a:1,b:2,c/db?replicaSet=r",
    ],
)  # fmt: skip
def test_addresses_that_are_some(address):
    check_address(address)


async def test_pragmas_are_names_and_values(pools):
    for given in (5, "x", {"a b": 1}, {1: 2}, {"busy_timeout": "1; DROP TABLE t"}):
        with pytest.raises(InvalidArgumentError, match=r"pragmas = .*busy_timeout"):
            await pools.create_pool("p", "sqlite", url="sqlite://", pragmas=given)


async def test_each_wrong_pool_of_the_settings_is_named(pools, tmp_path):
    given = {
        "": PoolSettings(backend="sqlite", url="sqlite://"),
        "file": PoolSettings(backend="sqlite", url=f"sqlite:///{tmp_path}"),
        "port": PoolSettings(backend="redis", url="redis://u:hunter2@h:77777"),
        "fine": PoolSettings(backend="sqlite", url="sqlite://"),
    }
    with pytest.raises(PoolSetupError) as caught:
        await pools.enable(pools=given)
    told = str(caught.value)
    for word in ("pool '': name = '': expected", "pool 'file'", "check that the file", "h:77777"):
        assert word in told
    assert "hunter2" not in told
    assert list(await pools.get_statistics()) == ["fine"]


@pytest.mark.parametrize("scheme", ["postgres+asyncpg", "postgresql+asyncpg", "postgresql+psycopg2"])
async def test_an_url_of_sqlalchemys_is_understood(pools, postgresql_url, scheme):
    url = scheme + postgresql_url[postgresql_url.index("://") :]
    await pools.create_pool("p", "postgresql", 1, 1, url=url)
    async with pools.connection("p") as conn:
        assert await conn.fetchval("SELECT 7") == 7


@pytest.mark.parametrize("database", ["mongodb://u:hunter2@db/app", "mysql://u:hunter2@db/app"])
async def test_a_pool_does_not_take_a_local_default_where_another_database_was_named(pools, database):
    from bot.core.connection_pool_manager.specs import urls_of

    config = Phase4Config.from_mapping(
        {"DATABASE_URL": database, "DATABASE_POOLS": {"p": {"backend": "postgresql"}}}
    )
    urls = {**urls_of(config), "DATABASE_URL": config.DATABASE_URL}
    with pytest.raises(PoolSetupError, match=r"'postgresql', and DATABASE_URL = \w+://") as caught:
        await pools.enable(pools=config.DATABASE_POOLS, urls=urls)
    assert "hunter2" not in str(caught.value)
    assert await pools.get_statistics() == {}
