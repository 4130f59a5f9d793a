"""How a figure of the statistics is declared (pure).

What a service tells is a Struct. A field's name is the figure's key, its type the value's, and its
annotation the metric that it becomes, if it becomes one::

    class CacheManagerFigures(Figures, frozen=True, kw_only=True):
        service = "cache_manager"
        loads: Annotated[int, counter("phase4_cache_loads", "Loaders run")]
        early_refreshes: int

A property is a second key for a figure. What declares figures does without ``from __future__ import
annotations``, as the settings do.
"""

from collections.abc import Mapping
from functools import cache
from types import MemberDescriptorType
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, get_type_hints

from msgspec import UNSET, Struct
from msgspec.structs import asdict

Kind = TypeVar("Kind")

MB = 1_048_576.0


class Metric(NamedTuple):
    """A metric of Prometheus, and the labels that one figure has in it."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()
    scale: float = 1.0
    """What the figure is multiplied by: metrics are in seconds and bytes."""
    values: tuple[str, ...] = ()

    def of(self, *values: str) -> "Metric":
        """The metric with a figure's values of its labels."""
        return self._replace(values=values)


def counter(name: str, help: str, *labels: str, scale: float = 1.0) -> Metric:
    """A metric that only grows; Prometheus shows it as ``<name>_total``."""
    return Metric(name, "counter", help, labels, scale)


def gauge(name: str, help: str, *labels: str, scale: float = 1.0) -> Metric:
    """A metric that goes up and down."""
    return Metric(name, "gauge", help, labels, scale)


DEGRADED = gauge("phase4_service_degraded", "1 if the service goes on without its backend", "service")


class Figures(Struct, frozen=True, kw_only=True):
    """What a service tells, or one of its pools, limits or instances. What is UNSET is not told."""

    service: ClassVar[str]
    """The key of the service in the status."""
    label: ClassVar[str] = ""
    """What tells the members of a service apart in metrics (``pool``); empty for the service as a whole."""

    def as_dict(self) -> dict[str, Any]:
        """Each figure by its key, ready for JSON."""
        told = {
            key: _plain(value) if value.__class__ is dict else value
            for key, value in asdict(self).items()
            if value is not UNSET
        }
        for key in _second_keys(type(self)):
            told[key] = getattr(self, key)
        return told

    @classmethod
    def told(cls, services: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """These figures in the status, by the name of the member; ``services`` is that part of the status."""
        figures = mapping(services.get(cls.service))
        return {"": figures} if figures else {}


class Key(NamedTuple):
    """A figure's place in the statistics."""

    figures: type[Figures]
    key: str


def key_of(figure: object) -> Key:
    """The place of ``CacheManagerFigures.loads``.

    A misspelt one is an error of mypy, and an AttributeError when its module is imported.
    """
    if not isinstance(figure, MemberDescriptorType):
        raise TypeError(f"{figure!r}: expected a figure of a class of Figures")
    return Key(figure.__objclass__, figure.__name__)


def _plain(members: dict[str, Any]) -> dict[str, Any]:
    """A copy in which the figures of members are dicts, too."""
    return {name: each.as_dict() if isinstance(each, Figures) else each for name, each in members.items()}


def mapping(value: Any) -> Mapping[str, Any]:
    """``value`` if it is a mapping, an empty one if not: a service may be off, or its reading failed."""
    return value if isinstance(value, Mapping) else {}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)


@cache
def _second_keys(figures: type[Figures]) -> tuple[str, ...]:
    return tuple(name for name, value in vars(figures).items() if isinstance(value, property))


@cache
def declared(struct: type[Struct], kind: type[Kind]) -> tuple[tuple[str, Kind], ...]:
    """Fields of ``struct`` with what of this ``kind`` their annotations hold; a field may have several."""
    hints = get_type_hints(struct, include_extras=True)
    return tuple(
        (field, each)
        for field in struct.__struct_fields__
        for each in getattr(hints[field], "__metadata__", ())
        if isinstance(each, kind)
    )
