"""Redis's Lua: one runtime for all runs, the scripts compiled once, and the ``struct`` that Redis has."""

from __future__ import annotations

import functools
import hashlib
import struct
from typing import Any

from fakeredis import _msgs as msgs
from fakeredis._helpers import SimpleError
from lupa import lua51

_SIZES = {"b": 1, "B": 1, "h": 2, "H": 2, "i": 4, "I": 4, "l": 8, "L": 8, "f": 4, "d": 8}

_PREPARE = """
function(call, pcall, pack, unpack_numbers)
  redis = {call = call, pcall = pcall,
    error_reply = function(text) return {err = text} end,
    status_reply = function(text) return {ok = text} end,
    log = function() end, LOG_WARNING = 3}
  struct = {pack = pack, unpack = unpack_numbers}
  KEYS, ARGV = {}, {}
  return function(script, keys, argv)
    KEYS, ARGV = keys, argv
    return script()
  end
end
"""


def _fields(form: bytes) -> list[tuple[str, str, int]]:
    """The fields of a format of ``struct``: byte order, kind, and number of repetitions or bytes."""
    order, fields, place, text = "<", [], 0, form.decode()
    while place < len(text):
        kind = text[place]
        place += 1
        digits = ""
        while place < len(text) and text[place].isdigit():
            digits += text[place]
            place += 1
        if kind in "<>":
            order = kind
        elif kind == "i" or kind == "I":
            sized = {1: "b", 2: "h", 4: "i", 8: "q"}[int(digits or 4)]
            fields.append((order, sized if kind == "i" else sized.upper(), 0))
        elif kind == "c":
            fields.append((order, "c", int(digits or 1)))
        elif kind in _SIZES:
            fields.append((order, {"l": "q", "L": "Q"}.get(kind, kind), 0))
        elif kind != " ":
            raise SimpleError(f"ERR invalid format option '{kind}'")
    return fields


_fields_of = functools.cache(_fields)


def _pack(form: bytes, *values: Any) -> bytes:
    packed = []
    for (order, kind, size), value in zip(_fields_of(form), values, strict=True):
        if kind == "c":
            packed.append(value[: size or len(value)])
        elif kind in "fd":
            packed.append(struct.pack(order + kind, float(value)))
        else:
            packed.append(struct.pack(order + kind, int(value)))
    return b"".join(packed)


def _unpack(form: bytes, data: bytes, position: int = 1) -> tuple[Any, ...]:
    values: list[Any] = []
    place = int(position) - 1
    for order, kind, size in _fields_of(form):
        if kind == "c":
            taken = size or int(values.pop())
            found: Any = data[place : place + taken]
        else:
            taken = struct.calcsize(order + kind)
            found = None if place + taken > len(data) else struct.unpack_from(order + kind, data, place)[0]
        if place + taken > len(data):
            raise lua51.LuaError("data string too short")
        values.append(found)
        place += taken
    return (*values, place + 1)


class Scripts:
    """Runs scripts for whichever connection of whichever model is at work."""

    def __init__(self) -> None:
        self.runtime = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        self._compiled: dict[bytes, Any] = {}
        self._socket: Any = None
        self._run = self.runtime.eval(_PREPARE)(self._call, self._pcall, _pack, _unpack)

    def _call(self, op: bytes, *args: Any) -> Any:
        return self._socket._lua_redis_call(self.runtime, None, op, *args)

    def _pcall(self, op: bytes, *args: Any) -> Any:
        try:
            return self._call(op, *args)
        except SimpleError as error:
            return self.runtime.table_from({b"err": error.value.encode()})

    def compiled(self, source: bytes) -> Any:
        """A script as a function; raises SimpleError."""
        if source not in self._compiled:
            try:
                self._compiled[source] = self.runtime.eval(b"function() " + source + b"\nend")
            except lua51.LuaError as error:
                raise SimpleError(f"ERR Error compiling script (new function): {error}") from None
        return self._compiled[source]

    def run(self, socket: Any, source: bytes, keys: Any, arguments: Any) -> Any:
        """What a script returns; raises SimpleError."""
        script, table = self.compiled(source), self.runtime.table_from
        self._socket = socket
        try:
            return self._run(script, table(keys), table(arguments))
        except lua51.LuaError as error:
            digest = hashlib.sha1(source).hexdigest()
            raise SimpleError(msgs.SCRIPT_ERROR_MSG.format(digest, error)) from None


@functools.cache
def scripts() -> Scripts:
    """The one of this process."""
    return Scripts()
