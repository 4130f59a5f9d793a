"""Runs the tests of one module against its mutants, each in a forked process that has collected them already.

Two runs without a mutant come first: one takes the time of each test, one looks which lines each test runs.
A mutant then gets only the tests that run its statement, the likeliest to notice it first.

A mutant is set into the functions of the imported module. What also acts while the module is imported (the
body of a class, a default of a parameter) is not tested here, but named ``WHOLE``: it needs a process that
imports the changed file.
"""

from __future__ import annotations

import ast
import gc
import json
import os
import resource
import signal
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import pytest
from hypothesis import Phase, settings

from tools.mutations import Mutant, mutants_of

DIED, SURVIVED, WHOLE = "died", "survived", "whole"

WAITING, WORKING = 12.0, 4.0
"""Seconds that a test has, and of them with the processor; ten times as long as without a mutant, if more."""

MEMORY = 4 << 30
"""Bytes of address space of a process whose mutant may never stop to store things."""


def statement_lines(tree: ast.Module, mutant: Mutant) -> range:
    """The lines of the smallest statement around a mutant; of one with a body only those before the body."""
    best = range(mutant.line, mutant.line + 1)
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and node.lineno <= mutant.line <= (node.end_lineno or node.lineno):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            if mutant.line <= max(last, node.lineno):
                best = range(node.lineno, max(last, node.lineno) + 1)
    return best


def nested(code: types.CodeType) -> list[types.CodeType]:
    return [each for each in code.co_consts if isinstance(each, types.CodeType)]


def is_body(code: types.CodeType) -> bool:
    """Whether it is the body of a module or of a class, which runs at the import."""
    return not code.co_flags & 0x2  # CO_NEWLOCALS


def alike(one: types.CodeType, other: types.CodeType) -> bool:
    """Whether they do the same, apart from the functions and classes in them."""
    constants = [
        [(type(each), each) for each in code.co_consts if not isinstance(each, types.CodeType)]
        for code in (one, other)
    ]
    return one.co_code == other.co_code and constants[0] == constants[1] and one.co_names == other.co_names


def changed_functions(
    old: types.CodeType, new: types.CodeType
) -> list[tuple[types.CodeType, types.CodeType]] | None:
    """The functions of a module or class that a mutant changes, or None if it changes more than functions."""
    if is_body(old):
        if not alike(old, new) or len(nested(old)) != len(nested(new)):
            return None
        found = []
        for one, other in zip(nested(old), nested(new), strict=True):
            inside = changed_functions(one, other)
            if inside is None:
                return None
            found += inside
        return found
    return [] if same(old, new) else [(old, new)]


def same(one: types.CodeType, other: types.CodeType) -> bool:
    """Whether they do the same, with all that is in them."""
    inside, others = nested(one), nested(other)
    return alike(one, other) and len(inside) == len(others) and all(map(same, inside, others))


class Mutants:
    """A plugin of pytest that runs mutants in the place of the collected tests."""

    def __init__(self, path: Path, wanted: Sequence[int], jobs: int, told: TextIO) -> None:
        self.path = path
        self.source = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.source)
        self.mutants = mutants_of(self.source)
        self.wanted = wanted
        self.jobs = jobs
        self.told = told
        self.items: list[pytest.Item] = []
        self.ran_at_import: set[types.CodeType] = set()
        self.functions: dict[types.CodeType, list[types.FunctionType]] = {}
        self.seconds: list[tuple[float, float]] = []
        self.lines: list[set[int]] = []
        self.killers: Counter[tuple[str, int]] = Counter()

    def watch_import(self) -> None:
        """From here to the end of the collection, functions of the module that run are noted."""
        name = str(self.path)

        def called(frame: types.FrameType, event: str, _argument: object) -> None:
            if frame.f_code.co_filename == name:
                self.ran_at_import.add(frame.f_code)

        sys.settrace(called)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        sys.settrace(None)
        if session.testsfailed or not session.items:
            return True
        self.items = session.items
        self._find_functions()
        self.seconds = self._measured(session)
        if not self.seconds:
            session.testsfailed = 1
            return True
        self.lines = self._lines_run(session)
        gc.collect()
        gc.freeze()
        self._run(session)
        return True

    def _find_functions(self) -> None:
        gc.unfreeze()
        name = str(self.path)
        for each in gc.get_objects():
            if isinstance(each, types.FunctionType) and each.__code__.co_filename == name:
                self.functions.setdefault(each.__code__, []).append(each)
        gc.freeze()

    # -- without a mutant ----------------------------------------------------------------------------------

    def _measured(self, session: pytest.Session) -> list[tuple[float, float]]:
        """The seconds of each test, and those with the processor; nothing if a test fails."""

        def run() -> object:
            taken = []
            for number in range(len(self.items)):
                start, working = time.monotonic(), time.process_time()
                self._run_item(session, number, range(len(self.items)))
                if session.testsfailed:
                    return []
                taken.append((time.monotonic() - start, time.process_time() - working))
            return taken

        return [(wall, working) for wall, working in self._answer_of_fork(run)]

    def _lines_run(self, session: pytest.Session) -> list[set[int]]:
        """The lines of the module that each test runs."""
        name = str(self.path)

        def run() -> object:
            lines: set[int] = set()

            def inside(frame: types.FrameType, event: str, _argument: object) -> Any:
                lines.add(frame.f_lineno)
                return inside

            def called(frame: types.FrameType, event: str, _argument: object) -> Any:
                return inside(frame, event, None) if frame.f_code.co_filename == name else None

            every = []
            for number in range(len(self.items)):
                lines.clear()
                sys.settrace(called)
                self._run_item(session, number, range(len(self.items)))
                sys.settrace(None)
                every.append(sorted(lines))
            return every

        return [set(lines) for lines in self._answer_of_fork(run)]

    def _answer_of_fork(self, call: Callable[[], object]) -> list[Any]:
        """What ``call`` returns in a forked process."""
        readable, writable = os.pipe()
        if os.fork() == 0:
            silence()
            with os.fdopen(writable, "w") as pipe:
                json.dump(call(), pipe)
            os._exit(0)
        os.close(writable)
        with os.fdopen(readable) as pipe:
            text = pipe.read()
        os.wait()
        answer: list[Any] = json.loads(text) if text else []
        return answer

    def _run_item(self, session: pytest.Session, position: int, order: Sequence[int]) -> None:
        item = self.items[order[position]]
        following = self.items[order[position + 1]] if position + 1 < len(order) else None
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)

    # -- with one --------------------------------------------------------------------------------------------

    def _run(self, session: pytest.Session) -> None:
        running: dict[int, tuple[int, list[int], int]] = {}
        waiting = iter(self._startable())
        while True:
            while len(running) < self.jobs and (following := next(waiting, None)) is not None:
                number, order, patches = following
                readable, writable = os.pipe()
                child = os.fork()
                if child == 0:
                    os.close(readable)
                    self._be_mutant(session, order, patches, writable)
                os.close(writable)
                running[child] = number, order, readable
            if not running:
                return
            ended, status = os.wait()
            number, order, readable = running.pop(ended)
            with os.fdopen(readable, "rb") as pipe:
                begun = len(pipe.read())
            if status == 0:
                self._tell(number, SURVIVED)
            else:
                noticed = order[begun - 1]
                self.killers[self.mutants[number].within, noticed] += 1
                self._tell(number, DIED)

    def _startable(self) -> Iterator[tuple[int, list[int], list[tuple[types.FunctionType, types.CodeType]]]]:
        """The mutants with their tests and changed functions; the others are told at once."""
        original = compile(self.source, str(self.path), "exec", dont_inherit=True)
        for number in self.wanted:
            mutant = self.mutants[number]
            mutated = compile(mutant.applied_to(self.source), str(self.path), "exec", dont_inherit=True)
            changed = changed_functions(original, mutated)
            if changed is None or any(self._acts_at_import(old) for old, _ in changed):
                self._tell(number, WHOLE)
                continue
            patches = [(function, new) for old, new in changed for function in self.functions.get(old, ())]
            if any(len(function.__code__.co_freevars) != len(new.co_freevars) for function, new in patches):
                self._tell(number, WHOLE)
            elif not (order := self._order(mutant)):
                self._tell(number, SURVIVED)
            elif not patches:
                self._tell(number, WHOLE)
            else:
                yield number, order, patches

    def _acts_at_import(self, code: types.CodeType) -> bool:
        return code in self.ran_at_import or any(self._acts_at_import(each) for each in nested(code))

    def _order(self, mutant: Mutant) -> list[int]:
        """The tests that run its statement: those that noticed mutants of its function, then the quickest."""
        lines = set(statement_lines(self.tree, mutant))
        running = [number for number, run in enumerate(self.lines) if run & lines]
        return sorted(
            running, key=lambda number: (-self.killers[mutant.within, number], self.seconds[number][1])
        )

    def _be_mutant(
        self,
        session: pytest.Session,
        order: Sequence[int],
        patches: Sequence[tuple[types.FunctionType, types.CodeType]],
        told: int,
    ) -> NoReturn:
        """Ends the process with 0 if all tests pass."""
        silence()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        for function, code in patches:
            function.__code__ = code
        for position, number in enumerate(order):
            os.write(told, b".")
            wall, working = self.seconds[number]
            # Their signals end the process, as nothing handles them.
            signal.setitimer(signal.ITIMER_REAL, max(WAITING, 10 * wall))
            signal.setitimer(signal.ITIMER_PROF, max(WORKING, 10 * working))
            self._run_item(session, position, order)
            if session.testsfailed:
                os._exit(1)
        os._exit(0)

    def _tell(self, number: int, verdict: str) -> None:
        self.told.write(json.dumps([number, verdict]) + "\n")
        self.told.flush()


def silence() -> None:
    """What tests print here is of no interest."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)


def main(arguments: Sequence[str]) -> int:
    """Writes the verdict of each mutant to a file descriptor, as JSON of its number and the verdict.

    The arguments: the module's path, JSON of the mutants' numbers, how many processes at a time, the file
    descriptor, and the tests.
    """
    path, wanted, jobs, told, *tests = arguments
    with os.fdopen(int(told), "w") as results:
        plugin = Mutants(Path(path).resolve(), json.loads(wanted), int(jobs), results)
        # A case that fails is enough: none is looked for that is smaller.
        settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), database=None)
        settings.load_profile("mutants")
        plugin.watch_import()
        options = ["-q", "--tb=no", "-p", "no:cacheprovider", "-m", "not server"]
        return int(pytest.main([*options, *tests], plugins=[plugin]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
