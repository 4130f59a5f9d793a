"""zlib and zstd: what is read again, what is refused, and instances of which only some have zstd."""

import logging
import random
import zlib
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot.core._shared.errors import CorruptPayloadError, MisuseError
from bot.core.cache_manager import CacheManager, codec, compression
from bot.core.cache_manager.codec import HEADER_SIZE, LARGE, MAX_INFLATED, decode, encode
from bot.core.cache_manager.compression import (
    WINDOW,
    ZLIB,
    ZSTD,
    MissingZstdError,
    Packed,
    packed_by_zlib,
    packed_by_zstd,
    zstd_module,
)

zstd = zstd_module()
if zstd is None:
    pytest.skip("needs Python 3.14 or backports.zstd", allow_module_level=True)
TEXT = "".join(f"line {n}: user {n * 7919 % 1000}\n" for n in range(30_000))
SMALL = TEXT[:5_000]
PACKS = pytest.mark.parametrize("pack", [packed_by_zlib, packed_by_zstd])


def as_zlib(data):
    return codec.fold(b"", smaller=Packed(ZLIB, zlib.compress(data, 1)))


def as_zstd(data, **options):
    options = {getattr(zstd.CompressionParameter, name): value for name, value in options.items()}
    smaller = zstd.compress(data, options={zstd.CompressionParameter.window_log: WINDOW} | options)
    return codec.fold(b"", smaller=Packed(ZSTD, smaller))


FORMS = pytest.mark.parametrize("form", [as_zlib, as_zstd])


@pytest.fixture
def no_zstd(monkeypatch):
    """As in a process whose Python has no zstd."""
    monkeypatch.setattr(compression, "zstd_module", lambda: None)


# One way and back.


@PACKS
@pytest.mark.parametrize("size", [1_025, codec.SAMPLED_ABOVE + 1, LARGE, LARGE + 1, 3 * LARGE, 3 << 20])
def test_a_value_comes_back(pack, size):
    value = ["ab" * (size // 4), {"bytes": bytes(size // 2)}]
    payload = encode(value, pack=pack, keep=3.0, tags={"t": bytes(codec.TOKEN)})
    assert len(payload) < size / 10
    assert decode(payload).value == value


@given(st.binary(max_size=3_000).map(lambda body: body * 3))
@example(b"")
def test_any_body_that_is_worth_it_comes_back(body):
    for pack in (packed_by_zlib, packed_by_zstd):
        packed = pack(body)
        if packed is not None:
            assert len(packed.body) < len(body)
            assert codec.unfold(codec.fold(body, smaller=packed))[0] == body


@PACKS
def test_noise_is_sent_as_it_is(pack):
    assert pack(random.Random(1).randbytes(10_000)) is None


@FORMS
@pytest.mark.parametrize("size", [LARGE - 1, LARGE, LARGE + 1, MAX_INFLATED - 1, MAX_INFLATED])
def test_a_body_that_inflates_to_exactly_a_bound_is_read(form, size):
    body = b"x" * size
    assert codec.unfold(form(body))[0] == body


def test_the_formats_are_told_apart_by_the_flags():
    assert (encode(SMALL)[1], encode(SMALL, pack=packed_by_zstd)[1], encode("small")[1]) == (ZLIB, ZSTD, 0)


# What is refused.


@FORMS
@pytest.mark.parametrize("cut", [1, 4, 9, 200])
@pytest.mark.parametrize("size", [1000, LARGE, 2 * LARGE])
def test_a_body_that_is_cut_off_is_refused(form, size, cut):
    payload = form(random.Random(1).randbytes(size))
    with pytest.raises(CorruptPayloadError):
        codec.unfold(payload[:-cut])


@FORMS
@pytest.mark.parametrize("size", [1000, LARGE, 2 * LARGE])
def test_a_body_that_goes_on_after_its_end_is_refused(form, size):
    payload = form(bytes(size))
    for more in (b"\0", payload[HEADER_SIZE:]):
        with pytest.raises(CorruptPayloadError, match="goes on after its end"):
            codec.unfold(payload + more)


@FORMS
def test_a_bomb_is_refused(form):
    with pytest.raises(CorruptPayloadError, match="unfolds to more"):
        codec.unfold(form(bytes(MAX_INFLATED + 1)))


def test_a_bomb_of_a_gigabyte_is_refused_after_the_bound():
    part = zstd.compress(bytes(1 << 20), options={zstd.CompressionParameter.window_log: WINDOW})
    assert zstd.get_frame_info(part).decompressed_size == 1 << 20
    # A frame that says nothing of its size, and goes on: each block of 128 KiB takes four bytes.
    endless = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: WINDOW})
    bomb = b"".join(endless.compress(bytes(1 << 20)) for _ in range(1 << 10)) + endless.flush()
    assert len(bomb) < 200_000
    taken = []
    head, reader = codec.unpack_head(codec.fold(b"", smaller=Packed(ZSTD, bomb)), bomb)
    read = reader.read
    with (
        mock.patch.object(reader, "read", lambda most: taken.append(read(most)) or taken[-1]),
        pytest.raises(CorruptPayloadError, match="unfolds to more"),
    ):
        codec.unpack_rest(head, reader)
    assert len(head) + sum(map(len, taken)) == MAX_INFLATED + 1


def lying(size):
    """A frame of four bytes that declares ``size`` of them."""
    frame = bytearray(zstd.compress(b"four" * 100, options={zstd.CompressionParameter.window_log: WINDOW}))
    assert frame[4] >> 6 == 1  # the size has two bytes, less 256
    frame[5:7] = (size - 256).to_bytes(2, "little")
    return bytes(frame)


@pytest.mark.parametrize("size", [399, 401, 65_791])
def test_a_size_that_a_frame_declares_is_not_believed(size):
    with pytest.raises(CorruptPayloadError):
        codec.unfold(codec.fold(b"", smaller=Packed(ZSTD, lying(size))))
    assert codec.unfold(codec.fold(b"", smaller=Packed(ZSTD, lying(400))))[0] == b"four" * 100


@pytest.mark.parametrize("log", [WINDOW + 1, 27, 31])
def test_a_frame_that_wants_a_large_window_is_refused(log):
    frame = b"\x28\xb5\x2f\xfd" + bytes([0, (log - 10) << 3]) + b"\x01\x00\x00"  # one empty block
    with pytest.raises(CorruptPayloadError, match="compressed body"):
        codec.unfold(codec.fold(b"", smaller=Packed(ZSTD, frame)))
    frame = frame.replace(bytes([(log - 10) << 3]), bytes([(WINDOW - 10) << 3]), 1)
    assert codec.unfold(codec.fold(b"", smaller=Packed(ZSTD, frame)))[0] == b""


def test_the_largest_value_that_is_compressed_fits_the_window():
    body = random.Random(1).randbytes(3 << 20) + bytes(MAX_INFLATED - (3 << 20))
    packed = packed_by_zstd(body)
    assert packed is not None
    assert codec.unfold(codec.fold(body, smaller=packed))[0] == body


@given(st.binary(max_size=200), st.integers(0, 200))
def test_damaged_frames_are_read_or_refused(noise, at):
    frame = zstd.compress(SMALL[:300].encode(), options={zstd.CompressionParameter.window_log: WINDOW})
    for damaged in (noise, frame[:4] + noise, frame[:at] + noise + frame[at + len(noise) :]):
        try:
            codec.unfold(codec.fold(b"", smaller=Packed(ZSTD, damaged)))
        except CorruptPayloadError:
            continue


# Instances.


@pytest.fixture
async def zstd_writer(redis_server):
    cache = CacheManager()
    await cache.enable(redis_url=redis_server.url, compression_format="zstd")
    yield cache
    await cache.disable()


async def in_redis(cache, key):
    """What Redis has, past L1."""
    cache._tiers.local.l1.store.clear()
    return await cache.get(key, "default")


async def flags_of(raw, key):
    return (await raw.execute("GET", f"p4c:v:default:{key}"))[1]


@pytest.mark.parametrize("value", [SMALL, TEXT], ids=["small", "large"])
async def test_each_reads_what_the_other_wrote(pair, zstd_writer, raw, value):
    a, _ = pair
    await zstd_writer.set("by zstd", value)
    await a.set("by zlib", value)
    await zstd_writer.set_many({"many": value})
    assert [await flags_of(raw, key) for key in ("by zstd", "by zlib", "many")] == [ZSTD, ZLIB, ZSTD]
    assert await in_redis(a, "by zstd") == value
    assert await in_redis(zstd_writer, "by zlib") == value
    for cache in (a, zstd_writer):
        cache._tiers.local.l1.store.clear()
        found = await cache.get_many(["by zstd", "by zlib", "many"])
        assert found == dict.fromkeys(("by zstd", "by zlib", "many"), value)


async def test_a_reader_without_zstd_misses_and_says_so_once(pair, zstd_writer, caplog, no_zstd_later):
    a, _ = pair
    await zstd_writer.set_many({"one": SMALL, "two": TEXT})
    no_zstd_later()
    with caplog.at_level(logging.WARNING, "bot.core.cache_manager"):
        assert await in_redis(a, "one") is None
        assert await a.get_many(["one", "two"]) == {}
        assert await a.get("two") is None
    [said] = [record.getMessage() for record in caplog.records]
    assert "compressed by zstd" in said
    assert "pip install 'bot-phase4[zstd]'" in said
    await a.set("one", SMALL)
    assert await in_redis(a, "one") == SMALL


@pytest.fixture
def no_zstd_later(monkeypatch):
    """Called, it leaves the readers without zstd."""
    return lambda: monkeypatch.setattr(compression, "zstd_module", lambda: None)


async def test_commands_on_a_key_know_its_value_is_there(pair, zstd_writer):
    a, _ = pair
    await zstd_writer.set("k", SMALL, 60, tags=["t"])
    await zstd_writer.set("plain", SMALL, 60)
    for key in ("k", "plain"):
        assert not await a.add(key, "other", 60)
        assert await a.touch(key, 600)
        assert await a.ttl(key) > 100
        with pytest.raises(TypeError):
            await a.incr(key)
        assert await in_redis(a, key) == SMALL
    assert await a.add("added", SMALL, 60)
    await a.invalidate_tags(["t"])
    assert await in_redis(a, "k") is None


async def test_the_format_changes_while_values_are_there(zstd_writer, raw):
    await zstd_writer.set("before", SMALL)
    await zstd_writer.enable(compression_format="zlib")
    await zstd_writer.set("after", SMALL)
    await zstd_writer.enable(compression_format="zstd", compression=False)
    await zstd_writer.set("off", SMALL)
    assert [await flags_of(raw, key) for key in ("before", "after", "off")] == [ZSTD, ZLIB, 0]
    for key in ("before", "after", "off"):
        assert await in_redis(zstd_writer, key) == SMALL


async def test_without_zstd_it_cannot_be_asked_for(no_zstd):
    cache = CacheManager()
    with pytest.raises(MisuseError, match=r"backports.zstd.*bot-phase4\[zstd\]"):
        await cache.enable(compression_format="zstd")
    assert not cache.enabled
    with pytest.raises(ValueError, match="compression_format"):
        await cache.enable(compression_format="lz4")


def test_a_payload_by_zstd_is_none_without_it(no_zstd):
    with pytest.raises(MissingZstdError):
        decode(codec.fold(b"", smaller=Packed(ZSTD, zstd.compress(b"x" * 2_000))))
    assert decode(encode(SMALL)).value == SMALL
