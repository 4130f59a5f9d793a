"""Which event loop a thing lives on, and whether that loop still runs.

A thing with sockets, tasks or futures belongs to one event loop. When it is used under another one,
either the first has ended (``asyncio.run`` again, a test's next loop, a child after ``os.fork``), and
the object starts again, or the first still runs in another thread, which is a different matter.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable

# The process that each loop was first seen in. A child has copies of its parent's loops, which say
# that they run. Changed only by seen.
_processes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, int] = weakref.WeakKeyDictionary()
_owners: weakref.WeakSet[LoopOwner] = weakref.WeakSet()


def seen(loop: asyncio.AbstractEventLoop) -> None:
    """Remember that ``loop`` runs in this process; call it under that loop."""
    _processes[loop] = os.getpid()


def still_runs(loop: asyncio.AbstractEventLoop | None) -> bool:
    """Whether ``loop`` runs now, in this process, in whichever thread."""
    if loop is None or loop.is_closed() or not loop.is_running():
        return False
    process = os.getpid()
    return _processes.get(loop, process) == process


class LoopOwner:
    """The event loop that a thing lives on; after ``os.fork``, in the child, none.

    The hot path of its holder compares ``loop`` with the running one; all else is for when they differ.
    ``on_fork(loop)`` is called in the child before anything else runs there; it must neither await nor
    use the loop, which is the parent's.
    """

    def __init__(self, on_fork: Callable[[asyncio.AbstractEventLoop], None] | None = None) -> None:
        # Changed only by claim, release and _forked.
        self.loop: asyncio.AbstractEventLoop | None = None
        self._on_fork = on_fork
        _owners.add(self)

    @property
    def elsewhere(self) -> bool:
        """Whether the owner is a loop that still runs, in another thread than the caller's."""
        loop = self.loop
        return loop is not None and loop is not _running() and still_runs(loop)

    def claim(self) -> bool:
        """Make the running loop the owner; True if it was not. Ask ``elsewhere`` first."""
        loop = asyncio.get_running_loop()
        if loop is self.loop:
            return False
        seen(loop)
        self.loop = loop
        return True

    def release(self) -> None:
        """Belong to no loop."""
        self.loop = None

    def _forked(self) -> None:
        loop, self.loop = self.loop, None
        if loop is not None and self._on_fork is not None:
            self._on_fork(loop)


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _after_fork() -> None:
    for owner in list(_owners):
        owner._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
