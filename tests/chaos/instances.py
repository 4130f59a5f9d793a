"""The processes of a run: instances of the host, each with proxies of its own, and the front."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from aiohttp import ClientError, ClientSession

from tests.chaos.plan import INSTANCES
from tests.chaos.proxies import FaultyProxy
from tests.chaos.servers import DATABASE
from tests.support.instances import ROOT
from tests.support.servers import ChildServer, free_port

CACHE_TTL = 6.0
"""Seconds a row may be served from a cache whose invalidation never came."""
BATCH_LEASE = 4.0
SLOT_LEASE = 3.0
GROUP_WINDOW = 10.0
"""Of outbound and of the Telegram server, instead of a minute."""


def settings_of(urls: Mapping[str, str]) -> dict[str, Any]:
    """What an instance is started with; times are shorter than the defaults, so that more happens."""
    pools = {"postgresql": {"url": urls["postgresql"], "min_size": 1, "max_size": 6}}
    if "mysql" in urls:
        pools["mysql"] = {"url": urls["mysql"], "min_size": 1, "max_size": 6}
    return {
        "ENABLE_QUERY_OPTIMIZER": True, "ENABLE_CACHE_MANAGER": True, "ENABLE_CONNECTION_POOLING": True,
        "ENABLE_RATE_LIMITER": True, "ENABLE_BATCH_PROCESSOR": True, "ENABLE_OUTBOUND": True,
        "QUERY_OPTIMIZER_DIALECT": "postgres", "QUERY_OPTIMIZER_CACHE_TTL": CACHE_TTL,
        "CACHE_L2_REDIS_URL": urls["cache"], "DATABASE_POOLS": pools, "POOL_ACQUIRE_TIMEOUT": 3.0,
        "POOL_CONNECT_TIMEOUT": 3.0, "POOL_QUERY_TIMEOUT": 4.0, "RATE_LIMIT_REDIS_URL": urls["queue"],
        "RATE_LIMIT_SLOT_LEASE": SLOT_LEASE, "BATCH_REDIS_URL": urls["queue"], "BATCH_LEASE": BATCH_LEASE,
        "BATCH_MAX_SIZE": 20, "BATCH_TIMEOUT": 0.05, "BATCH_RETRY_BASE": 0.2, "BATCH_RETRY_MAX": 1.0,
        "BATCH_RESULT_TTL": 3600, "BATCH_DRAIN_TIMEOUT": 3.0, "OUTBOUND_REDIS_URL": urls["queue"],
        "OUTBOUND_BOT_ID": "chaos", "OUTBOUND_GROUP_WINDOW": GROUP_WINDOW, "OUTBOUND_DRAIN_TIMEOUT": 1.0,
        "OUTBOUND_BROADCAST_STORE": "", "PHASE4_REDIS_TIMEOUT": 2.0,
    }  # fmt: skip


class Process(ChildServer):
    """A child whose output goes into ``folder``, one file for each time that it was started."""

    name = ""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.process = None
        self.folder = folder
        self.directory = str(folder)
        self.starts = 0

    @property
    def who(self) -> str:
        """The process that runs now, such as ``a-2``."""
        return f"{self.name}-{self.starts}"

    def environment(self) -> dict[str, str]:
        return {}

    def begin(self) -> None:
        """Start it; it answers a little later."""
        self.starts += 1
        ours = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}  # many starts of the same code
        with (self.folder / f"{self.who}.log").open("wb") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, cwd=self.folder,
                env={**os.environ, **ours, **self.environment()},
            )  # fmt: skip

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM; the exit status. Raises TimeoutExpired if it does not end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(seconds)
        self.process = None
        return status

    def figures(self) -> dict[str, int]:
        """Memory and descriptors, told by the kernel."""
        assert self.process is not None
        process = psutil.Process(self.process.pid)
        return {"rss": process.memory_info().rss, "fds": process.num_fds()}


class Host(Process):
    """An instance; ``links`` are its proxies, by server."""

    def __init__(self, name: str, folder: Path, links: Mapping[str, FaultyProxy], telegram: str) -> None:
        super().__init__(folder, free_port())
        self.name = name
        self.links = links
        self._telegram = telegram

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-W", "default", "-m", "tests.chaos.host"]

    def environment(self) -> dict[str, str]:
        urls = {
            "cache": f"redis://127.0.0.1:{self.links['cache'].port}/0",
            "queue": f"redis://127.0.0.1:{self.links['queue'].port}/0",
            "postgresql": f"postgresql://postgres@127.0.0.1:{self.links['postgresql'].port}/postgres",
        }
        if "mysql" in self.links:
            urls["mysql"] = f"mysql://bot:secret@127.0.0.1:{self.links['mysql'].port}/{DATABASE}"
        given = {
            "who": self.who, "port": self.port, "ledger": str(self.folder / f"{self.who}.ledger"),
            "uvloop": self.name == "b", "cache_ttl": CACHE_TTL, "telegram": self._telegram,
            "settings": settings_of(urls),
        }  # fmt: skip
        return {"CHAOS_HOST": json.dumps(given)}


class Front(Process):
    """The load balancer's front before the instances: ``python -m bot --balance``."""

    name = "front"

    def __init__(self, folder: Path, hosts: list[Host]) -> None:
        super().__init__(folder, free_port())
        self._hosts = hosts

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        places = ",".join(f"127.0.0.1:{host.port}" for host in self._hosts)
        return [
            sys.executable, "-W", "default", "-m", "bot", "--port", str(self.port), "--balance", places,
            "--log-level", "info", "--data-dir", self.directory,
        ]  # fmt: skip

    def environment(self) -> dict[str, str]:
        return {
            "LOAD_BALANCER_CHECK_INTERVAL": "1", "LOAD_BALANCER_RECOVERY_THRESHOLD": "2",
            "LOAD_BALANCER_REQUEST_TIMEOUT": "9", "LOAD_BALANCER_TOTAL_TIMEOUT": "12",
            "LOAD_BALANCER_EJECTION_TIME": "2", "LOAD_BALANCER_EJECTION_MAX_TIME": "5",
            "LOAD_BALANCER_SLOW_START": "2",
        }  # fmt: skip


def make_hosts(folder: Path, links: Mapping[str, Mapping[str, FaultyProxy]], telegram: str) -> list[Host]:
    """One for each name of ``plan.INSTANCES``."""
    return [Host(name, folder, links[name], telegram) for name in INSTANCES]


async def until_up(session: ClientSession, processes: list[Process], seconds: float = 180.0) -> None:
    """Wait until all of them answer. Raises RuntimeError for one that ended or stays silent."""
    deadline = time.monotonic() + seconds
    for process in processes:
        url = f"http://127.0.0.1:{process.port}/health"
        while True:
            with contextlib.suppress(ClientError, OSError):
                async with session.get(url) as answer:
                    if answer.status == 200:
                        break
            if time.monotonic() > deadline or (process.process and process.process.poll() is not None):
                raise RuntimeError(f"{process.who} does not answer; see {process.folder}")
            await asyncio.sleep(0.05)
