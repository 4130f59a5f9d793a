"""MongoDB operations as the optimizer counts and files them: a form without values, collections (pure)."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from typing import Any

from bot.core.query_optimizer.models import Analysis, QueryType
from bot.core.query_optimizer.mongodb.keys import NotCacheableError
from bot.core.query_optimizer.sql.names import MONGODB

MAX_FORM = 2_000
"""Characters of a form."""

MAX_SHAPE_DEPTH = 20
MAX_SHAPE_PARTS = 10_000
"""Parts of a filter that are looked at, each counted wherever it stands; the others are "?"."""

_KINDS = {
    "find_one": QueryType.FIND, "find": QueryType.FIND, "count_documents": QueryType.FIND,
    "count": QueryType.FIND, "distinct": QueryType.FIND,
    "aggregate": QueryType.AGGREGATE, "map_reduce": QueryType.AGGREGATE,
    "insert_one": QueryType.INSERT, "insert_many": QueryType.INSERT,
    "delete_one": QueryType.DELETE, "delete_many": QueryType.DELETE, "find_one_and_delete": QueryType.DELETE,
    "drop": QueryType.DDL, "rename": QueryType.DDL, "drop_database": QueryType.DDL,
}  # fmt: skip

_STAGES = frozenset(
    (
        "$match $project $set $unset $addFields $group $sort $limit $skip $unwind $count $lookup "
        "$graphLookup $unionWith $facet $bucket $bucketAuto $sortByCount $replaceRoot $replaceWith $redact "
        "$geoNear $densify $fill $setWindowFields $documents"
    ).split()
)
"""Stages of a pipeline whose result is kept: what they answer depends on documents alone."""

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


@functools.lru_cache(maxsize=4096)
def filed_as(database: str, collection: str) -> str:
    """The name under which results that read a collection are filed; no SQL table has such a name."""
    # A dot within a name must not look like a dot between names.
    name = f"{database}/{collection}".replace("\\", "\\\\").replace(".", "\\.")
    return f"{MONGODB}{name}"


EVERYTHING = f"{MONGODB}/"
"""Stands for the collections of all databases; no database has an empty name."""


@functools.lru_cache(maxsize=1024)
def whole_database(database: str) -> str:
    """The name that stands for all collections of a database; no collection has an empty name."""
    return filed_as(database, "")


@functools.lru_cache(maxsize=4096)
def reads_of(database: str, collection: str) -> frozenset[str]:
    """What a read of a collection is filed by: its own name, and those by which a write to all drops it."""
    return frozenset((filed_as(database, collection), whole_database(database), EVERYTHING))


def analysis_of(
    method: str,
    database: str,
    collection: str,
    arguments: Mapping[str, Any],
    *,
    reads: frozenset[str] = frozenset(),
    writes: frozenset[str] = frozenset(),
    not_cacheable: str = "",
) -> Analysis:
    """The analysis of an operation of a driver's collection. Its form holds no value."""
    target = f"{database}.{collection}" if collection else database
    form = f"{target}.{method}({_form(arguments)})"[:MAX_FORM]
    return Analysis(
        query_type=_KINDS.get(method, QueryType.UPDATE),
        fingerprint=hashlib.blake2b(form.encode("utf-8", "replace"), digest_size=8).hexdigest(),
        normal_form=form,
        reads=reads,
        writes=writes,
        writes_anything=False,
        not_cacheable=not_cacheable,
    )


def _form(arguments: Mapping[str, Any]) -> str:
    parts = []
    for name, value in arguments.items():
        if value is None or name in ("session", "comment", "document", "documents", "requests"):
            continue
        if name == "filter":
            parts.append(filter_form(value if isinstance(value, Mapping) else {"_id": value}))
        elif name == "pipeline":
            parts.append(_pipeline_form(value, 0))
        elif name in ("projection", "sort", "hint", "key"):
            parts.append(f"{name}={_fields(value)}")
        else:
            parts.append(f"{name}=?")
    return ", ".join(parts)


def filter_form(condition: Any) -> str:
    """A filter without its values."""
    return _filter_form(condition, 0, [MAX_SHAPE_PARTS])


def _filter_form(condition: Any, depth: int, left: list[int]) -> str:
    if not isinstance(condition, Mapping) or depth > MAX_SHAPE_DEPTH or left[0] < 0:
        return "?"
    left[0] -= 1 + len(condition)
    parts = []
    for name, value in condition.items():
        if name == "$comment":
            continue
        if name in ("$and", "$or", "$nor") and isinstance(value, list | tuple):
            branches = dict.fromkeys(_filter_form(branch, depth + 1, left) for branch in value)
            shown = f"[{', '.join(branches)}]"
        elif isinstance(value, Mapping) and value and all(str(each).startswith("$") for each in value):
            inner = []
            for operator, operand in value.items():
                within = operator in ("$not", "$elemMatch")
                inner.append(f"{operator}: {_filter_form(operand, depth + 1, left) if within else '?'}")
            shown = "{" + ", ".join(inner) + "}"
        else:
            shown = "?"
        parts.append(f"{_path(name)}: {shown}")
    return "{" + ", ".join(parts) + "}"


def _path(name: Any) -> str:
    return _NUMBER.sub("?", str(name)[:200])


def _fields(value: Any) -> str:
    """Names of fields, as of a sort or a projection."""
    if isinstance(value, str):
        return _path(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(map(_path, value)) + "}"
    if isinstance(value, list | tuple):
        names = [each[0] if isinstance(each, list | tuple) and each else each for each in value]
        return f"[{', '.join(map(_path, names))}]"
    return "?"


def _pipeline_form(stages: Any, depth: int) -> str:
    if not isinstance(stages, list | tuple) or depth > MAX_SHAPE_DEPTH:
        return "?"
    parts = []
    for stage in stages:
        if not isinstance(stage, Mapping) or len(stage) != 1:
            parts.append("?")
            continue
        name, body = next(iter(stage.items()))
        if name == "$match":
            shown = filter_form(body)
        elif name in ("$sort", "$group", "$project", "$set", "$addFields", "$unset"):
            shown = _fields(body)
        elif name in ("$lookup", "$unionWith", "$graphLookup"):
            source = body.get("from", body.get("coll")) if isinstance(body, Mapping) else body
            shown = _path(source) if isinstance(source, str) else "?"
        else:
            shown = "?"
        parts.append(f"{name}: {shown}")
    return f"[{', '.join(parts)}]"


def written_by_pipeline(pipeline: Any, database: str) -> frozenset[str]:
    """The collections that a pipeline writes by $out or $merge."""
    written = set()
    for stage in pipeline if isinstance(pipeline, list | tuple) else ():
        if not isinstance(stage, Mapping):
            continue
        for name in ("$out", "$merge"):
            if name in stage:
                body = stage[name]
                target = body.get("into", body) if name == "$merge" and isinstance(body, Mapping) else body
                if isinstance(target, Mapping):
                    written.add(filed_as(str(target.get("db", database)), str(target.get("coll"))))
                else:
                    written.add(filed_as(database, str(target)))
    return frozenset(written)


def read_by_pipeline(pipeline: Any, database: str) -> frozenset[str]:
    """The further collections that a pipeline reads.

    Raises NotCacheableError if its result must not be kept.
    """
    found: set[str] = set()
    queue: list[Any] = [pipeline]
    for stages in queue:  # grows while it is read
        if not isinstance(stages, list | tuple) or len(queue) > 1_000:
            raise NotCacheableError("its pipeline cannot be read")
        for stage in stages:
            if not isinstance(stage, Mapping) or len(stage) != 1:
                raise NotCacheableError("its pipeline cannot be read")
            name, body = next(iter(stage.items()))
            if name not in _STAGES:
                raise NotCacheableError(f"it has the stage {name!s:.40}")
            if name == "$facet":
                queue += body.values() if isinstance(body, Mapping) else [None]
            elif name in ("$lookup", "$graphLookup", "$unionWith"):
                source = body
                if isinstance(body, Mapping):
                    source = body.get("from" if name != "$unionWith" else "coll")
                    if "pipeline" in body:
                        queue.append(body["pipeline"])
                if isinstance(source, str):
                    found.add(filed_as(database, source))
                elif source is not None or not isinstance(body, Mapping) or "pipeline" not in body:
                    raise NotCacheableError(f"it is unknown what its {name} reads")
    return frozenset(found)
