"""Indexes for a MongoDB query, in MongoDB's order: equality, then sort, then range (ESR) (pure)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bot.core.query_optimizer.models import IndexSuggestion, QueryType
from bot.core.query_optimizer.mongodb.facts import Facts, as_list, conditions_in

_RANGES = frozenset(("$gt", "$gte", "$lt", "$lte", "$regex", "$type"))


def _branches(condition: Mapping[str, Any]) -> list[dict[str, list[str]]]:
    """By which fields an index would be used: one set of {field: operators} for each branch of an $or."""
    common: dict[str, list[str]] = {}
    branches: list[dict[str, list[str]]] = []
    queue: list[Any] = [condition]
    for part in queue:
        if not isinstance(part, Mapping) or len(queue) > 1000:
            continue
        for name, value in part.items():
            if name == "$and":
                queue += as_list(value)
            elif name == "$or":
                for item in as_list(value):
                    found: dict[str, list[str]] = {}
                    for key, operator, _ in conditions_in(item):
                        if key:
                            found.setdefault(key, []).append(operator)
                    branches.append(found)
            elif not str(name).startswith("$"):
                for key, operator, _ in conditions_in({name: value}):
                    common.setdefault(key, []).append(operator)
    return [{**common, **branch} for branch in branches] or [common]


def suggestions_for(facts: Facts) -> Iterator[IndexSuggestion]:
    yield from _for_filter(facts)
    seen: set[tuple[str, str]] = set()
    for stage, body in facts.stages:
        if stage != "$lookup" or not isinstance(body, Mapping):
            continue
        source, name = body.get("from"), body.get("foreignField")
        if not isinstance(source, str) or not isinstance(name, str) or name in ("", "_id"):
            continue
        if (source, name) not in seen:
            seen.add((source, name))
            yield IndexSuggestion(
                table=source,
                columns=(name,),
                ddl=f"db.{_target(source)}.createIndex({{ {json.dumps(name)}: 1 }})",
                reason="$lookup searches by it once for every document",
            )


def _target(collection: str) -> str:
    return collection if re.fullmatch(r"\w+", collection) else f"getCollection({json.dumps(collection)})"


def _of_one_array(branch: dict[str, list[str]]) -> dict[str, list[str]]:
    """Without the conditions on all arrays but the first: MongoDB has no index over two arrays."""
    arrays = [name for name, operators in branch.items() if "$elemMatch" in operators]
    others = tuple(f"{name}." for name in arrays[1:])
    return {
        name: operators
        for name, operators in branch.items()
        if name not in arrays[1:] and not name.startswith(others)
    }


def _for_filter(facts: Facts) -> Iterator[IndexSuggestion]:
    if facts.kind is QueryType.AGGREGATE and (
        not facts.stages or facts.stages[0][0] not in ("$match", "$sort")
    ):
        return
    condition = (
        facts.filters[0][1] if facts.filters and (not facts.stages or facts.stages[0][0] == "$match") else {}
    )
    seen: set[tuple[str, ...]] = set()
    for branch in map(_of_one_array, _branches(condition)):
        equal = [name for name, ops in branch.items() if set(ops) & {"$eq", "$in", "$all"}]
        ranged = [name for name, ops in branch.items() if name not in equal and set(ops) & _RANGES]
        if "_id" in equal:
            continue  # _id has its index, and one document is left
        order = [(name, 1) for name in equal]
        order += [(name, way) for name, way in facts.sort if name not in equal]
        known = {name for name, _ in order}
        order += [(name, 1) for name in ranged if name not in known]
        names = tuple(name for name, _ in order)
        if not names or names == ("_id",) or names in seen:
            continue
        seen.add(names)
        keys = ", ".join(f"{json.dumps(name)}: {way}" for name, way in order)
        yield IndexSuggestion(
            table=facts.collection,
            columns=names,
            ddl=f"db.{_target(facts.collection)}.createIndex({{ {keys} }})",
            reason="equality, then sort, then range: found in order, and none is read in vain",
        )
