"""Slots of one process against the plainest possible model, over random histories."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from bot.core.rate_limiter import ConcurrencyLimit, ConcurrencyLimitExceeded, RateLimiter
from tests.support.clock import VirtualClock, until_idle
from tests.support.searching import searching


class Model:
    """The slots of one client: who has one, and who waits until when."""

    def __init__(self, most):
        self.most = most
        self.held, self.line, self.refused = [], [], []

    def acquire(self, number, deadline, now):
        if not self.line and len(self.held) < self.most:
            self.held.append(number)
        elif deadline <= now:
            self.refused.append(number)
        else:
            self.line.append((number, deadline))

    def leave(self, number):
        self.held = [each for each in self.held if each != number]
        self.line = [each for each in self.line if each[0] != number]
        while self.line and len(self.held) < self.most:
            self.held.append(self.line.pop(0)[0])

    def pass_time(self, now):
        self.refused += [number for number, deadline in self.line if deadline <= now]
        self.line = [each for each in self.line if each[1] > now]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("acquire"), st.integers(0, 1), st.sampled_from([0.0, 2.5, 10.5, None])),
        st.tuples(st.just("leave"), st.integers(0, 40), st.none()),
        st.tuples(st.just("advance"), st.integers(1, 6), st.none()),
    ),
    max_size=40,
)


@given(most=st.integers(1, 3), history=steps)
@searching(150)
def test_slots_are_what_the_model_says(most, history):
    asyncio.run(follow(most, history))


async def follow(most, history):
    clock = VirtualClock()
    limiter, limit = RateLimiter(clock=clock), ConcurrencyLimit(most)
    await limiter.enable()
    models, tasks, clients = [Model(most), Model(most)], [], []
    now = 0.0
    for step, first, timeout in history:
        if step == "acquire":
            tasks.append(asyncio.create_task(limiter.acquire_slot(first, limit, timeout)))
            clients.append(first)
            models[first].acquire(len(tasks) - 1, float("inf") if timeout is None else now + timeout, now)
        elif step == "leave" and first < len(tasks):
            task = tasks[first]
            if not task.done():
                task.cancel()
            elif not task.cancelled() and task.exception() is None:
                task.result().release()
            models[clients[first]].leave(first)
        elif step == "advance":
            now += first
            await clock.advance(first)
            for model in models:
                model.pass_time(now)
        await until_idle(4)
        limiter._slots.check_invariants()
        for client, model in enumerate(models):
            status = await limiter.slot_status(client, limit)
            assert (status.in_flight, status.waiting) == (len(model.held), len(model.line))
            assert all(tasks[number].result().held for number in model.held)
            assert not any(tasks[number].done() for number, _ in model.line)
            assert all(
                isinstance(tasks[number].exception(), ConcurrencyLimitExceeded) for number in model.refused
            )
    await limiter.disable()
    await asyncio.gather(*tasks, return_exceptions=True)
