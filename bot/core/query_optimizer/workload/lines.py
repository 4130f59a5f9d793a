"""Lines of files of any size: plain or gzip, of any encoding, or standard input."""

from __future__ import annotations

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bot.core.query_optimizer.workload.executions import SourceError

MAX_LINE = 1_000_000
"""Bytes of a line that are read; the rest of a longer one is passed over."""

_GZIP = b"\x1f\x8b"
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def lines_of(name: str, encoding: str = "") -> Iterator[str]:
    """Its lines with their ends; "-" is standard input.

    Without ``encoding`` it is UTF-8, or what a byte order mark says; bytes that are none are replaced. A gzip
    file that is cut off gives what can be read. Raises SourceError, which names the file.
    """
    try:
        if name == "-":
            yield from _decoded(getattr(sys.stdin, "buffer", sys.stdin), encoding)
            return
        with Path(name).open("rb") as file:
            yield from _decoded(file, encoding)
    except OSError as error:
        raise SourceError(f"{name}: {error.strerror or error}") from error


def _decoded(file: Any, encoding: str) -> Iterator[str]:
    if isinstance(file, io.TextIOBase):  # standard input that somebody replaced
        yield from file
        return
    buffered = file if hasattr(file, "peek") else io.BufferedReader(file)
    start = buffered.peek(4)[:4]
    if start.startswith(_GZIP):
        buffered = gzip.GzipFile(fileobj=buffered)
        try:
            start = buffered.peek(4)[:4]
        except (EOFError, zlib.error):
            return
    if not encoding:
        encoding = next((of for mark, of in _MARKS if start.startswith(mark)), "utf-8")
    if encoding.startswith("utf-16"):
        yield from _bounded(codecs.getreader(encoding)(buffered, "replace"), "\n")
        return
    decode = codecs.getdecoder(encoding)
    for line in _bounded(buffered, b"\n"):
        yield decode(line, "replace")[0]


def _bounded(file: IO[Any] | codecs.StreamReader, end: Any) -> Iterator[Any]:
    while True:
        try:
            line = file.readline(MAX_LINE)
            rest = line
            while rest and not rest.endswith(end) and len(rest) >= MAX_LINE:
                rest = file.readline(MAX_LINE)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return  # cut off by rotation, or still being written
        if not line:
            return
        yield line if line.endswith(end) else line + end
