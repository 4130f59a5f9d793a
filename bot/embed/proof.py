"""The proof that what was put into a bot works there: the bot's own interpreter imports all of it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bot.embed import requirements
from bot.embed.clashes import module_of
from bot.embed.host import Interpreter
from bot.embed.payload import Payload

SCRIPT = Path(__file__).with_name("proof_script.py")
MARK = "phase4-proof:"
TIMEOUT = 300.0
"""Seconds: a slow machine reads and compiles three hundred modules."""


@dataclass
class Proof:
    """What the bot's interpreter said."""

    modules: int = 0
    to_install: list[str] = field(default_factory=list)
    """Requirements whose package is missing or too old, each with what is there."""
    optional: list[str] = field(default_factory=list)
    """Packages that only some modules need and that the bot has not."""
    failed: dict[str, str] = field(default_factory=dict)
    """Module -> what its import raised."""
    hidden_by: str = ""
    error: str = ""

    @property
    def broken(self) -> bool:
        return bool(self.failed or self.hidden_by or self.error)

    @property
    def complete(self) -> bool:
        return not self.broken and not self.to_install


def prove(host: Path, new: Payload, python: Interpreter) -> Proof:
    """Import every module of the payload with the bot's interpreter, and use two services once."""
    modules = sorted(
        module_of(path)
        for path in new.files
        if path.startswith("bot/") and path.endswith(".py") and not path.endswith("__main__.py")
    )
    modules = [module for module in modules if module not in ("bot.core", "bot.integrations")]
    needed = requirements.read(requirements.for_running(new.files["requirements-phase4.txt"].decode()))
    asked = {"host": str(host), "modules": modules, "packages": [r.name for r in needed], "mark": MARK}
    try:
        shown = subprocess.run(  # noqa: S603
            [str(python.path), "-c", SCRIPT.read_text(encoding="utf-8")],
            input=json.dumps(asked), capture_output=True, text=True, encoding="utf-8", errors="replace",
            cwd=host, timeout=TIMEOUT, check=False, env=_environment(),
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return Proof(error=f"{python.path}: {error}")
    said = shown.stdout.rpartition(f"\n{MARK}")[2] if MARK in shown.stdout else ""
    if not said:
        return Proof(error=(shown.stderr or shown.stdout).strip()[-600:] or f"exit status {shown.returncode}")
    answer = json.loads(said)
    proof = Proof(len(modules), failed=answer["failed"], hidden_by=answer["hidden_by"])
    proof.to_install = _to_install(needed, answer["versions"])
    # A module that lacks one of these cannot be imported; which one it is, the requirement says.
    proof.optional = sorted(answer["missing"].keys() - {_import_name(r.name) for r in needed})
    if answer["used"] and not proof.to_install:
        proof.error = answer["used"]
    return proof


def _to_install(needed: list[requirements.Requirement], versions: Mapping[str, str | None]) -> list[str]:
    found = []
    for requirement in needed:
        text, version = requirement.text.split(" #")[0].strip(), versions[requirement.name]
        if version is None:
            found.append(text)
        elif requirements.excludes([("==", version)], requirements.minimum(requirement)):
            found.append(f"{text} ({version} is installed)")
    return found


def _import_name(package: str) -> str:
    return {"graphql-core": "graphql"}.get(package, package.replace("-", "_"))


def _environment() -> dict[str, str]:
    """Without what would have the interpreter write beside the bot's files or speak another encoding."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"}
