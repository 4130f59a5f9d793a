"""Figures as they are declared: one line gives key, type and metric."""

from __future__ import annotations

from typing import Annotated

import pytest
from msgspec import UNSET, UnsetType

from bot.core import phase4_metrics
from bot.core.phase4_statistics.connection_pools import ConnectionPoolManagerFigures
from bot.core.phase4_statistics.fields import Figures, Metric, counter, declared, gauge, key_of
from bot.core.phase4_statistics.outbound import OutboundOff
from bot.core.phase4_statistics.rolling_rates import RecentFigures

HITS = counter("cache_hits", "Look-ups answered", "tier")


class ShelfFigures(Figures, frozen=True, kw_only=True):
    service = "library"
    label = "shelf"

    books: Annotated[int, gauge("books", "Books on it"), gauge("paper", "Bytes of paper", scale=1024.0)]
    moved: int | UnsetType = UNSET


class LibraryFigures(Figures, frozen=True, kw_only=True):
    service = "library"

    near: Annotated[int, HITS.of("near")]
    far: Annotated[int, HITS.of("far")]
    name: str
    shelves: dict[str, ShelfFigures]

    @property
    def close(self) -> int:
        """The same as ``near``."""
        return self.near


LIBRARY = LibraryFigures(
    near=3, far=1, name="ÄÖ", shelves={"a": ShelfFigures(books=2), "b": ShelfFigures(books=0, moved=1)}
)


def test_figures_become_a_dict_with_second_keys_and_without_what_is_not_told():
    assert LIBRARY.as_dict() == {
        "near": 3,
        "far": 1,
        "name": "ÄÖ",
        "shelves": {"a": {"books": 2}, "b": {"books": 0, "moved": 1}},
        "close": 3,
    }


def test_a_dict_of_figures_is_the_callers_own():
    LIBRARY.as_dict()["shelves"].clear()
    assert len(LIBRARY.as_dict()["shelves"]) == 2


def test_the_metrics_of_figures_with_the_labels_of_each():
    assert declared(LibraryFigures, Metric) == (("near", HITS.of("near")), ("far", HITS.of("far")))
    assert [(key, metric.name) for key, metric in declared(ShelfFigures, Metric)] == [
        ("books", "books"),
        ("books", "paper"),
    ]


def test_a_key_is_named_by_its_figure():
    assert key_of(LibraryFigures.near) == (LibraryFigures, "near")
    assert key_of(ShelfFigures.moved) == (ShelfFigures, "moved")


def test_a_misspelt_figure_is_an_error_where_it_is_read_and_where_it_is_measured():
    with pytest.raises(AttributeError, match="nearr"):
        key_of(LibraryFigures.nearr)
    with pytest.raises(TypeError, match="'near': expected a figure"):
        key_of("near")
    with pytest.raises(TypeError, match="bookz"):
        ShelfFigures(bookz=1)
    with pytest.raises(TypeError, match="books"):
        ShelfFigures()


@pytest.mark.parametrize("told", [None, "off", [], {}, {"error": "RuntimeError: broken"}])
@pytest.mark.parametrize("kind", phase4_metrics._FIGURES)
def test_a_service_that_tells_nothing_has_no_numbers(kind, told):
    found = kind.told({} if told is None else {kind.service: told})
    assert not {key for figures in found.values() for key, _ in declared(kind, Metric) if key in figures}


def every_kind(base=Figures):
    """Every declared class of figures, but for those of this file."""
    found = {kind for each in base.__subclasses__() for kind in (each, *every_kind(each))}
    return {kind for kind in found if kind.__module__ != __name__}


def test_every_kind_of_figures_that_has_metrics_is_read_by_the_metrics():
    without = {OutboundOff, ConnectionPoolManagerFigures}
    assert every_kind() - without == set(phase4_metrics._FIGURES)
    assert not [kind for kind in without if declared(kind, Metric)]


def test_a_metric_is_the_same_wherever_it_is_declared_and_each_sample_is_of_one_figure():
    families, samples = {}, set()
    for struct in (*phase4_metrics._FIGURES, RecentFigures):
        label = getattr(struct, "label", "")
        for key, metric in declared(struct, Metric):
            assert len(metric.labels) == len(metric.values), f"{struct.__name__}.{key}"
            assert not metric.name.endswith("_total"), "Prometheus adds it"
            family = metric.kind, metric.help, (label, *metric.labels), metric.scale
            assert families.setdefault(metric.name, family) == family, metric.name
            assert (metric.name, metric.values) not in samples, f"{struct.__name__}.{key}"
            samples.add((metric.name, metric.values))
