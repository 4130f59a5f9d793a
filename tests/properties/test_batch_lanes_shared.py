"""The scripts of lanes between consumers that read, die, lose leases and end items, against a naive model."""

import asyncio
import uuid
from collections import defaultdict

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot.core.batch_processor.durable.streams import Added, Settlement, Streams
from bot.core.batch_processor.durable.values import value_of
from bot.core.redis_link import RedisLink
from tests.support.searching import searching
from tests.support.servers import RedisServer, running

pytestmark = pytest.mark.server

NEVER, AT_ONCE = 3_600_000, 0
consumers = st.sampled_from("abc")
number = st.integers(0, 10**6)
actions = st.one_of(
    st.tuples(st.just("add"), st.sampled_from([b"", b"s1", b"s2", b"i3"]), number),
    *[st.tuples(st.just("add"), st.just(b"s1"), number)] * 3,
    *[st.tuples(st.just("read"), consumers, st.integers(1, 4))] * 3,
    *[st.tuples(st.just("gate"), consumers, number)] * 3,
    *[st.tuples(st.just("claim"), consumers, st.sampled_from([NEVER, NEVER, AT_ONCE]))] * 2,
    st.tuples(st.just("end"), consumers, number),
    st.tuples(st.just("end and take"), consumers, number),
    st.tuples(st.just("end again"), consumers, number),
    st.tuples(st.just("give back"), consumers, number),
    st.tuples(st.just("die"), consumers, number),
)


class World:
    """The model: what was added in each lane, what ended in each, and what each consumer knows it has."""

    def __init__(self, streams):
        self.streams = streams
        self.count = self.unread = 0
        self.lane_of = {}
        self.added, self.ended = defaultdict(list), defaultdict(list)
        self.ungated, self.has, self.told = defaultdict(list), defaultdict(dict), defaultdict(list)
        self.lost = defaultdict(set)  # what another claimed before this one looked at it

    async def add(self, lane, _):
        self.count += 1
        self.unread += 1
        name = str(self.count)
        assert (await self.streams.add([Added(name, value_of(name, 0, 0), lane)], 10_000))[0] == [1]
        newest = await self.streams.last_entry()
        self.lane_of[newest] = lane, name
        self.added[lane].append(newest)

    async def read(self, who, count):
        if self.unread:  # a read of nothing waits for a tenth of a second
            found = await self.streams.read(who, count, 1)
            self.unread -= len(found)
            self.ungated[who] += found

    async def gate(self, who, _):
        waiting, self.ungated[who] = self.ungated[who], []
        self.hold(who, await self.streams.gate(who, waiting))

    async def claim(self, who, lease):
        claimed = await self.streams.claim(who, lease, 100, 1_000, 2_000, alone=True)
        for one in claimed:
            self.lost[who].discard(one.entry)
            for other in "abc":
                if other != who and any(one.entry == seen.entry for seen in self.ungated[other]):
                    self.lost[other].add(one.entry)
                # It does not know that it lost the lease: it goes on, and may say later that the item ended.
                if other != who and one.entry in self.has[other]:
                    self.told[other].append(self.has[other].pop(one.entry))
        self.hold(who, await self.streams.gate(who, claimed))

    def hold(self, who, deliveries):
        for one in deliveries:
            lane = self.lane_of[one.entry][0]
            assert one.lane == lane
            if not lane and (one.entry in self.ended[lane] or one.entry in self.lost[who]):
                continue  # it was late to look, and may handle it once more
            if lane:
                assert one.entry not in self.ended[lane], "it has not ended"
                first = self.added[lane][len(self.ended[lane])]
                assert one.entry == first, "only the first of a lane is in anybody's hands"
                holders = [other for other in "abc" if other != who and one.entry in self.has[other]]
                assert not holders, "and in one's only"
            self.has[who][one.entry] = one

    async def settle(self, who, one, *, take):
        settlement = Settlement(one.entry, self.lane_of[one.entry][1], b"by " + who.encode(), lane=one.lane)
        (flag,), following = await self.streams.settle(who, [settlement], 60_000, 10, take_next=take)
        return flag, following

    async def end(self, who, which, *, take=False):
        mine = list(self.has[who].values())
        if not mine:
            return
        one = mine[which % len(mine)]
        lane = self.lane_of[one.entry][0]
        flag, following = await self.settle(who, one, take=take)
        assert flag, "who has the lease ends it"
        del self.has[who][one.entry]
        self.ended[lane].append(one.entry)
        if which % 2:
            self.hold(who, following)  # otherwise the answer is lost, and the end is told again
        else:
            again, following_again = await self.settle(who, one, take=take)
            assert again
            assert {one.entry for one in following_again} >= {one.entry for one in following}
            fresh = [one for one in following_again if one not in self.ungated[who]]
            self.hold(who, fresh)

    async def end_and_take(self, who, which):
        await self.end(who, which, take=True)

    async def end_again(self, who, which):
        """A consumer that lost its lease tells an end: in a lane it changes nothing."""
        if not self.told[who]:
            return
        one = self.told[who][which % len(self.told[who])]
        lane = self.lane_of[one.entry][0]
        mine = one.entry in self.has[who]
        if not lane or mine:
            return
        before = [entry in self.ended[lane] for entry in self.added[lane]]
        _, following = await self.settle(who, one, take=False)
        assert following == []
        assert before == [entry in self.ended[lane] for entry in self.added[lane]]

    async def give_back(self, who, _):
        mine, self.has[who] = self.has[who], {}
        await self.streams.give_back(who, [(entry, 0) for entry in mine], begun=False)

    async def die(self, who, _):
        """It forgets everything; what it had is claimed by others when the lease is over."""
        for known in (self.has, self.ungated, self.told):
            known[who].clear()

    async def finish(self):
        """One consumer lives, and ends everything."""
        for who in "abc":
            await self.die(who, 0)
        for _ in range(20 + 2 * self.count):
            await self.read("z", 100)
            await self.gate("z", 0)
            await self.claim("z", AT_ONCE)
            for one in list(self.has["z"].values()):
                flag, _ = await self.settle("z", one, take=False)
                assert flag
                del self.has["z"][one.entry]
                self.ended[self.lane_of[one.entry][0]].append(one.entry)
            if sum(map(len, self.ended.values())) == self.count:
                break
        for lane, entries in self.added.items():
            if lane:
                assert self.ended[lane] == entries, "all of a lane, in the order of their submission"
            else:
                assert sorted(self.ended[lane]) == sorted(entries)
        link, tag = self.streams.link, self.streams.items.rpartition(b":")[0]
        assert await link.execute("KEYS", tag.replace(b"[", b"\\[") + b":lane:*") == []


@pytest.fixture(scope="module")
def server():
    with running(RedisServer()) as server:
        yield server


LATE = [
    ("add", b"", 0),
    ("read", "c", 1),
    ("claim", "a", AT_ONCE),
    ("gate", "c", 0),
    ("end", "a", 0),
    ("end", "c", 0),
]
"""Two handle an item of no lane: one looked at it after the other had claimed it."""


@searching(60)
@example(script=LATE)
@given(script=st.lists(actions, min_size=30, max_size=60))
def test_lanes_between_consumers(server, script):
    async def live():
        link = RedisLink.shared(server.url)
        streams = Streams(link, f"lanes-{uuid.uuid4().hex[:8]}")
        try:
            await streams.make_group()
            world = World(streams)
            for what, first, second in script:
                await getattr(world, what.replace(" ", "_"))(first, second)
            await world.finish()
        finally:
            keys = await link.execute("KEYS", streams.items.rpartition(b":")[0] + b":*")
            if keys:
                await link.execute("DEL", *keys)
            await link.release()

    asyncio.run(live())
