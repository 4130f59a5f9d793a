"""The alert rules: valid, tested by stories, each with a runbook, on metrics that exist."""

import re
import subprocess

import pytest

from bot.core.phase4_metrics import Phase4Collector
from tests.deploy.conftest import DEPLOY
from tests.docs.guide import blocks

ROOT = DEPLOY.parent
RULES = (DEPLOY / "alerts.yml").read_text()


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=DEPLOY)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_valid(promtool):
    assert "SUCCESS: 24 rules" in run(promtool, "check", "rules", "alerts.yml")


def test_the_stories_hold(promtool):
    assert "SUCCESS" in run(promtool, "test", "rules", "alerts_test.yml")


def test_every_rule_has_a_story_in_which_it_fires():
    stories = (DEPLOY / "alerts_test.yml").read_text()
    for name in re.findall(r"- alert: (\w+)", RULES):
        assert re.search(rf"alertname: {name}\n\s+exp_alerts:\n", stories), name


def test_the_sample_configuration_is_valid(promtool):
    assert "SUCCESS" in run(promtool, "check", "config", "prometheus.yml")


def test_the_guides_rules_stand_as_the_guide_has_them():
    [block] = blocks("Alerting Rules", "yaml")
    guide = re.findall(r"- alert: (\w+)\n\s+expr: (.+)\n\s+for: (\w+)", block)
    assert len(guide) == 4
    ours = re.findall(r"- alert: (\w+)\n\s+expr: (.+)\n\s+for: (\w+)", RULES)
    assert set(guide) <= set(ours)


def test_every_rule_says_what_it_means_and_where_to_look():
    rules = RULES.split("- alert: ")[1:]
    for rule in rules:
        for key in ("severity: ", "summary: ", "description: ", "runbook_url: "):
            assert rule.count(key) == 1, rule


@pytest.mark.parametrize("page", sorted(set(re.findall(r"runbook_url: (\S+)", RULES))))
def test_runbooks_exist(page):
    assert (ROOT / page).is_file()


def test_every_metric_of_the_rules_exists():
    text = " ".join(re.findall(r"expr: (.+)", RULES))
    used = set(re.findall(r"\b(?:phase4|cache|rate_limit|pool|query)_\w+", text)) - {"cache_manager"}
    assert len(used) > 10
    known = set()
    for family in Phase4Collector().describe():
        known |= {family.name, f"{family.name}_total", f"{family.name}_bucket"}
    known.add("phase4_event_loop_lag_seconds_bucket")  # the service's own
    assert used - known == {"rate_limiter"} & used
