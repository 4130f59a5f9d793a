"""What in a bot's folder would undo the embedding later."""

import subprocess

import pytest

from bot.embed.surroundings import notes
from tests.embed.conftest import make


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"update.py": "run('git reset --hard origin/master')"}, "update.py resets the folder"),
        ({"Dockerfile": "FROM python:3.10-slim\n"}, "Dockerfile: FROM python:3.10-slim: Phase 4 needs"),
        ({"bot.Dockerfile": "FROM docker.io/library/python:3.9\n"}, "needs Python 3.11"),
        ({"config.py": "", "config/__init__.py": ""}, "settings in config.py are not read"),
    ],
)
def test_what_is_noted(tmp_path, files, word):
    [note] = notes(make(tmp_path, files), [])
    assert word in note


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"update.py": "print('nothing to do')"},
        {"Dockerfile": "FROM python:3.13-slim\nFROM anasty17/mltb:latest\n"},
        {"config.py": "", "config/settings.json": ""},
        {"Dockerfile/readme": "a folder"},
    ],
)
def test_what_is_not(tmp_path, files):
    assert notes(make(tmp_path, files), ["phase4.py"]) == []


@pytest.mark.server
def test_what_git_ignores(tmp_path):
    make(tmp_path, {".gitignore": "*.txt\nтест*\n"})
    names = ["requirements-phase4.txt", "phase4.py", "тест.py", "a b.txt"]
    assert notes(tmp_path, names) == [], "no repository"
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    [note] = notes(tmp_path, names)
    assert "requirements-phase4.txt, тест.py, a b.txt: `git add -f` them" in note
