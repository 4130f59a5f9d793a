"""The kinds of fields that settings are made of (pure).

What declares settings does without ``from __future__ import annotations``: a text would have to be
evaluated again for each field, which is most of what the import of this package takes.
"""

from collections.abc import Callable
from typing import Annotated

from msgspec import Meta

from bot.core._shared.validation import YEAR

Percent = Annotated[float, Meta(ge=0, le=100)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=YEAR)]
Seconds = Annotated[float, Meta(ge=0, le=YEAR)]
Count = Annotated[int, Meta(ge=1, le=100_000_000)]
Port = Annotated[int, Meta(ge=1, le=65_535)]


def doc(description: str) -> Meta:
    """The meaning of a setting, in one line."""
    return Meta(description=description)


def starting(prefix: str) -> Callable[[str], str]:
    """How fields get the names of settings: ``prefix``, and the field's name in upper case."""
    return lambda name: prefix + name.upper()
