"""Keys and patterns: what is allowed, and how they are written in Redis (pure)."""

from __future__ import annotations

import re
from functools import lru_cache

from bot.core._shared.errors import invalid

PREFIX = "p4c"
MAX_KEY = 1024
"""Characters of a key or a namespace."""


def valid_key(key: object, name: str = "key") -> str:
    """The key itself; raises TypeError or ValueError for what is no key."""
    if not isinstance(key, str):
        raise TypeError(f"{name} = {key!r:.100}: expected a string")
    if not 0 < len(key) <= MAX_KEY:
        raise invalid(name, key[:100], f"a string of 1 to {MAX_KEY:,} characters")
    return key


@lru_cache(maxsize=1024)
def namespace_prefix(namespace: str) -> bytes:
    """The start of every key of a namespace in Redis, which no other namespace's keys share."""
    # The namespace is escaped and the key is not: the first free colon ends the namespace.
    escaped = namespace.replace("%", "%25").replace(":", "%3A")
    return f"{PREFIX}:v:{escaped}:".encode("utf-8", "surrogatepass")


def redis_key(namespace: str, key: str) -> bytes:
    """Where a value lies in Redis."""
    try:
        return namespace_prefix(namespace) + key.encode()
    except UnicodeEncodeError:
        return namespace_prefix(namespace) + key.encode("utf-8", "surrogatepass")


def parse_redis_key(at: bytes) -> tuple[str, str]:
    """The namespace and key of what :func:`redis_key` made; raises ValueError for anything else."""
    prefix, kind, namespace, key = at.decode("utf-8", "surrogatepass").split(":", 3)
    if prefix != PREFIX or kind != "v":
        raise ValueError(f"{at[:100]!r} is no key of the cache")
    return namespace.replace("%3A", ":").replace("%25", "%"), key


def tag_key(tag: str) -> bytes:
    """Where the members of a tag lie in Redis."""
    return f"{PREFIX}:t:{tag}".encode("utf-8", "surrogatepass")


def redis_pattern(namespace: str, pattern: str) -> bytes:
    """A MATCH pattern that finds keys of one namespace only."""
    prefix = re.sub(rb"([*?\[\]\\^])", rb"\\\1", namespace_prefix(namespace))
    return prefix + pattern.encode("utf-8", "surrogatepass")


@lru_cache(maxsize=256)
def compile_glob(pattern: str) -> re.Pattern[str]:
    """The pattern as Redis reads it: ``*``, ``?``, ``[abc]``, ``[a-z]``, ``[^a]`` and ``\\`` to escape."""
    parts: list[str] = []
    index = 0
    while index < len(pattern):
        char = pattern[index]
        if char == "*":
            # Several in a row are one, or the pattern takes exponential time.
            if not parts or parts[-1] != ".*":
                parts.append(".*")
        elif char == "?":
            parts.append(".")
        elif char == "\\" and index + 1 < len(pattern):
            index += 1
            parts.append(re.escape(pattern[index]))
        elif char == "[" and (end := pattern.find("]", index + 2)) > 0:
            inside = pattern[index + 1 : end]
            negated = inside.startswith("^")
            inside = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside[1:] if negated else inside)
            parts.append(f"[{'^' if negated else ''}{inside}]")
            index = end
        else:
            parts.append(re.escape(char))
        index += 1
    try:
        return re.compile("".join(parts), re.DOTALL)
    except re.error as error:
        raise invalid("pattern", pattern, f"a glob such as user:* ({error})") from error
