"""Indexes that a database has: only what is proved to be needless is called so."""

from dataclasses import replace

import pytest

from bot.core.query_optimizer.workload.existing import (
    ExistingIndex,
    Key,
    invalid,
    needless,
    overlapping,
    unused,
)
from bot.core.query_optimizer.workload.mysql_server import indexes_of


def index(name, keys, **more):
    return ExistingIndex("public", "t", name, more.pop("method", "btree"), tuple(map(Key, keys)), **more)


def pairs(*indexes):
    return [(pair.index.name, pair.by.name) for pair in needless(indexes)]


A, AB = index("a", "a"), index("ab", "ab")


def test_a_duplicate_and_a_beginning():
    assert pairs(A, AB) == [("a", "ab")]
    assert pairs(A, index("a2", "a")) == [("a2", "a")]
    assert pairs(A, index("a2", "a", scans=7)) == [("a", "a2")], "the one that is used stays"
    assert pairs(A, index("key", "a", unique=True, bound=True)) == [("a", "key")]
    assert pairs(A, index("ba", "ba")) == []


def test_of_three_alike_one_stays():
    assert pairs(A, AB, index("a2", "a"), index("abc", "abc")) == [("a", "abc"), ("a2", "abc"), ("ab", "abc")]


@pytest.mark.parametrize(
    "protected",
    [
        index("a", "a", unique=True),
        index("a", "a", bound=True),
        index("a", "a", valid=False),
        index("a", "a", predicate="(b > 0)"),
        index("a", "a", method="hash"),
        index("a", "a", include=frozenset("c")),
        replace(A, keys=(Key("a", operators="text_pattern_ops"),)),
        replace(A, keys=(Key("a", collation="100"),)),
        replace(A, keys=(Key("a", options="3"),)),
        replace(A, table="other"),
        replace(A, schema="other"),
        replace(A, keys=(Key("lower(a)"),)),
    ],
    ids=str,
)
def test_what_is_not_needless(protected):
    assert pairs(protected, AB) == []


def test_an_index_that_no_query_can_use_replaces_nothing():
    broken = index("ab", "ab", valid=False)
    assert pairs(A, broken) == []
    assert invalid([A, broken]) == [broken]


def test_included_columns_must_be_in_the_other():
    wide = index("wide", "a", include=frozenset("bc"))
    assert pairs(wide, AB) == []
    assert pairs(wide, index("abc", "abc")) == [("wide", "abc")]
    assert pairs(A, wide) == [("a", "wide")]


def test_other_methods_are_compared_as_wholes():
    assert pairs(index("g", "a", method="gin"), index("h", "ab", method="gin")) == []
    assert pairs(index("g", "a", method="gin"), index("h", "a", method="gin")) == [("h", "g")]


def test_unused_indexes():
    never = replace(A, scans=0, size=5.0)
    larger = index("d", "d", scans=0, size=9.0)
    assert unused([never, larger, index("e", "e", scans=1), index("f", "f")]) == [larger, never]
    assert unused([replace(never, unique=True), replace(larger, bound=True)]) == []


def test_an_index_that_replaces_another_is_not_called_unused():
    """Who drops both would lose what the needless one served."""
    assert unused([replace(A, scans=0), replace(AB, scans=0)]) == []


def rows_of(name, columns, *, unique=False, kind="BTREE", engine="InnoDB", prefix="", visible=1):
    return [
        ("bot", "t", name, kind, 0 if unique else 1, column, prefix, "A", None, engine, visible)
        for column in columns
    ]


def mysql(*rows, **more):
    return indexes_of([row for part in rows for row in part], more.get("sizes", {}), more.get("scans"))


PRIMARY = rows_of("PRIMARY", ["id"], unique=True)


def test_innodb_adds_the_primary_key_to_every_index():
    found = mysql(PRIMARY, rows_of("a", ["a"]), rows_of("ab", ["a", "b"]))
    assert needless(found) == [], "ORDER BY id is served by the one and not by the other"
    assert [(pair.index.name, pair.by.name) for pair in overlapping(found)] == [("a", "ab")]
    found = mysql(PRIMARY, rows_of("a", ["a"]), rows_of("a_id", ["a", "id"]))
    assert len(needless(found)) == 1
    assert overlapping(found) == []


def test_indexes_of_mysql():
    found = mysql(
        PRIMARY,
        rows_of("a", ["a"]),
        rows_of("start", ["a"], prefix="10"),
        rows_of("u", ["a"], unique=True),
        rows_of("words", ["a"], kind="FULLTEXT"),
        rows_of("off", ["c"], visible=0),
        scans={("bot", "t", "a"): 3.0},
        sizes={("bot", "t", "a"): 16384.0},
    )
    by_name = {each.name: each for each in found}
    assert (by_name["a"].scans, by_name["a"].size, by_name["u"].scans) == (3, 16384.0, 0)
    assert [(pair.index.name, pair.by.name) for pair in needless(found)] == [("a", "u")]
    assert [each.name for each in unused(found)] == ["start", "words"]
    assert [each.name for each in invalid(found)] == ["off"]
