"""The mixed load: asks instances and front, and keeps every request with its answer and times."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from tests.chaos.faults import GROUP
from tests.chaos.instances import Front, Host

ROWS = 12
ACCOUNTS = 6
LANES = 4
CHATS = (GROUP, 501, 502)

NO_ANSWER = 0
"""The status of a request whose connection broke, or that nobody answered in time."""
PATIENCE = 20.0
"""Seconds that a client waits; longer than every time limit of the instances and of the front."""


@dataclass
class Asked:
    """One request and its answer. Times are of the machine's monotonic clock."""

    kind: str
    instance: str
    """Whom it was sent to: an instance, or ``front``."""
    sent: float
    asked: dict[str, Any]
    answered: float = 0.0
    status: int = NO_ANSWER
    told: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        seconds = self.answered - self.sent
        return (
            f"{self.sent:.3f} +{seconds:.3f} {self.instance} {self.kind} {self.asked} "
            f"-> {self.status} {self.told}"
        )


class Load:
    """Clients that ask one request after the other until they are told to stop."""

    def __init__(self, hosts: list[Host], front: Front, seed: int, pace: float = 1.0) -> None:
        self.log: list[Asked] = []
        self._hosts = hosts
        self._front = front
        self._chance = random.Random(seed + 1)
        self._pace = pace
        self._stopping = asyncio.Event()
        self._numbers = itertools.count(1)
        self._submitted: list[str] = []
        """Items to ask for."""

    async def run(self) -> None:
        """Until ``stop``; each client ends its last request."""
        timeout = ClientTimeout(total=PATIENCE)
        async with (
            ClientSession(timeout=timeout, connector=TCPConnector(limit=0)) as self._session,
            asyncio.TaskGroup() as group,
        ):
            for client in self._clients():
                group.create_task(client)

    def stop(self) -> None:
        self._stopping.set()

    def _clients(self) -> list[Any]:
        every = self._every
        return [
            *[every(0.04, self._read) for _ in range(4)],
            *[every(0.15, self._write) for _ in range(2)],
            *[every(0.3, self._transfer) for _ in range(2)],
            *[every(0.12, self._limit) for _ in range(3)],
            *[every(0.1, self._slot) for _ in range(4)],
            *[every(0.5, self._items) for _ in range(2)],
            *[every(0.3, self._look_up) for _ in range(2)],
            *[self._lane(number) for number in range(LANES)],
            *[self._chat(chat, number) for number, chat in enumerate(CHATS)],
        ]

    async def _every(self, seconds: float, act: Callable[[], Awaitable[Any]]) -> None:
        while not await self._rested(self._chance.uniform(0.5, 1.5) * seconds):
            await act()

    async def _rested(self, seconds: float) -> bool:
        """Wait; whether it is time to stop."""
        try:
            async with asyncio.timeout(seconds * self._pace):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    # Requests.

    def _anybody(self) -> str:
        return self._chance.choice(("front", "front", *[host.name for host in self._hosts]))

    async def ask(
        self, method: str, kind: str, where: str = "", body: dict[str, Any] | None = None, **query: Any
    ) -> Asked:
        """One request, written down."""
        name = where or self._anybody()
        base = next((host.url for host in self._hosts if host.name == name), self._front.url)
        one = Asked(f"{method} {kind}", name, time.monotonic(), body or query)
        try:
            async with self._session.request(method, f"{base}/api/{kind}", params=query, json=body) as answer:
                one.told = await answer.json()
                one.told["retry"] = answer.headers.get("Retry-After", "")
                if name == "front":
                    one.told["by"] = answer.headers.get("X-Instance", "")
                one.status = answer.status
        except (ClientError, OSError) as error:
            one.told = {"error": f"{type(error).__name__}: {error}"}
        one.answered = time.monotonic()
        self.log.append(one)
        return one

    async def _read(self) -> None:
        await self.ask("GET", self._chance.choice(("query", "cached")), id=self._chance.randrange(ROWS))

    async def _write(self) -> None:
        await self.ask("POST", self._chance.choice(("query", "cached")), id=self._chance.randrange(ROWS))

    async def _transfer(self) -> None:
        giver, taker = self._chance.sample(range(ACCOUNTS), 2)
        await self.ask("POST", "transfer", id=f"t{next(self._numbers)}", giver=giver, taker=taker)

    async def _limit(self) -> None:
        await self.ask("GET", "limit", limit=self._chance.choice(("window", "bucket")), client="u1")

    async def _slot(self) -> None:
        seconds = self._chance.choice((0.05, 0.1, 0.4))
        await self.ask("POST", "slot", client=self._chance.choice(("x", "y")), seconds=seconds)

    async def _items(self) -> None:
        items = [
            {"key": f"i{next(self._numbers)}", "data": {"fails": self._chance.random() < 0.05}}
            for _ in range(self._chance.randint(1, 6))
        ]
        await self.ask("POST", "batch", body={"items": items})
        self._submitted += [item["key"] for item in items]

    async def _look_up(self) -> None:
        if self._submitted:
            await self.ask("GET", "result", id=self._chance.choice(self._submitted[-200:]))

    async def _lane(self, lane: int) -> None:
        """One item after the other; one that may not have been taken is sent again under its key."""
        for number in itertools.count():
            item = {"key": f"lane{lane}-{number}", "data": {"number": number}}
            while True:
                if await self._rested(self._chance.uniform(0.1, 0.5)):
                    return
                told = await self.ask("POST", "batch", body={"items": [item], "lane": f"lane{lane}"})
                if told.status == 200 and told.told["taken"] == [True]:
                    break
            self._submitted.append(item["key"])

    async def _chat(self, chat: int, number: int) -> None:
        """Numbered messages by one instance, three at a time."""
        home = self._hosts[number % len(self._hosts)]
        counter = itertools.count(1)
        while not await self._rested(self._chance.uniform(0.5, 2.0)):
            texts = [f"{home.who} {next(counter)}" for _ in range(3)]
            await self.ask("POST", "send", home.name, body={"chat": chat, "texts": texts})
