"""Which database the settings name."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from bot.core._shared.masking import mask_url
from bot.core.phase4_admin.check.of_service import database_backend
from bot.service.database import ServiceDatabase
from bot.service.settings import CannotStartError


def open_database(url: str, path: Path) -> ServiceDatabase:
    """The database that ``DATABASE_URL`` names, or the file at ``path``. Connects to nothing yet.

    Raises CannotStartError for a url the service cannot run on.
    """
    from bot.service.sqlite_database import SqliteDatabase

    backend = database_backend(url)
    if not url:
        return SqliteDatabase(path)
    if backend == "postgresql":
        from bot.service.postgresql_database import PostgresqlDatabase

        return PostgresqlDatabase(url)
    if backend == "sqlite":
        return SqliteDatabase(Path(unquote(urlsplit(url).path[1:])), replace=False)
    raise CannotStartError(
        f"DATABASE_URL = {mask_url(url)!r}: the service runs on postgresql://user:password@host/database "
        "or sqlite:///file.db; leave it empty for the embedded database. (Pools of your own take mysql:// "
        "too: name them in DATABASE_POOLS.)"
    )
