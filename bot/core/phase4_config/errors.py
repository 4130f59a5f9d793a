"""What is raised for settings that are wrong (pure)."""

from __future__ import annotations

from bot.core._shared.errors import InvalidArgumentError


class ConfigError(InvalidArgumentError):
    """Settings that are unknown or outside their bounds; a line of the message for each."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        """One sentence each, which names setting, value and bounds."""
