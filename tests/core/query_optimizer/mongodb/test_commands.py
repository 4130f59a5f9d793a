"""What commands on the wire mean."""

import pytest
from bson import SON, Binary

from bot.core.query_optimizer.mongodb.commands import MAX_KNOWN, Commands
from bot.core.query_optimizer.mongodb.samples import values_of
from bot.core.query_optimizer.mongodb.shapes import EVERYTHING, filed_as, whole_database
from bot.core.query_optimizer.mongodb.wire_transactions import MAX_OPEN, WireTransactions, transaction_in
from bot.core.query_optimizer.sql.names import NEVER

WRITTEN = {
    "insert": ({"insert": "a"}, {"db/a"}),
    "dotted": ({"insert": "a.b"}, {r"db/a\.b"}),
    "update": ({"update": "a", "updates": [{"q": {}, "u": {}}]}, {"db/a"}),
    "several": ({"update": "a", "updates": [{"q": {}, "u": {}}] * 2}, {"db/a"}),
    "delete": ({"delete": "a", "deletes": [{"q": {}, "limit": 0}]}, {"db/a"}),
    "find and modify": ({"findAndModify": "a", "remove": True}, {"db/a"}),
    "bulk": ({"bulkWrite": 1, "nsInfo": [{"ns": "x.a"}, {"ns": "y.b.c"}]}, {"x/a", r"y/b\.c"}),
    "rename": ({"renameCollection": "x.a", "to": "y.b"}, {"x/a", "y/b"}),
    "out": ({"aggregate": "a", "pipeline": [{"$out": "b"}]}, {"db/b"}),
    "out elsewhere": ({"aggregate": "a", "pipeline": [{"$out": {"db": "x", "coll": "b"}}]}, {"x/b"}),
    "merge": ({"aggregate": "a", "pipeline": [{"$merge": {"into": "b"}}]}, {"db/b"}),
    "map reduce": ({"mapReduce": "a", "out": "b"}, {"db/b"}),
    "map merge": ({"mapReduce": "a", "out": {"merge": "b", "db": "x"}}, {"x/b"}),
    "map unknown": ({"mapReduce": "a", "out": {"how": "b"}}, {"/"}),
    "create": ({"create": "a"}, {"db/a"}),
    "drop": ({"drop": "a"}, {"db/a"}),
    "drop database": ({"dropDatabase": 1}, {"db/"}),
    "unknown": ({"convertToCapped": "a"}, {"db/"}),
    "misshapen": ({"update": "a", "updates": [7]}, {"db/"}),
    "misshapen bulk": ({"bulkWrite": 1}, {"db/"}),
    "read": ({"find": "a", "filter": {}}, set()),
    "inline": ({"mapReduce": "a", "out": {"inline": 1}}, set()),
    "of the database": ({"aggregate": 1, "pipeline": [{"$currentOp": {}}]}, set()),
}


@pytest.mark.parametrize(("command", "written"), WRITTEN.values(), ids=WRITTEN)
def test_what_is_written(command, written):
    commands = Commands()
    for _ in range(2):  # read, and remembered
        seen, _, _ = commands.read(next(iter(command)), command, "db")
        assert {name.removeprefix("(mongodb) ") for name in seen.written} == written
        assert seen.is_read == (not written)
        assert seen.analysis.writes == seen.written


def test_an_unknown_command_of_the_admin_database_may_be_about_any():
    seen, _, _ = Commands().read("moveChunk", {"moveChunk": "x.y"}, "admin")
    assert seen.written == {EVERYTHING}


@pytest.mark.parametrize(
    "command", [{"ping": 1}, {"listCollections": 1}, {"aggregate": "a", "pipeline": [{"$changeStream": {}}]}]
)
def test_what_is_not_counted(command):
    assert Commands().read(next(iter(command)), command, "db")[0] is None


def form(command, commands=None):
    return (commands or Commands()).read(next(iter(command)), command, "db")[0].analysis.normal_form


def test_commands_that_differ_in_names_have_forms_of_their_own():
    commands = Commands()
    different = [
        {"find": "a", "filter": {"x": 1}},
        {"find": "a", "filter": {"y": 1}},
        {"find": "b", "filter": {"x": 1}},
        {"find": "a", "filter": {"x": {"$gt": 1}}},
        {"find": "a", "filter": {"$or": [{"x": 1}, {"y": 1}]}},
        {"find": "a", "filter": {"$or": [{"x": 1}, {"z": 1}]}},
        {"find": "a", "filter": {"x": 1}, "limit": 1, "singleBatch": True},
        {"find": "a", "filter": {"x": 1}, "limit": 1},
        {"find": "a", "filter": {"x": 1}, "sort": {"y": 1}},
        {"find": "a", "filter": {"x": 1}, "sort": {"z": 1}},
        {"find": "a", "filter": {"x": 1}, "hint": "by_x"},
        {"find": "a", "filter": {"x": 1}, "hint": "by_y"},
        {"distinct": "a", "key": "x"},
        {"distinct": "a", "key": "y"},
        {"aggregate": "a", "pipeline": [{"$match": {"x": 1}}]},
        {"aggregate": "a", "pipeline": [{"$lookup": {"from": "b"}}]},
        {"aggregate": "a", "pipeline": [{"$lookup": {"from": "c"}}]},
        {"aggregate": "a", "pipeline": [{"$unset": ["x"]}]},
        {"aggregate": "a", "pipeline": [{"$unset": ["y"]}]},
        {"insert": "a", "documents": [{"_id": 1}]},
        {"insert": "a", "documents": [{"_id": 1}, {"_id": 2}]},
        {"update": "a", "updates": [{"q": {"x": 1}, "u": {"$set": {"y": 1}}}]},
        {"update": "a", "updates": [{"q": {"x": 1}, "u": {"y": 1}}]},
        {"update": "a", "updates": [{"q": {"x": 1}, "u": {"$set": {"y": 1}}, "multi": True}]},
        {"delete": "a", "deletes": [{"q": {"x": 1}, "limit": 1}]},
        {"delete": "a", "deletes": [{"q": {"x": 1}, "limit": 0}]},
        {"findAndModify": "a", "query": {"x": 1}, "remove": True},
        {"findAndModify": "a", "query": {"x": 1}, "update": {"y": 1}},
        {"findAndModify": "a", "query": {"x": 1}, "update": {"$set": {"y": 1}}},
    ]
    forms = [form(command, commands) for command in different]
    assert len(set(forms)) == len(different)
    assert forms == [form(command) for command in different], "remembered ones are the same"


def test_no_value_is_in_a_form_or_remembered():
    commands = Commands()
    for secret in ("s3cret", ["s3cret"], {"s3cret": 1}, b"s3cret", {"$in": ["s3cret"]}):
        for command in (
            {"find": "a", "filter": {"x": secret}, "min": {"x": secret}},
            {"aggregate": "a", "pipeline": [{"$match": {"x": secret}}]},
            {"update": "a", "updates": [{"q": {"x": secret}, "u": {"$set": {"y": secret}}}]},
            {"insert": "a", "documents": [{"_id": secret}]},
        ):
            assert "s3cret" not in form(command, commands)
    commands = Commands()
    form({"find": "a", "filter": {"x": "s3cret", "from": "s3cret"}}, commands)
    form({"find": "a", "filter": {"x": "s3cret", "from": ["s3cret"]}}, commands)
    assert len(commands._plain) == len(commands._known) == 1
    assert "s3cret" not in repr([*commands._plain, *commands._known])


def test_remembered_shapes_are_bounded():
    commands = Commands()
    for number in range(MAX_KNOWN + 10):
        commands.read("find", {"find": "a", "filter": {f"f{number}x": 1}}, "db")
        commands.read("find", {"find": "a", "filter": {f"f{number}x": None}}, "db")
    before = len(commands._plain), len(commands._known)
    assert before == (10, 10), "they begin anew"
    names = [f"f{number}" for number in range(10_000)]
    for huge in ({"$or": [{name: 1} for name in names]}, dict.fromkeys(names, 1)):
        assert form({"find": "a", "filter": huge}, commands)
    assert (len(commands._plain), len(commands._known)) == before


def test_a_find_that_waits_for_more_is_not_taken_for_one_that_ends():
    """It goes on until its cursor is closed, so its time is not that of its batches."""
    commands = Commands()
    for condition in ({"x": 1}, {"x": None}):
        plain = {"find": "a", "filter": condition}
        for command, has_cursor in (({**plain, "tailable": True}, False), (plain, True)) * 2:
            assert commands.read("find", command, "db")[0].has_cursor is has_cursor


def test_views_and_expiring_collections_are_declared():
    def declared(command):
        return list(Commands().read(next(iter(command)), command, "db")[0].analysis.declares)

    [view] = declared({"create": "v", "viewOn": "a", "pipeline": [{"$lookup": {"from": "b"}}]})
    assert view[:3] == ("view", filed_as("db", "v"), {filed_as("db", "a"), filed_as("db", "b")})
    [view] = declared({"create": "v", "viewOn": "a", "pipeline": [{"$sample": {"size": 1}}]})
    assert view.others == {NEVER}
    for command in (
        {"create": "a", "capped": True},
        {"create": "a", "expireAfterSeconds": 5},
        {"createIndexes": "a", "indexes": [{"key": {"at": 1}, "expireAfterSeconds": 5}]},
        {"collMod": "a", "index": {"name": "x", "expireAfterSeconds": 5}},
    ):
        assert [each[:3] for each in declared(command)] == [("view", filed_as("db", "a"), {NEVER})]
    assert declared({"createIndexes": "a", "indexes": [{"key": {"at": 1}}]}) == []


def test_a_read_is_filed_so_that_a_write_to_all_drops_it():
    reads = Commands().read("find", {"find": "a", "filter": {}}, "db")[0].analysis.reads
    assert reads == {filed_as("db", "a"), whole_database("db"), EVERYTHING}


def test_what_tells_executions_apart():
    one = values_of({"filter": {"_id": 1}})
    assert one == values_of({"filter": {"_id": 1}})
    others = [{"_id": 2}, {"_id": "1"}, {"_id": {"$gt": 1}}, {"_id": SON(a=1)}, {"_id": None}]
    assert len({one, *(values_of({"filter": each}) for each in others)}) == 6
    assert values_of({"filter": {"_id": object()}}) is None
    assert values_of({"filter": {"_id": "x" * 100_000, "a": 1.5}}) is None


def part(session, number, **more):
    return transaction_in(
        {"lsid": {"id": Binary(session, 4)}, "txnNumber": number, "autocommit": False, **more}
    )


def test_transactions_end_with_what_they_wrote():
    assert transaction_in({"insert": "a", "txnNumber": 4}) is None, "a retryable write"
    open_ = WireTransactions()
    open_.note(part(b"s" * 16, 1, startTransaction=True), frozenset("a"))
    open_.note(part(b"s" * 16, 1), frozenset("b"))
    open_.note(part(b"t" * 16, 1, startTransaction=True), frozenset())
    assert open_.end(part(b"s" * 16, 1), keep=True) == {"a", "b"}
    assert open_.end(part(b"s" * 16, 1), keep=False) == {"a", "b"}
    assert open_.end(part(b"t" * 16, 1), keep=False) == frozenset()
    assert open_.end(part(b"t" * 16, 1), keep=False) == {EVERYTHING}
    open_.note(part(b"u" * 16, 7), frozenset("a"))
    assert open_.end(part(b"u" * 16, 7), keep=False) == {"a", EVERYTHING}, "its beginning was not seen"


def test_open_transactions_are_bounded():
    open_ = WireTransactions()
    for number in range(MAX_OPEN + 5):
        open_.note(part(str(number).encode(), 1, startTransaction=True), frozenset("a"))
    assert len(open_._open) == MAX_OPEN
    assert open_.end(part(b"0", 1), keep=False) == {EVERYTHING}
