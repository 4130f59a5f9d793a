"""Bots for the embedding to meet, made by the tests, and a small payload for what needs no real one."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from bot.embed import command
from bot.embed.payload import REQUIREMENTS, SETTINGS, TESTS, Payload


def make(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, to compare with what it was."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


SMALL = {
    "bot/core/__init__.py": b'"""Shared."""\n',
    "bot/core/cache_manager/__init__.py": b'"""Ours."""\n\n__all__ = ["CacheManager"]\n',
    "bot/core/cache_manager/l1.py": b"L1 = 1\n",
    "bot/core/phase4_metrics.py": b"METRICS = 1\n",
    "bot/integrations/__init__.py": b'"""Shared."""\n',
    "bot/integrations/aiogram.py": b"AIOGRAM = 1\n",
    "phase4.py": b"COMMAND = 1\n",
    SETTINGS: b"ENABLE_RATE_LIMITER = True\n",
    REQUIREMENTS: b"msgspec>=0.20  # settings\npsutil>=7.0\n# The tests\npytest>=8.3\n",
    TESTS: b"TESTS = 1\n",
}
"""A payload of a few files, version 1."""


@pytest.fixture
def bot(tmp_path):
    """A bot with a package bot/, which ends the process if it is imported."""
    return make(
        tmp_path / "host",
        {
            "bot/__init__.py": "raise SystemExit('the bot starts')\n",
            "bot/core/__init__.py": "WHOSE = 'the bot'\n",
            "bot/core/metrics.py": "WHOSE = 'the bot'\n",
            "requirements.txt": "flask\n",
        },
    )


@pytest.fixture
def small_payload(monkeypatch):
    """``small_payload(files, version)``: what a run puts into a bot; the proof is left out."""

    def use(files=None, version="1"):
        given = Payload(version, SMALL if files is None else files)

        def gather(*, tests=True):
            return given if tests else Payload(version, {k: v for k, v in given.files.items() if k != TESTS})

        monkeypatch.setattr("bot.embed.payload.gather", gather)

    monkeypatch.setattr("bot.embed.command._prove", lambda host, look: command.DONE)
    use()
    return use


@pytest.fixture
def run(capsys):
    """``run(host, "--replace")``: exit status and what was said."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)

    def run_it(host, *arguments):
        status = command.run(parser.parse_args([str(host), *arguments]))
        said = capsys.readouterr()
        return status, said.out + said.err

    return run_it
