"""Whether the database answers, for ``/health``."""

import asyncio

import pytest

from bot.service import database_probe as module
from bot.service.database import DatabaseUnavailableError
from bot.service.database_probe import TRY_SECONDS, DatabaseProbe


class Database:
    """Answers each query by the next of its acts."""

    def __init__(self, *acts):
        self.acts = list(acts)
        self.asked = 0

    async def fetch(self, query, params=()):
        self.asked += 1
        act = self.acts.pop(0) if self.acts else "answer"
        if act == "silence":
            await asyncio.Event().wait()
        if isinstance(act, asyncio.Event):
            await act.wait()
        if isinstance(act, Exception):
            raise act
        return [{"one": 1}]


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(module, "TRY_SECONDS", (0.05,) * len(TRY_SECONDS))


REFUSED = DatabaseUnavailableError("postgresql://u:hidden@host refused")


@pytest.mark.parametrize("acts", [[], ["silence"], ["silence", REFUSED], ["silence"] * 4])
async def test_a_connection_that_is_dead_is_not_the_database(acts):
    database = Database(*acts)
    assert await DatabaseProbe(database).failure() == ""
    assert database.asked == len(acts) + 1


@pytest.mark.parametrize(("act", "said"), [("silence", "no answer within"), (REFUSED, "refused")])
async def test_a_database_that_does_not_answer_is_told_with_the_reason(act, said):
    database = Database(*[act] * len(TRY_SECONDS))
    probe = DatabaseProbe(database)
    failure = await probe.failure()
    assert said in failure
    assert "hidden" not in failure
    assert await probe.failure() == "", "it is asked anew each time"


async def test_all_who_ask_at_the_same_time_share_one_query():
    gate = asyncio.Event()
    database = Database(gate)
    probe = DatabaseProbe(database)
    asking = [asyncio.create_task(probe.failure()) for _ in range(100)]
    await asyncio.sleep(0)
    asking.pop(0).cancel()
    gate.set()
    assert await asyncio.gather(*asking) == [""] * 99, "one who leaves takes it from nobody"
    assert database.asked <= 2


async def test_a_stop_leaves_no_probe_behind():
    probe = DatabaseProbe(Database("silence"))
    await probe.close()
    asking = asyncio.create_task(probe.failure())
    await asyncio.sleep(0)
    await probe.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert asyncio.all_tasks() == {asyncio.current_task()}
