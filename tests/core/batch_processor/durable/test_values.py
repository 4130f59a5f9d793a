"""What is written into Redis comes back; what nobody here wrote is refused."""

import pytest

from bot.core._shared.errors import CorruptPayloadError
from bot.core._shared.values import encode_body
from bot.core.batch_processor.durable.values import (
    letter_of,
    letter_value,
    outcome_of,
    outcome_value,
    value_of,
    wanted_of,
)
from bot.core.batch_processor.models import DeadLetter


def test_an_item_comes_back():
    assert wanted_of(value_of("id", -3, {"file": b"x"})) == ("id", -3, {"file": b"x"}, False)
    assert wanted_of(value_of("id", 0, None, replaceable=True)) == ("id", 0, None, True)


@pytest.mark.parametrize(
    "parts", [[], ["id", 0], ["", 0, 1], ["x" * 201, 0, 1], ["id", 1001, 1], ["id", True, 1], {"a": 1}, 7]
)
def test_an_entry_that_is_no_item_is_refused(parts):
    with pytest.raises(CorruptPayloadError):
        wanted_of(encode_body(parts))


def test_an_outcome_comes_back():
    value, problem = outcome_value("done", [1], "", 2, "me", 1_000)
    assert not problem
    assert outcome_of(value) == ("done", [1], "", 2)


@pytest.mark.parametrize("result", ["x" * 2_000, object()])
def test_a_result_that_is_too_large_or_of_another_type_is_named_and_left_out(result):
    value, problem = outcome_value("done", result, "", 1, "me", 1_000)
    assert problem
    assert outcome_of(value) == ("unkept", None, problem, 1)


@pytest.mark.parametrize("parts", [[], ["done", 1, "", 1], ["gone", 1, "", 1, "me"], ["done", 1, 2, 1, "me"]])
def test_a_value_that_is_no_outcome_is_refused(parts):
    with pytest.raises(CorruptPayloadError):
        outcome_of(encode_body(parts))


def test_a_dead_letter_comes_back_with_its_place_in_the_stream():
    letter = DeadLetter("id", "data", 1, 4, "OSError: away", 12.5)
    assert letter_of(b"5-1", letter_value(letter)) == DeadLetter(
        "id", "data", 1, 4, "OSError: away", 12.5, "5-1"
    )
    assert letter_of(b"5-1", b"\xc1") is None
    assert letter_of(b"5-1", encode_body([1, 2, 3])) is None
