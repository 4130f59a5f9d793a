"""The page in a real browser: Debian's chromium, driven by playwright."""

import contextlib
import logging
import shutil
import time
from typing import NamedTuple

import pytest
from aiohttp import web

from bot.core.enhanced_startup_phase4 import (
    initialize_phase4_services,
    mount_phase4,
    shutdown_phase4_services,
)
from bot.core.phase4_admin.feed import Feed
from bot.core.phase4_config import SETTING_NAMES

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
EVERYTHING = {name: True for name in SETTING_NAMES if name.startswith("ENABLE_")} | {
    "ENABLE_CACHE_WARMING": False,
    "QUERY_OPTIMIZER_SLOW_QUERY_THRESHOLD": 0.5,
    "LOAD_BALANCER_CHECK_INTERVAL": 60,
}
NAME = "Бот <b>№1</b>"


class Shown(NamedTuple):
    """A bot with everything on, and its page."""

    url: str
    feed: Feed


@pytest.fixture
async def browser():
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    playwright = pytest.importorskip(
        "playwright.async_api", reason="playwright is not installed (pip install playwright)"
    )
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture
def new_page(browser):
    """Opens a page that notes what went wrong on it (``faults``) and what it asked for (``asked``)."""

    async def opened(width=1280, height=900, **options):
        context = await browser.new_context(viewport={"width": width, "height": height}, **options)
        page = await context.new_page()
        page.faults, page.asked = [], []
        page.on("console", lambda line: page.faults.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        return page

    return opened


@pytest.fixture
async def page(new_page):
    return await new_page()


@pytest.fixture
def expect():
    made = pytest.importorskip("playwright.async_api").expect
    made.set_options(timeout=30_000)  # of a state that comes; on a loaded machine it may take its time
    return made


@contextlib.asynccontextmanager
async def serving(**settings):
    app = web.Application()
    feed = mount_phase4(app, prefix="/", name=NAME).admin.feed
    feed._interval = 0.5
    report = await initialize_phase4_services(EVERYTHING | settings)
    assert report["success"], report["errors"]
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Shown(f"http://127.0.0.1:{runner.addresses[0][1]}/", feed)
    finally:
        await runner.cleanup()
        await shutdown_phase4_services()


@pytest.fixture
async def shown():
    async with serving() as made:
        yield made


@pytest.fixture
async def shown_for_a_day():
    """The same after a day in which the event loop was late once, by 99 ms, twelve hours ago."""
    async with serving() as made:
        made.feed.close()
        now = time.time()
        for ago in range(86_400, 10, -20):
            late = 99.0 if ago == 43_200 else 5.0
            made.feed._history.add(now - ago, {"lag": late, "memory": 80.0})
        made.feed.start()
        yield made


@pytest.fixture(autouse=True)
def as_a_bot_logs():
    """The library's lines at INFO are events, as in a bot that logs at INFO."""
    logger = logging.getLogger("bot.core")
    before = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(before)


@pytest.fixture
def opened(page, expect):
    """Opens the page of a bot, and waits until it shows figures."""

    async def open_(shown, on=page):
        await on.goto(shown.url)
        await expect(on.locator("#figures")).to_be_visible()
        return on

    return open_
