"""Prometheus and promtool, where Debian's package or another has installed them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bot.service import dataset

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def _installed(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install prometheus)")
    return found


@pytest.fixture(scope="session")
def promtool() -> str:
    return _installed("promtool")


@pytest.fixture(scope="session")
def prometheus() -> str:
    return _installed("prometheus")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service's data set, made once for all tests here."""
    directory = tmp_path_factory.mktemp("rehearsal-data")
    dataset.ensure(directory / "phase4.db", lambda line: None)
    return directory
