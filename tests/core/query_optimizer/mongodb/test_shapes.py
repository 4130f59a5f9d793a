"""Pipelines: what they read and write, and when their result is not kept; names that cannot be confused."""

import pytest

from bot.core.query_optimizer.mongodb.keys import NotCacheableError
from bot.core.query_optimizer.mongodb.shapes import (
    analysis_of,
    filed_as,
    read_by_pipeline,
    written_by_pipeline,
)
from bot.core.query_optimizer.sql.names import read_marks, write_marks
from tests.support.endless import ENDLESS


def names(*collections):
    return frozenset(filed_as("db", name) for name in collections)


@pytest.mark.parametrize(
    ("pipeline", "reads"),
    [([], names()),
     ([{"$match": {"a": 1}}, {"$lookup": {"from": "files", "as": "f"}}], names("files")),
     ([{"$unionWith": "old"}, {"$unionWith": {"coll": "older"}}], names("old", "older")),
     ([{"$graphLookup": {"from": "tree"}}], names("tree")),
     ([{"$facet": {"a": [{"$lookup": {"from": "x", "pipeline": [{"$unionWith": "y"}]}}]}}], names("x", "y")),
     ([{"$lookup": {"pipeline": [{"$documents": []}], "as": "d"}}], names())],
)  # fmt: skip
def test_a_pipeline_reads_what_its_stages_name(pipeline, reads):
    assert read_by_pipeline(pipeline, "db") == reads


@pytest.mark.parametrize(
    "pipeline",
    [[{"$out": "x"}], [{"$merge": "x"}], [{"$sample": {"size": 1}}], [{"$collStats": {}}], [{"$future": 1}],
     [{"$lookup": {"from": {"db": "other", "coll": "x"}}}], [{"$facet": None}], "text", [1], [{}], None,
     [{"$facet": {"a": [{"$lookup": {"from": "x", "pipeline": [{"$currentOp": {}}]}}]}}]],
    ids=str,
)  # fmt: skip
def test_a_pipeline_whose_result_is_not_kept(pipeline):
    with pytest.raises(NotCacheableError):
        read_by_pipeline(pipeline, "db")


@pytest.mark.parametrize(
    ("pipeline", "written"),
    [([{"$match": {}}], names()), ([{"$out": "x"}], names("x")), ([{"$merge": "x"}], names("x")),
     ([{"$merge": {"into": "x", "on": "_id"}}], names("x")),
     ([{"$out": {"db": "db", "coll": "x"}}], names("x")),
     ([{"$merge": {"into": {"db": "other", "coll": "x"}}}], {filed_as("other", "x")})],
)  # fmt: skip
def test_a_pipeline_writes_its_target(pipeline, written):
    assert written_by_pipeline(pipeline, "db") == written


def test_no_two_collections_and_no_table_share_a_name():
    collections = ["b.c", "b", "c", "b\\.c", "b/c", "B", ""]
    files = [filed_as(database, name) for database in "ab" for name in collections]
    for name in [*files, "b", "b.c"]:
        marks = write_marks([name])
        concerned = [each for each in files if not marks.isdisjoint(read_marks(frozenset([each])))]
        assert concerned == [each for each in files if each == name]


@pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS)
def test_of_a_filter_without_end_the_form_is_short(make):
    assert len(analysis_of("find", "db", "c", {"filter": {"$or": [make(), make()]}}).normal_form) < 200_000


@pytest.mark.parametrize(
    ("arguments", "form"),
    [({"filter": {"a": "secret", "b": {"$in": ["secret"]}}}, "{a: ?, b: {$in: ?}}"),
     ({"filter": {"a": {"secret": 1}}}, "{a: ?}"),
     ({"filter": "secret"}, "{_id: ?}"),
     ({"filter": {"a": {"$elemMatch": {"x": 1}}}}, "{a: {$elemMatch: {x: ?}}}"),
     ({"filter": {"$or": [{"a": 1}, {"a": 2}, {"b": 3}]}}, "{$or: [{a: ?}, {b: ?}]}"),
     ({"filter": {}, "sort": [("a", -1)], "limit": 5}, "{}, sort=[a], limit=?"),
     ({"pipeline": [{"$match": {"a": 1}}, {"$lookup": {"from": "x"}}, {"$limit": 3}]},
      "[$match: {a: ?}, $lookup: x, $limit: ?]"),
     ({"document": {"secret": 1}, "comment": "secret"}, "")],
)  # fmt: skip
def test_a_form_has_no_values(arguments, form):
    assert analysis_of("find", "db", "c", arguments).normal_form == f"db.c.find({form})"
