"""What an operator does from the page: said before, done, told, and in the audit."""

import asyncio
import re

import pytest

from bot.core.batch_processor import BatchProcessor
from bot.core.cache_manager import CacheManager
from bot.core.load_balancer import LoadBalancer
from bot.core.outbound import Outbound
from bot.core.query_optimizer import QueryOptimizer
from bot.core.rate_limiter import RateLimitConfig, RateLimiter
from tests.support.servers import free_port

pytestmark = pytest.mark.server


@pytest.fixture
def act(page, expect):
    """Fills in an action's dialog and does it by keyboard; returns the dialog."""

    async def done(button, verb, **fields):
        await page.get_by_role("button", name=button, exact=True).focus()
        await page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        for name, value in fields.items():
            await dialog.locator(f"#field-{name}").fill(value)
        before = await dialog.locator(".happens").text_content()
        await dialog.get_by_role("button", name=verb, exact=True).focus()
        await page.keyboard.press("Enter")
        await expect(dialog.locator(".outcome")).to_have_attribute("data-tone", re.compile("good|bad"))
        return dialog, before

    return done


async def audited(page, expect, *texts):
    line = page.locator("#audit li").first
    for text in texts:
        await expect(line).to_contain_text(text)


async def test_a_namespace_is_dropped(shown, page, opened, expect, act):
    cache = CacheManager.get_instance()
    await cache.set("a", 1, namespace="users")
    await cache.set("b", 1, namespace="files")
    await opened(shown)
    dialog, said = await act("Drop a namespace …", "Drop the namespace", namespace="users")
    assert "Every entry of the namespace “users” is removed" in said
    await expect(dialog.locator(".outcome")).to_contain_text("users")
    await expect(dialog.locator(".outcome")).to_have_attribute("data-tone", "good")
    assert await cache.get("a", namespace="users") is None
    assert await cache.get("b", namespace="files") == 1
    await expect(dialog.get_by_role("button", name="Drop the namespace")).to_have_count(0)
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(page.get_by_role("button", name="Drop a namespace …")).to_be_focused()
    await audited(page, expect, "cache.drop_namespace", "users", "done", "127.0.0.1")
    assert page.faults == []


async def test_a_tag_is_dropped(shown, page, opened, expect, act):
    cache = CacheManager.get_instance()
    await cache.set("a", 1, tags=("gone",))
    await cache.set("b", 1)
    await opened(shown)
    dialog, said = await act("Drop a tag …", "Drop the tag", tag="gone")
    assert "with the tag “gone”" in said
    await expect(dialog.locator(".outcome")).to_have_attribute("data-tone", "good")
    assert await cache.get("a") is None
    assert await cache.get("b") == 1
    await audited(page, expect, "cache.drop_tag")


async def test_a_client_is_reset_and_a_number_is_not_its_text(shown, page, opened, expect, act):
    limiter, limit = RateLimiter.get_instance(), RateLimitConfig(0.001, 1)
    for client in (9_007_199_254_740_993, "9007199254740993"):
        assert (await limiter.is_allowed(client, limit))[0]
        assert not (await limiter.is_allowed(client, limit))[0]
    await opened(shown)
    dialog, said = await act("Reset a client …", "Reset the client", client="9007199254740993")
    assert "The client 9007199254740993 may send" in said
    await expect(dialog.locator(".outcome")).to_have_attribute("data-tone", "good")
    assert (await limiter.is_allowed(9_007_199_254_740_993, limit))[0], "to the last digit"
    assert not (await limiter.is_allowed("9007199254740993", limit))[0]
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Reset a client …").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("The id is a text").check()
    await dialog.get_by_label("Client", exact=True).fill("9007199254740993")
    await expect(dialog.locator(".happens")).to_contain_text('The client "9007199254740993" may send')
    await page.keyboard.press("Enter")
    await expect(dialog.locator(".outcome")).to_have_attribute("data-tone", "good")
    assert (await limiter.is_allowed("9007199254740993", limit))[0]


async def test_a_chat_is_held_and_released(shown, page, opened, expect, act):
    outbound = Outbound.get_instance()
    await opened(shown)
    dialog, said = await act("Hold a chat …", "Hold the chat", chat="-1001", seconds="120")
    assert "Nothing is sent to -1001 for 120 seconds" in said
    await expect(dialog.locator(".outcome")).to_have_attribute("data-tone", "good")
    assert (await outbound.get_statistics())["chats_held"] == 1
    await page.keyboard.press("Escape")
    dialog, _ = await act("Release a chat …", "Release the chat", chat="-1001")
    await expect(dialog.locator(".outcome")).to_have_attribute("data-tone", "good")
    assert (await outbound.get_statistics())["chats_held"] == 0
    await page.keyboard.press("Escape")
    dialog, _ = await act("Release a chat …", "Release the chat", chat="@nobody")
    await expect(dialog.locator(".outcome")).to_contain_text("Not done: ")
    await audited(page, expect, "outbound.release", "@nobody", "refused")


async def test_all_chats_are_held(shown, page, opened, expect):
    await opened(shown)
    await page.get_by_role("button", name="Hold a chat …").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("All chats").check()
    await expect(dialog.locator(".happens")).to_have_text(
        "Nothing is sent to anybody for 60 seconds. All that the bot wants to send waits."
    )
    await page.keyboard.press("Enter")
    await expect(dialog.locator(".outcome")).to_have_attribute("data-tone", "good")
    assert (await Outbound.get_instance().get_statistics())["held_globally_seconds"] > 0
    await page.keyboard.press("Escape")
    await expect(page.locator('.card[data-service="outbound"] .why')).to_contain_text("all chats")


async def test_what_is_missing_or_refused_is_said_and_can_be_mended(shown, page, opened, expect, act):
    await opened(shown)
    dialog, _ = await act("Hold a chat …", "Hold the chat", chat="", seconds="5")
    await expect(dialog.locator(".outcome")).to_have_text("Chat: expected a value")
    await expect(dialog.locator("#field-chat")).to_be_focused()
    await dialog.locator("#field-chat").fill("5")
    await dialog.locator("#field-seconds").fill("-1")
    await page.keyboard.press("Enter")
    await expect(dialog.locator(".outcome")).to_have_text("Seconds: expected a number above 0")
    await dialog.locator("#field-seconds").fill("99999999999")
    await page.keyboard.press("Enter")
    await expect(dialog.locator(".outcome")).to_contain_text("Not done: seconds = ")
    await dialog.locator("#field-seconds").fill("1")
    await page.keyboard.press("Enter")
    await expect(dialog.locator(".outcome")).to_have_attribute("data-tone", "good")


async def test_a_service_that_goes_meanwhile_is_said(shown, page, opened, expect):
    await opened(shown)
    await page.get_by_role("button", name="Drop a tag …").click()
    dialog = page.get_by_role("dialog")
    await dialog.locator("#field-tag").fill("x")
    await CacheManager.get_instance().disable()
    await page.keyboard.press("Enter")
    await expect(dialog.locator(".outcome")).to_contain_text("Not done: The cache manager is off")


async def test_an_instance_is_drained_and_returned(shown, page, opened, expect):
    balancer = LoadBalancer.get_instance()
    for name in ("bot-1", "bot-2"):
        await balancer.add_instance(name, "127.0.0.1", free_port())
    await opened(shown)
    row = page.locator("#instances tr", has_text="bot-2")
    dialog = page.get_by_role("dialog")
    await row.get_by_role("button", name="Drain …").click()
    await expect(dialog.locator(".happens")).to_contain_text("bot-2 gets no new requests")
    await dialog.get_by_role("button", name="Drain the instance").click()
    await expect(dialog.locator(".outcome")).to_have_attribute("data-tone", "good")
    await page.keyboard.press("Escape")
    await expect(row).to_contain_text(re.compile("drain(ing|ed)"))
    assert {(await balancer.select_instance()).id for _ in range(20)} == {"bot-1"}
    await row.get_by_role("button", name="Return …").click()
    await dialog.get_by_role("button", name="Return the instance").click()
    await expect(dialog.locator(".outcome")).to_have_attribute("data-tone", "good")
    await page.keyboard.press("Escape")
    await expect(row.get_by_role("button", name="Drain …")).to_be_visible()
    assert balancer.get_instance_by_id("bot-2").is_healthy
    await audited(page, expect, "balancer.return", "bot-2")


async def test_statistics_are_reset(shown, page, opened, expect, act):
    await QueryOptimizer.get_instance().record_execution("SELECT 1", 9_000.0)
    await opened(shown)
    await expect(page.locator("#slow tbody tr")).to_have_count(1)
    dialog, said = await act("Reset statistics …", "Reset the statistics")
    assert "Caches, limits and queues stay as they are" in said
    await expect(dialog.locator(".outcome")).to_have_attribute("data-tone", "good")
    await expect(page.locator("#slow tbody tr")).to_have_count(0)
    await audited(page, expect, "statistics.reset")


async def test_cancelling_does_nothing(shown, page, opened, expect):
    await QueryOptimizer.get_instance().record_execution("SELECT 1", 9_000.0)
    await opened(shown)
    await page.get_by_role("button", name="Reset statistics …").click()
    await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert await QueryOptimizer.get_instance().get_slow_queries()
    assert not any("/actions/" in asked for asked in page.asked)


@pytest.fixture
async def poisoned(shown):
    """The batch processor with five items that were given up, and what has their handler succeed."""
    batches, sick = BatchProcessor.get_instance(), [True]

    async def handler(items):
        if sick:
            raise ValueError("poison")
        return {item.item_id: True for item in items}

    await batches.enable(handler, batch_timeout=0.01, max_retries=0)
    for number in range(5):
        await batches.submit_item({"text": f"<b>{number}</b>"})
    async with asyncio.timeout(20):
        while await batches.count_dead_letters() < 5:
            await asyncio.sleep(0.01)
    return batches, sick.clear


async def test_dead_letters_are_read_replayed_and_dropped(shown, page, opened, expect, poisoned):
    await opened(shown)
    await page.get_by_role("button", name="Dead letters …").click()
    dialog = page.get_by_role("dialog").first
    rows = dialog.locator("tbody tr")
    await expect(rows).to_have_count(5)
    await expect(rows.first).to_contain_text("ValueError: poison")
    await expect(rows.first).to_contain_text("<b>4</b>")
    assert await rows.locator("b").count() == 0, "text, not markup"
    await expect(dialog.get_by_role("button", name="Replay …")).to_be_disabled()
    await rows.first.locator("button.open").click()
    whole = page.get_by_role("dialog").last
    await expect(whole.locator("pre").last).to_contain_text("<b>4</b>")
    await page.keyboard.press("Escape")
    batches, cure = poisoned
    cure()
    for place in range(2):
        await rows.nth(place).get_by_role("checkbox").check()
    await dialog.get_by_role("button", name="Replay …").click()
    await expect(dialog.locator(".confirm .happens")).to_contain_text("2 items go back into the queue")
    await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    await dialog.get_by_role("button", name="Replay 2 items").click()
    await expect(dialog.locator(".outcome")).to_contain_text("submitted again")
    await expect(rows).to_have_count(3)
    await dialog.get_by_label("Choose all that are listed").check()
    await dialog.get_by_role("button", name="Drop …").click()
    await expect(dialog.locator(".confirm .happens")).to_contain_text("3 items are removed for good")
    await dialog.get_by_role("button", name="Drop 3 items").click()
    await expect(dialog).to_contain_text("There are none.")
    assert await batches.count_dead_letters() == 0
    await page.keyboard.press("Escape")
    await audited(page, expect, "batch.drop_dead_letters", "3 items")
    assert page.faults == []


async def test_an_item_that_is_gone_is_said(shown, page, opened, expect, poisoned):
    await opened(shown)
    await page.get_by_role("button", name="Dead letters …").click()
    dialog = page.get_by_role("dialog").first
    await dialog.get_by_label("Choose all that are listed").check()
    batches, _ = poisoned
    await batches.discard_dead_letters([letter.item_id async for letter in batches.iter_dead_letters()])
    await dialog.get_by_role("button", name="Drop …").click()
    await dialog.get_by_role("button", name="Drop 5 items").click()
    await expect(dialog.locator(".outcome")).to_contain_text("Not done: None of these items")
    await dialog.locator("button.open").first.click()
    await expect(page.get_by_role("dialog").last.get_by_role("alert")).to_contain_text(
        "not among the dead letters"
    )
