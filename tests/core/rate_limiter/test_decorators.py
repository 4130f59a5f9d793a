"""``@rate_limited`` on handlers as bot frameworks call them."""

import asyncio
import contextlib
import functools
from types import SimpleNamespace

import pytest

from bot.core.rate_limiter import (
    Backoff,
    RateLimitConfig,
    RateLimiter,
    RateLimitExceeded,
    WindowLimit,
    rate_limited,
)
from bot.core.rate_limiter.decorators import label_of
from bot.core.rate_limiter.local import LocalBuckets
from tests.support.clock import VirtualClock


@pytest.fixture
async def limiter():
    limiter = RateLimiter.get_instance()
    await limiter.enable()
    yield limiter
    await limiter.disable()


async def outcomes(function, *calls):
    found = []
    for args in calls:
        try:
            await function(*args)
            found.append("done")
        except RateLimitExceeded:
            found.append("refused")
    return found


async def test_the_client_is_the_user_id_argument(limiter):
    @rate_limited(rps=0.01, burst_size=1)
    async def handler(text, user_id=7):
        return text

    assert await outcomes(handler, ("a", 1), ("b", 1), ("c", 2), ("d",), ("e", 7)) == [
        "done", "refused", "done", "done", "refused",
    ]  # fmt: skip


@pytest.mark.parametrize("attribute", ["from_user", "effective_user"])
async def test_the_client_is_the_user_of_an_update(limiter, attribute):
    @rate_limited(rps=0.01, burst_size=1)
    async def handler(update, context):
        return None

    first, second = (SimpleNamespace(**{attribute: SimpleNamespace(id=n)}) for n in (1, 2))
    assert await outcomes(handler, (first, None), (second, None), (first, None)) == [
        "done", "done", "refused",
    ]  # fmt: skip


@pytest.mark.parametrize("attribute", ["sender_chat", "effective_sender", "chat", "effective_chat"])
async def test_a_post_of_a_channel_has_no_user_and_counts_for_its_chat(limiter, attribute):
    @rate_limited(rps=0.01, burst_size=1)
    async def handler(post):
        return None

    @rate_limited(rps=0.01, burst_size=1, key=lambda post: post.from_user and post.from_user.id)
    async def keyed(post):
        return None

    first, second = (
        SimpleNamespace(from_user=None, effective_user=None, **{attribute: SimpleNamespace(id=n)})
        for n in (-1001, -1002)
    )
    for function in (handler, keyed):
        assert await outcomes(function, (first,), (second,), (first,)) == ["done", "done", "refused"]


@pytest.mark.parametrize("key", ["name", lambda name, user_id=None: name])
async def test_a_key_that_gives_none_leaves_it_to_the_arguments_and_to_everybody(limiter, key):
    @rate_limited(rps=0.01, burst_size=1, key=key)
    async def handler(name, user_id=None):
        return None

    calls = [("a",), ("a",), (None, 7), (None, 8), (None, 7), (None,), (None, None)]
    assert await outcomes(handler, *calls) == [
        "done", "refused", "done", "done", "refused", "done", "refused",
    ]  # fmt: skip


async def test_callers_that_name_nobody_are_not_punished_for_each_other():
    clock = VirtualClock()
    limiter = RateLimiter.get_instance()
    before = limiter._clock, limiter._now, limiter._alone
    limiter._clock, limiter._now = clock, clock.monotonic
    limiter._alone = LocalBuckets(clock, limiter._table.all)
    try:
        await limiter.enable()

        @rate_limited(rps=1, burst_size=1)
        async def job():
            return None

        job_limit = RateLimitConfig(1, 1, label_of(job))
        for _ in range(3_000):
            with contextlib.suppress(RateLimitExceeded):
                await job()
            clock.jump(0.01)
        status = await limiter.get_client_status(None, job_limit)
        assert status.retry_after <= 1.0
    finally:
        await limiter.disable()
        limiter._clock, limiter._now, limiter._alone = before


async def test_everything_that_can_be_called_can_be_limited(limiter):
    one_each = rate_limited(rps=0.01, burst_size=1)

    async def plain(user_id, text="t"):
        return user_id

    class Callable:
        async def __call__(self, user_id):
            return user_id

    class Bot:
        async def bare(self, user_id):
            return user_id

        @one_each
        async def method(self, user_id):
            return user_id

        @one_each
        @staticmethod
        async def static_inside(user_id):
            return user_id

        @staticmethod
        @one_each
        async def static_outside(user_id):
            return user_id

        @rate_limited
        @classmethod
        async def bare_of_class(cls, user_id):
            return user_id

        @one_each
        @classmethod
        async def of_class(cls, user_id):
            return cls, user_id

    bot = Bot()
    one = one_each(functools.partial(plain, text="a"))
    other = one_each(functools.partial(plain, text="b"))
    returns_coroutine = one_each(lambda user_id: plain(user_id))
    another_lambda = one_each(lambda user_id: plain(user_id))
    functions = [
        one, other, one_each(Callable()), one_each(bot.bare), returns_coroutine, another_lambda,
        bot.method, bot.static_inside, Bot.static_outside,
    ]  # fmt: skip
    for function in functions:
        assert await outcomes(function, (1,), (2,), (1,)) == ["done", "done", "refused"], function
    assert await Bot.of_class(5) == (Bot, 5)
    assert await Bot.bare_of_class(5) == 5
    assert one_each(functools.partial(plain, 3)).__wrapped__.args == (3,)
    limited = rate_limited(rps=1)(functools.partial(plain, 3))
    assert await limited() == 3


async def test_who_hammers_a_decorated_function_waits_longer():
    clock = VirtualClock()
    limiter = RateLimiter.get_instance()
    before = limiter._clock, limiter._now, limiter._alone
    limiter._clock, limiter._now = clock, clock.monotonic
    limiter._alone = LocalBuckets(clock, limiter._table.all)
    try:
        await limiter.enable()
        longest = {}
        for backoff in ("default", None, Backoff(30, 30, 0.1)):

            @rate_limited(rps=1, burst_size=1, backoff=backoff)
            async def handler(user_id):
                return None

            for _ in range(1_000):
                try:
                    await handler(1)
                except RateLimitExceeded as error:
                    longest[backoff] = max(longest.get(backoff, 0), error.retry_after)
                clock.jump(0.01)
        assert list(longest.values()) == pytest.approx([4.0, 0.99, 30.0], abs=0.02)
    finally:
        await limiter.disable()
        limiter._clock, limiter._now, limiter._alone = before


async def test_without_a_client_all_callers_share(limiter):
    @rate_limited(rps=0.01, burst_size=2)
    async def job(name):
        return None

    assert await outcomes(job, ("a",), ("b",), ("c",)) == ["done", "done", "refused"]


async def test_without_parentheses_it_takes_the_default_values(limiter):
    @rate_limited
    async def handler(user_id):
        return None

    @rate_limited
    def plain(user_id):
        return user_id

    assert await outcomes(handler, (1,), (2,)) == ["done", "done"]
    assert plain(1) == 1
    assert (await limiter.get_statistics())["total_requests"] == 3


async def test_a_key_names_an_argument_or_computes_the_client(limiter):
    @rate_limited(rps=0.01, burst_size=1, key="chat")
    async def by_name(chat):
        return None

    @rate_limited(rps=0.01, burst_size=1, key=lambda chat: chat % 2)
    async def by_function(chat):
        return None

    calls = [(1,), (3,), (1,)]
    assert await outcomes(by_name, *calls) == ["done", "done", "refused"]
    assert await outcomes(by_function, *calls) == ["done", "refused", "refused"]


async def test_functions_with_equal_limits_do_not_share(limiter):
    @rate_limited(rps=0.01, burst_size=1)
    async def one(user_id):
        return None

    @rate_limited(rps=0.01, burst_size=1)
    async def two(user_id):
        return None

    assert await outcomes(one, (1,)) == await outcomes(two, (1,)) == ["done"]


async def test_a_tier_is_shared_by_the_functions_that_name_it(limiter):
    limiter.set_tier_limit("heavy", RateLimitConfig(0.01, 1))

    @rate_limited(tier="heavy")
    async def one(user_id):
        return None

    @rate_limited(tier="heavy")
    async def two(user_id):
        return None

    assert await outcomes(one, (1,)) == ["done"]
    assert await outcomes(two, (1,)) == ["refused"]


def test_plain_functions_serve_too():
    @rate_limited(rps=0.01, burst_size=1)
    def handler(user_id):
        return "done"

    asyncio.run(RateLimiter.get_instance().enable())
    assert handler(1) == "done"
    with pytest.raises(RateLimitExceeded, match=r"handler reached: retry after (100\.000|99\.\d{3}) s"):
        handler(1)


async def test_the_function_keeps_its_face_and_its_errors(limiter):
    @rate_limited(rps=1)
    async def handler(user_id: int) -> None:
        """About it."""
        raise KeyError(user_id)

    assert (handler.__name__, handler.__doc__) == ("handler", "About it.")
    assert asyncio.iscoroutinefunction(handler)
    with pytest.raises(KeyError):
        await handler(1)


async def test_off_means_the_function_is_just_called():
    @rate_limited(rps=0.01, burst_size=1, tier=None)
    async def handler(user_id):
        return user_id

    assert [await handler(1) for _ in range(5)] == [1] * 5


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"rps": 0}, "requests_per_second = 0"),
        ({"rps": float("nan")}, "requests_per_second = nan"),
        ({"rps": 1, "burst_size": 0}, "burst_size = 0"),
        ({"burst_size": 0}, "burst_size = 0"),
        ({"rps": 1, "tier": "a"}, "tier = 'a'"),
        ({"tier": "a", "backoff": None}, "tier = 'a'"),
        ({"rps": 1, "backoff": 5}, "backoff = 5"),
        ({"rps": 1, "key": "nobody"}, "key = 'nobody'"),
        ({"rps": 1, "key": 5}, "key = 5"),
    ],
)
def test_misuse_is_refused_where_it_is_written(arguments, word):
    with pytest.raises(ValueError, match=word):

        @rate_limited(**arguments)
        async def handler(user_id):
            return None


def test_the_error_survives_a_process_boundary():
    import pickle

    error = pickle.loads(pickle.dumps(RateLimitExceeded(1.5, limit="upload")))
    assert (error.retry_after, str(error)) == (1.5, "upload reached: retry after 1.500 s")


@pytest.mark.parametrize("error", [RuntimeError, KeyError])
async def test_an_argument_that_cannot_be_looked_at_names_nobody(limiter, error):
    class Lazy:
        def __getattr__(self, name):
            raise error(name)

    @rate_limited(rps=0.01, burst_size=1)
    async def handler(lazy, update):
        return None

    first, second = (SimpleNamespace(from_user=SimpleNamespace(id=n)) for n in (1, 2))
    lazy = Lazy()
    assert await outcomes(handler, (lazy, first), (lazy, second), (lazy, first)) == [
        "done",
        "done",
        "refused",
    ]


# Limits of other kinds.


async def test_a_text_gives_each_function_windows_of_its_own(limiter):
    @rate_limited("2/minute;3/hour")
    async def search(user_id):
        return None

    @rate_limited(limit="2/minute;3/hour")
    async def other(user_id):
        return None

    assert await outcomes(search, (1,), (1,), (1,), (2,)) == ["done", "done", "refused", "done"]
    assert await outcomes(other, (1,), (1,), (1,)) == ["done", "done", "refused"]


async def test_functions_may_have_a_limit_together(limiter):
    both = (WindowLimit(3, 60.0), RateLimitConfig(0.01, 2))

    @rate_limited(limit=both)
    async def search(user_id):
        return None

    @rate_limited(limit=both)
    def look(user_id):
        return None

    assert await outcomes(search, (1,)) == ["done"]
    look(1)
    with pytest.raises(RateLimitExceeded) as refused:
        look(1)
    assert refused.value.retry_after == pytest.approx(100.0, abs=1.0)
    assert await outcomes(search, (1,), (2,)) == ["refused", "done"]


async def test_windows_have_backoff_or_none_as_the_function_says(limiter):
    @rate_limited("1/minute", backoff=None)
    async def lenient(user_id):
        return None

    @rate_limited("1/minute", backoff=Backoff(base=900.0, max=900.0, grace=0.0))
    async def strict(user_id):
        return None

    for function, longest in ((lenient, 61.0), (strict, 901.0)):
        waits = []
        for _ in range(4):
            try:
                await function(1)
            except RateLimitExceeded as refused:
                waits.append(refused.retry_after)
            await asyncio.sleep(0.03)
        assert max(waits) <= longest
        assert function is lenient or max(waits) > 60.1


@pytest.mark.parametrize(
    "arguments",
    [
        {"rps": "5/fortnight"}, {"rps": "10/second", "limit": "5/second"},
        {"limit": "5/second", "tier": "free"},
        {"limit": WindowLimit(5, 1.0), "rps": 1.0}, {"limit": WindowLimit(5, 1.0), "backoff": None},
        {"rps": "10/second", "burst_size": 5}, {"limit": 5}, {"limit": ()},
    ],
)  # fmt: skip
def test_a_wrong_limit_is_refused_where_it_is_written(arguments):
    with pytest.raises((ValueError, TypeError), match=r"limit = |backoff = "):
        rate_limited(**arguments)
