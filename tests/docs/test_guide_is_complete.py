"""Every code block of the guide is run, or stands here with the reason why it cannot be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.guide import code_blocks

TESTS = Path(__file__).resolve().parents[1]

RUN_BY = {
    "1. Install Dependencies": "docs/test_guide_install.py",
    "2. Enable Minimal Setup": "docs/test_guide_steps.py",
    "3. Monitor Performance": "docs/test_guide_steps.py",
    "Step 1: Install Phase 4 Dependencies": "docs/test_guide_steps.py",
    "Minimal Configuration (Low Overhead)": "docs/test_guide_profiles.py",
    "Standard Configuration (Recommended)": "docs/test_guide_profiles.py",
    "Advanced Configuration (Maximum Performance)": "docs/test_guide_profiles.py",
    "Option A: Automatic Startup (Recommended)": "docs/test_guide_steps.py",
    "Option B: Manual Startup": "docs/test_guide_steps.py",
    "For SQL Queries": "docs/test_guide_steps.py",
    "For GraphQL Queries": "core/query_optimizer/graphql/test_graphql.py",
    "Cache User Data": "docs/test_guide_step_5.py",
    "Cache Warming": "docs/test_guide_step_5.py",
    "Step 6: Implement Connection Pooling": "docs/test_guide_step_6.py",
    "Step 7: Implement Rate Limiting": "docs/test_guide_step_7.py",
    "Step 8: Implement Batch Processing": "docs/test_guide_step_8.py",
    "Step 9: Implement Load Balancing": "docs/test_guide_step_9.py",
    "Step 10: Monitor Phase 4 Services": "docs/test_guide_steps.py",
    "Optimize for Read-Heavy Workloads": "docs/test_guide_profiles.py",
    "Optimize for Write-Heavy Workloads": "docs/test_guide_profiles.py",
    "Optimize for Many Connections": "docs/test_guide_profiles.py",
    "Optimize for Limited Memory": "docs/test_guide_profiles.py",
    "Unit Tests": "docs/test_guide_install.py",
    "Locust Load Test": "service/test_load.py",
    "Simple Load Test": "service/test_load.py",
    "Alerting Rules": "deploy/test_alerts.py",
}
"""Heading -> the test file that runs its blocks."""

CANNOT_RUN = {
    "Performance Baselines": "a table in a python block; benchmarks/baseline.py measures it",
}


def test_no_block_is_forgotten() -> None:
    assert {heading for heading, _, _ in code_blocks()} == RUN_BY.keys() | CANNOT_RUN.keys()


@pytest.mark.parametrize("heading", RUN_BY)
def test_the_file_that_runs_a_block_names_it(heading: str) -> None:
    text = (TESTS / RUN_BY[heading]).read_text(encoding="utf-8")
    named = re.findall(r'"([^"\n]{5,})"', text)
    assert any(heading.startswith(name) for name in named)


def test_a_block_that_cannot_run_is_no_python() -> None:
    for heading, language, text in code_blocks():
        if heading in CANNOT_RUN:
            assert language == "python"
            with pytest.raises(SyntaxError):
                compile(text, heading, "exec")
