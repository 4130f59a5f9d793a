"""Several bots on one Redis, each under a prefix of its own."""

import asyncio
import threading
import time

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.phase4_config import ConfigError, Phase4Config
from bot.core.redis_link import RedisLink
from tests.support.servers import RedisCluster
from tests.support.waiting import until
from tests.support.whole_bot import HOURLY, WholeBot, places_of, words_of


@pytest.fixture
def monitored(redis_server):
    """The commands that the server runs from now on, those of scripts among them."""
    import redis

    lines = []
    client = redis.Redis(port=redis_server.port)
    connection = client.connection_pool.get_connection()
    connection.send_command("MONITOR")
    connection.read_response()

    def read():
        try:
            while True:
                lines.append(connection.read_response(disable_decoding=True))
        except Exception:
            return  # closed: the test is over

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    yield lines
    connection.disconnect()
    client.close()


def named_places(lines, raw):
    """All keys, channels and patterns of the commands until now."""
    raw.echo("the end")
    deadline = time.monotonic() + 20
    while not any(b"the end" in line for line in lines):  # they come by a connection of their own
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return {place for line in list(lines) for place in places_of(words_of(line), raw)}


async def test_no_key_or_channel_lies_outside_and_neither_bot_meets_the_other(redis_server, monitored):
    import redis

    one = WholeBot(redis_server.url, PHASE4_KEY_PREFIX="one")
    two = WholeBot(redis_server.url, PHASE4_KEY_PREFIX="two")
    for bot in (one, two):
        await bot.start()
    await one.use("of one")
    await two.use("of two")

    # Each has its own values, limits and queue, under the same names.
    assert await one.cache.get("plain") == "of one"
    assert await two.cache.get("plain") == "of two"
    for _ in range(3):
        await one.limiter.is_allowed("abuser", HOURLY)
    assert not (await one.limiter.is_allowed("abuser", HOURLY))[0]
    assert (await two.limiter.is_allowed("abuser", HOURLY))[0]
    assert one.handled == ["of one", "bad", "bad"]
    assert two.handled == ["of two", "bad", "bad"]
    assert await two.batches.discard_dead_letters() == 1
    assert await one.batches.count_dead_letters() == 1

    # What one drops and announces, the other keeps, in memory and in Redis.
    with redis.Redis(port=redis_server.port) as raw:
        of_two = set(raw.keys("two:p4c:v:*"))
    await one.cache.invalidate_tag("t")
    await one.limiter.reset_client("abuser")
    await one.outbound.release(-100)
    await one.cache.clear()
    with redis.Redis(port=redis_server.port) as raw:
        assert not raw.keys("one:p4c:v:*")
        assert len(of_two) > 3
        assert set(raw.keys("two:p4c:v:*")) == of_two
    assert two.cache.get_local("plain") == "of two"
    assert await two.cache.get("tagged", "n") == "of two"
    assert (await two.cache.get_statistics())["l2_malformed_messages"] == 0
    await one.stop()
    await two.stop()

    with redis.Redis(port=redis_server.port) as raw:
        names = raw.keys("*")
        assert len(names) > 20
        assert {name.partition(b":")[0] for name in names} == {b"one", b"two"}
        places = named_places(monitored, raw)
    assert {place.partition(b":")[0] for place in places} == {b"one", b"two"}
    kinds = {place.partition(b":")[2][:4] for place in places}
    assert kinds == {b"p4c:", b"p4r:", b"{p4o", b"p4o:", b"phas"}


async def test_without_a_prefix_keys_are_as_they_always_were(redis_server, monitored):
    import redis

    bot = WholeBot(redis_server.url)
    await bot.start()
    await bot.use("word")
    await bot.stop()
    with redis.Redis(port=redis_server.port) as raw:
        places = named_places(monitored, raw)
    assert {place[:4] for place in places} == {b"p4c:", b"p4r:", b"{p4o", b"p4o:", b"phas"}
    assert {b"p4c:changes:0", b"p4r:reset", b"p4o:release", b"p4r:i:42", b"{p4o:7}:w:-100"} <= places
    assert b"phase4:{batch:default}:items" in places


async def test_instances_of_one_bot_share_what_lies_under_its_prefix(redis_server):
    bots = [WholeBot(redis_server.url, PHASE4_KEY_PREFIX="shop") for _ in range(2)]
    a, b = bots
    for bot in bots:
        await bot.start()
    await a.cache.set("k", 1)
    assert await b.cache.get("k") == 1
    await a.cache.set("k", 2)
    await until(lambda: _is(b.cache.get("k"), 2))
    for _ in range(3):
        await a.limiter.is_allowed("c", HOURLY)
    assert not (await b.limiter.is_allowed("c", HOURLY))[0]
    await a.limiter.reset_client("c")  # a message: b has remembered the refusal
    await until(lambda: _is_allowed(b))
    # A place in a line that is given back moves those of the other instance up.
    for bot in bots:
        await bot.stop()
    assert not RedisLink._links


async def _is(value, wanted):
    return await value == wanted


async def _is_allowed(bot):
    return (await bot.limiter.is_allowed("c", HOURLY))[0]


async def test_a_place_given_back_by_one_instance_moves_up_those_of_another(redis_server):
    from bot.core.rate_limiter import RateLimitConfig

    bots = [WholeBot(redis_server.url, PHASE4_KEY_PREFIX="shop") for _ in range(2)]
    for bot in bots:
        await bot.start()
    a, b = (bot.limiter for bot in bots)
    slow = RateLimitConfig(1.0, 1)
    await a.acquire("u", config=slow)
    first = asyncio.create_task(a.acquire("u", config=slow, timeout=3600))
    await asyncio.sleep(0.1)
    hogs = [asyncio.create_task(a.acquire("u", config=slow, timeout=3600)) for _ in range(60)]
    await asyncio.sleep(0.1)
    last = asyncio.create_task(b.acquire("u", config=slow, timeout=3600))
    await asyncio.sleep(0.2)
    for hog in hogs:
        hog.cancel()
    await first
    async with asyncio.timeout(30):  # a minute, if it were not told
        await last
    await asyncio.gather(*hogs, return_exceptions=True)
    for bot in bots:
        await bot.stop()


@pytest.mark.parametrize(
    "prefix",
    [
        "a:b", "a:", ":", "{a}", "a*", "a?", "[a]", "a b", "a\n", "\ta", "a\0", "-a", ".a", "ä", "é1",
        "x" * 65, "\\", "a/b", "%41", "\ud800",
    ],
)  # fmt: skip
def test_a_prefix_that_is_none_is_refused_by_the_setting_and_in_a_url(prefix):
    with pytest.raises(ConfigError, match=r"PHASE4_KEY_PREFIX = .*1 to 64 of A-Z"):
        Phase4Config.from_mapping({"PHASE4_KEY_PREFIX": prefix})
    if prefix.isascii() and "%" not in prefix:
        from urllib.parse import quote

        with pytest.raises(InvalidArgumentError, match=r"key_prefix of the redis url = .*1 to 64 of A-Z"):
            RedisLink(f"redis://127.0.0.1:1/0?key_prefix={quote(prefix)}")


@pytest.mark.parametrize("prefix", [True, 5, b"x", ["a"]])
def test_a_prefix_is_text(prefix):
    with pytest.raises(ConfigError, match="PHASE4_KEY_PREFIX"):
        Phase4Config.from_mapping({"PHASE4_KEY_PREFIX": prefix})


@pytest.mark.parametrize("prefix", ["a", "shop", "shop-2.eu_x", "9", "p4r", "phase4", "x" * 64])
def test_a_prefix_ends_with_the_colon_after_it(prefix):
    config = Phase4Config.from_mapping({"PHASE4_KEY_PREFIX": prefix, "BATCH_REDIS_URL": "redis://h:1/2?db=3"})
    link = RedisLink(config.redis_url("BATCH_REDIS_URL"))
    assert link.root == f"{prefix}:"
    assert link.root_bytes == f"{prefix}:".encode()
    assert "key_prefix" not in link.breaker.name


def test_the_url_wins_over_the_setting_and_an_empty_url_stays_empty():
    config = Phase4Config.from_mapping(
        {"PHASE4_KEY_PREFIX": "shop", "BATCH_REDIS_URL": "redis://h:1/0?key_prefix=mine"}
    )
    assert RedisLink(config.redis_url("BATCH_REDIS_URL")).root == "mine:"
    assert config.redis_url("RATE_LIMIT_REDIS_URL") == ""
    assert config.redis_url("REDIS_URL") == ""


@pytest.mark.parametrize("prefix", ["p4r", "p4o", "p4c", "phase4"])
async def test_a_prefix_that_looks_like_a_service_separates_too(redis_server, prefix):
    plain, prefixed = WholeBot(redis_server.url), WholeBot(redis_server.url, PHASE4_KEY_PREFIX=prefix)
    for bot, word in ((plain, "a"), (prefixed, "b")):
        await bot.start()
        await bot.use(word)
    await plain.cache.clear()
    assert await prefixed.cache.get("plain") == "b"
    await plain.cache.set("plain", "a")
    await prefixed.cache.clear()
    plain.cache._tiers.local.forget()
    assert await plain.cache.get("plain") == "a"
    for bot in (plain, prefixed):
        await bot.stop()


@pytest.mark.server
async def test_in_a_cluster_what_must_be_on_one_node_stays_there():
    from redis.crc import key_slot

    cluster = RedisCluster()
    cluster.start()
    try:
        bot = WholeBot(cluster.url, PHASE4_KEY_PREFIX="shop")
        await bot.start()
        await bot.use("word")
        await bot.stop()
        names = [name for node in cluster.nodes for name in node.execute("KEYS", "*")]
    finally:
        cluster.close()
    assert {name.partition(b":")[0] for name in names} == {b"shop"}
    assert len({key_slot(name) for name in names if b"{p4o:7}" in name}) == 1
    assert len({key_slot(name) for name in names if b"{batch:default}" in name}) == 1
