"""All services at once, at servers that are met: TLS, few rights, no HELLO, a demoted primary."""

import asyncio
import itertools
import re
import shutil
from pathlib import Path

import pytest

from bot.core._shared.errors import BackendError, InvalidArgumentError
from bot.core.redis_link import RedisLink, RedisUnavailableError
from tests.support.fronts import Authority, TlsFront, WithoutHello
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer, running
from tests.support.waiting import until
from tests.support.whole_bot import WholeBot

pytestmark = pytest.mark.server

PAGE = Path(__file__).resolve().parents[3] / "docs" / "redis.md"


@pytest.fixture(scope="module")
def server():
    with running(RedisServer(extra=("--requirepass", "pw"))) as found:
        yield found


def ask(server, *command, password="pw"):
    import redis

    with redis.Redis(port=server.port, password=password) as client:
        return client.execute_command(*command)


async def works(url, prefix, word="word"):
    bot = WholeBot(url, PHASE4_KEY_PREFIX=prefix)
    await bot.start()
    await bot.use(word)
    figures = [service.statistics() for service in bot.services]
    await bot.stop()
    assert not any(one.get("degraded") for one in figures)
    assert not any(one.get("l2_refused") for one in figures)


# HELLO.


@pytest.mark.parametrize(
    "answer",
    [
        b"-ERR unknown command 'HELLO'\r\n",
        b"-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `pw`, \r\n",
        b"-NOPROTO unsupported protocol version\r\n",
        b"-ERR Proxy: command HELLO is not supported\r\n",
        b"-NOAUTH Authentication required.\r\n",
    ],
)
async def test_a_proxy_that_does_not_know_hello(server, answer, caplog):
    async with WithoutHello(server.port, answer) as proxy:
        await works(f"redis://:pw@127.0.0.1:{proxy.port}/0", f"h{hash(answer) % 1000}")
        assert 1 <= proxy.asked <= 20  # asked once or so for each link, not for each connection
    assert "pw" not in re.sub("password|WRONGPASS", "", caplog.text)


async def test_a_proxy_that_hangs_up_at_hello_is_spoken_to_in_resp2_if_the_url_says_so(server):
    async with WithoutHello(server.port, b"") as proxy:
        await works(f"redis://:pw@127.0.0.1:{proxy.port}/0?protocol=2", "hangs-up")
        assert proxy.asked == 0


async def test_a_user_who_may_not_say_hello(server):
    ask(server, "ACL", "SETUSER", "mute", "reset", "on", ">mpw", "~*", "&*", "+@all", "-hello")
    await works(f"redis://mute:mpw@127.0.0.1:{server.port}/0", "mute")


# Rights.


def documented_user(prefix):
    """The line of the page that makes the bot's user, as a command."""
    lines = re.findall(r"^ACL SETUSER bot on .*", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return next(line for line in lines if ("~shop:*" in line) == bool(prefix)).split()


@pytest.mark.parametrize("prefix", ["", "shop"])
async def test_the_documented_user_has_every_right_that_services_need(server, caplog, prefix):
    ask(server, "ACL", "DELUSER", "bot")
    ask(server, *documented_user(prefix))
    await works(f"redis://bot:password@127.0.0.1:{server.port}/1", prefix)
    assert "refuses" not in caplog.text


async def test_and_none_that_would_harm_others(server):
    import redis
    from redis.exceptions import NoPermissionError

    ask(server, "ACL", "DELUSER", "bot")
    ask(server, *documented_user("shop"))
    ask(server, "SET", "other:key", "v")
    with redis.Redis(port=server.port, username="bot", password="password") as bot:
        assert bot.set("shop:p4c:v:default:k", "v")
        for command in (
            ("FLUSHALL",), ("FLUSHDB",), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("MONITOR",), ("ACL", "LIST"),
            ("SHUTDOWN",), ("REPLICAOF", "NO", "ONE"), ("CLIENT", "KILL", "TYPE", "normal"), ("SWAPDB", 0, 1),
            ("GET", "other:key"), ("SET", "other:key", "x"), ("DEL", "shopother"), ("GET", "p4c:v:default:k"),
            ("PUBLISH", "other", "m"), ("SUBSCRIBE", "p4c:changes:0"),
            ("EVAL", "return redis.call('GET', 'other:key')", 0),
            ("EVAL", "return redis.call('FLUSHALL')", 0),
        ):  # fmt: skip
            with pytest.raises(
                (NoPermissionError, redis.ResponseError), match=r"(?i)permission|can't (run|access)"
            ):
                bot.execute_command(*command)


# TLS.


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    return Authority(tmp_path_factory.mktemp("tls"))


async def test_all_services_over_tls(server, authority):
    async with TlsFront(server.port, authority) as front:
        ca = authority.path("ca.pem")
        await works(f"rediss://:pw@localhost:{front.port}/0?ssl_ca_certs={ca}", "tls")


@pytest.mark.parametrize(
    ("host", "query", "says"),
    [
        ("127.0.0.1", "?ssl_ca_certs={ca}", "IP address mismatch"),
        ("localhost", "", "self-signed certificate|unable to get local issuer"),
        ("localhost", "?ssl_ca_certs={client}", "unable to get local issuer|unable to get issuer"),
    ],
)
async def test_a_certificate_that_is_not_to_be_trusted(server, authority, host, query, says):
    async with TlsFront(server.port, authority) as front:
        query = query.format(ca=authority.path("ca.pem"), client=authority.path("client.pem"))
        link = RedisLink(f"rediss://:pw@{host}:{front.port}/0{query}")
        with pytest.raises(RedisUnavailableError, match=f"(?s)CERTIFICATE_VERIFY_FAILED.*({says})") as caught:
            await link.execute("PING")
        assert "pw" not in str(caught.value)
        assert re.search(says, link.warnings("")[0])
        await link.close()


@pytest.mark.parametrize(
    ("host", "query"),
    [
        ("127.0.0.1", "?ssl_ca_certs={ca}&ssl_check_hostname=false"),
        ("127.0.0.1", "?ssl_cert_reqs=none&ssl_check_hostname=false"),
    ],
)
async def test_what_is_not_to_be_checked_is_not(server, authority, host, query):
    async with TlsFront(server.port, authority) as front:
        query = query.format(ca=authority.path("ca.pem"))
        link = RedisLink(f"rediss://:pw@{host}:{front.port}/0{query}")
        assert await link.execute("PING")
        await link.close()


async def test_a_server_that_wants_a_certificate_of_its_clients(server, authority):
    ca, pem, key = (authority.path(name) for name in ("ca.pem", "client.pem", "client.key"))
    async with TlsFront(server.port, authority, wants_client_certificate=True) as front:
        url = f"rediss://:pw@localhost:{front.port}/0?ssl_ca_certs={ca}"
        without = RedisLink(url)
        with pytest.raises(RedisUnavailableError):
            await without.execute("PING")
        await without.close()
        await works(f"{url}&ssl_certfile={pem}&ssl_keyfile={key}", "client-cert")


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_path"])
async def test_a_file_that_is_not_there_is_named_when_a_service_is_enabled(option):
    bot = WholeBot(f"rediss://127.0.0.1:1/0?{option}=/no/such/file.pem")
    with pytest.raises(InvalidArgumentError, match=rf"{option} of the redis url = '/no/such/file\.pem'"):
        await bot.cache.enable(redis_url=bot.url)
    assert not bot.cache.enabled
    assert not RedisLink._links


async def test_tls_that_is_spoken_to_a_server_without(server):
    link = RedisLink(f"rediss://:pw@127.0.0.1:{server.port}/0")
    with pytest.raises(RedisUnavailableError, match="is away"):
        await link.execute("PING")
    await link.close()


# A demoted primary.


async def test_all_services_leave_a_primary_that_was_demoted():
    at_once = ("--repl-diskless-sync-delay", "0")
    with running(RedisServer(extra=at_once)) as old, running(RedisServer(extra=at_once)) as new:
        async with Proxy(port=old.port) as name:
            bot = WholeBot(f"redis://127.0.0.1:{name.port}/0")
            await bot.start()
            await bot.use("before")
            await asyncio.to_thread(old.execute, "REPLICAOF", "127.0.0.1", str(new.port))
            name.lead_to(port=new.port)

            # Each service's first write is refused there, and runs here; no call fails.
            assert await bot.cache.set("k", "after")
            bot.handled.clear()

            async def accepted():
                return (await bot.batches.submit_item("item")).success

            await until(accepted)
            await until(lambda: _handled(bot, "item"))
            await bot.use_again("after")
            assert not any(service.statistics().get("degraded") for service in bot.services)
            # Subscriptions lead there too: an old server would not be told by the new one.
            await until(lambda: _numsub(new))
            for channel in ("p4c:changes:0", "p4r:reset", "p4o:release"):
                assert await asyncio.to_thread(old.execute, "PUBSUB NUMSUB", channel) == [
                    (channel.encode(), 0)
                ]
            await bot.stop()


async def _handled(bot, item):
    return item in bot.handled


async def _numsub(server):
    found = await asyncio.to_thread(
        server.execute, "PUBSUB NUMSUB", "p4c:changes:0", "p4r:reset", "p4o:release"
    )
    return [count for _, count in found] == [1, 1, 1]


async def test_with_no_primary_anywhere_no_handler_fails():
    with running(RedisServer()) as server:
        bot = WholeBot(server.url)
        await bot.start()
        await bot.use("before")
        await asyncio.to_thread(server.execute, "REPLICAOF", "127.0.0.1", "1")

        async def send():
            return "sent"

        for n in range(20):
            await bot.cache.set(f"k{n}", n)
            assert (await bot.limiter.is_allowed(f"c{n}"))[0]
            assert await bot.outbound.call(send, bot.request(n)) == "sent"
            try:
                await bot.batches.submit_item(n)
            except BackendError as error:
                pytest.fail(f"submit_item answers, it does not raise: {error}")
        assert all(service.statistics()["degraded"] for service in (bot.cache, bot.limiter, bot.outbound))
        await asyncio.to_thread(server.execute, "REPLICAOF", "NO", "ONE")
        await until(lambda: _whole(bot))
        await bot.stop()


async def _whole(bot):
    await bot.cache.set("probe", 1)
    await bot.limiter.is_allowed("probe")
    await bot.outbound.call(_nothing, bot.request(next(_chats)))
    return not any(service.statistics()["degraded"] for service in bot.services)


_chats = itertools.count(900)


async def _nothing():
    return None
