"""Every world notices when the library breaks its promise."""

from __future__ import annotations

import asyncio

import pytest

from bot.core._shared.singleflight import SingleFlight
from bot.core.batch_processor.durable.settling import Settling
from bot.core.cache_manager.local import LocalTier
from bot.core.cache_manager.resync import Resync
from bot.core.load_balancer.cluster import Cluster
from bot.core.load_balancer.health import HealthChecks
from bot.core.load_balancer.rotation import Rotation
from bot.core.load_balancer.router import Router, _Failures
from bot.core.outbound import Outbound
from bot.core.query_optimizer import QueryOptimizer
from bot.core.query_optimizer.execution.execution import Execution
from bot.core.query_optimizer.execution.invalidation import Invalidation
from bot.core.query_optimizer.execution.results import ResultCache
from bot.core.rate_limiter import RateLimiter, RateLimitStatus
from bot.core.rate_limiter.shared import SharedBuckets
from tests.simulation.pool_world import ModelDriver, Verdict
from tests.simulation.worlds import WORLDS, failure_of

ENOUGH = 60
"""Seeds in which a fault that is always there must show."""


def notices(name, of):
    """Whether some seed fails, and says ``of``."""
    return any(of in (failure_of(WORLDS[name], seed) or "") for seed in range(ENOUGH))


def alone(kind):
    """``enable`` without Redis: each instance by itself."""
    enable = kind.enable

    async def enabled(self, *args, **options):
        return await enable(self, *args, **{**options, "redis_url": ""})

    return enabled


@pytest.mark.parametrize(
    ("world", "kind", "of"),
    [
        ("limiter", RateLimiter, "within 3.0 s"),
        ("slots", RateLimiter, "slots at"),
        ("outbound", Outbound, "within"),
    ],
)
def test_a_limit_that_is_not_shared(monkeypatch, world, kind, of):
    monkeypatch.setattr(kind, "enable", alone(kind))
    assert notices(world, of)


def test_a_limiter_that_lets_everybody_through_while_redis_is_away(monkeypatch):
    def let_through(self, mirror, client, tokens):
        return True, RateLimitStatus((mirror, 0.0, tokens, self._now(), True))

    monkeypatch.setattr(WORLDS["limiter"], "kinds", ("clock step",))  # besides the one that lasts
    monkeypatch.setattr(SharedBuckets, "_take_alone", let_through)
    assert notices("limiter", "of one instance")


def test_a_cache_that_hears_nothing(monkeypatch):
    monkeypatch.setattr(LocalTier, "apply", lambda self, *heard: None)
    assert notices("cache", "s old")


def test_a_cache_that_trusts_what_it_held_before_it_was_cut_off(monkeypatch):
    """It hears of changes again, and keeps in L1 what changed meanwhile."""
    monkeypatch.setattr(LocalTier, "forget", lambda self: None)
    assert notices("cache", "s old")


def test_a_cache_that_repeats_nothing(monkeypatch):
    monkeypatch.setattr(Resync, "missed", lambda self, at: None)
    assert notices("cache", "s old")


def test_a_stop_that_waits_for_a_redis_that_never_comes_back(monkeypatch):
    stop = Resync.stop

    async def wait_and_stop(self):
        while not self.in_step:
            await asyncio.sleep(1.0)
        await stop(self)

    monkeypatch.setattr(Resync, "stop", wait_and_stop)
    assert notices("cache", "does not stop")


def test_a_connection_that_is_not_reset(monkeypatch):
    monkeypatch.setattr(ModelDriver, "verdict", lambda self, raw: Verdict.CLEAN)
    assert notices("pool", "what another left")


def test_a_result_that_is_not_that_of_the_others(monkeypatch):
    settlement = Settling.settlement

    def other(self, item, value, *, dead):
        told = value if isinstance(value, BaseException) else f"{value} as others see it"
        return settlement(self, item, told, dead=dead)

    monkeypatch.setattr(Settling, "settlement", other)
    assert notices("batch", "two outcomes")


def stays_drained(monkeypatch):
    """Instances that were drained get requests like others."""
    monkeypatch.setattr("bot.core.load_balancer.cluster.TAKEN_OUT", ())


def believes_no_check(monkeypatch):
    monkeypatch.setattr(Cluster, "checked", lambda self, *checked: None)


def counts_wrong(monkeypatch):
    """A request that was cancelled is in progress for ever."""
    release = Cluster.abandoned
    monkeypatch.setattr(
        Cluster, "abandoned", lambda self, at, *rest: (self.acquire(at), release(self, at, *rest))
    )


def repeats_everything(monkeypatch):
    why_not = _Failures.why_not_again
    monkeypatch.setattr(_Failures, "why_not_again", lambda self, most, idempotent: why_not(self, most, None))


def repeats_nothing(monkeypatch):
    monkeypatch.setattr(_Failures, "why_not_again", lambda self, most, idempotent: "failed")


def repeats_at_the_same(monkeypatch):
    monkeypatch.setattr(Rotation, "_untried", lambda self, tried: tried[0])


def ejects_for_good(monkeypatch):
    monkeypatch.setattr(HealthChecks, "ejected", lambda self, instance: None)


def knows_no_limit(monkeypatch):
    monkeypatch.setattr(Rotation, "_is_full", lambda self, instance: False)


def favours_one(monkeypatch):
    def change(self, *change_of, **options):
        original(self, *change_of, **options)
        if self.members:
            self._choose = self.pick = lambda: self.members[0]

    original = Rotation.change
    monkeypatch.setattr(Rotation, "change", change)


def waits_for_ever(monkeypatch):
    """No try has a time limit."""
    attempt = Router._attempt
    monkeypatch.setattr(
        Router, "_attempt", lambda self, h, i, d, limit, *rest: attempt(self, h, i, d, 1e6, *rest)
    )


@pytest.mark.parametrize(
    ("breaks", "of"),
    [
        (stays_drained, "which is no member"),
        (believes_no_check, "which is broken for"),
        (counts_wrong, "requests in progress at"),
        (repeats_everything, "was not to be repeated"),
        (repeats_nothing, "worked all the time"),
        (repeats_at_the_same, "times: "),
        (ejects_for_good, "has not recovered"),
        (knows_no_limit, "requests at b"),
        (favours_one, "has not recovered"),
        (waits_for_ever, "a try took"),
    ],
)
def test_a_balancer(monkeypatch, breaks, of):
    breaks(monkeypatch)
    assert notices("balancer", of)


def tells_once(monkeypatch):
    """What did not arrive is not repeated."""
    monkeypatch.setattr(WORLDS["optimizer"], "kinds", ("black hole",))
    monkeypatch.setattr(Resync, "untold_of", lambda self, topic: None)


def drops_nothing_that_others_wrote(monkeypatch):
    monkeypatch.setattr(Invalidation, "written_elsewhere", lambda self, tables: None)


def drops_nothing_at_a_commit(monkeypatch):
    monkeypatch.setattr(Invalidation, "ended", lambda self, transaction: None)


def drops_nothing_after_a_failure(monkeypatch):
    written_by = Invalidation.written_by
    monkeypatch.setattr(
        Invalidation,
        "written_by",
        lambda self, analysis, database, *, waits=True: (
            written_by(self, analysis, database) if waits else None
        ),
    )


def answers_a_transaction_from_the_cache(monkeypatch):
    monkeypatch.setattr(QueryOptimizer, "_hidden", lambda self, query: False)


def keeps_what_a_transaction_reads(monkeypatch):
    monkeypatch.setattr(Execution, "may_keep", lambda self, analysis, params: analysis.cacheable)


def joins_an_older_run(monkeypatch):
    run = SingleFlight.run
    monkeypatch.setattr(
        SingleFlight, "run", lambda self, key, *rest, **options: run(self, key[:1], *rest, **options)
    )


def runs_for_each_caller(monkeypatch):
    async def run(self, key, load, **options):
        return await load()

    monkeypatch.setattr(SingleFlight, "run", run)


def keeps_what_was_written_meanwhile(monkeypatch):
    put = ResultCache.put
    monkeypatch.setattr(
        ResultCache, "put",
        lambda self, *result, begun, **options: put(self, *result, begun=self.begin(), **options),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("breaks", "of"),
    [
        (tells_once, "s old"),
        (drops_nothing_that_others_wrote, "s old"),
        (drops_nothing_at_a_commit, "s old"),
        (drops_nothing_after_a_failure, "s old"),
        (answers_a_transaction_from_the_cache, "a transaction has written"),
        (keeps_what_a_transaction_reads, "never committed"),
        (joins_an_older_run, "s old"),
        (runs_for_each_caller, "runs twice"),
        (keeps_what_was_written_meanwhile, "s old"),
    ],
)
def test_an_optimizer(monkeypatch, breaks, of):
    breaks(monkeypatch)
    assert notices("optimizer", of)


def drops_locks_with_all_else(monkeypatch):
    # What drops all else is rare: a reset that Redis did not hear of, while a lock is held.
    monkeypatch.setattr("tests.simulation.every_world.USERS", 7 * ("slots", "administrator"))
    monkeypatch.setattr("bot.core.cache_manager.resync.is_lock", lambda at, root=b"": False)


def leaves_a_service_on(monkeypatch):
    async def disable(self, **options):
        return True

    monkeypatch.setattr(Outbound, "disable", disable)


def leaves_the_timer(monkeypatch):
    monkeypatch.setattr(SingleFlight, "rest", lambda self: None)


@pytest.mark.parametrize(
    ("breaks", "of"),
    [
        (drops_locks_with_all_else, "locks at"),
        (leaves_a_service_on, "still run"),
        (leaves_the_timer, "a timer of"),
    ],
)
def test_all_services_at_once(monkeypatch, breaks, of):
    breaks(monkeypatch)
    assert notices("every", of)
