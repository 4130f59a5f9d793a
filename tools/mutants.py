"""Mutation testing: changes one thing in a module that decides, and looks whether its tests notice.

``python -m tools.mutants [--sample 30] [--seed 1] [--jobs 1] [--at LINE] [module ...]`` prints each mutant
that survives, and a table of how many died. Without names it takes every module of ``MODULES``;
``--sample 0`` takes every mutant.

The work tree stays as it is: mutants are written to a copy of it, one for each job. A mutant dies if a test
fails or does not end in time. Mutants that no test can tell from the original stand in
``mutants_equivalent.toml``, each with its reason; they are not run.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tools.mutations import Mutant, mutants_of

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
LEAST_TIMEOUT = 20.0
"""Seconds that the tests of a mutant have; six times as long as without a mutant, if that is more."""

RATE_LIMITER = "tests/core/rate_limiter"
POOLS = "tests/core/connection_pool_manager"
BATCHES = "tests/core/batch_processor"
CACHE = "tests/core/cache_manager"
BALANCER = "tests/core/load_balancer"
OUTBOUND = "tests/core/outbound"
OPTIMIZER = "tests/core/query_optimizer"
SCHEDULING = (
    f"{OUTBOUND}/test_scheduler.py",
    f"{OUTBOUND}/test_release.py",
    f"{OUTBOUND}/test_gates.py",
    f"{OUTBOUND}/test_lanes.py",
    f"{OUTBOUND}/test_timetable.py",
    f"{OUTBOUND}/test_chat_limits.py",
    f"{OUTBOUND}/test_chats.py",
    "tests/properties/test_outbound_scheduler.py",
    "tests/properties/test_telegram_limits.py",
)

MODULES: dict[str, tuple[str, ...]] = {
    "bot/core/_shared/bounded_store.py": (
        "tests/core/shared/test_bounded_store.py",
        "tests/properties/test_bounded_store.py",
        f"{CACHE}/test_l1.py",
    ),
    "bot/core/_shared/singleflight.py": (
        "tests/core/shared/test_singleflight.py",
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
        "tests/properties/test_rate_limiter_bucket.py",
    ),
    "bot/core/connection_pool_manager/pool.py": (
        f"{POOLS}/test_pool.py",
        f"{POOLS}/test_faults.py",
        f"{POOLS}/test_resize.py",
        f"{POOLS}/test_not_waiting.py",
        f"{POOLS}/test_manager.py",
        "tests/properties/test_connection_pool.py",
        "tests/cancellation/test_connection_pool.py",
    ),
    "bot/core/batch_processor/queue.py": (
        f"{BATCHES}/test_queue.py",
        f"{BATCHES}/test_service.py",
        "tests/properties/test_batch_processor.py",
    ),
    "bot/core/cache_manager/changes.py": (f"{CACHE}/test_changes.py",),
    "bot/core/load_balancer/outliers.py": (
        f"{BALANCER}/test_outliers.py",
        f"{BALANCER}/test_cluster.py",
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
    "bot/core/query_optimizer/execution/n_plus_one.py": (f"{OPTIMIZER}/execution/test_n_plus_one.py",),
    "bot/core/query_optimizer/sql/tables.py": (
        f"{OPTIMIZER}/sql/test_tables.py",
        f"{OPTIMIZER}/sql/test_bot_statements.py",
    ),
    "bot/core/query_optimizer/advice/rewrites.py": (
        f"{OPTIMIZER}/advice/test_rewrites.py",
        "tests/properties/test_query_rewrites.py",
    ),
}
"""The tests of each module, the nearest first. Those that start a server are left out."""


class Copy:
    """A copy of the work tree, in which one mutant at a time is tested."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, folder / name)

    def passes(self, tests: Sequence[str], timeout: float | None = None) -> bool:
        """Whether these tests pass, all of them and within ``timeout`` seconds."""
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-m",
            "not server",
            *tests,
        ]
        environment = {**os.environ, "PHASE4_TEST_SEARCH": os.environ.get("PHASE4_TEST_SEARCH", "0.2")}
        # A mutant's bytecode must not be taken for the next one's: both may have the same size and second.
        environment["PYTHONDONTWRITEBYTECODE"] = "" if timeout is None else "1"
        shutil.rmtree(self.folder / ".hypothesis", ignore_errors=True)
        process = subprocess.Popen(  # noqa: S603
            command, cwd=self.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(timeout) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def prepare(self, module: str) -> float:
        """Runs the module's tests without a mutant and returns their seconds.

        Raises:
            SystemExit: they fail; nothing can be learned from mutants then.
        """
        start = time.monotonic()
        if not self.passes(MODULES[module]):
            raise SystemExit(f"{module}: its tests fail without a mutant")
        for bytecode in (self.folder / module).parent.glob(f"__pycache__/{Path(module).stem}.*"):
            bytecode.unlink()
        return time.monotonic() - start

    def kills(self, module: str, mutated: str, timeout: float) -> bool:
        """Whether a test notices the mutated source text."""
        path = self.folder / module
        original = path.read_bytes()
        path.write_text(mutated, encoding="utf-8")
        try:
            return not self.passes(MODULES[module], timeout)
        finally:
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


def tried(module: str, mutants: Sequence[Mutant], copies: Sequence[Copy]) -> Iterator[tuple[Mutant, bool]]:
    """Each mutant, and whether it dies, in the order given."""
    source = (ROOT / module).read_text(encoding="utf-8")
    seconds = max(copy.prepare(module) for copy in copies)
    timeout = max(LEAST_TIMEOUT, 6 * seconds)
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def one(mutant: Mutant) -> bool:
        copy = free.get()
        try:
            return copy.kills(module, mutant.applied_to(source), timeout)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as threads:
        yield from zip(mutants, threads.map(one, mutants), strict=True)


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
        copies = [Copy(Path(folder) / str(number)) for number in range(max(1, options.jobs))]
        for module in modules:
            every = mutants_of((ROOT / module).read_text(encoding="utf-8"))
            alike = [mutant for mutant in every if (module, mutant.within, mutant.change) in reasons]
            left = [m for m in every if m not in alike and (not options.at or m.line in options.at)]
            if 0 < options.sample < len(left):
                left = sorted(random.Random(options.seed).sample(left, options.sample))
            survived = 0
            for mutant, died in tried(module, left, copies):
                if not died:
                    survived += 1
                    print(f"{module}:{mutant.line}: in {mutant.within}: {mutant.change}", flush=True)
            rows.append((module, len(left), len(left) - survived, survived, len(alike)))
    columns = list(zip(*(row[1:] for row in rows), strict=True))
    rows.append(("all", sum(columns[0]), sum(columns[1]), sum(columns[2]), sum(columns[3])))
    print(f"\n{'module':<55} {'run':>5} {'died':>5} {'survived':>9} {'equivalent':>11} {'died %':>7}")
    for name, run, died_count, survived, alike_count in rows:
        share = 100 * died_count / run if run else 100.0
        print(f"{name:<55} {run:>5} {died_count:>5} {survived:>9} {alike_count:>11} {share:>7.1f}")
    return 1 if rows[-1][3] else 0


if __name__ == "__main__":
    sys.exit(main())
