"""The model of eviction takes the keys that a real server takes."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import redis

from tests.simulation.eviction_model import Evictions
from tests.support.servers import RedisServer, running

KEYS, GONE = 400, 100
"""Keys, the higher the number the more they are to go; and how many go, more or less."""


def taken(policy, prepare=lambda evictions, now: None, ttl=lambda number: None):
    """The numbers of the keys that the model takes."""
    now = [10_000.0]
    evictions = Evictions(policy, random.Random(1), lambda: now[0])
    items = {b"%d" % number: SimpleNamespace(expireat=ttl(number)) for number in range(KEYS)}
    for key in items:
        evictions.used((0, key), new=True)
    prepare(evictions, now)
    gone = []
    while len(gone) < GONE and (victim := evictions.victim({0: items})) is not None:
        del items[victim[1]]
        gone.append(int(victim[1]))
    return gone


def idle(evictions, now):
    """Key 399 was used first, key 0 last."""
    for number in reversed(range(KEYS)):
        now[0] += 10.0
        evictions.used((0, b"%d" % number), new=False)


def often(evictions, now):
    """Every second key is read often, the others more recently."""
    for number in range(KEYS):
        for _ in range(50 if number % 2 else 1):
            evictions.used((0, b"%d" % number), new=False)
        now[0] += 0.01


def mean(numbers):
    return sum(numbers) / len(numbers) / KEYS


def test_a_key_without_ttl_is_not_volatile():
    gone = taken("volatile-lru", idle, ttl=lambda number: 99_999.0 if number < 10 else None)
    assert sorted(gone) == list(range(10))


def test_what_is_used_often_stays_though_it_was_used_long_ago():
    assert sum(number % 2 for number in taken("allkeys-lfu", often)) < GONE / 20


def test_chance_takes_any_key():
    assert 0.4 < mean(taken("allkeys-random")) < 0.6


@pytest.mark.server
@pytest.mark.parametrize(
    ("policy", "prepare", "ttl", "restored"),
    [
        ("allkeys-lru", idle, lambda number: None, lambda number: (0, "IDLETIME", 10 * number)),
        (
            "volatile-ttl",
            lambda *_: None,
            lambda number: 1e6 - number,
            lambda number: (1_000_000 - 1000 * number,),
        ),
    ],
)
def test_a_real_server_takes_the_same(policy, prepare, ttl, restored):
    """Not the same keys, which are chance, but as far from the best choice."""
    with running(RedisServer()) as server, redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", policy)
        client.set("value", random.Random(2).randbytes(10_000))
        payload = client.dump("value")
        for number in range(KEYS):
            client.execute_command(
                "RESTORE", str(number), restored(number)[0], payload, *restored(number)[1:]
            )
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", used - GONE * 10_000)
        client.ping()
        client.config_set("maxmemory", 0)
        left = {int(key) for key in client.scan_iter() if key != b"value"}
    real = sorted(set(range(KEYS)) - left)
    assert GONE / 2 < len(real) < 2 * GONE
    assert mean(real) == pytest.approx(mean(taken(policy, prepare, ttl)[: len(real)]), abs=0.05)
