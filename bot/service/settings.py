"""Where the service listens and keeps its data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MAX_UPLOAD_BYTES = 16 * 1024 * 1024
MAX_JSON_BYTES = 1024 * 1024


@dataclass(frozen=True)
class ServiceSettings:
    """What the command line decided. ``port`` 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 8000
    data_dir: Path = Path("data")

    @property
    def database_path(self) -> Path:
        return self.data_dir / "phase4.db"

    @property
    def upload_dir(self) -> Path:
        return self.data_dir / "uploads"
