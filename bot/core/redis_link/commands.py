"""Single commands: which may be run twice, and how several travel together in a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UNANSWERED: Any = object()
"""In the place of an answer that has not come."""

READS = frozenset(
    "EXISTS GET INFO MGET PING PTTL PUBLISH SCAN SUBSCRIBE TIME TTL XLEN XRANGE XREVRANGE".split()
)
"""Commands that change nothing that a replica would refuse."""

_REPEATABLE = READS | {"DEL", "EXPIRE", "MSET", "PEXPIRE", "SET", "UNLINK"}


_SHORT = frozenset(
    "DEL EVAL EVALSHA EXISTS EXPIRE HDEL HEXISTS HSET PEXPIRE PTTL PUBLISH SET TTL UNLINK XDEL XLEN "
    "ZREM ZSCORE".split()
)
"""Commands that neither wait for something nor have a large answer: they may travel with others'."""

_BLOCKING = frozenset("BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH BZMPOP BZPOPMAX BZPOPMIN WAIT WAITAOF".split())


def is_short(command: tuple[Any, ...]) -> bool:
    """Whether it may travel on one connection with the commands of other callers."""
    return command[0] in _SHORT


def is_blocking(command: tuple[Any, ...]) -> bool:
    """Whether the server may keep its answer back until something happens."""
    name = command[0]
    return name in _BLOCKING or (name in ("XREAD", "XREADGROUP") and "BLOCK" in command)


def is_repeatable(command: tuple[Any, ...]) -> bool:
    """Whether it may be run twice where once was asked for."""
    if command[0] == "SET" and len(command) > 3:
        return all(option in ("EX", "PX") or isinstance(option, int) for option in command[3:])
    return command[0] in _REPEATABLE


def on_channel(command: tuple[Any, ...]) -> str:
    """A command on a channel: rights are given by channel."""
    return f"{command[0]} {command[1]}"


def as_bytes(answer: Any) -> bytes:
    """An answer that RESP3 has as text, and RESP2 as bytes."""
    return answer if isinstance(answer, bytes) else str(answer).encode()


async def run_by_node(client: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Commands with keys in one round trip to each node, then those without; errors are among the answers."""
    keyed = [command for command in commands if command[0] != "PUBLISH"]
    answers: list[Any] = []
    if keyed:
        async with client.pipeline() as pipe:
            for command in keyed:
                pipe.execute_command(*command)
            answers = await pipe.execute(raise_on_error=False)
    found = iter(answers)
    return [await _answer_of(client, c) if c[0] == "PUBLISH" else next(found) for c in commands]


async def _answer_of(client: Any, command: tuple[Any, ...]) -> Any:
    from redis.exceptions import ResponseError

    try:
        return await client.execute_command(*command)
    except ResponseError as error:
        return error
