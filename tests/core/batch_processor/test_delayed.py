"""Items kept until a time."""

import math

from hypothesis import given
from hypothesis import strategies as st

from bot.core.batch_processor import BatchItem
from bot.core.batch_processor.delayed import Delayed
from tests.support.searching import searching


def test_what_is_due_comes_in_the_order_of_its_time_then_of_its_coming():
    delayed = Delayed()
    a, b, c, d = (BatchItem(name) for name in "abcd")
    for item, due in [(a, 5.0), (b, 3.0), (c, 5.0), (d, 9.0)]:
        delayed.add(item, due)
    assert delayed.next_due() == 3.0
    assert [item.data for item in delayed.take_due(5.0)] == ["b", "a", "c"]
    assert d in delayed
    assert a not in delayed
    assert delayed.clear() == [d]
    assert delayed.next_due() == math.inf


@searching(100)
@given(st.lists(st.tuples(st.sampled_from("ard"), st.integers(0, 30)), max_size=80))
def test_it_holds_what_a_plain_list_would(script):
    delayed, model, now = Delayed(), {}, 0
    for action, number in script:
        if action == "a":
            item = BatchItem(len(model))
            delayed.add(item, now + number)
            model[item] = now + number
        elif action == "r" and model:
            item = list(model)[number % len(model)]
            assert delayed.remove(item)
            assert not delayed.remove(item)
            del model[item]
        elif action == "d":
            now += number
            taken = delayed.take_due(now)
            assert taken == sorted((i for i in model if model[i] <= now), key=lambda i: model[i])
            for item in taken:
                del model[item]
        delayed.check_invariants()
        assert list(delayed) == list(model)
        assert delayed.next_due() == min(model.values(), default=math.inf)
