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


@pytest.mark.parametrize("few", [changes.FEW, 0], ids=["one by one", "by the index"])
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


def test_the_index_forgets_what_the_log_forgets(monkeypatch):
    monkeypatch.setattr(changes, "MAX_RECENT", 10)
    monkeypatch.setattr(changes, "FEW", 0)
    log = ChangeLog()
    for number in range(1000):
        log.key("default", f"key:{number}")
        assert log.since(log.count - 1, "default", f"key:{number}")
        assert not log.since(log.count - 1, "default", f"key:{number - 1}")
    assert len(log._index._changed) <= 31


def test_a_drop_of_a_tag_changes_the_values_that_have_it():
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
