"""How the cache compresses: the share that is left, and what it takes, by zlib and by zstd."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.harness import machine
from bot.core.cache_manager import codec, compression


def rows_of(size: int) -> bytes:
    """Rows as a bot would cache them, encoded, of about ``size`` bytes."""
    chance = random.Random(3)
    words = "pending done failed active queued user admin mirror torrent movie season episode archive".split()
    rows: list[dict[str, Any]] = []
    body = b""
    while len(body) < size:
        for _ in range(max(1, (size - len(body)) // 160)):
            rows.append(
                {
                    "id": len(rows),
                    "name": f"{chance.choice(words)} {chance.choice(words)} {chance.randrange(5_000)}",
                    "tier": chance.choice(("free", "pro")),
                    "active": chance.random() < 0.8,
                    "score": round(chance.random() * 10, 2),
                    "bytes": chance.randrange(1 << 32),
                    "created_at": f"2026-{chance.randrange(1, 13):02}-{chance.randrange(1, 29):02}T12:00:00Z",
                    "status": chance.choice(words),
                }
            )
        body = codec.encode_value(rows)
    return body


def compare_formats(repeats: int = 15) -> None:
    """zlib against zstd: the share of a body that is left, and processor time, minima of ``repeats``."""
    packs = {"zlib": compression.packed_by_zlib}
    if compression.zstd_module() is None:
        print("zstd left out: it needs Python 3.14 or backports.zstd")
    else:
        packs["zstd"] = compression.packed_by_zstd
    print("### Compression of rows, processor time in µs\n")
    print("| bytes | " + " | ".join(f"{name}: share left | compress | decompress" for name in packs) + " |")
    print("|---:|" + "---:|---:|---:|" * len(packs))

    def least(call: Callable[[], Any], times: int) -> float:
        taken = []
        for _ in range(repeats):
            start = time.thread_time()
            for _ in range(times):
                call()
            taken.append((time.thread_time() - start) / times * 1e6)
        return min(taken)

    for size in (4 << 10, 64 << 10, 1 << 20):
        body, times = rows_of(size), max(1, (256 << 10) // size)
        cells = []
        for pack in packs.values():
            packed = pack(body)
            assert packed is not None
            payload = codec.fold(body, smaller=packed)
            assert codec.unfold(payload)[0] == body
            packing = least(partial(pack, body), times)
            unpacking = least(partial(codec.unfold, payload), times)
            cells += [f"{len(packed.body) / len(body):.3f}", f"{packing:.0f}", f"{unpacking:.0f}"]
        print(f"| {len(body):,} | " + " | ".join(cells) + " |")
    print()


if __name__ == "__main__":
    print(f"{machine()}\n")
    compare_formats()
