"""The settings of a project, read without starting it: which files they come from, and what stays unknown."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from bot.core._shared.masking import one_line
from bot.core.phase4_admin.check import written
from bot.core.phase4_admin.check.findings import NOT_READ, Finding, fail, ok, warn
from bot.core.phase4_config.catalog import READABLE

RUN_SECONDS = 20.0
"""In which a module of settings has to be imported."""

LARGEST = 2_000_000
MOST_FILES = 20_000
ENVIRONMENT_FILES = (".env", "config.env")

_SCRIPT = Path(__file__).with_name("run_script.py")
_MARK = "phase4-settings:"
_NOT_THE_BOTS = frozenset({"node_modules", "site-packages", "__pycache__"})
_OURS = (
    "bot/core/phase4_", "bot/core/enhanced_startup_phase4.py", "bot/integrations/services.py", "phase4.py",
    "bot/service/", "bot/embed/",
)  # fmt: skip

MODULES = (
    ("config", ("config.py", "config/__init__.py")),
    ("config.main_config", ("config/main_config.py",)),
    ("config_enhancements_phase4", ("config_enhancements_phase4.py",)),
)
"""Modules that the library reads at its start, and where each may lie."""


class Settings(NamedTuple):
    """What was read."""

    modules: list[ModuleType]
    host: Mapping[str, Any] | None
    """What ``from_host=`` names."""
    environ: dict[str, str]
    overrides: dict[str, Any]
    findings: list[Finding]


class Reader:
    """Reads one project. ``python`` runs what only running tells; ``environ`` is the shell's."""

    def __init__(self, root: Path, python: Path, environ: Mapping[str, str]) -> None:
        self._root = root
        self._python = python
        self._shell = environ
        self._environ = dict(environ)
        """With what environment files add to it."""
        # Changed by the steps of read.
        self._read: list[str] = []
        self._findings: list[Finding] = []

    def read(self) -> Settings:
        """Everything, in the order in which it wins."""
        self._environment_files()
        modules = [found for name, places in MODULES if (found := self._module(name, places)) is not None]
        if named := self._environ.pop("PHASE4_CONFIG", "").strip():  # read here, from the bot's folder
            modules += self._named(named)
        host, overrides = self._starts(modules)
        told = [name for name in sorted(READABLE) if name in self._shell]
        if told:
            self._read.append(f"the environment ({', '.join(told[:5])}{', ...' if len(told) > 5 else ''})")
        if self._read:
            self._findings.insert(0, ok("settings read", "; ".join(self._read)))
        else:
            looked = ", ".join(place for _, places in MODULES for place in places)
            self._findings.insert(
                0,
                fail(
                    "settings read",
                    f"no settings in {self._root}: there is none of {looked}, "
                    f"{', '.join(ENVIRONMENT_FILES)}, no PHASE4_CONFIG, and no setting in the environment",
                    "name the folder that the bot is started in with --project",
                ),
            )
        return Settings(modules, host, self._environ, overrides, self._findings)

    def _environment_files(self) -> None:
        for name in ENVIRONMENT_FILES:
            try:
                given = written.environment_file((self._root / name).read_text("utf-8", errors="replace"))
            except OSError:
                continue
            ours = {key: value for key, value in given.items() if key in READABLE or key == "PHASE4_CONFIG"}
            new = {key: value for key, value in ours.items() if key not in self._environ}
            self._environ |= new
            if ours:
                self._read.append(f"{name} ({len(ours)} setting(s), if what starts the bot loads it)")

    def _module(self, name: str, places: tuple[str, ...]) -> ModuleType | None:
        path = next((self._root / place for place in places if (self._root / place).is_file()), None)
        return None if path is None else self._of_file(name, path, name)

    def _named(self, named: str) -> list[ModuleType]:
        """The file or module that PHASE4_CONFIG names."""
        path = self._root / named
        module = ""
        if not path.is_file():
            path = self._root.joinpath(*named.split(".")).with_suffix(".py")
            module = named
        if not path.is_file():
            self._findings.append(
                fail("settings read", f"PHASE4_CONFIG = {named}: no such file or module", "correct it")
            )
            return []
        found = self._of_file(module or path.stem, path, module)
        return [] if found is None else [found]

    def _of_file(self, name: str, path: Path, module: str) -> ModuleType | None:
        """The settings at the top of a file; ``module``: what it is imported as, empty: by its path."""
        shown = self._shown(path)
        tree = parsed(path)
        if tree is None:
            self._findings.append(
                fail("settings read", f"{shown} cannot be read: it is no valid Python", "correct it")
            )
            return None
        found = written.of_module(tree, READABLE)
        values, others = self._values(found, shown, path, module, "")
        made = ModuleType(name)
        made.__file__ = str(path)
        for key, value in values.items():
            setattr(made, key, value)
        for key in others:
            setattr(made, key, None)
        return made

    def _values(
        self, found: written.Written, shown: str, path: Path, module: str, within: str
    ) -> tuple[dict[str, Any], set[str]]:
        """The values as written, or, where that leaves something open, as running the file has them."""
        of = f" ({within})" if within else ""
        if found.certain:
            self._read.append(f"{shown}{of} as written")
            return found.values, found.others
        answer = run(self._root, self._python, self._environ, module, path, within)
        if "error" not in answer:
            self._read.append(f"{shown}{of} by importing it with {self._python}")
            return answer["values"], set(answer["others"])
        self._read.append(f"{shown}{of} as far as it is written plainly")
        open_ones = ", ".join(sorted(found.unknown)[:5]) or "what it takes from elsewhere"
        self._findings.append(
            warn(
                NOT_READ,
                f"{shown}: {open_ones}: importing it alone, without the bot, failed: {answer['error']}",
                "write these settings as plain values, or set them in the environment",
            )
        )
        return found.values, found.others

    def _starts(self, modules: list[ModuleType]) -> tuple[Mapping[str, Any] | None, dict[str, Any]]:
        """What the bot's own call of ``initialize_phase4_services`` gives."""
        found: list[tuple[Path, ast.Module, written.Start]] = []
        for path in files(self._root):
            if (tree := _with_a_start(path)) is not None:
                found += [(path, tree, start) for start in written.starts(tree)]
        if not found:
            self._findings.append(
                warn(
                    "start",
                    f"nothing in {self._root} calls initialize_phase4_services: no service is ever started",
                    "await it where the bot starts, and shutdown_phase4_services where it ends",
                )
            )
            return None, {}
        path, tree, start = found[0]
        where = f"{self._shown(path)} line {start.line}"
        if len(found) > 1:
            others = ", ".join(f"{self._shown(each)} line {one.line}" for each, _, one in found[1:4])
            where += f" (there is also {others})"
        self._findings.append(ok("start", f"{where} calls initialize_phase4_services"))
        if start.unread:
            self._findings.append(
                warn(
                    NOT_READ,
                    f"{where} gives settings that are put together while the bot runs",
                    "look at them yourself: they win over all others",
                )
            )
        host = self._host(path, tree, start.host, modules) if start.host else None
        return host, dict(start.overrides or {})

    def _host(
        self, path: Path, tree: ast.Module, name: str, modules: list[ModuleType]
    ) -> Mapping[str, Any] | None:
        """The settings in the class or module that ``from_host=`` names."""
        package = path.relative_to(self._root).parent.parts
        module, within = written.origin_of(tree, name, package)
        target = path if not module else self._root.joinpath(*module.split(".")).with_suffix(".py")
        if module and not target.is_file():
            target = self._root.joinpath(*module.split("."), "__init__.py")
        inner = parsed(target) if target.is_file() else None
        found = None
        if inner is not None:
            found = (
                written.of_class(inner, within, READABLE) if within else written.of_module(inner, READABLE)
            )
        if found is None:
            self._findings.append(
                warn(
                    NOT_READ, f"from_host = {name}: where it is written was not found", "look at it yourself"
                )
            )
            return None
        values, _ = self._values(found, self._shown(target), target, module, within)
        # Such a class has its values from config.py once it is loaded, under the same names.
        loaded = {key: vars(made)[key] for made in modules[:1] for key in values if key in vars(made)}
        return {**values, **loaded}

    def _shown(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else str(path)


def parsed(path: Path) -> ast.Module | None:
    """A file's syntax tree; None if Python cannot read it either."""
    try:
        if path.stat().st_size > LARGEST:
            return None
        with tokenize.open(path) as file:
            return ast.parse(file.read())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _with_a_start(path: Path) -> ast.Module | None:
    try:
        if path.stat().st_size > LARGEST or b"initialize_phase4_services" not in path.read_bytes():
            return None
    except OSError:
        return None
    return parsed(path)


def files(root: Path) -> Iterator[Path]:
    """The project's own ``.py`` files: no environment's, no hidden folder's, none of Phase 4, no tests."""
    seen = 0
    for folder, names, found in os.walk(root):
        here = Path(folder)
        names[:] = sorted(
            name
            for name in names
            if name not in _NOT_THE_BOTS
            and not name.startswith(".")
            and not (here / name / "pyvenv.cfg").exists()
            and (here / name) not in (root / "tests", root / "docs", root / "benchmarks")
        )
        for name in sorted(found):
            path = here / name
            if name.endswith(".py") and not path.relative_to(root).as_posix().startswith(_OURS):
                seen += 1
                if seen > MOST_FILES:
                    return
                yield path


def run(
    root: Path, python: Path, environ: Mapping[str, str], module: str, path: Path, within: str
) -> dict[str, Any]:
    """``values`` and ``others`` of a module, or a class ``within`` it, imported apart; or ``error``."""
    asked = {
        "host": str(root), "module": module, "path": str(path), "within": within,
        "names": sorted(READABLE), "mark": _MARK,
    }  # fmt: skip
    try:
        process = subprocess.Popen(  # noqa: S603
            [str(python), "-c", _SCRIPT.read_text("utf-8")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, encoding="utf-8", errors="replace", cwd=root, start_new_session=True,
            env={**environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    except OSError as error:
        return {"error": one_line(f"{python}: {error}", 300)}
    late = False
    try:
        said, complained = process.communicate(json.dumps(asked), RUN_SECONDS)
    except subprocess.TimeoutExpired:
        late = True
        _end(process)
        said, complained = process.communicate()
    _end(process)  # what the module started, if anything
    answer = said.rpartition(f"\n{_MARK}")[2] if _MARK in said else ""
    try:
        found: dict[str, Any] = json.loads(answer)
    except ValueError:
        if late:
            return {"error": f"it took more than {RUN_SECONDS:g} s"}
        return {"error": one_line(complained[-300:], 300) or f"exit status {process.returncode}"}
    return found


def _end(process: subprocess.Popen[str]) -> None:
    """Kill it, with all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def interpreter(root: Path) -> Path:
    """The Python of a virtual environment in the project's folder, or else the one that runs this."""
    names = [".venv", "venv", "env"]
    names += sorted(path.parent.name for path in root.glob("*/pyvenv.cfg") if path.parent.name not in names)
    for name in names:
        for python in (root / name / "bin" / "python", root / name / "Scripts" / "python.exe"):
            if python.is_file():
                return python
    return Path(sys.executable)
