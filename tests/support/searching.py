"""How many random cases a test looks at."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings

SHARE = float(os.environ.get("PHASE4_TEST_SEARCH") or 1.0)
"""Of the random cases that each test names: `make check` looks at a fifth; 50 is a long search."""


def cases(number: int) -> int:
    """So many of ``number`` random cases as are asked for, five at least."""
    return max(5, round(number * SHARE))


def searching(max_examples: int, **others: Any) -> settings:
    """Hypothesis's settings for a test of that many examples."""
    return settings(max_examples=cases(max_examples), deadline=None, **others)
