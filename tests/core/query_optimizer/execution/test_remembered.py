"""Texts remembered within a bound, beside a plain model of it."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from bot.core.query_optimizer.execution.remembered import Remembered

steps = st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(1, 12)))


@given(steps)
def test_the_least_recently_used_leaves_first_and_the_bound_holds(steps):
    kept, model = Remembered[int](20), OrderedDict()
    for number, (text, size) in enumerate(steps):
        if size is None:
            assert kept.get(text) == (model[text][0] if text in model else None)
            if text in model:
                model.move_to_end(text)
        else:
            kept.put(text, number, size)
            model.pop(text, None)
            model[text] = (number, size)
            while sum(size for _, size in model.values()) > 20:
                model.popitem(last=False)
        assert (len(kept), kept.size) == (len(model), sum(size for _, size in model.values()))
        assert all(text in kept for text in model)


def test_what_is_larger_than_the_bound_is_not_kept_and_takes_the_place_of_nothing():
    kept = Remembered[str](10)
    kept.put("a", "small", 5)
    kept.put("b", "huge", 11)
    assert (kept.get("a"), kept.get("b")) == ("small", None)
    kept.put("a", "huge", 11)
    assert kept.get("a") is None, "what was known of it is no longer true"
