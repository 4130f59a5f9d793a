"""One registry for the rules of all languages."""

import re
from pathlib import Path

import pytest

from bot.core.query_optimizer.advice import report
from bot.core.query_optimizer.advice.rules import findings
from bot.core.query_optimizer.advice.rules.registry import RULES, register
from bot.core.query_optimizer.execution import recording
from bot.core.query_optimizer.graphql import rules as graphql
from bot.core.query_optimizer.models import SEVERITIES
from bot.core.query_optimizer.mongodb import rules as mongodb

REGISTERING = (findings, graphql, mongodb, recording, report)
PAGE = Path(__file__).parents[5].joinpath("docs/query_rules.md").read_text("utf-8")


def test_the_page_explains_every_rule_and_no_other():
    explained = re.findall(r"^\| ([QGM]\d{3}) \| (\w+) \| ([\w-]+) \|", PAGE, re.MULTILINE)
    assert sorted(explained) == sorted((rule.code, rule.severity, rule.name) for rule in RULES.values())


def test_a_code_is_given_once():
    before = dict(RULES)
    with pytest.raises(ValueError, match="Q003 = 'other': the code is taken by 'select-star'"):
        register("Q003", "other", "info")
    assert before == RULES


def test_a_rule_makes_findings_of_its_name_and_severity():
    finding = RULES["M001"].finding(("Wrong.", "Mend it."), line=3)
    assert (finding.code, finding.name, finding.line) == ("M001", "javascript", 3)
    assert str(finding) == "M001 Wrong. Mend it."
    assert {rule.severity for rule in RULES.values()} == set(SEVERITIES)
