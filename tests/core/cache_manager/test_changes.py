"""The log of changes against a list of all that changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.cache_manager import changes
from bot.core.cache_manager.changes import MAX_RECENT, ChangeLog, ChangesSince
from tests.support.searching import searching

KEYS = st.sampled_from([("default", "a"), ("default", "b"), ("users", "a")])
TAGS = st.frozensets(st.sampled_from("xyz"), max_size=2)
CHANGES = st.one_of(
    st.tuples(st.just("key"), KEYS),
    st.tuples(st.just("load"), KEYS),
    st.tuples(st.just("tags"), TAGS),
    st.tuples(st.just("unknown"), st.none()),
)


def write(log, what, of):
    if what == "tags":
        log.tags(of)
    elif what == "unknown":
        log.unknown()
    else:
        log.key(*of, loaded=what == "load")


def changed(what, of, at, tags, reloads):
    if what == "tags":
        return tags is None or bool(of & tags)
    return what == "unknown" or (of == at and (what == "key" or reloads))


WAYS = pytest.mark.parametrize("few", [changes.FEW, 0], ids=["one by one", "by the index"])


@WAYS
@searching(200)
@given(
    before=st.lists(CHANGES, max_size=4),
    since=st.lists(CHANGES, max_size=8),
    later=st.lists(CHANGES, max_size=4),
    at=KEYS,
    tags=st.none() | TAGS,
    reloads=st.booleans(),
)
def test_it_tells_what_changed_since_a_read_began(few, before, since, later, at, tags, reloads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "FEW", few)
        log = ChangeLog()
        for change in before:
            write(log, *change)
        begun = log.count
        met = []
        for some in (since, later):
            for change in some:
                write(log, *change)
            met += some
            expected = any(changed(*change, at, tags, reloads) for change in met)
            assert log.since(begun, *at, tags, reloads=reloads) is expected
        assert not log.since(log.count, *at)


@pytest.fixture
def indexed(monkeypatch):
    """A log that remembers ten changes, and looks for each in its index."""
    monkeypatch.setattr(changes, "MAX_RECENT", 10)
    monkeypatch.setattr(changes, "FEW", 0)
    return ChangeLog()


def size(log):
    index = log._index
    return len(index._changed) + len(index._reloaded) + len(index._dropped)


def test_the_index_forgets_what_the_log_forgets(indexed):
    log, sizes = indexed, set()
    for number in range(1000):
        log.key("default", f"key:{number}")
        assert log.since(log.count - 1, "default", f"key:{number}")
        assert not log.since(log.count - 1, "default", f"key:{number - 1}")
        oldest = max(0, number - 9)
        assert log.since(oldest, "default", f"key:{oldest}")
        sizes.add(size(log))
    assert max(sizes) == 20, "twice as many as the log remembers"


@pytest.mark.parametrize("what", ["key", "load", "tags"])
def test_the_index_forgets_changes_of_each_kind(indexed, what):
    for number in range(1000):
        write(indexed, what, [str(number)] if what == "tags" else ("default", str(number)))
        assert indexed.since(indexed.count - 1, "default", str(number), [str(number)])
        assert size(indexed) <= 21


@pytest.mark.parametrize(("loads", "tags"), [(0, 100), (8, 13)])
def test_an_index_that_needs_more_room_is_not_built_anew_each_time(indexed, loads, tags):
    for number in range(loads):
        indexed.key("default", str(number), loaded=True)
    indexed.tags([str(number) for number in range(tags)])
    for _ in range(2):  # at the second time it is found to be large
        assert indexed.since(0, "default", "k")
        indexed.tags(["0"])
    assert indexed.since(0, "default", "k", ["0"])
    built = indexed._index._dropped
    for _ in range(2):
        indexed.tags(["0"])
        assert indexed.since(indexed.count - 1, "default", "k", ["0"])
    assert indexed._index._dropped is built


def test_the_index_reads_each_change_once(indexed):
    indexed.key("default", "a")
    assert indexed.since(0, "default", "a")
    indexed._recent[0] = None  # were it read again, any key might have changed
    for other in range(3):
        indexed.key("default", f"other {other}")
        assert not indexed.since(0, "default", "k")
    built = indexed._index._changed
    indexed.key("default", "one more")
    assert indexed.since(1, "default", "one more")
    assert indexed._index._changed is built


def test_the_index_can_be_asked_for_the_first_time_after_any_number_of_changes(indexed):
    for number in range(25):
        indexed.key("default", str(number))
    assert indexed.since(20, "default", "20")
    assert not indexed.since(21, "default", "20")


@WAYS
def test_a_load_by_another_instance_counts_unless_it_is_as_good_as_this_one(few, monkeypatch):
    monkeypatch.setattr(changes, "FEW", few)
    log = ChangeLog()
    log.key("default", "written")
    log.key("default", "loaded", loaded=True)
    assert log.since(0, "default", "loaded")
    assert not log.since(0, "default", "loaded", reloads=False)
    assert log.since(0, "default", "written")
    assert log.since(0, "default", "written", reloads=False)


@WAYS
def test_a_tag_that_was_dropped_before_the_read_began_is_no_change(few, monkeypatch):
    monkeypatch.setattr(changes, "FEW", few)
    log = ChangeLog()
    log.tags(["before"])
    log.tags(["after"])
    assert not log.since(1, "default", "k", ["before", "unknown"])
    assert log.since(1, "default", "k", ["before", "after"])
    assert not log.since(0, "default", "k", ["unknown"])
    assert log.since(0, "default", "k", ["before"])


@WAYS
def test_a_drop_of_a_tag_changes_the_values_that_have_it(few, monkeypatch):
    monkeypatch.setattr(changes, "FEW", few)
    log = ChangeLog()
    begun = log.count
    log.tags(["menu", "prices"])
    assert log.since(begun, "default", "k", {"prices"})
    assert not log.since(begun, "default", "k", {"users"})
    assert not log.since(begun, "default", "k", ())
    assert log.since(begun, "default", "k")  # its tags are not known


@pytest.mark.parametrize(("others", "expected"), [(3, False), (4, True)])
def test_a_read_that_more_changes_came_between_than_are_remembered_is_taken_for_changed(
    monkeypatch, others, expected
):
    monkeypatch.setattr(changes, "MAX_RECENT", 3)
    log = ChangeLog()
    begun = log.count
    for n in range(others):
        log.key("default", f"other {n}")
    assert log.since(begun, "default", "k") is expected


def test_a_load_of_many_keys_reads_on_and_its_own_stores_are_no_news():
    log = ChangeLog()
    log.key("n", "before")
    begun = log.count
    changed = ChangesSince(log, begun, "n")
    log.key("n", "a")
    log.key("other", "b")
    log.tags(["t"])
    assert changed.concerns("a", ())
    assert not changed.concerns("b", ())
    assert not changed.concerns("before", ())
    assert changed.concerns("c", ("t", "u"))
    for number in range(2 * MAX_RECENT):  # stored one after the other, each asked for before
        assert not changed.concerns(f"k{number}", ())
        log.key("n", f"k{number}")
    log.key("n", "late")
    assert changed.concerns("late", ())


def test_a_load_of_many_keys_hears_of_the_first_change_of_all():
    log = ChangeLog()
    changed = ChangesSince(log, log.count, "n")
    log.key("n", "a")
    assert changed.concerns("a", ())
    assert not changed.concerns("b", ())


def test_a_load_of_many_keys_takes_what_it_cannot_know_for_changed():
    for tell in (ChangeLog.unknown, lambda log: [log.key("n", str(n)) for n in range(MAX_RECENT + 1)]):
        log = ChangeLog()
        changed = ChangesSince(log, log.count, "n")
        tell(log)
        assert changed.concerns("x", ())
