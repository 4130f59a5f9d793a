"""Tracers' comments are no part of a query; hints, and what MySQL executes, are."""

import sqlite3

import pytest

from bot.core.query_optimizer.service import QueryOptimizer
from bot.core.query_optimizer.sql.comments import untagged


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1 /*traceparent='00-4bf9-01',tracestate='a%3D1'*/", "SELECT 1 /* app:bot */;",
        "SELECT 1 -- tag 7",
        "/* app:bot */ SELECT 1", "-- tag\n-- more\nSELECT 1", "/* a */ SELECT 1 /* b */ /* c */ -- d",
        "  /*a*/SELECT 1/**/\n", "SELECT 1 -- a /* b",
    ],
)  # fmt: skip
def test_a_comment_at_an_end_is_left_off(query):
    assert untagged(query) == "SELECT 1"


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1", "SELECT 5--3", "SELECT /* a */ 1",
        # Hints and what runs.
        "SELECT 1 /*+ x */", "/*+ SeqScan(t) */ SELECT 1", "/*!50000 DELETE FROM t */ SELECT 1",
        "SELECT 1 /*!+ 1 */", "SELECT 1 /*M! + 1 */", "/*m!100100 a */ SELECT 1",
        # Words that send a query elsewhere.
        "/* maxscale route to master */ SELECT 1", "SELECT 1 /*NO LOAD BALANCE*/", "/*+ vt+ x */ SELECT 1",
        # Strings and names that look like it, by the quotes of any dialect.
        "SELECT '/* a */'", "SELECT 'a -- b'", "SELECT 'a\n-- b'", 'SELECT "a -- b"', "SELECT `a /* b */`",
        "SELECT [a -- b] FROM t", "SELECT $$ -- a $$", "SELECT 'it''s -- a''b'", r"SELECT 'a\' -- b'",
        "SELECT 'a /* b' /* ' */", "SELECT 1 /* it's */",
        # What ends elsewhere in another dialect.
        "SELECT 1 /* a /* b */ */", "/* a /* b */ */ SELECT 1", "SELECT 1 /* a\n-- b */ + 1", "SELECT 1/*/",
        "/* only a comment */", "/* not closed SELECT 1", "-- a\rDELETE FROM t",
    ],
)  # fmt: skip
def test_what_may_be_more_than_a_comment_stays(query):
    assert untagged(query) is query


PIECES = ["SELECT ", "'", '"', "`", "[a", "]", "1", "/*", "*/", "-- ", "\n", "a", " ", "''", ";", "x'y"]


def test_texts_that_come_to_one_are_one_to_a_database():
    """All texts of four pieces before a tag, on SQLite: those under one key have one answer."""
    database = sqlite3.connect(":memory:")
    answers = {}
    tagged = 0
    for number in range(len(PIECES) ** 4):
        body = "SELECT 1 "
        for _ in range(4):
            number, piece = divmod(number, len(PIECES))
            body += PIECES[piece]
        for text in (body, body + "/*a='b'*/", body + "-- c"):
            try:
                answer = database.execute(text).fetchall()
            except (sqlite3.Error, sqlite3.Warning):
                continue
            key = untagged(text)
            tagged += key is not text
            assert answers.setdefault(key, answer) == answer, text
    assert tagged > 10_000


async def test_tags_cost_neither_hits_nor_analyses():
    optimizer = QueryOptimizer()
    await optimizer.enable(dialect="postgres")
    asked = []

    async def database(query, params):
        asked.append(query)
        return [(1,)]

    texts = [f"SELECT a FROM t WHERE id = $1 /*traceparent='00-{number}'*/" for number in range(5)]
    for text in texts:
        assert await optimizer.execute(text, (1,), database) == [(1,)]
    assert asked == texts[:1]  # the database gets the tag
    assert await optimizer.get_cached_result(texts[3], (1,)) == [(1,)]
    assert len(optimizer._analyses._analyses) == 1
    advice = [await optimizer.analyze_query(text) for text in texts]
    assert [found.query for found in advice] == texts
    assert [found.optimized_query for found in advice] == texts
    assert len(optimizer._analyses._advices) == 1
    await optimizer.execute("UPDATE t SET a = 1 -- tag", None, database)
    assert await optimizer.get_cached_result(texts[0], (1,)) is None


@pytest.mark.parametrize(
    ("comment", "is_taken_off"),
    [
        ("/*route='%2Fusers%2Fprimary',traceparent='00-1'*/", True),
        ("/* controller='a', action='b', framework='django', route='x' */", True),
        ("/*route='x',shard='1'*/", False),
        ("/*route=replica*/", False),
        ("/* maxscale route to master */", False),
        ("/*route='x' to master*/", False),
    ],
)
def test_tags_of_sqlcommenter_are_no_words_to_a_proxy(comment, is_taken_off):
    for text in (f"SELECT 1 {comment}", f"{comment} SELECT 1"):
        assert untagged(text) == ("SELECT 1" if is_taken_off else text)
