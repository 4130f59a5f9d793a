"""Opens connections, and describes errors without the secrets that drivers put into them."""

from __future__ import annotations

import asyncio
from typing import Any

from bot.core._shared.errors import MisuseError
from bot.core._shared.masking import mask_url
from bot.core.connection_pool_manager.callbacks import interrupted, too_slow, without
from bot.core.connection_pool_manager.drivers.base import Driver
from bot.core.connection_pool_manager.errors import PoolConnectError


class Connector:
    """Opens connections by one driver, within the pool's ``connect_timeout``."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def connect(self) -> Any:
        """A new connection; raises PoolConnectError, or MisuseError for options that the driver refuses."""
        driver = self._driver
        spec = driver.spec
        seconds = spec.options.connect_timeout
        try:
            async with asyncio.timeout(seconds):
                raw = await driver.connect()
                if driver.observer is not None:
                    driver.let_watch(raw)
                return raw
        except PoolConnectError:  # of a function of the user's: it says all
            raise
        except TimeoutError as error:
            if (name := interrupted(error)) is not None:
                raise PoolConnectError(f"pool {spec.name!r}: {too_slow(name, seconds)}") from error
            raise PoolConnectError(
                f"cannot connect to {mask_url(spec.url)} ({spec.backend}): no answer within "
                f"{seconds:g} s; check host, port and firewall, or raise connect_timeout"
            ) from error
        except Exception as error:
            if isinstance(error, MisuseError):
                raise
            if isinstance(error, TypeError) and "argument" in str(error):
                raise MisuseError(
                    f"pool {spec.name!r}: the {spec.backend} driver refuses its options "
                    f"{sorted(spec.driver_options)}: {self.masked(error)}"
                ) from None
            # Without a cause: its text and its frames may hold the password.
            failure = PoolConnectError(
                f"cannot connect to {mask_url(spec.url)} ({spec.backend}): {self.masked(error)}; "
                f"{driver.advice}"
            )
            failure.login_refused = driver.is_login_refused(error)
            failure.is_setting = driver.is_setting(error)
            raise failure from None

    def masked(self, error: BaseException) -> str:
        """What an error says, with its type and without secrets."""
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return self._without_secrets(text)

    def masked_text(self, error: BaseException) -> str:
        """What an error says, without secrets."""
        return self._without_secrets(str(error) or type(error).__name__)

    def _without_secrets(self, text: str) -> str:
        return without(self._driver.secrets, text)
