"""Downloads, uploads, and a status message in each chat that has any."""

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
from pyrogram import Client
from pyrogram.errors.rpc_error import RPCError

from bot.core.outbound import (
    MessageDeletedError,
    OutboundClosedError,
    OutboundFullError,
    OutboundHeldError,
    Priority,
    sending,
)
from mirror_bot import settings
from mirror_bot.database import query

# What sending raises: Telegram's refusals, and those of outbound, after which nothing was sent.
NOT_SENT = (RPCError, OutboundClosedError, OutboundFullError, OutboundHeldError, MessageDeletedError)


class Job:
    """A file on its way."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = Path(unquote(urlsplit(url).path)).name[:60] or "file"
        self.step = "download"
        self.percent = 0

    async def progress(self, done: int, total: int) -> None:
        """Bytes so far, of all."""
        self.percent = 100 * done // max(total, 1)

    def __str__(self) -> str:
        return f"{self.name}: {self.step} {self.percent} %"


class Status:
    """A chat's status message, and the text that it was given last."""

    def __init__(self, message: Any, text: str) -> None:
        self.message = message
        self.text = text


class Mirror:
    """All jobs of all chats."""

    def __init__(self, app: Client, session: aiohttp.ClientSession) -> None:
        self._app = app
        self._session = session
        self._jobs: dict[int, list[Job]] = {}
        self._statuses: dict[int, Status | None] = {}  # None: it is being sent
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, chat: int, url: str) -> None:
        """Mirror a file in the background."""
        job = Job(url)
        self._jobs.setdefault(chat, []).append(job)
        self._run(self._mirror(chat, job))
        if chat not in self._statuses:
            self._statuses[chat] = None
            try:
                text = str(job)
                self._statuses[chat] = Status(await self._app.send_message(chat, text), text)
            finally:
                if self._statuses[chat] is None:
                    del self._statuses[chat]

    async def show_progress(self) -> None:
        """For ever: give each chat's status message the text of now.

        No edit is waited for: a chat that Telegram makes wait delays no other chat's status. Of the edits
        that wait, only the last one is sent.
        """
        while True:
            for chat, jobs in list(self._jobs.items()):
                status = self._statuses.get(chat)
                text = "\n".join(map(str, jobs)) or "All files are here."
                if status is not None and text != status.text:
                    status.text = text
                    self._run(self._edit(status.message, text))
                if not jobs and (status is not None or chat not in self._statuses):
                    del self._jobs[chat]
                    self._statuses.pop(chat, None)
            await asyncio.sleep(settings.STATUS_SECONDS)

    async def stop(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _run(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _edit(self, message: Any, text: str) -> None:
        with sending(Priority.STATUS), suppress(*NOT_SENT):
            await message.edit_text(text)

    async def _mirror(self, chat: int, job: Job) -> None:
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "file")
                size = await self._download(job, path)
                job.step, job.percent = "upload", 0
                # After a FloodWait the message is sent again, and no part of the file.
                await self._app.send_document(chat, str(path), file_name=job.name, progress=job.progress)
            await query("INSERT INTO files VALUES (?, ?, ?)", chat, job.name, size)
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError, *NOT_SENT) as error:
            with suppress(*NOT_SENT):
                await self._app.send_message(chat, f"{job.name}: not mirrored ({type(error).__name__})")
        finally:
            self._jobs[chat].remove(job)

    async def _download(self, job: Job, path: Path) -> int:
        size = 0
        async with self._session.get(job.url) as answer:
            answer.raise_for_status()
            with path.open("wb") as file:
                async for piece in answer.content.iter_chunked(256 * 1024):
                    size += len(piece)
                    if size > settings.MAX_FILE_BYTES:
                        raise ValueError("too large")
                    await asyncio.to_thread(file.write, piece)
                    await job.progress(size, answer.content_length or size)
        return size
