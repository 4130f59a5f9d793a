"""What a run is to do, decided before anything is touched (pure: it is told what lies where)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bot.embed import payload
from bot.embed.clashes import Clash
from bot.embed.manifest import Manifest
from bot.embed.payload import Payload


@dataclass
class Plan:
    """Paths by what becomes of them; each path is in one list at most."""

    add: list[str] = field(default_factory=list)
    upgrade: list[str] = field(default_factory=list)
    put_back: list[str] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)
    """Changed by the bot's author since they were put there."""
    left: list[str] = field(default_factory=list)
    """The same, of files that this version no longer has."""
    bots_own: list[str] = field(default_factory=list)
    """Settings, and ``__init__.py`` of folders that both have: the bot's stay."""
    clashes: list[Clash] = field(default_factory=list)

    def to_write(self, replace: bool) -> list[str]:
        over = [path for path in self.edited if path != payload.SETTINGS] if replace else []
        return sorted([*self.add, *self.upgrade, *self.put_back, *over])

    def changes(self, replace: bool) -> bool:
        """Whether anything in the folder would change, requirements aside."""
        return bool(self.to_write(replace) or self.delete or (replace and self.clashes))


def decide(
    new: Payload, found: Mapping[str, str | None], manifest: Manifest | None, clashes: list[Clash]
) -> Plan:
    """``found``: digest of what lies at every path of the payload and of the manifest."""
    known = manifest or Manifest()
    whole = known.state == "installed"  # else a run was interrupted, and what is missing was never there
    plan = Plan(clashes=clashes)
    taken = {path for clash in clashes for path in clash.paths}
    for path in sorted(new.files):
        state = found[path]
        if path in taken or state is None:
            (plan.put_back if whole and path in known.files and state is None else plan.add).append(path)
        elif state == payload.digest(new.files[path]):
            plan.same.append(path)
        elif known.owns(path, state):
            plan.upgrade.append(path)
        elif known.edited(path, state):
            plan.edited.append(path)
        else:
            plan.bots_own.append(path)
    for path in sorted(known.files.keys() - new.files.keys()):
        if known.owns(path, found[path]):
            plan.delete.append(path)
        elif found[path] is not None:
            plan.left.append(path)
    return plan
