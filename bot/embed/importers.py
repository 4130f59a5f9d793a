"""Which files of the bot import a module, and which names they take from it (reads files, runs nothing)."""

from __future__ import annotations

import ast
import tokenize
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from bot.embed import host as hosts
from bot.embed.payload import Payload

LARGEST = 2_000_000
"""Bytes of a module that is still read: larger ones are data."""


class Import(NamedTuple):
    """A line that imports a module; ``names``: what it takes from it, empty for the module itself."""

    file: str
    line: int
    module: str
    names: tuple[str, ...]


def find(host: Path, modules: Collection[str], skipped: Collection[str]) -> list[Import]:
    """Every import of one of the modules by the bot's files, but for the ``skipped`` ones."""
    found: list[Import] = []
    for path in hosts.modules(host):
        name = path.relative_to(host).as_posix()
        if name not in skipped and (tree := _parsed(path)) is not None:
            found += sorted(set(_imports(tree, name, frozenset(modules))))
    return found


def _parsed(path: Path) -> ast.Module | None:
    """The file's syntax tree; None if Python could not read it either."""
    try:
        if path.stat().st_size > LARGEST:
            return None
        with tokenize.open(path) as file:
            return ast.parse(file.read())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _imports(tree: ast.Module, name: str, modules: frozenset[str]) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if (module := _within(alias.name, modules)) is not None:
                    yield Import(name, node.lineno, module, ())
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, name)
            if (module := _within(base, modules)) is not None:
                names = tuple(alias.name for alias in node.names) if base == module else ()
                yield Import(name, node.lineno, module, names)
            else:
                for alias in node.names:
                    if (module := _within(f"{base}.{alias.name}", modules)) is not None:
                        yield Import(name, node.lineno, module, ())
        elif isinstance(node, ast.Constant) and (module := _within(_text(node.value), modules)) is not None:
            yield Import(name, node.lineno, module, ())


def _text(value: object) -> str:
    """A string that may name a module: ``import_module("bot.core.x")``, ``patch("bot.core.x.y")``."""
    return value if isinstance(value, str) and len(value) < 300 else ""


def _within(module: str, modules: frozenset[str]) -> str | None:
    """The one of ``modules`` that is this module or holds it."""
    while module:
        if module in modules:
            return module
        module = module.rpartition(".")[0]
    return None


def _absolute(node: ast.ImportFrom, name: str) -> str:
    """``from ..core import x`` in ``bot/modules/a.py`` -> ``bot.core``."""
    if not node.level:
        return node.module or ""
    package = name.split("/")[: -node.level]
    return ".".join([*package, *([node.module] if node.module else [])])


def names_of(new: Payload, module: str) -> frozenset[str] | None:
    """What a module of Phase 4 offers, read from its text; None if it has none of that name."""
    base = module.replace(".", "/")
    source = new.files.get(f"{base}.py", new.files.get(f"{base}/__init__.py"))
    if source is None:
        return None
    names: set[str] = {"*"}
    names |= {
        path[len(base) + 1 :].split("/")[0].removesuffix(".py")
        for path in new.files
        if path.startswith(f"{base}/")
    }
    for node in ast.parse(source).body:
        names |= _bound(node)
    return frozenset(names)


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.If):  # if TYPE_CHECKING: names that the module gives when asked
        return set().union(*(_bound(each) for each in node.body))
    targets = (
        node.targets
        if isinstance(node, ast.Assign)
        else [node.target]
        if isinstance(node, ast.AnnAssign)
        else []
    )
    found = {target.id for target in targets if isinstance(target, ast.Name)}
    if "__all__" in found and isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
        found |= {
            item.value
            for item in node.value.elts
            if isinstance(item, ast.Constant) and isinstance(item.value, str)
        }
    return found
