"""The mutants that ``python -m tools.mutants`` makes, and its list of those that no test can notice."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from tools.mutants import MODULES, ROOT, chosen, equivalents
from tools.mutations import mutants_of


def changes(source):
    source = textwrap.dedent(source)
    found = mutants_of(source)
    for mutant in found:
        compile(mutant.applied_to(source), "<mutant>", "exec")
    return {mutant.change for mutant in found}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x = a < b", {"x = a < b -> x = (a <= b)", "x = a < b -> x = (a >= b)"}),
        ("x = a is None", {"x = a is None -> x = (a is not None)"}),
        ("x = not a", {"x = not a -> x = (a)"}),
        ("x = a and b", {f"x = a and b -> x = ({other})" for other in ("a or b", "a", "b")}),
        ("x = a - 1", {"x = a - 1 -> x = (a + 1)", "x = a - 1 -> x = a - 2"}),
        ("x = min(a, b)", {"x = min(a, b) -> x = (max(a, b))"}),
        ("self.x += a", {"self.x += a -> self.x -= a", "self.x += a -> pass"}),
        ("self.x = a", {"self.x = a -> pass"}),
        ("del a[b]", {"del a[b] -> pass"}),
        ("close(a)", {"close(a) -> pass"}),
        ("return a", {"return a -> return None"}),
        ("return True", {"return True -> return False"}),
        ("raise ValueError(a + 1)", {"raise ValueError(a + 1) -> pass"}),
        ("x: list[int] = []", set()),
        ("'''A text.'''", set()),
        ("return None", set()),
    ],
)
def test_each_statement_has_the_faults_that_people_make(line, expected):
    assert changes(f"def f(self, a, b):\n    {line}\n") == expected


def test_places_are_counted_in_bytes():
    assert changes("def f(a):\n    return 'größer', a > 0\n") == {
        "return 'größer', a > 0 -> return None",
        "return 'größer', a > 0 -> return 'größer', (a >= 0)",
        "return 'größer', a > 0 -> return 'größer', (a <= 0)",
        "return 'größer', a > 0 -> return 'größer', a > 1",
    }


def test_modules_are_found_by_their_name():
    assert chosen(["pool"]) == ["bot/core/connection_pool_manager/pool.py"]
    assert chosen([]) == list(MODULES)
    with pytest.raises(SystemExit, match="no module 'nothing'"):
        chosen(["nothing"])


def test_each_module_and_test_exists():
    for path, tests in MODULES.items():
        assert [each for each in (path, *tests) if not (ROOT / each).is_file()] == []


def test_what_is_listed_as_equivalent_is_still_a_mutant():
    listed = equivalents()
    existing = {
        (path, mutant.within, mutant.change)
        for path in {path for path, _, _ in listed}
        for mutant in mutants_of((ROOT / path).read_text(encoding="utf-8"))
    }
    assert set(listed) - existing == set()
    assert all(reason.strip() for reason in listed.values())


CLAMP = """
def clamp(value, most=10):
    if value > most:
        return most
    return value

def unused(value):
    return value + 1

def seconds():
    return 60

MINUTE = seconds()
"""

TESTS = """
from clamp import MINUTE, clamp

def test_clamp():
    assert (clamp(3), clamp(12)) == (3, 10)

def test_minute():
    assert MINUTE == 60
"""


@pytest.mark.server
def test_a_mutant_dies_if_a_test_that_runs_it_fails(tmp_path):
    (tmp_path / "clamp.py").write_text(CLAMP)
    (tmp_path / "test_clamp.py").write_text(TESTS)
    mutants = mutants_of(CLAMP)
    readable, writable = os.pipe()
    numbers = json.dumps(list(range(len(mutants))))
    command = ["-m", "tools.mutant_tests", "clamp.py", numbers, "2", str(writable), "test_clamp.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, pass_fds=[writable], check=True)
    os.close(writable)
    with os.fdopen(readable) as answers:
        verdicts = {mutants[number].change: verdict for number, verdict in map(json.loads, answers)}
    assert verdicts == {
        "if value > most: -> if (value >= most):": "survived",  # as of 10 the most is 10
        "if value > most: -> if (value <= most):": "died",
        "return most -> return None": "died",
        "return value -> return None": "died",
        # No test runs these.
        "return value + 1 -> return None": "survived",
        "return value + 1 -> return value + 2": "survived",
        "return value + 1 -> return (value - 1)": "survived",
        # These act while the module is imported: another process has to import them.
        "def clamp(value, most=10): -> def clamp(value, most=11):": "whole",
        "return 60 -> return None": "whole",
        "return 60 -> return 61": "whole",
    }
