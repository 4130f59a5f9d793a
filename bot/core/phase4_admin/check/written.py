"""Settings as a file has them written, without running it (pure)."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

_ANYWHERE = frozenset({"exec", "globals"})
_AT_IMPORT = frozenset({"locals", "vars", "setattr"})
"""Calls after which what is written may not be what is set: also in functions, or only outside of them."""


class Written(NamedTuple):
    """What a module, or a class in it, says of settings."""

    values: dict[str, Any]
    """Those that are written as plain values."""
    unknown: set[str]
    """Those whose values only running the file would tell."""
    others: set[str]
    """Its other names in upper case."""
    whole: bool
    """Whether nothing else can have set one: no import of all names, no ``globals()``."""

    @property
    def certain(self) -> bool:
        """Whether running the file would tell no more."""
        return self.whole and not self.unknown


class Start(NamedTuple):
    """A call of ``initialize_phase4_services``."""

    line: int
    overrides: Mapping[str, Any] | None
    """The dict that it gives; None: it gives none, or one that is not written there."""
    unread: bool
    """Whether it gives settings that are not written there."""
    host: str
    """The name that ``from_host=`` has; empty: there is none."""


def of_module(tree: ast.Module, names: Collection[str]) -> Written:
    """The settings ``names`` at the top of a module."""
    return _of_body(tree, tree.body, names)


def of_class(tree: ast.Module, name: str, names: Collection[str]) -> Written | None:
    """Those of a class of the module; None if there is no such class."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            found = _of_body(node, node.body, names)
            # What it inherits is written elsewhere.
            return found._replace(whole=found.whole and not node.bases)
    return None


def _of_body(root: ast.AST, body: list[ast.stmt], names: Collection[str]) -> Written:
    values: dict[str, Any] = {}
    unknown: set[str] = set()
    others: set[str] = set()
    at_the_top = set()
    for statement in body:
        for name, value in _assigned(statement):
            at_the_top.add(id(statement))
            if name not in names:
                others |= {name} if name.isupper() else set()
                continue
            values.pop(name, None)
            unknown.discard(name)
            try:
                values[name] = ast.literal_eval(value)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                unknown.add(name)
    whole = not any(_calls(node, _ANYWHERE) for node in ast.walk(root))
    for node in _executed(body):
        if isinstance(node, ast.stmt) and id(node) not in at_the_top:
            # In an if, a try, a loop: whether it is set there, only running it tells.
            unknown |= {name for name, _ in _assigned(node)} & set(names)
        if isinstance(node, ast.ImportFrom):
            whole = whole and all(alias.name != "*" for alias in node.names)
            unknown |= {alias.asname or alias.name for alias in node.names} & set(names)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id in names:
            unknown.add(node.target.id)
        whole = whole and not _calls(node, _AT_IMPORT)
    for name in unknown:
        values.pop(name, None)
    return Written(values, unknown, others, whole)


def _calls(node: ast.AST, names: Collection[str]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def _executed(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """What an import runs: all but the insides of functions and classes."""
    left: list[ast.AST] = list(body)
    while left:
        node = left.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            left += ast.iter_child_nodes(node)


def _assigned(statement: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            if isinstance(target, ast.Name):
                yield target.id, statement.value
            elif isinstance(target, ast.Tuple | ast.List):
                for each in target.elts:
                    if isinstance(each, ast.Name):
                        yield each.id, each  # no literal: which part it gets is not read
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        yield statement.target.id, statement.value


def starts(tree: ast.Module) -> list[Start]:
    """The calls of ``initialize_phase4_services`` in a module."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if called != "initialize_phase4_services":
            continue
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        config = node.args[0] if node.args else given.get("config")
        host = given.get("from_host")
        overrides, unread = None, None in given or len(node.args) > 1
        if config is not None and not (isinstance(config, ast.Constant) and config.value is None):
            try:
                value = ast.literal_eval(config)
                overrides = value if isinstance(value, dict) else None
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                unread = True
        name = ast.unparse(host) if isinstance(host, ast.Name | ast.Attribute) else ""
        found.append(Start(node.lineno, overrides, unread or (host is not None and not name), name))
    return found


def origin_of(tree: ast.Module, name: str, package: tuple[str, ...]) -> tuple[str, str]:
    """Where a name of a module comes from: a module (empty: this one) and its name there ("": itself).

    ``package``: the package that the module is in, for relative imports.
    """
    first, _, rest = name.partition(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*above, *(node.module.split(".") if node.module else ())))
            for alias in node.names:
                if (alias.asname or alias.name) == first:
                    return (module, alias.name) if not rest else (f"{module}.{alias.name}", rest)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name.partition(".")[0]) == first:
                    return alias.name, rest
    return "", name


def environment_file(text: str) -> dict[str, str]:
    """The variables of a ``.env`` file: ``NAME=value`` lines, quotes taken off, ``export`` allowed."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        name, value = name.strip(), value.strip()
        if not equals or name.startswith("#") or not name.isidentifier():
            continue
        if value[:1] in ("'", '"') and (end := value.find(value[0], 1)) > 0:
            value = value[1:end]
        else:
            value = value.partition(" #")[0].rstrip()
        found[name] = value
    return found
