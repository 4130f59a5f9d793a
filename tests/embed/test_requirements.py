"""What a bot's requirements say beside Phase 4's."""

import pytest

from bot.embed import requirements
from bot.embed.requirements import BEGIN, END

OURS = "msgspec>=0.20  # settings\nredis[hiredis]>=6.0\n# The tests\npytest>=8.3\n"


@pytest.mark.parametrize(
    ("line", "name", "clauses"),
    [
        ("psutil", "psutil", ()),
        ("PSUtil==5.9.8", "psutil", (("==", "5.9.8"),)),
        ("prometheus_client >=0.22, <1", "prometheus-client", ((">=", "0.22"), ("<", "1"))),
        ("qrcode[pil]", "qrcode", ()),
        ("redis[hiredis] ~= 5.0 ; python_version < '3.13'", "redis", (("~=", "5.0"),)),
        ("motor (>=3.7)", "motor", ((">=", "3.7"),)),
        ("msgspec==0.19 --hash=sha256:aa", "msgspec", (("==", "0.19"),)),
        ("kurigram @ git+https://example.org/k.git", "kurigram", ()),
    ],
)
def test_a_line_is_read(line, name, clauses):
    found = requirements.parse(line)
    assert (found.name, found.clauses) == (name, clauses)


@pytest.mark.parametrize(
    "line", ["git+https://example.org/k.git", "./wheels/x.whl", "https://example.org/x.tar.gz"]
)
def test_what_names_no_package_is_left_out(line):
    assert requirements.parse(line) is None


def test_options_comments_and_continued_lines():
    text = "# psutil==1\n-r base.txt\n--index-url https://x\nmotor \\\n  >=3.7\n\nflask # web\n"
    assert [each.name for each in requirements.read(text)] == ["motor", "flask"]
    assert requirements.includes(text) == ["base.txt"]


@pytest.mark.parametrize(
    ("specifier", "excluded"),
    [
        ("==6.9", True),
        ("==7.0", False),
        ("==7", False),
        ("==7.1.2", False),
        ("===6.0", True),
        ("<7", True),
        ("<7.0.0", True),
        ("<7.1", False),
        ("<=6.9.9", True),
        ("<=7", False),
        ("==6.*", True),
        ("==7.*", False),
        ("~=6.5", True),
        ("~=6.5.1", True),
        ("~=7.2", False),
        (">=5,<7", True),
        (">=8", False),
        ("!=7.0", False),
        ("", False),
    ],
)
def test_versions_that_cannot_go_with_seven(specifier, excluded):
    assert requirements.excludes(requirements.parse(f"psutil{specifier}").clauses, "7.0") is excluded


def test_the_block_has_what_a_running_bot_lacks():
    assert requirements.block(OURS, {"flask"}) == f"{BEGIN}\nmsgspec>=0.20\nredis[hiredis]>=6.0\n{END}\n"
    assert requirements.block(OURS, {"redis"}) == f"{BEGIN}\nmsgspec>=0.20\n{END}\n"
    assert requirements.block(OURS, {"redis", "msgspec"}) == ""


@pytest.mark.parametrize("text", ["", "a", "a\n", "a\r\nb\r\n", "a\r\nb\nc\r\n"])
def test_the_block_goes_in_and_out(text):
    block = requirements.block(OURS, set())
    once = requirements.with_block(text, block)
    assert requirements.with_block(once, block) == once
    other = requirements.with_block(once, requirements.block(OURS, {"redis"}))
    assert "hiredis" not in other
    for full in (once, other):
        ended = bool(text) and not text.endswith("\n")
        assert requirements.without_block(full, ended_line=ended) == text


def test_lines_after_the_block_stay():
    text = requirements.with_block("a\n", requirements.block(OURS, set())) + "b\n"
    assert requirements.without_block(text, ended_line=False) == "a\nb\n"
    assert requirements.with_block(text, "") == "a\nb\n"
