"""Which lines of a bot import a module, and what Phase 4's module of that name offers."""

import pytest

from bot.embed import importers, payload
from bot.embed.importers import Import
from tests.embed.conftest import make

CACHE = "bot.core.cache_manager"


@pytest.mark.parametrize(
    ("file", "line", "names"),
    [
        ("bot/a.py", "import bot.core.cache_manager as cache", ()),
        ("bot/a.py", "from bot.core.cache_manager import CacheManager, x as y", ("CacheManager", "x")),
        ("bot/a.py", "from bot.core import cache_manager", ()),
        ("bot/a.py", "from .core.cache_manager import x", ("x",)),
        ("bot/modules/a.py", "from ..core import cache_manager as c", ()),
        ("bot/core/a.py", "from . import cache_manager", ()),
        ("bot/core/a.py", "from .cache_manager import *", ("*",)),
        ("bot/core/__init__.py", "from .cache_manager import x", ("x",)),
        ("main.py", "def f():\n    from bot.core.cache_manager.l1 import L1", ()),
        ("main.py", "import_module('bot.core.cache_manager')", ()),
        ("tests/a.py", "patch('bot.core.cache_manager.CacheManager.get')", ()),
    ],
)
def test_an_import_is_found(tmp_path, file, line, names):
    host = make(tmp_path, {file: f"{line}\n"})
    assert importers.find(host, {CACHE}, ()) == [Import(file, line.count("\n") + 1, CACHE, names)]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("bot/a.py", "from bot.core.cache_manager_models import x"),
        ("bot/a.py", "from bot.core import metrics"),
        ("bot/a.py", "import cache_manager"),
        ("bot/modules/a.py", "from .core.cache_manager import x"),
        ("bot/a.py", "from bot.core.cache_manager import ("),  # Python cannot read it either
        (".venv/a.py", "import bot.core.cache_manager"),
        ("node_modules/a.py", "import bot.core.cache_manager"),
    ],
)
def test_what_is_no_import_of_it(tmp_path, file, line):
    assert importers.find(make(tmp_path, {file: f"{line}\n"}), {CACHE}, ()) == []


def test_an_environment_of_any_name_is_not_the_bots(tmp_path):
    host = make(tmp_path, {"mltbenv/pyvenv.cfg": "", "mltbenv/a.py": f"import {CACHE}\n"})
    assert importers.find(host, {CACHE}, ()) == []


def test_a_file_in_another_encoding(tmp_path):
    text = f"# -*- coding: cp1251 -*-\n# привет\nimport {CACHE}\n"
    (tmp_path / "a.py").write_bytes(text.encode("cp1251"))
    (tmp_path / "b.py").write_bytes(b"\xff\xfe\x00")
    assert [each.file for each in importers.find(tmp_path, {CACHE}, ())] == ["a.py"]


def test_the_names_of_phase4s_modules():
    new = payload.gather()
    names = importers.names_of(new, CACHE)
    assert {"CacheManager", "cached", "l1", "*"} <= names
    assert "LegacyCache" not in names
    assert {"initialize_phase4_services", "cached", "mount_phase4"} <= importers.names_of(
        new, "bot.core.enhanced_startup_phase4"
    )
    assert importers.names_of(new, "bot.core.no_such_module") is None
