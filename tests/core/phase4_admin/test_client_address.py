"""Whose word is taken for where a request comes from."""

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from bot.core.phase4_admin.client_address import TRUSTED_PROXIES, client_address, client_of, plain_address


def request(*lines, peer="127.0.0.1"):
    app = web.Application()
    app[TRUSTED_PROXIES] = frozenset(("127.0.0.1",))
    headers = CIMultiDict([("X-Forwarded-For", line) for line in lines])
    return make_mocked_request("GET", "/", headers=headers, app=app).clone(remote=peer)


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        ([], "127.0.0.1"),
        (["203.0.113.5"], "203.0.113.5"),
        (["9.9.9.9, 203.0.113.5"], "203.0.113.5"),
        (["9.9.9.9", "203.0.113.5"], "203.0.113.5"),
    ],
)
def test_of_a_trusted_front_the_last_address_counts_however_it_writes_it(lines, address):
    assert client_address(request(*lines)) == address


def test_of_anybody_else_only_where_it_comes_from():
    assert client_address(request("203.0.113.5", peer="198.51.100.7")) == "198.51.100.7"


def test_an_ipv4_client_of_an_ipv6_socket_is_known_by_its_ipv4_address():
    assert client_address(request(peer="::ffff:203.0.113.5")) == "203.0.113.5"
    assert client_address(request("203.0.113.5", peer="::ffff:127.0.0.1")) == "203.0.113.5", "a trusted proxy"
    for text in ("::1", "2001:db8::1", "::ffff:nonsense", "::ffff:1:2:3", "", "x"):
        assert plain_address(text) == text


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("203.0.113.5", "203.0.113.5"), ("2001:db8:1:2::5", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2:ffff::", "2001:db8:1:2::/64"), ("2001:db8:1:3::5", "2001:db8:1:3::/64"),
        ("::1", "::1"), ("fe80::1%eth0", "fe80::1%eth0"), ("fd00::1", "fd00::1"), ("fd00:0::2", "fd00::2"),
        ("no:address", "no:address"), ("", ""),
    ],
)  # fmt: skip
def test_limits_count_a_64_of_ipv6_as_one_client(address, client):
    assert client_of(address) == client
