"""Mutation testing: changes one thing in a module that decides, and looks whether its tests notice.

``python -m tools.mutants [--sample 30] [--seed 1] [--jobs 1] [--at LINE] [module ...]`` prints each mutant
that survives, and a table of how many died. Without names it takes every module of ``MODULES``;
``--sample 0`` takes every mutant.

The work tree stays as it is: the tests run in a copy of it. A mutant dies if a test fails or does not end in
time. Mutants that no test can tell from the original stand in ``mutants_equivalent.toml``, each with its
reason; they are not run. :mod:`tools.mutant_tests` runs the others.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.mutant_tests import DIED, WHOLE
from tools.mutations import mutants_of

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = Path(__file__).with_name("mutants_equivalent.toml")
COPIED = (
    "bot",
    "tests",
    "tools",
    "docs",
    "examples",
    "phase4.py",
    "config_enhancements_phase4.py",
    "pyproject.toml",
)
WHOLE_TIMEOUT = 120.0
"""Seconds for all tests of a mutant that needs a process of its own."""

RATE_LIMITER = "tests/core/rate_limiter"
POOLS = "tests/core/connection_pool_manager"
BATCHES = "tests/core/batch_processor"
CACHE = "tests/core/cache_manager"
BALANCER = "tests/core/load_balancer"
OUTBOUND = "tests/core/outbound"
OPTIMIZER = "tests/core/query_optimizer"
SCHEDULING = (
    f"{OUTBOUND}/test_scheduler.py",
    f"{OUTBOUND}/test_scheduler_decisions.py",
    f"{OUTBOUND}/test_release.py",
    f"{OUTBOUND}/test_gates.py",
    f"{OUTBOUND}/test_lanes.py",
    f"{OUTBOUND}/test_timetable.py",
    f"{OUTBOUND}/test_chat_limits.py",
    f"{OUTBOUND}/test_chats.py",
    f"{OUTBOUND}/test_turns.py",
    f"{OUTBOUND}/test_service.py",
    "tests/properties/test_outbound_scheduler.py",
    "tests/properties/test_telegram_limits.py",
)

MODULES: dict[str, tuple[str, ...]] = {
    "bot/core/_shared/bounded_store.py": (
        "tests/core/shared/test_bounded_store.py",
        "tests/core/shared/test_bounded_store_eviction.py",
        "tests/properties/test_bounded_store.py",
        f"{CACHE}/test_l1.py",
    ),
    "bot/core/_shared/singleflight.py": (
        "tests/core/shared/test_singleflight.py",
        "tests/core/shared/test_singleflight_led.py",
        "tests/core/shared/test_circles.py",
        f"{CACHE}/test_loading.py",
    ),
    "bot/core/_shared/deadlines.py": ("tests/core/shared/test_deadlines.py",),
    "bot/core/_shared/copy_plan.py": (
        "tests/core/shared/test_copy_plan.py",
        "tests/core/shared/test_object_copy.py",
    ),
    "bot/core/rate_limiter/bucket.py": (
        f"{RATE_LIMITER}/test_bucket.py",
        f"{RATE_LIMITER}/test_service.py",
        f"{RATE_LIMITER}/test_table.py",
        f"{RATE_LIMITER}/test_resets.py",
        f"{RATE_LIMITER}/test_reports.py",
        f"{RATE_LIMITER}/test_joint.py",
        "tests/properties/test_rate_limiter_bucket.py",
    ),
    "bot/core/connection_pool_manager/pool.py": (
        f"{POOLS}/test_pool.py",
        f"{POOLS}/test_pool_sizes.py",
        f"{POOLS}/test_pool_demotion.py",
        f"{POOLS}/test_faults.py",
        f"{POOLS}/test_resize.py",
        f"{POOLS}/test_not_waiting.py",
        f"{POOLS}/test_manager.py",
        f"{POOLS}/test_alarm.py",
        f"{POOLS}/test_reports.py",
        f"{POOLS}/test_query_timeout.py",
        f"{POOLS}/test_event_loops.py",
        f"{POOLS}/test_sqlite.py",
        "tests/properties/test_connection_pool.py",
        "tests/cancellation/test_connection_pool.py",
    ),
    "bot/core/batch_processor/queue.py": (
        f"{BATCHES}/test_queue.py",
        f"{BATCHES}/test_service.py",
        f"{BATCHES}/test_lanes.py",
        f"{BATCHES}/test_delayed.py",
        f"{BATCHES}/test_dispatcher.py",
        f"{BATCHES}/test_lifecycle.py",
        "tests/properties/test_batch_processor.py",
    ),
    "bot/core/cache_manager/changes.py": (f"{CACHE}/test_changes.py",),
    "bot/core/load_balancer/outliers.py": (
        f"{BALANCER}/test_outliers.py",
        f"{BALANCER}/test_cluster.py",
        f"{BALANCER}/test_service.py",
        "tests/properties/test_load_balancer.py",
    ),
    "bot/core/load_balancer/strategies.py": (
        f"{BALANCER}/test_strategies.py",
        "tests/properties/test_load_balancer.py",
    ),
    "bot/core/outbound/scheduler.py": SCHEDULING,
    "bot/core/outbound/chat_limits.py": SCHEDULING,
    "bot/core/outbound/gates.py": SCHEDULING,
    "bot/core/outbound/lanes.py": SCHEDULING,
    "bot/core/outbound/timetable.py": SCHEDULING,
    "bot/core/query_optimizer/execution/n_plus_one.py": (
        f"{OPTIMIZER}/execution/test_n_plus_one_detector.py",
        f"{OPTIMIZER}/execution/test_n_plus_one.py",
        f"{OPTIMIZER}/execution/test_recording.py",
        f"{OPTIMIZER}/execution/test_tracing.py",
    ),
    "bot/core/query_optimizer/sql/tables.py": (
        f"{OPTIMIZER}/sql/test_tables.py",
        f"{OPTIMIZER}/sql/test_reasons.py",
        f"{OPTIMIZER}/sql/test_bot_statements.py",
        f"{OPTIMIZER}/sql/test_definitions.py",
        f"{OPTIMIZER}/sql/test_analyzer.py",
        f"{OPTIMIZER}/sql/test_catalog.py",
        f"{OPTIMIZER}/sql/test_bodies.py",
        f"{OPTIMIZER}/sql/test_controls.py",
        f"{OPTIMIZER}/sql/test_operators.py",
    ),
    "bot/core/query_optimizer/advice/rewrites.py": (
        f"{OPTIMIZER}/advice/test_rewrites.py",
        "tests/properties/test_query_rewrites.py",
    ),
}
"""The tests of each module, the nearest first. Those that start a server are left out."""


class Copy:
    """A copy of the work tree, in which mutants are tested."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PHASE4_TEST_SEARCH": os.environ.get("PHASE4_TEST_SEARCH", "0.2"),
            # A mutant's bytecode must not be taken for the next one's, of the same size and second.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, folder / name)

    def verdicts(
        self, module: str, numbers: Sequence[int], tests: Sequence[str], jobs: int
    ) -> Iterator[tuple[int, bool]]:
        """The mutants of these numbers, and whether each dies, as they end.

        Raises:
            SystemExit: the tests fail without a mutant; nothing can be learned from mutants then.
        """
        readable, writable = os.pipe()
        command = [
            "-m",
            "tools.mutant_tests",
            module,
            json.dumps(list(numbers)),
            str(jobs),
            str(writable),
            *tests,
        ]
        whole = []
        with tempfile.TemporaryFile() as printed:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, *command], cwd=self.folder, env=self.environment, pass_fds=[writable],
                stdout=printed, stderr=subprocess.STDOUT,
            )  # fmt: skip
            os.close(writable)
            with os.fdopen(readable) as answers:
                for line in answers:
                    number, verdict = json.loads(line)
                    if verdict == WHOLE:
                        whole.append(number)
                    else:
                        yield number, verdict == DIED
            if process.wait():
                printed.seek(0)
                sys.stderr.buffer.write(printed.read()[-4000:])
                raise SystemExit(f"{module}: its tests fail without a mutant")
        source = (self.folder / module).read_text(encoding="utf-8")
        mutants = mutants_of(source)
        for number in whole:
            yield number, self.kills(module, mutants[number].applied_to(source), tests)

    def kills(self, module: str, mutated: str, tests: Sequence[str]) -> bool:
        """Whether a test notices the mutated source text, in a process of its own."""
        path = self.folder / module
        original = path.read_bytes()
        path.write_text(mutated, encoding="utf-8")
        command = [
            "-m",
            "pytest",
            "-q",
            "-x",
            "--tb=no",
            "-p",
            "no:cacheprovider",
            "-m",
            "not server",
            *tests,
        ]
        shutil.rmtree(self.folder / ".hypothesis", ignore_errors=True)
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, *command], cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(WHOLE_TIMEOUT) != 0
        except subprocess.TimeoutExpired:
            return True
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            path.write_bytes(original)


def equivalents() -> dict[tuple[str, str, str], str]:
    """The reasons of the mutants that cannot be told from the original, by module, place and change."""
    listed = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("mutant", [])
    return {(each["module"], each["within"], each["change"]): each["reason"] for each in listed}


def chosen(names: Sequence[str]) -> list[str]:
    """The modules of these names: a path, its end, or its last part without ``.py``.

    Raises:
        SystemExit: a name fits no module of ``MODULES``.
    """
    found = []
    for name in names:
        fitting = [
            path for path in MODULES if path == name or path.endswith(f"/{name}") or Path(path).stem == name
        ]
        if not fitting:
            raise SystemExit(
                f"no module {name!r}; there are {', '.join(Path(path).stem for path in MODULES)}"
            )
        found.extend(fitting)
    return found or list(MODULES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 if mutants survived."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.mutants", description="Do the tests notice a fault?"
    )
    parser.add_argument("modules", nargs="*", metavar="module", help="a path of MODULES or its last part")
    parser.add_argument(
        "--sample", type=int, default=30, help="mutants of each module; 0 takes all (default 30)"
    )
    parser.add_argument("--seed", type=int, default=1, help="which sample (default 1)")
    parser.add_argument("--jobs", type=int, default=1, help="mutants tested side by side (default 1)")
    parser.add_argument("--at", type=int, action="append", metavar="LINE", help="only mutants of this line")
    options = parser.parse_args(arguments)
    reasons = equivalents()
    rows: list[tuple[str, int, int, int, int]] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        modules = chosen(options.modules)
        copy = Copy(Path(folder) / "tree")
        for module in modules:
            every = mutants_of((ROOT / module).read_text(encoding="utf-8"))
            left = [
                number
                for number, mutant in enumerate(every)
                if (module, mutant.within, mutant.change) not in reasons
            ]
            alike = len(every) - len(left)
            if options.at:
                left = [number for number in left if every[number].line in options.at]
            if 0 < options.sample < len(left):
                left = sorted(random.Random(options.seed).sample(left, options.sample))
            survived = 0
            for number, died in copy.verdicts(module, left, MODULES[module], options.jobs):
                if not died:
                    survived += 1
                    mutant = every[number]
                    print(f"{module}:{mutant.line}: in {mutant.within}: {mutant.change}", flush=True)
            rows.append((module, len(left), len(left) - survived, survived, alike))
    columns = list(zip(*(row[1:] for row in rows), strict=True))
    rows.append(("all", sum(columns[0]), sum(columns[1]), sum(columns[2]), sum(columns[3])))
    print(f"\n{'module':<55} {'run':>5} {'died':>5} {'survived':>9} {'equivalent':>11} {'died %':>7}")
    for name, run, died_count, survived, alike_count in rows:
        share = 100 * died_count / run if run else 100.0
        print(f"{name:<55} {run:>5} {died_count:>5} {survived:>9} {alike_count:>11} {share:>7.1f}")
    return 1 if rows[-1][3] else 0


if __name__ == "__main__":
    sys.exit(main())
