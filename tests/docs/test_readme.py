"""The README's first lines do what they say, and its commands are the Makefile's."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_short():
    assert len(README.splitlines()) <= 120


def test_what_its_first_lines_do(capsys):
    """The last figure depends on how long the first load took."""
    [block] = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    *answers, refusal = capsys.readouterr().out.splitlines()
    assert answers == ["user 7"] * 3
    assert re.fullmatch(r"wait \d\.\d s", refusal)


def test_the_commands_without_make_are_those_of_make():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for locked in ("requirements/service.txt", "requirements/dev.txt"):
        assert f"pip install --quiet --require-hashes --requirement {locked}" in makefile
        assert f"pip install --quiet --require-hashes -r {locked}" in README
    assert "pip install --quiet --no-deps --editable ." in makefile
    assert README.count("pip install --quiet --no-deps --editable .") == 2
    for tool in ("ruff check .", "mypy", "pytest"):
        assert f"-m {tool}" in makefile
        assert f"-m {tool}" in README
    for target in re.findall(r"^make ([\w-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
