"""Links of the documents lead to files and headings that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    {*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")}
    | set((ROOT / "examples").rglob("*.md"))
)
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub and the site name them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        found.add(re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", words.strip().lower())))
    return found


def links(page: Path):
    for match in LINK.finditer(CODE.sub("", page.read_text(encoding="utf-8"))):
        target = match[1] or match[2]
        if not re.match(r"\w+:", target):
            yield target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_each_link_leads_somewhere(page):
    lost = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            lost.append(link)
    assert not lost


def test_pages_of_the_site_link_only_to_pages_of_the_site():
    """What lies outside docs/ is not part of the site: such a link would work on GitHub and not there."""
    docs = ROOT / "docs"
    outside = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in sorted(docs.rglob("*.md"))
        for link in links(page)
        if not (page.parent / link.partition("#")[0]).resolve().is_relative_to(docs)
    ]
    assert not outside


def test_every_page_is_reached_from_the_index():
    reached, left = set(), [ROOT / "docs" / "index.md"]
    while left:
        page = left.pop()
        if page in reached:
            continue
        reached.add(page)
        left += [
            target
            for link in links(page)
            if (target := (page.parent / link.partition("#")[0]).resolve()).suffix == ".md"
        ]
    assert set((ROOT / "docs").rglob("*.md")) - reached == set()


def test_every_alert_names_a_runbook_that_exists_and_is_listed():
    rules = (ROOT / "deploy" / "alerts.yml").read_text(encoding="utf-8")
    index = (ROOT / "docs" / "runbooks" / "index.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"runbooks/([\w-]+)\.md", rules)):
        assert (ROOT / "docs" / "runbooks" / f"{name}.md").exists()
        assert f"]({name}.md)" in index
    for alert in re.findall(r"alert: (\w+)", rules):
        assert alert in index


def test_every_page_is_in_the_sites_navigation():
    listed = set(
        re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    )
    docs = ROOT / "docs"
    assert listed == {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")}
