"""The settings of a new pool: from its caller, its entry in the settings, and the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bot.core._shared.errors import invalid
from bot.core._shared.masking import mask_url
from bot.core.connection_pool_manager.callbacks import taken_out
from bot.core.connection_pool_manager.drivers import driver_class
from bot.core.connection_pool_manager.drivers.base import check_address, check_scheme
from bot.core.connection_pool_manager.models import OPTION_NAMES, PoolOptions, PoolSpec
from bot.core.connection_pool_manager.replicas import WITH_REPLICAS
from bot.core.phase4_config import Phase4Config, PoolSettings

LOCAL_DEFAULTS = {
    "mongodb": "mongodb://127.0.0.1:27017/test",
    "redis": "redis://127.0.0.1:6379/0",
    "postgresql": "postgresql://postgres@127.0.0.1:5432/postgres",
    "mysql": "mysql://root@127.0.0.1:3306/",
}
"""Where a backend usually listens; used when no url is given or configured."""


class PoolSpecs:
    """Where new pools get their settings: what the manager was not given comes from the configuration."""

    def __init__(self) -> None:
        # Changed only by the manager's enable.
        self.defaults: PoolOptions | None = None
        self.configured: dict[str, PoolSettings] | None = None
        """The entries of ``DATABASE_POOLS``."""
        self.urls: dict[str, str] = {}
        """Backend -> the url of pools that name none."""

    def spec(
        self,
        name: str,
        backend: str,
        min_size: int | None,
        max_size: int | None,
        url: str | None,
        given: Mapping[str, Any],
    ) -> PoolSpec:
        """The settings of a pool of that name; ``given`` holds fields of PoolOptions and driver options.

        Raises InvalidArgumentError.
        """
        config = None
        if self.configured is None or self.defaults is None:
            config = Phase4Config.load()
        configured = self.configured if self.configured is not None else config.DATABASE_POOLS  # type: ignore[union-attr]
        entry = configured.get(name)
        if entry is not None and entry.backend != backend:
            entry = None
        options: dict[str, Any] = {**(entry.options if entry is not None else {}), **given}
        if url is None:
            url = (entry.url if entry is not None else "") or self._url_for(backend, config)
        if not isinstance(url, str):
            raise invalid("url", url, "a string")
        schemes = driver_class(backend).schemes
        check_scheme(url, backend, schemes)
        if backend != "sqlite" and not url.lower().startswith("unix"):
            check_address(url)
        defaults = self.defaults or PoolOptions(**(config or Phase4Config()).connection_pools.sizes())
        fields = {key: options.pop(key) for key in list(options) if key in OPTION_NAMES}
        if entry is not None:
            min_size = entry.min_size if min_size is None else min_size
            max_size = entry.max_size if max_size is None else max_size
        if max_size is not None:
            fields["max_size"] = max_size
        if min_size is not None:
            fields["min_size"] = min_size
        options, functions = taken_out(options, backend)
        replicas = _replicas(options.pop("replicas", None), backend, schemes)
        return PoolSpec(
            name, backend, url, defaults.changed(**fields), options, replicas=replicas, **functions
        )

    def _url_for(self, backend: str, config: Phase4Config | None) -> str:
        url = self.urls.get(backend)
        if not url and config is not None:
            url = urls_of(config).get(backend)
        general = self.urls.get("DATABASE_URL") or (config.DATABASE_URL if config is not None else "")
        if not url and general and backend in ("postgresql", "mysql", "sqlite"):
            # The local default would be another database than the one that was meant.
            raise invalid(
                "url", None,
                f"a url of the pool's own: its backend is {backend!r}, and DATABASE_URL = "
                f"{mask_url(general)} is not of that backend",
            )  # fmt: skip
        url = url or LOCAL_DEFAULTS.get(backend)
        if not url:
            raise invalid("url", None, "a url such as sqlite:///bot.db, or DATABASE_URL set to one")
        return url


_ELSEWHERE = {
    "mongodb": "nothing: give the url of the replica set, with readPreference=secondaryPreferred",
    "redis": "nothing: make a second pool for a replica",
    "sqlite": "nothing: SQLite has no replicas",
}


def _replicas(given: object, backend: str, schemes: tuple[str, ...]) -> tuple[str, ...]:
    """The urls of a pool's replicas. Raises InvalidArgumentError."""
    shown = f"a {type(given).__name__}"  # without the passwords in it
    if given is None or (given == [] and backend in WITH_REPLICAS):
        return ()
    if backend not in WITH_REPLICAS:
        raise invalid("replicas", shown, _ELSEWHERE[backend])
    if not isinstance(given, list | tuple):
        raise invalid("replicas", shown, "a list of urls")
    for url in given:
        if not isinstance(url, str):
            raise invalid("replicas", f"a list with a {type(url).__name__}", "a list of urls")
        check_scheme(url, backend, schemes)
        check_address(url)
    return tuple(given)


def urls_of(config: Phase4Config) -> dict[str, str]:
    """Backend -> the url its setting gives; ``DATABASE_URL`` serves the backend of its scheme."""
    found = {"mongodb": config.MONGODB_URL, "redis": config.REDIS_URL}
    for backend in ("mongodb", "redis", "postgresql", "mysql", "sqlite"):
        scheme = config.DATABASE_URL.split("://", 1)[0].split("+")[0].lower()
        if scheme in driver_class(backend).schemes and not found.get(backend):
            found[backend] = config.DATABASE_URL
    return {backend: url for backend, url in found.items() if url}
