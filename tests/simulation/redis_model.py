"""A model of a Redis server behind a simulated network: fakeredis's commands, and the ways a server fails.

It speaks Redis's protocol, 2 and 3, to the library's own client. The differential test compares it with a
real server.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import random
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import hiredis
from fakeredis import FakeServer
from fakeredis import _msgs as msgs
from fakeredis._command_args_parsing import Float
from fakeredis._commands import COMMANDS_WITH_SUB, SUPPORTED_COMMANDS, Key
from fakeredis._core import CommandItem, Database
from fakeredis._helpers import NoResponse, SimpleError, SimpleString
from fakeredis._socket._fakesocket import FakeSocket
from fakeredis._socket._resp import convert_to_resp2, extract_command
from fakeredis.model import get_command_info

from tests.simulation.eviction_model import NO_TOUCH, POLICIES, Evictions
from tests.simulation.loop import VirtualLoop
from tests.simulation.network import MemoryTransport
from tests.simulation.redis_scripts import scripts

READONLY = "READONLY You can't write against a read only replica."
OUT_OF_MEMORY = "OOM command not allowed when used memory > 'maxmemory'."
VERSION = (7, 4)
NO_GROUP = "NOGROUP No such key or consumer group in XREADGROUP with GROUP option"


class Reply:
    """An answer, unlike a message that nobody asked for."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def encoded(value: Any, protocol: int) -> bytes:
    """An answer as bytes of the protocol."""
    kind = type(value)
    if kind is bytes:
        return b"$%d\r\n%b\r\n" % (len(value), value)
    if kind is int:
        return b":%d\r\n" % value
    if value is None:
        return b"_\r\n" if protocol == 3 else b"$-1\r\n"
    if kind is SimpleString:
        return b"+%b\r\n" % value.value
    if isinstance(value, SimpleError):
        return b"-%b\r\n" % value.value.encode()
    if kind is float:
        return (
            b",%.17g\r\n" % value if protocol == 3 else encoded(Float.encode(value, humanfriendly=False), 2)
        )
    if kind is str:
        return encoded(value.encode(), protocol)
    if kind is dict:
        pairs = [part for pair in value.items() for part in pair]
        head = b"%%%d\r\n" % len(value) if protocol == 3 else b"*%d\r\n" % len(pairs)
        return head + b"".join([encoded(part, protocol) for part in pairs])
    if kind in (set, frozenset):
        head = b"~%d\r\n" if protocol == 3 else b"*%d\r\n"
        return head % len(value) + b"".join([encoded(part, protocol) for part in sorted(value)])
    return b"*%d\r\n" % len(value) + b"".join([encoded(part, protocol) for part in value])


WAKING = frozenset({
    "blmove", "brpoplpush", "copy", "linsert", "lmove", "lpush", "lpushx", "rename", "renamenx", "restore",
    "rpoplpush", "rpush", "rpushx", "sort", "swapdb", "xadd", "xgroup setid", "xsetid", "zadd", "zincrby",
    "zrangestore", "zunionstore", "zinterstore", "zdiffstore", "geoadd",
})  # fmt: skip
"""Commands after which there may be what a blocked command waits for."""


class Form:
    """What is known of a command with so many arguments, found once: a run has thousands of each."""

    def __init__(self, name: str, count: int) -> None:
        sig = SUPPORTED_COMMANDS[name]
        info = get_command_info(name.encode())
        flags = frozenset() if info is None else frozenset(info[2])
        self.name = name
        self.refusal: str | None = None
        """What is said if it cannot have so many."""
        try:
            sig.check_arity([b""] * count, VERSION)
        except SimpleError as error:
            self.refusal = error.value
        types = [*sig.fixed]
        if sig.repeat:
            types += [sig.repeat[place % len(sig.repeat)] for place in range(count - len(types))]
        places = list(enumerate(types))
        self.keys: list[tuple[int, Key]] = [one for one in places if isinstance(one[1], Key)]
        self.decoded: list[tuple[int, Any]] = [
            one for one in places if not isinstance(one[1], Key) and one[1] is not bytes
        ]
        self.writes, self.grows = b"write" in flags, b"denyoom" in flags
        self.wakes, self.uses = name in WAKING, name not in NO_TOUCH
        self.in_scripts = msgs.FLAG_NO_SCRIPT not in sig.flags
        self.while_subscribed = name in FakeSocket.ACCEPTED_COMMANDS_WHILE_PUBSUB
        self.creates = msgs.FLAG_DO_NOT_CREATE not in sig.flags
        self.drops_empty = msgs.FLAG_LEAVE_EMPTY_VAL not in sig.flags
        self.converts = msgs.FLAG_SKIP_CONVERT_TO_RESP2 not in sig.flags


_form_of = functools.cache(Form)


def applied(form: Form, args: Any, database: Any, used: Callable[..., None]) -> tuple[Any, ...]:
    """As fakeredis's ``Signature.apply``, for a number of arguments that was checked, in half of its time."""
    for place, kind in form.keys:
        if kind.missing_return is not Key.UNSPECIFIED and args[place] not in database:
            for earlier, other in form.decoded:  # a wrong argument before it is refused first
                if earlier < place:
                    other.decode(args[earlier])
            return (kind.missing_return,)
    words, items = [*args], []
    for place, kind in form.decoded:
        words[place] = kind.decode(words[place])
    for place, kind in form.keys:
        key = words[place]
        item = database.get(key)
        if form.uses:
            used(key, new=item is None)
        default = None
        if (type_ := kind.type_) is not None:
            if item is not None:
                if type(item.value) is not type_:
                    raise SimpleError(msgs.WRONGTYPE_MSG)
            elif type_ is not bytes and form.creates:
                default = type_()
        words[place] = CommandItem(key, database, item, default=default)
        items.append(words[place])
    return words, items


DIFFERENT = frozenset({"xread", "xreadgroup", "xpending"})
"""Commands whose answers, besides errors, :func:`corrected` changes."""


def corrected(command: str, result: Any) -> Any:
    """An answer of fakeredis as a real server gives it, where the two differ."""
    if isinstance(result, SimpleError):
        if result.value.startswith("ERR BUSYGROUP"):
            return SimpleError(result.value[4:])
        if command == "xreadgroup" and result.value.startswith("ERR The XGROUP"):
            return SimpleError(NO_GROUP)
    elif command in ("xread", "xreadgroup") and not result and not isinstance(result, NoResponse):
        return None
    elif command == "xpending" and result and not isinstance(result[0], list):
        if result[0] == 0:
            return [0, None, None, None]
        return [*result[:3], [[consumer, b"%d" % count] for consumer, count in result[3]]]
    return result


class ModelDatabase(Database):
    """As fakeredis's, in less time: nobody waits for its condition, and few watch a key."""

    def get(self, key: bytes, default: Any = None) -> Any:
        item = self._dict.get(key)
        if item is None:
            return default
        if item.expireat is not None and item.expireat < self.time:
            del self._dict[key]
            return default
        return item

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None  # type: ignore[arg-type]

    def notify_watch(self, key: bytes) -> None:
        if self._watches:
            super().notify_watch(key)


def _server() -> FakeServer:
    server = FakeServer(version=VERSION, server_type="redis")
    server.dbs = defaultdict(lambda: ModelDatabase(server.lock))
    return server


class ModelConnection(FakeSocket):
    """One client's connection, at the server's end."""

    def __init__(self, model: RedisModel, transport: MemoryTransport) -> None:
        self.model, self._transport = model, transport
        self.number = model.numbered()
        self.waits: tuple[Any, Any, Any] | None = None
        """What a blocked command waits for, what shapes its answer, and the timer that ends it."""
        self._at_hand: list[bytes] = []
        self._reader = hiredis.Reader()
        self._wrote = False
        """Whether the script that runs has changed anything."""
        self.closed = False
        super().__init__(model.server, 0, None, object)

    def __hash__(self) -> int:
        return self.number

    __eq__ = object.__eq__

    # The network's end.

    def feed(self, data: bytes) -> None:
        if self.closed:
            return
        if self.model.frozen:
            self._at_hand.append(data)
            return
        self._reader.feed(data)
        self._go_on()
        if self.model.woken:
            self.model.look_again()

    def _go_on(self) -> None:
        """Run the commands that have come, unless one of them blocks."""
        while self.waits is None and not self.closed and (command := self._reader.gets()) is not False:
            self._process_command(command)

    def thaw(self) -> None:
        held, self._at_hand = self._at_hand, []
        for data in held:
            self.feed(data)

    def lost(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self.waits is not None:
            self.waits[2].cancel()
            self.waits = None
        self.model.connections.pop(self, None)
        self._server.sockets.remove(self)
        self._cleanup(self._server)

    def put_response(self, msg: Any) -> None:
        if self.closed:
            return
        protocol = self._client_info.protocol_version
        if isinstance(msg, Reply):
            self._transport.answer(encoded(msg.value, protocol))
        else:
            data = encoded(msg, protocol)
            self._transport.answer(b">" + data[1:] if protocol == 3 else data)

    # Commands.

    def _process_command(self, fields: list[bytes]) -> None:
        said = self.model.says(fields)
        if said is not None:
            self.put_response(Reply(said))
            return
        name, words = extract_command(fields)
        if self._transaction is not None or name in ("multi", "watch"):
            super()._process_command(fields)
            return
        server = self._server
        with server.lock:
            now = time.time()
            for database in server.dbs.values():
                database.time = now
            try:
                result = self._run_command(*self._name_to_func(name), words, False)
            except SimpleError as error:
                result = error
        if not isinstance(result, NoResponse):
            self.put_response(Reply(result))

    def _decode_result(self, result: Any) -> Any:
        return result if isinstance(result, NoResponse) else Reply(result)

    def _run_command(self, func: Any, sig: Any, args: list[Any], from_script: bool) -> Any:
        """As fakeredis's, without keyspace notifications and checks of itself: a third of its time."""
        items: list[Any] = []
        form = _form_of(sig.name, len(args))
        try:
            if form.writes:
                if (refusal := self._refusal(form)) is not None:
                    raise SimpleError(refusal)
                self._wrote = True
                if form.wakes:
                    self.model.woken = True
            if from_script and not form.in_scripts:
                raise SimpleError(msgs.COMMAND_IN_SCRIPT_MSG)
            if self._pubsub and not form.while_subscribed and self._client_info.protocol_version == 2:
                raise SimpleError(msgs.BAD_COMMAND_IN_PUBSUB_MSG)
            if sig.name == "xpending" and len(args) > 3 and args[2].lower() == b"idle":
                args[3] = b"%d" % (int(args[3]) - 1)  # fakeredis wants more than so much, a server as much
            if form.refusal is not None:
                raise SimpleError(form.refusal)
            found = applied(form, args, self._db, self._used)
            if len(found) == 1:
                result = found[0]
            else:
                args, items = found
                result = func(*args)
                kind = type(result)
                if kind is not bytes and kind is not int and form.converts and self._resp_version == 2:
                    result = convert_to_resp2(result)
        except SimpleError as error:
            result = error
        if isinstance(result, SimpleError) or form.name in DIFFERENT:
            result = corrected(form.name, result)
        for item in items:
            if item.is_modified:
                item.writeback(remove_empty_val=form.drops_empty)
        return result

    def _used(self, key: bytes, *, new: bool) -> None:
        self.model.evictions.used((self._db_num, key), new=new)

    def _refusal(self, form: Form) -> str | None:
        """Why a write is refused now."""
        if self.model.read_only:
            return READONLY
        # A script that has written is let go on, so that it does not end halfway.
        if self.model.full and form.grows and not (self._script_resp and self._wrote):
            return OUT_OF_MEMORY
        return None

    def eval(self, script: bytes, numkeys: int, *keys_and_args: bytes) -> Any:
        if not 0 <= numkeys <= len(keys_and_args):
            raise SimpleError(msgs.TOO_MANY_KEYS_MSG if numkeys > 0 else msgs.NEGATIVE_KEYS_MSG)
        scripts().compiled(script)
        digest = hashlib.sha1(script).hexdigest().encode()
        self._server.script_cache[digest] = script
        self._script_resp = 2
        self._wrote = False
        try:
            result = scripts().run(self, script, keys_and_args[:numkeys], keys_and_args[numkeys:])
        finally:
            self._script_resp = None
        return self._convert_lua_result(result, nested=False)

    def _lua_redis_call(self, lua_runtime: Any, expected_globals: Any, op: bytes, *args: Any) -> Any:
        name = op.decode().lower()
        if name in COMMANDS_WITH_SUB and args:
            name += " " + args[0].decode().lower()
            args = args[1:]
        words = [word if type(word) is bytes else b"%.17g" % word for word in args]
        result = self._run_command(*self._name_to_func(name), words, True)
        kind = type(result)
        return result if kind is bytes or kind is int else self._convert_redis_result(lua_runtime, result)

    def _blocking(self, timeout: float | None, func: Any, shape: Any = None) -> Any:
        found = func(True)
        if found is not None or self._in_transaction:
            return found if shape is None else shape(found)
        timer = self.model.loop.call_later(timeout or 1e9, self._waited)
        self.waits = func, shape, timer
        return NoResponse()

    def _waited(self) -> None:
        """The time of a blocked command is over."""
        if self.waits is not None:
            self._answer_blocked(None)

    def look(self) -> bool:
        """Whether what a blocked command waits for has come."""
        if self.waits is None:
            return False
        with self._server.lock:
            found = self.waits[0](False)
        if found is not None:
            self._answer_blocked(found)
        return found is not None

    def _answer_blocked(self, found: Any) -> None:
        assert self.waits is not None
        _, shape, timer = self.waits
        self.waits = None
        timer.cancel()
        self.put_response(Reply(found if shape is None else shape(found)))
        self._go_on()


class RedisModel:
    """A server, and what is wrong with it."""

    def __init__(self, loop: VirtualLoop, chance: random.Random) -> None:
        self.loop, self._chance = loop, chance
        self.server = _server()
        self.connections: dict[ModelConnection, None] = {}
        self.listens = True
        self.frozen = self.read_only = self.full = self.loading = False
        self.evictions = Evictions(chance.choice(POLICIES), chance, loop.time)
        self.evicting = 0.0
        """The chance that a command finds some key evicted before."""
        self.commands = 0
        self.woken = False
        """Whether there may be what a blocked command waits for."""
        self._numbers = 0

    def numbered(self) -> int:
        self._numbers += 1
        return self._numbers

    def accept(self, transport: MemoryTransport) -> ModelConnection:
        connection = ModelConnection(self, transport)
        self.connections[connection] = None
        return connection

    # What it answers other than fakeredis does.

    def says(self, fields: list[bytes]) -> Any:
        """The answer to what fakeredis does not know, and to anything while it loads its data; or None."""
        self.commands += 1
        name = fields[0].upper()
        if self.loading and name not in (b"HELLO", b"CLIENT", b"SELECT"):
            return SimpleError("LOADING Redis is loading the dataset in memory")
        if name == b"ROLE":
            return [b"slave", b"10.0.0.9", 6379, b"connected", 0] if self.read_only else [b"master", 0, []]
        if name == b"WAIT":
            return 0
        if name == b"INFO":
            role = b"slave" if self.read_only else b"master"
            return b"# Server\r\nredis_version:7.4.0\r\n# Replication\r\nrole:" + role + b"\r\n"
        if self.evicting and self._chance.random() < self.evicting:
            self.evict(1)
        return None

    def look_again(self) -> None:
        """Something may have changed: answer the blocked commands that waited for it."""
        while self.woken:  # what goes on then may wake others
            self.woken = False
            for connection in list(self.connections):
                connection.look()

    # What happens to it.

    def evict(self, count: int) -> None:
        """Keys go for want of memory, as the policy of this run has it."""
        with self.server.lock:
            for _ in range(count):
                held = {number: database._dict for number, database in self.server.dbs.items()}
                if (victim := self.evictions.victim(held)) is None:
                    return
                number, key = victim
                del self.server.dbs[number][key]
                self.server.dbs[number].notify_watch(key)

    def freeze(self) -> None:
        """Nothing is read or answered; connections still come about, since that is the system's part."""
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        for connection in list(self.connections):
            connection.thaw()

    def kill(self, *, keeps: bool) -> None:
        """The process dies; it ``keeps`` its data, on a disk, or loses it. Scripts are lost in any case."""
        self.listens = self.frozen = False
        for connection in list(self.connections):
            connection._transport.cut()
        kept = self.server.dbs if keeps else {}
        self.server = _server()
        for number, database in kept.items():
            for key, item in list(database._dict.items()):  # to read one that has expired would drop it
                self.server.dbs[number][key] = item

    def copied(self) -> dict[int, dict[bytes, Any]]:
        """What it holds now, by database."""
        return {number: copy.deepcopy(dict(held._dict)) for number, held in self.server.dbs.items()}

    def load(self, held: dict[int, dict[bytes, Any]]) -> None:
        """Hold what :meth:`copied` has given."""
        for number, items in held.items():
            self.server.dbs[number]._dict.update(items)

    def restart(self) -> None:
        self.listens = True

    def drop_clients(self) -> None:
        """Every connection is reset (CLIENT KILL, a proxy that restarts)."""
        for connection in list(self.connections):
            connection._transport.cut()

    def mangle(self) -> None:
        """Somebody else writes a value of another type under a key of the library."""
        with self.server.lock:
            for database in list(self.server.dbs.values()):
                if database._dict:
                    key = list(database._dict)[self._chance.randrange(len(database._dict))]
                    item = database._dict[key]
                    item.value = b"what" if not isinstance(item.value, bytes) else [b"a", b"list"]
