"""The keys of cached calls: the function, the class it is called on, and its arguments, as text.

Instances of the same code share what they cache in Redis, so a key must mean the same in every process and
after a restart. An object whose name does not mean the same elsewhere (a closure, a class made by a function)
gets a unique name, and is not shared.
"""

from __future__ import annotations

import datetime
import decimal
import functools
import hashlib
import inspect
import os
import re
import secrets
import sys
import types
import uuid
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bot.core.cache_manager.keys import READABLE, printable, valid_key, valid_name

LONGEST_INT = 512
"""Bits up to which an int is written in decimal. For longer ones Python is slow, or refuses."""

LONGEST_READABLE = 200
"""Characters up to which arguments stand in the key as they are, and are not hashed."""

# Read for each call: the ints of LONGEST_INT bits, and the texts that are short enough also when quoted.
_LEAST, _MOST = 1 - 2**LONGEST_INT, 2**LONGEST_INT - 1
_SHORT = LONGEST_READABLE // 2

MAX_PARTS = 100_000
"""How many parts arguments may have; a part counts each time that it is reached."""

MAX_CLASSES = 256
"""Classes remembered for each method that is called on them."""

KeyOf = Callable[[Any, Any], str]
"""The key of a call, from its positional and its named arguments."""


class CallKeys(NamedTuple):
    """The keys of a function's calls."""

    key_of: KeyOf
    start: str
    """How all of them begin; then comes the class, if a class inherits the method, and a colon."""

    on_objects: bool
    """Whether they are those of a method, and may have a class in them."""

    def patterns(self) -> list[str]:
        """Globs that match all of them, and few others."""
        start = re.sub(r"([*?\[\]\\^])", r"\\\1", printable(self.start[: READABLE - 2]))
        if len(self.start) > READABLE - 2:
            return [f"{start}*"]
        return [start, f"{start}:*", *([f"{start}@*"] if self.on_objects else [])]

    def own(self, key: str) -> bool:
        """Whether a key, as it is stored, may be one of them."""
        start = printable(self.start[: READABLE - 2])
        if not key.startswith(start):
            return False
        after = key[len(start) : len(start) + 1]
        return len(self.start) > READABLE - 2 or after in (("", ":", "@") if self.on_objects else ("", ":"))


def key_maker(
    function: Callable[..., Any],
    prefix: str | None,
    key: Callable[..., str] | None,
    *,
    on_class: bool = False,
) -> CallKeys:
    """Makes the keys of a function's calls.

    ``prefix`` replaces the function's own name; ``key`` gives the rest instead of the arguments;
    ``on_class``: the first argument is the class, whatever its name.
    """
    start = _prefix(function, prefix)
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    skipped = None
    if parameters and (on_class or parameters[0].name in ("self", "cls")):
        skipped = parameters[0].name
    if skipped is None:
        if key is not None:
            plain_key = key
            return CallKeys(
                lambda args, kwargs: f"{start}:{_valid_part(plain_key(*args, **kwargs))}", start, False
            )
        return CallKeys(_of_function(signature, parameters, start), start, False)
    of_method = _of_method(function, signature, parameters, start, skipped, key, on_class or skipped == "cls")
    return CallKeys(of_method, start, True)


def _of_function(signature: inspect.Signature, parameters: list[inspect.Parameter], start: str) -> KeyOf:
    # The common case, one argument that is given by position and is an int or a str, needs no binding.
    single = len(parameters) == 1 and parameters[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    begin = f"{start}:"

    def key_of(args: Any, kwargs: Any) -> str:
        if single and not kwargs and len(args) == 1:
            value = args[0]
            kind = type(value)
            if kind is int and _LEAST <= value <= _MOST:
                return f"{begin}{value}"
            if kind is str and len(value) < _SHORT:
                return begin + _quoted(value)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        text = _arguments(bound.arguments.values())
        return begin + text if text else start

    return key_of


def _of_method(
    function: Callable[..., Any],
    signature: inspect.Signature,
    parameters: list[inspect.Parameter],
    start: str,
    skipped: str,
    key: Callable[..., str] | None,
    on_class: bool,
) -> KeyOf:
    single = len(parameters) == 2 and parameters[1].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    starts: dict[Any, str] = {}

    def start_on(receiver: Any) -> str:
        owner = receiver if isinstance(receiver, type) else type(receiver)
        try:
            found = starts.get(owner)
        except TypeError:  # its metaclass makes it unhashable
            return start + _class_suffix(owner, function)
        if found is None:
            if len(starts) >= MAX_CLASSES:
                starts.clear()
            found = starts[owner] = start + _class_suffix(owner, function)
        return found

    def key_of(args: Any, kwargs: Any) -> str:
        if on_class and not (args and isinstance(args[0], type)):
            # The classmethod of Python 3.13 does not bind attributes of the function below it.
            raise TypeError(
                f"{start}: expected the class as the first argument; or put @cached above @classmethod"
            )
        if args and key is not None:
            return f"{start_on(args[0])}:{_valid_part(key(*args, **kwargs))}"
        if single and not kwargs and len(args) == 2:
            value = args[1]
            kind = type(value)
            if kind is int and _LEAST <= value <= _MOST:
                return f"{start_on(args[0])}:{value}"
            if kind is str and len(value) < _SHORT:
                return f"{start_on(args[0])}:{_quoted(value)}"
        bound = signature.bind(*args, **kwargs)
        if key is not None:
            return f"{start_on(bound.arguments[skipped])}:{_valid_part(key(*args, **kwargs))}"
        bound.apply_defaults()
        begin = start_on(bound.arguments[skipped])
        text = _arguments([value for name, value in bound.arguments.items() if name != skipped])
        return f"{begin}:{text}" if text else begin

    return key_of


def _valid_part(part: Any) -> str:
    valid_key(part)
    found: str = part
    return found


# Names of functions.


def _prefix(function: Callable[..., Any], given: str | None) -> str:
    """How all keys of a function begin: ``given`` or its own name, and what was bound to it before."""
    bound = ""
    while True:
        if isinstance(function, functools.partial):
            bound = _bound_text(function, strict=given is None) + bound
            function = function.func
        elif isinstance(function, types.MethodType):
            receiver = function.__self__
            if isinstance(receiver, type) or given is not None:
                owner = receiver if isinstance(receiver, type) else type(receiver)
                bound = _class_suffix(owner, function.__func__) + bound
            else:
                bound = f"@{secrets.token_hex(8)}{bound}"
            function = function.__func__
        else:
            break
    return valid_name(given if given is not None else _own_name(function), "key_prefix") + bound


def _bound_text(function: functools.partial[Any], *, strict: bool) -> str:
    """What a partial adds: its arguments; if they are not plain data, their types, or a unique name."""
    try:
        text = _arguments([*function.args, dict(function.keywords)])
    except TypeError:
        if strict:
            return f"@{secrets.token_hex(8)}"
        values = [*function.args, *function.keywords.values()]
        text = ",".join(_class_name(value if isinstance(value, type) else type(value)) for value in values)
    return f"({text})"


def _own_name(function: Callable[..., Any]) -> str:
    name = f"{_module_name(function.__module__)}.{function.__qualname__}"
    code = getattr(function, "__code__", None)
    if code is None:
        return name
    if code.co_qualname != function.__qualname__:
        # Made by a decorator that copied the name of what it wraps: two of them are two functions.
        name += "@" + _wrapper_name(function, 4)
    if "<locals>" in name.partition("@")[0]:
        if getattr(function, "__closure__", None) or _is_in_local_class(function):
            # All functions of one factory have the same name, in every process, and results of their own.
            return f"{name[:800]}@{secrets.token_hex(8)}"
        name += f"@{_code_digest(code)}"
    digest = _code_digest(code)
    if _DIGESTS.setdefault(name, digest) != digest:
        name += f"@{digest}"  # another function has the same name
    if len(_DIGESTS) > 10_000:
        _DIGESTS.clear()
    return name


_DIGESTS: dict[str, str] = {}


def _is_in_local_class(function: Any) -> bool:
    return not function.__qualname__.rpartition(".")[0].endswith("<locals>")


def _module_name(module: str | None) -> str:
    """The name by which other processes import a module, also for the module that was started."""
    if module != "__main__":
        return module or "?"
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return os.path.splitext(os.path.basename(file))[0] if file else "__main__"


def _wrapper_name(function: Any, depth: int) -> str:
    code = function.__code__
    name = f"{_module_name(function.__globals__.get('__name__'))}.{code.co_qualname}"
    inside = []
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:
            continue
        if isinstance(value, types.FunctionType):
            wraps = value.__code__.co_qualname != value.__qualname__
            inside.append(
                _wrapper_name(value, depth - 1) if wraps and depth else _code_digest(value.__code__)
            )
        else:
            try:
                inside.append(_text(value, [MAX_PARTS]))
            except TypeError:
                inside.append(_class_name(value if isinstance(value, type) else type(value)))
    text = ",".join(inside)
    return f"{name}({hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()})"


def _code_digest(code: types.CodeType) -> str:
    """The same in every process that runs this code on this version of Python."""
    found = hashlib.blake2b(digest_size=8)

    def add(part: types.CodeType) -> None:
        found.update(part.co_code)
        found.update(repr((part.co_names, part.co_varnames, part.co_freevars)).encode("utf-8", "replace"))
        for constant in part.co_consts:
            if isinstance(constant, types.CodeType):
                add(constant)
            elif isinstance(constant, frozenset):
                found.update(repr(sorted(map(repr, constant))).encode("utf-8", "replace"))
            else:
                found.update(repr(constant).encode("utf-8", "replace"))

    add(code)
    return found.hexdigest()


# Names of classes.


def _class_suffix(owner: type, function: Callable[..., Any]) -> str:
    """Tells a call on a class that inherits a method from a call on the class that defines it."""
    defined_in = (function.__module__, function.__qualname__.rpartition(".")[0])
    own = (owner.__module__, owner.__qualname__) == defined_in
    if own and not any((base.__module__, base.__qualname__) == defined_in for base in owner.__mro__[1:]):
        return ""
    return f"@{_class_name(owner)}"


def _class_name(owner: type) -> str:
    name = f"{_module_name(owner.__module__)}.{owner.__qualname__}"
    found: Any = sys.modules.get(owner.__module__)
    for part in owner.__qualname__.split("."):
        found = getattr(found, part, None)
    # If a class is not found under its name, there may be several of that name.
    return name if found is owner else f"{name[:400]}@{_unique(owner)}"


_UNIQUE: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


def _unique(owner: type) -> str:
    """A name that no other class has, in any process."""
    try:
        return _UNIQUE.setdefault(owner, secrets.token_hex(8))
    except TypeError:  # its metaclass makes it unhashable
        return secrets.token_hex(8)


# Texts of arguments.


def _arguments(values: Any) -> str:
    left = [MAX_PARTS]
    text = ",".join([_text(value, left) for value in values])
    if len(text) > LONGEST_READABLE:
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
    return text


def _quoted(text: str) -> str:
    # Quoted and escaped: an argument with a comma or a quote in it must not read as two.
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _text(value: Any, left: list[int], depth: int = 0) -> str:
    """A text that differs for values that differ, types included. Raises TypeError for anything but plain
    data.
    """
    kind = type(value)
    if kind is int:
        return str(value) if value.bit_length() <= LONGEST_INT else hex(value)
    if kind is str:
        return _quoted(value)
    if kind in (bool, float, bytes, type(None), complex):
        return repr(value)
    left[0] -= 1
    if left[0] < 0 or depth > 100:
        raise TypeError("arguments nested too deeply, or of too many parts; give @cached a key function")
    below = depth + 1
    if kind in (list, tuple):
        inside = ",".join([_text(item, left, below) for item in value])
        return f"[{inside}]" if kind is list else f"({inside},)"
    if isinstance(value, Mapping):
        pairs = [f"{_text(k, left, below)}:{_text(v, left, below)}" for k, v in value.items()]
        return "{" + ",".join(sorted(pairs)) + "}"
    if kind in (set, frozenset):
        return "<" + ",".join(sorted([_text(item, left, below) for item in value])) + ">"
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal | uuid.UUID):
        return repr(value)
    if kind.__module__ == "bson.objectid":
        return f"ObjectId({value})"
    raise TypeError(f"argument of type {kind.__qualname__}: expected plain data; give @cached a key function")
