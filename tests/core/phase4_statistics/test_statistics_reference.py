"""The page of all keys is what the generator writes now, and says of each what it means."""

import pytest

from bot.core import phase4_metrics
from bot.core.phase4_statistics.fields import Metric, declared
from tools.statistics_reference import FILES, SECTIONS, _docstrings, entries


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_is_current(path):
    assert path.read_text(encoding="utf-8") == FILES[path](), "run: python -m tools.statistics_reference"


@pytest.mark.parametrize("kind", [kind for _, kind in SECTIONS])
def test_every_key_has_a_meaning(kind):
    assert not [entry.key for entry in entries(kind) if not entry.meaning]


@pytest.mark.parametrize("kind", [kind for _, kind in SECTIONS])
def test_a_metric_in_other_units_or_of_several_figures_does_not_explain_the_key(kind):
    others = {key for key, metric in declared(kind, Metric) if metric.scale != 1.0 or metric.values}
    assert not others - _docstrings(kind).keys()


def test_all_figures_are_on_the_page():
    assert {kind for _, kind in SECTIONS} == set(phase4_metrics._FIGURES)
