"""What an operator can have the running services do, one function for each action.

Each is given a service that is on, and arguments of checked types, and runs on the services' event loop. It
says in a sentence what it has done. Errors of the services pass through; what does not exist is an ApiError.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct

from bot.core.phase4_admin.api_errors import ApiError
from bot.core.phase4_admin.letters import told, told_dropped

MAX_ITEMS = 1_000
MAX_TEXT = 1_024
MAX_ID = 300
"""Characters of an item's id: those of entries that could not be read begin with the entry's."""
MAX_CHAT = 10**15
LONGEST_HOLD = 7 * 86_400


class Done(Struct, frozen=True):
    """What was done, in a sentence, and to how many."""

    said: str
    count: int


class Field(NamedTuple):
    """A field of an action's body: the type that it is converted to, and what is allowed, in words."""

    type: Any
    allowed: str


class Operation(NamedTuple):
    """An action: the service that it needs ("": those that run), its fields, and what it does."""

    service: str
    fields: Mapping[str, Field]
    perform: Callable[..., Awaitable[Done]]


def _gone(message: str) -> ApiError:
    return ApiError(404, "not_found", message)


def _redis_note(degraded: bool, later: str) -> str:
    return f" Redis is away or refuses: {later} when that is over." if degraded else ""


async def drop_namespace(cache: Any, namespace: str) -> Done:
    count = await cache.clear(namespace)
    note = _redis_note(cache.statistics()["degraded"], "it is dropped there and in the other instances")
    return Done(f"Namespace {_quoted(namespace)} dropped: {_many(count, 'key')}.{note}", count)


async def drop_tag(cache: Any, tag: str) -> Done:
    count = await cache.invalidate_tag(tag)
    figures = cache.statistics()
    there = ", and all that carry it in Redis" if figures["l2_enabled"] else ""
    note = _redis_note(figures["degraded"], "it is dropped there and in the other instances")
    here = f"{_many(count, 'entry', 'entries')} in this process's memory"
    return Done(f"Tag {_quoted(tag)} dropped: {here}{there}.{note}", count)


async def reset_client(limiter: Any, client: int | str | None) -> Done:
    found = await limiter.reset_client(client)
    named = "The unknown client" if client is None else f"Client {_quoted(client)}"
    if not found:
        other = _other_spelling(client)
        hint = f" {_quoted(other)} is another client." if other is not None else ""
        return Done(f"{named} had nothing to reset.{hint}", 0)
    note = _redis_note(limiter.statistics()["degraded"], "the other instances follow")
    return Done(f"{named} starts with full buckets and no backoff.{note}", 1)


def _other_spelling(client: int | str | None) -> int | str | None:
    """ "5" for 5, and 5 for "5": the limiter takes them for two clients."""
    if isinstance(client, int):
        return str(client)
    digits = client.removeprefix("-") if client is not None else ""
    if client is not None and digits.isascii() and digits.isdigit() and len(digits) <= 30:
        return int(client)
    return None


async def replay_dead_letters(batches: Any, item_ids: Sequence[str]) -> Done:
    report = await batches.replay_dead_letters(item_ids)
    said = f"{told(report)}."
    if not report.replayed:
        if report.missing == len(set(item_ids)):
            raise _gone("None of these items is among the dead letters (any more).")
        raise ApiError(409, "nothing_replayed", said)
    return Done(said, report.replayed)


async def drop_dead_letters(batches: Any, item_ids: Sequence[str]) -> Done:
    dropped = await batches.discard_dead_letters(item_ids)
    if not dropped:
        raise _gone("None of these items is among the dead letters (any more).")
    return Done(f"{told_dropped(dropped, max(0, len(set(item_ids)) - dropped))}.", dropped)


async def drain(balancer: Any, instance: str) -> Done:
    found = _instance(balancer, instance)
    await balancer.drain_instance(instance)
    left = "" if _takes_requests(balancer) else " No instance is left that gets requests."
    progress = f"{_many(found.active_connections, 'request')} in progress"
    return Done(f"{_quoted(instance)} gets no new requests; {progress}.{left}", found.active_connections)


def _takes_requests(balancer: Any) -> bool:
    return any(one.state.value not in ("drained", "draining") for one in balancer.instances)


async def return_instance(balancer: Any, instance: str) -> Done:
    found = _instance(balancer, instance)
    if not await balancer.return_instance(instance):
        return Done(f"{_quoted(instance)} was not drained ({_state(found)}).", 0)
    gets = "gets requests again" if found.is_healthy else "gets requests once its health checks succeed"
    return Done(f"{_quoted(instance)} is returned ({_state(found)}): it {gets}.", 1)


def _instance(balancer: Any, name: str) -> Any:
    found = balancer.get_instance_by_id(name)
    if found is None:
        there = ", ".join(one.id for one in balancer.instances[:20]) or "none"
        raise _gone(f"instance = {_quoted(name)}: expected one of those that there are: {there}.")
    return found


def _state(instance: Any) -> str:
    return str(instance.state.value).replace("_", " ")


async def hold(outbound: Any, chat: int | str | None, seconds: float) -> Done:
    outbound.hold(chat, seconds)
    note = _redis_note(outbound.statistics()["degraded"], "the other instances hear of it")
    return Done(f"Nothing is sent to {_chat(chat)} for {seconds:g} s.{note}", 1)


async def release(outbound: Any, chat: int | str | None) -> Done:
    if not await outbound.release(chat):
        raise _gone(f"chat = {_quoted(chat)}: it is not held.")
    return Done(f"What waits for {_chat(chat)} may leave again.", 1)


def _chat(chat: int | str | None) -> str:
    return "any chat" if chat is None else f"chat {_quoted(chat)}"


async def reset_statistics(services: Sequence[Any]) -> Done:
    for service in services:
        await service.reset_statistics()
    return Done(f"The counters of {_many(len(services), 'service')} start at zero.", len(services))


def _many(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _quoted(value: object) -> str:
    """As JSON shows it, so that 5 and "5" differ."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


_TEXT = Field(
    Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)], f"a text of 1 to {MAX_TEXT:,} characters"
)
_CLIENT = Field(
    int | Annotated[str, Meta(max_length=MAX_TEXT)] | None,
    "a whole number or a text, as the bot names its clients, or null: unknown ones",
)
_CHAT = Field(
    Annotated[int, Meta(ge=-MAX_CHAT, le=MAX_CHAT)]
    | Annotated[str, Meta(min_length=1, max_length=256)]
    | None,
    "a chat's id (a whole number), its @name, or null: all chats",
)
_SECONDS = Field(
    Annotated[float, Meta(gt=0, le=LONGEST_HOLD)], f"a number above 0, at most {LONGEST_HOLD:,} (a week)"
)
_ITEMS = Field(
    Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=MAX_ID)]], Meta(min_length=1, max_length=MAX_ITEMS)
    ],
    f"a list of 1 to {MAX_ITEMS:,} ids of items",
)

OPERATIONS: Mapping[str, Operation] = {
    "cache.drop_namespace": Operation("cache_manager", {"namespace": _TEXT}, drop_namespace),
    "cache.drop_tag": Operation("cache_manager", {"tag": _TEXT}, drop_tag),
    "limiter.reset_client": Operation("rate_limiter", {"client": _CLIENT}, reset_client),
    "batch.replay_dead_letters": Operation("batch_processor", {"item_ids": _ITEMS}, replay_dead_letters),
    "batch.drop_dead_letters": Operation("batch_processor", {"item_ids": _ITEMS}, drop_dead_letters),
    "balancer.drain": Operation("load_balancer", {"instance": _TEXT}, drain),
    "balancer.return": Operation("load_balancer", {"instance": _TEXT}, return_instance),
    "outbound.hold": Operation("outbound", {"chat": _CHAT, "seconds": _SECONDS}, hold),
    "outbound.release": Operation("outbound", {"chat": _CHAT}, release),
    "statistics.reset": Operation("", {}, reset_statistics),
}
