"""Sentinels name the primary, and every service follows it through failovers of three real servers."""

import asyncio
import contextlib
import secrets
import time

import pytest

from bot.core._shared.errors import BackendError
from bot.core.outbound import Request
from bot.core.rate_limiter import RateLimitConfig
from bot.core.redis_link import RedisLink, RedisUnavailableError
from tests.support.sentinels import Failover
from tests.support.waiting import equals, until
from tests.support.whole_bot import WholeBot

pytestmark = pytest.mark.server

BURST = 50
CLIENTS = 5
LIMIT = RateLimitConfig(BURST / 36_000, BURST)
LAG = 1.0
"""Seconds before the death of a primary in which what it acknowledged may not have reached a replica."""


@pytest.fixture(scope="module")
def three():
    found = Failover()
    try:
        found.start()
        yield found
    finally:
        found.close()


@pytest.fixture
async def link(three):
    made = RedisLink(three.url())
    yield made
    await made.close()


class Load:
    """Two instances that use everything all the time, and what came of it."""

    def __init__(self, bots):
        self.bots = bots
        self.name = secrets.token_hex(4)
        self.errors = []
        self.old_values = []
        self.refused = 0
        self.allowed = {}
        self.sent = 0
        self.acknowledged = {}
        self.read = 0
        self.newest = {}
        self.over = False

    def is_enough(self):
        """Whether there was enough of everything for the checks that follow."""
        spent = len(self.allowed) == CLIENTS and min(self.allowed.values()) >= BURST
        return spent and min(self.sent, self.read, len(self.acknowledged)) > 100

    async def run(self):
        async with asyncio.TaskGroup() as group:
            for number, bot in enumerate(self.bots):
                for work in (self.cache, self.limits, self.messages, self.submit):
                    group.create_task(self.repeat(work, bot, number))

    async def repeat(self, work, bot, number):
        turn = 0
        while not self.over:
            turn += 1
            try:
                await work(bot, number, turn)
            except Exception as error:
                self.errors.append((work.__name__, error))
            await asyncio.sleep(0.004)

    async def cache(self, bot, number, turn):
        key = f"{self.name}-{number}-{turn % 20}"

        async def load():
            return turn

        await bot.cache.set(key, turn, ttl=600, tags=["t"])
        self.newest[key] = turn
        if await bot.cache.get(key) not in (turn, None):
            self.old_values.append(time.monotonic())
        await bot.cache.get_or_load(f"l{turn % 50}", load)
        await bot.cache.delete(f"l{(turn + 25) % 50}")
        self.read += 1

    async def limits(self, bot, number, turn):
        client = f"{self.name}-{turn % CLIENTS}"
        if (await bot.limiter.is_allowed(client, LIMIT))[0]:
            self.allowed[client] = self.allowed.get(client, 0) + 1

    async def messages(self, bot, number, turn):
        async def send():
            self.sent += 1

        with_chat = Request("sendChatAction", chat=1000 + turn % 500)
        await bot.outbound.call(send, with_chat)

    async def submit(self, bot, number, turn):
        # Durable: what cannot be kept is refused, and the answer says so.
        item = f"{self.name}-{number}-{turn}"
        if (await bot.batches.submit_item(item, key=item)).success:
            self.acknowledged[item] = time.monotonic()
        else:
            self.refused += 1


@contextlib.asynccontextmanager
async def load_on(three):
    bots = [WholeBot(three.url(), PHASE4_KEY_PREFIX="shop", BATCH_MAX_SIZE=20) for _ in range(2)]
    for bot in bots:
        await bot.start()
    load = Load(bots)
    running = asyncio.create_task(load.run())
    try:
        yield load
    finally:
        load.over = True
        await running
        for bot in bots:
            await bot.stop()


async def settled(load):
    """All services of all instances are whole again, and nothing waits in the queue."""

    async def whole():
        figures = [service.statistics() for bot in load.bots for service in bot.services]
        return not any(one.get("degraded") for one in figures)

    await until(whole, 20)
    a, b = load.bots
    await a.cache.set("after", 1)
    await until(lambda: equals(lambda: b.cache.get("after"), 1), 20)
    await a.cache.set("after", 2)
    await until(lambda: equals(lambda: b.cache.get("after"), 2), 20)


async def handled(load, since, until_):
    """Wait until what was acknowledged is handled, but for what was acknowledged between these times."""

    def missing():
        done = {item for bot in load.bots for item in bot.handled}
        return {item for item in load.acknowledged if item not in done}

    async def only_lost():
        return all(since <= load.acknowledged[item] <= until_ for item in missing())

    await until(only_lost, 30)
    return missing()


async def test_a_sentinel_that_is_down_or_silent_costs_little(three, link):
    first, second, _ = three.sentinels
    first.kill()
    try:
        begun = time.monotonic()
        assert await link.execute("PING")
        second.freeze()
        connection = await link.open_connection()
        await link.close_connection(connection)
        assert await link.execute("PING")
        assert time.monotonic() - begun < 10  # it did not hang; how long it takes is no matter here
        second.thaw()
    finally:
        second.thaw()
        first.start()


async def test_sentinels_that_do_not_know_the_service_and_none_that_answers(three):
    link = RedisLink(three.url(service="other"))
    with pytest.raises(
        RedisUnavailableError, match=r"no sentinel knows the primary other: .* does not know it"
    ):
        await link.execute("PING")
    assert not link.available
    await link.close()
    link = RedisLink("redis+sentinel://127.0.0.1:1,127.0.0.1:2/main")
    with pytest.raises(RedisUnavailableError, match=r"no sentinel knows the primary main: 127.0.0.1:1: "):
        await link.execute("PING")
    assert "no sentinel knows the primary main" in link.warnings("alone")[0]
    await link.close()


async def test_a_caller_that_is_cancelled_while_sentinels_are_asked_leaves_nothing(three):
    first = three.sentinels[0]
    first.freeze()
    try:
        for turns in range(1, 9):
            link = RedisLink(three.url())
            task = asyncio.create_task(link.execute("PING"))
            for _ in range(turns):
                await asyncio.sleep(0.002 * turns)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, BackendError):
                await task
            await link.close()
    finally:
        first.thaw()


async def test_a_sentinel_that_names_a_replica_is_not_believed(three):
    replica = next(node for node in three.nodes if three.info(node)["role"] == "slave")
    async with LyingSentinel(replica.port) as liar:
        honest = three.sentinels[0].port
        link = RedisLink(f"redis+sentinel://127.0.0.1:{liar.port},127.0.0.1:{honest}/main")

        async def works():
            with contextlib.suppress(BackendError):
                return await link.execute("SET", "k", "v") is not None
            return False

        await until(works)
        assert three.primary().execute("GET", "k") == b"v"
        await link.close()


class LyingSentinel:
    """Says what it was told, to everything."""

    def __init__(self, port, answer=None):
        named = str(port).encode()
        self.answer = answer or b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(named), named)

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.talk, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def talk(self, reader, writer):
        while data := await reader.read(65_536):
            for _ in range(data.count(b"*")):
                writer.write(self.answer if b"SENTINEL" in data else b"+OK\r\n")
        writer.close()

    async def __aexit__(self, *exc):
        self.server.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"*2\r\n$9\r\n127.0.0.1\r\n$1\r\n0\r\n", b"*2\r\n$9\r\n127.0.0.1\r\n$5\r\n99999\r\n", b":1\r\n",
        b"*1\r\n$1\r\na\r\n", b"*2\r\n$0\r\n\r\n$1\r\n1\r\n", b"$5\r\nhello\r\n", b"-ERR no\r\n",
        b"nonsense\r\n",
        b"*2\r\n$3\r\na b\r\n$1\r\n1\r\n", b"*2\r\n$2\r\n\xff\xfe\r\n$1\r\n1\r\n", b"*2\r\n*0\r\n*0\r\n",
        b"$536870912\r\n",
    ],
)  # fmt: skip
async def test_nonsense_of_a_sentinel_is_no_address(answer):
    async with LyingSentinel(0, answer) as liar:
        link = RedisLink(f"redis+sentinel://127.0.0.1:{liar.port}/main", timeout=0.5)
        with pytest.raises(RedisUnavailableError, match=r"no sentinel knows the primary main"):
            await link.execute("PING")
        await link.close()


async def test_a_sentinel_that_wants_a_password():
    found = Failover(password="sentinel-pw", extra=("--requirepass", "data-pw", "--masterauth", "data-pw"))
    found.data_password = "data-pw"
    try:
        found.start()
        link = RedisLink(found.url(":data-pw@", query="?sentinel_password=sentinel-pw"))
        assert await link.execute("SET", "k", "v")
        await link.close()
        wrong = RedisLink(found.url(":data-pw@"))
        with pytest.raises(RedisUnavailableError, match=r"no sentinel knows") as caught:
            await wrong.execute("PING")
        assert "data-pw" not in str(caught.value)
        assert "sentinel-pw" not in str(caught.value)
        await wrong.close()
    finally:
        found.close()


async def test_an_orderly_failover_under_load(three, monkeypatch):
    link = RedisLink(three.url())
    script = link.batched_script("return {redis.call('INCR', KEYS[1])}", lambda found, calls: found)
    heard = []
    subscription = link.listen("channel", heard.append, lambda stands: None)
    assert await script.call(b"moving", b"") == 1
    assert await link.reader.get(b"moving") == b"1"
    left_at = []
    leave = RedisLink._leave_for

    def note(link, client):
        left_at.append(time.monotonic())
        leave(link, client)

    monkeypatch.setattr(RedisLink, "_leave_for", note)
    async with load_on(three) as load:
        await asyncio.sleep(0.3)
        before = three.primary()
        asked_at = time.monotonic()
        await asyncio.to_thread(three.ask, three.sentinels[0], "SENTINEL FAILOVER", "main")
        await asyncio.to_thread(three.failed_over, before)
        await settled(load)
        load.over = True
        # What the old primary took after the promotion, until the sentinels' word arrived, is lost. A link
        # that waited for READONLY would go on there for ten seconds.
        await handled(load, asked_at - LAG, left_at[-1] + LAG)
        assert load.errors == []
        assert all(asked_at - LAG <= at <= left_at[-1] + LAG for at in load.old_values)
        assert all(count <= 2 * BURST for count in load.allowed.values())
    # Scripts, reads and subscriptions have moved together, before the old primary knew of anything.
    after = three.primary()
    assert after is not before
    value = await script.call(b"moving", b"")
    assert after.execute("GET", "moving") == b"%d" % value
    assert await link.reader.get(b"moving") == b"%d" % value

    async def hears():
        after.execute("PUBLISH", "channel", "m")
        return b"m" in heard

    await until(hears)
    await subscription.stop()
    await script.stop()
    await link.close()


async def test_a_primary_that_is_killed_under_load(three, caplog):
    async with load_on(three) as load:
        await asyncio.sleep(0.5)
        before = three.primary()
        killed_at = time.monotonic()
        before.kill()
        await asyncio.to_thread(three.failed_over, before)
        await settled(load)
        async with asyncio.timeout(60):
            while not load.is_enough():
                await asyncio.sleep(0.01)
        load.over = True
        lost = await handled(load, killed_at - LAG, killed_at)
        assert load.errors == []
        # Each instance limits on its own while there is no primary, and knows what it heard before.
        assert all(BURST <= count <= 2 * BURST for count in load.allowed.values())
        # The bound of asynchronous replication; on one machine nothing is lost as a rule.
        assert len(lost) <= 20
        # Nothing stale stays: each instance reads what was written last.
        settled_at = time.monotonic()
        assert all(killed_at - LAG <= at <= settled_at for at in load.old_values)
        for key, newest in load.newest.items():
            for bot in load.bots:
                assert await bot.cache.get(key) in (newest, None)
    assert caplog.text.count("is away") <= 6  # a line for each link that noticed, not one for each call
    assert "the primary is 127.0.0.1:" in caplog.text
    # The one that was killed comes back as a primary, empty, and is demoted; nobody goes there.
    link = RedisLink(three.url())
    await link.execute("SET", "here", "now")
    before.start()
    for _ in range(50):
        assert await link.execute("GET", "here") == b"now"
        await link.execute("INCR", "writes")
        connection = await link.open_connection()
        assert connection.port == three.primary_by_sentinels()
        await link.close_connection(connection)
        await asyncio.sleep(0.01)
    await asyncio.to_thread(three.wait, lambda: three.info(before)["role"] == "slave")
    assert await link.execute("GET", "writes") == b"50"
    await link.close()


@pytest.mark.parametrize("name", ["asyncio", "uvloop"])
def test_under_another_event_loop_it_goes_on(three, name):
    link = RedisLink(three.url())
    heard = []

    async def use(last):
        assert await link.execute("SET", "loop", name)
        assert await link.reader.get(b"loop") == name.encode()
        if not last:
            link.listen("loops", heard.append, lambda stands: None)
            return

        async def told():
            await link.execute("PUBLISH", "loops", "m")
            return bool(heard)

        await until(told)
        for subscription in list(link._subscriptions):
            await subscription.stop()
        await link.close()
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) == 1

    run = asyncio.run if name == "asyncio" else pytest.importorskip("uvloop").run
    run(use(False))
    run(use(True))
