"""Delays between tries: exponential, capped, with jitter (pure)."""

from __future__ import annotations

import random


def exponential(attempt: int, base: float, cap: float) -> float:
    """Seconds before try number ``attempt`` (from 1): ``base * 2**(attempt-1)``, at most ``cap``."""
    # 2.0**1024 overflows a float; any such delay is past every cap.
    return min(cap, base * 2.0 ** min(attempt - 1, 1000))


def full_jitter(attempt: int, base: float, cap: float, rng: random.Random | None = None) -> float:
    """A delay drawn evenly from 0 to :func:`exponential`, so that clients do not retry together.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return (rng or random).uniform(0.0, exponential(attempt, base, cap))
