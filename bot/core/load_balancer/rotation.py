"""The instances that get requests now, and how one of them is chosen (pure)."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection

from bot.core.load_balancer.connections import LeastBusy
from bot.core.load_balancer.instances import Instance, StrategyFunction
from bot.core.load_balancer.models import InstanceState, LoadBalancingStrategy
from bot.core.load_balancer.sticky import Rendezvous, slot_of
from bot.core.load_balancer.strategies import Pick, chooser
from bot.core.phase4_config.load_balancer import LoadBalancerOptions

SLOW_START_SHARE = 0.1
"""Share of its requests that an instance gets when its slow start begins."""

_SAMPLE = 16


class Rotation:
    """Chooses among the instances in rotation. It decides nothing about their states.

    ``settle(now)`` ends the slow starts whose time is over, which may call :meth:`change`;
    ``report(fault)`` is told what a strategy function did wrong.
    """

    def __init__(
        self,
        now: Callable[[], float],
        rng: random.Random,
        settle: Callable[[float], object],
        report: Callable[[str], object],
    ) -> None:
        self._now = now
        self._rng = rng
        self._settle = settle
        self._report = report
        # All of what follows is changed by change only.
        self.members: list[Instance] = []
        self.trials: list[Instance] = []
        """Half-open: not in rotation, but to be tried."""
        self._settled: list[Instance] = []  # members that are not in slow start
        self._strategy: LoadBalancingStrategy | StrategyFunction = LoadBalancingStrategy.ROUND_ROBIN
        self._limit = 0
        self._slow_start = 0.0
        self.busy: LeastBusy | None = None
        """To be told of every request that begins or ends; None: nobody asks for it."""
        self.sticky = Rendezvous([])
        self._choose: Pick | None = None
        self.pick: Callable[[], Instance | None] = lambda: None
        """The next instance by the strategy; None if there is none, or each is at its limit."""

    def change(
        self,
        members: list[Instance],
        trials: list[Instance],
        strategy: LoadBalancingStrategy | StrategyFunction,
        options: LoadBalancerOptions,
        *,
        warming: bool,
    ) -> None:
        """Have these in rotation from now on; ``warming``: some are in slow start. O(n)."""
        self.members = members
        self.trials = trials
        self._settled = [i for i in members if i.state is InstanceState.HEALTHY] if warming else []
        self._strategy = strategy
        self._limit = options.max_concurrent
        self._slow_start = options.slow_start
        limited = self._limit > 0
        least = strategy is LoadBalancingStrategy.LEAST_CONNECTIONS
        self.busy = LeastBusy(members) if limited or least else None
        self.sticky = Rendezvous(members)
        if not members:
            self._choose = None
            self.pick = lambda: None
            return
        self._choose = chooser(strategy, members, self.busy, self._now, self._rng, self._report)
        self.pick = self._pick_carefully if limited or warming else self._choose

    def select(
        self, session_id: str | int | None = None, tried: Collection[Instance] = ()
    ) -> Instance | None:
        """A member that is not in ``tried``; None if there is none.

        With a session, the instance it belongs to, else the one it would belong to without that.
        """
        if session_id is None:
            # A retry does not advance the turn: else, of two, the failing one would always be first.
            return self._untried(tried) if tried else self.pick()
        if not self.members:
            return None
        slot = slot_of(session_id)
        instance = self.sticky[slot]
        if not tried and not self._limit:
            return instance
        if instance in tried or self._is_full(instance):
            full = {member for member in self.members if self._is_full(member)}
            return self.sticky.next_owner(slot, {*full, *tried})
        return instance

    def select_trial(self) -> Instance | None:
        """A half-open instance if it is to be tried now: one request at a time, a fair share at most."""
        share = 1.0 / (len(self.members) + 1)
        for instance in self.trials:
            if instance.in_flight == 0 and self._rng.random() < share:
                return instance
        return None

    def _pick_carefully(self) -> Instance | None:
        """The pick while an instance is in slow start, or instances have a limit."""
        assert self._choose is not None
        instance = self._choose()
        if instance.state is InstanceState.SLOW_START and self._settled:
            now = self._now()
            self._settle(now)
            if instance.state is InstanceState.SLOW_START and self._rng.random() > self._ramp(instance, now):
                first, second = self._rng.choices(self._settled, k=2)
                instance = first if first.in_flight <= second.in_flight else second
        if self._is_full(instance):
            assert self.busy is not None
            instance = self.busy.pick()
            if self._is_full(instance):
                return self._least_busy_of([m for m in self.members if not self._is_full(m)])
        return instance

    def _untried(self, tried: Collection[Instance]) -> Instance | None:
        """The least busy of those not tried, or of some of them where there are many."""
        members = self.members
        if len(members) > _SAMPLE:
            some = self._rng.sample(members, _SAMPLE)
            found = self._least_busy_of([m for m in some if m not in tried and not self._is_full(m)])
            if found is not None:
                return found
        return self._least_busy_of([m for m in members if m not in tried and not self._is_full(m)])

    def _least_busy_of(self, members: list[Instance]) -> Instance | None:
        self._rng.shuffle(members)
        if self._strategy is LoadBalancingStrategy.LEAST_LOADED:
            return min(members, key=lambda m: m.cost * (m.in_flight + 1) / m.weight, default=None)
        return min(members, key=lambda m: m.in_flight / m.weight, default=None)

    def _ramp(self, instance: Instance, now: float) -> float:
        passed = (now - instance.warm_from) / self._slow_start
        return SLOW_START_SHARE + (1.0 - SLOW_START_SHARE) * passed

    def _is_full(self, instance: Instance) -> bool:
        return 0 < self._limit <= instance.in_flight

    def check_invariants(self) -> None:
        """Assert that whatever chooses knows the members, and them only."""
        assert set(self._settled) <= set(self.members)
        assert not set(self.trials) & set(self.members)
        assert (self._choose is None) == (not self.members)
        if self.busy is not None:
            self.busy.check_invariants()
            assert all(member in self.busy for member in self.members)
