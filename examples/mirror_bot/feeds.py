"""RSS feeds: what is new in them is written in batches, and told to the chats that subscribe to them."""

import asyncio
import logging
from xml.etree import ElementTree

import aiohttp
from pyrogram import Client

from bot.core.batch_processor import BatchItem, BatchProcessor
from mirror_bot import settings
from mirror_bot.database import query, write_many
from mirror_bot.mirror import NOT_SENT

logger = logging.getLogger(__name__)


async def write_entries(items: list[BatchItem]) -> list[bool]:
    """The batch processor's handler, for entries (feed, link, title): whether each of them is new."""
    known = {
        (feed, link)
        for feed in {item.data[0] for item in items}
        for (link,) in await query("SELECT link FROM entries WHERE feed = ?", feed)
    }
    fresh: dict[tuple[str, str], BatchItem] = {}
    for item in items:
        if item.data[:2] not in known:
            fresh.setdefault(item.data[:2], item)
    await write_many("INSERT INTO entries VALUES (?, ?, ?)", [item.data for item in fresh.values()])
    return [fresh.get(item.data[:2]) is item for item in items]


class Feeds:
    """All feeds that chats subscribe to."""

    def __init__(self, app: Client, session: aiohttp.ClientSession) -> None:
        self._app = app
        self._session = session

    async def watch(self) -> None:
        """For ever: read all feeds, side by side."""
        while True:
            feeds = [feed for (feed,) in await query("SELECT DISTINCT feed FROM subscriptions")]
            for feed, error in zip(
                feeds, await asyncio.gather(*map(self._read, feeds), return_exceptions=True), strict=True
            ):
                if error is not None:
                    logger.warning("%s: %s", feed, type(error).__name__)
            await asyncio.sleep(settings.FEED_SECONDS)

    async def _read(self, feed: str) -> None:
        async with self._session.get(feed) as answer:
            answer.raise_for_status()
            text = await answer.content.read(settings.MAX_FEED_BYTES)
        entries = [
            (feed, item.findtext("link", "")[:500], item.findtext("title", "")[:200])
            for item in ElementTree.fromstring(text).iter("item")  # noqa: S314 - expat bounds entities itself
        ]
        processor = BatchProcessor.get_instance()
        new = await asyncio.gather(*map(processor.submit_and_wait, entries))
        titles = [title for (_, _, title), is_new in zip(entries, new, strict=True) if is_new]
        if titles:
            news = "\n".join([f"{len(titles)} new", *titles[:10]])
            chats = await query("SELECT chat FROM subscriptions WHERE feed = ?", feed)
            await asyncio.gather(*(self._tell(chat, news) for (chat,) in chats))

    async def _tell(self, chat: int, news: str) -> None:
        try:
            await self._app.send_message(chat, news)
        except NOT_SENT as error:
            logger.warning("chat %s was not told: %s", chat, type(error).__name__)
