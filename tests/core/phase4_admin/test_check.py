"""``python -m bot check``: what it finds, what it advises, and that a dead server cannot hold it up."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bot.core._shared.packages import OLDEST
from bot.core.phase4_admin.check import of_service, rules
from bot.core.phase4_admin.check.command import _free_in_container, check
from bot.core.phase4_admin.check.findings import State, as_json, as_table, fail, failed, ok, warn
from bot.core.phase4_admin.check.servers import Server, judge, reach, reach_instance, servers
from bot.core.phase4_config import Phase4Config
from bot.service.database import POOL_NAME
from bot.service.databases import open_database
from bot.service.settings import CannotStartError
from tests.support.servers import free_port

ROOT = Path(__file__).resolve().parents[3]


def config(**settings) -> Phase4Config:
    return Phase4Config.from_mapping(settings)


ALL_ON = dict.fromkeys(rules.SERVICE_FLAGS, True)
TWO = [{"id": "a", "address": "10.0.0.1", "port": 8001}, {"id": "b", "address": "10.0.0.2", "port": 8001}]


@pytest.mark.parametrize(
    ("settings", "state", "word"),
    [
        ({"BATCH_MAX_PENDING": 50}, State.FAIL, "BATCH_MAX_PENDING = 50 is below BATCH_MAX_SIZE = 100"),
        ({"BATCH_MAX_PENDING": 500}, State.WARN, "BATCH_MAX_SIZE x BATCH_MAX_CONCURRENT = 1000"),
        ({"ENABLE_CACHE_WARMING": True}, State.WARN, "lapse before they are refreshed"),
        ({"POOL_IDLE_TIMEOUT": 7200}, State.WARN, "POOL_IDLE_TIMEOUT = 7200 s"),
        ({"POOL_KEEPALIVE_INTERVAL": 3600}, State.WARN, "never comes to pass"),
        ({"POOL_LEAK_THRESHOLD": 1}, State.WARN, "slow queries will be reported as leaked"),
        (
            {"RATE_LIMITS": {"free": {"requests_per_second": 1, "burst_size": 5}}},
            State.WARN,
            "every tier of RATE_LIMITS is tighter than the default",
        ),
        ({}, State.WARN, "requests have nowhere to go"),
        ({"LOAD_BALANCER_INSTANCES": TWO}, State.WARN, "up to 2 times its limit"),
        ({"LOAD_BALANCER_INSTANCES": TWO}, State.WARN, "do not hear of each other's writes"),
        (
            {"ENABLE_CACHE_MANAGER": False, "ENABLE_CACHE_WARMING": True},
            State.WARN,
            "ENABLE_CACHE_WARMING is set",
        ),
        (
            {"ENABLE_CACHE_MANAGER": False, "CACHE_L2_REDIS_URL": "redis://h"},
            State.WARN,
            "CACHE_L2_REDIS_URL is set but",
        ),
        (
            {"ENABLE_LOAD_BALANCER": False, "LOAD_BALANCER_INSTANCES": TWO},
            State.WARN,
            "LOAD_BALANCER_INSTANCES is set",
        ),
        (
            {"ENABLE_CONNECTION_POOLING": False, "DATABASE_POOLS": {"db": {"backend": "sqlite"}}},
            State.WARN,
            "DATABASE_POOLS is set but ENABLE_CONNECTION_POOLING is False",
        ),
    ],
)
def test_settings_that_do_not_go_together(settings, state, word):
    found = [f for f in rules.conflicts(config(**{**ALL_ON, **settings})) if word in f.found]
    assert [f.state for f in found] == [state]
    assert found[0].advice


@pytest.mark.parametrize("profile", [{}, {"ENABLE_QUERY_OPTIMIZER": True, "ENABLE_RATE_LIMITER": True}])
def test_the_defaults_and_the_minimal_profile_have_no_conflict(profile):
    assert [f.state for f in rules.conflicts(config(**profile))] == [State.OK]


def test_instances_that_share_all_through_redis_have_no_conflict():
    shared = dict.fromkeys(("CACHE_L2_REDIS_URL", "RATE_LIMIT_REDIS_URL", "OUTBOUND_REDIS_URL"), "redis://h")
    settings = config(**ALL_ON, **shared, LOAD_BALANCER_INSTANCES=TWO)
    assert [f.state for f in rules.conflicts(settings)] == [State.OK]


@pytest.mark.parametrize(
    ("settings", "free_mb", "state"),
    [
        ({}, 100, State.OK),
        ({"ENABLE_RATE_LIMITER": True}, 600, State.OK),
        ({"ENABLE_RATE_LIMITER": True}, 400, State.WARN),
        ({"ENABLE_CACHE_MANAGER": True}, 900, State.WARN),
        ({"ENABLE_CACHE_MANAGER": True, "CACHE_L1_MAX_SIZE_MB": 1000}, 1100, State.WARN),
        ({"ENABLE_CACHE_MANAGER": True, "CACHE_L1_MAX_SIZE_MB": 1000}, 900, State.FAIL),
        ({"ENABLE_CACHE_MANAGER": True, "ENABLE_QUERY_OPTIMIZER": True}, 140, State.FAIL),
    ],
)
def test_memory_against_what_the_caches_may_take(settings, free_mb, state):
    assert rules.memory(config(**settings), free_mb).state is state


def test_memory_names_the_figures_and_the_setting_to_lower():
    found = rules.memory(config(ENABLE_CACHE_MANAGER=True, CACHE_L1_MAX_SIZE_MB=2000), 900, "this container")
    assert found.found == (
        "900 MB free on this container; caches may take 2,000 MB (CACHE_L1_MAX_SIZE_MB 2000)"
    )
    assert found.advice.startswith("lower CACHE_L1_MAX_SIZE_MB")


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "1073741824\n", "memory.current": "536870912\n"}, 512.0),
        ({"memory.max": "max\n", "memory.current": "5\n"}, None),
        ({"memory/memory.limit_in_bytes": "2097152", "memory/memory.usage_in_bytes": "1048576"}, 1.0),
        ({"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "1"}, None),
        ({}, None),
    ],
)
def test_a_container_limit_is_read(tmp_path, files, free):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _free_in_container(tmp_path) == free


def test_descriptors_against_pools_and_instances():
    pools = [rules.Pool("db", "postgresql", "postgresql://h/d", 800)]
    assert rules.descriptors(config(), [], 1024).state is State.OK
    assert rules.descriptors(config(), pools, 1200).state is State.WARN
    found = rules.descriptors(config(), pools, 1024)
    assert found.state is State.FAIL
    assert "800 for pools" in found.found
    assert "ulimit -n" in found.advice
    assert rules.descriptors(config(), pools, None).state is State.OK


def test_packages_that_are_missing_or_old_say_what_to_install():
    found = list(
        rules.packages(["redis", "msgspec", "psutil"], {"redis": None, "msgspec": "0.9", "psutil": "7.0"})
    )
    assert [f.advice for f in found] == ["pip install 'redis>=6.0'", "pip install 'msgspec>=0.20'"]
    assert all(f.state is State.FAIL for f in found)
    assert [f.state for f in rules.packages(["psutil"], {"psutil": "7.0.1rc1"})] == [State.OK]


def test_the_lower_bounds_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    written = project["dependencies"] + [line for lines in extras.values() for line in lines]
    bounds = dict(
        match.groups() for line in written if (match := re.match(r"([\w-]+)(?:\[.*?\])?>=([\d.]+)", line))
    )
    assert {name: bounds[name] for name in OLDEST} == dict(OLDEST)


def test_the_pool_of_the_service_counts():
    assert of_service.SERVICE_POOL == POOL_NAME
    settings = config(ENABLE_CONNECTION_POOLING=True, DATABASE_URL="postgresql://h/d", POOL_MAX_SIZE=33)
    [pool] = rules.pools(settings, {"postgresql": "postgresql://h/d"}, service=True)
    assert (pool.backend, pool.max_size) == ("postgresql", 33)
    assert rules.pools(config(), {}, service=True) == []


def test_an_old_python_fails():
    assert rules.python_version((3, 10, 9)).state is State.FAIL
    assert rules.python_version((3, 11, 0)).state is State.OK


def test_a_data_folder_that_cannot_be_written_fails(tmp_path):
    assert of_service.disk(str(tmp_path), False, 1000).state is State.FAIL
    assert of_service.disk(str(tmp_path), True, 10).state is State.WARN


def test_each_server_is_named_once_with_every_setting_that_names_it():
    settings = config(
        **ALL_ON,
        REDIS_URL="redis://h/0",
        RATE_LIMIT_REDIS_URL="redis://h/1",
        DATABASE_URL="postgresql://h/bot",
        DATABASE_POOLS={"main": {"backend": "postgresql", "max_size": 7}},
        LOAD_BALANCER_INSTANCES=TWO,
    )
    urls = {"postgresql": "postgresql://h/bot", "redis": "redis://h/0"}
    found = {server.url: server for server in servers(settings, rules.pools(settings, urls, service=True))}
    assert found["redis://h/0"].settings == ("CACHE_L2_REDIS_URL", "REDIS_URL")
    assert found["redis://h/0"].needed
    assert found["redis://h/1"].settings == ("RATE_LIMIT_REDIS_URL",)
    assert found["postgresql://h/bot"].backend == "postgresql"
    assert found["postgresql://h/bot"].pooled == 2 * (7 + 20), "each instance: a pool of 7 and the service's"


@pytest.mark.parametrize(
    ("server", "facts", "state", "word"),
    [
        (
            Server("postgresql", "u", ("X",), True, 200),
            {"max_connections": 97, "free_connections": 90},
            State.FAIL,
            "allows 97",
        ),
        (
            Server("postgresql", "u", ("X",), True, 95),
            {"max_connections": 97, "free_connections": 90},
            State.WARN,
            "90 of 97",
        ),
        (Server("redis", "u", ("REDIS_URL",), True), {"version": "5.0.7"}, State.FAIL, "5.0.7"),
        (Server("redis", "u", ("BATCH_REDIS_URL",), True), {"version": "6.0.1"}, State.FAIL, "6.0.1"),
        (
            Server("redis", "u", ("CACHE_L2_REDIS_URL", "BATCH_REDIS_URL"), True),
            {"version": "7.0", "maxmemory": 10, "used_memory": 1, "maxmemory_policy": "allkeys-lru"},
            State.WARN,
            "drops what BATCH_REDIS_URL must keep",
        ),
        (
            Server("redis", "u", ("CACHE_L2_REDIS_URL",), True),
            {"version": "7.0", "maxmemory": 100, "used_memory": 95, "maxmemory_policy": "allkeys-lru"},
            State.WARN,
            "95% of its maxmemory",
        ),
        (
            Server("redis", "u", ("REDIS_URL", "RATE_LIMIT_REDIS_URL"), True),
            {"version": "7.0", "maxmemory": 10, "used_memory": 1, "maxmemory_policy": "volatile-lru"},
            State.WARN,
            "drops what RATE_LIMIT_REDIS_URL must keep",
        ),
        (
            Server("redis", "u", ("CACHE_L2_REDIS_URL",), True),
            {"version": "7.0", "maxmemory": 10, "used_memory": 1, "maxmemory_policy": "noeviction"},
            State.WARN,
            "new values stay out of Redis",
        ),
    ],
)
def test_what_a_server_says_is_held_against_the_deployment(server, facts, state, word):
    [found] = judge(server, facts)
    assert (found.state, word in found.found) == (state, True), found


async def test_real_servers_are_reached_and_say_their_versions(
    redis_url, postgresql_url, mongodb_url, tmp_path
):
    for backend, url, known in (
        ("redis", redis_url, r": \d+\.\d+"),
        ("postgresql", postgresql_url, r": \d+"),
        ("mongodb", mongodb_url, "answered in"),
        ("sqlite", f"sqlite:///{tmp_path}/a.db", r": 3\."),
    ):
        found = await reach(Server(backend, url, ("X_URL",), True), 10)
        assert found[0].state is State.OK, found
        assert re.search(known, found[0].found), found


async def test_a_redis_of_a_pool_is_reached_too(redis_url):
    found = await reach(Server("redis", redis_url, ("DATABASE_POOLS['r']",), True), 10)
    assert found[0].state is State.OK, found


@pytest.mark.parametrize("backend", ["redis", "postgresql", "mongodb", "mysql"])
async def test_a_server_that_is_away_fails_without_its_password(backend):
    url = f"{backend}://bot:s3cret@127.0.0.1:{free_port()}/db"
    [found] = await reach(Server(backend, url, ("X_URL",), True), 0.6)
    assert found.state is State.FAIL
    assert "s3cret" not in found.found
    assert found.advice.endswith("or correct X_URL")
    [unneeded] = await reach(Server(backend, url, ("X_URL",), False), 0.6)
    assert unneeded.state is State.WARN


async def test_a_server_that_never_answers_costs_the_timeout_and_no_more(redis_server):
    redis_server.freeze()
    [found] = await reach(Server("redis", redis_server.url, ("REDIS_URL",), True), 0.3)
    assert found.state is State.FAIL
    redis_server.thaw()


async def test_instances(redis_server):
    good = await reach_instance("a", "127.0.0.1", redis_server.port, 2)
    away = await reach_instance("b", "127.0.0.1", free_port(), 2)
    assert (good.state, away.state) == (State.OK, State.WARN)
    assert "b at 127.0.0.1" in away.found


async def test_a_bad_setting_is_the_last_word(monkeypatch):
    monkeypatch.setenv("POOL_MAX_SIZE", "many")
    found = await check()
    assert found[-1].state is State.FAIL
    assert "POOL_MAX_SIZE = 'many'" in found[-1].found


def test_table_and_json_say_the_same():
    findings = [
        ok("Python", "3.11"),
        warn("memory", "400 MB free", "have 500 MB free"),
        fail("Redis", "away " * 30, "start it"),
    ]
    table = as_table(findings, 60)
    assert max(map(len, table.splitlines()[:-1])) <= 60
    assert "-> start it" in table
    assert table.endswith("NOT ready to deploy: 1 ok, 1 warning(s), 1 failure(s)")
    body = json.loads(as_json(findings))
    assert body["ok"] is False
    assert [f["state"] for f in body["findings"]] == ["ok", "warn", "fail"]
    assert not failed(findings[:2])


@pytest.mark.parametrize(
    "url",
    ["", "postgresql://h/db", "postgres://h/db", "postgresql+asyncpg://h/db", "sqlite:///a.db",
     "sqlite:///", "mysql://u:hunter2@h/db", "mongodb://h/db", "file.db"],
)  # fmt: skip
def test_a_database_that_the_service_refuses_fails(url, tmp_path):
    found = list(of_service.database_url(url))
    try:
        open_database(url, tmp_path / "a.db")
    except CannotStartError:
        assert [f.state for f in found] == [State.FAIL]
        assert "DATABASE_POOLS" in found[0].advice
        assert "hunter2" not in found[0].found
    else:
        assert found == []


@pytest.mark.parametrize("text", ["abc", "99999", "-1"])
def test_a_port_that_is_none_fails(text):
    [found] = of_service.port(text)
    assert found.state is State.FAIL
    assert f"PORT = {text!r}" in found.found
    assert list(of_service.port("8001")) == list(of_service.port("")) == []


def test_the_command(tmp_path, redis_url):
    def run(*arguments, **environ):
        return subprocess.run(
            [sys.executable, "-m", "bot", "--data-dir", str(tmp_path), "check", *arguments],
            cwd=ROOT, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    well = run(REDIS_URL=redis_url)
    assert well.returncode == 0, well.stdout
    assert "ready to deploy" in well.stdout
    away = f"redis://:s3cret@127.0.0.1:{free_port()}/0"
    bad = run("--format", "json", "--timeout", "2", ENABLE_CACHE_MANAGER="1", CACHE_L2_REDIS_URL=away)
    assert bad.returncode == 1
    body = json.loads(bad.stdout)
    assert [f["check"] for f in body["findings"] if f["state"] == "fail"] == ["Redis"]
    assert "s3cret" not in bad.stdout + bad.stderr
    refused = run(PORT="abc", DATABASE_URL="mysql://127.0.0.1:1/db", ENABLE_CONNECTION_POOLING="0")
    assert refused.returncode == 1
    assert "FAIL  port" in refused.stdout
    assert "FAIL  DATABASE_URL" in refused.stdout
    wrong = run("--timeout", "-1")
    assert wrong.returncode == 2
    assert "'-1': expected seconds" in wrong.stderr
