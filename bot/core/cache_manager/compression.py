"""Bodies made smaller, by zlib or by zstd, and back: each reader knows both, whatever it writes itself.

zstd is in the standard library from Python 3.14 on; before, it is the optional package ``backports.zstd``.
What comes from Redis is untrusted, so a reader takes as many bytes as it asked for, and believes no size that
a frame declares.
"""

from __future__ import annotations

import functools
import sys
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from bot.core._shared.errors import CorruptPayloadError, MisuseError

ZLIB, ZSTD = 1, 8
"""Flags of a payload: how its body was made smaller. 0 for neither; both is no payload."""

COMPRESSED = ZLIB | ZSTD

WORTH = 0.9
"""Share of its size that a value must shrink to, or it is sent as it is."""

WINDOW = 21
"""A zstd frame refers back by at most 2 to the power of this bytes (2 MiB), which is what reading it may take
as a window. Frames that want more are refused.
"""

LEVEL = 3
"""Of zstd. For 64 KB of rows 40 % of the time of zlib's level 1, and a seventh smaller."""


class MissingZstdError(CorruptPayloadError):
    """A value is compressed by zstd, which this process does not have."""


class Packed(NamedTuple):
    """A body made smaller."""

    flag: int
    body: bytes


Pack = Callable[[bytes], Packed | None]
"""Makes a body smaller; None if it is not worth it. Lets other threads run meanwhile."""


@functools.cache
def zstd_module() -> ModuleType | None:
    """``compression.zstd`` or what stands for it; None without either."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        return None
    return zstd


def pack_of(form: str) -> Pack:
    """What makes bodies smaller by "zlib" or "zstd". Raises MisuseError if there is no zstd."""
    if form == "zlib":
        return packed_by_zlib
    if zstd_module() is None:
        raise MisuseError(
            'CACHE_COMPRESSION_FORMAT = "zstd": Python before 3.14 needs backports.zstd for it; '
            "pip install 'bot-phase4[zstd]'"
        )
    return packed_by_zstd


def packed_by_zlib(body: bytes) -> Packed | None:
    return _if_worth(ZLIB, zlib.compress(body, 1), len(body))


def packed_by_zstd(body: bytes) -> Packed | None:
    zstd: Any = zstd_module()
    parameter = zstd.CompressionParameter
    options = {parameter.compression_level: LEVEL, parameter.window_log: WINDOW}
    return _if_worth(ZSTD, zstd.compress(body, options=options), len(body))


def _if_worth(flag: int, smaller: bytes, size: int) -> Packed | None:
    return Packed(flag, smaller) if len(smaller) < size * WORTH else None


class Reader(Protocol):
    """Reads a body that was made smaller."""

    def read(self, most: int) -> bytes:
        """The next bytes, ``most`` of them; fewer only at the end. Raises CorruptPayloadError."""

    def ended(self) -> bool:
        """Whether that was all, and nothing follows."""


def reader_of(flag: int, data: bytes) -> Reader:
    """Raises MissingZstdError."""
    return _ZlibReader(data) if flag == ZLIB else _ZstdReader(data)


class _ZlibReader:
    def __init__(self, data: bytes) -> None:
        self._inner = zlib.decompressobj()
        self._left = data

    def read(self, most: int) -> bytes:
        try:
            found = self._inner.decompress(self._left, most)
        except zlib.error as error:
            raise CorruptPayloadError(f"compressed body: {error}") from error
        self._left = self._inner.unconsumed_tail
        return found

    def ended(self) -> bool:
        return self._inner.eof and not self._inner.unused_data


class _ZstdReader:
    def __init__(self, data: bytes) -> None:
        zstd: Any = zstd_module()
        if zstd is None:
            raise MissingZstdError(
                "it is compressed by zstd, for which Python before 3.14 needs backports.zstd; "
                "pip install 'bot-phase4[zstd]'"
            )
        self._error = zstd.ZstdError
        self._inner = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW})
        self._left = data

    def read(self, most: int) -> bytes:
        data, self._left = self._left, b""  # it keeps what it has not read yet
        try:
            return bytes(self._inner.decompress(data, most)) if not self._inner.eof else b""
        except self._error as error:
            raise CorruptPayloadError(f"compressed body: {error}") from error

    def ended(self) -> bool:
        return bool(self._inner.eof) and not self._inner.unused_data
