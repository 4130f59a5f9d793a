import os
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.support.apart import execute_on_postgresql


@pytest.fixture(scope="session")
def own_database(postgresql_url):
    """The URL of a database for this process alone. Plans depend on schemas, extensions and VACUUM, and
    another process may run the same tests on the same server.
    """
    name = f"phase4_plans_{os.getpid()}"
    execute_on_postgresql(postgresql_url, f"DROP DATABASE IF EXISTS {name}")
    execute_on_postgresql(postgresql_url, f"CREATE DATABASE {name} TEMPLATE template0")
    yield urlsplit(postgresql_url)._replace(path=f"/{name}").geturl()
    execute_on_postgresql(postgresql_url, f"DROP DATABASE {name}")


@pytest.fixture(scope="module")
def tables(request, own_database):
    """The URL of a database with the tables of the module's ``TABLES``, in its schema ``SCHEMA``."""
    schema, script = request.module.SCHEMA, request.module.TABLES
    begin = f"CREATE SCHEMA {schema}", f"SET search_path = {schema}"
    execute_on_postgresql(own_database, *begin, *filter(str.strip, script.split(";")))
    yield own_database
    execute_on_postgresql(own_database, f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture
async def connection(request, tables):
    """A connection to these tables; what a test does with it is rolled back."""
    settings = {"search_path": f"{request.module.SCHEMA}, public", "jit": "off"}
    connection = await asyncpg.connect(tables, statement_cache_size=0, server_settings=settings)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()
