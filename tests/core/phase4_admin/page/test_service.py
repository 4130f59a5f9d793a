"""The page of the demonstration service, as a user starts it."""

import json
import re
import urllib.request

import pytest

from tests.service.conftest import Service

pytestmark = pytest.mark.server

TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def shown(data_dir):
    running = Service(data_dir, ENABLE_CACHE_MANAGER="1", ENABLE_CONNECTION_POOLING="1")
    running.start()
    yield running
    running.close()


@pytest.fixture(scope="module")
def guarded(data_dir):
    running = Service(data_dir, PHASE4_DASHBOARD_TOKEN=TOKEN)
    running.start()
    yield running
    running.close()


def ask(service, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}{path}", timeout=10) as answer:
        return json.loads(answer.read())


async def text(page, selector):
    return await page.text_content(selector)


async def test_figures_targets_and_states_are_shown_and_move(shown, page, expect):
    for _ in range(5):
        ask(shown, "/api/data?user_id=77")
    url = f"http://127.0.0.1:{shown.port}"
    await page.goto(f"{url}/")
    await page.wait_for_selector("#figures:not([hidden])")
    assert "4 of 7 services on, all well" in await text(page, "#overall")
    assert await page.locator(".tile").count() == 6
    assert await page.locator('.card[data-state="on"]').count() == 4
    assert "ENABLE_LOAD_BALANCER = True" in await text(page, '.card[data-service="load_balancer"]')
    tile = page.locator(".tile", has_text="Query cache hit rate")
    assert await tile.get_attribute("data-verdict") in ("in", "low")
    leases = page.locator('.card[data-service="connection_pool_manager"] dd').nth(4)
    before = await leases.text_content()
    for user in range(300, 310):
        ask(shown, f"/api/data?user_id={user}")
    await expect(leases).not_to_have_text(before)
    assert "service" in await text(page, "#pools")
    assert "No query has been slow" in await text(page, "#slow")
    assert page.faults == []
    assert all(asked.startswith(url) for asked in page.asked)


async def test_a_reload_shows_the_history(shown, page, expect):
    await page.goto(f"http://127.0.0.1:{shown.port}/")
    curve = page.locator('.card[data-service="query_optimizer"] path.curve')
    await expect(curve).to_have_attribute("d", re.compile(r"L.*L"))
    await page.reload()
    await page.wait_for_selector("#figures:not([hidden])")
    assert re.search(r"L.*L", await curve.get_attribute("d")), "at once, and not after further samples"


async def test_themes_and_their_memory(shown, browser):
    context = await browser.new_context(color_scheme="dark")
    page = await context.new_page()

    async def is_dark():
        colour = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour[4:-1].split(",")) < 200

    await page.goto(f"http://127.0.0.1:{shown.port}/")
    assert await is_dark(), "as the system has it"
    await page.focus("#theme")
    await page.keyboard.press("Enter")
    assert await text(page, "#theme") == "Theme: light"
    assert not await is_dark()
    await page.reload()
    assert not await is_dark()


async def test_nothing_is_cut_off_on_a_phone(shown, browser):
    context = await browser.new_context(viewport={"width": 360, "height": 740})
    page = await context.new_page()
    await page.goto(f"http://127.0.0.1:{shown.port}/")
    await page.wait_for_selector("#figures:not([hidden])")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360


async def test_signing_in_by_form_by_link_and_out(guarded, page, expect):
    url = f"http://127.0.0.1:{guarded.port}/"
    await page.clock.install()
    await page.goto(url)
    await page.wait_for_selector("#sign-in:not([hidden])")
    assert not await page.is_visible("#figures")
    await expect(page.locator("#overall")).to_have_text("Not signed in")
    await expect(page).to_have_title("Sign in · Phase 4")
    await page.clock.run_for(2_000)  # the page looks at the age of its figures again
    await expect(page.locator("#overall")).to_have_text("Not signed in")
    await page.fill("#token", "not the token")
    await page.keyboard.press("Enter")
    await expect(page.locator("#sign-in-error")).to_contain_text("not the token")
    await page.fill("#token", TOKEN)
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#figures:not([hidden])")
    await page.click("#sign-out")
    await page.wait_for_selector("#sign-in:not([hidden])")
    await page.goto("about:blank")
    await page.goto(f"{url}#token={TOKEN}")
    await page.wait_for_selector("#figures:not([hidden])")
    assert page.url == url, "the token does not stay in the address"
    assert not any(TOKEN in asked.partition("#")[0] for asked in page.asked)


async def test_a_service_that_stops_is_told(data_dir, page, expect):
    service = Service(data_dir)
    service.start()
    try:
        await page.goto(f"http://127.0.0.1:{service.port}/")
        await expect(page.locator("#connection")).to_have_text("Live")
        assert service.stop() == 0
        await expect(page.locator("#overall")).to_contain_text("No data since")
        await expect(page.locator("#connection")).to_contain_text("rying again")
        service.start()
        await expect(page.locator("#connection")).to_have_text("Live")
    finally:
        service.close()
