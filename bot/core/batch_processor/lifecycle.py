"""The states between on and off (pure)."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """How far a processor is between on and off; the dispatcher has it."""

    OFF = "off"
    ON = "on"
    DRAINING = "draining"
    """Nothing more is taken in; what is pending is handled."""
    STOPPING = "stopping"
    """Nothing more is started, and what has not ended is being ended or given back. A disable that was
    cancelled leaves the processor in this state, and the next enable or disable finishes it."""
