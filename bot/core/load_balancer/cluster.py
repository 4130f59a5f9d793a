"""The instances, which of them get requests, and what the outcomes change (pure)."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from statistics import median

from bot.core._shared.backoff import exponential
from bot.core.load_balancer.instances import Instance, StrategyFunction
from bot.core.load_balancer.models import (
    InstanceEvent,
    InstanceState,
    LoadBalancingStrategy,
)
from bot.core.load_balancer.outliers import Outliers
from bot.core.load_balancer.rotation import Rotation
from bot.core.load_balancer.strategies import FAILURE_COST, UNKNOWN_COST, observe
from bot.core.phase4_config.load_balancer import LoadBalancerOptions

HEALTHY, SLOW_START, HALF_OPEN, EJECTED, UNHEALTHY, DRAINING, DRAINED = InstanceState

TAKEN_OUT = (DRAINING, DRAINED)
"""States that somebody has put an instance in: it gets nothing, whatever checks say and others do."""

TRIALS = 3
"""Good requests in a row after which a half-open instance is back."""


class Cluster:
    """The instances by id, and every decision about them. Reads no clock but through ``now``.

    Not thread-safe; nothing in it awaits, so tasks of one loop see it whole. The owner takes
    ``events`` after every call that may change a state.
    """

    def __init__(
        self,
        strategy: LoadBalancingStrategy | StrategyFunction,
        options: LoadBalancerOptions,
        now: Callable[[], float],
        wall: Callable[[], float],
        rng: random.Random | None = None,
    ) -> None:
        self._now = now
        self._wall = wall
        self.members: dict[str, Instance] = {}
        self.events: list[InstanceEvent] = []
        self.panic = False
        self._strategy_failed = False  # a callable strategy did something wrong, and that was told
        # Made anew by _rebuild, whenever the set of available instances changes.
        self._rotation = Rotation(now, rng or random.Random(), self.settle, self._strategy_fault)
        # Whether instances were added since, for which _rebuild is still to be done. Changed by add and
        # _rebuild.
        self._stale = False
        # What one just added begins with: cost and the time of its sample; None: to be worked out. Changed
        # by add, _rebuild and whatever changes a cost.
        self._newcomers: tuple[float, float] | None = None
        # The rotation's own, at hand for every request. Changed by _rebuild; pick and select by add as well.
        self._busy = self._rotation.busy
        self.trials = self._rotation.trials
        """Instances that are half-open."""
        self.pick = self._rotation.pick
        """The next instance by the strategy; None if there is none, or each is at its limit."""
        self.select = self._rotation.select
        """As :meth:`Rotation.select`."""
        self.configure(strategy, options)

    def configure(
        self, strategy: LoadBalancingStrategy | StrategyFunction, options: LoadBalancerOptions
    ) -> None:
        """Set or change strategy and figures; instances keep their states and counters."""
        self.strategy = strategy
        self.options = options
        self._strategy_failed = False
        self._outliers = Outliers(options)
        for instance in self.members.values():
            self._outliers.forget(instance)
        self._rebuild()
        if not options.check_interval:
            for instance in self.members.values():
                instance.failed_checks = instance.good_checks = 0
                if instance.state is UNHEALTHY:
                    self._back(instance, "checks are off")  # no good one would ever bring it back

    # Coming and going.

    def add(self, instance: Instance) -> Instance:
        """Take an instance in; one with the same id and address keeps its place and state.

        Returns the instance that is in the cluster now.
        """
        known = self.members.get(instance.id)
        if known is not None and known.get_url() == instance.get_url():
            known.weight = instance.weight
            if known.state is DRAINING:
                self._set_state(known, HEALTHY, "added again")
            else:
                self._rebuild()
            return known
        if known is not None:
            self._drop(known, "replaced")
        now = self._now()
        newcomers = self._newcomers
        if newcomers is None:
            sampled = [other.cost for other in self.members.values() if other.cost]
            # No fresher than what the others have shown, or the one added last would look the dearest.
            at = max((other.sampled_at for other in self.members.values()), default=now)
            newcomers = median(sampled) if sampled else UNKNOWN_COST, at
        instance.cost, instance.sampled_at = newcomers
        instance.in_window = now
        instance.since = self._wall()
        self.members[instance.id] = instance
        self._tell(instance.id, "", HEALTHY.value, f"added at {instance.get_url()}")
        if self.panic:
            self._rebuild()  # which may end it
        else:
            # Once for all that are added together: a thousand would cost a million steps.
            self._newcomers = newcomers
            self._stale = True
            self.pick, self.select = self._rebuild_and_pick, self._rebuild_and_select
        return instance

    def remove(self, instance_id: str, *, drain: bool) -> Instance | None:
        """Send an instance nothing more; gone at once if idle or not ``drain``, else when idle."""
        instance = self.members.get(instance_id)
        if instance is None:
            return None
        if drain and instance.in_flight:
            if instance.state is not DRAINING:
                self._set_state(instance, DRAINING, f"{instance.in_flight} request(s) in progress")
        else:
            self._drop(instance, "removed")
        return instance

    def drain(self, instance: Instance) -> None:
        """Send an instance nothing more; it stays. One that is being removed is left alone."""
        if instance.state not in TAKEN_OUT:
            self._set_state(instance, DRAINED, f"drained, {instance.in_flight} request(s) in progress")

    def give_back(self, instance: Instance) -> bool:
        """Send requests to a drained instance again if its checks allow; False if it was not drained."""
        if instance.state is not DRAINED:
            return False
        self._outliers.forget(instance)
        if instance.failed_checks >= self.options.failure_threshold:
            count = instance.failed_checks
            self._set_state(instance, UNHEALTHY, f"returned with {count} failed health check(s) in a row")
        else:
            self._back(instance, "returned")
        return True

    def _drop(self, instance: Instance, reason: str) -> None:
        del self.members[instance.id]
        instance.present = False
        self._tell(instance.id, instance.state.value, "", reason)
        self._rebuild()

    # Choosing.

    def select_trial(self) -> Instance | None:
        """As :meth:`Rotation.select_trial`."""
        if self._stale:
            self._rebuild()
        return self._rotation.select_trial()

    def _rebuild_and_pick(self) -> Instance | None:
        self._rebuild()
        return self.pick()

    def _rebuild_and_select(
        self, session_id: str | int | None = None, tried: Collection[Instance] = ()
    ) -> Instance | None:
        self._rebuild()
        return self.select(session_id, tried)

    def settle(self, now: float) -> None:
        """End the slow start of those whose time is over."""
        for instance in self.members.values():
            if instance.state is SLOW_START and now - instance.warm_from >= self.options.slow_start:
                self._set_state(instance, HEALTHY, "slow start is over")

    # Requests.

    def acquire(self, instance: Instance) -> None:
        """A request to the instance begins; :meth:`release` must follow."""
        instance.in_flight += 1
        instance.picked += 1
        if self._busy is not None:
            self._busy.moved(instance)

    def release(self, instance: Instance) -> None:
        """A request to it has ended, however it ended."""
        instance.in_flight -= 1
        if self._busy is not None:
            self._busy.moved(instance)
        if instance.state is DRAINING and instance.in_flight == 0 and instance.present:
            self._drop(instance, "drained")

    def abandoned(self, instance: Instance, seconds: float, now: float) -> None:
        """The caller gave up on a request: it would have taken ``seconds`` at least."""
        if seconds > instance.cost:
            observe(instance, seconds, now)
            self._newcomers = None

    def succeeded(self, instance: Instance, seconds: float, now: float, *, trial: bool) -> None:
        """A request was answered after ``seconds``."""
        instance.succeeded += 1
        instance.response_seconds.record(seconds)
        observe(instance, seconds, now)
        self._newcomers = None
        self._outliers.succeeded(instance, now)
        if instance.state is HALF_OPEN and (trial or self.panic):
            # In panic it gets requests like all others. If these proved nothing, it would stay out, and the
            # panic would last, for as long as the others are bad.
            instance.trials += 1
            if instance.trials >= TRIALS:
                self._back(instance, f"{TRIALS} trial requests succeeded")

    def failed(
        self,
        instance: Instance,
        error: str,
        seconds: float,
        now: float,
        *,
        trial: bool,
        blame: bool = True,
        silent: bool = False,
    ) -> None:
        """A request failed after ``seconds``; ``silent``: there was no answer in time.

        Without ``blame`` it is not known yet whether by the instance's fault; :meth:`blame` may follow.
        """
        instance.failed += 1
        instance.last_error = error
        instance.silent = silent
        instance.response_seconds.record(seconds)
        observe(instance, max(seconds, FAILURE_COST, instance.cost), now)
        self._newcomers = None
        if blame:
            self.blame(instance, error, now, trial=trial)

    def blame(self, instance: Instance, error: str, now: float, *, trial: bool = False) -> None:
        """A failure was the instance's fault: it counts towards its ejection."""
        reason = self._outliers.failed(instance, now)
        if not instance.present:
            return
        if instance.state is HALF_OPEN:
            if trial:
                self._eject(instance, f"a trial request failed: {error}", now)
            elif self.panic:
                instance.trials = 0
        elif reason and instance.is_healthy and self._may_eject():
            self._eject(instance, f"{reason}, the last: {error}", now)

    def _may_eject(self) -> bool:
        """Whether one more may be out by ejection: never all, and no more than a share."""
        present = available = out = 0
        for instance in self.members.values():
            present += instance.state not in TAKEN_OUT
            available += instance.is_healthy
            out += instance.state is EJECTED or instance.state is HALF_OPEN
        allowed = max(1, int(present * self.options.max_ejected_percent / 100.0))
        return available > 1 and out < allowed

    def _eject(self, instance: Instance, reason: str, now: float) -> None:
        options = self.options
        if now - instance.ejected_until > options.ejection_max_time:
            instance.ejections = 0  # long ago: forgiven
        instance.ejections += 1
        seconds = exponential(instance.ejections, options.ejection_time, options.ejection_max_time)
        instance.ejected_until = now + seconds
        self._outliers.forget(instance)
        self._set_state(instance, EJECTED, f"{reason}; out for {seconds:g} s")

    def reopen(self, instance: Instance, fault: str, now: float) -> None:
        """The ejection is over: half-open if its check was good, out again for ``fault`` otherwise."""
        if not instance.present or instance.state is not EJECTED or now < instance.ejected_until:
            return
        if fault:
            self._eject(instance, f"still failing: {fault}", now)
        else:
            instance.trials = 0
            self._set_state(instance, HALF_OPEN, "ejection is over")

    # Active checks.

    def checked(self, instance: Instance, fault: str, now: float) -> None:
        """A health check ended, well if ``fault`` is empty."""
        if not instance.present:
            return
        if not fault:
            instance.failed_checks = 0
            instance.good_checks += 1
            if instance.state is UNHEALTHY and instance.good_checks >= self.options.recovery_threshold:
                self._back(instance, f"{instance.good_checks} good health check(s) in a row")
            return
        instance.good_checks = 0
        instance.failed_checks += 1
        instance.last_error = f"health check: {fault}"
        if instance.failed_checks >= self.options.failure_threshold and instance.state not in (
            UNHEALTHY,
            *TAKEN_OUT,
        ):
            count = instance.failed_checks
            self._set_state(
                instance, UNHEALTHY, f"{count} failed health check(s) in a row, the last: {fault}"
            )

    def restart(self) -> None:
        """Forget the states of instances: after a time without health checks."""
        for instance in self.members.values():
            instance.failed_checks = instance.good_checks = instance.ejections = 0
            instance.ejected_until = 0.0
            self._outliers.forget(instance)
            if instance.state not in (HEALTHY, *TAKEN_OUT):
                self._set_state(instance, HEALTHY, "load balancer enabled")

    # States.

    def _back(self, instance: Instance, reason: str) -> None:
        now = self._now()
        instance.warm_from = now
        instance.consecutive_failures = 0
        # As good as the others until it shows otherwise; slow start keeps it from being flooded.
        peers = [other.cost for other in self.members.values() if other.is_healthy]
        instance.cost = median(peers) if peers else UNKNOWN_COST
        instance.sampled_at = now
        self._set_state(instance, SLOW_START if self.options.slow_start else HEALTHY, reason)

    def _set_state(self, instance: Instance, state: InstanceState, reason: str) -> None:
        old, instance.state = instance.state, state
        instance.since = self._wall()
        instance.history.append(
            {"at": round(instance.since, 3), "from": old.value, "to": state.value, "reason": reason[:300]}
        )
        self._tell(instance.id, old.value, state.value, reason)
        self._rebuild()

    def _tell(self, instance_id: str | None, old: str, new: str, reason: str) -> None:
        self.events.append(InstanceEvent(instance_id, old, new, reason[:300], self._wall()))

    def _rebuild(self) -> None:
        """Compute which instances get requests, and a chooser for them. O(n), at a change of state only."""
        self._stale, self._newcomers = False, None
        present = [i for i in self.members.values() if i.state not in TAKEN_OUT]
        good = [i for i in present if i.is_healthy]
        self._set_panic(len(good), len(present))
        for instance in present:
            instance.picked_before = instance.picked
        rotation = self._rotation
        if self.panic:
            rotation.change(present, [], self.strategy, self.options, warming=False)
        else:
            half_open = [i for i in present if i.state is HALF_OPEN]
            warming = any(i.state is SLOW_START for i in good)
            rotation.change(good, half_open, self.strategy, self.options, warming=warming)
        self._busy, self.trials = rotation.busy, rotation.trials
        self.pick, self.select = rotation.pick, rotation.select

    def _set_panic(self, good: int, present: int) -> None:
        """Too few left: they would drown, and so much bad news at once is more likely wrong."""
        panic = present > 0 and (not good or 100.0 * good < self.options.panic_percent * present)
        if panic != self.panic:
            self.panic = panic
            old, new = ("normal", "panic") if panic else ("panic", "normal")
            standing = f"{good} of {present} instances are healthy"
            self._tell(None, old, new, f"{standing}: requests go to {'all' if panic else 'those'}")

    def _strategy_fault(self, fault: str) -> None:
        if not self._strategy_failed:
            self._strategy_failed = True
            self._tell(None, "strategy function", "round robin", f"the function {fault}")

    def check_invariants(self) -> None:
        """Assert that exactly the available instances get requests."""
        if self._stale:
            self._rebuild()
        present = {i for i in self.members.values() if i.state not in TAKEN_OUT}
        good = {i for i in present if i.is_healthy}
        assert all(i.present and i.in_flight >= 0 for i in self.members.values())
        members = self._rotation.members
        assert set(members) == (present if self.panic else good)
        assert bool(members) == bool(present)
        if good and self.options.panic_percent == 0:
            assert not self.panic
        out = sum(i.state in (EJECTED, HALF_OPEN) for i in present)
        assert out < max(len(present), 1) or self.panic
        self._rotation.check_invariants()
        assert self._busy is self._rotation.busy
        assert self.trials is self._rotation.trials
