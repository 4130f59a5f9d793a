"""How an instance is chosen among those that are available (pure).

A new chooser is made whenever the set of available instances changes, which is rare, so that a pick
looks at nothing but its own state: O(1), or O(log n) for weights.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator, Sequence

from bot.core._shared.errors import invalid
from bot.core._shared.masking import one_line
from bot.core.load_balancer.connections import LeastBusy
from bot.core.load_balancer.instances import Instance, StrategyFunction
from bot.core.load_balancer.models import LoadBalancingStrategy

Pick = Callable[[], Instance]

DECAY_SECONDS = 10.0
"""Time constant of the response time that LEAST_LOADED compares."""
FAILURE_COST = 1.0
"""Seconds that a failed request counts as at least: an instance that fails fast is not fast."""
UNKNOWN_COST = 0.001
"""Seconds taken for an instance that has answered nothing yet, when no other has either."""

_FEW = 32
"""Instances up to which LEAST_LOADED has every pair at hand."""
_DRAWN = 4096
"""Pairs whose order is drawn at once."""


def strategy_of(value: object) -> LoadBalancingStrategy | StrategyFunction:
    """A member, its name or a callable, checked."""
    if isinstance(value, LoadBalancingStrategy):
        return value
    if isinstance(value, str):
        try:
            return LoadBalancingStrategy(value)
        except ValueError:
            pass
    elif callable(value):
        return value
    names = ", ".join(repr(member.value) for member in LoadBalancingStrategy)
    raise invalid("strategy", value, f"one of {names}, or a callable that picks from a list of instances")


def chooser(
    strategy: LoadBalancingStrategy | StrategyFunction,
    members: Sequence[Instance],
    busy: LeastBusy | None,
    now: Callable[[], float],
    rng: random.Random,
    report: Callable[[str], object],
) -> Pick:
    """The pick function of ``strategy`` over ``members``, of which there must be one at least.

    ``report`` is told what a callable did wrong.
    """
    if strategy is LoadBalancingStrategy.LEAST_CONNECTIONS:
        assert busy is not None
        return busy.pick
    if strategy is LoadBalancingStrategy.WEIGHTED:
        return _weighted(members, rng)
    if strategy is LoadBalancingStrategy.RANDOM:
        return _random(members, rng)
    if strategy is LoadBalancingStrategy.LEAST_LOADED:
        return _least_loaded(members, now, rng)
    in_turn = _round_robin(members, rng)
    if isinstance(strategy, LoadBalancingStrategy):
        return in_turn
    return _guarded(strategy, tuple(members), in_turn, report)


def _round_robin(members: Sequence[Instance], rng: random.Random) -> Pick:
    # Begins anywhere: a set that changes often must not favour its first member, nor several
    # balancers that start together the same instance.
    start = rng.randrange(len(members))
    return itertools.cycle([*members[start:], *members[:start]]).__next__


def _random(members: Sequence[Instance], rng: random.Random) -> Pick:
    count = len(members)
    draw = rng.random
    return lambda: members[int(draw() * count)]


def _weighted(members: Sequence[Instance], rng: random.Random) -> Pick:
    """Smooth weighted round robin: earliest deadline first, each turn due ``1 / weight`` after the last.

    Exact for any weights, and never a burst: of weights 3 and 1, A A B A. Source: stride scheduling,
    C. Waldspurger and W. Weihl, 1995, as in Envoy's and gRPC's schedulers.
    """
    if len({instance.weight for instance in members}) == 1:
        return _round_robin(members, rng)
    count = len(members)
    # Each begins at a point of its own within its stride, so that turns do not fall due together: which
    # of two goes first would then be a matter of rounding, and there would be bursts.
    order = rng.sample(range(count), count)
    heap = [
        ((place + 1) / (count + 1) / instance.weight, place, instance, 1.0 / instance.weight)
        for place, instance in zip(order, members, strict=True)
    ]
    heapq.heapify(heap)
    replace = heapq.heapreplace

    def pick() -> Instance:
        due, place, instance, stride = heap[0]
        replace(heap, (due + stride, place, instance, stride))
        return instance

    return pick


def _least_loaded(members: Sequence[Instance], now: Callable[[], float], rng: random.Random) -> Pick:
    """The cheaper of two taken at random, by response time and requests in progress.

    Sources: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001; peak EWMA
    as in Finagle: a slow answer counts at once, fast ones gradually. An instance without new samples recovers
    with time (here by ``tau / (tau + age)``, which needs no exponential), so it is tried again.
    """
    count = len(members)
    if count == 1:
        return itertools.cycle(members).__next__
    if count <= _FEW:
        # Every pair equally often, in an order drawn once: that costs a third of drawing each time.
        pairs = list(itertools.permutations(members, 2))
        pairs *= max(1, _DRAWN // len(pairs))
        rng.shuffle(pairs)
        two = itertools.cycle(pairs).__next__
    else:
        two = _any_two(members, rng).__next__
    if len({member.weight for member in members}) > 1:
        return _cheaper_by_weight(two, now)

    def pick() -> Instance:
        a, b = two()
        then = now() + DECAY_SECONDS
        if a.cost * (a.in_flight + 1) * (then - b.sampled_at) <= b.cost * (b.in_flight + 1) * (
            then - a.sampled_at
        ):
            return a
        return b

    return pick


def _any_two(members: Sequence[Instance], rng: random.Random) -> Iterator[tuple[Instance, Instance]]:
    """Two different members, each pair as likely as any other, for ever.

    Two orders drawn once run past each other at a distance drawn again for each round: a draw for each
    pair would cost most of the pick.
    """
    first, second = rng.sample(members, len(members)), rng.sample(members, len(members))
    while True:
        apart = rng.randrange(len(second))
        for a, b in zip(first, second[apart:] + second[:apart], strict=True):
            if a is not b:
                yield a, b


def _cheaper_by_weight(two: Callable[[], tuple[Instance, Instance]], now: Callable[[], float]) -> Pick:
    def pick() -> Instance:
        a, b = two()
        then = now() + DECAY_SECONDS
        if (
            a.cost * (a.in_flight + 1) * (then - b.sampled_at) * b.weight
            <= b.cost * (b.in_flight + 1) * (then - a.sampled_at) * a.weight
        ):
            return a
        return b

    return pick


def observe(instance: Instance, seconds: float, now: float) -> None:
    """Take a response time into the instance's cost (see :func:`_least_loaded`)."""
    cost = instance.cost
    age = now - instance.sampled_at
    faded = cost * DECAY_SECONDS / (DECAY_SECONDS + age)
    if seconds >= faded:
        instance.cost = seconds
    else:
        # The older the last sample, the more this one counts; of many in a row each counts a little.
        share = max(age / (DECAY_SECONDS + age), 0.02)
        instance.cost = faded + (seconds - faded) * share
    instance.sampled_at = now


def _guarded(
    function: StrategyFunction, members: tuple[Instance, ...], instead: Pick, report: Callable[[str], object]
) -> Pick:
    """A strategy of the user's own; what it does wrong is reported, and round robin serves instead."""

    def pick() -> Instance:
        try:
            found = function(members)
            if found in members:
                return found
            report(f"returned {found!r:.100}, none of the instances it was given")
        except Exception as error:
            report(f"raised {one_line(error)}")
        return instead()

    return pick
