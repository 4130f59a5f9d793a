"""Names that both the bot and Phase 4 have: which, and what each would hide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from bot.embed import payload
from bot.embed.manifest import Manifest
from bot.embed.payload import Payload

MODULE_ENDINGS = (".py", ".pyi", ".so", ".pyd")


class Clash(NamedTuple):
    """Something of the bot's that stands where Phase 4 has to stand.

    ``paths``: what is moved aside if Phase 4 takes the name, relative to the bot's folder.
    """

    name: str
    module: str
    paths: tuple[str, ...]
    reason: str


def module_of(path: str) -> str:
    """``bot/core/metrics.py`` -> ``bot.core.metrics``; of a package's ``__init__.py`` the package."""
    return path.split(".")[0].removesuffix("/__init__").replace("/", ".")


def find(host: Path, new: Payload, found: Mapping[str, str | None], manifest: Manifest | None) -> list[Clash]:
    """Every clash, in the order of names. ``found``: the digests of what lies at the payload's paths."""
    known = manifest or Manifest()
    clashes: list[Clash] = []
    hidden: set[str] = set()
    for folder in sorted({"bot/core", "bot/integrations", *new.packages()}):
        clashes += _beside_a_package(host, folder)
        if _is_the_bots(folder, new, found, known):
            hidden.add(folder)
            paths = tuple(
                path.relative_to(host).as_posix()
                for path in sorted((host / folder).rglob("*"))
                if (path.is_file() or path.is_symlink()) and "__pycache__" not in path.parts
            )
            clashes.append(
                Clash(f"{folder}/", module_of(folder), paths, "the bot has a package of this name")
            )
    clashes += _packages_before_modules(host, new)
    for path in sorted(new.files):
        if path in payload.SHARED or path == payload.SETTINGS or _inside(path, hidden):
            continue
        state = found[path]
        if state is None or known.owns(path, state) or state == payload.digest(new.files[path]):
            continue
        if known.edited(path, state):
            continue  # not a clash, see plan.py
        reason = {"link": "a link of the bot's", "folder": "a folder of the bot's"}.get(
            state, "a file of the bot's"
        )
        clashes.append(Clash(path, module_of(path), (path,), reason))
    return sorted(set(clashes))


def _beside_a_package(host: Path, folder: str) -> list[Clash]:
    """Modules that the package would hide: Python looks for a package first."""
    found = []
    for path in sorted((host / folder).parent.glob(f"{Path(folder).name}.*")):
        if path.suffix in MODULE_ENDINGS and path.is_file():
            name = path.relative_to(host).as_posix()
            found.append(Clash(name, module_of(name), (name,), f"Phase 4's package {folder}/ would hide it"))
    return found


def _is_the_bots(folder: str, new: Payload, found: Mapping[str, str | None], known: Manifest) -> bool:
    """A folder of a package's name whose ``__init__.py`` is not ours, nor one of ours that was changed."""
    path = f"{folder}/__init__.py"
    if folder not in new.packages() or found[path] is None:
        return False
    if known.owns(path, found[path]) or known.edited(path, found[path]):
        return False
    return found[path] != payload.digest(new.files[path])


def _packages_before_modules(host: Path, new: Payload) -> list[Clash]:
    """Packages of the bot that would hide a module of Phase 4."""
    clashes = []
    for path in sorted(new.files):
        folder = host / path.removesuffix(".py")
        if path.endswith(".py") and (folder / "__init__.py").is_file():
            name = folder.relative_to(host).as_posix()
            paths = tuple(
                each.relative_to(host).as_posix()
                for each in sorted(folder.rglob("*"))
                if each.is_file() and "__pycache__" not in each.parts
            )
            clashes.append(
                Clash(f"{name}/", module_of(path), paths, f"it would hide Phase 4's module {path}")
            )
    return clashes


def _inside(path: str, folders: set[str]) -> bool:
    return any(path.startswith(f"{folder}/") for folder in folders)
