"""How many bytes the data of an item count, unless the user tells it."""

from __future__ import annotations

from bot.core._shared.errors import invalid
from bot.core._shared.values import encode_body
from bot.core.batch_processor.sizes import SizeOf, Sizes


def bytes_of(data: object) -> int:
    """The bytes of bytes, of a string as UTF-8, or of other plain data as MessagePack.

    Raises UnsupportedValueError for anything else.
    """
    if isinstance(data, bytes | bytearray):
        return len(data)
    if isinstance(data, memoryview):
        return data.nbytes
    if isinstance(data, str):
        return len(data) if data.isascii() else len(data.encode("utf-8", "surrogatepass"))
    return len(encode_body(data))


def check_size_of(function: object) -> None:
    """Raises InvalidArgumentError for what is no function."""
    if function is not None and not callable(function):
        raise invalid("size_of", function, "a function of an item's data that returns its bytes")


def measure_by(sizes: Sizes, function: SizeOf | None) -> None:
    """Measure by this function from now on; None: as before, which at first is :func:`bytes_of`."""
    if function is not None:
        sizes.function = function
    elif sizes.function is len:
        sizes.function = bytes_of
