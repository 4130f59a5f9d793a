"""Whose word is taken for where a request comes from."""

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from bot.service.client_address import TRUSTED_PROXIES, client_address


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
