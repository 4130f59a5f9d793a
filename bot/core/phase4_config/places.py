"""Where in its file a setting is written, for messages about it."""

from __future__ import annotations

import os
import sys
import traceback
from types import ModuleType
from typing import Any


def shown_path(path: str) -> str:
    """A path as a user would write it: from the working directory, if it is within."""
    try:
        relative = os.path.relpath(path)
    except ValueError:  # on another drive
        return path
    return path if relative.startswith(os.pardir) else relative


def in_module(module: ModuleType, names: tuple[str, ...]) -> str:
    """The module's file, and the line where one of ``names`` gets its value there last."""
    path = getattr(module, "__file__", None)
    if not path:
        return f"{module.__name__}.py"
    return _told(path, _line(path, names, ()))


def in_class(kind: type, names: tuple[str, ...]) -> str:
    """The class, with the file and line of one of ``names`` in it or in what it inherits."""
    for each in kind.__mro__:
        if any(name in vars(each) for name in names):
            path = getattr(sys.modules.get(each.__module__), "__file__", None)
            line = _line(path, names, tuple(each.__qualname__.split("."))) if path else 0
            return f"{kind.__qualname__}, {_told(path, line)}" if path and line else kind.__qualname__
    return kind.__qualname__


def of_error(error: BaseException, path: str) -> str:
    """The file, and the line of it in which an import ended with ``error``."""
    line: int | None = None
    if isinstance(error, SyntaxError) and error.filename == path:
        line = error.lineno
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == path:
            line = frame.lineno
    return _told(path, line or 0)


def _told(path: str, line: int) -> str:
    return f"{shown_path(path)} line {line}" if line else shown_path(path)


def _line(path: str, names: tuple[str, ...], within: tuple[str, ...]) -> int:
    """The line of the last assignment to one of ``names`` in the module, or in the class ``within``; or 0."""
    import ast  # here, not above: only an error needs it

    try:
        with open(path, "rb") as file:
            body: list[Any] = ast.parse(file.read()).body
    except (OSError, SyntaxError, ValueError):  # it has changed since, or is no source
        return 0
    for name in within:
        body = next((node.body for node in body if isinstance(node, ast.ClassDef) and node.name == name), [])
    last = 0
    while body:
        node = body.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id in names for target in targets):
            last = max(last, node.lineno)
        body += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return last
