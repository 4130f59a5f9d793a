"""The change log keeps its form: one unreleased section on top, each entry once."""

import re
from collections import Counter
from pathlib import Path

CHANGELOG = (Path(__file__).resolve().parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")


def test_sections_and_groups():
    sections = re.findall(r"^## (.*)", CHANGELOG, re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert len(sections) == len(set(sections))
    for released in sections[1:]:
        assert re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d{2}-\d{2}", released)
    for group in re.findall(r"^### (.*)", CHANGELOG, re.MULTILINE):
        assert group in {"Added", "Changed", "Fixed", "Security"}


def test_each_entry_stands_once():
    entries = re.split(r"^(?:- |#)", CHANGELOG, flags=re.MULTILINE)
    count = Counter(" ".join(entry.split()) for entry in entries if len(entry) > 60)
    assert not [entry[:100] for entry, times in count.items() if times > 1]
