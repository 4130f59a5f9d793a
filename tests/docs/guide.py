"""The blocks of the user's guide (``guide.md`` beside this file), as text and as running code."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

GUIDE = (Path(__file__).parent / "guide.md").read_text(encoding="utf-8")

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{2,4} (.+)$", re.MULTILINE)  # two or more: one # is a comment in a block


def blocks(heading: str, language: str = "python") -> list[str]:
    """The code blocks between ``heading`` (or how it starts) and the next heading, in order."""
    headings = list(_HEADING.finditer(GUIDE))
    found = [index for index, match in enumerate(headings) if match.group(1).startswith(heading)]
    if len(found) != 1:
        raise LookupError(f"{heading!r}: {len(found)} headings start so")
    start = headings[found[0]].end()
    end = headings[found[0] + 1].start() if found[0] + 1 < len(headings) else len(GUIDE)
    return [m.group(2) for m in _BLOCK.finditer(GUIDE, start, end) if m.group(1) == language]


def code_blocks() -> list[tuple[str, str, str]]:
    """Every code block of the guide: (the heading it stands under, its language, its text)."""
    headings = list(_HEADING.finditer(GUIDE))
    found = []
    for match in _BLOCK.finditer(GUIDE):
        above = [heading for heading in headings if heading.start() < match.start()]
        found.append((above[-1].group(1), match.group(1), match.group(2)))
    return found


async def run(block: str, namespace: dict[str, Any]) -> dict[str, Any]:
    """Execute a block as written, its top-level ``await`` included, in ``namespace``; returns that."""
    code = compile(block, "<guide>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    outcome = eval(code, namespace)
    if inspect.isawaitable(outcome):
        await outcome
    return namespace


def settings(block: str) -> dict[str, Any]:
    """The settings that a configuration block assigns."""
    namespace: dict[str, Any] = {}
    exec(block, namespace)
    return {name: value for name, value in namespace.items() if name.isupper()}
