"""The tags of a call: texts with the call's arguments in them, such as ``user:{user_id}``."""

from __future__ import annotations

import datetime
import decimal
import inspect
import re
import string
import uuid
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

from bot.core._shared.errors import invalid, shown
from bot.core.cache_manager.call_keys import LONGEST_INT
from bot.core.cache_manager.callables import signature_of
from bot.core.cache_manager.models import Tags, valid_tags

TagsFrom = Callable[..., Sequence[str]]
"""A function of a call's arguments that returns its tags."""

TagsOfCall = Callable[[Any, Any], tuple[str, ...]]
"""The tags of a call, from its positional and its named arguments."""

_SAFE = "_-.@"
_ESCAPED = "".join(c for c in map(chr, range(128)) if not c.isalnum() and c not in _SAFE)
_TO_ESCAPE = re.compile(f"[{re.escape(_ESCAPED)}]")


class _Field(NamedTuple):
    """A place in a tag: the text before it, and the argument, or its attribute, that stands there."""

    before: str
    name: str
    attribute: str


class _Template(NamedTuple):
    fields: tuple[_Field, ...]
    after: str

    def text(self, arguments: Mapping[str, Any]) -> str:
        parts: list[str] = []
        for before, name, attribute in self.fields:
            value = arguments[name]
            if attribute:
                try:
                    value = getattr(value, attribute)
                except AttributeError as error:
                    raise TypeError(f"tags: {name} is {shown(value)}, which has no {attribute}") from error
            parts += (before, escaped(value))
        return "".join(parts) + self.after


def call_tags(
    decorator: str, function: Callable[..., Any], tags: Tags, tags_from: TagsFrom | None
) -> tuple[str, ...] | TagsOfCall:
    """The tags that all calls of a function have, or a function that gives those of a call.

    Raises InvalidArgumentError for a tag that names no parameter of ``function``, or anything else that
    cannot be filled in unambiguously. ``tags`` is no function here.
    """
    if tags_from is not None and (not callable(tags_from) or inspect.iscoroutinefunction(tags_from)):
        raise invalid("tags_from", tags_from, "a plain function of the arguments, which returns tags")
    assert not callable(tags)
    signature = signature_of(decorator, function)
    given = valid_tags(tags)
    templates = [_parsed(tag, signature.parameters) for tag in given]
    if tags_from is None and not any(template.fields for template in templates):
        return tuple([template.after for template in templates])
    names_arguments = any(template.fields for template in templates)

    def of_call(args: Any, kwargs: Any) -> tuple[str, ...]:
        arguments: Mapping[str, Any] = {}
        if names_arguments:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            arguments = bound.arguments
        found = [template.text(arguments) for template in templates]
        if tags_from is not None:
            more = tags_from(*args, **kwargs)
            if isinstance(more, str) or not isinstance(more, Sequence):
                raise invalid("the result of tags_from", more, "a sequence of tags, such as ('news',)")
            found += more
        return valid_tags(found)

    return of_call


def escaped(value: Any) -> str:
    """A value as it stands in a tag: ASCII characters but letters, digits and ``_-.@`` as ``%`` and two hex
    digits.

    So a text can neither end its place in the tag nor make another tag. Raises TypeError for a value that has
    no text of its own.
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        text = str.__str__(value)
    elif isinstance(value, bool) or value is None:
        text = str(value)
    elif isinstance(value, int):
        text = int.__repr__(value) if value.bit_length() <= LONGEST_INT else hex(value)
    elif isinstance(value, float | decimal.Decimal | uuid.UUID | datetime.date | datetime.time) or (
        type(value).__module__ == "bson.objectid"
    ):
        text = str(value)
    else:
        raise TypeError(
            f"tags: argument of type {type(value).__qualname__}: expected a text, a number, a date, a UUID "
            "or None; name an attribute of it, as in '{user.id}', or give tags_from"
        )
    return _TO_ESCAPE.sub(lambda found: f"%{ord(found[0]):02X}", text)


def _parsed(tag: str, parameters: Mapping[str, inspect.Parameter]) -> _Template:
    fields: list[_Field] = []
    after = ""
    try:
        parts = list(string.Formatter().parse(tag))
    except ValueError as error:
        raise invalid("tags", tag, f"names of arguments in braces, and {{{{ for a brace ({error})") from error
    for text, field, spec, conversion in parts:
        after += text
        if field is None:
            continue
        if spec or conversion:
            raise invalid("tags", tag, "no ! and no : in braces")
        name, _, attribute = field.partition(".")
        _check_field(tag, name, attribute, "." in field, parameters)
        if fields and not any(c in _ESCAPED and c != "%" for c in after):
            raise invalid("tags", tag, "a character such as : between two arguments, which keeps them apart")
        fields.append(_Field(after, name, attribute))
        after = ""
    return _Template(tuple(fields), after)


def _check_field(
    tag: str, name: str, attribute: str, dotted: bool, parameters: Mapping[str, inspect.Parameter]
) -> None:
    parameter = parameters.get(name)
    if parameter is None:
        names = ", ".join(parameters) or "none"
        raise invalid("tags", tag, f"arguments of the function in braces ({names}), not {{{name}}}")
    if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        raise invalid("tags", tag, f"no *{name}, which is of any number; give tags_from")
    if dotted and (not attribute.isidentifier() or attribute.startswith("_")):
        raise invalid("tags", tag, "an argument, or one public attribute of it, in braces")
    if name in ("self", "cls") and not dotted:
        raise invalid("tags", tag, f"an attribute of {name}, which has no text of its own")
