"""Errors of broadcasts. Whatever is raised, the progress is kept: the same name goes on where it stopped."""

from __future__ import annotations

from bot.core._shared.errors import BackendError, MisuseError, Phase4Error, shown


class BroadcastRunningError(MisuseError):
    """A broadcast of this name runs already, here or in another process."""

    def __init__(self, name: str) -> None:
        super().__init__(f"broadcast {shown(name)} runs already, here or in another process")
        self.name = name


class BroadcastStoppedError(Phase4Error):
    """The broadcast was stopped early because sending failed; ``__cause__`` says why.

    Recipients that were not written to do not count as failed: remove the cause, then call it again by the
    same name.
    """

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"broadcast {shown(name)} stopped: {why}")
        self.name = name


class BroadcastLostError(Phase4Error):
    """Another process has taken over the broadcast, because this one did not renew its lease in time."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"broadcast {shown(name)} was taken over by another process: this one stood still for too long"
        )
        self.name = name


class BroadcastStoreError(BackendError):
    """The file or the Redis that keeps the progress cannot be used."""


class StoreAwayError(BroadcastStoreError):
    """The store cannot be used now; trying later can succeed. Told to callers only before the first send."""
