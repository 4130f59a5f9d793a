"""The Grafana dashboard: whole, nothing overlaps, the guide's panels with their targets."""

import json
import re

import pytest

from bot.core.phase4_metrics import Phase4Collector
from tests.deploy.conftest import DEPLOY

DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
GUIDE = (DEPLOY.parent / "tests" / "docs" / "guide.md").read_text()

OF_HISTOGRAMS = {"phase4_pool_wait_seconds_bucket", "phase4_event_loop_lag_seconds_bucket"}


def expressions():
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_the_guides_panels_are_there_with_their_targets():
    wanted = re.findall(r"^- (.+ \(target: .+\))$", GUIDE, re.MULTILINE)
    assert len(wanted) == 6
    assert set(wanted) <= {panel["title"] for panel in PANELS}


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_is_complete(panel):
    assert panel["title"]
    assert panel["targets"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    if "target:" in panel["title"]:
        bound = float(re.findall(r"\d+", panel["title"])[-1])
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert bound in {step["value"] for step in steps}, "the colour changes at the target"


def test_ids_are_unique_and_panels_do_not_overlap():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["id"]) == panel["id"], panel["title"]


def test_every_metric_exists():
    known = set()
    for family in Phase4Collector().describe():
        known |= {family.name, f"{family.name}_total"}
    known |= OF_HISTOGRAMS | {"process_resident_memory_bytes", "process_open_fds", "process_max_fds"}
    used = {name for text in expressions() for name in re.findall(r"[a-z]\w+(?=\{)", text)}
    assert len(used) > 30
    assert used <= known


def test_the_data_source_is_chosen_where_it_is_imported():
    [source] = [v for v in DASHBOARD["templating"]["list"] if v["type"] == "datasource"]
    assert source["query"] == "prometheus"
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
    assert all('job=~"$job",instance=~"$instance"' in text for text in expressions())
