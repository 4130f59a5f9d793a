"""OpenTelemetry spans of queries, by an exporter in memory."""

import sys
from datetime import timedelta

import aiosqlite
import pytest
from pymongo.monitoring import CommandFailedEvent, CommandStartedEvent

from bot.core._shared.errors import MisuseError
from bot.core.query_optimizer import QueryOptimizer
from bot.core.query_optimizer.execution import tracing
from bot.core.query_optimizer.instruments import instrument
from bot.core.query_optimizer.mongodb.shapes import analysis_of, reads_of
from bot.core.query_optimizer.sql.comments import untagged

trace = pytest.importorskip("opentelemetry.trace")

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def exporter():
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    provider = TracerProvider()
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)  # once for each process
    return exporter


@pytest.fixture
def spans(exporter):
    """The spans that have ended since this was called last."""
    exporter.clear()

    def since():
        found = exporter.get_finished_spans()
        exporter.clear()
        return found

    return since


@pytest.fixture
async def traced(spans):
    optimizer = QueryOptimizer()
    await optimizer.enable(dialect="postgres", tracing=True)
    yield optimizer
    await optimizer.disable()


async def rows(query, params):
    return [query]


async def test_a_query_is_a_span_with_the_attributes_of_the_conventions(traced, spans):
    await traced.execute("SELECT age FROM users WHERE nick = 's3cret' AND id = $1", (5,), rows)
    [span] = spans()
    assert span.name == "SELECT users"
    assert span.kind is trace.SpanKind.CLIENT
    assert dict(span.attributes) == {
        "db.system.name": "postgresql",
        "db.operation.name": "SELECT",
        "db.collection.name": "users",
        "db.query.summary": "SELECT users",
        "db.query.text": "SELECT age FROM users WHERE nick = ? AND id = ?",
        "phase4.cache": "miss",
    }


async def test_hits_and_misses_are_told_apart_and_writes_are_neither(traced, spans):
    for _ in range(2):
        assert await traced.execute("SELECT 1 FROM users", None, rows) == ["SELECT 1 FROM users"]
    await traced.execute("UPDATE users SET a = 1", None, rows)
    await traced.execute("SELECT now()", None, rows)
    assert [span.attributes.get("phase4.cache") for span in spans()] == ["miss", "hit", None, None]


async def test_spans_are_children_of_the_current_one_and_current_for_the_executor(traced, spans):
    tracer = trace.get_tracer("test")

    async def inner(query, params):
        with tracer.start_as_current_span("inner"):
            return []

    with tracer.start_as_current_span("handler"):
        await traced.execute("SELECT 1 FROM users", None, inner)
    inside, query, handler = spans()
    assert query.parent.span_id == handler.context.span_id
    assert inside.parent.span_id == query.context.span_id


async def test_an_error_is_marked_and_its_text_is_not_in_the_span(traced, spans):
    class BrokenError(Exception):
        sqlstate = "23505"

    async def fail(query, params):
        raise BrokenError("Key (email)=(s3cret) already exists")

    with pytest.raises(BrokenError):
        await traced.execute("UPDATE users SET a = 1", None, fail)
    [span] = spans()
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.attributes["error.type"].endswith("BrokenError")
    assert span.attributes["db.response.status_code"] == "23505"
    assert "s3cret" not in span.to_json()


async def test_a_tag_is_the_parent_only_without_a_current_span(traced, spans):
    query = f"SELECT 1 FROM users /*traceparent='{TRACEPARENT}'*/"
    await traced.execute(query, None, rows)
    [span] = spans()
    assert trace.format_trace_id(span.parent.trace_id) == TRACEPARENT[3:35]
    assert trace.format_span_id(span.parent.span_id) == TRACEPARENT[36:52]
    with trace.get_tracer("test").start_as_current_span("handler"):
        await traced.execute(query, None, rows)
    query_span, handler = spans()
    assert query_span.parent.span_id == handler.context.span_id


async def test_tags_are_never_part_of_a_key_or_a_fingerprint(traced, spans):
    ran = []

    async def count(query, params):
        ran.append(query)
        return []

    for number in range(3):
        parent = TRACEPARENT.replace("b7ad", f"b7a{number}")
        for query in (
            f"SELECT 1 FROM users /*traceparent='{parent}',route='%2Fstart'*/",
            f"/*traceparent='{parent}'*/ SELECT 1 FROM users",
        ):
            assert untagged(query) == "SELECT 1 FROM users"
            await traced.execute(query, None, count)
    assert len(ran) == 1
    assert len({span.attributes["db.query.text"] for span in spans()}) == 1
    found = [await traced.analyze_query(f"SELECT 1 FROM users /*tag='{n}'*/") for n in range(2)]
    assert found[0].fingerprint == found[1].fingerprint


@pytest.mark.parametrize(
    ("text", "parent"),
    [
        (f"SELECT 1 /*traceparent='{TRACEPARENT}'*/", TRACEPARENT),
        (f"/*a='b',traceparent='{TRACEPARENT}'*/ SELECT 1", TRACEPARENT),
        (f"SELECT 'traceparent=''{TRACEPARENT}'''", ""),
        ("SELECT 1 /*traceparent='00-zz'*/", ""),
        (f"SELECT traceparent = '{TRACEPARENT}' FROM t", ""),
        (f"SELECT '/*traceparent=', '{TRACEPARENT}'", ""),
    ],
)
def test_a_parent_is_read_from_tags_alone(text, parent):
    assert tracing.parent_in(text) == parent


async def test_watched_queries_are_spans_and_those_of_an_execution_are_not_twice(traced, spans):
    await traced.enable(dialect="sqlite")
    async with aiosqlite.connect(":memory:") as connection:
        instrument(connection, optimizer=traced)
        await connection.execute_fetchall("CREATE TABLE users (id INTEGER)")
        with trace.get_tracer("test").start_as_current_span("handler"):
            await connection.execute_fetchall("SELECT id FROM users WHERE id = 7")
            with pytest.raises(aiosqlite.OperationalError):
                await connection.execute_fetchall("SELECT nothing FROM users")

            async def run(query, params):
                return await connection.execute_fetchall(query)

            await traced.execute("SELECT id FROM users", None, run)
    _, read, failed, executed, handler = spans()
    assert [span.parent.span_id for span in (read, failed, executed)] == [handler.context.span_id] * 3
    assert read.attributes["db.query.text"] == "SELECT id FROM users WHERE id = ?"
    assert read.attributes["db.system.name"] == "sqlite"
    assert read.end_time > read.start_time
    assert failed.status.status_code is trace.StatusCode.ERROR
    assert executed.attributes["phase4.cache"] == "miss"


async def test_collections_of_mongodb_have_spans(traced, spans, mongodb_url):
    import pymongo

    async with pymongo.AsyncMongoClient(mongodb_url) as client:
        plain = client["traced"]["users"]
        instrument(client, optimizer=traced)
        await plain.delete_many({})
        await plain.insert_one({"_id": 1})
        with pytest.raises(pymongo.errors.DuplicateKeyError):
            await plain.insert_one({"_id": 1})
        users = traced.collection(plain)
        for _ in range(2):
            await users.find_one({"_id": 1})
    found = spans()
    assert "s3cret" not in "".join(span.to_json() for span in found)
    said = [(span.name, span.attributes.get("phase4.cache")) for span in found]
    assert said == [
        ("delete_many users", None),
        ("insert_one users", None),
        ("insert_one users", None),
        ("find_one users", "miss"),
        ("find_one users", "hit"),
    ]
    assert found[-1].attributes["db.namespace"] == "traced"
    assert found[-1].attributes["db.system.name"] == "mongodb"


async def test_a_command_that_failed_has_its_code_and_no_text(traced, spans):
    listener = traced.mongodb_listener()
    where = (1, ("h", 1), 1)
    command = {"find": "users", "filter": {"a": "s3cret"}}
    failure = {"ok": 0, "code": 2, "codeName": "BadValue", "errmsg": "unknown operator: s3cret"}
    for _ in range(2):
        listener.started(CommandStartedEvent(command, "db", *where))
        listener.failed(CommandFailedEvent(timedelta(seconds=2), failure, "find", *where))
        failure = {"errmsg": "s3cret", "errtype": "AutoReconnect"}
    refused, lost = spans()
    assert refused.name == "find users"
    assert refused.attributes["error.type"] == "BadValue"
    assert refused.attributes["db.response.status_code"] == "2"
    assert lost.attributes["error.type"] == "AutoReconnect"
    assert refused.status.status_code is lost.status.status_code is trace.StatusCode.ERROR
    assert refused.end_time - refused.start_time == 2 * 10**9
    assert "s3cret" not in refused.to_json() + lost.to_json()


def test_names_of_collections_with_dots():
    analysis = analysis_of("find", "db", "fs.files", {}, reads=reads_of("db", "fs.files"))
    found = tracing.attributes_of(analysis, "")
    assert (found["db.collection.name"], found["db.namespace"]) == ("fs.files", "db")
    assert found["db.query.summary"] == "find fs.files"


async def test_switched_off_nothing_is_made(traced, spans):
    await traced.enable(tracing=False)
    assert "execute" not in traced.__dict__
    await traced.execute("SELECT 1 FROM users", None, rows)
    assert spans() == ()
    await traced.enable(tracing=True)
    await traced.disable()
    await traced.execute("SELECT 1 FROM users", None, rows)
    assert spans() == ()


async def test_without_the_package_the_setting_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    optimizer = QueryOptimizer()
    with pytest.raises(MisuseError, match="QUERY_OPTIMIZER_TRACING"):
        await optimizer.enable(tracing=True)
    assert not optimizer.enabled
    await optimizer.enable(tracing=False)
    await optimizer.disable()
