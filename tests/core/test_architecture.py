"""The rules of the house that an import can break."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

BOT = Path(__file__).resolve().parents[2] / "bot"
CORE = BOT / "core"
MODULES = sorted(CORE.rglob("*.py"))
SHARED = {"_shared", "redis_link", "phase4_config", "phase4_service", "phase4_statistics"}
"""What a service may lean on beside itself."""
SERVICES = sorted({path.parent.name for path in CORE.glob("*/__init__.py")} - SHARED - {"phase4_admin"})
NOT_PURE = {"asyncio", "concurrent", "selectors", "socket", "subprocess", "time"}
"""Threading is not among them: a pure module may keep something for each thread that calls it."""


def name_of(path: Path) -> str:
    return path.relative_to(CORE).as_posix()


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imported(path: Path) -> set[str]:
    """Every module that the file imports, wherever in it, in full."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


LAYERS = (
    ("bot.core._shared",),
    ("bot.core.phase4_config", "bot.core.phase4_statistics"),
    ("bot.core.redis_link", "bot.core.phase4_service"),
    tuple(f"bot.core.{service}" for service in SERVICES),
    ("bot.core.phase4_admin", "bot.core.phase4_wiring"),
    ("bot.core.enhanced_startup_phase4",),
    ("bot.core.phase4_metrics",),
    ("bot.integrations", "bot.service", "bot.testing", "bot.embed"),
    ("bot.__main__",),
)
"""From the lowest up: a module imports from its own layer and from those below it."""


def module_name(path: Path) -> str:
    parts = path.relative_to(BOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path): path for path in sorted(BOT.rglob("*.py"))}


def arrows() -> dict[str, set[str]]:
    """Every module with those that it imports, also within functions and for type checkers only."""
    found: dict[str, set[str]] = {}
    for name, path in NAMES.items():
        others: set[str] = set()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                others |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                # What is imported from a package is a module of it, or a name of the package itself.
                named = {f"{node.module}.{alias.name}" for alias in node.names}
                others |= named & NAMES.keys()
                others |= set() if named <= NAMES.keys() else {node.module}
        found[name] = others & NAMES.keys()
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other: what is left when all that ends somewhere is taken away."""
    left = {name: set(others) - {name} for name, others in graph.items()}
    while ends := {name for name, others in left.items() if not others & left.keys()}:
        for name in ends:
            del left[name]
    found: list[list[str]] = []
    for name in left:
        path, seen = [name], {name}
        while True:
            step = min(each for each in left[path[-1]] if each in left)
            if step in seen:
                circle = path[path.index(step) :]
                if sorted(circle) not in map(sorted, found):
                    found.append(circle)
                break
            path.append(step)
            seen.add(step)
    return found


def layer_of(module: str) -> int:
    """The layer of a module; packages that only hold others are in none, 0."""
    for number, members in enumerate(LAYERS):
        if any(module == member or module.startswith(f"{member}.") for member in members):
            return number
    assert module in ("bot", "bot.core"), f"{module}: in which layer?"
    return 0


def test_no_import_circle() -> None:
    assert not circles(arrows())


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set(), "e": {"d", "a"}}
    assert circles(graph) == [["b", "c"]]


def test_no_arrow_points_up() -> None:
    up = [
        f"{name} imports {other}"
        for name, others in arrows().items()
        for other in sorted(others)
        if layer_of(other) > layer_of(name)
    ]
    assert not up


def is_pure(path: Path) -> bool:
    """A pure module says so in its docstring's first line."""
    docstring = ast.get_docstring(tree_of(path)) or ""
    return "(pure" in docstring.split("\n", 1)[0]


PURE = [path for path in MODULES if is_pure(path)]


def test_the_structures_that_decide_are_pure() -> None:
    names = {name_of(path) for path in PURE}
    assert names >= {
        "_shared/bounded_store.py",
        "_shared/histogram.py",
        "cache_manager/changes.py",
        "connection_pool_manager/pool.py",
        "rate_limiter/bucket.py",
        "rate_limiter/penalty.py",
    }


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_a_pure_module_knows_no_clock_and_no_event_loop(path: Path) -> None:
    roots = {module.split(".")[0] for module in imported(path)}
    assert not roots & NOT_PURE


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_a_pure_module_leans_on_pure_modules_only(path: Path) -> None:
    impure = {f"bot.core.{name_of(other)[:-3].replace('/', '.')}" for other in MODULES} - {
        f"bot.core.{name_of(other)[:-3].replace('/', '.')}" for other in PURE
    }
    # Types, errors and the clock's protocol carry no behaviour of an event loop.
    allowed = {"bot.core._shared.errors", "bot.core._shared.clock"}
    leans_on = {module for module in imported(path) & impure if not module.endswith((".models", ".errors"))}
    assert not leans_on - allowed


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_no_other_service(service: str) -> None:
    for path in (CORE / service).rglob("*.py"):
        for module in imported(path):
            if module.startswith("bot.core."):
                part = module.split(".")[2]
                assert part == service or part in SHARED, f"{name_of(path)} imports {module}"


@pytest.mark.parametrize("path", sorted((CORE / "_shared").glob("*.py")), ids=name_of)
def test_what_is_shared_leans_on_nothing_above_it(path: Path) -> None:
    for module in imported(path):
        assert not module.startswith("bot.") or module.startswith("bot.core._shared")


@pytest.mark.parametrize("path", sorted((BOT / "embed").glob("*.py")), ids=lambda path: path.name)
def test_embedding_needs_the_standard_library_only(path: Path) -> None:
    """It runs on the machine of a bot that has none of Phase 4's packages yet."""
    roots = {module.split(".")[0] for module in imported(path)} - {"bot"}
    assert roots <= sys.stdlib_module_names
    ours = {module for module in imported(path) if module.startswith("bot.") and ".embed" not in module}
    allowed = ("bot.",) if path.name == "proof_script.py" else ("bot.core._shared",)
    assert not {module for module in ours if not module.startswith(allowed)}


@pytest.mark.server
def test_the_start_up_module_imports_no_service_and_no_driver() -> None:
    script = (
        "import sys; before = set(sys.modules); import bot.core.enhanced_startup_phase4; "
        "print(' '.join(sorted(set(sys.modules) - before)))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(answer.stdout.split())
    off = {*SERVICES, "phase4_admin"}
    assert not {name for name in loaded if name.removeprefix("bot.core.").split(".")[0] in off}
    drivers = (
        "redis motor pymongo asyncpg asyncmy aiosqlite aiohttp sqlglot sqlparse graphql psutil cachetools"
    )
    assert not loaded & set(drivers.split())


FEW_IN = {"query_optimizer/execution/n_plus_one.py"}
"""Of one task, and few."""


def first_taken_out(tree: ast.AST) -> list[int]:
    """The lines of ``del some[next(iter(some))]``, and of ``some.pop`` likewise."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "pop":
            taken = [(node.func.value, argument) for argument in node.args[:1]]
        elif isinstance(node, ast.Delete):
            taken = [(each.value, each.slice) for each in node.targets if isinstance(each, ast.Subscript)]
        else:
            continue
        found += [node.lineno for of, key in taken if ast.unparse(key) == f"next(iter({ast.unparse(of)}))"]
    return found


def test_what_takes_out_the_first_of_a_dict_is_found():
    assert first_taken_out(ast.parse("del held[next(iter(held))]\nself.a.pop(next(iter(self.a)))")) == [1, 2]
    assert first_taken_out(ast.parse("del held[key]\nheld.popitem(last=False)\nheld.pop(key, None)")) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_queue_is_no_plain_dict(path):
    """Its first entry is found by walking over all that have gone: popitem(last=False) of an OrderedDict."""
    if name_of(path) not in FEW_IN:
        assert first_taken_out(tree_of(path)) == []
