"""What a bot gets, from a checkout and from an installed distribution."""

import fnmatch
import tomllib
from pathlib import Path

from bot.embed import payload
from bot.embed.payload import BESIDE, REQUIREMENTS, ROOT, SETTINGS, TESTS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WHEEL = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]


def test_it_is_the_library_and_not_the_service():
    files = payload.gather().files
    assert {
        "bot/core/enhanced_startup_phase4.py",
        "bot/core/rate_limiter/bucket.lua",
        "phase4.py",
    } <= files.keys()
    assert {SETTINGS, REQUIREMENTS, TESTS} <= files.keys()
    folders = {"/".join(name.split("/")[:2]) for name in files if name.startswith("bot/")}
    assert folders == {"bot/core", "bot/integrations"}
    assert not [name for name in files if name.endswith(".pyc") or "__pycache__" in name]


def test_the_page_has_all_that_it_loads():
    names = {Path(name).suffix for name in payload.gather().files if "phase4_admin" in name}
    assert {".py", ".html", ".css", ".js", ".svg"} <= names


def test_the_guides_tests_can_be_left_out():
    assert payload.gather().files.keys() - payload.gather(tests=False).files.keys() == {TESTS}


def test_an_installed_distribution_carries_what_lies_in_the_root():
    beside = BESIDE.relative_to(ROOT).as_posix()
    assert WHEEL["force-include"] == {name: f"{beside}/{name}" for name in (SETTINGS, REQUIREMENTS, TESTS)}
    assert WHEEL["only-include"] == ["bot", "phase4.py"]
    assert PROJECT["project"]["scripts"] == {"phase4": "phase4:main"}


def test_line_ends_do_not_make_another_text():
    assert payload.digest(b"a\r\nb\r\n") == payload.digest(b"a\nb\n")
    assert payload.digest(b"a\0\r\n") != payload.digest(b"a\0\n"), "no text"
    assert payload.digest(b"a b") != payload.digest(b"a  b")


def test_the_source_distribution_has_every_file_of_the_root():
    patterns = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    by_itself = {"LICENSE", "pyproject.toml"}
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    files = {
        path.name
        for path in ROOT.iterdir()
        if path.is_file()
        and not path.name.startswith(".")
        and not any(fnmatch.fnmatch(path.name, each) for each in ignored)
    }
    missing = {
        name for name in files - by_itself if not any(fnmatch.fnmatch(f"/{name}", each) for each in patterns)
    }
    assert not missing
    assert {"/tools", "/tests", "/docs", "/deploy", "/examples", "/benchmarks", "/requirements"} <= set(
        patterns
    )
