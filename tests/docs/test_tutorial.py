"""docs/tutorial.md from an empty folder: each step answers as the page says; in the end it is the example."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
STEP = re.compile(
    r"In `(?P<file>\w+\.py)`:\n\n```python\n(?P<code>.*?)```|```text\n(?P<talk>.*?)```", re.DOTALL
)
STEPS = list(STEP.finditer(PAGE))
COMMAND = "$ ADMINS=42 python -m bot.testing aiogram_bot.py\n"


def with_block(text: str, block: str) -> str:
    """A file with a block added as the page tells: imports at the top, the rest above main(), or last."""
    if not text:
        return block
    lines = block.splitlines(keepends=True)
    first = next(
        number
        for number, line in enumerate(lines)
        if line.strip() and not line.startswith(("import ", "from "))
    )
    imports, rest = "".join(lines[:first]), "".join(lines[first:])
    top = text.index("\nimport ") + 1
    main = text.find("async def main()")
    end = len(text) if main < 0 else main
    return text[:top] + imports + text[top:end] + "\n" + rest + "\n\n" + text[end:]


def formatted(text: str) -> str:
    """With the imports sorted, laid out as the project's own files, without the empty lines."""
    for arguments in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", "examples/made.py", "-"]
        text = subprocess.run(
            command, cwd=ROOT, input=text, capture_output=True, text=True, check=True
        ).stdout
    return re.sub(r"\n+", "\n", text)


def without_figures(text: str) -> str:
    return re.sub(r"\d+", "N", text)


def talk(transcript: str, folder: Path) -> None:
    """Type what the transcript says, and get the answers that it says."""
    assert transcript.startswith(COMMAND)
    turns = re.findall(r"^> (.*)\n((?:(?!> ).*\n)*)", transcript.removeprefix(COMMAND), re.MULTILINE)
    bot = subprocess.Popen(
        [sys.executable, "-m", "bot.testing", "aiogram_bot.py"],
        cwd=folder,
        env={**os.environ, "ADMINS": "42"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert bot.stdin is not None
    assert bot.stdout is not None
    try:
        for line, answer in turns:
            bot.stdin.write(line + "\n")
            bot.stdin.flush()
            printed = "".join(bot.stdout.readline() for _ in answer.splitlines())
            if line == "/stats":
                printed, answer = without_figures(printed), without_figures(answer)
            assert printed == answer
        bot.stdin.close()
        assert "0 refused as too many" in bot.stdout.read()
        assert bot.wait() == 0
    finally:
        bot.kill()
        bot.wait()
        bot.stdout.close()


@pytest.mark.server
def test_from_an_empty_folder_to_the_example(tmp_path):
    talked = 0
    for step in STEPS:
        if step["talk"] is not None:
            talk(step["talk"], tmp_path)
            talked += 1
            continue
        file = tmp_path / step["file"]
        file.write_text(with_block(file.read_text() if file.exists() else "", step["code"]))
    assert talked == 6
    for name in ("aiogram_bot.py", "config.py"):
        assert formatted((tmp_path / name).read_text()) == formatted((ROOT / "examples" / name).read_text())


def test_the_page_has_no_block_that_no_test_runs():
    fences = re.findall(r"^```(\w+)$", PAGE, re.MULTILINE)
    assert fences.count("python") + fences.count("text") == len(STEPS)
    assert len(fences) - len(STEPS) == 2, "the installation, and the run on Telegram"


def test_what_it_installs_is_what_the_bot_imports():
    [extras] = re.findall(r'^pip install "\.\./phase4\[(.+)\]"$', PAGE, re.MULTILINE)
    with (ROOT / "pyproject.toml").open("rb") as file:
        known = tomllib.load(file)["project"]["optional-dependencies"]
    installed = {Requirement(text).name for extra in extras.split(",") for text in known[extra]}
    imported = set(
        re.findall(r"^(?:from|import) (\w+)", "".join(step["code"] or "" for step in STEPS), re.MULTILINE)
    )
    owners = {
        owner
        for package in imported - set(sys.stdlib_module_names) - {"bot", "config"}
        for owner in packages_distributions()[package]
    }
    assert owners <= installed
