"""What is known of one server's health: when it may be asked, and what the log says of it.

Source: M. Nygard, "Release It!", the circuit breaker pattern.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from enum import Enum

from bot.core._shared.backoff import exponential
from bot.core._shared.masking import one_line
from bot.core.redis_link.errors import RedisUnavailableError
from bot.core.redis_link.failures import MAX_TEXT, refused_login, text_of, told

logger = logging.getLogger("bot.core.redis_link")

PROBE_FIRST, PROBE_LONGEST = 0.2, 5.0

CALM = 10.0
"""Seconds that a server must have been back for its next failure to be news."""


class State(Enum):
    """What the last call to a server says of it."""

    UP = "up"
    """It was reached, or was not called yet."""
    AWAY = "away"
    """It could not be reached."""
    PROBED = "probed"
    """It could not be reached, and a call that sees whether it is back is under way."""


_UP = State.UP


class Breaker:
    """What is known of one server's health, and whether it may be asked now.

    A server that fails again within ``CALM`` seconds of its return is one that flaps: its probes stay
    as rare as they were, and the log tells of it only if it then stays away.
    """

    def __init__(self, name: str, timeout: float, now: Callable[[], float]) -> None:
        self.name = name
        self._timeout = timeout
        self._now = now
        # Changed only by the methods below.
        self.state = State.UP
        self.trouble = ""
        """Why the server could not be reached the last time; empty if it was."""
        self._failures = 0
        """In a row: the one that began the outage, and the probes since."""
        self._is_counted = False
        """Whether the probe under way counts as one of them already."""
        self._probe_at = 0.0
        self._back_at = -CALM
        self._said = False

    @property
    def available(self) -> bool:
        """Whether the last call reached the server; True before the first."""
        return self.state is _UP

    @property
    def probe_due(self) -> bool:
        """Whether the server is known to be away and it is time to see whether it still is."""
        return self.state is State.AWAY and self._now() >= self._probe_at

    @property
    def probe_in(self) -> float:
        """Seconds until the next probe is due."""
        return max(0.0, self._probe_at - self._now())

    def admit(self) -> bool:
        """True if this call is the probe; raises RedisUnavailableError while the server is away."""
        if self.state is _UP:
            return False
        if not self.probe_due:
            raise RedisUnavailableError(f"Redis at {self.name} is away")
        self.probe_began()
        return True

    def probe_began(self) -> None:
        """A call sees whether the server is back; nobody else does until :meth:`probe_ended`."""
        self.state = State.PROBED
        self._is_counted = False

    def probe_ended(self) -> None:
        """That call is over, however it ended."""
        if self.state is State.PROBED:
            self.state = State.AWAY

    def may_be_back(self) -> None:
        """Another server has taken its place: see at once whether it answers."""
        self._probe_at = self._now()
        self._failures = 0

    def failed(self, error: BaseException) -> None:
        """The server could not be reached.

        Calls that were under way when the outage began fail with it: they are no further failures of it.
        """
        now = self._now()
        self.trouble = one_line(self.reason(error), 2 * MAX_TEXT)
        if self.state is _UP:
            self.state = State.AWAY
            if now - self._back_at >= CALM:
                self._failures = 0
                self._say(error)
            self._failures += 1
        else:
            if not self._said and now - self._back_at >= CALM:
                self._say(error)
            if self.state is State.AWAY:
                return
            self._failures += not self._is_counted
            self._is_counted = True
        delay = exponential(self._failures, PROBE_FIRST, PROBE_LONGEST)
        # Jitter, so that instances do not all knock on a server that has just come back.
        self._probe_at = now + delay * random.uniform(0.75, 1.0)

    def succeeded(self) -> bool:
        """The server answered; True if it was away until now."""
        if self.state is _UP:
            return False
        self.state = State.UP
        self.trouble = ""
        self._back_at = self._now()
        if self._said:
            self._said = False
            logger.warning("Redis at %s is back", self.name)
        return True

    def _say(self, error: BaseException) -> None:
        self._said = True
        logger.warning("%s; going on without it", one_line(self.reason(error), 2 * MAX_TEXT))

    def reason(self, error: BaseException) -> str:
        """The error for callers of the server."""
        refusal = refused_login(error)
        if refusal:
            return f"Redis at {self.name} {refusal}"
        what = told(text_of(error)) or f"no answer within {self._timeout:g} s"
        return f"Redis at {self.name} is away ({type(error).__name__}: {what})"
