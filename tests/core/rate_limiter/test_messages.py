"""What instances tell each other of clients and lines, and what else may come by that channel."""

import math
import struct

import pytest

from bot.core.rate_limiter.messages import LIMIT, MOVED, Place, place_of, reset_message, reset_of
from bot.core.rate_limiter.mirror import client_key

PLACE = struct.Struct("<8sdddd")


@pytest.mark.parametrize("client", [0, -7, 2**80, "", "u", "grüße", "\ud800", "{slot}", "x" * 300, None])
def test_a_reset_names_its_client(client):
    for limit_id in (b"", b"limit-id"):
        found, limit = reset_of(reset_message(client_key(client), client, limit_id))
        assert found == client
        assert type(found) is type(client)
        assert limit == limit_id


@pytest.mark.parametrize(
    "message",
    [b"", b"p4r:", b"p4r:i:", b"p4r:i:xyz", b"p4r:q:u", b"other", b"p4r:s:\xff", LIMIT, LIMIT + bytes(8)],
)
def test_what_is_no_reset_is_a_value_error(message):
    with pytest.raises(ValueError):
        reset_of(message)


def test_a_place_given_back_is_read():
    packed = PLACE.pack(b"limit-id", 5.0, 2.0, 3.0, 0.5)
    assert place_of(MOVED + packed + b"p4r:s:u") == Place(b"limit-id", 5.0, 2.0, 3.0, 0.5, b"p4r:s:u")


@pytest.mark.parametrize(
    ("epoch", "number", "cost"),
    [
        (math.nan, 1, 1),
        (math.inf, 1, 1),
        (1, math.nan, 1),
        (1, -1, 1),
        (1, 1, 0),
        (1, 1, math.nan),
        (1, 1, math.inf),
    ],
)
def test_a_place_of_impossible_numbers_is_none(epoch, number, cost):
    assert place_of(MOVED + PLACE.pack(b"limit-id", 1.0, epoch, number, cost) + b"p4r:s:u") is None


@pytest.mark.parametrize("length", [0, 1, PLACE.size - 1, PLACE.size])
def test_a_message_that_is_cut_is_none(length):
    assert place_of(MOVED + bytes(length)) is None
