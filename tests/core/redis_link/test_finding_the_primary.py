"""Asking sentinels: in which order, how many at once, and what is left when the asker is cancelled."""

import asyncio

import pytest

from bot.core._shared.redis_address import Sentinels
from bot.core.redis_link.sentinels import NoPrimary, Primary

A, B, C = ("a", 1), ("b", 2), ("c", 3)
HERE, THERE = [b"10.0.0.1", b"6379"], [b"10.0.0.2", b"6380"]
NEVER = object()


def since(epoch, address):
    """An answer of a sentinel that knows of this failover."""
    return address, [b"name", b"main", b"config-epoch", b"%d" % epoch, b"quorum", b"2"]


class Three:
    """Sentinels that answer what a test says, at once or never; an address alone, without its failover."""

    def __init__(self, **answers):
        self.answers = answers
        self.asked = []
        self.open = 0
        sentinels = Sentinels((A, B, C), "main", None, None, False)
        self.primary = Primary(sentinels, 1.0, "redis", self.ask)

    async def ask(self, at):
        self.asked.append(at[0])
        self.open += 1
        try:
            answer = self.answers[at[0]]
            if answer is NEVER:
                await asyncio.Event().wait()
            await asyncio.sleep(0)
            if isinstance(answer, Exception):
                raise answer
            return answer if isinstance(answer, tuple) else (answer, None)
        finally:
            self.open -= 1


async def test_one_is_asked_if_it_answers():
    three = Three(a=HERE, b=HERE, c=HERE)
    assert await three.primary.find() == ("10.0.0.1", 6379)
    assert three.asked == ["a"]


async def test_the_next_is_asked_if_one_fails_knows_nothing_or_is_silent_and_is_first_from_then_on():
    for answer in (OSError("refused"), None, [b"x"], NEVER):
        three = Three(a=answer, b=HERE, c=HERE)
        assert await three.primary.find() == ("10.0.0.1", 6379)
        assert three.asked == ["a", "b"]
        three.asked.clear()
        await three.primary.find()
        assert three.asked == ["b"]
        assert three.open == 0


async def test_one_that_named_no_primary_is_asked_last():
    three = Three(a=HERE, b=THERE, c=THERE)
    await three.primary.find()
    three.primary.distrust()
    assert await three.primary.find() == ("10.0.0.2", 6380)
    assert three.asked == ["a", "b"]


async def test_all_that_was_wrong_is_told():
    three = Three(a=OSError("refused"), b=None, c=[b"x", b"0"])
    with pytest.raises(NoPrimary) as caught:
        await three.primary.find()
    assert str(caught.value) == (
        "no sentinel knows the primary main: a:1: OSError: refused; b:2 does not know it; "
        "c:3: ValueError: unexpected answer of a sentinel"
    )
    three = Three(a=NEVER, b=NEVER, c=OSError("refused"))
    with pytest.raises(NoPrimary, match=r"c:3: OSError: refused; no answer of the others within 0\.6 s"):
        await three.primary.find()
    assert three.open == 0


@pytest.mark.parametrize("turns", range(12))
async def test_who_is_cancelled_leaves_no_question_open(turns):
    three = Three(a=NEVER if turns % 2 else OSError("refused"), b=NEVER, c=NEVER)
    asking = asyncio.create_task(three.primary.find())
    for _ in range(turns):
        await asyncio.sleep(0.02)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert three.open == 0


async def test_a_change_is_told_once_whoever_tells_of_it():
    three = Three(a=HERE, b=HERE, c=HERE)
    await three.primary.find()
    three.answers.update(b=THERE)
    assert await three.primary.changed(B)
    assert not await three.primary.changed(B)
    three.answers.update(c=THERE)
    assert not await three.primary.changed(C)
    assert await three.primary.find() == ("10.0.0.2", 6380), "the one that told of it is asked first"
    # Back, unheard, by a new connection; and there again, which is told.
    three.answers.update(a=HERE, b=HERE, c=HERE)
    assert await three.primary.find() == ("10.0.0.1", 6379)
    three.answers.update(c=THERE)
    assert await three.primary.changed(C)


# Failovers have numbers, which the sentinels learn from one another.


async def test_a_sentinel_that_has_not_heard_of_the_failover_is_not_believed():
    three = Three(a=since(4, HERE), b=since(4, HERE), c=since(4, HERE))
    assert await three.primary.find() == ("10.0.0.1", 6379)
    three.answers.update(b=since(5, THERE))
    assert await three.primary.changed(B)
    # The old primary is back, and one that has heard of nothing says so.
    assert not await three.primary.changed(A)
    three.answers.update(b=OSError("refused"), c=since(5, THERE))
    three.asked.clear()
    assert await three.primary.find() == ("10.0.0.2", 6380)
    assert three.asked == ["b", "a", "c"]


@pytest.mark.parametrize("others", [OSError("refused"), None, NEVER])
async def test_the_newest_of_old_answers_counts_if_nobody_has_a_newer_one(others):
    three = Three(a=since(7, HERE), b=since(2, THERE), c=others)
    await three.primary.find()
    three.answers.update(a=since(1, HERE))  # set up anew
    assert await three.primary.find() == ("10.0.0.2", 6380)
    three.asked.clear()
    assert await three.primary.find() == ("10.0.0.2", 6380)
    assert three.asked == ["b"], "its number is the newest from then on"
    assert three.open == 0


@pytest.mark.parametrize(
    "facts", [None, [], [b"config-epoch"], [b"config-epoch", b"-1"], [b"config-epoch", b"9" * 30], {"a": 1}]
)
async def test_who_does_not_tell_the_number_is_believed(facts):
    three = Three(a=since(4, HERE), b=(THERE, facts), c=None)
    await three.primary.find()
    assert await three.primary.changed(B)
    assert await three.primary.find() == ("10.0.0.2", 6380)
    three.answers.update(a=since(3, HERE))
    assert not await three.primary.changed(A), "the last number that was told stands"
