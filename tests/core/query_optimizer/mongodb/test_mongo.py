# ruff: noqa: E501
"""MongoDB filters, pipelines and commands: what they mean, their indexes, and what is wrong with them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core._shared.errors import InvalidArgumentError
from bot.core.query_optimizer import QueryOptimizer, QueryType
from bot.core.query_optimizer.mongodb.documents import advise_mongo
from tests.support.searching import searching

BOUND = {"$limit": 10}


def codes(query, options=None):
    return {finding.code for finding in advise_mongo(query, options).findings}


@pytest.mark.parametrize(
    ("query", "kind", "reads", "writes"),
    [
        ({"a": 1}, QueryType.FIND, {"collection"}, set()),
        ({"find": "users", "filter": {"a": 1}}, QueryType.FIND, {"users"}, set()),
        ({"insert": "users", "documents": [{}]}, QueryType.INSERT, set(), {"users"}),
        ({"update": "users", "updates": [{"q": {"a": 1}, "u": {}}]}, QueryType.UPDATE, set(), {"users"}),
        ({"delete": "users", "deletes": [{"q": {"a": 1}, "limit": 1}]}, QueryType.DELETE, set(), {"users"}),
        (
            {"aggregate": "a", "pipeline": [{"$lookup": {"from": "b", "as": "x", "pipeline": [
                {"$unionWith": "c"}]}}, {"$unionWith": {"coll": "d"}}, {"$out": "e"}]},
            QueryType.AGGREGATE, {"a", "b", "c", "d"}, {"e"},
        ),
        ([{"$facet": {"x": [{"$lookup": {"from": "b"}}]}}, {"$merge": {"into": {"db": "x", "coll": "m"}}}],
         QueryType.AGGREGATE, {"collection", "b"}, {"m"}),
    ],
)  # fmt: skip
def test_types_and_collections(query, kind, reads, writes):
    found = advise_mongo(query).analysis
    assert (found.query_type, set(found.reads), set(found.writes)) == (kind, reads, writes)


@pytest.mark.parametrize(
    ("query", "options", "keys"),
    [
        (
            {"age": {"$gt": 5}, "status": "x"},
            {"sort": [("joined", -1)]},
            ['"status": 1, "joined": -1, "age": 1'],
        ),
        ({"a": {"$in": [1]}, "b": {"$gte": 1}}, None, ['"a": 1, "b": 1']),
        ({"$and": [{"a": 1}, {"b": {"$lt": 2}}]}, None, ['"a": 1, "b": 1']),
        ({"c": 1, "$or": [{"a": 1}, {"b": 1}]}, None, ['"c": 1, "a": 1', '"c": 1, "b": 1']),
        ({"a": {"$elemMatch": {"x": 1, "n": {"$gt": 5}}}}, None, ['"a.x": 1, "a.n": 1']),
        ({"a": {"$elemMatch": {"$gte": 80, "$lt": 85}}}, None, ['"a": 1']),
        ({"a": {"$elemMatch": {"x": 1}}, "b": {"$elemMatch": {"y": 1}}, "c": 1}, None, ['"a.x": 1, "c": 1']),
        ({"_id": 1, "a": 2}, None, []),
        ({"a": {"$ne": 1}}, None, []),
        ({}, None, []),
        ([{"$match": {"b": 1}}, {"$sort": {"c": 1}}, BOUND], None, ['"b": 1, "c": 1']),
        ([{"$group": {"_id": "$a"}}, {"$match": {"b": 1}}], None, []),
    ],
)
def test_indexes_go_by_equality_sort_and_range(query, options, keys):
    found = [str(suggestion) for suggestion in advise_mongo(query, options).index_suggestions]
    assert found == [f"db.collection.createIndex({{ {each} }})" for each in keys]


def test_lookup_needs_an_index_on_the_foreign_field():
    lookup = {"from": "orders", "localField": "_id", "foreignField": "user.id", "as": "orders"}
    found = advise_mongo([BOUND, {"$lookup": lookup}, {"$lookup": lookup}]).index_suggestions
    assert [str(suggestion) for suggestion in found] == ['db.orders.createIndex({ "user.id": 1 })']
    assert [suggestion.table for suggestion in found] == ["orders"]
    for other in (
        {**lookup, "foreignField": "_id"},
        {"from": "orders", "as": "x", "pipeline": []},
        {"from": 5},
    ):
        assert not advise_mongo([BOUND, {"$lookup": other}]).index_suggestions


CASES = [
    ("M001", {"$where": "this.a > 1"}, {"$expr": {"$gt": ["$a", 1]}}),
    ("M001", [{"$project": {"x": {"$function": {}}}}], [{"$project": {"x": 1}}]),
    ("M002", {"a": {"$regex": "x"}}, {"a": {"$regex": "^x"}}),
    ("M002", {"a": re.compile("^x", re.IGNORECASE)}, {"a": re.compile("^x")}),
    ("M002", {"a": {"$regex": "^x", "$options": "i"}}, {"a": {"$regex": "^x", "$options": ""}}),
    ("M002", {"a": {"$regex": "^.*x"}}, {"a": {"$regex": "^x.*"}}),
    ("M002", {"a": {"$in": [re.compile("^x", re.IGNORECASE)]}}, {"a": {"$in": [re.compile("^x"), "y"]}}),
    ("M002", {"a": {"$elemMatch": {"b": {"$regex": "x"}}}}, {"a": {"$elemMatch": {"b": {"$regex": "^x"}}}}),
    ("M002", {"a": re.compile(b"x")}, {"a": re.compile(b"^x")}),
    ("M003", {"a": {"$elemMatch": {"b": {"$ne": 1}}}}, {"a": {"$elemMatch": {"b": 1}}}),
    ("M003", {"a": {"$ne": 1}}, {"a": 1}),
    ("M003", {"a": {"$nin": [1]}}, {"a": {"$in": [1]}}),
    ("M004", [{"$skip": 100}], [BOUND]),
    ("M005", [{"$match": {"a": 1}}], [{"$match": {"a": 1}}, BOUND]),
    ("M005", {"find": "u", "filter": {"a": 1}}, {"find": "u", "filter": {"a": 1}, "limit": 5}),
    ("M005", {"find": "u", "filter": {"a": 1}}, {"find": "u", "filter": {"_id": 1}}),
    ("M006", [{"$unwind": "$a"}, {"$match": {"b": 1}}], [{"$unwind": "$a"}, {"$match": {"a.x": 1}}]),
    ("M006", [{"$group": {"_id": "$a"}}, {"$match": {"_id": 1}}],
     [{"$group": {"_id": "$a", "n": {"$sum": 1}}}, {"$match": {"n": 1}}]),
    ("M006", [{"$lookup": {"from": "b", "as": "x"}}, {"$match": {"a": 1}}],
     [{"$lookup": {"from": "b", "as": "x"}}, {"$match": {"x.a": 1}}]),
    ("M006", [{"$sort": {"a": 1}}, {"$match": {"a": 1}}], [{"$match": {"a": 1}}, {"$sort": {"a": 1}}]),
    ("M007", [{"$group": {"_id": "$a"}}], [{"$match": {"a": 1}}, {"$group": {"_id": "$a"}}]),
    ("M007", {}, {"a": 1}),
    ("M008", [{"$lookup": {"from": "b", "as": "x"}}], [BOUND, {"$lookup": {"from": "b", "as": "x"}}]),
    ("M009", [{"$group": {"_id": "$a"}}, {"$sort": {"n": 1}}], [{"$group": {"_id": "$a"}}, {"$sort": {"n": 1}}, BOUND]),
    ("M010", {"a": {"$in": list(range(1001))}}, {"a": {"$in": list(range(1000))}}),
    ("M011", {"a": {"$exists": False}}, {"a": {"$exists": True}}),
    ("M012", {"$or": [{"a": 1}, {"b": 1}]}, {"$or": [{"a": 1}, {"a": 2}]}),
    ("M013", {"a": {"$in": []}}, {"a": {"$in": [1]}}),
    ("M014", {"delete": "u", "deletes": [{"q": {}, "limit": 0}]}, {"delete": "u", "deletes": [{"q": {"a": 1}, "limit": 0}]}),
    ("M014", {"update": "u", "updates": [{"q": {}, "u": {}, "multi": True}]}, {"update": "u", "updates": [{"q": {}, "u": {}}]}),
    ("M015", {"a": {"$size": 2}}, {"a_count": 2}),
    ("M016", {"find": "u", "filter": {"_id": 1}}, {"find": "u", "filter": {"_id": 1}, "projection": {"a": 1}}),
]  # fmt: skip


@pytest.mark.parametrize(("code", "bad", "good"), CASES)
def test_findings(code, bad, good):
    assert code in codes(bad)
    assert code not in codes(good)


def test_fingerprints_leave_values_and_order_out():
    one = advise_mongo({"$and": [{"a": 1, "b": {"$in": [1, 2]}}]}).analysis
    other = advise_mongo({"$and": [{"b": {"$in": [3]}, "a": "hunter2"}]}).analysis
    assert one.fingerprint == other.fingerprint
    assert "hunter2" not in other.normal_form
    assert advise_mongo({"a": 1}).analysis.fingerprint != advise_mongo({"b": 1}).analysis.fingerprint


async def test_through_the_optimizer():
    optimizer = QueryOptimizer()
    await optimizer.enable()
    query = {"status": "active", "age": {"$gt": 18}}
    found = await optimizer.analyze_query(query, {"collection": "users", "sort": {"age": 1}, "skip": 100})
    assert found.query is query
    assert found.optimized_query is query
    assert found.tables == ["users"]
    assert found.columns == {"filter": ["status", "age"], "sort": ["age"]}
    assert str(found.index_suggestions[0]) == 'db.users.createIndex({ "status": 1, "age": 1 })'
    assert any(text.startswith("M004") for text in found.recommendations)
    await optimizer.disable()
    assert (await optimizer.analyze_query(query)).query_type is QueryType.UNKNOWN


names = st.sampled_from(["a", "_id", "$and", "$or", "$in", "$match", "$lookup", "$not", "$sort", "find", "pipeline",
                         "$facet", "$merge", "updates", "deletes", "q", "$regex", "$unwind", "$group"])  # fmt: skip
documents = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=3), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
    max_leaves=20,
)


@searching(300)
@given(st.one_of(st.dictionaries(names, documents, max_size=4), st.lists(documents, max_size=4)), documents)
def test_any_document_gets_an_answer(query, options):
    assert len(advise_mongo(query, options).analysis.fingerprint) == 16


def test_a_document_that_holds_itself_is_refused():
    endless = {}
    endless["$and"] = [endless]
    with pytest.raises(InvalidArgumentError, match="none of which contains itself"):
        advise_mongo(endless)


def test_a_very_deep_document_gets_an_answer():
    deep = {"a": 1}
    for _ in range(5_000):
        deep = {"$and": [deep]}
    assert advise_mongo(deep).analysis.fingerprint
