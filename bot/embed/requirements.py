"""What a bot's requirements say and what Phase 4 adds to them (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

BEGIN = "# Phase 4 (added by phase4 embed; phase4 embed --remove takes these lines out)"
END = "# end of Phase 4"
FOR_TESTS = "# The tests"
"""Below this line of ``requirements-phase4.txt`` stands what a running bot does not need."""

_REQUIREMENT = re.compile(
    r"\s*(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(?P<specifier>\(?[^;#@]*\)?)\s*(?P<rest>[;#@].*)?$"
)
_CLAUSE = re.compile(r"(===|==|~=|!=|<=|>=|<|>)\s*v?([0-9][^,\s)]*)")


class Requirement(NamedTuple):
    """A line of requirements: the package's normalised name, its version clauses, and the line as written."""

    name: str
    clauses: tuple[tuple[str, str], ...]
    text: str


class Conflict(NamedTuple):
    """The bot asks for a version that Phase 4 cannot work with."""

    where: str
    theirs: str
    ours: str


def read(text: str) -> list[Requirement]:
    """The requirements of a file; options, links and comments are left out."""
    found = []
    for line in text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        bare = line.split(" #")[0].strip()
        if not bare or bare.startswith(("#", "-")):
            continue
        if (requirement := parse(bare)) is not None:
            found.append(requirement)
    return found


def parse(line: str) -> Requirement | None:
    """A requirement, or None if the line is none (a path, a URL)."""
    match = _REQUIREMENT.match(line.split(" --hash")[0])
    if match is None or "://" in line.split("@")[0]:
        return None
    name = re.sub(r"[-_.]+", "-", match["name"]).lower()
    return Requirement(name, tuple(_CLAUSE.findall(match["specifier"] or "")), line)


def includes(text: str) -> list[str]:
    """Files that a requirements file reads too: ``-r other.txt``."""
    return re.findall(r"^\s*(?:-r|--requirement)[ =]\s*(\S+)", text, re.MULTILINE)


def for_running(ours: str) -> str:
    """The part of Phase 4's requirements that a running bot needs."""
    return ours.split(FOR_TESTS)[0]


def minimum(requirement: Requirement) -> str:
    """The oldest version that one of Phase 4's own requirements allows."""
    return next((version for operator, version in requirement.clauses if operator == ">="), "0")


def conflicts(theirs: Iterable[tuple[str, Requirement]], ours: Iterable[Requirement]) -> list[Conflict]:
    """``theirs``: where each stands, and the requirement."""
    needed = {requirement.name: requirement for requirement in ours}
    return [
        Conflict(where, requirement.text, needed[requirement.name].text.split(" #")[0].strip())
        for where, requirement in theirs
        if requirement.name in needed and excludes(requirement.clauses, minimum(needed[requirement.name]))
    ]


def excludes(clauses: Iterable[tuple[str, str]], oldest: str) -> bool:
    """Whether no version from ``oldest`` on fulfils all of the clauses."""
    return any(_ends_before(operator, version, release(oldest)) for operator, version in clauses)


def _ends_before(operator: str, version: str, oldest: tuple[int, ...]) -> bool:
    """Whether the clause allows only versions older than ``oldest``."""
    at = release(version)
    if operator == "<":
        return _compare(at, oldest) <= 0
    if operator in ("<=", "===") or (operator == "==" and "*" not in version):
        return _compare(at, oldest) < 0
    if operator in ("==", "~="):  # ==5.9.*, ~=5.9.8: up to the next 5.10; ~=5.9: up to 6
        kept = at if operator == "==" else at[:-1]
        return bool(kept) and _compare((*kept[:-1], kept[-1] + 1), oldest) <= 0
    return False


def release(version: str) -> tuple[int, ...]:
    """``5.9.0rc1`` -> (5, 9, 0): enough to compare with a lower bound."""
    match = re.match(r"(?:\d+!)?(\d+(?:\.\d+)*)", version)
    return tuple(map(int, match[1].split("."))) if match else (0,)


def _compare(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    length = max(len(one), len(other))
    left, right = (value + (0,) * (length - len(value)) for value in (one, other))
    return (left > right) - (left < right)


def block(ours: str, named: Iterable[str]) -> str:
    """The lines to add to a requirements file that names these packages already; empty if none is missing."""
    there = set(named)
    lines = [each.text.split(" #")[0].strip() for each in read(for_running(ours)) if each.name not in there]
    return "\n".join([BEGIN, *lines, END]) + "\n" if lines else ""


def block_in(text: str) -> str | None:
    """Phase 4's lines in a requirements file, with Unix line ends; None if there are none."""
    plain = text.replace("\r\n", "\n")
    start = plain.find(f"{BEGIN}\n")
    if start < 0 or (end := plain.find(f"{END}\n", start)) < 0:
        return None
    return plain[start : end + len(END) + 1]


def with_block(text: str, new: str) -> str:
    """The file's text with the block added, or in place of the one that is there; line ends are kept."""
    old = block_in(text)
    ends = "\r\n" if "\r\n" in text else "\n"
    written = new.replace("\n", ends)
    if old is not None:
        return _place_of(old).sub(lambda match: written, text, count=1)
    return text + (ends if text and new and not text.endswith("\n") else "") + written


def without_block(text: str, *, ended_line: bool) -> str:
    """The file's text as it was before the block was added."""
    old = block_in(text)
    if old is None:
        return text
    head, tail = _place_of(old).split(text, maxsplit=1)
    if ended_line and not tail:
        head = head.removesuffix("\n").removesuffix("\r")
    return head + tail


def _place_of(block: str) -> re.Pattern[str]:
    """The block in a text whose line ends may be mixed."""
    return re.compile(re.escape(block).replace("\\\n", "\r?\n"))
