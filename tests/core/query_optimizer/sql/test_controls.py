"""Statements that only begin, end or mark a transaction change no result."""

import pytest

from bot.core.query_optimizer.sql.analyzer import analyze


@pytest.mark.parametrize("dialect", ["postgres", "mysql", "sqlite", ""])
@pytest.mark.parametrize(
    ("text", "transaction"),
    [
        ("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;", "begin"),
        ("BEGIN READ WRITE, DEFERRABLE", "begin"),
        ("START TRANSACTION READ ONLY", "begin"),
        ("START TRANSACTION READ ONLY;", "begin"),
        ("START TRANSACTION WITH CONSISTENT SNAPSHOT;", "begin"),
        ("SAVEPOINT x;", "savepoint"),
        ('SAVEPOINT "Mein Punkt";', "savepoint"),
        ("/* before */ SAVEPOINT x; -- after", "savepoint"),
        ("RELEASE SAVEPOINT x;", "release"),
        ("RELEASE x", "release"),
        ("ROLLBACK TO SAVEPOINT x;", "back"),
        ("COMMIT AND CHAIN;", "chain"),
        ("BEGIN; SAVEPOINT x;", "begin"),
        ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", ""),
        ("SET TRANSACTION SNAPSHOT '00000003-1'", ""),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", ""),
        ("SET CONSTRAINTS ALL DEFERRED", ""),
    ],
)
def test_it_writes_nothing(text, transaction, dialect):
    found = analyze(text, dialect)
    assert (found.writes_anything, found.writes, found.declares) == (False, frozenset(), ())
    assert found.transaction == transaction


@pytest.mark.parametrize(
    "text",
    [
        "SAVEPOINT x; DROP TABLE t",
        "SAVEPOINT x; SAVEPOINT y; CALL f()",
        "SET TRANSACTION READ ONLY; CALL f()",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY; SET search_path = other",
        "BEGIN NOT ATOMIC UPDATE t SET v = 1; END",
    ],
)
def test_what_follows_it_counts(text):
    assert analyze(text, "postgres").writes_anything


def test_what_a_text_that_no_parser_reads_defines_later_is_a_doubt():
    found = analyze("SAVEPOINT x; CREATE VIEW v AS SELECT * FROM t", "postgres")
    assert [each.kind for each in found.declares] == ["doubt"]
    assert analyze("SAVEPOINT x; INSERT INTO t VALUES ('; create view')", "postgres").declares == ()
