"""What may be in a Redis URL, and what is refused by name."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.core._shared.errors import InvalidArgumentError
from bot.core._shared.redis_address import Kind, RedisAddress, files_of, shown_url, with_options
from bot.core.phase4_config import ConfigError, Phase4Config
from bot.core.redis_link import RedisLink

PLAIN = "redis://127.0.0.1:6379/0"


@pytest.mark.parametrize(
    ("url", "for_redis_py", "kind"),
    [
        (PLAIN, PLAIN, Kind.SINGLE),
        ("rediss://u:p@h/2?ssl_cert_reqs=none", "rediss://u:p@h/2?ssl_cert_reqs=none", Kind.SINGLE),
        ("unix:///run/r.sock?db=1", "unix:///run/r.sock?db=1", Kind.SINGLE),
        ("redis+cluster://h:7000", "redis://h:7000", Kind.CLUSTER),
        ("rediss+cluster://h:7000?key_prefix=a", "rediss://h:7000", Kind.CLUSTER),
        ("redis://h/0?key_prefix=a&db=3&protocol=2", "redis://h/0?db=3", Kind.SINGLE),
        ("redis+sentinel://a,b/main", "redis://primary/0", Kind.SENTINEL),
        ("rediss+sentinel://u:p@a:1,b:2/main/3?ssl_ca_certs=x", "rediss://u:p@primary/3?ssl_ca_certs=x",
         Kind.SENTINEL),
        ("redis+sentinel://a/main?db=4", "redis://primary/4?db=4", Kind.SENTINEL),
    ],
)  # fmt: skip
def test_what_redis_py_gets(url, for_redis_py, kind):
    address = RedisAddress.read(url)
    assert (address.url, address.kind) == (for_redis_py, kind)


def test_sentinels():
    found = RedisAddress.read(
        "redis+sentinel://bot:p%40ss@s1,10.0.0.2:5000,[::1]:26380,s1/my-main.1/2"
        "?sentinel_username=watch%20er&sentinel_password=p%26w"
    )
    assert found.sentinels.addresses == (("s1", 26379), ("10.0.0.2", 5000), ("::1", 26380))
    assert found.sentinels.service == "my-main.1"
    assert (found.sentinels.username, found.sentinels.password) == ("watch er", "p&w")
    assert not found.sentinels.tls
    assert found.has_password
    for secret in ("p%40ss", "p%26w", "p&w", "watch"):
        assert secret not in found.shown
    assert RedisAddress.read("rediss+sentinel://a/m").sentinels.tls
    assert not RedisAddress.read("rediss+sentinel://a/m?sentinel_ssl=false").sentinels.tls
    assert RedisAddress.read("redis+sentinel://a/m?sentinel_ssl=true").sentinels.tls


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://", "redis+sentinel:///main", "redis+sentinel://a", "redis+sentinel://a/",
        "redis+sentinel://a//0", "redis+sentinel://a/main/x", "redis+sentinel://a/main/-1",
        "redis+sentinel://a/main/0/1", "redis+sentinel://a,/main", "redis+sentinel://,a/main",
        "redis+sentinel://a:0/main", "redis+sentinel://a:65536/main", "redis+sentinel://a:x/main",
        "redis+sentinel://a/ma%20in", "redis+sentinel://a/m%00", "redis+sentinel://a/main?db=one",
        "redis+sentinel://a/main?db=%D9%A1", f"redis+sentinel://{','.join(f'h{n}' for n in range(17))}/main",
        f"redis+sentinel://a/{'m' * 256}", "redis+sentinel://[::1/main",
        "http://h", "h:6379", "", "redis:/h", "REDIS://h", "sentinel://a/main", "redis://h:port/0",
    ],
)  # fmt: skip
def test_an_address_that_is_none(url):
    with pytest.raises(InvalidArgumentError, match=r"^redis url = "):
        RedisAddress.read(url)


def test_no_secret_is_in_an_error():
    for url in (
        "redis+sentinel://u:hunter2@a:x/main?sentinel_password=hunter3",
        "redis://u:hunter2@h:port/0?key_prefix=a",
        "redis+sentinel://u:hunter2/@a/main",
        "ftp://u:hunter2@h",
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            RedisAddress.read(url)
        assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("decode_responses=true", "option of the redis url = 'decode_responses'"),
        ("encoding=latin-1", "option of the redis url = 'encoding'"),
        ("socket_timout=2", "did you mean socket_timeout"),
        ("ssl_ca_cert=x", "did you mean ssl_ca_certs"),
        ("timeout=2", "did you mean socket_timeout"),
        ("sentinel_password=x", "option of the redis url = 'sentinel_password'"),
        ("socket_timeout=0", "socket_timeout of the redis url = '0': expected 0.5 to 60"),
        ("socket_timeout=0.4", "expected 0.5 to 60"),
        ("socket_timeout=61", "expected 0.5 to 60"),
        ("socket_timeout=nan", "expected 0.5 to 60"),
        ("socket_timeout=inf", "expected 0.5 to 60"),
        ("socket_timeout=-1", "expected 0.5 to 60"),
        ("socket_timeout=soon", "expected 0.5 to 60"),
        ("socket_timeout=", "expected 0.5 to 60"),
        ("socket_connect_timeout=2", "socket_connect_timeout of the redis url = 2.0: expected at most"),
        ("socket_connect_timeout=0", "socket_connect_timeout of the redis url = '0'"),
        ("protocol=4", "protocol of the redis url = '4': expected 2 or 3"),
        ("protocol=", "expected 2 or 3"),
        ("ssl_cert_reqs=maybe", "expected none, optional or required"),
        ("ssl_check_hostname=perhaps", "ssl_check_hostname of the redis url = 'perhaps': expected true or"),
    ],
)
def test_an_option_that_is_refused_is_named(option, says):
    with pytest.raises(InvalidArgumentError) as caught:
        RedisLink(f"{PLAIN}?{option}")
    assert says in str(caught.value)


def test_the_time_for_a_call():
    assert RedisLink(PLAIN).timeout == 1.0
    assert RedisLink(f"{PLAIN}?socket_timeout=2.5").timeout == 2.5
    assert RedisLink(f"{PLAIN}?socket_timeout=3&socket_connect_timeout=3").timeout == 3.0
    assert RedisLink(f"{PLAIN}?socket_timeout=2", timeout=5.0).timeout == 5.0
    config = Phase4Config.from_mapping({"PHASE4_REDIS_TIMEOUT": 4, "BATCH_REDIS_URL": PLAIN})
    assert RedisLink(config.redis_url("BATCH_REDIS_URL")).timeout == 4.0
    config = Phase4Config.from_mapping(
        {"PHASE4_REDIS_TIMEOUT": 4, "BATCH_REDIS_URL": f"{PLAIN}?socket_timeout=2"}
    )
    assert RedisLink(config.redis_url("BATCH_REDIS_URL")).timeout == 2.0


@pytest.mark.parametrize("value", [0, 0.49, 60.1, -1, True, "soon", float("nan"), float("inf"), [1]])
def test_a_time_that_is_none(value):
    with pytest.raises(ConfigError, match="PHASE4_REDIS_TIMEOUT"):
        Phase4Config.from_mapping({"PHASE4_REDIS_TIMEOUT": value})


def test_by_default_nothing_is_added_to_a_url():
    for url in (PLAIN, "redis://h/0?db=1", "unix:///run/r.sock", "redis+cluster://h"):
        config = Phase4Config.from_mapping({"BATCH_REDIS_URL": url})
        assert config.redis_url("BATCH_REDIS_URL") == url


@given(st.dictionaries(st.sampled_from(["key_prefix", "socket_timeout", "client_name"]), st.text(min_size=1)))
def test_options_added_are_read_as_they_were_given(options):
    url = with_options(PLAIN, **options)
    assert with_options(url, **options) == url
    found = dict(part.split("=") for part in url.partition("?")[2].split("&") if part)
    assert found == {name: quote(value, safe="") for name, value in options.items()}
    assert "key_prefix" not in shown_url(url)


def test_files_and_fragments():
    url = "rediss://h/0?ssl_ca_certs=%2Ftmp%2Fa%20b.pem&ssl_keyfile=k#nothing"
    assert files_of(url) == {"ssl_ca_certs": "/tmp/a b.pem", "ssl_keyfile": "k"}
    assert with_options(url, key_prefix="a").endswith("&key_prefix=a")
