"""Single decisions of a pool; histories of them are in tests/properties/test_connection_pool.py."""

from __future__ import annotations

from bot.core.connection_pool_manager.models import PoolOptions
from bot.core.connection_pool_manager.pool import Open, Pool, Slot, Waiter


def test_a_smaller_pool_has_shrunk_also_when_a_connection_could_not_be_opened():
    pool = Pool(PoolOptions(min_size=0, max_size=2))
    first, second = Waiter(0.0), Waiter(0.0)
    actions = pool.request(first, 0.0) + pool.request(second, 0.0)
    assert [type(action) for action in actions] == [Open, Open]

    pool.reconfigure(PoolOptions(min_size=0, max_size=1), 0.0)
    pool.open_failed(ConnectionError("refused"), 0.0)
    slot = Slot(object(), 1)
    pool.opened(slot, 0.0)
    pool.withdraw(second, 0.0)

    assert first.slot is slot
    assert pool.put(slot, 0.0), "the short way of giving back is open again"
    pool.check_invariants()
