"""What values look like in messages, whatever they hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core._shared.bounded_repr import repr_within
from bot.core._shared.errors import invalid
from tests.support.endless import ENDLESS

plain = st.recursive(
    st.none() | st.integers() | st.text(max_size=30),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=3), inside, max_size=4)
    | st.tuples(inside) | st.tuples(inside, inside),
    max_leaves=40,
)  # fmt: skip


@given(plain)
def test_of_a_small_value_it_is_its_repr_and_of_a_larger_one_the_beginning(value):
    text = repr(value)
    assert repr_within(value, len(text) + 1) == text
    assert repr_within(value, 20)[:20] == text[:20]


@pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS)
def test_of_a_value_without_end_it_is_short(make):
    assert len(repr_within(make(), 200)) < 1_000
    assert len(str(invalid("x", make(), "something else"))) < 300
