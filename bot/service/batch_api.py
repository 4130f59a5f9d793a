"""``/api/batch``: many downloads recorded at once, by the batch processor's handler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from cachetools import TTLCache
from msgspec import Meta, Struct

from bot.core._shared.errors import BackendError
from bot.core._shared.masking import one_line
from bot.core.batch_processor import BatchItem, BatchProcessor
from bot.core.cache_manager import CacheManager
from bot.core.phase4_admin.api_errors import ApiError, bad_request, unknown_parameters, without_addresses
from bot.core.phase4_admin.request_guard import check_json
from bot.core.query_optimizer import QueryOptimizer
from bot.service.bodies import read_json
from bot.service.data_api import user_tag
from bot.service.database import ConstraintError, Database, DatabaseUnavailableError, Row

logger = logging.getLogger("bot.service.batch")

MAX_ITEMS = 1_000
"""Items of one request at most."""

WAIT_SECONDS = 10.0
"""How long ``?wait=1`` waits; what has not ended then is asked for by ``GET``."""

KEPT_ITEMS, KEPT_SECONDS = 50_000, 600.0
"""Of how many items, and how long, it is kept which batch they were sent in."""

_IDS_PER_QUERY = 8_192  # of users and as many of files; SQLite takes 32,766 parameters

ADD_DOWNLOAD = """
INSERT INTO downloads (user_id, file_id, status, bytes_done, started_at) VALUES (?, ?, ?, ?, ?)
"""

_Id = Annotated[int, Meta(ge=1, le=2**63 - 1)]


MAX_BYTES_DONE = 2**40
"""More than any file has; sums of what is stored must stay within 64 bits, or reading them fails."""


class Download(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One item. Without ``bytes_done`` a download that is done has all of its file, another nothing."""

    user_id: _Id
    file_id: _Id
    status: Literal["done", "failed", "cancelled"] = "done"
    bytes_done: Annotated[int, Meta(ge=0, le=MAX_BYTES_DONE)] | None = None


class Request(Struct, forbid_unknown_fields=True):
    """The body of a request."""

    items: list[Download]


class UnknownReferenceError(Exception):
    """The item names a user or a file that there is not."""


_DECODER = msgspec.json.Decoder(Request)


class BatchApi:
    """Takes downloads to be recorded, and tells what became of each.

    With the batch processor they are written many at once, in one transaction for each of its
    batches; without it, one by one, each in a transaction of its own, before the answer. A handler
    whose answer from the database was lost is run again, and may then write a batch twice.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._processor = BatchProcessor.get_instance()
        # By batch id; changed by post only.
        self._sent: TTLCache[str, list[str]] = TTLCache(KEPT_ITEMS, KEPT_SECONDS, getsizeof=len)
        self._ended: TTLCache[str, list[dict[str, Any]]] = TTLCache(KEPT_ITEMS, KEPT_SECONDS, getsizeof=len)

    def start(self) -> None:
        """Handle the items of the processor, which is enabled, from now on."""
        self._processor.process_handler = self.handle

    async def post(self, request: web.Request) -> web.Response:
        """202 with the batch's id and its items'; with ``?wait=1`` 200 and their results, if in time.

        400 names what is wrong with which item, and then none is taken; 413 above MAX_ITEMS; 503 with
        ``Retry-After`` when the processor has no room for all of them.
        """
        wait = _wants_to_wait(request)
        check_json(request)
        downloads = _decode(await read_json(request))
        batch_id = secrets.token_hex(8)
        now = int(time.time())
        rows = [{**msgspec.structs.asdict(download), "started_at": now} for download in downloads]
        if not self._processor.enabled:
            self._ended[batch_id] = items = await self._write_one_by_one(batch_id, rows)
            return _answer(batch_id, items, batched=False)
        item_ids = [f"{batch_id}-{number}" for number in range(1, len(rows) + 1)]
        # Before they are submitted: what became of them can be asked for whatever happens from here on.
        self._sent[batch_id] = item_ids
        await self._submit(batch_id, rows, item_ids)
        if wait:
            await self._wait(item_ids)
        try:
            items = await self._items(item_ids)
        except BackendError:
            # They are taken; a 500 would have the client send them again.
            items = [{"item_id": item_id, "state": "pending"} for item_id in item_ids]
        ended = wait and all(item["state"] != "pending" for item in items)
        return _answer(batch_id, items, batched=True, status=200 if ended else 202)

    async def get(self, request: web.Request) -> web.Response:
        """The state of each item: pending, done, failed, dead_lettered, or unknown (kept no more).

        503 with ``Retry-After`` while the queue, which alone knows, cannot be asked.
        """
        batch_id = request.match_info["batch_id"]
        if batch_id in self._ended:
            return _answer(batch_id, self._ended[batch_id], batched=False)
        item_ids = self._sent.get(batch_id)
        if item_ids is None:
            raise ApiError(
                404, "no_such_batch", f"There is no batch {batch_id[:40]!r}, or it is no longer kept."
            )
        try:
            items = await self._items(item_ids)
        except BackendError as error:
            logger.warning("Batch %s cannot be looked up: %s", batch_id, one_line(error))
            raise ApiError(
                503, "batch_unavailable",
                "The queue's Redis does not answer, so the batch cannot be looked up; it is not lost.",
                headers={"Retry-After": "1"}, batch_id=batch_id,
            ) from None  # fmt: skip
        return _answer(batch_id, items, batched=True)

    async def handle(self, items: list[BatchItem]) -> list[Any]:
        """The processor's handler: the outcome of each item, in order."""
        async with self._database.one_connection():
            return await self._record([item.data for item in items])

    async def _submit(self, batch_id: str, rows: Sequence[Row], item_ids: Sequence[str]) -> None:
        """Submit all or none; raises ApiError if they were not taken, or if that cannot be known."""
        taken = await self._processor.submit_many(rows, keys=item_ids, all_or_none=True)
        refused = next((one for one in taken if not one.success), None)
        if refused is None:
            return
        headers = {"Retry-After": str(max(1, math.ceil(refused.retry_after)))}
        if refused.refusal == "unknown":
            logger.warning("Batch %s: %s", batch_id, one_line(refused.reason))
            raise ApiError(
                503, "batch_unknown",
                "The connection to the queue broke. Look up the batch before you send it again.",
                headers={**headers, "Location": f"/api/batch/{batch_id}"}, batch_id=batch_id,
            )  # fmt: skip
        del self._sent[batch_id]
        if refused.refusal != "full":
            # The reason names the server, which clients must not see.
            logger.warning("Batch %s: %s", batch_id, one_line(refused.reason))
            if refused.refusal == "off":
                raise ApiError(
                    503, "batch_off", "No item was accepted: the batch processor is off.", headers=headers
                )
            raise ApiError(
                503, "batch_unavailable",
                "No item was accepted: the queue's Redis does not answer. Send them again soon.",
                headers=headers, retry_after=int(headers["Retry-After"]),
            )  # fmt: skip
        room = self._processor.snapshot().max_pending
        if len(rows) > room:
            raise ApiError(
                413,
                "too_many_items",
                f"items: at most {room:,} at once (BATCH_MAX_PENDING), not {len(rows):,}.",
            )
        raise ApiError(
            503, "batch_full", f"No item was accepted: {one_line(refused.reason)}.",
            headers=headers, retry_after=int(headers["Retry-After"]),
        )  # fmt: skip

    async def _wait(self, item_ids: Iterable[str]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
                for item_id in item_ids:
                    # How each ended is told by its status.
                    with contextlib.suppress(Exception):
                        await self._processor.get_result(item_id)

    async def _items(self, item_ids: Iterable[str]) -> list[dict[str, Any]]:
        told = []
        for item_id in item_ids:
            status = await self._processor.get_item_status(item_id)
            if status is None:
                told.append({"item_id": item_id, "state": "unknown"})
            elif status.error:
                told.append(
                    {"item_id": item_id, "state": status.state, "error": without_addresses(status.error)}
                )
            elif status.state == "done":
                told.append({"item_id": item_id, "state": "done", "result": status.result})
            else:
                told.append({"item_id": item_id, "state": status.state})
        return told

    async def _write_one_by_one(self, batch_id: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Record each by itself. An outage raises before the first is written, and fails the rest after."""
        told: list[dict[str, Any]] = []
        outage: Exception | None = None
        async with self._database.one_connection():
            for number, row in enumerate(rows, 1):
                outcome: Any = outage
                if outage is None:
                    try:
                        [outcome] = await self._record([row])
                    except ConstraintError as error:
                        outcome = error
                    except DatabaseUnavailableError as error:
                        if number == 1:
                            raise
                        outcome = outage = error
                item_id = f"{batch_id}-{number}"
                if isinstance(outcome, Exception):
                    told.append(
                        {"item_id": item_id, "state": "failed", "error": without_addresses(one_line(outcome))}
                    )
                else:
                    told.append({"item_id": item_id, "state": "done", "result": outcome})
        return told

    async def _record(self, rows: Sequence[Row]) -> list[Any]:
        """Write what can be written, in one transaction; for each its row, or why it is not written."""
        users, files = await self._known(rows)
        outcomes = [_outcome(row, users, files) for row in rows]
        good = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
        if good:
            # Through the optimizer, which drops the cached results that read the table.
            await QueryOptimizer.get_instance().execute(
                ADD_DOWNLOAD, [tuple(one.values()) for one in good], self._database.write_many
            )
            # Those of these users alone: what counts everybody's downloads may lag (COUNTS_TTL).
            tags = [user_tag(user_id) for user_id in {one["user_id"] for one in good}]
            await CacheManager.get_instance().invalidate_tags(tags)
        return outcomes

    async def _known(self, rows: Sequence[Row]) -> tuple[set[int], dict[int, int]]:
        """Which of the users there are, and the size of each of the files that there are."""
        users: set[int] = set()
        files: dict[int, int] = {}
        user_ids = sorted({row["user_id"] for row in rows})
        file_ids = sorted({row["file_id"] for row in rows})
        for start in range(0, max(len(user_ids), len(file_ids)), _IDS_PER_QUERY):
            of_users = _padded(user_ids[start : start + _IDS_PER_QUERY])
            of_files = _padded(file_ids[start : start + _IDS_PER_QUERY])
            query = (
                "SELECT 'user' AS kind, id, 0 AS size_bytes FROM users"  # noqa: S608 - question marks alone
                f" WHERE id IN ({_marks(of_users)}) UNION ALL"
                f" SELECT 'file', id, size_bytes FROM files WHERE id IN ({_marks(of_files)})"
            )
            for row in await self._database.fetch(query, [*of_users, *of_files]):
                if row["kind"] == "user":
                    users.add(row["id"])
                else:
                    files[row["id"]] = row["size_bytes"]
        return users, files


def _outcome(row: Row, users: set[int], files: dict[int, int]) -> Row | UnknownReferenceError:
    if row["user_id"] not in users:
        return UnknownReferenceError(f"user_id = {row['user_id']}: there is no such user")
    if row["file_id"] not in files:
        return UnknownReferenceError(f"file_id = {row['file_id']}: there is no such file")
    done = row["bytes_done"]
    if done is None:
        done = files[row["file_id"]] if row["status"] == "done" else 0
    return {
        "user_id": row["user_id"],
        "file_id": row["file_id"],
        "status": row["status"],
        "bytes_done": done,
        "started_at": row["started_at"],
    }


def _padded(ids: list[int]) -> list[int]:
    """To the next power of two, so that there are few texts of the query for a database to prepare."""
    return ids + ids[-1:] * ((1 << (len(ids) - 1).bit_length()) - len(ids)) if ids else [0]


def _marks(values: Sequence[int]) -> str:
    return ", ".join("?" * len(values))


_WHERE = re.compile(r"(?P<what>.*) - at `\$\.?(?P<where>.*)`$", re.DOTALL)


def _decode(body: bytes) -> list[Download]:
    try:
        downloads = _DECODER.decode(body).items
    except msgspec.ValidationError as error:
        found = _WHERE.match(str(error))
        where, what = (found["where"] or "body", found["what"]) if found else ("body", str(error))
        raise bad_request(f"{one_line(where)}: {one_line(what)}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(
            'body: expected JSON such as {"items": [{"user_id": 1, "file_id": 2}]}: '
            f"{one_line(str(error))}."
        ) from None
    if not downloads:
        raise bad_request("items: expected 1 or more.")
    if len(downloads) > MAX_ITEMS:
        raise ApiError(
            413, "too_many_items", f"items: at most {MAX_ITEMS:,} in a request, not {len(downloads):,}."
        )
    return downloads


def _wants_to_wait(request: web.Request) -> bool:
    if unknown := set(request.query) - {"wait"}:
        raise unknown_parameters(unknown, "is wait")
    wait = request.query.get("wait", "0")
    if wait not in ("0", "1"):
        raise bad_request(f"wait = {wait[:40]!r}: expected 0 or 1.")
    return wait == "1"


def _answer(batch_id: str, items: list[dict[str, Any]], *, batched: bool, status: int = 200) -> web.Response:
    states = [item["state"] for item in items]
    body = {
        "batch_id": batch_id,
        "state": "pending" if "pending" in states else "ended",
        # Whether the batch processor wrote them together; else each had a transaction of its own.
        "batched": batched,
        "counts": {state: states.count(state) for state in sorted(set(states))},
        "items": items,
    }
    return web.Response(
        body=msgspec.json.encode(body),
        status=status,
        content_type="application/json",
        charset="utf-8",
        headers={"Location": f"/api/batch/{batch_id}"} if status == 202 else None,
    )
