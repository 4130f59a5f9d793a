"""Advice on a shape of MongoDB operations, from one operation of it (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from bot.core.query_optimizer.models import Advice, Analysis, QueryType
from bot.core.query_optimizer.mongodb.documents import advise_mongo
from bot.core.query_optimizer.mongodb.repeated import arguments_in

_WRITES = {"update_one": "update", "update_many": "update", "delete_one": "delete", "delete_many": "delete"}


def advice_on(form: str, kind: QueryType, collections: tuple[str, ...], operation: Any) -> Advice:
    """``operation`` is the last one of the shape: a key or a sample; None if it was not kept."""
    names = frozenset(collections)
    analysis = Analysis(
        query_type=kind,
        fingerprint="",
        normal_form=form,
        reads=names if kind in (QueryType.FIND, QueryType.AGGREGATE) else frozenset(),
        writes=frozenset() if kind in (QueryType.FIND, QueryType.AGGREGATE) else names,
        writes_anything=False,
        not_cacheable="MongoDB documents are analysed, not executed, by the optimizer",
    )
    found = arguments_in(operation)
    collection = next((name for name in collections if f"{form}(".startswith(f"{name}.")), "collection")
    command = None if found is None else _command(found[0], found[1], collection.partition(".")[2])
    if command is None:
        return Advice(query=form, analysis=analysis, optimized_query=form)
    return replace(advise_mongo(command), query=form, optimized_query=form, analysis=analysis)


def _command(method: str, arguments: Mapping[str, Any], collection: str) -> dict[str, Any] | None:
    """The command that the driver sends for a method."""
    condition = arguments.get("filter", {})
    if not isinstance(condition, Mapping):
        condition = {"_id": condition}
    if method in ("find", "find_one", "count", "count_documents"):
        name = "find" if method.startswith("find") else "count"
        options = {each: arguments[each] for each in ("sort", "limit", "skip") if each in arguments}
        if "projection" in arguments or method != "find":
            options["projection"] = arguments.get("projection") or {"_id": 1}
        if method == "find_one":
            options["limit"] = 1
        return {name: collection, "filter": condition, **options}
    if method == "distinct":
        return {"distinct": collection, "query": condition}
    if method == "aggregate":
        return {"aggregate": collection, "pipeline": arguments.get("pipeline")}
    if method in _WRITES:
        many = method.endswith("_many")
        item = {"q": condition, "multi": many, "limit": 0 if many else 1}
        return {_WRITES[method]: collection, f"{_WRITES[method]}s": [item]}
    if method.startswith("find_one_and_"):
        return {"findAndModify": collection, "query": condition}
    return None
