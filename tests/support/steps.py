"""How much Python code is executed, as a number that is the same each time: lines, not seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def steps_of(call: Callable[[], object]) -> int:
    """The lines of ``bot`` that are executed in ``call()``, each turn of a loop by itself.

    What C code does within a line is not seen: for that, structures are chosen by what they promise.
    """
    steps = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal steps
        if not str(frame.f_globals.get("__name__", "")).startswith("bot."):
            return None
        steps += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return steps
