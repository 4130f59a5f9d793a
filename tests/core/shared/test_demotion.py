"""Which errors mean that another server must be found."""

import pytest

from bot.core._shared.demotion import (
    mongodb_needs_another_server,
    mysql_needs_another_server,
    postgresql_needs_another_server,
    redis_needs_another_server,
)


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("READONLY You can't write against a read only replica.", True),
        ("READONLY You can't write against a read only replica. script: 9d5, on @user_script:1.", True),
        (
            "ERR Error running script (call to f_9d5): @user_script:1: @user_script: 1: "
            "-READONLY You can't write against a read only replica. ",
            True,
        ),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", True),
        ("UNBLOCKED force unblock from blocking operation, instance state changed", True),
        ("OOM command not allowed when used memory > 'maxmemory'.", False),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
        ("ERR unknown command 'GET', with args beginning with: 'READONLY'", False),
        ("", False),
    ],
)
def test_redis(text, needs):
    assert redis_needs_another_server(text) is needs


@pytest.mark.parametrize(
    ("state", "needs"), [("25006", True), ("57P01", True), ("40001", False), ("", False)]
)
def test_postgresql(state, needs):
    assert postgresql_needs_another_server(state) is needs


@pytest.mark.parametrize(
    ("number", "text", "needs"),
    [
        (1290, "The MySQL server is running with the --read-only option so it cannot execute", True),
        (1290, "The MariaDB server is running with the --super-read-only option so it", True),
        (1290, "The MySQL server is running with the --secure-file-priv option so it cannot", False),
        (1836, "Running in read-only mode", True),
        (1792, "Cannot execute statement in a READ ONLY transaction.", False),
        (1062, "Duplicate entry 'read-only' for key", False),
    ],
)
def test_mysql(number, text, needs):
    assert mysql_needs_another_server(number, text) is needs


@pytest.mark.parametrize(("code", "needs"), [(10107, True), (189, True), (13435, True), (11000, False)])
def test_mongodb(code, needs):
    assert mongodb_needs_another_server(code) is needs
