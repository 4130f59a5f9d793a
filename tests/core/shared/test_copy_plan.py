"""How nested values are copied at each read."""

import copy

import pytest
from hypothesis import given

from bot.core._shared.copy_plan import (
    MAX_PLANS,
    MAX_STEPS,
    PLAN_SIZE,
    STEP_SIZE,
    Planner,
    copy_of_rows,
    copy_rows,
    copy_tree,
)
from tests.core.shared.test_isolation import scribble, values


def is_apart(one, other):
    """Whether no part that can change is in both."""
    if isinstance(one, dict):
        pairs = zip(one.values(), other.values(), strict=True)
    elif isinstance(one, list | tuple):
        pairs = zip(one, other, strict=True)
    else:
        return not isinstance(one, set | bytearray) or one is not other
    same = one is other and not isinstance(one, tuple)
    return not same and all(is_apart(a, b) for a, b in pairs)


@given(values)
def test_a_plan_copies_what_can_change_and_nothing_else(value):
    plan = Planner().plan(value)
    if plan is None:
        before = copy.deepcopy(value)
        scribble(value)
        assert value == before, "it cannot change"
        return
    for copying in (plan, copy_tree):
        made = copying(value)
        assert made == value
        assert type(made) is type(value)
        assert is_apart(made, value)
        if isinstance(value, dict):
            assert list(made) == list(value)


@given(values)
def test_what_is_kept_gives_copies_and_is_apart_from_them(value):
    if Planner().plan(value) is None:
        return
    before = copy.deepcopy(value)
    kept, copying = Planner().keep(value)
    made = copying(kept)
    assert made == before
    assert type(made) is type(before)
    assert is_apart(made, value)
    if isinstance(value, dict):
        assert [*map(repr, made)] == [*map(repr, value)]
    for changed in (value, made):
        scribble(changed)
        assert copying(kept) == before


@pytest.mark.parametrize("parts", range(6))
def test_a_dict_is_copied_whatever_the_number_of_its_parts_that_can_change(parts):
    inner = [{"a": [1]}, [{"id": 1}, {"id": 2}], {3}, [[1], {2}], ({"x": [4]},)]
    value = {"first": 1, **{f"part {n}": inner[n] for n in range(parts)}, "last": None}
    expected = copy.deepcopy(value)
    kept, copying = Planner().keep(value)
    for changed in (value, copying(kept), copying(kept)):
        scribble(changed)
    assert copying(kept) == expected
    assert list(copying(kept)) == list(expected)


@pytest.mark.parametrize("count", range(8))
def test_rows_are_copied_whatever_their_number(count):
    rows = [{"id": n} for n in range(count)]
    for copying in (copy_rows, copy_of_rows(rows)):
        made = copying(rows)
        assert made == rows
        assert is_apart(made, rows)
    for value in ({"rows": rows}, {"users": [{"rows": rows}, {"rows": rows[1:]}, {"rows": []}]}, [rows] * 2):
        kept, copying = Planner().keep(value)
        assert copying(kept) == value
        assert is_apart(copying(kept), value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 1}, dict.copy),
        ([1, 2], list.copy),
        ({1}, set.copy),
        (bytearray(b"x"), bytearray.copy),
        ([{"a": 1}, {"b": 2}], copy_rows),
        ((1, (2, frozenset({3}))), None),
        ("text", None),
    ],
    ids=["dict", "list", "set", "bytearray", "rows", "fixed", "text"],
)
def test_what_is_flat_needs_no_plan_of_its_own(value, expected):
    planner = Planner()
    assert planner.plan(value) is expected
    assert planner.size == 0


def test_parts_of_one_shape_share_a_plan():
    planner = Planner()
    users = [{"id": n, "tags": ["a"], "settings": {"lang": "de"}} for n in range(100)]
    made = planner.plan(users)(users)
    assert made == users
    assert is_apart(made, users)
    assert planner.size == 2 * PLAN_SIZE + 2 * STEP_SIZE


def test_a_plan_stays_small_whatever_the_value():
    wide = {n: [n] if n % 2 else {n} for n in range(1000)}
    ragged = [{str(n): [n]} for n in range(1000)]
    for value in (wide, ragged, [wide, ragged], {"a": wide, "b": 1}):
        planner = Planner()
        made = planner.plan(value)(value)
        assert made == value
        assert is_apart(made, value)
        assert planner.size <= MAX_PLANS * (PLAN_SIZE + STEP_SIZE * MAX_STEPS)


def test_keys_that_are_equal_but_not_the_same_stay_what_they_are():
    value = [{1: ["a"], "x": 0}, {True: ["b"], "x": 0}, {1.0: ["c"], "x": 0}]
    made = Planner().plan(value)(value)
    assert [type(next(iter(part))) for part in made] == [int, bool, float]
    nan = float("nan")
    value = {nan: ["a"], "x": 0}
    made = Planner().plan(value)(value)
    assert made[nan] == ["a"]
    assert made[nan] is not value[nan]
