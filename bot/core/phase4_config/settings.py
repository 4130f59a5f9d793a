"""Settings of one service: a value for each, checked, and changed by new ones (pure)."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Self

import msgspec
from msgspec import Struct

from bot.core.phase4_config.errors import ConfigError
from bot.core.phase4_config.messages import base_type, entry_refusal, refusal


class Settings(Struct, frozen=True):
    """What the settings of each service have in common.

    A field's name is the argument's in ``enable``; its encoded name is the setting's. So one declaration
    serves both, and an error speaks of what the user wrote.
    """

    def changed(self, **given: Any) -> Self:
        """These settings with what is given; None leaves what was set before.

        Raises InvalidArgumentError, which names each wrong argument, its value and what is allowed.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for name, value in given.items():
            if value is None:
                continue
            try:
                values[name] = converted(self.hint(name), name, value)
            except ConfigError as error:
                problems += error.problems
        return self.replaced(values, str, problems)

    def replaced(
        self, values: Mapping[str, Any], named: Callable[[str], str], problems: Iterable[str] = ()
    ) -> Self:
        """These settings with values that are each within their bounds, checked against each other.

        ``named`` gives the name that an error has for a field; ``problems`` are told with its own.
        """
        if problems := list(problems):
            raise ConfigError(*problems)
        new = msgspec.structs.replace(self, **self.completed(values))
        if problems := list(new.conflicts(named)):
            raise ConfigError(*problems)
        return new

    @classmethod
    def prepared(cls, field: str, name: str, value: Any, source: str) -> Any:
        """What a source has for ``field``, before it is checked; ``name`` and ``source`` are for errors."""
        return value

    def completed(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """``values`` with those that follow from them."""
        return values

    def conflicts(self, named: Callable[[str], str]) -> Iterator[str]:
        """What is wrong with values that are each within their bounds, a sentence each."""
        yield from ()

    def values(self, *without: str) -> dict[str, Any]:
        """Every field's value by its name, but for those ``without``."""
        return {name: getattr(self, name) for name in self.__struct_fields__ if name not in without}

    @classmethod
    def hint(cls, name: str) -> Any:
        """A field's type with its bounds and its meaning. Raises TypeError if there is no such field."""
        for each in cls.__mro__:
            if issubclass(each, Settings) and name in each.__annotations__:
                return each.__annotations__[name]
        raise TypeError(f"{name}: no such argument; there are {', '.join(cls.__struct_fields__)}")

    @classmethod
    def setting_names(cls) -> dict[str, str]:
        """Field -> the name of its setting."""
        return dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))


def converted(hint: Any, name: str, value: Any, source: str = "") -> Any:
    """``value`` as ``hint`` has it. Raises ConfigError, which calls it ``name``, from ``source``."""
    base = base_type(hint)
    given = value
    if isinstance(value, bool) and base in (int, float):
        raise ConfigError(refusal(name, value, source, hint))
    if base is str and value is None:
        value = ""
    if isinstance(value, str) and base in (str, Literal):
        value = str.__str__(value)
    if base is Literal and isinstance(value, str):
        # The choices are enum members elsewhere, whose names are upper case.
        value = value.strip().lower()
    if isinstance(value, float):
        value = float(value)  # numpy's are floats, too
        if not math.isfinite(value):
            raise ConfigError(refusal(name, given, source, hint))
    if base is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError:
        raise ConfigError(
            entry_refusal(hint, name, value, source) or refusal(name, given, source, hint)
        ) from None
