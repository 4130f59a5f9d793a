"""What an instance holds of the stream."""

from bot.core.batch_processor.durable.held import Held
from bot.core.batch_processor.models import BatchItem


def item(number):
    return BatchItem("data", item_id=f"item-{number}", entry=b"%d-0" % number)


def test_an_entry_is_held_until_it_is_dropped():
    held = Held(lambda: None)
    held.add(item(1), b"value", alone=False)
    assert b"1-0" in held
    assert held.holds("item-1")
    assert held.value_of(b"1-0") == b"value"
    held.drop(b"1-0")
    held.drop(b"1-0")
    assert held.entries == []
    assert not held.holds("item-1")
    assert held.value_of(b"1-0") is None


def test_when_what_is_handled_alone_has_ended_the_next_may_come():
    told = []
    held = Held(lambda: told.append(True))
    held.add(item(1), b"", alone=False)
    held.add(item(2), b"", alone=True)
    held.drop(b"1-0")
    assert held.has_alone
    assert told == []
    held.drop(b"2-0")
    assert not held.has_alone
    assert told == [True]
