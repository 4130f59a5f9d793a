"""The settings of durable mode."""

from __future__ import annotations

from msgspec import Struct


class Limits(Struct):
    """As ``BatchProcessor.enable`` has them. The parts of a store share one, which the service changes."""

    lease: float = 30.0
    """Seconds without a sign after which what an instance holds goes to another one."""
    max_deliveries: int = 5
    """Instances that may end before they have handled an item, after which it is given up."""
    max_item_bytes: int = 1_048_576
    """Of an item or a result, as MessagePack."""

    @property
    def alone_from(self) -> int:
        """Deliveries from which an item is claimed one at a time, and handled alone.

        What an item that ends its process held beside it would otherwise be given up with it.
        """
        return max(1, self.max_deliveries - 2)
