"""What a bot's users do, as HTTP requests from a fixed seed (pure)."""

from __future__ import annotations

import bisect
import itertools
import json
import random
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import quote

from bot.service.dataset import FILES, USERS

MIX = {"user": 62, "search": 13, "overview": 5, "upload_check": 10, "upload": 5, "batch": 5}
"""Percent of requests by kind. Reads are 80: a user's page, a search, the totals."""

READS = ("user", "search", "overview")
ZIPF = 1.07
"""Exponent of the users' popularity: 2,000 users, the first of whom makes about a tenth of the requests."""

FILE_BYTES = 4096
BATCH_ITEMS = 10
_WORDS = (
    "aurora harbor linux mint debian ubuntu fedora session lecture archive podcast episode trailer "
    "album live acoustic remix sample dataset backup photos wedding holiday tutorial course season "
    "manual firmware driver patch release nightly stable beta museum concert"
).split()
_YEARS = [str(year) for year in range(2015, 2026)]


class Request(NamedTuple):
    kind: str
    data: bytes
    """The whole request, as it goes over the wire."""


class Zipf:
    """Ranks from 1, the kth drawn in proportion to ``1 / k ** exponent``."""

    def __init__(self, count: int, exponent: float) -> None:
        weights = [1.0 / rank**exponent for rank in range(1, count + 1)]
        self._cumulative = list(itertools.accumulate(weights))

    def draw(self, rng: random.Random) -> int:
        return bisect.bisect_left(self._cumulative, rng.random() * self._cumulative[-1]) + 1


def requests(seed: int, *, misses: bool = False, mix: dict[str, int] | None = None) -> Iterator[Request]:
    """Requests without end. With ``misses``, each read asks for what was not asked for before."""
    rng = random.Random(seed)
    mix = mix or MIX
    kinds, weights = list(mix), list(itertools.accumulate(mix.values()))
    users, words = Zipf(USERS, ZIPF), Zipf(len(_WORDS), 0.8)
    fresh = itertools.count(seed * 1_000_003)
    while True:
        kind = rng.choices(kinds, cum_weights=weights)[0]
        if misses:
            yield _miss(kind, rng, next(fresh))
            continue
        if kind == "user":
            yield Request(kind, _get(f"/api/data?user_id={users.draw(rng)}"))
        elif kind == "search":
            # Half of them a word, half a word and a year, as people narrow what they found.
            text = _WORDS[words.draw(rng) - 1]
            if rng.random() < 0.5:
                text += "." + rng.choice(_WORDS)[:4]
            yield Request(kind, _get(f"/api/data?search={quote(text)}"))
        elif kind == "overview":
            yield Request(kind, _get("/api/data"))
        else:
            yield _write(kind, rng)


def _miss(kind: str, rng: random.Random, number: int) -> Request:
    if kind in ("user", "search", "overview"):
        return Request(kind, _get(f"/api/data?search={number:x}"))
    return _write(kind, rng)


def _write(kind: str, rng: random.Random) -> Request:
    # Any user alike: the limit is per user, and what is measured here is not how often it refuses.
    user = rng.randrange(1, USERS + 1)
    if kind == "upload_check":
        return Request(kind, _get(f"/api/upload?user_id={user}"))
    if kind == "upload":
        name = ".".join(rng.choices(_WORDS, k=3)) + f".{rng.choice(_YEARS)}.iso"
        body = rng.randbytes(FILE_BYTES)
        return Request(kind, _post(f"/api/upload?user_id={user}&name={quote(name)}", body))
    items = [
        {"user_id": rng.randrange(1, USERS + 1), "file_id": rng.randrange(1, FILES + 1)}
        for _ in range(BATCH_ITEMS)
    ]
    return Request(kind, _post("/api/batch", json.dumps({"items": items}).encode(), "application/json"))


TOKEN = "token-of-the-benchmark"
"""The load is a bot's: with it the users that it names are believed, so that each has a limit of its own."""

_HEAD = f"Host: bench\r\nAuthorization: Bearer {TOKEN}\r\n"


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\n{_HEAD}\r\n".encode()


def _post(path: str, body: bytes, content_type: str = "application/octet-stream") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\n{_HEAD}Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
