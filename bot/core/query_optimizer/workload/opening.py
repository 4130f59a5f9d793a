"""Connects to the server that a URL names."""

from __future__ import annotations

from urllib.parse import urlsplit

from bot.core.query_optimizer.workload.executions import SourceError
from bot.core.query_optimizer.workload.server import Server


async def open_server(url: str, timeout: float) -> Server:
    """Connect to what the URL names: postgresql:// or mysql:// (MariaDB, too).

    ``timeout`` is seconds for each answer. Raises SourceError.
    """
    scheme = urlsplit(url).scheme.split("+")[0]
    if scheme in ("postgresql", "postgres"):
        from bot.core.query_optimizer.workload.postgres_server import open_postgres

        return await open_postgres(url, timeout)
    if scheme in ("mysql", "mariadb"):
        from bot.core.query_optimizer.workload.mysql_server import open_mysql

        return await open_mysql(url, timeout)
    raise SourceError(f"--url: {scheme or 'no scheme'}://, but it may be postgresql:// or mysql://")
