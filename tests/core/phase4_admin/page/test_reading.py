"""What the page shows, and how it is read: ranges, keyboard, pause, sort, search, queries, old figures."""

import asyncio
import logging
import re

import pytest

from bot.core.load_balancer import LoadBalancer
from bot.core.outbound import Outbound, Request
from bot.core.query_optimizer import QueryOptimizer
from tests.core.phase4_admin.page.conftest import NAME
from tests.support.servers import free_port

pytestmark = pytest.mark.server


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


async def samples(shown, number=3):
    """Wait until so many more samples were taken."""
    for _ in range(number):
        before = shown.feed._sample
        await until(lambda before=before: shown.feed._sample is not before)


async def slow_queries(number=8):
    optimizer = QueryOptimizer.get_instance()
    for place in range(number):
        await optimizer.record_execution(f"SELECT c{place} FROM table_{place} WHERE a = 5", 1_000.0 + place)
    return optimizer


def chart(page, name):
    return page.locator(f'svg[role="slider"][aria-label^="{name}"]')


async def test_heading_and_title_name_the_bot_as_text(shown, page, opened, expect):
    await opened(shown)
    await expect(page.locator("h1")).to_have_text(NAME)
    await expect(page).to_have_title(f"7 of 7 services on, all well · {NAME}")
    assert await page.locator("h1 b").count() == 0
    assert page.faults == []
    assert all(asked.startswith(shown.url) for asked in page.asked)


async def test_idle_is_a_dash_and_never_a_percentage(shown, page, opened, expect):
    await LoadBalancer.get_instance().add_instance("bot-1", "127.0.0.1", free_port())
    await opened(shown)
    tiles = page.locator(".tile")
    await expect(tiles).to_have_count(6)
    assert await tiles.locator(".number").all_text_contents() == ["–"] * 6
    assert set(await tiles.locator(".verdict .pill").all_text_contents()) == {"Idle"}
    for label in (
        "Hit rate",
        "Success",
        "Average response",
        "Average time",
        "Average batch",
        "Wait, 99 %",
    ):
        for fact in await page.locator(".facts div", has=page.locator(f'dt[title="{label}"]')).all():
            assert await fact.locator("dd").text_content() == "–", label
    row = page.locator("#instances tbody tr")
    assert await row.locator("td").nth(6).text_content() == "–"
    assert re.search(r"\b100\s?%", await page.locator("#services").text_content()) is None


async def test_a_range_is_chosen_by_keyboard_and_shows_the_peak_of_a_day(
    shown_for_a_day, page, opened, expect
):
    await opened(shown_for_a_day)
    lag = chart(page, "Event loop lag")
    await expect(lag).to_have_attribute("aria-label", re.compile(r"last (10 min|9 min \d+ s)"))
    await page.locator('input[name="range"]').first.focus()
    for text, first in (("1 h", "last 1 h"), ("6 h", "last 6 h"), ("24 h", "last 1 d")):
        await page.keyboard.press("ArrowRight")
        await expect(page.locator("#ranges label", has=page.locator("input:checked"))).to_have_text(text)
        await expect(lag).to_have_attribute("aria-label", re.compile(first + ": between"))
    await expect(lag).to_have_attribute("aria-label", re.compile("between .* and 99 ms"))
    box = page.locator(".chart", has=lag)
    ends = await box.locator(".x span").all_text_contents()
    assert all(re.fullmatch(r"\d\d:\d\d", end) for end in ends)
    assert await box.locator(".y span").all_text_contents() == ["100 ms", "0"]
    assert "Z" in await box.locator("path.band").get_attribute("d"), "least and most of each step"
    await page.keyboard.press("ArrowRight")
    await expect(lag).to_have_attribute("aria-label", re.compile("last (10 min|9 min)"))
    assert page.faults == []


async def test_arrow_keys_read_a_chart_value_by_value(shown_for_a_day, page, opened, expect):
    await opened(shown_for_a_day)
    memory = chart(page, "Memory")
    readout = page.locator(".chart", has=memory).locator(".readout")
    await memory.focus()
    await expect(readout).to_be_visible()
    await page.keyboard.press("Home")
    await expect(memory).to_have_attribute("aria-valuetext", re.compile(r"\d\d:\d\d:\d\d: 80 MB"))
    first = await memory.get_attribute("aria-valuetext")
    assert await readout.text_content() == first, "what is said is also seen"
    await page.keyboard.press("ArrowRight")
    await expect(memory).not_to_have_attribute("aria-valuetext", first)
    second = await memory.get_attribute("aria-valuetext")
    await samples(shown_for_a_day)
    assert await memory.get_attribute("aria-valuetext") == second, "new figures do not move the cursor"
    await page.keyboard.press("ArrowLeft")
    await expect(memory).to_have_attribute("aria-valuetext", first)
    await page.keyboard.press("PageUp")
    await expect(memory).not_to_have_attribute("aria-valuetext", first)
    await page.keyboard.press("Escape")
    await expect(readout).to_be_hidden()
    assert int(await memory.get_attribute("aria-valuemax")) > 20


async def test_pause_holds_the_page_still_and_loses_nothing(shown, page, opened, expect):
    await opened(shown)
    pause = page.locator("#pause")
    await pause.focus()
    await page.keyboard.press("Space")
    await expect(pause).to_have_attribute("aria-pressed", "true")
    await expect(page).to_have_title(re.compile("^Paused at "))
    await expect(page.locator("#overall")).to_contain_text("Paused at")
    lag = chart(page, "Event loop lag")
    before = int(await lag.get_attribute("aria-valuemax"))
    await slow_queries(1)
    await samples(shown, 4)
    assert int(await lag.get_attribute("aria-valuemax")) == before
    assert await page.locator("#slow tbody tr").count() == 0
    await page.keyboard.press("Space")
    await expect(page.locator("#slow tbody tr")).to_have_count(1)
    assert int(await lag.get_attribute("aria-valuemax")) >= before + 4, "what came meanwhile is shown, too"
    await expect(page).to_have_title(re.compile("all well"))


async def test_a_table_is_sorted_by_its_heads(shown, page, opened, expect):
    await slow_queries()
    await opened(shown)
    rows, head = page.locator("#slow tbody tr"), page.locator("#slow th", has_text="Longest")
    await expect(rows).to_have_count(8)
    await head.locator("button").focus()
    await page.keyboard.press("Enter")
    await expect(head).to_have_attribute("aria-sort", "descending")
    await expect(rows.first).to_contain_text("table_7")
    await page.keyboard.press("Enter")
    await expect(head).to_have_attribute("aria-sort", "ascending")
    await expect(rows.first).to_contain_text("table_0")
    await QueryOptimizer.get_instance().record_execution("SELECT a FROM quickest WHERE a = 5", 600.0)
    await expect(rows.first).to_contain_text("quickest")
    await page.keyboard.press("Enter")
    await expect(head).not_to_have_attribute("aria-sort", re.compile(".*"))
    query = page.locator("#slow th", has_text="Query")
    await query.locator("button").click()
    await expect(query).to_have_attribute("aria-sort", "ascending")
    await expect(rows.first).to_contain_text("quickest")


async def test_a_table_is_searched(shown, page, opened, expect):
    await slow_queries()
    await opened(shown)
    rows = page.locator("#slow tbody tr")
    await page.get_by_label("Search slow queries").fill("TABLE_3")
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("table_3")
    await expect(page.locator("#slow .count")).to_have_text("1 of 8")
    await samples(shown)
    await expect(rows).to_have_count(1)
    await page.get_by_label("Search slow queries").fill("nothing like it")
    await expect(rows).to_have_count(0)
    await expect(page.locator("#slow .count")).to_have_text("0 of 8")
    await page.get_by_label("Search slow queries").fill("")
    await expect(rows).to_have_count(8)


async def test_focus_stays_where_it_is_while_figures_change(shown, page, opened, expect):
    optimizer = await slow_queries()
    await opened(shown)
    button = page.locator("#slow button.open", has_text="table_4")
    await button.focus()
    await optimizer.record_execution("SELECT c4 FROM table_4 WHERE a = 5", 9_000.0)
    await expect(page.locator("#slow tbody tr").first).to_contain_text("table_4")
    await expect(button).to_be_focused()


async def test_a_query_opens_with_all_that_is_known_of_it(shown, new_page, opened, expect):
    page = await new_page(permissions=["clipboard-read", "clipboard-write"])
    await QueryOptimizer.get_instance().record_execution(
        "SELECT id, "
        + ", ".join(f"column_{n}" for n in range(60))
        + " FROM users WHERE email LIKE '%hunter2' AND age = 5",
        2_500.0,
    )
    await opened(shown, page)
    button = page.locator("#slow button.open")
    await button.focus()
    await page.keyboard.press("Enter")
    dialog = page.locator("dialog")
    await expect(dialog.locator("pre").first).to_contain_text(
        "column_59 FROM users WHERE email LIKE ? AND age = ?"
    )
    assert "column_59" not in await button.text_content(), "in the list it is cut"
    await expect(dialog).to_contain_text("test_reading.py")
    await expect(dialog).to_contain_text("Q004")
    await expect(dialog).to_contain_text("QUERY_OPTIMIZER_EXPLAIN_POOL")
    assert "hunter2" not in await page.content()
    ddl = "CREATE INDEX idx_users_age ON users (age)"
    await expect(dialog).to_contain_text(ddl)
    await dialog.get_by_label("Copy the index").focus()
    await page.keyboard.press("Enter")
    await expect(dialog.get_by_text("Copied")).to_be_visible()
    assert await page.evaluate("navigator.clipboard.readText()") == ddl
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(button).to_be_focused()
    assert page.faults == []


async def test_without_a_clipboard_the_index_is_copied_too_or_it_is_said(shown, page, opened, expect):
    await slow_queries(1)
    await opened(shown)
    await page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    await page.locator("#slow button.open").click()
    await page.get_by_label("Copy the index").click()
    await expect(page.locator("dialog .said", has_text=re.compile("Copied|Select the text"))).to_be_visible()
    assert await page.locator("dialog textarea").count() == 0


async def test_an_n_plus_one_opens_with_the_query_to_use_instead(shown, page, opened, expect):
    optimizer = QueryOptimizer.get_instance()

    async def fetch(query, params):
        return [params]

    with optimizer.request():
        for number in range(20):
            await optimizer.execute("SELECT name FROM files WHERE owner = ?", (number,), fetch)
    await opened(shown)
    await page.locator("#n1 button.open").click()
    await expect(page.locator("dialog")).to_contain_text(
        "SELECT owner, name FROM files WHERE owner IN (?, ?, ...)"
    )
    await expect(page.locator("dialog")).to_contain_text("test_an_n_plus_one_opens")


async def test_a_query_that_is_not_known_any_more_says_so(shown, page, opened, expect):
    optimizer = await slow_queries(1)
    await opened(shown)
    await page.locator("#pause").click()
    await optimizer.reset_statistics()
    await page.locator("#slow button.open").click()
    await expect(page.locator("dialog [role=alert]")).to_contain_text("does not know this query")


async def test_old_figures_are_never_all_well(shown, page, opened, expect):
    await opened(shown)
    await expect(page).to_have_title(re.compile("all well"))
    library = shown.feed._library

    async def broken():
        raise RuntimeError("no status today")

    shown.feed._library = library._replace(status=broken)
    await expect(page).to_have_title(re.compile(r"^No data since \d\d:\d\d:\d\d · "))
    await expect(page.locator("#overall")).to_have_text(re.compile(r"^No data since \d\d:\d\d:\d\d$"))
    await expect(page.locator("body")).to_have_attribute("data-stale", "")
    assert "all well" not in await page.text_content("body")
    assert "grayscale" in await page.locator("#figures").evaluate("it => getComputedStyle(it).filter")
    shown.feed._library = library
    await expect(page).to_have_title(re.compile("all well"))
    await expect(page.locator("#connection")).to_have_text("Live")


async def test_an_instance_shows_its_weight_its_last_error_and_since_when(shown, page, opened, expect):
    balancer = LoadBalancer.get_instance()
    await balancer.add_instance("bot-7", "127.0.0.1", free_port(), weight=2.5)
    await balancer.add_instance("bot-8", "127.0.0.1", free_port())

    async def handler(instance, request):
        if instance.id == "bot-7":
            raise ConnectionRefusedError("nobody listens")

    balancer.request_handler = handler
    for _ in range(40):
        await balancer.route_request({})
    await opened(shown)
    row = page.locator("#instances tr", has_text="bot-7")
    await expect(row).to_contain_text("ejected")
    await expect(row).to_contain_text("2.5")
    await expect(row).to_contain_text(re.compile(r"since \d\d:\d\d:\d\d: \d failures in a row"))
    await expect(row).to_contain_text("ConnectionRefusedError: nobody listens")
    await expect(page).to_have_title(re.compile("^1 degraded"))
    event = page.locator("#events li", has_text="bot-7: healthy -> ejected")
    await expect(event).to_contain_text("ConnectionRefusedError: …")


async def test_outbound_shows_who_waits_and_each_priority(shown, page, opened, expect):
    outbound = Outbound.get_instance()

    async def send():
        return 1

    for chat in range(3):
        await outbound.call(send, Request("sendMessage", chat + 1))
    outbound.hold(-100, 300)
    waiting = [asyncio.ensure_future(outbound.call(send, Request("sendMessage", -100))) for _ in range(4)]
    await opened(shown)
    card = page.locator('.card[data-service="outbound"]')
    for label, value in (("Chats waiting", "1"), ("Chats held", "1"), ("Sent", "3"), ("Queued", "4")):
        await expect(
            card.locator("div", has=page.locator(f'dt[title="{label}"]')).locator("dd").first
        ).to_have_text(value)
    await expect(card.locator("#priorities tr", has_text="notify")).to_contain_text(
        "43", use_inner_text=False
    )
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("width", [320, 360, 640, 768, 1280])
async def test_nothing_is_cut_off_at_any_width_or_at_twice_the_size(shown, new_page, opened, width):
    await slow_queries()
    page = await new_page(width)
    await opened(shown, page)
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    await page.locator("#slow button.open").first.click()
    await page.locator("dialog section").first.wait_for()
    assert await page.locator("dialog").evaluate("it => it.scrollWidth <= it.clientWidth")


async def test_shapes_of_queries_and_sentences_are_spaced_as_people_write_them(shown, page, opened, expect):
    optimizer = QueryOptimizer.get_instance()
    await optimizer.record_execution("SELECT u.id, COUNT(*) FROM users AS u WHERE u.id IN (1, 2)", 1_000.0)
    logging.getLogger("bot.core.query_optimizer").warning("at bot.py:9 in top. Use one query: IN (?, ?, ...)")
    await opened(shown)
    await expect(page.locator("#slow tbody button.open")).to_have_text(
        "SELECT u.id, count(*) FROM users AS u WHERE u.id IN (?)"
    )
    await expect(page.locator("#events")).to_contain_text("at bot.py:9 in top. Use one query: IN (?, ?, ...)")
