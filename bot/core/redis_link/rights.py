"""What an ACL of Redis forbids this user, and what the link does without."""

from __future__ import annotations

import logging
import re
from typing import Any

from bot.core.redis_link.commands import on_channel
from bot.core.redis_link.failures import told

logger = logging.getLogger("bot.core.redis_link")

_FORBIDDEN = re.compile(r"^NOPERM|no permissions|unknown command")


class Rights:
    """What Redis refused this user, each said once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.refused: dict[str, str] = {}
        """What this user may not do, such as ``PUBLISH p4c:changes:0``, and the server's words."""

    def found_refused(self, what: str, text: str, consequence: str) -> None:
        """Redis does not let this user do ``what``: the first time it is said."""
        if what not in self.refused:
            logger.warning("Redis at %s refuses %s (%s): %s", self._name, what, text, consequence)
        self.refused[what] = text

    def found_allowed(self, command: tuple[Any, ...]) -> None:
        """A command on a channel was taken."""
        if self.refused:
            self.refused.pop(on_channel(command), None)

    def tolerates(self, command: tuple[Any, ...], text: str) -> bool:
        """Whether an error is that of a PUBLISH this user may not do; it is remembered."""
        # Without the message others hear of the change later; without the change they never would.
        if command[0] != "PUBLISH" or not _FORBIDDEN.search(text):
            return False
        consequence = "other instances are not told of changes made here"
        self.found_refused(on_channel(command), told(text), consequence)
        return True

    @property
    def sends_scripts_whole(self) -> bool:
        """Whether EVALSHA is forbidden."""
        return bool(self.refused) and "EVALSHA" in self.refused

    def forbids_evalsha(self, text: str) -> bool:
        """Whether an error means that scripts must be sent whole; it is remembered."""
        if not _FORBIDDEN.search(text) or "evalsha" not in text.lower():
            return False
        self.found_refused("EVALSHA", told(text), "scripts are sent whole each time")
        return True
