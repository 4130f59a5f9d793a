"""For everybody: no finding of axe, all of it by keyboard, focus that is seen, no unwanted motion."""

import re

import pytest

from bot.core.load_balancer import LoadBalancer
from bot.core.query_optimizer import QueryOptimizer
from tests.support.servers import free_port

pytestmark = pytest.mark.server


@pytest.fixture
async def busy(shown):
    optimizer = QueryOptimizer.get_instance()
    for number in range(8):
        await optimizer.record_execution(f"SELECT * FROM t{number} WHERE a = 5 AND b LIKE '%x'", 1_000.0)
    for name in ("bot-1", "bot-2"):
        await LoadBalancer.get_instance().add_instance(name, "127.0.0.1", free_port())
    return shown


@pytest.fixture
async def findings():
    axe = pytest.importorskip(
        "axe_playwright_python.async_playwright",
        reason="axe is not installed (pip install axe-playwright-python)",
    )

    async def found(page):
        results = await axe.Axe().run(page)
        return [(each["id"], each["nodes"][0]["html"]) for each in results.response["violations"]]

    return found


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(busy, new_page, opened, expect, findings, width, scheme):
    page = await new_page(width, color_scheme=scheme)
    await opened(busy, page)
    await expect(page.locator("#slow tbody tr")).to_have_count(8)
    assert await findings(page) == []
    await page.locator("#slow button.open").first.click()
    await expect(page.locator("dialog section").first).to_be_visible()
    assert await findings(page) == []
    await page.keyboard.press("Escape")
    names = await page.locator(".acts button, #reset button, #instances .acting button").all_text_contents()
    assert len(names) >= 9
    for name in dict.fromkeys(names):
        await page.get_by_role("button", name=name).first.click()
        await expect(page.get_by_role("dialog")).to_be_visible()
        assert (name, await findings(page)) == (name, [])
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.locator("#pause").click()
    assert await findings(page) == []
    busy.feed.close()
    await expect(page.locator("body")).to_have_attribute("data-stale", "")
    assert await findings(page) == []


async def test_axe_finds_nothing_before_signing_in(new_page, shown, expect, findings):
    page = await new_page()
    await page.route(
        re.compile("/dashboard/access"), lambda route: route.fulfill(json={"needed": True, "granted": False})
    )
    await page.goto(shown.url)
    await expect(page.locator("#sign-in")).to_be_visible()
    assert await findings(page) == []


async def test_everything_is_reached_by_tab_and_focus_is_seen(busy, page, opened, expect):
    await opened(busy)
    await expect(page.locator("#slow tbody tr")).to_have_count(8)
    seen = []
    for _ in range(200):
        await page.keyboard.press("Tab")
        focused = await page.evaluate(
            """() => {
                const it = document.activeElement;
                if (it === document.body) return null;
                const shown = it.matches(".segments input") ? it.nextElementSibling : it;
                const style = getComputedStyle(shown);
                const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
                return [it.outerHTML.slice(0, 200), seen, it.id];
            }"""
        )
        if focused is None or (seen and focused[0] == seen[0][0]):
            break
        seen.append(focused)
    assert [html for html, visible, _ in seen if not visible] == []
    wanted = await page.evaluate(
        """() => [...document.querySelectorAll("a, button, input, [tabindex='0']")]
            .filter((it) => it.checkVisibility() && !it.disabled)
            .filter((it) => it.type !== "radio" || it.checked).length"""
    )
    assert len(seen) == wanted


async def test_the_skip_link_leads_past_the_header(shown, page, opened, expect):
    await opened(shown)
    await page.keyboard.press("Tab")
    await expect(page.locator(".skip")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.closest('main') !== null")


async def test_a_dialog_keeps_the_focus_inside(busy, page, opened, expect):
    await opened(busy)
    await page.get_by_role("button", name="Hold a chat …").click()
    for _ in range(12):
        await page.keyboard.press("Tab")
        assert await page.evaluate(
            "document.activeElement === document.body || document.activeElement.closest('dialog') !== null"
        )


async def test_nothing_moves_for_whom_motion_is_unwanted(busy, new_page, opened):
    page = await new_page(reduced_motion="reduce")
    await opened(busy, page)
    moving = await page.evaluate(
        """() => [...document.querySelectorAll("*")].filter((it) => {
            const style = getComputedStyle(it);
            const animated = style.animationName !== "none" || style.scrollBehavior === "smooth";
            return animated || parseFloat(style.transitionDuration) > 0;
        }).length"""
    )
    assert moving == 0
