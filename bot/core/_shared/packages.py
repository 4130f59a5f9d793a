"""The packages that the library uses, and the oldest version of each that was tested (pure)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import ModuleType

OLDEST: Mapping[str, str] = {
    "msgspec": "0.20",
    "psutil": "7.0",
    "sqlglot": "30.20",
    "sqlparse": "0.5.2",
    "cachetools": "6.0",
    "redis": "6.0",
    "motor": "3.7",
    "pymongo": "4.13",
    "asyncpg": "0.30",
    "asyncmy": "0.2.13",
    "aiosqlite": "0.21",
    "graphql-core": "3.2.6",
    "aiohttp": "3.14.4",
}
"""Package -> version; a test holds it against ``pyproject.toml``."""

_POOLS = "connection_pool_manager"
USED_BY: Mapping[str, tuple[str, ...]] = {
    "redis": ("cache_manager", "rate_limiter", "batch_processor", "outbound", _POOLS),
    "motor": (_POOLS,),
    "pymongo": (_POOLS,),
    "asyncpg": (_POOLS,),
    "asyncmy": (_POOLS,),
    "aiosqlite": (_POOLS,),
    "sqlglot": ("query_optimizer",),
    "sqlparse": ("query_optimizer",),
    "graphql-core": ("query_optimizer",),
}
"""Package -> the services that import it when they need it."""

_MODULES = {"graphql-core": "graphql"}


def as_numbers(version: str) -> tuple[int, ...]:
    """``"7.0.1rc2"`` -> ``(7, 0, 1)``, ``"6.0"`` -> ``(6,)``: to hold versions against each other."""
    match = re.match(r"\d+(\.\d+)*?(?=(\.0+)*(?![.\d]))", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def too_old(services: Collection[str], modules: Mapping[str, ModuleType]) -> list[str]:
    """What to warn of: packages of these services that are imported, and older than was ever tested.

    ``modules`` is ``sys.modules``. Versions are those that the modules tell: to look them up takes longer.
    """
    found = []
    for package, users in USED_BY.items():
        module = modules.get(_MODULES.get(package, package))
        version = getattr(module, "__version__", None) or getattr(module, "version", None)
        if not isinstance(version, str) or not set(users) & set(services):
            continue
        numbers, oldest = as_numbers(version), OLDEST[package]
        if numbers and numbers < as_numbers(oldest):
            found.append(
                f"{package} {version} is older than {oldest}, the oldest tested: "
                f"pip install '{package}>={oldest}'"
            )
    return found
