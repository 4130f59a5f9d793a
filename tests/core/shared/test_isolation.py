"""Values kept apart from their callers, and measured."""

import copy
import datetime
import sys
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core._shared import isolation
from bot.core._shared.isolation import freeze

atoms = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.binary(max_size=5))
hashables = st.recursive(
    atoms, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4
)
values = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(hashables, inner, max_size=4),
        st.sets(hashables, max_size=4),
        st.tuples(inner, inner),
    ),
    max_leaves=12,
)


def scribble(value):
    """Change whatever can be changed in a value."""
    if isinstance(value, list):
        for item in value:
            scribble(item)
        value.append("changed")
    elif isinstance(value, dict):
        for item in value.values():
            scribble(item)
        value["changed"] = True
    elif isinstance(value, set):
        value.add("changed")
    elif isinstance(value, tuple):
        for item in value:
            scribble(item)


@given(values)
def test_nobody_can_change_what_another_gets(value):
    original = copy.deepcopy(value)
    frozen = freeze(value)
    scribble(value)
    for _ in range(2):
        got = frozen.value if frozen.thaw is None else frozen.thaw(frozen.value)
        assert got == original
        assert type(got) is type(original)
        scribble(got)


@pytest.mark.parametrize(
    "value", [1, "x", b"x", None, (1, ("a", None)), frozenset({1}), datetime.date(2026, 1, 1)]
)
def test_what_cannot_change_is_handed_out_as_it_is(value):
    frozen = freeze(value)
    assert frozen.thaw is None
    assert frozen.value is value


def test_other_objects_are_copied_deeply():
    class Own:
        def __init__(self):
            self.items = [1]

    value = Own()
    frozen = freeze({"own": value})
    value.items.append(2)
    assert frozen.thaw(frozen.value)["own"].items == [1]


def test_what_refuses_to_be_copied_is_named():
    with pytest.raises(TypeError, match="a value of type generator cannot be copied"):
        freeze(n for n in range(3))


def test_a_very_deep_value_is_copied_or_refused_and_crashes_nothing():
    deep = []
    for _ in range(20_000):
        deep = [deep]
    frozen = freeze(deep)
    copied, depth = frozen.thaw(frozen.value), 0
    while copied:
        copied, depth = copied[0], depth + 1
    assert depth == 20_000
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TypeError, match="a value of type list cannot be copied: it has more than"):
        freeze(deep)


def test_size_counts_each_object_once():
    text = "x" * 1000
    assert freeze(text).size == sys.getsizeof(text)
    assert freeze([text, text]).size == sys.getsizeof([text, text]) + sys.getsizeof(text)
    assert freeze({"k": {"n": text}}).size > 1000
    identifier = uuid.uuid4()
    assert freeze(identifier).size == sys.getsizeof(identifier) + sys.getsizeof(identifier.int)


def test_parts_that_are_shared_stay_shared_and_take_no_time():
    doubled = ["x"]
    for _ in range(60):
        doubled = [doubled, doubled]
    frozen = freeze(doubled)
    copied = frozen.thaw(frozen.value)
    assert copied[0] is copied[1]
    assert copied[0] is not frozen.value[0]
    pair = (1, 2)
    # What cannot change may be in two places.
    assert freeze({"a": pair, "b": [pair]}).thaw is not isolation.copy_object


names = st.text(max_size=3) | st.integers()


@given(
    st.lists(st.dictionaries(names, atoms, max_size=3), min_size=1, max_size=5)
    | st.lists(st.fixed_dictionaries({"id": atoms, "name": atoms}), min_size=1, max_size=5)
    | st.lists(st.lists(atoms, max_size=3).map(tuple), min_size=1, max_size=5)
)
def test_rows_are_measured_and_kept_apart_like_any_value(rows):
    frozen = freeze(rows)
    exact = isolation._freeze_tree(rows).size
    if len(rows) == 1 and isinstance(rows[0], dict):  # what occurs twice in a small row counts twice
        assert exact <= frozen.size < exact + isolation.SMALL
    else:
        assert frozen.size == exact
    got = frozen.thaw(frozen.value)
    assert got == rows == frozen.value
    rows.append("another")
    if isinstance(rows[0], dict):
        rows[0]["changed"] = got[0]["changed"] = True
        assert "changed" not in frozen.value[0]
    assert "another" not in frozen.value


def test_rows_with_something_inside_are_copied_all_the_way():
    for rows in ([{"a": [1]}], [(1, [2])], [{"a": 1}, (2,)], [{"a": 1}, {"a": {"b": 2}}]):
        frozen = freeze(rows)
        assert frozen.value == copy.deepcopy(rows)
        for inner in (rows[-1], *(rows[-1].values() if isinstance(rows[-1], dict) else rows[-1])):
            if isinstance(inner, list):
                inner.append("changed")
            elif isinstance(inner, dict):
                inner["changed"] = True
        assert "changed" not in repr(frozen.value)
