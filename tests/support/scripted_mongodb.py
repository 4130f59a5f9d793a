"""A replica set of MongoDB of one member, in this process: its protocol, its oplog, and faults on demand.

It has what change streams need, and stores documents by ``_id``. Its faults are those that the drivers'
specification of change streams names: connections that end, errors with codes and labels, a history that
is lost, a server that says nothing.
"""

from __future__ import annotations

import asyncio
import struct
import threading
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any

import bson

TICK = 0.005
"""Seconds between two looks into the oplog."""

OP_REPLY, OP_QUERY, OP_MSG = 1, 2004, 2013
HISTORY_LOST = {"code": 286, "codeName": "ChangeStreamHistoryLost", "errmsg": "the resume point is gone"}
STANDALONE = {"code": 40573, "errmsg": "The $changeStream stage is only supported on replica sets"}


class ScriptedMongoDB:
    """``async with ScriptedMongoDB() as server:``; its ``url`` is that of a replica set."""

    def __init__(self, *, standalone: bool = False) -> None:
        self.standalone = standalone
        self.documents: dict[str, dict[Any, dict[str, Any]]] = defaultdict(dict)
        """The documents of each namespace, by ``_id``."""
        self.oplog: list[dict[str, Any]] = []
        self.oldest = 0
        """The first entry of the oplog that a stream may still be resumed at."""
        self.cursors: dict[int, tuple[str, int]] = {}
        """Open change streams: (database, the next entry of the oplog)."""
        self.commands: list[dict[str, Any]] = []
        self.failures: dict[str, list[dict[str, Any] | None]] = defaultdict(list)
        """What the next commands of a name are answered with; None ends their connection instead."""
        self.is_silent = False
        """While it is, no getMore is answered."""
        self._connections: set[asyncio.Task[Any]] = set()
        self._last_cursor = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="scripted MongoDB")
        self._server: asyncio.Server | None = None
        self._port = 0

    async def __aenter__(self) -> ScriptedMongoDB:
        self._thread.start()
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def start(self) -> None:
        await self._there(self._start())

    async def stop(self) -> None:
        """Go away, with all connections; what is stored stays."""
        await self._there(self._stop())

    async def _there(self, action: Coroutine[Any, Any, None]) -> None:
        """Do it in the server's thread: a client may block this one while it talks to the server."""
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(action, self._loop))

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._disconnect()
        self.cursors.clear()

    async def disconnect(self) -> None:
        """End all connections."""
        await self._there(self._disconnect())

    async def _disconnect(self) -> None:
        serving = list(self._connections)
        for task in serving:
            task.cancel()
        if serving:
            await asyncio.wait(serving)

    @property
    def url(self) -> str:
        kind = "directConnection=true" if self.standalone else "replicaSet=rs0"
        return f"mongodb://127.0.0.1:{self._port}/?{kind}&heartbeatFrequencyMS=500"

    def count(self, name: str) -> int:
        return sum(1 for command in self.commands if next(iter(command)) == name)

    def opened(self) -> list[dict[str, Any]]:
        """The options of every change stream that was asked for."""
        return [
            command["pipeline"][0]["$changeStream"]
            for command in self.commands
            if "pipeline" in command and "$changeStream" in command["pipeline"][0]
        ]

    # What another program does.

    def write(self, namespace: str, document: dict[str, Any]) -> None:
        known = document["_id"] in self.documents[namespace]
        self.documents[namespace][document["_id"]] = document
        self.tell("replace" if known else "insert", namespace)

    def tell(self, kind: str, namespace: str, **more: Any) -> None:
        """Put an event into the oplog."""
        database, _, collection = namespace.partition(".")
        place = {"db": database, "coll": collection} if collection else {"db": database}
        self.oplog.append({"operationType": kind, "ns": place, **more})

    def lose_history(self) -> None:
        self.oldest = len(self.oplog)

    # The protocol.

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while True:
                length, number, _, code = struct.unpack("<iiii", await reader.readexactly(16))
                body = await reader.readexactly(length - 16)
                command = _command_in(code, body)
                reply = await self._answer(command)
                if reply is None:
                    break
                writer.write(_message(code, number, {"ok": 1.0, **reply}))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _answer(self, command: dict[str, Any]) -> dict[str, Any] | None:
        name = next(iter(command))
        if name.lower() in ("hello", "ismaster"):
            return self._hello()
        self.commands.append(command)
        if self.failures[name]:
            failure = self.failures[name].pop(0)
            return None if failure is None else {"ok": 0.0, **failure}
        handler = getattr(self, f"_{name.lower()}", None)
        found = {} if handler is None else handler(command)
        return await found if asyncio.iscoroutine(found) else found

    def _hello(self) -> dict[str, Any]:
        found = {
            "helloOk": True, "ismaster": True, "isWritablePrimary": True, "minWireVersion": 0,
            "maxWireVersion": 21, "maxBsonObjectSize": 1 << 24, "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000, "logicalSessionTimeoutMinutes": 30, "readOnly": False,
        }  # fmt: skip
        address = f"127.0.0.1:{self._port}"
        return found if self.standalone else {**found, "setName": "rs0", "hosts": [address], "me": address}

    def _find(self, command: dict[str, Any]) -> dict[str, Any]:
        namespace = f"{command['$db']}.{command['find']}"
        wanted = command.get("filter", {}).get("_id")
        documents = self.documents[namespace].values()
        found = [each for each in documents if wanted is None or each["_id"] == wanted]
        return {"cursor": {"id": 0, "ns": namespace, "firstBatch": found}}

    def _insert(self, command: dict[str, Any]) -> dict[str, Any]:
        for document in command["documents"]:
            self.write(f"{command['$db']}.{command['insert']}", document)
        return {"n": len(command["documents"])}

    def _aggregate(self, command: dict[str, Any]) -> dict[str, Any]:
        options = command["pipeline"][0]["$changeStream"]
        if self.standalone:
            return {"ok": 0.0, **STANDALONE}
        token = options.get("resumeAfter") or options.get("startAfter")
        start = len(self.oplog) if token is None else token["entry"]
        if start < self.oldest:
            return {"ok": 0.0, **HISTORY_LOST}
        self._last_cursor += 1
        self.cursors[self._last_cursor] = command["$db"], start
        return self._batch("firstBatch", self._last_cursor, 0)

    async def _getmore(self, command: dict[str, Any]) -> dict[str, Any]:
        number = command["getMore"]
        left = command.get("maxTimeMS", 1_000) / 1_000
        while number in self.cursors and (
            self.is_silent or (left > 0 and len(self.oplog) == self.cursors[number][1])
        ):
            await asyncio.sleep(TICK)
            left -= TICK
        if number not in self.cursors:
            return {"ok": 0.0, "code": 43, "codeName": "CursorNotFound", "errmsg": "cursor not found"}
        return self._batch("nextBatch", number, command.get("batchSize", 101))

    def _batch(self, name: str, number: int, size: int) -> dict[str, Any]:
        database, at = self.cursors[number]
        batch: list[dict[str, Any]] = []
        while at < len(self.oplog) and len(batch) < size:
            event = self.oplog[at]
            at += 1
            if event["ns"]["db"] == database:
                batch.append({"_id": {"entry": at}, **event})
        self.cursors[number] = database, at
        if batch and batch[-1]["operationType"] == "invalidate":
            del self.cursors[number]
            number = 0
        cursor = {"id": number, "ns": f"{database}.$cmd.aggregate", name: batch}
        return {"cursor": {**cursor, "postBatchResumeToken": {"entry": at}}}

    def _killcursors(self, command: dict[str, Any]) -> dict[str, Any]:
        for number in command["cursors"]:
            self.cursors.pop(number, None)
        return {"cursorsKilled": command["cursors"]}


def _command_in(code: int, body: bytes) -> dict[str, Any]:
    if code == OP_QUERY:
        name_ends = body.index(b"\0", 4)
        return dict(bson.decode(body[name_ends + 9 :]))
    assert code == OP_MSG
    command: dict[str, Any] = {}
    at = 4
    while at < len(body):
        kind = body[at]
        at += 1
        (size,) = struct.unpack_from("<i", body, at)
        if kind == 0:
            command = {**bson.decode(body[at : at + size]), **command}
        else:
            name_ends = body.index(b"\0", at + 4)
            name = body[at + 4 : name_ends].decode()
            command[name] = bson.decode_all(body[name_ends + 1 : at + size])
        at += size
    return command


def _message(code: int, number: int, reply: dict[str, Any]) -> bytes:
    document = bson.encode(reply)
    if code == OP_QUERY:
        body, answer = struct.pack("<iqii", 8, 0, 0, 1) + document, OP_REPLY
    else:
        body, answer = struct.pack("<iB", 0, 0) + document, OP_MSG
    return struct.pack("<iiii", len(body) + 16, 0, number, answer) + body
