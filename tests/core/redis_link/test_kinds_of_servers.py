"""Redis as it is met: rights that are missing, servers that close, refuse, are busy or old."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys

import pytest

from bot.core.cache_manager import CacheManager
from bot.core.rate_limiter import RateLimitConfig, RateLimiter
from bot.core.redis_link import RedisLink, RedisRefusedError, RedisUnavailableError
from tests.support.fake_redis import FakeRedis
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer, running

SLOW = RateLimitConfig(0.0001, 5)


async def until(condition, timeout=10.0):
    async with asyncio.timeout(timeout):
        while not await condition():
            await asyncio.sleep(0.01)


def user(server, *rights):
    """A user with every right but these; the URL that logs in as it."""
    import redis

    client = redis.Redis(port=server.port)
    client.execute_command("ACL", "SETUSER", "u", "reset", "on", ">pw", "~*", "&*", "+@all", *rights)
    client.close()
    return f"redis://u:pw@127.0.0.1:{server.port}/0"


def control(server):
    import redis

    return redis.Redis(port=server.port)


async def enabled(url):
    cache, limiter = CacheManager(), RateLimiter()
    await cache.enable(redis_url=url)
    await limiter.enable(redis_url=url)
    return cache, limiter


async def off(*services):
    for service in services:
        await service.disable()
    assert not RedisLink._links


async def serves(cache, limiter):
    assert await cache.set("k", 1, namespace="n")
    assert await cache.get("k", "n") == 1
    return (await limiter.is_allowed("c", SLOW))[1].degraded


@pytest.mark.server
@pytest.mark.parametrize("missing", ["redis", "hiredis"])
async def test_a_package_that_is_missing_is_named_when_a_service_is_enabled(missing, monkeypatch):
    import redis.asyncio  # noqa: F401 - first imported without hiredis, it would do without it for good

    for name in [name for name in sys.modules if name.split(".")[0] == missing] + [
        f"{missing}.asyncio",
        missing,
    ]:
        monkeypatch.setitem(sys.modules, name, None)
    cache = CacheManager()
    with pytest.raises(RedisUnavailableError, match=f"^{missing} is missing: pip install redis"):
        await cache.enable(redis_url="redis://127.0.0.1:1/0")
    assert not cache.enabled
    assert not RedisLink._links


# Rights.


@pytest.mark.parametrize(
    "rights", [("-ping",), ("-info",), ("-client",), ("-script",), ("-@admin", "-@dangerous"), ("-hello",)]
)
async def test_a_right_that_is_not_needed_is_not_missed(redis_server, rights, caplog):
    cache, limiter = await enabled(user(redis_server, *rights))
    assert not await serves(cache, limiter)
    assert await limiter._shared.link.probe()
    for service in (cache, limiter):
        assert not (await service.get_statistics())["degraded"]
    assert not caplog.text
    await off(cache, limiter)


async def test_a_user_who_may_not_ping_keeps_a_silent_subscription(redis_server, monkeypatch):
    monkeypatch.setattr("bot.core.redis_link.listening.SILENCE", 0.05)
    link = RedisLink(user(redis_server, "-ping"))
    states = []
    subscription = link.listen("c", lambda message: None, states.append)
    await subscription.settled()
    await asyncio.sleep(0.5)  # several times the silence after which the server is asked
    assert states == [True]
    await subscription.stop()
    await link.close()


async def test_without_evalsha_scripts_are_sent_whole(redis_server, caplog):
    cache, limiter = await enabled(user(redis_server, "-evalsha"))
    assert not await serves(cache, limiter)
    assert not await serves(cache, limiter)
    assert await limiter._shared.link.script("return ARGV[1]")(["k"], ["v"]) == b"v"
    assert caplog.text.count("refuses EVALSHA") == 1
    await off(cache, limiter)


async def test_without_scripts_each_instance_limits_alone_and_says_so_once(redis_server, caplog):
    cache, limiter = await enabled(user(redis_server, "-@scripting"))
    assert await serves(cache, limiter)
    assert await serves(cache, limiter)
    assert (await limiter.get_statistics())["degraded"]
    assert caplog.text.count("this process limits on its own") == 1
    await off(cache, limiter)


@pytest.mark.parametrize("rights", [("resetchannels",), ("-publish", "-subscribe"), ("-@pubsub",)])
async def test_without_channels_redis_answers_reads_and_l1_does_not(redis_server, rights, caplog):
    url = user(redis_server, *rights)
    cache, other = CacheManager(), CacheManager()
    for service in (cache, other):
        await service.enable(redis_url=url)
    loads = 0

    async def load():
        nonlocal loads
        loads += 1
        return loads

    assert [await cache.get_or_load("k", load, 60, "n") for _ in range(10)] == [1] * 10
    # What another instance changes is seen at once, since nothing is answered without asking Redis.
    assert await other.set("k", "new", namespace="n")
    assert await cache.get("k", "n") == "new"
    assert await other.delete("k", "n")
    assert await cache.get("k", "n") is None
    await cache.invalidate_pattern("*", "n")
    await cache.clear("n")
    figures = await cache.get_statistics()
    assert figures["degraded"]
    assert set(figures["l2_refused"]) == {"SUBSCRIBE p4c:changes:0", "PUBLISH p4c:changes:0"}
    assert figures["l2_errors"] == 0
    assert cache._l2.in_step
    assert caplog.text.count("refuses SUBSCRIBE") == 1
    assert caplog.text.count("refuses PUBLISH") == 1
    await off(cache, other)


async def test_rights_to_one_channel_are_not_those_to_another(redis_server, caplog):
    cache, limiter = await enabled(user(redis_server, "resetchannels", "&p4c:*"))
    link = limiter._shared.link
    for _ in range(5):
        assert not (await limiter.is_allowed("c", SLOW))[1].degraded
        await limiter.reset_client("c")
        await cache.set("k", 1, namespace="n")
    assert cache._l2.backplane.subscription.standing
    assert set(link.refused) == {"SUBSCRIBE p4r:reset", "PUBLISH p4r:reset"}
    assert caplog.text.count("refuses SUBSCRIBE p4r:reset") == 1
    assert caplog.text.count("refuses PUBLISH p4r:reset") == 1
    await off(cache, limiter)


async def test_a_right_that_is_given_later_is_used(redis_server, monkeypatch):
    monkeypatch.setattr("bot.core.redis_link.subscription.REFUSED_PAUSE", 0.05)
    cache = CacheManager()
    await cache.enable(redis_url=user(redis_server, "resetchannels"))
    await cache.set("k", 1)
    assert (await cache.get_statistics())["degraded"]
    user(redis_server)

    async def well():
        await cache.set("k", 1)
        return not (await cache.get_statistics())["degraded"]

    await until(well)
    await off(cache)


async def test_a_reset_is_forgiven_though_nobody_can_be_told(redis_server):
    limiter = RateLimiter()
    await limiter.enable(redis_url=user(redis_server, "-publish"))
    for _ in range(6):
        await limiter.is_allowed("c", SLOW)
    assert not (await limiter.is_allowed("c", SLOW))[0]
    assert await limiter.reset_client("c")
    assert (await limiter.is_allowed("c", SLOW))[0]
    assert not limiter._shared._owed
    await off(limiter)


async def test_a_password_that_is_wrong_is_said_and_the_right_one_found_later(redis_server, caplog):
    control(redis_server).config_set("requirepass", "right")
    cache = CacheManager()
    await cache.enable(redis_url=f"redis://:wrong@127.0.0.1:{redis_server.port}/0")
    assert await cache.set("k", 1)
    assert await cache.get("k") == 1
    assert (await cache.get_statistics())["degraded"]
    assert "WRONGPASS" in caplog.text
    assert "wrong@" not in caplog.text
    import redis

    redis.Redis(port=redis_server.port, password="right").config_set("requirepass", "wrong")

    async def well():
        await cache.set("k", 1)
        return not (await cache.get_statistics())["degraded"]

    await until(well)
    await off(cache)


async def test_a_password_changed_at_run_time_does_not_lose_what_stands(redis_server):
    link = RedisLink(redis_server.url)
    script = link.batched_script("return {1}", lambda answer, calls: answer)
    await link.reader.get(b"k")
    await script.call(b"k", b"")
    await link.execute("SET", "k", "v")
    control(redis_server).config_set("requirepass", "new")
    assert await link.reader.get(b"k") == b"v"
    assert await script.call(b"k", b"") == 1
    await script.stop()
    await link.close()


# Connections that end.


@pytest.mark.server
async def test_an_idle_connection_that_the_server_closed_is_no_outage(caplog):
    with running(RedisServer(extra=("--timeout", "1"))) as server:
        cache, limiter = await enabled(server.url)
        assert not await serves(cache, limiter)
        here = control(server)

        async def closed():
            return all(one["flags"] == "P" or one["cmd"] == "client|list" for one in here.client_list())

        await until(closed)
        assert not await serves(cache, limiter)
        assert (await cache.get_statistics())["l2_errors"] == 0
        assert not (await cache.get_statistics())["degraded"]
        assert not caplog.text
        await off(cache, limiter)


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
async def test_killed_connections_are_replaced_and_nothing_is_away(redis_server, kind, caplog):
    cache, limiter = await enabled(redis_server.url)
    here = control(redis_server)
    for _ in range(5):
        assert not await serves(cache, limiter)
        here.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        assert await cache.get("k", "n") == 1
    assert "away" not in caplog.text

    async def well():
        return not (await cache.get_statistics())["degraded"]

    await until(well)
    await off(cache, limiter)


async def test_reads_under_way_when_the_connection_is_cut_are_asked_again(redis_server):
    async with Proxy(port=redis_server.port) as proxy:
        link = RedisLink(f"redis://127.0.0.1:{proxy.port}/0")
        await link.execute("SET", "k", "v")
        assert await link.reader.get(b"k") == b"v"
        proxy.hangs = True
        reads = [link.reader.get(b"k") for _ in range(3)]
        while not link.reader._under_way:
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        later = link.reader.get(b"k")
        proxy.hangs = False
        proxy.cut()
        assert await asyncio.gather(*reads, later) == [b"v"] * 4
        assert link.available
        await link.close()


async def test_a_call_that_may_have_been_run_is_not_run_again(redis_server, caplog):
    async with Proxy(port=redis_server.port) as proxy:
        link = RedisLink(f"redis://127.0.0.1:{proxy.port}/0")
        increment = link.script("return redis.call('INCR', KEYS[1])")
        batched = link.batched_script("return {redis.call('INCR', KEYS[1])}", lambda answer, calls: answer)
        assert await increment(["n"]) == 1
        assert await batched.call(b"n", b"") == 2
        proxy.hangs = True
        made = [asyncio.ensure_future(increment(["n"])), batched.call(b"n", b"")]
        await asyncio.sleep(0.1)
        proxy.cut()
        proxy.hangs = False
        for answer in await asyncio.gather(*made, return_exceptions=True):
            assert type(answer) is RedisUnavailableError
            assert "lost" in str(answer)
        assert link.available
        assert await link.execute("GET", "n") == b"2"
        assert "away" not in caplog.text
        await batched.stop()
        await link.close()


async def test_a_server_that_takes_no_more_connections_serves_those_that_stand(redis_server, caplog):
    link = RedisLink(redis_server.url)
    script = link.batched_script("return {1}", lambda answer, calls: answer)
    await link.execute("SET", "k", "v")
    await link.reader.get(b"k")
    await script.call(b"k", b"")
    here = control(redis_server)
    here.config_set("maxclients", len(here.client_list()))
    answers = await asyncio.gather(*[link.execute("GET", "k") for _ in range(10)], return_exceptions=True)
    assert b"v" in answers
    for _ in range(5):
        assert await link.execute("GET", "k") == b"v"
        assert await link.reader.get(b"k") == b"v"
        assert await script.call(b"k", b"") == 1
    assert link.available
    assert caplog.text.count("takes no more connections") == 1
    here.config_set("maxclients", 1000)
    assert await asyncio.gather(*[link.execute("GET", "k") for _ in range(10)]) == [b"v"] * 10
    await script.stop()
    await link.close()


@pytest.mark.server
async def test_a_busy_server_is_away_and_comes_back():
    with running(RedisServer(extra=("--busy-reply-threshold", "20"))) as server:
        link = RedisLink(server.url)
        await link.reader.get(b"k")
        here = control(server)

        def keep_it_busy():
            with contextlib.suppress(Exception):  # it is killed
                here.eval("while true do end", 0)

        running_script = asyncio.create_task(asyncio.to_thread(keep_it_busy))

        async def busy():
            try:
                await link.reader.get(b"k")
            except RedisUnavailableError as error:
                return "BUSY" in str(error) or "away" in str(error)
            return False

        await until(busy)
        assert not link.available
        control(server).script_kill()
        await running_script

        async def back():
            return await link.probe()

        await until(back)
        assert await link.reader.get(b"k") is None
        await link.close()


# Old and other servers.


@pytest.mark.server
async def test_a_server_without_hello_is_spoken_to_in_resp2(caplog):
    with running(RedisServer(extra=("--rename-command", "HELLO", ""))) as server:
        cache, limiter = await enabled(server.url)
        other = CacheManager()
        await other.enable(redis_url=server.url)
        assert not await serves(cache, limiter)
        assert await other.get("k", "n") == 1
        await cache.set("k", 2, namespace="n")  # heard by the other one

        async def heard():
            return await other.get("k", "n") == 2

        await until(heard)
        for service in (cache, limiter, other):
            assert not (await service.get_statistics())["degraded"]
        assert "away" not in caplog.text
        await off(cache, other, limiter)


@pytest.mark.server
async def test_a_password_works_without_hello():
    with running(RedisServer(extra=("--rename-command", "HELLO", "", "--requirepass", "pw"))) as server:
        link = RedisLink(f"redis://:pw@127.0.0.1:{server.port}/3")
        assert await link.execute("SET", "k", "v")
        assert await link.reader.get(b"k") == b"v"
        await link.close()


async def until_it_listens(path):
    async with asyncio.timeout(15):
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path)
                return
            await asyncio.sleep(0.01)


@pytest.mark.server
async def test_a_unix_socket_and_tls(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate,
         "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    path = os.path.relpath(tmp_path / "r")  # a path of a socket is at most 107 characters long
    with running(RedisServer(extra=("--unixsocket", os.path.abspath(path)))):
        await until_it_listens(path)  # which may be a moment after the port
        link = RedisLink(f"unix://{os.path.abspath(path)}?db=1")
        assert await link.execute("SET", "k", "v")
        assert await link.reader.get(b"k") == b"v"
        await link.close()
    probe = RedisServer()
    tls = ("--tls-port", str(probe.port), "--port", "0", "--tls-cert-file", str(certificate),
           "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate),
           "--tls-auth-clients", "no")  # fmt: skip
    server = RedisServer(probe.port, extra=tls)
    try:
        server.start()
    except RuntimeError:
        pytest.skip("this server was built without TLS")
    try:
        link = RedisLink(f"rediss://127.0.0.1:{server.port}/0?ssl_ca_certs={certificate}")
        states = []
        subscription = link.listen("c", lambda message: None, states.append)
        assert await link.execute("SET", "k", "v")
        assert await link.reader.get(b"k") == b"v"
        await subscription.settled()
        assert states == [True]
        await subscription.stop()
        await link.close()
    finally:
        server.close()


# What a server says of itself.


@pytest.mark.parametrize(
    "said",
    [
        "LOADING Redis is loading the dataset in memory",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    ],
)
async def test_a_server_that_serves_nobody_is_away_until_it_serves(said, caplog):
    serves = False

    def answer(command):
        if not serves:
            return f"-{said}\r\n".encode()
        return {b"MGET": b"*1\r\n$1\r\nv\r\n", b"PING": b"+PONG\r\n"}.get(command[0], b"+OK\r\n")

    async with FakeRedis(answer) as server:
        link = RedisLink(server.url)
        for call in (lambda: link.reader.get(b"k"), lambda: link.execute("GET", "k")):
            with pytest.raises(RedisUnavailableError):
                await call()
        assert not link.available
        serves = True

        async def back():
            return await link.probe()

        await until(back)
        assert await link.reader.get(b"k") == b"v"
        assert caplog.text.count("going on without it") == 1
        await link.close()


@pytest.mark.parametrize(
    "said", ["MISCONF Redis is configured to save", "OOM command not allowed", "NOREPLICAS Not"]
)
async def test_a_server_that_only_refuses_writes_serves_reads(said, caplog):
    def answer(command):
        if command[0] == b"MGET":
            return b"*1\r\n$1\r\nv\r\n"
        return f"-{said}\r\n".encode()

    async with FakeRedis(answer) as server:
        link = RedisLink(server.url)
        for _ in range(3):
            with pytest.raises(RedisRefusedError, match=said[:4]):
                await link.execute("SET", "k", "v")
            assert await link.reader.get(b"k") == b"v"
        assert link.available
        assert not link.read_only
        assert not caplog.text
        assert server.connections == 2
        await link.close()
