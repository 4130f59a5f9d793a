"""What an item's data count without a function of the user's."""

import pytest

from bot.core._shared.errors import UnsupportedValueError
from bot.core.batch_processor.measuring import bytes_of, measure_by
from bot.core.batch_processor.sizes import Sizes


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"12345", 5), (bytearray(7), 7), (memoryview(bytearray(12)).cast("i"), 12), ("12345", 5), ("äö", 4),
        ("\ud800", 3), ({"a": 1}, 4), (None, 1), ([1, "x"], 4),
    ],
)  # fmt: skip
def test_bytes_are_those_that_would_be_sent(data, size):
    assert bytes_of(data) == size


def test_what_is_no_plain_data_has_no_size():
    with pytest.raises(UnsupportedValueError):
        bytes_of(object())


def test_a_function_stays_until_there_is_another():
    sizes = Sizes()
    measure_by(sizes, None)
    assert sizes.function is bytes_of
    measure_by(sizes, abs)
    measure_by(sizes, None)
    assert sizes.function is abs
