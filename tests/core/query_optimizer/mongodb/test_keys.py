"""Two reads that the server may answer differently never have the same key."""

import datetime
import math
import re
import uuid

import pytest
from bson import Binary, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.son import SON
from hypothesis import given
from hypothesis import strategies as st
from pymongo.collation import Collation

from bot.core.query_optimizer.mongodb.keys import NotCacheableError, key_of_arguments
from tests.support.searching import searching

NOON = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.UTC)
ONE = datetime.timezone(datetime.timedelta(hours=1))

DIFFERENT = [
    1, True, 1.0, "1", Int64(1), Decimal128("1"), Decimal128("1.0"), None, [1], (1,), [[1]], {}, [],
    {"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": {"b": 1}}, {"a.b": 1}, ObjectId("0" * 24), "0" * 24, b"0",
    Binary(b"0", 5), 0.0, -0.0, 0, False, math.inf, NOON, NOON.replace(tzinfo=None), NOON.astimezone(ONE),
    re.compile("a"), re.compile("a", re.IGNORECASE), Regex("a"), Regex("a", "i"), "a", Timestamp(1, 2),
    Timestamp(2, 1), MinKey(), MaxKey(), DBRef("c", 1), DBRef("c", 2), uuid.UUID(int=1), uuid.UUID(int=2),
    Collation("de"), Collation("de", strength=2), "é", "e\u0301", 2**63, -(2**63),
]  # fmt: skip


def test_values_of_other_types_or_forms_differ():
    keys = [key_of_arguments({"filter": {"x": value}}) for value in DIFFERENT]
    assert len(set(keys)) == len(DIFFERENT)


def test_the_same_arguments_have_the_same_key():
    for value in [*DIFFERENT, math.nan]:
        assert key_of_arguments({"filter": {"x": value}}) == key_of_arguments({"filter": {"x": value}})
    assert key_of_arguments({"filter": SON(a=1)}) == key_of_arguments({"filter": {"a": 1}})
    assert key_of_arguments({"skip": 1, "limit": 2}) == key_of_arguments({"limit": 2, "skip": 1})


def test_a_comment_and_options_with_their_default_are_no_part_of_it():
    plain = key_of_arguments({"filter": {}})
    assert key_of_arguments({"filter": {}, "comment": "trace 7", "session": None, "cursor_type": 0}) == plain


class Text(str):
    pass


@pytest.mark.parametrize(
    "arguments",
    [{"filter": {"a": Text("x")}}, {"filter": {"a": object()}}, {"filter": {1: 2}}, {"session": object()},
     {"cursor_type": 2}, {"allow_partial_results": True}, {"explain": True}, {"?": (1,)},
     {"filter": {"a": {"$in": list(range(2_001))}}}, {"filter": {"a": "x" * 50_001}},
     {"filter": {"a": 1 << 1_000_000}}, {"filter": {"$where": "1"}}, {"projection": {"r": {"$rand": {}}}},
     {"pipeline": [{"$sample": {"size": 1}}]}, {"filter": {"$expr": {"$gt": ["$a", "$$NOW"]}}},
     {"filter": {"$expr": {"$gt": ["$a", "$$NOW.x"]}}}, {"let": {"f": {"$function": {}}}}],
    ids=lambda arguments: next(iter(arguments)),
)  # fmt: skip
def test_what_has_no_key(arguments):
    with pytest.raises(NotCacheableError):
        key_of_arguments(arguments)


def test_a_filter_that_contains_itself_has_no_key():
    circle = {}
    circle["a"] = circle
    with pytest.raises(NotCacheableError, match="too large"):
        key_of_arguments({"filter": circle})


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, "", "a", b"a", Int64(1)]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)


def told_apart(value):
    """What bson tells apart, written down."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{name!r}:{told_apart(item)}' for name, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(told_apart, value))}]"
    return f"{type(value).__name__} {value!r}"


@searching(200)
@given(values, values)
def test_keys_are_equal_for_equal_documents_only(one, other):
    same = key_of_arguments({"filter": {"x": one}}) == key_of_arguments({"filter": {"x": other}})
    assert same == (told_apart(one) == told_apart(other))
