"""The settings of durable mode."""

from __future__ import annotations

from msgspec import Struct

from bot.core.phase4_config.batch_processor import DEFAULTS, BatchProcessorSettings


class Limits(Struct):
    """As ``BatchProcessor.enable`` has them. The parts of a store share one, which the service changes."""

    lease: float = DEFAULTS.lease
    """Seconds without a sign after which what an instance holds goes to another one."""
    max_deliveries: int = DEFAULTS.max_deliveries
    """Instances that may end before they have handled an item, after which it is given up."""
    max_item_bytes: int = DEFAULTS.max_item_bytes
    """Of an item or a result, as MessagePack."""

    def configure(self, settings: BatchProcessorSettings) -> None:
        self.lease = settings.lease
        self.max_deliveries = settings.max_deliveries
        self.max_item_bytes = settings.max_item_bytes

    @property
    def alone_from(self) -> int:
        """Deliveries from which an item is claimed one at a time, and handled alone.

        What an item that ends its process held beside it would otherwise be given up with it.
        """
        return max(1, self.max_deliveries - 2)
