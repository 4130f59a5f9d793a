"""Runs that wait for each other are told; those that only seem to are left alone."""

import asyncio

import pytest

from bot.core._shared import singleflight
from bot.core._shared.errors import CircularLoadError
from bot.core._shared.singleflight import SingleFlight


class Loads:
    """Functions by name, each of which is run once for any number of concurrent callers."""

    def __init__(self, led=False):
        self.flights = SingleFlight(led=led)
        self.of = {}

    def __call__(self, name):
        return self.flights.run(name, lambda: self.of[name]())

    def define(self, function):
        self.of[function.__name__] = function
        return function


@pytest.fixture(params=[False, True], ids=["in tasks", "led"])
def loads(request):
    return Loads(led=request.param)


async def direct(call):
    return await call


async def gathered(call):
    return await asyncio.gather(asyncio.sleep(0), call)


async def in_a_task(call):
    return await asyncio.create_task(call)


async def in_a_task_that_is_awaited_later(call):
    task = asyncio.create_task(call)
    for _ in range(10):
        await asyncio.sleep(0)
    return await task


async def shielded(call):
    return await asyncio.shield(call)


async def within_a_limit(call):
    return await asyncio.wait_for(call, 60)


async def waited_for(call):
    [done], _ = await asyncio.wait([asyncio.create_task(call)])
    return done.result()


async def nested(call):
    return await asyncio.gather(asyncio.create_task(in_a_task(call)))


WAYS = [
    direct, gathered, in_a_task, in_a_task_that_is_awaited_later, shielded, within_a_limit, waited_for, nested
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
async def test_one_that_waits_for_itself(loads, way):
    @loads.define
    async def a():
        return await way(loads("a"))

    with pytest.raises(CircularLoadError, match=r"each one waits for the next: 'a' -> 'a'$"):
        await asyncio.wait_for(loads("a"), 30)
    assert len(loads.flights) == 0


@pytest.mark.parametrize("way", WAYS)
async def test_several_that_wait_for_each_other(loads, way):
    @loads.define
    async def a():
        return await way(loads("b"))

    @loads.define
    async def b():
        return await way(loads("c"))

    @loads.define
    async def c():
        return await way(loads("a"))

    with pytest.raises(CircularLoadError, match=r"'a' -> 'b' -> 'c' -> 'a'$"):
        await asyncio.wait_for(loads("a"), 30)


async def test_a_task_group(loads):
    @loads.define
    async def a():
        async with asyncio.TaskGroup() as group:
            group.create_task(loads("a"))

    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(loads("a"), 30)
    assert [type(error) for error in caught.value.exceptions] == [CircularLoadError]


async def test_two_callers_that_begin_at_both_ends(loads):
    both = asyncio.Barrier(2)

    @loads.define
    async def a():
        await both.wait()
        return await loads("b")

    @loads.define
    async def b():
        await both.wait()
        return await loads("a")

    results = await asyncio.wait_for(asyncio.gather(loads("a"), loads("b"), return_exceptions=True), 30)
    assert [type(result) for result in results] == [CircularLoadError] * 2


async def test_across_two_services(loads):
    others = Loads()

    @loads.define
    async def cached():
        return await others("SELECT 1")

    others.of["SELECT 1"] = lambda: loads("cached")
    with pytest.raises(CircularLoadError, match="'cached' -> 'SELECT 1' -> 'cached'"):
        await asyncio.wait_for(loads("cached"), 30)


async def test_a_task_that_nobody_waits_for_may_wait(loads, monkeypatch):
    monkeypatch.setattr(singleflight, "RECHECK_FIRST", 0.001)
    started = []
    done = asyncio.Event()

    @loads.define
    async def a():
        started.append(asyncio.create_task(loads("a")))
        await done.wait()
        return "a"

    call = asyncio.create_task(loads("a"))
    for _ in range(50):
        await asyncio.sleep(0.001)
    done.set()
    assert await call == "a"
    assert await asyncio.gather(*started) == ["a"]


async def test_a_task_that_outlives_its_run_may_load_it_again(loads):
    tasks = []
    go = asyncio.Event()

    async def again():
        await go.wait()
        return await loads("a")

    @loads.define
    async def a():
        if not tasks:
            tasks.append(asyncio.create_task(again()))
        return len(tasks)

    assert await loads("a") == 1
    go.set()
    assert await tasks[0] == 1


async def test_waiting_for_the_first_only_is_no_circle(loads):
    tasks = []

    @loads.define
    async def a():
        tasks[:] = [asyncio.create_task(loads("a")), asyncio.create_task(asyncio.sleep(0.01))]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return "a"

    assert await loads("a") == "a"
    assert await tasks[0] == "a"


async def test_siblings_and_recursion_to_another_key(loads):
    async def leaf():
        await asyncio.sleep(0)
        return 1

    loads.of["leaf"] = leaf
    loads.of["left"] = lambda: gathered(loads("leaf"))

    @loads.define
    async def root():
        return await asyncio.gather(loads("left"), loads("leaf"), loads("left"))

    assert await loads("root") == [[None, 1], 1, [None, 1]]

    def load(n):
        async def work():
            return 0 if n == 0 else 1 + await load(n - 1)

        return loads.flights.run(n, work)

    assert await load(500) == 500


async def test_a_call_that_goes_on_for_ever_ends(loads, monkeypatch):
    monkeypatch.setattr(singleflight, "MAX_NESTED", 100)

    def load(n):
        return loads.flights.run(("key", n), lambda: load(n + 1))

    with pytest.raises(RecursionError, match="100 loads wait for one another, the last is 'key'"):
        await load(0)
    started = []

    def count(n):
        started.append(n)
        return count_on(n + 1)

    async def count_on(n):
        return await loads.flights.run(n, lambda: count(n))

    with pytest.raises(RecursionError):
        await count_on(0)
    assert len(started) == 100


async def test_one_that_leaves_while_it_is_suspected(loads, monkeypatch):
    monkeypatch.setattr(singleflight, "RECHECK_FIRST", 0.001)
    tasks = []
    done = asyncio.Event()

    @loads.define
    async def a():
        tasks.append(asyncio.create_task(loads("a")))
        await done.wait()
        return "a"

    call = asyncio.create_task(loads("a"))
    for _ in range(20):
        await asyncio.sleep(0.001)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    done.set()
    assert await call == "a"


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("text", "'text'"),
        (7, "7"),
        ((1, "text", "other"), "'text'"),
        (((2, "deep"), 1), "'deep'"),
        ((), "()"),
        ((3,), "3"),
    ],
)
async def test_a_key_is_shown_by_its_first_text(key, shown):
    flights = SingleFlight()

    async def work():
        return await flights.run(key, work)

    with pytest.raises(CircularLoadError) as caught:
        await flights.run(key, work)
    assert str(caught.value).endswith(f"each one waits for the next: {shown} -> {shown}")


async def test_a_run_that_a_circle_hangs_on_to_is_waited_for_by_others(loads):
    """``a`` has a task that waits for ``a``, for whom nobody waits: ``b`` waits for it all the same."""
    tasks = []
    done = asyncio.Event()

    @loads.define
    async def a():
        tasks.append(asyncio.create_task(loads("a")))
        await done.wait()
        return "a"

    loads.of["b"] = lambda: loads("a")
    first = asyncio.create_task(loads("a"))
    await asyncio.sleep(0.005)
    second = asyncio.create_task(loads("b"))
    await asyncio.sleep(0.005)
    done.set()
    assert await asyncio.gather(first, second, *tasks) == ["a"] * 3


async def test_a_search_for_circles_passes_each_run_once(loads):
    """A task of ``a`` waits for ``a`` itself; ``c`` waits for ``b``, which waits for ``a``."""
    tasks = []
    done = asyncio.Event()

    @loads.define
    async def a():
        tasks.append(asyncio.create_task(loads("a")))
        await done.wait()
        return "a"

    loads.of["b"] = lambda: loads("a")
    loads.of["c"] = lambda: loads("b")
    calls = []
    for name in "abc":
        calls.append(asyncio.create_task(loads(name)))
        await asyncio.sleep(0.005)
    done.set()
    assert await asyncio.gather(*calls, *tasks) == ["a"] * 4


async def test_a_run_that_only_left_a_task_behind_which_waits_is_no_circle(loads):
    """``a`` waits for ``b``, and a task of ``b`` for ``a``; but ``b`` does not wait for its task."""
    tasks = []
    go_on = asyncio.Event()

    @loads.define
    async def a():
        await go_on.wait()
        return await loads("b")

    @loads.define
    async def b():
        tasks.append(asyncio.create_task(loads("a")))
        await go_on.wait()
        await asyncio.sleep(0.005)
        return "b"

    calls = [asyncio.create_task(loads(name)) for name in "ab"]
    await asyncio.sleep(0.005)
    go_on.set()
    assert await asyncio.gather(*calls, *tasks) == ["b"] * 3


async def test_who_gave_up_waiting_is_in_no_circle(loads):
    gave_up = asyncio.Event()

    @loads.define
    async def a():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await loads("b")
        gave_up.set()
        await asyncio.sleep(0.005)
        return "a"

    @loads.define
    async def b():
        await gave_up.wait()
        return await loads("a")

    assert await asyncio.gather(loads("b"), loads("a")) == ["a", "a"]


async def test_who_can_be_in_no_circle_does_not_look_for_one_again_and_again(loads, monkeypatch):
    monkeypatch.setattr(asyncio, "wait", None)

    @loads.define
    async def leaf():
        await asyncio.sleep(0.005)
        return 1

    loads.of["left"] = loads.of["right"] = lambda: loads("leaf")
    assert await asyncio.gather(loads("left"), loads("right"), loads("leaf")) == [1, 1, 1]


async def test_a_task_that_turns_out_to_be_waited_for_is_told_and_leaves(loads, monkeypatch):
    monkeypatch.setattr(singleflight, "RECHECK_FIRST", 0.001)
    waited = []
    wait = asyncio.wait

    async def observed(tasks, *, timeout=None):
        waited.append(timeout)
        return await wait(tasks, timeout=timeout)

    monkeypatch.setattr(asyncio, "wait", observed)
    go_on = asyncio.Event()

    @loads.define
    async def a():
        task = asyncio.create_task(loads("a"))
        await go_on.wait()
        return await task

    call = asyncio.create_task(loads("a"))
    while len(waited) < 4:
        await asyncio.sleep(0.001)
    [flight] = loads.flights._flights.values()
    assert len(flight.waiters) == (1 if loads.flights._led else 2)
    go_on.set()
    with pytest.raises(CircularLoadError):
        await call
    assert len(flight.waiters) == (0 if loads.flights._led else 1), "the task that was told is none of them"
    assert waited[:4] == [0.001, 0.002, 0.004, 0.008]
    assert max(waited) <= singleflight.RECHECK_LONGEST
