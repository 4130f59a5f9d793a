"""Finds the primary among several hosts, and notes which role a replica has."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any

from bot.core._shared.errors import Phase4Error
from bot.core.connection_pool_manager.drivers.base import Driver
from bot.core.connection_pool_manager.drivers.places import host_of, places_of
from bot.core.connection_pool_manager.models import PoolSpec


class ReplicatedDriver(Driver):
    """A driver of a database with one primary and replicas.

    With several hosts in the url, each connection is opened to the one that accepts writes. Attempts at the
    same time share the order in which the hosts are asked: any order finds the primary.
    """

    def __init__(self, spec: PoolSpec) -> None:
        super().__init__(spec)
        # The last known primary first; changed only by _connect_to_primary.
        self.places = places_of(self.url, spec.driver_options)
        self.accepts_writes: bool | None = None
        """Of a replica: whether its server accepted writes when the latest connection was opened."""

    @abstractmethod
    async def connect_to(self, place: str) -> Any:
        """Open a connection to the host of that url. Cancelled or failed, it leaves nothing open."""

    async def connect(self) -> Any:
        if self.spec.is_replica:
            raw = await self.connect_to(self.places[0])
            self.accepts_writes = await self._asked(raw)
            return raw
        if len(self.places) == 1:
            return await self.connect_to(self.places[0])
        return await self._connect_to_primary()

    async def _asked(self, raw: Any) -> bool | None:
        """Whether the server of a new connection accepts writes."""
        try:
            async with asyncio.timeout(self.spec.options.validation_timeout):
                return await self.is_primary(raw)
        except BaseException:
            self.terminate(raw)
            raise

    async def _connect_to_primary(self) -> Any:
        """Ask the hosts one after the other, each for its share of ``connect_timeout``."""
        places = list(self.places)
        # A little less than the whole, so that the last one is not cut short by the pool's own limit.
        share = 0.95 * self.spec.options.connect_timeout / len(places)
        failures: list[Exception] = []
        said: list[str] = []
        for place in places:
            try:
                async with asyncio.timeout(share):
                    raw = await self.connect_to(place)
                if await self._asked(raw) is not False:
                    return raw
                self.terminate(raw)
                said.append(f"{host_of(place)}: it does not accept writes")
            except (Phase4Error, TypeError, ValueError):  # of the settings, or of the user's functions
                raise
            except Exception as error:
                failures.append(error)
                text = f"no answer within {share:g} s" if isinstance(error, TimeoutError) else str(error)
                said.append(f"{host_of(place)}: {text or type(error).__name__}")
            if place in self.places:  # next time the others are asked first
                self.places.remove(place)
                self.places.append(place)
        if len(failures) == len(places) and all(map(self.is_login_refused, failures)):
            raise failures[0]
        raise ConnectionError("no host is a primary: " + "; ".join(said))
