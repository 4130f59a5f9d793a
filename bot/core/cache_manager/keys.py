"""Keys and patterns: what is allowed, and how they are written in Redis (pure)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

from bot.core._shared.errors import invalid

PREFIX = "p4c"
LOAD, LOCK = "load", "lock"
"""The kinds of leases: of loads, and of ``cache.lock``. They do not exclude each other."""

MAX_KEY = 1024
"""Characters of a namespace, of a pattern, and of a key that is stored as it is."""

READABLE = 512
"""Characters of a longer key that are stored, for patterns and for people who look into Redis."""

_TAIL = 65
"""Characters that end what is stored for a hashed key: ``~`` and 64 digits."""


def valid_key(key: object, name: str = "key") -> str:
    """What is stored for a key (or a tag). Raises TypeError or ValueError for an invalid one.

    That is the key itself, unless it is longer than :data:`MAX_KEY` or holds a lone surrogate, which cannot
    be encoded: then it is its beginning and its hash. No two keys are stored alike. Use it only on keys that
    callers give: applied twice it gives something else.
    """
    if type(key) is str and key and len(key) < _TAIL and key.isascii():
        return key
    if not isinstance(key, str):
        raise TypeError(f"{name} = {key!r:.100}: expected a string")
    length = len(key)
    if 0 < length <= MAX_KEY and key.isascii() and (length < _TAIL or key[-_TAIL] != "~"):
        return key
    if not key:
        raise invalid(name, key, "a string of 1 character or more")
    return _storable(key)


def are_stored_as_they_are(keys: Sequence[object]) -> bool:
    """Whether :func:`valid_key` gives back each of the keys; False also if that takes a closer look."""
    try:
        text = "".join(keys)  # type: ignore[arg-type]  # that it is no text is what is asked
    except TypeError:
        return False
    lengths = set(map(len, keys))  # type: ignore[arg-type]
    return text.isascii() and max(lengths, default=1) < _TAIL and 0 not in lengths


def _storable(key: str) -> str:
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        encoded = key.encode("utf-8", "surrogatepass")
    else:
        # A key that looks like a hashed one is hashed, too, so that it cannot overwrite another key.
        if len(key) <= MAX_KEY and not (len(key) >= _TAIL and key[-_TAIL] == "~"):
            return key
    return f"{printable(key[:READABLE])}~{hashlib.blake2b(encoded, digest_size=32).hexdigest()}"


def printable(text: str) -> str:
    """The text with ``?`` for each lone surrogate, as it stands in the readable part of a hashed key."""
    return text.encode("utf-8", "replace").decode()


def valid_name(value: object, name: str) -> str:
    """A namespace or a prefix, unchanged. Raises TypeError or ValueError for an invalid one."""
    if not isinstance(value, str):
        raise TypeError(f"{name} = {value!r:.100}: expected a string")
    if value.isascii() and 0 < len(value) <= MAX_KEY:
        return value
    if not 0 < len(value) <= MAX_KEY:
        raise invalid(name, value[:100], f"a string of 1 to {MAX_KEY:,} characters")
    if printable(value) != value:
        raise invalid(name, value[:100], "a string without lone surrogates")
    return value


def every_key(root: bytes = b"") -> bytes:
    """A MATCH pattern that finds every key of the cache; ``root`` is that of the link, here and below."""
    return root + f"{PREFIX}:*".encode()


def every_value(root: bytes = b"") -> bytes:
    """A MATCH pattern that finds the values of every namespace."""
    return root + f"{PREFIX}:v:*".encode()


def tag_key(tag: str, root: bytes = b"") -> bytes:
    """The key of a tag's token in Redis."""
    return root + f"{PREFIX}:g:{tag}".encode("utf-8", "surrogatepass")


def channel_of(database: int, root: str = "") -> str:
    """The channel on which instances tell each other of changes in a database."""
    return f"{root}{PREFIX}:changes:{database}"


@lru_cache(maxsize=1024)
def namespace_prefix(namespace: str, root: bytes = b"") -> bytes:
    """The start of every key of a namespace in Redis, which no other namespace's keys share."""
    # The namespace is escaped and the key is not: the first free colon ends the namespace.
    escaped = namespace.replace("%", "%25").replace(":", "%3A")
    return root + f"{PREFIX}:v:{escaped}:".encode("utf-8", "surrogatepass")


def redis_key(namespace: str, key: str, root: bytes = b"") -> bytes:
    """The key of a value in Redis."""
    try:
        return namespace_prefix(namespace, root) + key.encode()
    except UnicodeEncodeError:
        return namespace_prefix(namespace, root) + key.encode("utf-8", "surrogatepass")


def redis_keys(namespace: str, keys: Sequence[str], root: bytes = b"") -> list[bytes]:
    """:func:`redis_key` of each."""
    prefix = namespace_prefix(namespace, root)
    try:
        return [prefix + key.encode() for key in keys]
    except UnicodeEncodeError:
        return [redis_key(namespace, key, root) for key in keys]


def lease_key(kind: str, namespace: str, key: str, root: bytes = b"") -> bytes:
    """The key of a lease, in a cluster in the slot of :func:`redis_key` wherever possible."""
    at = redis_key(namespace, key, root)
    # A cluster hashes what is between the first braces only, if there are any with something between.
    if b"}" not in at:
        at = b"{" + at + b"}"
    return root + f"{PREFIX}:{kind}:".encode() + at


def is_lock(at: bytes, root: bytes = b"") -> bool:
    """Whether a key in Redis is the lease of a ``cache.lock``."""
    return at.startswith(root + f"{PREFIX}:{LOCK}:".encode())


def parse_redis_key(at: bytes) -> tuple[str, str]:
    """The namespace and key of what :func:`redis_key` made; raises ValueError for anything else."""
    prefix, kind, namespace, key = at.decode("utf-8", "surrogatepass").split(":", 3)
    if prefix != PREFIX or kind != "v":
        raise ValueError(f"{at[:100]!r} is no key of the cache")
    return namespace.replace("%3A", ":").replace("%25", "%"), key


def redis_pattern(namespace: str, pattern: str, root: bytes = b"") -> bytes:
    """A MATCH pattern that finds keys of one namespace only: those of the glob, and maybe others.

    Redis compares bytes, so from the first ``?`` or class on :func:`compile_glob` has to decide.
    """
    prefix = re.sub(rb"([*?\[\]\\^])", rb"\\\1", namespace_prefix(namespace, root))
    bytewise = re.match(r"(?:\\.|\\\Z|[^?\[\\])*", pattern, re.DOTALL)
    assert bytewise is not None
    start = bytewise[0].encode("utf-8", "surrogatepass")
    return prefix + (start if bytewise.end() == len(pattern) else start + b"*")


@lru_cache(maxsize=256)
def compile_glob(pattern: str) -> re.Pattern[str]:
    """The pattern as Redis reads it: ``*``, ``?``, ``[abc]``, ``[a-z]``, ``[^a]`` and ``\\`` to escape.

    It compares characters, while Redis compares bytes. A class that is not closed extends to the end of the
    pattern.
    """
    parts = [""]  # the parts between stars
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
    # The first match of a part is as good as any later one. Without backtracking no pattern takes exponential
    # time.
    found = "".join(f"(?>.*?{part})" for part in between if part)
    return re.compile(f"{first}{found}.*{last}", re.DOTALL)


def _class(pattern: str, index: int) -> tuple[int, str]:
    """Where the class ends that begins there, and its regular expression."""
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
