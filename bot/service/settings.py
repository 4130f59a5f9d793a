"""Where the service listens and keeps its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bot.core.phase4_config import ConfigError, Phase4Config


class CannotStartError(Exception):
    """The service cannot start as it is configured; the message is for the person who started it."""


PARENT_VARIABLE = "PHASE4_PARENT_PID"
"""Set by a cluster for its processes, which stop when that process ends."""

MAX_UPLOAD_BYTES = 16 * 1024 * 1024
MAX_JSON_BYTES = 1024 * 1024


@dataclass(frozen=True)
class ServiceSettings:
    """What the command line decided. ``port`` 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 8000
    data_dir: Path = Path("data")
    balance: tuple[tuple[str, int], ...] = ()
    """Instances (host, port) that this one fronts; none: it answers by itself."""
    trusted_proxies: frozenset[str] = frozenset()
    """Addresses whose ``X-Forwarded-For`` is believed."""
    allowed_hosts: frozenset[str] = frozenset()
    """Names by which it may be asked for, beside addresses and names that only this network knows."""
    dashboard_token: str = field(default="", repr=False)
    """Asked for by the dashboard and ``/metrics``. Empty: none on the loopback, elsewhere one is made."""

    @property
    def files_each(self) -> int:
        """The files that one client's connection may have open, itself included."""
        return 3 if self.balance else 2  # a body on disk and an instance's connection; an upload's file

    @property
    def database_path(self) -> Path:
        return self.data_dir / "phase4.db"

    @property
    def upload_dir(self) -> Path:
        return self.data_dir / "uploads"


class Urls(NamedTuple):
    """Where the service's data live; empty: the embedded database, no MongoDB."""

    database: str
    mongodb: str

    @classmethod
    def load(cls, phase4: Mapping[str, Any] | None) -> Urls:
        """From the same sources as every setting. A fault in another setting does not matter here."""
        try:
            config = Phase4Config.load(phase4, only=("DATABASE_URL", "MONGODB_URL"))
        except ConfigError as error:
            raise CannotStartError(str(error)) from error
        return cls(config.DATABASE_URL, config.MONGODB_URL)
