"""Where an instance is, and what is refused."""

import math

import pytest

from bot.core.load_balancer.instances import Instance, make_instance


@pytest.mark.parametrize(
    ("host", "scheme", "url"),
    [
        ("10.0.0.1", "http", "http://10.0.0.1:8001"),
        ("bot-1.internal", "https", "https://bot-1.internal:8001"),
        ("::1", "http", "http://[::1]:8001"),
    ],
)
def test_its_url(host, scheme, url):
    instance = make_instance("bot-1", host, 8001, 1, scheme)
    assert instance.get_url() == instance.url == url
    assert instance.address == host


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""), ("id", 3), ("id", "a\nb"), ("id", "x" * 201),
        ("host", ""), ("host", "http://h"), ("host", "h/path"), ("host", "a b"), ("host", None),
        ("host", "10.0.0.1:8001"), ("host", "bot:8001"), ("host", "[::1]"), ("host", "::1%x y"),
        ("host", "a..b"), ("host", "10.0.0.256"), ("host", "0x7f.1"), ("host", "2130706433"),
        ("host", "a.0x1"), ("host", "10.1"), ("host", "b\u00fccher"),
        ("host", "x" * 64), ("host", ":"),
        ("port", 0), ("port", 65_536), ("port", "8001"), ("port", True),
        ("weight", 0), ("weight", -1), ("weight", math.nan), ("weight", math.inf), ("weight", "1"),
        ("scheme", "ftp"),
    ],
)  # fmt: skip
def test_a_bad_argument_is_named_with_its_value(field, value):
    arguments = {"id": "a", "host": "h", "port": 1, "weight": 1.0, "scheme": "http", field: value}
    with pytest.raises(ValueError, match=f"^{field} = "):
        make_instance(**arguments)


def test_its_place_in_the_rendezvous_is_the_same_in_every_process():
    assert Instance("bot-1", "h", 1).seed == 16103240211628047736
