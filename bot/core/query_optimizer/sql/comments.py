"""Comments without effect, which tracers put before or after a statement (pure).

``/*traceparent='00-...'*/`` (sqlcommenter), ``/* application:bot */`` (marginalia), ``-- tag``: they differ
each time, so neither a cached result nor an analysis may depend on them. Hints (``/*+ ... */``) and what
MySQL and MariaDB execute (``/*! ... */``, ``/*M! ... */``) are not comments in this sense.
"""

from __future__ import annotations

import re

MAX_TAGS = 10
"""Comments removed at each end; each costs a copy of the text."""

_BEFORE = re.compile(r"\s*(?:/\*(?![!+]|[Mm]!)(?:[^*/]|\*(?!/)|/(?!\*))*+\*/|--[ \t][^\n\r]*+\n)")
_NOT_INERT = re.compile(r"(?i)\A(?:[!+]|M!)|[\"`$\\\]]|\*/")
_SENDS_ELSEWHERE = re.compile(
    r"(?i)maxscale|proxysql|mycat|vt\+|balance|master|primary|replica|slave|rout|shard"
)
"""Words by which proxies choose a server."""
_SQLCOMMENTER = re.compile(
    r"(?:/\*)?(?:\s*(?:traceparent|tracestate|route|controller|action|framework|application|app_name|db_driver)"
    r"='[^']*'\s*(?:,|(?=\s*(?:\*/)?\Z)))+\s*(?:\*/)?\Z"
)
"""A comment of the tags of sqlcommenter alone: their values are data, ``route='/primary'`` too."""


def untagged(query: str) -> str:
    """``query`` without the comments at its ends; the same object if there are none.

    Two texts that come to the same mean the same, whatever the dialect. At the start it is plain what a
    comment is. At the end, what is taken off has quotes in pairs and none of the other marks that could end
    a string or a comment: if the rest leaves a string open there, neither text is a statement.
    """
    if "/*" not in query and "--" not in query:
        return query
    text = query
    for _ in range(MAX_TAGS):
        match = _BEFORE.match(text)
        if match is None or _sends_elsewhere(match.group()):
            break
        text = text[match.end() :]
    for _ in range(MAX_TAGS):
        shorter = _without_last(text)
        if shorter is None:
            break
        text = shorter
    text = text.strip() if text is not query else text
    return text or query


def _without_last(text: str) -> str | None:
    end = text.rstrip()
    if end.endswith(";"):
        end = end[:-1].rstrip()
    if end.endswith("*/"):
        start = end.rfind("/*", 0, len(end) - 2)
        if start >= 0 and _is_inert(end[start + 2 : -2]):
            return end[:start].rstrip()
        return None
    line = max(end.rfind("\n"), end.rfind("\r")) + 1
    start = end.find("-- ", line)
    if start >= 0 and _is_inert(end[start + 3 :]):
        return end[:start].rstrip()
    return None


def _is_inert(content: str) -> bool:
    return (
        content.count("'") % 2 == 0 and _NOT_INERT.search(content) is None and not _sends_elsewhere(content)
    )


def _sends_elsewhere(comment: str) -> bool:
    """Whether a proxy may choose a server by it."""
    found = _SENDS_ELSEWHERE.search(comment)
    return found is not None and _SQLCOMMENTER.match(comment.strip()) is None
