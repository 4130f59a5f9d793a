"""Dead letters as texts: bounded, masked, and in Python's own words."""

import datetime
import decimal

import pytest

from bot.core.batch_processor import DeadLetter, ReplayReport
from bot.core.phase4_admin.letters import SHORT, WHOLE, as_dict, told, told_dropped


def text_of(data, most=WHOLE):
    return as_dict(DeadLetter("i", data, 0, 1, "no", 1.0), most)["data"]


class Silent:
    def __repr__(self):
        raise ValueError("no words")


NESTED = []
for _ in range(100):
    NESTED = [NESTED]
CIRCLE = [1]
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    "data",
    [
        None, 5, -2.5, "grüße\n\x1b\u202e", b"\x00\xff", [], (), {}, (1,), (1, 2), [1, "a", None],
        {"b": 1, "a": [2]}, set(), frozenset(),
        {5: (1, {"x": b"y"})}, {1}, frozenset({2}), decimal.Decimal("1.5"),
        datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    ],
    ids=repr,
)  # fmt: skip
def test_a_small_one_is_as_python_writes_it(data):
    assert text_of(data) == repr(data)


@pytest.mark.parametrize(
    "data",
    [
        "x" * 10**6, b"x" * 10**6, ["x" * 10**6] * 50, list(range(10**6)),
        dict.fromkeys(range(10**5), "x" * 100),
        {"a": {"b": ["x" * 10**6]}}, tuple("x" * 10**6), NESTED, CIRCLE,
    ],
    ids=lambda data: type(data).__name__,
)  # fmt: skip
@pytest.mark.parametrize("most", [SHORT, WHOLE])
def test_a_large_one_is_cut_and_not_walked(data, most):
    text = text_of(data, most)
    assert len(text) <= most + 3
    assert "..." in text


def test_secrets_do_not_show_even_where_the_text_is_cut():
    url = "redis://user:secret@host/0"
    for length in range(SHORT - 60, SHORT + 5):
        assert "secret" not in text_of("x" * length + " " + url, SHORT)
    assert "secret" not in text_of({"password": "secret"})


def test_what_cannot_be_shown_is_told():
    assert text_of([Silent()]) == "[<Silent, whose repr raises ValueError>]"
    assert text_of(10**5000) == "<int, whose repr raises ValueError>"
    assert as_dict(DeadLetter("i", 1, 0, 1, "no", 1e30), 10)["at"] == ""


def test_reports_are_sentences():
    assert told(ReplayReport(1)) == "1 dead letter submitted again"
    assert told(ReplayReport(1200, 1, 2, 3)) == (
        "1,200 dead letters submitted again; 1 not there (any more); "
        "2 left: an item of the same key is pending; 3 left: there is no room (BATCH_MAX_PENDING)"
    )
    assert told_dropped(0, 2) == "0 dead letters dropped; 2 not there (any more)"


def test_a_lane_is_told_if_there_is_one():
    assert "lane" not in as_dict(DeadLetter("i", 1, 0, 1, "no", 1.0), SHORT)
    assert as_dict(DeadLetter("i", 1, 0, 1, "no", 1.0, lane=-100123), SHORT)["lane"] == "-100123"
