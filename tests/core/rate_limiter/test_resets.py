"""What Redis has to forgive, and what stays owed while it is away."""

import pytest

from bot.core.rate_limiter.messages import CHANNEL, reset_message
from bot.core.rate_limiter.mirror import RESET_ARGUMENT, Mirror, client_key
from bot.core.rate_limiter.models import RateLimitConfig
from bot.core.rate_limiter.penalty import Penalties
from bot.core.rate_limiter.resets import MAX_OWED, OwedResets
from bot.core.redis_link import RedisUnavailableError
from tests.support.clock import VirtualClock


class Redis:
    """Answers resets, notes what it is told, and can be away."""

    root, root_bytes = "", b""

    def __init__(self) -> None:
        self.known = {client_key("u")}
        self.told: list[tuple[object, ...]] = []
        self.away_after: int | None = None

    def _here(self) -> None:
        if self.away_after is not None and len(self.told) >= self.away_after:
            raise RedisUnavailableError("away")

    async def call(self, key: bytes, argument: bytes) -> tuple[float, float, float, float]:
        self._here()
        self.told.append((key, argument))
        found = key in self.known
        self.known.discard(key)
        return 0.0, float(found), 0.0, 0.0

    async def execute(self, *command: object) -> None:
        self._here()
        self.told.append(command)


@pytest.fixture
def redis():
    return Redis()


@pytest.fixture
def owed(redis):
    return OwedResets(redis, redis.call)


async def test_a_client_is_forgiven_before_anybody_is_told(owed, redis):
    owed.add([("u", None)])
    assert await owed.settle(("u", None)) is True
    assert redis.told == [
        (client_key("u"), RESET_ARGUMENT),
        ("PUBLISH", CHANNEL, reset_message(client_key("u"), "u", b"")),
    ]
    assert not owed


async def test_redis_may_have_known_nothing_of_it(owed):
    assert await owed.settle(("stranger", None)) is False


async def test_one_limit_is_forgiven_by_its_own_name(owed, redis):
    mirror = Mirror(RateLimitConfig(1.0, 1), Penalties(2.0, 60.0, 1.0), VirtualClock(), "limit", "one")
    await owed.settle(("u", mirror))
    assert redis.told == [
        (client_key("u"), mirror.reset_argument()),
        ("PUBLISH", CHANNEL, reset_message(client_key("u"), "u", mirror.limit_id)),
    ]


@pytest.mark.parametrize("away_after", [0, 1])
async def test_it_stays_owed_until_redis_has_it_and_all_are_told(owed, redis, away_after):
    redis.away_after = away_after
    owed.add([("u", None)])
    with pytest.raises(RedisUnavailableError):
        await owed.settle(("u", None))
    assert len(owed) == 1
    redis.away_after = None
    await owed.settle_all()
    assert not owed


async def test_those_that_redis_misses_again_wait_for_the_next_time(owed, redis):
    owed.add([("a", None), ("b", None)])
    redis.away_after = 2
    await owed.settle_all()
    assert len(owed) == 1
    redis.away_after = None
    await owed.settle_all()
    assert [told[0] for told in redis.told if told[0] != "PUBLISH"] == [client_key("a"), client_key("b")]


def test_no_more_are_remembered_than_a_bound(owed):
    owed.add((number, None) for number in range(MAX_OWED + 100))
    assert len(owed) == MAX_OWED
