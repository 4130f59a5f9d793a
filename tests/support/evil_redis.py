"""A Redis whose answers, and whose contents, somebody has made to do harm."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import zlib
from collections import Counter
from typing import Any

import hiredis
import msgspec

from bot.core.cache_manager import codec

P = 2**61 - 1  # ints that differ by a multiple of it have one hash


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(value), value)


ANSWERS = {
    "number": b":7\r\n",
    "largest number": b":9223372036854775807\r\n",
    "number that is none": b":99999999999999999999\r\n",
    "text": b"+what\r\n",
    "bytes": bulk(b"\xff\x00\xfe"),
    "no bytes": bulk(b""),
    "null": b"_\r\n",
    "null bulk": b"$-1\r\n",
    "null list": b"*-1\r\n",
    "true": b"#t\r\n",
    "no boolean": b"#x\r\n",
    "not a number": b",nan\r\n",
    "infinity": b",-inf\r\n",
    "double": b",1.5\r\n",
    "double out of range": b",1e999999\r\n",
    "big number": b"(3492890328409238509324850943850943825024385\r\n",
    "digits": b"(" + b"9" * 6000 + b"\r\n",
    "verbatim": b"=7\r\ntxt:\xffab\r\n",
    "verbatim, cut": b"=2\r\nab\r\n",
    "empty list": b"*0\r\n",
    "numbers": b"*2\r\n:1\r\n:2\r\n",
    "nulls": b"*3\r\n_\r\n$-1\r\n*-1\r\n",
    "deep": b"*1\r\n" * 400 + b":1\r\n",
    "too deep": b"*1\r\n" * 5000,
    "set": b"~2\r\n+a\r\n+a\r\n",
    "map": b"%1\r\n+a\r\n:1\r\n",
    "map with a list as a key": b"%1\r\n*1\r\n:1\r\n:1\r\n",
    "map of lists": b"%1\r\n+a\r\n*1\r\n*2\r\n+0-1\r\n_\r\n",
    "attribute": b"|1\r\n+ttl\r\n:3600\r\n:5\r\n",
    "push": b">2\r\n+invalidate\r\n*1\r\n+k\r\n",
    "push of a message": b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n",
    "push of a list as a message": b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n*1\r\n:1\r\n",
    "push of nothing": b">0\r\n+OK\r\n",
    "streamed": b"$?\r\n;3\r\nabc\r\n;0\r\n",
    "large bulk": b"$9999999999\r\nabc",
    "negative bulk": b"$-5\r\n",
    "large list": b"*1000000000\r\n:1\r\n",
    "larger list": b"*4294967295\r\n:1\r\n",
    "negative list": b"*-7\r\n",
    "large map": b"%1000000000\r\n",
    "large push": b">1000000000\r\n",
    "large attribute": b"|1000000000\r\n",
    "large list within": b"*1\r\n*1000000000\r\n",
    "many lists": b"*99999\r\n" * 50,
    "stream entries that are none": b"%1\r\n+s\r\n*3\r\n*2\r\n+0-1\r\n_\r\n*1\r\n+0-2\r\n:3\r\n",
    "error in a list": b"*2\r\n-ERR no\r\n+x\r\n",
    "binary error": b"-\xff\xfe\x00\r\n",
    "empty error": b"-\r\n",
    "no protocol": b"what is this\r\n",
    "zeros": bytes(100),
    "http": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
    "tls": b"\x15\x03\x01\x00\x02\x02\x46",
    **{
        f"error {text.split()[0].decode()}": b"-%s\r\n" % text
        for text in (
            b"MOVED 3999 127.0.0.1:1", b"MOVED x", b"ASK 3999 127.0.0.1:1", b"LOADING loading the dataset",
            b"BUSY running a script", b"READONLY You can't write against a read only replica.",
            b"OOM command not allowed", b"NOAUTH Authentication required.", b"NOPERM no permissions",
            b"NOSCRIPT No matching script.", b"CLUSTERDOWN down", b"MASTERDOWN link down",
            b"WRONGTYPE a key", b"EXECABORT", b"TRYAGAIN", b"NOGROUP No such key", b"WRONGPASS no",
            b"ERR max number of clients reached",
            b"ERR unknown command 'SECRET', with args beginning with: 'x'",
            b"ERR \x1b[31mred\x07 \xe2\x80\xae", b"NOPROTO unsupported", b"x" * 100_000,
        )
    },
}  # fmt: skip
"""What may come in place of an answer."""

DEEDS = (
    "cut before", "cut within", "hang", "slow", "twice", "a push before", "a push after", "two pieces",
)  # fmt: skip
"""What may be done with a right answer."""

DEADLINE = 1.5
"""Seconds after which a hanging answer's connection ends: more than any call waits."""


class EvilRedis:
    """Stands between clients and a real server; a ``share`` of its answers comes out otherwise.

    What is done is counted in ``done``.
    """

    def __init__(self, port: int, seed: int, share: float = 0.3) -> None:
        self._behind = port
        self._chance = random.Random(seed)
        self.share = share
        self.evil = False
        self.choose: bytes | None = None
        """The one answer that replaces all; None: any, or a deed."""
        self.done: Counter[str] = Counter()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> EvilRedis:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        behind: asyncio.StreamWriter | None = None
        try:
            answers, behind = await asyncio.open_connection("127.0.0.1", self._behind, limit=1 << 24)
            commands = hiredis.Reader()
            while data := await reader.read(65_536):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    behind.write(hiredis.pack_command(tuple(command)))
                    if command[0] == b"SUBSCRIBE":
                        await asyncio.gather(self._messages(answers, writer), _copy(reader, behind))
                        return
                    if not await self._answer(await _frame(answers), writer):
                        return
        except (OSError, asyncio.CancelledError, asyncio.IncompleteReadError, hiredis.ProtocolError):
            pass
        finally:
            for one in (writer, behind):
                if one is not None:
                    one.transport.abort()

    async def _messages(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(await _frame(answers), writer):
                pass
        finally:
            writer.transport.abort()

    async def _answer(self, right: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer one way or another; False if the connection ends with it."""
        chance = self._chance
        if not self.evil or chance.random() >= self.share:
            writer.write(right)
            return True
        if self.choose is not None:
            self.done["chosen"] += 1
            writer.write(self.choose)
            return True
        # Hanging costs its caller a timeout, so it is rare.
        deed = chance.choice(DEEDS) if chance.random() < 0.25 else ""
        if deed == "hang" and chance.random() < 0.8:
            deed = "slow"
        if not deed:
            name = chance.choice(list(ANSWERS))
            self.done[name] += 1
            writer.write(ANSWERS[name])
            return True
        self.done[deed] += 1
        if deed == "hang":
            await asyncio.sleep(DEADLINE)
            return False
        if deed.startswith("cut"):
            writer.write(right[: len(right) // 2] if deed == "cut within" else b"")
            with contextlib.suppress(OSError):
                await writer.drain()
            return False
        if deed == "slow":
            await asyncio.sleep(chance.uniform(0.0, 0.05))
        if deed == "two pieces":
            writer.write(right[:3])
            await asyncio.sleep(0.002)
            right = right[3:]
        push = ANSWERS["push"]
        writer.write(push + right if deed == "a push before" else right)
        if deed in ("twice", "a push after"):
            writer.write(right if deed == "twice" else push)
        return True


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.transport.abort()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """One answer of a real server, as it came."""
    line = await reader.readuntil(b"\r\n")
    kind, size = line[:1], line[1:-2]
    if kind in b"$=!" and size != b"-1":
        return line + await reader.readexactly(int(size) + 2)
    if kind in b"*~>%|" and size != b"-1":
        count = int(size) * (2 if kind in b"%|" else 1) + (kind == b"|")
        return line + b"".join([await _frame(reader) for _ in range(count)])
    return line


# What may lie in Redis, or be told on its channels.


def _extension(code: int, data: bytes) -> bytes:
    return b"\xc9" + struct.pack(">Ib", len(data), code) + data


def _array(count: int) -> bytes:
    return b"\xdd" + struct.pack(">I", count)


def _big(number: int) -> bytes:
    return _extension(10, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def _colliding(count: int) -> bytes:
    return b"".join(_big(n * P) for n in range(1, count + 1))


def _map(count: int) -> bytes:
    return b"\xdf" + struct.pack(">I", count)


def _nested_tuples(depth: int) -> bytes:
    data = b"\x90"
    for _ in range(depth):
        data = b"\x91" + _extension(1, data)
    return data


BODIES = {
    "huge declared array": _array(2**32 - 1),
    "huge declared map": _map(2**32 - 1),
    "huge declared str": b"\xdb\xff\xff\xff\xff",
    "huge declared bin": b"\xc6\xff\xff\xff\xff",
    "huge declared ext": b"\xc9\xff\xff\xff\xff\x01",
    "nested arrays": b"\x91" * 100_000 + b"\xc0",
    "nested maps": b"\x81\xa1a" * 100_000 + b"\xc0",
    "nested tuples": _extension(1, _nested_tuples(900)),
    "nested tuples, deeper": _extension(1, _nested_tuples(3000)),
    "empty lists": _array(1_100_000) + b"\x90" * 1_100_000,
    "colliding set": _extension(2, _array(20_000) + _colliding(20_000)),
    "colliding map": _map(20_000) + b"".join(_big(k * P) + b"\xc0" for k in range(1, 20_001)),
    "many digits": _extension(8, b"9" * 1_000_000),
    "large int": _extension(10, b"\x7f" * 1_000_000),
    "exponent": _extension(8, b"1E+999999999999999999"),
    "unhashable in a set": _extension(2, b"\x91\x90"),
    "unhashable key": _extension(12, b"\x91\x92\x90\x01"),
    "map with a list as a key": b"\x81\x90\xc0",
    "bad utf-8": b"\xa2\xff\xfe",
    "unknown extension": _extension(99, b"abc"),
    "timestamp": b"\xd6\xff\x00\x00\x00\x01",
    "timestamp out of range": b"\xc7\x0c\xff\xff\xff\xff\xff" + b"\xff" * 8,
    "datetime and more": _extension(4, b"2020-01-01T00:00:00|" + b"9" * 5000),
    "datetime that is none": _extension(4, b"x" * 100_000),
    "timedelta overflow": _extension(7, b"\x93\xcf" + b"\xff" * 8 + b"\x00\x00"),
    "short complex": _extension(14, b"abc"),
    "short object id": _extension(11, b"abc"),
    "pairs of one": _extension(12, b"\x91\x91\x01"),
    "trailing data": b"\xc0\xc0",
    "nothing": b"",
    "not a number": b"\xcb\x7f\xf8" + bytes(6),
    "infinity": b"\xcb\x7f\xf0" + bytes(6),
}
"""Bodies of MessagePack that take memory or time, or are none."""

_HEAD = struct.Struct(">BBdf")


def _head(
    flags: int = 0, expires_at: float = 0.0, seconds: float = 0.0, version: int = codec.VERSION
) -> bytes:
    return _HEAD.pack(version, flags, expires_at, seconds)


def payloads() -> dict[str, bytes]:
    """Payloads of the cache: each body as it is and compressed, and headers with hostile content."""
    made = {name: _head() + body for name, body in BODIES.items()}
    made |= {f"{name}, compressed": _head(1) + zlib.compress(body, 9) for name, body in BODIES.items()}
    made |= {f"{name}, no header": body for name, body in BODIES.items()}
    nil = b"\xc0"
    return made | {
        "bomb of zeros": _head(1) + zlib.compress(b"\xc6" + struct.pack(">I", 1 << 26) + bytes(1 << 26), 9),
        "bomb of dicts": _head(1) + zlib.compress(_array(1 << 25) + b"\x80" * (1 << 25), 9),
        "cut compressed": _head(1) + zlib.compress(b"\xc4\xff" + bytes(255), 9)[:-6],
        "compressed and more": _head(1) + zlib.compress(nil) + b"x" * 1000,
        "no time": _head(0, float("nan")) + nil,
        "endless": _head(0, float("inf")) + nil,
        "long ago": _head(0, 1.0) + nil,
        "in the far future": _head(0, 1e300) + nil,
        "loaded in no time": _head(0, 0.0, float("nan")) + nil,
        "loaded for ever": _head(0, 0.0, 1e38) + nil,
        "earlier version": _head(version=1) + nil,
        "later version": _head(version=255) + nil,
        "unknown flags": _head(255) + nil,
        "kept for ever": _head(4) + struct.pack(">d", float("inf")) + nil,
        "kept, cut": _head(4) + b"abc",
        "many tags": _head(2) + struct.pack(">H", 65_535) + bytes(100_000),
        "tags, cut": _head(2) + struct.pack(">H", 3) + bytes(13),
        "tag with a bad name": _head(2) + struct.pack(">H12sH", 1, bytes(12), 2) + b"\xff\xfe" + nil,
        "tag with a long name": _head(2) + struct.pack(">H12sH", 1, bytes(12), 60_000) + b"a" * 60_000 + nil,
        "a header alone": _head(),
        "half a header": _head()[:7],
    }  # fmt: skip


def messages() -> dict[str, bytes]:
    """Messages for the channels that instances tell each other changes on."""
    encode = msgspec.msgpack.encode
    glob = "*a" * 500_000
    return {
        **BODIES,
        "text": b"hello",
        "long": b"x" * 5_000_000,
        "unknown change": encode((b"12345678", "explode", "default", ["k"])),
        "glob": encode((b"12345678", "pattern", "default", [glob])),
        "glob of classes": encode((b"12345678", "pattern", "default", ["[" * 50_000])),
        "many keys": encode((b"12345678", "drop", "default", [str(n) for n in range(50_000)])),
        "no keys": encode((b"12345678", "drop", "default", [])),
        "no glob": encode((b"12345678", "pattern", "default", [])),
        "namespace": encode((b"12345678", "drop", "n" * 1_000_000, ["k"])),
        "tags": encode((b"12345678", "tags", "", ["t" * 1_000_000])),
        "told": encode((b"12345678", "tell", "no topic", ["x"] * 10_000)),
        "sender of another type": encode((5, "drop", "default", ["k"])),
        "keys of another type": encode((b"12345678", "drop", "default", [1, None])),
        "one more": encode((b"12345678", "drop", "default", ["k"], 1)),
        "a place": b"p4r:m:",
        "a place, cut": b"p4r:m:" + bytes(39),
        "a place of no number": b"p4r:m:" + struct.pack("<8sdddd", b"x" * 8, *[float("nan")] * 4),
        "a place at no end": b"p4r:m:" + struct.pack("<8sdddd", b"x" * 8, *[float("inf")] * 4),
    }  # fmt: skip


NUMBERS = (b"nan", b"-nan", b"inf", b"-inf", b"1e308", b"-1e308", b"99999999999999999999", b"x", b"", b"0x10")
"""What may stand where a number is expected."""
