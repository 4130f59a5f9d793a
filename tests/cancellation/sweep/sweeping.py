"""Cancels each scenario of a world at its points, and looks at what is left after each."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.cancellation.sweep.driver import TURNS, How, Point, cancelled_at
from tests.cancellation.sweep.leftovers import Leftovers, settled
from tests.cancellation.sweep.worlds import Scenario, World

ENOUGH = 12
"""Faults after which a sweep is given up."""

PATIENCE = 20.0

FOREIGN = ("unexpected connection_lost() call",)
"""Of asyncpg, where its connecting is cancelled: it says nothing of ours."""


@dataclass
class Swept:
    """What a sweep did and found."""

    points: int = 0
    of: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


class _Complaints(logging.Handler):
    """What loggers and the event loop said that nobody expects: errors of tasks, unretrieved exceptions."""

    def __init__(self, expected: tuple[str, ...]) -> None:
        super().__init__(logging.ERROR)
        self._expected = FOREIGN + expected
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"log of {record.name}: {record.getMessage()[:2000]}")

    def of_loop(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.said.append(f"event loop: {context.get('message')}: {context.get('exception')!r}")

    def taken(self) -> list[str]:
        said, self.said = self.said, []
        return [each for each in said if not any(words in each for words in self._expected)]


def points_of(suspensions: int, chance: random.Random) -> Iterator[Point]:
    """Every way at every suspension, in a random order; then again."""
    ways = [(how, at) for how in How for at in range(1, suspensions + 1)]
    turns = itertools.cycle(chance.sample(TURNS, len(TURNS)))
    while ways:
        chance.shuffle(ways)
        for how, at in ways:
            yield Point(how, at, next(turns))


def run_sweep(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    world: World,
    wanted: int,
    done: Mapping[str, int] | None = None,
) -> Swept:
    """:func:`sweep` on a loop of its own, in debug mode."""
    with asyncio.Runner(debug=True, loop_factory=new_loop) as runner:
        runner.get_loop().slow_callback_duration = 60.0
        return runner.run(sweep(world, wanted, done))


async def sweep(world: World, wanted: int, done: Mapping[str, int] | None = None) -> Swept:
    """Cancel each scenario at ``wanted`` points, without those that an earlier sweep has ``done`` already."""
    loop = asyncio.get_running_loop()
    complaints = _Complaints(world.expected)
    loop.set_exception_handler(complaints.of_loop)
    loggers = [logging.getLogger(name) for name in ("bot", "asyncio")]
    for logger in loggers:
        logger.addHandler(complaints)
    found = Swept()
    before = Leftovers()
    try:
        await world.start()
        try:
            base = Leftovers()
            for scenario in world.scenarios():
                begun = (done or {}).get(scenario.name, 0)
                await _sweep_one(world, scenario, range(begun, wanted), complaints, base, found)
                if len(found.faults) >= ENOUGH:
                    break
        finally:
            await world.stop()
        left = await settled(lambda: _more(before))
        found.faults += [f"{world.name}, stopped: left behind: {each}" for each in left + complaints.taken()]
    finally:
        for logger in loggers:
            logger.removeHandler(complaints)
    return found


async def _more(before: Leftovers) -> list[str]:
    return before.more(running=False)


async def _sweep_one(
    world: World,
    scenario: Scenario,
    wanted: range,
    complaints: _Complaints,
    base: Leftovers,
    found: Swept,
) -> None:
    """``wanted``: which of its points. ``base`` grows by what is there after whole calls: connections that
    stay, subscriptions."""
    if not wanted:
        return
    where = f"{world.name}, {scenario.name}"
    most = 0
    try:
        for _ in range(3):
            most = max(most, await _run_whole(world, scenario))
            found.faults += [f"{where}, not cancelled: left: {each}" for each in await settled(world.held)]
            base.grow()
    except Exception as error:  # told with its place; the sweep goes on
        found.faults.append(f"{where}, not cancelled: {type(error).__name__}: {error}")
        return
    done = 0
    faults = len(found.faults)
    points = itertools.islice(points_of(most, random.Random(where)), wanted.start, None)
    for point in itertools.islice(points, 3 * len(wanted)):
        if done >= len(wanted):
            break
        done += await _run_cancelled(world, scenario, point, base, found.faults)
        said = complaints.taken()
        found.faults += [f"{where}, {point}: {each}" for each in said]
        if len(found.faults) >= faults + 3:  # of one kind, most likely
            break
    gc.collect()
    await asyncio.sleep(0)
    found.faults += [f"{where}: {each}" for each in complaints.taken()]
    found.points += done
    found.of[scenario.name] = done


async def _run_cancelled(
    world: World, scenario: Scenario, point: Point, base: Leftovers, faults: list[str]
) -> bool:
    """Whether the call came to the point. What is wrong is added to ``faults``."""
    where = f"{world.name}, {scenario.name}, {point}"

    async def left() -> list[str]:
        return base.more() + await world.held()

    doing = "before it"
    try:
        if scenario.before is not None:
            await _within(scenario.before(world))
        doing = "the call"
        ending = await cancelled_at(scenario.call(world), point)
        fault = None if isinstance(ending.error, scenario.errors) else ending.fault()
        if ending.error is None and scenario.swallowed:
            fault = None
        if fault is not None:
            faults.append(f"{where}: {fault}")
        doing = "after it"
        if scenario.after is not None:
            await _within(scenario.after(world))
        doing = "what is left"
        faults += [f"{where}: left behind: {each}" for each in await settled(left)]
        doing = "the next call"
        await _run_whole(world, scenario)
    except Exception as error:  # told with its place; the sweep goes on
        faults.append(f"{where}: {doing}: {type(error).__name__}: {error}"[:2000])
        return False
    return ending.reached


async def _run_whole(world: World, scenario: Scenario) -> int:
    """Run it uncancelled; how often it was suspended."""
    if scenario.before is not None:
        await _within(scenario.before(world))
    ending = await cancelled_at(scenario.call(world), None)
    if ending.error is not None:
        raise ending.error
    if scenario.after is not None:
        await _within(scenario.after(world))
    return ending.suspensions


async def _within(work: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        await work
