"""GraphQL: what operations mean, what is cached, and what is refused."""

import asyncio
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core.query_optimizer import QueryOptimizer, QueryTooComplexError, QueryType, optimize_query
from bot.core.query_optimizer.graphql.limits import complexity_with
from bot.core.query_optimizer.graphql.nodes import MAX_COMPLEXITY
from bot.core.query_optimizer.graphql.operations import MAX_NESTING, operations
from bot.core.query_optimizer.graphql.texts import is_graphql
from tests.docs.guide import blocks, run
from tests.support.searching import searching


@pytest.fixture
async def optimizer():
    optimizer = QueryOptimizer.get_instance()
    await optimizer.enable()
    yield optimizer
    optimizer._invalidation.cache.check_invariants()
    await optimizer.disable()


def read(text):
    return operations(text)[None]


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("{ a }", True), ("query { a }", True), ("query A($x: Int) { a }", True), ("mutation{a}", True),
        ("subscription S { a }", True), ("fragment F on X { a } { ...F }", True), ("# note\n\n{ a }", True),
        ("\ufeff , { a }", True), ("query @d { a }", True), ("SELECT 1", False), ("query", False),
        ('{"a": 1}', False), ("", False), ("WITH a AS (SELECT 1) SELECT 1", False), ("# c\nSELECT 1", False),
    ],
)  # fmt: skip
def test_what_is_taken_for_graphql(text, is_one):
    assert is_graphql(text) is is_one


@pytest.mark.parametrize(
    ("text", "kind", "depth", "complexity"),
    [
        ("{ a }", "query", 1, 1),
        ("{ a { b { c } } d }", "query", 3, 4),
        ("{ a(first: 10) { b } }", "query", 2, 11),
        ("{ a(first: 10) { b(last: 5) { c } } }", "query", 3, 1 + 10 * (1 + 5)),
        ("{ a(limit: 3) { ...F } } fragment F on X { b c { d } }", "query", 3, 1 + 3 * 3),
        ("{ ... on X { a { b } } ... @include(if: true) { c } }", "query", 2, 3),
        ("query A($n: Int = 7) { a(first: $n) { b } }", "query", 2, 8),
        ("query A($n: Int) { a(first: $n) { b } }", "query", 2, 2),
        ("mutation { a(x: 1) { b } }", "mutation", 2, 2),
        ("subscription { a }", "subscription", 1, 1),
        ("{ x: a y: a z: a }", "query", 1, 3),
        ("{ __schema { types { name } } }", "query", 3, 3),
    ],
)
def test_operations_are_measured(text, kind, depth, complexity):
    found = read(text)
    assert (found.kind, found.depth, found.complexity) == (kind, depth, complexity)
    assert not found.problem


def test_page_sizes_from_variables():
    text = "query A($n: Int = 7) { a(first: $n) { b } }"
    assert complexity_with(text, "A", {"n": 100}) == 101
    assert complexity_with(text, None, {}) == 8


def test_fragments_that_multiply_are_counted_without_being_followed():
    spreads = "".join(f"fragment f{n} on Q {{ ...f{n + 1} ...f{n + 1} }}" for n in range(500))
    found = read("{ ...f0 }" + spreads + "fragment f500 on Q { a }")
    assert found.complexity == MAX_COMPLEXITY
    assert found.depth == 1


@pytest.mark.parametrize(
    ("text", "circle"),
    [
        ("{ ...A } fragment A on Q { ...A }", "A -> A"),
        ("{ ...A } fragment A on Q { b { ...B } } fragment B on Q { ...A }", "A -> B -> A"),
    ],
)
def test_a_circle_of_fragments_has_no_end(text, circle):
    found = read(text)
    assert circle in found.problem
    assert found.too_large


@pytest.mark.parametrize(
    "other",
    [
        "query Named { user(id: 1, name: \"x\") { id } }",
        "{user(name:\"x\",id:1){id}}",
        "# who?\nquery{ user(id: 1 name: \"\"\"x\"\"\") {,,id,,} }",
    ],
)  # fmt: skip
def test_one_meaning_has_one_normal_form(other):
    assert read(other).normal_form == read('{ user(id: 1, name: "x") { id } }').normal_form


@pytest.mark.parametrize(
    "other",
    ['{ user(id: 2, name: "x") { id } }', '{ user(id: 1, name: "y") { id } }', '{ user(id: 1) { id } }',
     '{ u: user(id: 1, name: "x") { id } }', '{ user(id: 1, name: "x") { id name } }',
     'mutation { user(id: 1, name: "x") { id } }', '{ user(id: 1, name: "x") @skip(if: true) { id } }',
     '{ user(id: "1", name: "x") { id } }', '{ user(id: 1, name: x) { id } }'],
)  # fmt: skip
def test_other_meanings_have_others(other):
    assert read(other).normal_form != read('{ user(id: 1, name: "x") { id } }').normal_form


def test_many_operations_that_share_a_fragment_are_refused_and_not_read_one_by_one():
    fields = " ".join(f"f{i}" for i in range(500))
    text = " ".join(f"query Q{i} {{ ...F }}" for i in range(100)) + f" fragment F on T {{ {fields} }}"
    reading = read(text)
    assert reading.too_large
    assert reading.problem.startswith("it holds 100 operations in ")


def test_fingerprints_leave_values_out():
    one, other = read('{ u(id: 1, in: [1, 2], n: "x") { id } }'), read('{ u(id: 2, in: [3], n: "y") { id } }')
    assert one.fingerprint == other.fingerprint
    assert one.shape == "{ u(id: ?, in: [?], n: ?) { id } }"


CASES = [
    ("G001", "{ a", "{ a }"),
    ("G002", "{ ...A } fragment A on Q { ...A }", "{ ...A } fragment A on Q { a }"),
    ("G003", "{ ...A }", "{ ...A } fragment A on Q { a }"),
    ("G004", "{ a } fragment A on Q { a }", "{ ...A } fragment A on Q { a }"),
    ("G005", "{ a(x: $y) }", "query ($y: Int) { a(x: $y) }"),
    ("G006", "query A { a } query B { b }", "query A { a }"),
    ("G007", "query ($y: Int) { a }", "query ($y: Int) { a @skip(if: $y) }"),
    ("G008", '{ a(id: "5") { b } }', "query ($i: ID) { a(id: $i, kind: NEW, first: 5) { b } }"),
    ("G009", "{ users { edges { node { id } } } }", "{ users(first: 5) { edges { node { id } } } }"),
    ("G010", "{ users(first: 5000) { nodes { id } } }", "{ users(first: 1000) { nodes { id } } }"),
    ("G011", "{" + " ".join(f"a{n}: u(id: {n})" for n in range(10)) + "}", "{ a: u(id: 1) b: u(id: 2) }"),
    ("G012", "{ __schema { types { name } } }", "{ __typename a }"),
    ("G013", "{ a { id id } }", "{ a { id b: id } c { id } }"),
]


@pytest.mark.parametrize(("code", "bad", "good"), CASES, ids=[case[0] for case in CASES])
def test_findings(code, bad, good):
    assert code in [finding.code for finding in read(bad).findings]
    assert code not in [finding.code for finding in read(good).findings]


async def test_limits_are_findings_of_an_analysis_and_errors_of_an_execution(optimizer):
    await optimizer.enable(graphql_max_depth=3, graphql_max_complexity=20)
    executed = []

    async def execute(query, params):
        executed.append(query)
        return {}

    for text, params, code in [
        ("{ a { b { c { d } } } }", None, "G014"),
        ("{ a(first: 50) { b } }", None, "G015"),
        ("query ($n: Int) { a(first: $n) { b } }", {"n": 50}, "G015"),
        ("query ($n: Int) { a(first: $n) { b } }", {"variables": {"n": 50}}, "G015"),
    ]:
        found = await optimizer.analyze_query(text, params)
        assert code in [finding.code for finding in found.findings]
        with pytest.raises(QueryTooComplexError, match="allowed are"):
            await optimizer.execute(text, params, execute)
    for text in ("{a" * (MAX_NESTING + 1) + "}" * (MAX_NESTING + 1), "{ ...A } fragment A on Q { ...A }",
                 "{" + "a " * 100_001 + "}", "{" + "a b " * 8_000 + "}"):  # fmt: skip
        with pytest.raises(QueryTooComplexError, match="refused"):
            await optimizer.execute(text, None, execute)
    assert executed == []
    await optimizer.execute("query ($n: Int) { a(first: $n) { b } }", {"n": 5}, execute)
    found = await optimizer.analyze_query("query ($n: Int) { a(first: $n) { b } }", {"n": 5})
    assert (found.depth, found.complexity, found.query_type) == (2, 6, QueryType.QUERY)
    assert found.tables == ["a"]
    assert found.cache_suggestion == "cacheable for 300 s, until a mutation"
    for bad in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="graphql_max_depth = "):
            await optimizer.enable(graphql_max_depth=bad)


async def test_the_guides_block_caches_by_itself(optimizer):
    executed = []

    async def graphql_execute(query):
        executed.append(query)
        return {"data": {"n": len(executed)}}

    guide = await run(blocks("For GraphQL Queries")[0], {"graphql_execute": graphql_execute})
    execute = guide["execute_graphql"]
    assert await execute("{ user(id: 1) { name } }") == await execute("query {user(id:1){name}}")
    assert len(executed) == 1, "one normal form, one execution"
    assert await execute("{ user(id: 2) { name } }") == {"data": {"n": 2}}
    for _ in range(2):
        await execute("mutation { rename(id: 1) { id } }")
        await execute("subscription { renamed { id } }")
    assert len(executed) == 6, "never cached"
    await execute("{ user(id: 1) { name } }")
    assert len(executed) == 7, "a mutation drops what it may have changed"


async def test_variables_and_the_operation_are_part_of_the_key(optimizer):
    executed = []

    @optimize_query
    async def execute(query, variables=None, operation_name=None):
        executed.append((variables, operation_name))
        return {"data": len(executed)}

    text = "query A($i: Int) { a(id: $i) { n } } query B { b { n } } mutation C { c }"
    for _ in range(2):
        await execute(text, {"i": 1}, "A")
        await execute(text, {"i": 2}, "A")
        await execute(text, None, "B")
    assert len(executed) == 3
    await execute(text)
    await execute(text)
    assert len(executed) == 5, "which of several is not told: executed, and not cached"
    await execute(text, None, "C")
    await execute(text, {"i": 1}, "A")
    assert len(executed) == 7
    analysis = await optimizer.analyze_query(text, {"operation_name": "A", "variables": {"i": 1}})
    assert analysis.query_type is QueryType.QUERY
    assert (await optimizer.analyze_query(text)).query_type is QueryType.MUTATION


async def test_the_manual_flow_knows_the_normal_form_too(optimizer):
    assert await optimizer.get_cached_result("{ a { b } }") is None
    await optimizer.cache_query_result("{a{b}}", {"data": 1})
    assert await optimizer.get_cached_result("query { a, { b } }") == {"data": 1}
    assert await optimizer.cache_query_result("mutation { a }", {}) is False


async def test_sql_writes_leave_graphql_alone_and_mutations_leave_sql_alone(optimizer):
    async def execute(query, params):
        return ["row"]

    await optimizer.execute("SELECT * FROM users", None, execute)
    await optimizer.execute("{ users { id } }", None, execute)
    await optimizer.execute("DELETE FROM users", None, execute)
    assert await optimizer.get_cached_result("{ users { id } }") == ["row"]
    await optimizer.execute("SELECT * FROM users", None, execute)
    await optimizer.execute("mutation { a }", None, execute)
    assert await optimizer.get_cached_result("SELECT * FROM users") == ["row"]
    assert await optimizer.get_cached_result("{ users { id } }") is None


async def test_a_real_schema(optimizer):
    from graphql import GraphQLArgument as Argument
    from graphql import GraphQLField as Field
    from graphql import (
        GraphQLInt,
        GraphQLObjectType,
        GraphQLSchema,
        GraphQLString,
        get_introspection_query,
        graphql,
    )

    names = {1: "ann", 2: "bea"}

    def rename(_root, _info, id, name):
        names[id] = name
        return name

    user = Field(GraphQLString, {"id": Argument(GraphQLInt)}, lambda _root, _info, id: names[id])
    changed = Field(GraphQLString, {"id": Argument(GraphQLInt), "name": Argument(GraphQLString)}, rename)
    schema = GraphQLSchema(
        GraphQLObjectType("Query", {"user": user}), GraphQLObjectType("Mutation", {"rename": changed})
    )
    ran = []

    @optimize_query
    async def execute(query_str, variables=None):
        ran.append(query_str)
        return (await graphql(schema, query_str, variable_values=variables)).data

    ask = "query ($id: Int) { user(id: $id) }"
    assert [await execute(ask, {"id": 1}) for _ in range(3)] == [{"user": "ann"}] * 3
    await execute('mutation { rename(id: 1, name: "eve") }')
    assert await execute(ask, {"id": 1}) == {"user": "eve"}
    assert len(ran) == 3
    assert "__schema" in await execute(get_introspection_query()), "within the default limits"


async def test_without_graphql_core_it_is_executed_and_not_cached(optimizer, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "graphql", None)
    executed = []

    async def execute(query, params):
        executed.append(query)
        return {}

    for _ in range(2):
        await optimizer.execute("{ a }", None, execute)
        await optimizer.execute("{ b }", None, execute)
    assert len(executed) == 4
    assert caplog.text.count("pip install graphql-core") == 1
    assert "graphql-core is not installed" in (await optimizer.analyze_query("{ a }")).cache_suggestion


@pytest.mark.server
def test_graphql_core_is_imported_for_graphql_only():
    code = (
        "import asyncio, sys\n"
        "from bot.core.query_optimizer import QueryOptimizer\n"
        "o = QueryOptimizer()\n"
        "async def main():\n"
        "    await o.enable(); await o.analyze_query('SELECT 1')\n"
        "asyncio.run(main())\n"
        "assert 'graphql' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


BIG = [
    "{ a { " * 170_000, '{ a(x: "' + "x" * 1_000_000, '"""' * 330_000, "# \n" * 330_000,
    "{" + "a " * 500_000, "query " * 160_000, "{ a(x: " + "[" * 900_000, "{ a" + " @x" * 300_000,
    "{...a" * 200_000, "{\ufeff" * 400_000, "{ a(x: " + '"' * 199_000, "{" + "a:" * 90_000,
    "{ ...on A " * 100, "#" * 1_000_000,
]  # fmt: skip


@pytest.mark.parametrize("text", BIG, ids=lambda text: repr(text[:12]))
def test_a_megabyte_gets_an_answer(text):
    if is_graphql(text):
        assert read(text).problem


words = (
    """{ } ( ) [ ] : ! $ ... @ = | & " \"\"\" # , a query mutation fragment on F first 1 -1 1e9 null é 💥"""
)
pieces = st.sampled_from([*words.split(), "\\", "\n", " ", "\x00", "\ufeff", "9" * 30])
starts = st.sampled_from(["", "{", "query Q ", "{ a ", "fragment F on X "])


@searching(400)
@given(st.lists(pieces, max_size=60).map("".join), starts)
def test_any_text_gets_an_answer(text, start):
    for reading in operations(start + text).values():
        assert len(reading.fingerprint) == 16
        assert reading.depth >= 0
        assert reading.kind in ("", "query", "mutation", "subscription")


selections = st.recursive(
    st.sampled_from(["a", "b", "x: a", "a(n: 1)", "...F"]),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda parts: "a { " + " ".join(parts) + " }"),
    max_leaves=12,
)


@searching(100)
@given(st.lists(selections, min_size=1, max_size=4).map(" ".join))
def test_the_normal_form_reads_as_itself(body):
    text = "query Q { " + body + " } fragment F on X { c }"
    found = read(text)
    again = read(found.normal_form)
    assert again.normal_form == found.normal_form
    assert (again.depth, again.complexity) == (found.depth, found.complexity)


async def test_n_plus_one_of_graphql(optimizer):
    async def execute(query, params):
        return {}

    for number in range(10):
        await optimizer.execute("query ($i: Int) { user(id: $i) { name } }", {"i": number}, execute)
    [pattern] = await optimizer.get_n_plus_one_patterns()
    assert "list" in pattern.suggestion
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("text", "variables", "complexity"),
    [
        ("{ users(first: 100) { name } }", {}, 101),
        ('{ users(first: "100") { name } }', {}, 101),
        ("{ users(first: 100.0) { name } }", {}, 101),
        ("{ users(page: {first: 100}) { name } }", {}, 101),
        ('{ users(page: [{at: {limit: "1e2"}}]) { name } }', {}, 101),
        ("query ($n: Int) { users(first: $n) { name } }", {"n": "100"}, 101),
        ("query ($n: Float) { users(first: $n) { name } }", {"n": 100.5}, 101),
        ("query ($n: Int) { users(page: {first: $n}) { name } }", {"n": 100}, 101),
        ("query ($p: Page!) { users(page: $p) { name } }", {"p": {"first": 100}}, 101),
        ("query ($p: [Page!]) { users(page: $p) { name } }", {"p": [{"at": {"limit": "100"}}]}, 101),
        ("query ($p: Page = {first: 100}) { users(page: $p) { name } }", {"x": 1}, 101),
        ('query ($n: Int = "100") { users(first: $n) { name } }', {"x": 1}, 101),
        # No sizes.
        ("query ($s: String) { users(name: $s) { name } }", {"s": {"first": 100}}, 2),
        ("query ($n: Int) { users(first: $n) { name } }", {"n": True}, 2),
        ("query ($n: Float) { users(first: $n) { name } }", {"n": float("nan")}, 2),
        ("query ($n: Int) { users(first: $n) { name } }", {"n": "many"}, 2),
        ("query ($n: Int) { users(first: $n) { name } }", {"n": -5}, 2),
        ("query ($p: Page) { users(page: $p) { name } }", {"p": {"name": 100}}, 2),
    ],
)
def test_a_page_size_is_found_however_it_is_given(text, variables, complexity):
    assert complexity_with(text, None, variables) == complexity
    reading = read(text)
    assert reading.sized_by_variables or reading.complexity == complexity


def test_an_endless_size_is_the_largest():
    text = "query ($n: Float) { users(first: $n) { name } }"
    assert complexity_with(text, None, {"n": float("inf")}) == MAX_COMPLEXITY
    text = "query ($p: Page) { users(page: $p) { name } }"
    circle = {}
    circle["page"] = [circle, circle]
    assert complexity_with(text, None, {"p": circle}) == MAX_COMPLEXITY


@pytest.mark.parametrize("size", ["5000", '"5000"', "5e3", "5000.5"])
def test_a_large_page_in_an_object_is_found(size):
    text = f"{{ users(page: {{first: {size}}}) {{ edges {{ id }} }} }}"
    assert [finding.code for finding in read(text).findings] == ["G010"]
