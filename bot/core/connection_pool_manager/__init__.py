"""Connection pools over real databases. Importing this imports no driver."""

from bot.core.connection_pool_manager.errors import (
    LeaseError,
    LeaseReleasedError,
    ListenError,
    MissingDriverError,
    PoolClosedError,
    PoolConnectError,
    PoolSetupError,
    PoolTimeoutError,
    QueryTimeoutError,
    TransactionAbortedError,
    UnknownPoolError,
)
from bot.core.connection_pool_manager.lease import PooledConnection
from bot.core.connection_pool_manager.models import BackendType, PoolHealth, PoolOptions
from bot.core.connection_pool_manager.notifications import Notification
from bot.core.connection_pool_manager.service import ConnectionPoolManager

__all__ = [
    "BackendType",
    "ConnectionPoolManager",
    "LeaseError",
    "LeaseReleasedError",
    "ListenError",
    "MissingDriverError",
    "Notification",
    "PoolClosedError",
    "PoolConnectError",
    "PoolHealth",
    "PoolOptions",
    "PoolSetupError",
    "PoolTimeoutError",
    "PooledConnection",
    "QueryTimeoutError",
    "TransactionAbortedError",
    "UnknownPoolError",
]
