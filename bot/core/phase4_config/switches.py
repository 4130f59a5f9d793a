"""Settings: which services run (pure).

Without msgspec, which the other settings are declared by: where every service is off, nothing imports it.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, Self


class Meaning(NamedTuple):
    """What ``msgspec.Meta`` holds of a flag, which has no bounds."""

    description: str
    title: None = None
    gt: None = None
    ge: None = None
    lt: None = None
    le: None = None


class Switches(NamedTuple):
    """A flag for each service, all off."""

    query_optimizer: Annotated[bool, Meaning("switch the query optimizer on")] = False
    cache_manager: Annotated[bool, Meaning("switch the cache manager on")] = False
    connection_pooling: Annotated[bool, Meaning("switch the connection pool manager on")] = False
    rate_limiter: Annotated[bool, Meaning("switch the rate limiter on")] = False
    batch_processor: Annotated[bool, Meaning("switch the batch processor on")] = False
    load_balancer: Annotated[bool, Meaning("switch the load balancer on")] = False
    outbound: Annotated[bool, Meaning("switch flood control for messages to Telegram on")] = False

    # As ``Settings`` has them.

    @classmethod
    def hint(cls, name: str) -> Any:
        """A flag's type with its meaning."""
        return cls.__annotations__[name]

    @classmethod
    def setting_names(cls) -> dict[str, str]:
        """Field -> the name of its setting."""
        return {field: f"ENABLE_{field.upper()}" for field in cls._fields}

    @classmethod
    def prepared(cls, field: str, name: str, value: Any, source: str) -> Any:
        """What a source has for a flag is checked as it is."""
        return value

    def replaced(self, values: Mapping[str, Any], named: Callable[[str], str]) -> Self:
        """These flags with others. They need no check against each other."""
        return self._replace(**values)
