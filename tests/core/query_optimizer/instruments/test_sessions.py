"""Which statements make the same text mean something else on one connection."""

import pytest

from bot.core.query_optimizer.analyses import analysis_of
from bot.core.query_optimizer.instruments.sessions import alters, is_control, without_name
from bot.core.query_optimizer.sql.functions import NOTHING


@pytest.mark.parametrize(
    "text",
    [
        "SET search_path = shop",
        "SET LOCAL role = 'ann'",
        "RESET ALL",
        "DISCARD ALL",
        "SELECT set_config('app.tenant', '7', false)",
        "SELECT login(7)",
        "INSERT INTO t VALUES (login(7))",
        "CREATE TEMP TABLE users (id int)",
        "CREATE TEMPORARY TABLE users (id int)",
        "SELECT 1 AS id INTO TEMP users",
        "USE other",
        "ATTACH 'other.db' AS other",
        "PRAGMA case_sensitive_like = ON",
        "SELECT 1; SET ROLE ann",
        "EXECUTE prepared",
        "COMMIT; SET ROLE ann",
        "CREATE TABLE a (id int); CREATE TEMP TABLE b (id int)",
        "CREATE TABLE a (id int); PRAGMA case_sensitive_like = ON",
        "this is no SQL",
    ],
)
def test_it_alters_the_session(text: str) -> None:
    assert alters(analysis_of(text, "postgres", NOTHING), text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT id FROM users",
        "INSERT INTO users VALUES (1, 'temp')",
        "UPDATE users SET name = 'temporary'",
        "CREATE TABLE users (id int)",
        "DROP TABLE users",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;",
        "SAVEPOINT __asyncpg_savepoint_4__;",
        "ROLLBACK TO __asyncpg_savepoint_4__;",
        "COMMIT",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "EXPLAIN SELECT 1",
        "PRAGMA journal_mode = WAL",
        "PRAGMA table_info(users)",
        "LISTEN jobs",
        "VACUUM",
        "CREATE TABLE a (id int); CREATE INDEX i ON a (id); INSERT INTO a VALUES (1);",
        "PRAGMA journal_mode = WAL; CREATE TABLE a (id int);",
    ],
)
def test_it_leaves_the_session_as_it_was(text: str) -> None:
    assert not alters(analysis_of(text, "postgres", NOTHING), text)


def test_a_second_statement_is_no_control_of_transactions() -> None:
    assert is_control(" begin isolation level read committed, read only ; ")
    assert not is_control("BEGIN; DELETE FROM users")
    assert not is_control("COMMIT PREPARED 'x'")
    assert not is_control("beginning")


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("SAVEPOINT __asyncpg_savepoint_4__;", "SAVEPOINT s"),
        ("RELEASE SAVEPOINT sa_savepoint_1", "RELEASE SAVEPOINT s"),
        ("ROLLBACK TO SAVEPOINT sa_savepoint_1", "ROLLBACK TO SAVEPOINT s"),
        ("ROLLBACK TO __asyncpg_savepoint_4__;", "ROLLBACK TO s"),
        ("SAVEPOINT a; DELETE FROM users", "SAVEPOINT a; DELETE FROM users"),
        ("SELECT 1", "SELECT 1"),
    ],
)
def test_savepoints_have_one_text(text: str, same: str) -> None:
    assert without_name(text) == same
