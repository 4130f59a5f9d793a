"""What is allowed, in words, and what is said of a value that is not (pure)."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from bot.core._shared.bounded_repr import CONTAINERS, repr_within
from bot.core._shared.masking import mask_secrets


def bare(hint: Any) -> Any:
    """A type without its bounds."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint


def is_optional(hint: Any) -> bool:
    """Whether None is allowed too."""
    return type(None) in get_args(bare(hint))


def base_type(hint: Any) -> Any:
    """A type without its bounds and parameters, and without None: ``dict``, ``Literal``, ``int``."""
    hint = bare(hint)
    if is_optional(hint):
        hint = bare(get_args(hint)[0])
    return get_origin(hint) or hint


def allowed(hint: Any) -> str:
    """What a type accepts. A ``title`` says it where bounds cannot."""
    bounds: list[str] = []
    if get_origin(hint) is UnionType or get_origin(hint) is Union:
        return " or ".join(allowed(each) for each in get_args(hint))
    while get_origin(hint) is Annotated:
        hint, *metas = get_args(hint)
        for meta in metas:
            if meta.title:
                return str(meta.title)
            for sign, bound in ((">", meta.gt), (">=", meta.ge), ("<", meta.lt), ("<=", meta.le)):
                if bound is not None:
                    bounds.append(f"{sign} {_plain(bound)}")
    if get_origin(hint) is UnionType or get_origin(hint) is Union:
        return allowed(hint)
    origin = get_origin(hint) or hint
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    words = {
        bool: "True or False", int: "a whole number", float: "a number", str: "a string",
        dict: "a dict", list: "a list", tuple: "a list", type(None): "None",
    }[origin]  # fmt: skip
    return " ".join([words, " and ".join(bounds)]).strip()


def _plain(bound: float) -> str:
    if 0 < bound < 1e-4:  # which Python writes as 1e-05
        return f"{bound:.12f}".rstrip("0")
    return f"{bound:,}".replace(",", "_")


def meaning(hint: Any) -> str:
    """The meaning of a setting in one line."""
    found = ""
    while get_origin(hint) is Annotated:
        hint, *metas = get_args(hint)
        found = next((meta.description for meta in metas if meta.description), found)
    return found


def refusal(name: str, value: Any, source: str, hint: Any) -> str:
    """What is wrong with a value of this type."""
    return said_of(name, value, source, allowed(hint))


def said_of(what: str, value: Any, source: str, expected: str) -> str:
    """``source`` is where a setting came from; empty for an argument."""
    try:
        if what.endswith("_TOKEN"):
            shown = f"a {type(value).__qualname__}"
        else:
            # With room to spare, so that masking sees whole what it would hide.
            text = repr_within(value, 10_000) if type(value) in CONTAINERS else repr(value)
            shown = mask_secrets(text)
    except Exception:  # an int of 5,000 digits among others
        shown = f"a {type(value).__qualname__}"
    if len(shown) > 200:
        shown = shown[:200] + "..."
    return f"{what} = {shown}{f' (from {source})' if source else ''}: expected {expected}"


def entry_refusal(hint: Any, name: str, value: Any, source: str) -> str:
    """Which entry of a dict or list is wrong, and where; empty if the value is neither."""
    hint = bare(hint)
    entries: list[tuple[Any, Any]]
    if get_origin(hint) is dict and isinstance(value, dict):
        entries = list(value.items())
    elif get_origin(hint) in (list, tuple) and isinstance(value, list | tuple):
        entries = list(enumerate(value))
    else:
        return ""
    import msgspec  # here, not above: only an error needs it

    entry_hint = get_args(hint)[0 if get_origin(hint) is tuple else -1]
    for key, entry in entries:
        try:
            msgspec.convert(entry, entry_hint)
        except msgspec.ValidationError as error:
            place = f"{name}[{key!r}]"
            said, _, path = str(error).partition(" - at ")
            field = path.strip("`").removeprefix("$.")
            hints = get_type_hints(entry_hint, include_extras=True) if isinstance(entry_hint, type) else {}
            if field in hints and isinstance(entry, dict) and field in entry:
                return said_of(f"{place}.{field}", entry[field], source, allowed(hints[field]))
            if not path and not isinstance(entry_hint, type):
                return refusal(place, entry, source, entry_hint)
            return said_of(place, entry, source, f"a valid entry, but: {said[:1].lower()}{said[1:]}")
    return ""
