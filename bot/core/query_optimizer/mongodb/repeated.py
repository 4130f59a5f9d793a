"""The one operation to use instead of many that differ in a value: ``$in``, or a write of many (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bot.core.query_optimizer.models import Analysis
from bot.core.query_optimizer.mongodb.keys import NotCacheableError, frozen_arguments
from bot.core.query_optimizer.mongodb.samples import Keyed, Sample

_WRITES = {
    "insert_one": "insert_many([...])",
    "update_one": "bulk_write([UpdateOne(...), ...])",
    "replace_one": "bulk_write([ReplaceOne(...), ...])",
    "delete_one": "bulk_write([DeleteOne(...), ...])",
}
"""Writes of one document, and what writes many."""


def batched_read(analysis: Analysis, keys: Sequence[Any]) -> str | None:
    """What to write instead of reads of one shape, given the keys of some of them.

    "" if they are repetitions for which no single read is known; None if the repetition is no N+1 pattern:
    reads in pages, by ranges or lists, or of more than one varying field.
    """
    first, found = keys[0], set()
    if isinstance(first, Sample) and first.method in _WRITES:
        return analysis.normal_form.partition(f".{first.method}(")[0] + f".{_WRITES[first.method]}"
    for key in keys[1:]:
        if key != first:
            single = _batched(analysis, first, key)
            if single is None:
                return None
            found.add(single)
    return found.pop() if len(found) == 1 else ""


def _batched(analysis: Analysis, first: Any, second: Any) -> str | None:
    one, other = _arguments(first), _arguments(second)
    if one is None or other is None:
        return None
    (name, ours), (_, theirs) = one, other
    differing = [each for each in ours if ours[each] != theirs.get(each)]
    if ours.keys() != theirs.keys() or differing != ["filter"]:
        return None
    field = _varying_field(ours["filter"], theirs["filter"])
    if field is None:
        return None
    options = set(ours) - {"filter", "projection"}
    if name != "find_one" or options:
        return ""
    form = analysis.normal_form.replace(".find_one(", ".find(", 1)
    single = form.replace(f"{field}: ?", f"{field}: {{$in: [...]}}", 1)
    return single if single != form else ""


def _arguments(key: Any) -> tuple[str, dict[str, Any]] | None:
    """(the method, its arguments as frozen) of a key, or of a sample."""
    if isinstance(key, Sample):
        try:
            return key.method, dict(frozen_arguments(key.arguments()))
        except NotCacheableError:
            return None
    try:
        _, (_, _, _, method, arguments) = key.key if isinstance(key, Keyed) else key
        return method, dict(arguments)
    except (TypeError, ValueError):
        return None


def arguments_in(operation: Any) -> tuple[str, dict[str, Any]] | None:
    """(the method, its arguments as plain documents) of a key or a sample; None for anything else."""
    if isinstance(operation, Sample):
        return operation.method, operation.arguments()
    found = _arguments(operation)
    return None if found is None else (found[0], {name: _thawed(each) for name, each in found[1].items()})


def _thawed(value: Any) -> Any:
    """A frozen value as it was; of the types of BSON only what they consist of."""
    kind, within = value
    if kind is dict:
        return {name: _thawed(each) for name, each in within}
    if kind is list or kind is tuple:
        return [_thawed(each) for each in within]
    return _thawed(within) if type(within) is tuple and kind is not None else within


def _varying_field(ours: Any, theirs: Any) -> str | None:
    """The one field that both filters compare for equality, with two values."""
    if ours[0] is not dict and theirs[0] is not dict:
        return "_id"  # a value alone stands for the _id
    if ours[0] is not dict or theirs[0] is not dict:
        return None
    left, right = dict(ours[1]), dict(theirs[1])
    if left.keys() != right.keys():
        return None
    differing: list[str] = [name for name in left if left[name] != right[name]]
    if len(differing) != 1 or differing[0].startswith("$"):
        return None
    for value in (left[differing[0]], right[differing[0]]):
        if value[0] is dict and any(name.startswith("$") for name, _ in value[1]):
            return None
        if value[0] in (list, tuple):
            return None
    return differing[0]
