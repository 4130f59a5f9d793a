"""Keys and patterns: what is allowed, and how they are written in Redis (pure)."""

from __future__ import annotations

import re
from functools import lru_cache

from bot.core._shared.errors import invalid

PREFIX = "p4c"
EVERY_VALUE = f"{PREFIX}:v:*".encode()
"""A MATCH pattern that finds the keys of every namespace."""

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
    """A MATCH pattern that finds keys of one namespace only: those of the glob, and maybe others.

    Redis compares bytes, so from the first ``?`` or class on it leaves the choice to :func:`compile_glob`.
    """
    prefix = re.sub(rb"([*?\[\]\\^])", rb"\\\1", namespace_prefix(namespace))
    bytewise = re.match(r"(?:\\.|\\\Z|[^?\[\\])*", pattern, re.DOTALL)
    assert bytewise is not None
    start = bytewise[0].encode("utf-8", "surrogatepass")
    return prefix + (start if bytewise.end() == len(pattern) else start + b"*")


@lru_cache(maxsize=256)
def compile_glob(pattern: str) -> re.Pattern[str]:
    """The pattern as Redis reads it: ``*``, ``?``, ``[abc]``, ``[a-z]``, ``[^a]`` and ``\\`` to escape.

    It compares characters where Redis compares bytes; a class that nothing ends goes to the pattern's end.
    """
    parts = [""]  # what stands between stars
    index = 0
    while index < len(pattern):
        char = pattern[index]
        if char == "*":
            parts.append("")
        elif char == "?":
            parts[-1] += "."
        elif char == "[":
            index, found = _class(pattern, index + 1)
            parts[-1] += found
        else:
            if char == "\\" and index + 1 < len(pattern):
                index += 1
            parts[-1] += re.escape(pattern[index])
        index += 1
    if len(parts) == 1:
        return re.compile(parts[0], re.DOTALL)
    first, *between, last = parts
    # A part's first place is as good as any later one; never gone back on, or a match takes for ever.
    found = "".join(f"(?>.*?{part})" for part in between if part)
    return re.compile(f"{first}{found}.*{last}", re.DOTALL)


def _class(pattern: str, index: int) -> tuple[int, str]:
    """Where the class that begins there ends, and the regular expression for it."""
    negated = pattern.startswith("^", index)
    index += negated
    inside = ""
    while index < len(pattern) and pattern[index] != "]":
        left = len(pattern) - index
        if left >= 2 and pattern[index] == "\\":
            index += 1
            inside += re.escape(pattern[index])
        elif left >= 3 and pattern[index + 1] == "-":
            low, high = sorted((pattern[index], pattern[index + 2]))
            inside += f"{re.escape(low)}-{re.escape(high)}"
            index += 2
        else:
            inside += re.escape(pattern[index])
        index += 1
    if not inside:
        return index, "." if negated else "(?!)"
    return index, f"[{'^' if negated else ''}{inside}]"
