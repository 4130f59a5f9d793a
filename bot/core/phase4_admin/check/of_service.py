"""What the demonstration service asks of its settings, beside what every bot does (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from bot.core._shared.masking import mask_url
from bot.core.phase4_admin.check.findings import Finding, fail, ok, warn

FREE_DISK_MB = 200

SERVICE_POOL = "service"
"""The pool that ``python -m bot`` makes for its own database; a test holds it against that one's name."""


def parse_port(text: str) -> int:
    """A port to listen on; raises ValueError that says what is expected."""
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65_535:
        raise ValueError(f"{text!r}: expected a port from 1 to 65535, or 0 for a free one")
    return port


def database_backend(url: str) -> str:
    """What a ``DATABASE_URL`` has the service run on: "postgresql" or "sqlite"; empty: it cannot."""
    scheme = url.split("://", 1)[0].split("+")[0].lower()
    if scheme in ("postgresql", "postgres"):
        return "postgresql"
    return "sqlite" if not url or (scheme == "sqlite" and urlsplit(url).path[1:]) else ""


def port(text: str) -> Iterator[Finding]:
    """``PORT`` of the environment, which the service refuses to start with if it is none."""
    try:
        parse_port(text or "0")
    except ValueError as error:
        yield fail("port", f"PORT = {error}", "correct PORT, or unset it for 8000")


def database_url(url: str) -> Iterator[Finding]:
    """What ``open_database`` refuses."""
    if not database_backend(url):
        yield fail(
            "DATABASE_URL",
            f"{mask_url(url)}: the service cannot run on it",
            "give it postgresql://host/database or sqlite:///file.db, or leave it empty; pools "
            "of other databases are named in DATABASE_POOLS",
        )


def disk(folder: str, writable: bool, free_mb: float) -> Finding:
    """The data folder, which holds uploads and the embedded database."""
    found = f"{folder}: {free_mb:,.0f} MB free"
    if not writable:
        return fail("data folder", f"{folder}: not writable", "give the bot's user the right, or --data-dir")
    if free_mb < FREE_DISK_MB:
        return warn("data folder", found, f"have {FREE_DISK_MB} MB free")
    return ok("data folder", found)
