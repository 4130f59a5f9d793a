"""Types of the bot's own that travel as bytes: a registered name and the values of the fields (pure).

Nothing that comes back runs code of a class but its own validation. A name that is not registered here, other
fields than the class has here, and values that do not fit the fields' types are refused. The same is refused
when writing, so that what was written can be read.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import msgspec

from bot.core._shared.errors import CorruptPayloadError, UnsupportedValueError, invalid
from bot.core._shared.fitting import field_types, fits

T = TypeVar("T")

MAX_TYPES = 10_000
"""Most types that a process registers: more would be made in a loop."""

LONGEST_NAME = 500

_KINDS = "an Enum, a dataclass, a NamedTuple, a msgspec Struct or a pydantic model (version 2)"


class OtherTypeError(CorruptPayloadError):
    """A value of a type that is not registered here, or has other fields here."""


class Registered:
    """A class whose instances travel as the values of their fields."""

    def __init__(self, kind: type, name: str, fields: Sequence[str]) -> None:
        self.kind = kind
        self.name = name
        self.fields = tuple(fields)
        digest = hashlib.blake2b("\0".join((type(self).__name__, *fields)).encode(), digest_size=6)
        self.key = f"{name}#{digest.hexdigest()}"
        """What stands for the class and its fields."""
        self._always_tried = False
        # Whether a value is made anew before it is written. Changed only by take.
        self._to_be_tried = True

    @functools.cached_property
    def hints(self) -> tuple[Any, ...]:
        """The fields' types. Not before the first value: they may name what is defined after the class."""
        found = field_types(self.kind)
        return tuple([found.get(field, Any) for field in self.fields])

    @functools.cached_property
    def _computed(self) -> frozenset[str]:
        """Attributes that can be computed again."""
        return frozenset(
            name
            for base in self.kind.__mro__
            for name, item in vars(base).items()
            if isinstance(item, functools.cached_property)
        )

    def take(self, value: Any) -> list[Any]:
        """The values of the fields. Raises UnsupportedValueError for an instance that is more than these."""
        try:
            items = self._items(value)
            wrong = self._misfit(items)
            if not wrong and self._to_be_tried:
                self._made(items)
                self._to_be_tried = self._always_tried
        except UnsupportedValueError:
            raise
        except Exception as error:  # of the class's own code
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            raise UnsupportedValueError(f"{self.name}: {wrong}")
        return items

    def make(self, items: list[Any], *, trusted: bool) -> Any:
        """The instance. Raises OtherTypeError for values that do not fit, unless they are ``trusted``."""
        if not trusted and (wrong := self._misfit(items)):
            raise OtherTypeError(f"{self.name}: {wrong}")
        return self._made(items)

    def _misfit(self, items: list[Any]) -> str:
        """What does not fit the fields; empty if all does."""
        if len(items) != len(self.fields):
            return f"{len(items)} values for {len(self.fields)} fields"
        for field, item, hint in zip(self.fields, items, self.hints, strict=True):
            if not fits(item, hint):
                return f"the {type(item).__qualname__} of the field {field} does not fit its type"
        return ""

    def _items(self, value: Any) -> list[Any]:
        inside = getattr(value, "__dict__", None)
        if inside and (more := inside.keys() - self.fields - self._computed):
            raise UnsupportedValueError(f"{self.name} with an attribute that is no field: {min(more)}")
        return [object.__getattribute__(value, field) for field in self.fields]

    def _made(self, items: list[Any]) -> Any:
        raise NotImplementedError


class _Enum(Registered):
    def __init__(self, kind: type[enum.Enum], name: str) -> None:
        # With other members it is another class: a name may have gone.
        super().__init__(kind, name, list(kind.__members__))

    def _items(self, value: Any) -> list[Any]:
        # A combination of flags has no name of its own.
        return [value.value if isinstance(value, enum.Flag) else value.name]

    def _misfit(self, items: list[Any]) -> str:
        if len(items) != 1:
            return f"{len(items)} values for a member"
        if issubclass(self.kind, enum.Flag):
            return "" if type(items[0]) is int else "flags that are no int"
        return "" if type(items[0]) is str and items[0] in self.fields else "no such member"

    def _made(self, items: list[Any]) -> Any:
        kind: Any = self.kind
        if not issubclass(kind, enum.Flag):
            return kind.__members__[items[0]]
        try:
            return kind(items[0])
        except ValueError as error:
            raise OtherTypeError(f"{self.name}: no such flags") from error


class _Dataclass(Registered):
    def _made(self, items: list[Any]) -> Any:
        # Without __init__ and __post_init__: the instance is what its fields were, however they came to be.
        made: Any = object.__new__(self.kind)
        for field, item in zip(self.fields, items, strict=True):
            object.__setattr__(made, field, item)
        return made


class _NamedTuple(Registered):
    def _items(self, value: Any) -> list[Any]:
        if getattr(value, "__dict__", None):
            raise UnsupportedValueError(f"{self.name} with attributes of its own")
        return list(tuple.__iter__(value))

    def _made(self, items: list[Any]) -> Any:
        return tuple.__new__(self.kind, items)


class _Struct(Registered):
    def __init__(self, kind: Any, name: str) -> None:
        super().__init__(kind, name, kind.__struct_fields__)
        self._always_tried = hasattr(kind, "__post_init__")

    def _made(self, items: list[Any]) -> Any:
        # There is no way to make one without its __post_init__; what that changes is set right.
        try:
            made = self.kind(**dict(zip(self.fields, items, strict=True)))
        except Exception as error:
            raise OtherTypeError(f"{self.name}: {type(error).__name__}") from error
        for field, item in zip(self.fields, items, strict=True):
            if getattr(made, field) is not item:
                msgspec.structs.force_setattr(made, field, item)
        return made


class _Pydantic(Registered):
    """Besides the fields: the names of those that were set, what is extra, and private attributes."""

    def __init__(self, kind: Any, name: str) -> None:
        super().__init__(kind, name, list(kind.model_fields))

    @functools.cached_property
    def _by_name(self) -> dict[str, bool] | None:
        """How the model is asked for its fields by their names; None if it cannot be."""
        kind: Any = self.kind
        if all(field.validation_alias is None for field in kind.model_fields.values()):
            return {}
        if "by_name" in inspect.signature(kind.model_validate).parameters:  # from pydantic 2.11 on
            return {"by_name": True, "by_alias": False}
        return None

    def _items(self, value: Any) -> list[Any]:
        inside = value.__dict__
        if more := inside.keys() - self.fields - self._computed:
            raise UnsupportedValueError(f"{self.name} with an attribute that is no field: {min(more)}")
        values = [inside[field] for field in self.fields]
        names = sorted(value.__pydantic_fields_set__)
        return [*values, names, value.__pydantic_extra__, value.__pydantic_private__]

    def _misfit(self, items: list[Any]) -> str:
        kind: Any = self.kind
        if len(items) != len(self.fields) + 3:
            return f"{len(items)} values for {len(self.fields)} fields"
        *values, names, extra, private = items
        if extra is not None and (type(extra) is not dict or kind.model_config.get("extra") != "allow"):
            return "values that belong to no field"
        if not all(type(name) is str and name not in self.fields for name in extra or ()):
            return "values that belong to no field"
        if private is not None and (
            type(private) is not dict or private.keys() - kind.__private_attributes__
        ):
            return "private attributes that the class does not have"
        if type(names) is not list or not all(type(name) is str for name in names):
            return "names of fields that are no text"
        if not set(names) <= {*self.fields, *(extra or ())}:
            return "names that are no fields"
        return self._refused(values)

    def _refused(self, values: list[Any]) -> str:
        """What the model's own validation refuses, or would make something else of."""
        kind: Any = self.kind
        if self._by_name is None:
            return ""
        root = getattr(kind, "__pydantic_root_model__", False)
        given: Any = values[0] if root else dict(zip(self.fields, values, strict=True))
        try:
            found = kind.model_validate(given, **self._by_name).__dict__
        except Exception as error:
            return f"{type(error).__name__} of the model"  # its text would hold the values
        for field, value in zip(self.fields, values, strict=True):
            if not _is_alike(found[field], value):
                return f"the {type(value).__qualname__} of the field {field} does not fit its type"
        return ""

    def _made(self, items: list[Any]) -> Any:
        *values, names, extra, private = items
        kind: Any = self.kind
        made = kind.__new__(kind)
        object.__setattr__(made, "__dict__", dict(zip(self.fields, values, strict=True)))
        object.__setattr__(made, "__pydantic_fields_set__", set(names))
        object.__setattr__(made, "__pydantic_extra__", extra)
        object.__setattr__(made, "__pydantic_private__", private)
        return made


def _is_alike(validated: Any, value: Any) -> bool:
    # A validator may change a text or a number each time; of another type it must not be.
    return type(validated) is type(value) and (type(value) in (str, bytes, int, float) or validated == value)


def _is_pydantic(kind: Any) -> bool:
    return hasattr(kind, "__pydantic_validator__") and hasattr(kind, "model_fields")


def described(kind: Any, name: str) -> Registered | None:
    """How the instances of a class travel; None if it is of no kind that can."""
    if issubclass(kind, enum.Enum):
        return _Enum(kind, name)
    if issubclass(kind, msgspec.Struct):
        return _Struct(kind, name)
    if _is_pydantic(kind):
        return _Pydantic(kind, name)
    if issubclass(kind, tuple):
        return _NamedTuple(kind, name, kind._fields) if hasattr(kind, "_fields") else None
    made: Any = kind
    if dataclasses.is_dataclass(kind) and made.__new__ is object.__new__:
        fields = [field.name for field in dataclasses.fields(kind)]
        return _Dataclass(made, name, fields) if _slots_of(made) <= set(fields) else None
    return None


def _slots_of(kind: Any) -> set[str]:
    parts = [part for base in kind.__mro__ for part in vars(base).items()]
    return {name for name, part in parts if isinstance(part, types.MemberDescriptorType)}


class TypeRegistry:
    """The registered classes of this process. A class that is defined anew under its name takes its place."""

    def __init__(self) -> None:
        # All three are changed only by register. by_key keeps classes of before, for values in memory.
        self.by_type: dict[type, Registered] = {}
        self.by_key: dict[str, Registered] = {}
        self._names: dict[str, type] = {}

    def register(self, kind: type, name: str | None = None) -> Registered:
        """Let instances of a class travel. Raises TypeError or InvalidArgumentError."""
        if not isinstance(kind, type):
            raise TypeError(f"register_type = {kind!r:.200}: expected a class, {_KINDS}")
        origin = f"{kind.__module__}.{kind.__qualname__}"
        name = origin if name is None else name
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
            raise invalid("name", name, f"1 to {LONGEST_NAME} printable characters")
        found = described(kind, name)
        if found is None:
            raise TypeError(f"register_type = {origin}: expected {_KINDS}, whose fields are all it holds")
        before = self._names.get(name)
        if before is not None and before is not kind:
            other = f"{before.__module__}.{before.__qualname__}"
            if other != origin:
                raise invalid("name", name, f"one that does not stand for {other}")
        if len(self.by_key) >= MAX_TYPES and found.key not in self.by_key:
            raise invalid("register_type", kind, f"at most {MAX_TYPES:,} types")
        if before is not None:
            self.by_type.pop(before, None)
        known = self.by_type.get(kind)
        if known is not None:
            self._names.pop(known.name, None)
        self._names[name] = kind
        self.by_type[kind] = self.by_key[found.key] = found
        return found

    def check_invariants(self) -> None:
        """For tests."""
        for kind, found in self.by_type.items():
            assert found.kind is kind
            assert self._names[found.name] is kind
            assert found.key in self.by_key
        assert len(self._names) == len(self.by_type)


REGISTRY = TypeRegistry()
"""Of this process: classes are the process's own, whichever cache meets their instances."""


@overload
def register_type(kind: type[T], *, name: str | None = None) -> type[T]: ...
@overload
def register_type(kind: None = None, *, name: str | None = None) -> Callable[[type[T]], type[T]]: ...
def register_type(kind: Any = None, *, name: str | None = None) -> Any:
    """Let Redis carry the instances of a class: an Enum, dataclass, NamedTuple, Struct or pydantic model.

    Call it in every instance of the bot, once, where the class is defined; as a decorator, too, with
    parentheses or without. It returns the class. ``name`` stands for the class in Redis; by default it is the
    module and the class's own name. Subclasses are registered by themselves. Raises TypeError for what is no
    such class, or has attributes besides its fields, and InvalidArgumentError for another class's name.
    """
    if kind is None:
        return functools.partial(register_type, name=name)
    REGISTRY.register(kind, name)
    return kind


__all__ = ["REGISTRY", "OtherTypeError", "Registered", "TypeRegistry", "register_type"]
