"""What MongoDB filters, pipelines and commands mean, as dicts and lists, and advice on them (pure).

Indexes are suggested in MongoDB's order: equality, then sort, then range (ESR). Nothing is executed; values
never appear in a fingerprint, a shape or a finding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from bot.core.query_optimizer.models import Advice, Analysis
from bot.core.query_optimizer.mongodb.facts import MAX_DEPTH, check_parts, facts_of, names_in
from bot.core.query_optimizer.mongodb.indexes import suggestions_for
from bot.core.query_optimizer.mongodb.rules import findings_of


def advise_mongo(query: Mapping[str, Any] | Sequence[Any], options: Any = None) -> Advice:
    """Type, fingerprint, collections, fields per stage, indexes and findings of a MongoDB query.

    ``query`` is a filter, a pipeline, or a command as the server takes it (``{"find": "users",
    "filter": {...}}``); ``options`` of the first two may be a dict with ``collection``, ``sort``,
    ``limit``, ``skip`` and ``projection``. Any document gets an answer; InvalidArgumentError for one that
    contains itself, or has too many parts.
    """
    check_parts(query)
    facts = facts_of(query, options if isinstance(options, Mapping) else {})
    shape = json.dumps(
        [facts.kind.value, facts.collection, _shape(query, 0), [name for name, _ in facts.sort]]
    )
    findings = list(findings_of(facts))
    indexes = list(suggestions_for(facts))
    columns = {
        stage: tuple(
            dict.fromkeys(
                name for at, condition in facts.filters if at == stage for name in names_in(condition)
            )
        )
        for stage in dict.fromkeys(at for at, _ in facts.filters)
    }
    for stage, body in facts.stages:
        names = (
            tuple(str(name) for name in body)
            if isinstance(body, Mapping) and stage in ("$group", "$project", "$set", "$addFields")
            else ()
        )
        if names:
            columns[stage] = tuple(dict.fromkeys((*columns.get(stage, ()), *names)))
    if facts.sort:
        columns["sort"] = tuple(name for name, _ in facts.sort)
    analysis = Analysis(
        query_type=facts.kind,
        fingerprint=hashlib.blake2b(shape.encode("utf-8", "replace"), digest_size=8).hexdigest(),
        normal_form=shape[:2000],
        reads=frozenset(facts.reads),
        writes=frozenset(facts.writes),
        writes_anything=False,
        not_cacheable="MongoDB documents are analysed, not executed, by the optimizer",
    )
    return Advice(
        query=query,
        analysis=analysis,
        optimized_query=query,
        findings=tuple(findings),
        recommendations=tuple(map(str, findings)),
        index_suggestions=tuple(indexes),
        columns=columns,
    )


def _shape(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        return "..."
    if isinstance(value, Mapping):
        items = [(str(name), _shape(item, depth + 1)) for name, item in value.items()]
        return dict(sorted(items) if depth else items)
    if isinstance(value, list | tuple):
        if not any(isinstance(item, Mapping | list | tuple) for item in value):
            return ["?"]
        return [_shape(item, depth + 1) for item in value]
    return "?"
