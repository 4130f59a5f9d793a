"""One run: start everything, load it, break it, let it heal, stop it, and judge."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import psutil
from aiohttp import ClientError, ClientSession, ClientTimeout

from bot.testing.telegram import TelegramServer
from bot.testing.telegram_limits import ServerLimits
from tests.chaos import aftermath, oracles
from tests.chaos.faults import Faults
from tests.chaos.host_services import BUCKET, WINDOW
from tests.chaos.instances import GROUP_WINDOW, Front, Host, Process, make_hosts, until_up
from tests.chaos.ledger import instance_of, read
from tests.chaos.load import ACCOUNTS, ROWS, Load
from tests.chaos.oracles import Violation
from tests.chaos.plan import INSTANCES, MACHINE, NEVER_KILLED, draw
from tests.chaos.proxies import FaultyProxy
from tests.chaos.servers import DATABASE, Servers
from tests.chaos.stalls import watch_stalls

HEAL = 30.0
"""Seconds after the last fault within which everything must work again."""

_SCHEMA = f"""
CREATE TABLE queried (id int PRIMARY KEY, version int NOT NULL);
CREATE TABLE cached (id int PRIMARY KEY, version int NOT NULL);
CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
CREATE TABLE transfers (id text PRIMARY KEY, giver int NOT NULL, taker int NOT NULL);
CREATE TABLE handled (id text PRIMARY KEY);
INSERT INTO queried SELECT n, 0 FROM generate_series(0, {ROWS - 1}) n;
INSERT INTO cached SELECT n, 0 FROM generate_series(0, {ROWS - 1}) n;
INSERT INTO accounts SELECT n, 0 FROM generate_series(0, {ACCOUNTS - 1}) n;
"""


@dataclass
class Result:
    """What a run found."""

    seed: int
    violations: list[Violation] = field(default_factory=list)
    stalls: list[str] = field(default_factory=list)
    rows: list[tuple[str, str, int]] = field(default_factory=list)
    """Oracle, what it looked at, violations."""
    folder: Path | None = None


@dataclass(frozen=True)
class Times:
    """Seconds of a run: before the faults, with them, after them."""

    warm: float
    faults: float
    quiet: float

    @classmethod
    def of(cls, seconds: float) -> Times:
        warm = min(30.0, seconds * 0.15)
        quiet = min(45.0, seconds * 0.25)
        return cls(warm, seconds - warm - quiet, quiet)


class Run:
    """Owns every process of a run; ``judge`` may be called when ``play`` has ended."""

    def __init__(self, folder: Path, seed: int, times: Times, *, mysql: bool, rest: float = 2.0) -> None:
        self.folder = folder
        self.seed = seed
        self.times = times
        self.rest = rest
        self.servers = Servers(mysql)
        self.hosts: list[Host] = []
        self.samples: dict[str, list[dict[str, float]]] = defaultdict(list)
        self.deaths: dict[str, float] = {}
        """When each process was seen to have ended."""
        self.left: dict[str, list[Any]] = {}
        self.stopped: dict[str, int] = {}
        self.final: dict[str, dict[str, Any]] = {}
        self.healed = float("inf")
        self.replayed_at = float("inf")

    async def play(self, tell: Callable[[str], None]) -> None:
        """All of it but the judgement. Everything that was started has ended afterwards."""
        await asyncio.to_thread(self.servers.start)
        limits = ServerLimits(group=(20, GROUP_WINDOW))
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, self.servers.close)
            await self._fill()
            self.telegram = await stack.enter_async_context(TelegramServer(limits=limits, log_size=1_000_000))
            links = {name: await self._links(stack) for name in INSTANCES}
            self.hosts = make_hosts(self.folder, links, f"{self.telegram.base_url}{self.telegram.token}")
            self.front = Front(self.folder, self.hosts)
            self.session = await stack.enter_async_context(ClientSession(timeout=ClientTimeout(total=3)))
            for process in (*self.hosts, self.front):
                stack.callback(_end, process)
                process.begin()
            await until_up(self.session, [*self.hosts, self.front])
            await self._act(tell)

    async def _links(self, stack: contextlib.AsyncExitStack) -> dict[str, FaultyProxy]:
        return {
            target: await stack.enter_async_context(FaultyProxy(server.port))
            for target, server in self.servers.by_target.items()
        }

    async def _fill(self) -> None:
        connection = await asyncpg.connect(self.servers.postgresql.url)
        await connection.execute(_SCHEMA)
        await connection.close()
        if self.servers.mysql is not None:
            rows = ", ".join(f"({number}, 0)" for number in range(ROWS))
            await asyncio.to_thread(
                self.servers.mysql.execute, f"INSERT INTO {DATABASE}.cached VALUES {rows}"
            )

    async def _act(self, tell: Callable[[str], None]) -> None:
        times = self.times
        self.load = Load(self.hosts, self.front, self.seed)
        self.faults = Faults(self.servers, self.hosts, self.telegram)
        plan = draw(self.seed, list(self.servers.by_target), times.warm, times.warm + times.faults, self.rest)
        self.before = await self._idle()
        self.start = time.monotonic()
        loading = asyncio.create_task(self.load.run())
        watching = asyncio.create_task(self._watch())
        stalls = asyncio.create_task(watch_stalls(self.faults.history.add_stall))
        try:
            await self.faults.run(plan, self.start, tell)
            tell(f"{time.monotonic() - self.start:6.1f} s  the last fault is over")
            await self._heal(tell)
            await asyncio.sleep(max(0.0, self.start + sum(vars(times).values()) - time.monotonic()))
            self.load.stop()
            await loading
            await self._look_at_items()
            self.after = await self._idle()
            self.telegram_log = list(self.telegram.log)
        finally:
            for task in (loading, watching, stalls):
                task.cancel()
            await asyncio.wait([loading, watching, stalls])
        await self._end_all()

    async def _watch(self) -> None:
        """Memory, descriptors and tasks of each process, every second."""
        while True:
            await self._sample()
            for process in (*self.hosts, self.front):
                if process.process is None or process.process.poll() is not None:
                    self.deaths.setdefault(process.who, time.monotonic())
            await asyncio.sleep(1.0)

    async def _sample(self) -> None:
        for process in (*self.hosts, self.front):
            with contextlib.suppress(AssertionError, psutil.Error, ClientError, OSError):
                figures = process.figures()
                sample = {"at": time.monotonic(), "rss_mb": figures["rss"] / 1e6, "fds": figures["fds"]}
                self.samples[process.who].append(sample)
                async with self.session.get(f"http://127.0.0.1:{process.port}/health") as answer:
                    sample["tasks"] = (await answer.json())["phase4"]["process"]["tasks"]
        with contextlib.suppress(psutil.Error):
            count = await asyncio.to_thread(self.servers.backends)
            self.samples["postgresql"].append({"at": time.monotonic(), "backends": count})

    async def _idle(self) -> dict[str, dict[str, float]]:
        """What those that live throughout have, without a client."""
        await asyncio.sleep(2.0)
        await self._sample()
        return {who: dict(self.samples[who][-1]) for who in (f"{NEVER_KILLED}-1", "front-1", "postgresql")}

    # Healing.

    async def _heal(self, tell: Callable[[str], None]) -> None:
        """Wait until every service of every instance is well, and the front has all of them."""
        over = time.monotonic()
        trouble: list[str] = ["not looked at"]
        while trouble and time.monotonic() < over + HEAL:
            await asyncio.sleep(0.2)
            trouble = await self._trouble()
        if trouble:
            tell(f"not healed: {'; '.join(trouble)}")
            self.trouble = trouble
            return
        self.trouble = []
        self.healed = time.monotonic()
        tell(f"{self.healed - self.start:6.1f} s  all is well after {self.healed - over:.1f} s")

    async def _trouble(self) -> list[str]:
        found = []
        for process in (*self.hosts, self.front):
            try:
                async with self.session.get(f"http://127.0.0.1:{process.port}/health") as answer:
                    told = await answer.json()
            except (ClientError, OSError) as error:
                found.append(f"{process.who}: {type(error).__name__}")
                continue
            found += [
                f"{process.who}: {name} {state['state']}: {state['reason']}"
                for name, state in told["phase4"]["states"].items()
                if state["state"] not in ("ok", "off")
            ]
            found += [
                f"front: {name} {state}"
                for name, state in told.get("instances", {}).items()
                if state not in ("healthy", "slow_start")
            ]
        return found

    # The end.

    async def _look_at_items(self) -> None:
        """Replay dead letters, wait until the queue is empty, and ask how each item ended."""
        self.replayed_at = time.monotonic()
        keys = {
            item["key"] for one in self.load.log if one.kind == "POST batch" for item in one.asked["items"]
        }
        url = self.hosts[0].url
        async with self.session.post(f"{url}/api/replay") as answer:
            self.replayed = (await answer.json()).get("replayed")
        deadline = time.monotonic() + 60
        open_keys = sorted(keys)
        while open_keys and time.monotonic() < deadline:
            asked = open_keys[:100]
            told = await self._outcomes(f"{url}/api/results", asked)
            self.final.update(zip(asked, told, strict=True))
            pending = [key for key, one in zip(asked, told, strict=True) if one["state"] == "pending"]
            open_keys = open_keys[100:] + pending

    async def _outcomes(self, url: str, keys: list[str]) -> list[dict[str, Any]]:
        with contextlib.suppress(ClientError, OSError):
            async with self.session.post(url, json=keys) as answer:
                if answer.status == 200:
                    return await answer.json()
        return [{"state": "pending"}] * len(keys)

    async def _end_all(self) -> None:
        """Look at the tables, stop the processes, and look what they leave in the servers."""
        connection = await asyncpg.connect(self.servers.postgresql.url)
        try:
            self.balances = {r[0]: r[1] for r in await connection.fetch("SELECT id, balance FROM accounts")}
            self.transfers = {r[0]: (r[1], r[2]) for r in await connection.fetch("SELECT * FROM transfers")}
            self.handled = {r[0] for r in await connection.fetch("SELECT id FROM handled")}
            for process in (self.front, *self.hosts):
                self.stopped[process.who] = await asyncio.to_thread(process.stop)
                self.deaths.setdefault(process.who, time.monotonic())
            await asyncio.sleep(0.3)
            query = (
                "SELECT query FROM pg_stat_activity WHERE backend_type = 'client backend' "
                "AND pid <> pg_backend_pid()"
            )
            self.left["connections of PostgreSQL"] = [r[0] for r in await connection.fetch(query)]
        finally:
            await connection.close()
        for name in ("cache", "queue"):
            server: Any = self.servers.by_target[name]
            clients = await asyncio.to_thread(server.execute, "CLIENT", "LIST")
            text = clients.decode() if isinstance(clients, bytes) else str(clients)
            self.left[f"connections of {name}"] = [
                line for line in text.splitlines() if "cmd=client" not in line
            ]
        await self._leftovers_of_queue()
        if self.servers.mysql is not None:
            self.left["connections of MariaDB"] = await asyncio.to_thread(
                self.servers.mysql.execute, "SELECT id FROM information_schema.processlist WHERE user = 'bot'"
            )

    async def _leftovers_of_queue(self) -> None:
        execute: Any = self.servers.queue.execute
        keys = await asyncio.to_thread(execute, "KEYS", "*")
        lanes = [key for key in keys if b":lane:" in key]
        self.left["lanes"] = lanes
        stream = b"phase4:{batch:default}:items"
        entries = await asyncio.to_thread(execute, "XLEN", stream)
        self.left["items in the queue"] = list(range(entries))
        self.figures_of_queue = {"keys": len(keys)}

    # The judgement.

    def judge(self) -> Result:
        """What the oracles say."""
        log, history = self.load.log, self.faults.history
        events = read(self.folder)
        ends = self.deaths
        for event in events:
            if event["kind"] == "stall":
                history.add_stall(event["begin"], event["end"], instance_of(event["who"]))
        window = WINDOW.window, WINDOW.max_requests
        confirmed = [one.asked["id"] for one in log if one.kind == "POST transfer" and one.status == 200]
        result = Result(self.seed, folder=self.folder)
        flat = self._flat()
        limit_checks = sum(one.kind == "GET limit" for one in log)
        reads = sum(one.kind in ("GET query", "GET cached") for one in log)
        for name, looked_at, found in (
            ("answers", f"{len(log)} requests", oracles.answers(log, history, self.healed)),
            ("stale reads", f"{reads} reads", oracles.stale_reads(log, history)),
            (
                "limits", f"{limit_checks} checks",
                oracles.limits(
                    log, window[1], window[0], BUCKET.requests_per_second, BUCKET.burst_size
                ),
            ),
            ("slots", f"{_count(events, 'slot')} held", oracles.slots(events, ends, history)),
            (
                "lanes", f"{_count(events, 'begin')} batches",
                oracles.lanes(events, ends, history, self.replayed_at),
            ),
            (
                "outcomes", f"{len(self.final)} items, {len(self.handled)} effects",
                oracles.outcomes(log, self.handled, self.final),
            ),
            ("messages", f"{len(self.telegram_log)} calls", aftermath.messages(self.telegram_log, history)),
            (
                "accounts", f"{len(self.transfers)} transfers",
                aftermath.accounts(self.balances, self.transfers, confirmed),
            ),
            ("healing", self._healing(), [Violation("healing", one, []) for one in self.trouble]),
            ("flat", self._flatness(), flat),
            ("surprises", f"{len(list(self.folder.glob('*.log')))} logs", aftermath.surprises(self.folder)),
            ("endings", f"{len(self.stopped)} stops", aftermath.endings(events, self.stopped, self.left)),
        ):  # fmt: skip
            result.rows.append((name, looked_at, len(found)))
            result.violations += found
        result.stalls = self._stalls()
        return result

    def _healing(self) -> str:
        happened = self.faults.history.happened
        stalls = [one.end - one.begin for one in happened if one.fault.target == MACHINE]
        return (
            f"{len(happened) - len(stalls)} faults, well {self.healed - self.faults.history.over:.1f} s "
            f"after the last; {len(stalls)} stalls of processes, {max(stalls, default=0):.1f} s at most"
        )

    def _stalls(self) -> list[str]:
        """The longest, each with its process, for who wonders whether the library held it up."""
        stalls = [one for one in self.faults.history.happened if one.fault.target == MACHINE]
        longest = sorted(stalls, key=lambda one: one.begin - one.end)[:6]
        return [
            f"{one.begin - self.start:6.1f} s  {one.fault.instance or 'the run'}: {one.fault.seconds:.1f} s"
            for one in longest
        ]

    def _flat(self) -> list[Violation]:
        """Memory is compared with that after the warm-up, in which caches fill."""
        warm = self.start + self.times.warm
        before = {who: dict(figures) for who, figures in self.before.items()}
        for who, figures in before.items():
            if "rss_mb" in figures:
                first = min(self.samples[who], key=lambda one: abs(one["at"] - warm))
                figures["rss_mb"] = first["rss_mb"]
        self.before = before
        return aftermath.flat(before, self.after)

    def _flatness(self) -> str:
        units = {"rss_mb": "MB", "fds": "fds", "tasks": "tasks", "backends": "connections"}
        return "; ".join(
            f"{who}: "
            + ", ".join(
                f"{had[figure]:.0f} to {self.after[who][figure]:.0f} {unit}"
                for figure, unit in units.items()
                if figure in had
            )
            for who, had in self.before.items()
        )


def _count(events: list[dict[str, Any]], kind: str) -> int:
    return sum(event["kind"] == kind for event in events)


def _end(process: Process) -> None:
    """Whatever state it is in, and without its files."""
    if process.process is not None:
        with contextlib.suppress(ProcessLookupError):
            process.thaw()
        process.kill()


async def run(
    seed: int, times: Times, *, mysql: bool, tell: Callable[[str], None], rest: float = 2.0
) -> Result:
    """Play and judge; the folder with logs and ledgers stays if there are violations."""
    played = Run(Path(tempfile.mkdtemp(prefix="chaos-")), seed, times, mysql=mysql, rest=rest)
    await played.play(tell)
    return played.judge()
