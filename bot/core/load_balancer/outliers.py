"""Which instance fails so often that it is better left alone for a while (pure)."""

from __future__ import annotations

from bot.core.load_balancer.instances import Instance
from bot.core.phase4_config.load_balancer import LoadBalancerOptions


class Outliers:
    """Counts outcomes and says which instance to eject; O(1) for each outcome.

    Two rules, as in Envoy's outlier detection: too many failures in a row, or too high a share of
    failures within a window, provided it is at least twice that of the others: what all fail alike is
    no fault of one. A window is the current one and the one before, so it spans one to two lengths.
    """

    __slots__ = ("_all", "_options", "_started")

    def __init__(self, options: LoadBalancerOptions) -> None:
        self._options = options
        self._all = [0, 0, 0, 0]  # of all instances, as in Instance.window
        self._started = 0.0

    def succeeded(self, instance: Instance, now: float) -> None:
        """Count a good outcome."""
        instance.consecutive_failures = 0
        self._roll(instance, now)
        instance.window[0] += 1
        self._all[0] += 1

    def failed(self, instance: Instance, now: float) -> str:
        """Count a failure; the reason to eject the instance now, or ``""``."""
        self._roll(instance, now)
        instance.consecutive_failures += 1
        instance.window[1] += 1
        self._all[1] += 1
        options = self._options
        if instance.consecutive_failures >= options.outlier_failures:
            return f"{instance.consecutive_failures} failures in a row"
        bad = instance.window[1] + instance.window[3]
        total = bad + instance.window[0] + instance.window[2]
        if total < options.outlier_min_requests:
            return ""
        percent = 100.0 * bad / total
        if percent < options.outlier_failure_percent:
            return ""
        others_bad = self._all[1] + self._all[3] - bad
        others = sum(self._all) - total
        if others > 0 and percent < 200.0 * others_bad / others:
            return ""
        return f"{percent:.0f} % of {total} requests failed"

    def forget(self, instance: Instance) -> None:
        """Start again with an instance that was ejected."""
        instance.consecutive_failures = 0
        for index in range(4):
            self._all[index] = max(0, self._all[index] - instance.window[index])
            instance.window[index] = 0

    def _roll(self, instance: Instance, now: float) -> None:
        length = self._options.outlier_window
        if now - self._started >= length:
            _shift(self._all, now - self._started < 2 * length)
            self._started = now
        # In step with the whole, so that the others' share is a difference.
        behind = self._started - instance.in_window
        if behind > 0.0:
            _shift(instance.window, behind < 2 * length)
            instance.in_window = self._started


def _shift(window: list[int], recent: bool) -> None:
    window[2:] = window[:2] if recent else (0, 0)
    window[:2] = (0, 0)
