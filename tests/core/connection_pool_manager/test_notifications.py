"""The queue of one listener: bounded, in order, and every gap is marked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core._shared.errors import InvalidArgumentError
from bot.core.connection_pool_manager.notifications import Inbox, valid_channel, valid_payload
from tests.support.searching import searching


def told(inbox):
    """What is left, in short: the payload of a message, the kind of a mark with how many were dropped."""
    found = []
    while (entry := inbox.take()) is not None:
        found.append(entry.payload if entry.kind == "message" else (entry.kind, entry.dropped))
    return found


def test_a_full_queue_leaves_new_messages_out_and_says_where():
    inbox = Inbox(frozenset("c"), 2, lambda: None)
    assert [inbox.put("c", text, 1) for text in "abcd"] == [True, True, False, False]
    assert inbox.take().payload == "a"
    assert not inbox.put("c", "e", 1), "the mark takes the place of the last"
    assert inbox.take().payload == "b"
    assert inbox.put("c", "f", 1)
    assert told(inbox) == [("overflow", 3), "f"]


def test_marks_that_nothing_was_read_between_are_one():
    inbox = Inbox(frozenset("c"), 1, lambda: None)
    for text in "ab":
        inbox.put("c", text, 1)
    inbox.mark_reconnected()
    inbox.mark_reconnected()
    inbox.put("c", "d", 1)
    assert told(inbox) == ["a", ("reconnected", 2)]


@searching(100)
@given(st.integers(1, 4), st.lists(st.sampled_from(["put", "take", "mark"]), max_size=40))
def test_whatever_comes_in_is_read_or_marked(size, steps):
    inbox, sent, read, lost = Inbox(frozenset("c"), size, lambda: None), 0, [], 0
    for step in steps:
        if step == "put":
            inbox.put("c", str(sent), 1)
            sent += 1
        elif step == "mark":
            inbox.mark_reconnected()
        elif (entry := inbox.take()) is not None:
            read.append(entry)
        inbox.check_invariants()
    while (entry := inbox.take()) is not None:
        read.append(entry)
    expected = 0
    for entry in read:
        if entry.kind == "message":
            assert int(entry.payload) == expected, "in order, none is missing without a mark"
            expected += 1
        else:
            expected += entry.dropped
            lost += entry.dropped
    assert expected == sent
    assert lost == 0 or any(entry.kind != "message" for entry in read)


@pytest.mark.parametrize("name", ["a", "Ä " + '"', "x" * 63, "ä" * 31, "select", "a.b"])
def test_names_of_channels(name):
    assert valid_channel(name) == name


@pytest.mark.parametrize("name", ["", "x" * 64, "ä" * 32, "a\0b", "\ud800", 5, None, b"a", ["a"], True])
def test_no_names_of_channels(name):
    with pytest.raises(InvalidArgumentError, match="channel = "):
        valid_channel(name)


def test_payloads():
    assert valid_payload("ä" * 3999) == "ä" * 3999
    for payload in ("x" * 8000, "ä" * 4000, "a\0", "\ud800", b"a", None, 1):
        with pytest.raises(InvalidArgumentError, match="payload = "):
            valid_payload(payload)
