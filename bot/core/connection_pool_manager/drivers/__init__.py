"""The drivers, by backend. Importing this imports no driver's package."""

from __future__ import annotations

import importlib
from typing import cast

from bot.core.connection_pool_manager.drivers.base import Driver
from bot.core.connection_pool_manager.models import BACKENDS

__all__ = ["Driver", "driver_class"]


def driver_class(backend: str) -> type[Driver]:
    """The driver of one of :data:`BACKENDS`."""
    assert backend in BACKENDS
    module = importlib.import_module(f"{__name__}.{backend}")
    return cast(type[Driver], getattr(module, f"{backend.capitalize()}Driver"))
