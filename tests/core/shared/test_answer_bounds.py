"""What Redis announces is added up before the parser makes room; what a value holds announces nothing."""

import functools
import random
import tracemalloc

import hiredis
import pytest

from bot.core._shared import answer_bounds
from bot.core._shared.answer_bounds import AnswerBounds, AnswerTooLargeError
from tests.support.searching import cases

UNSEEN = object()


class Parser:
    """hiredis behind the bounds, fed as the link feeds it."""

    def __init__(self):
        self.reader = hiredis.Reader(notEnoughData=UNSEEN)
        self.bounds = AnswerBounds(self.reader.has_data)

    def read(self, data):
        if self.bounds.harmless(data):
            if not (answers := self.parsed(data)):
                self.bounds.unanswered(data)
            return answers
        answers = []
        for piece in self.bounds.pieces(data):
            if found := self.parsed(piece):
                answers += found
                self.bounds.answered()
        return answers

    def parsed(self, data):
        self.reader.feed(data)
        return list(iter(self.reader.gets, UNSEEN))

    def read_cut(self, data, chance):
        answers, start = [], 0
        while start < len(data):
            cut = chance.choice((1, 2, 3, 7, 20, 300, 70_000, 70_000))
            answers += self.read(data[start : start + cut])
            start += cut
        return answers


EVIL = {
    "array": b"*1000000000\r\n",
    "set": b"~1000000000\r\n",
    "push": b">1000000000\r\n",
    "attribute": b"|1000000000\r\n",
    "map": b"%1000000000\r\n",
    "within another": b"*2\r\n:1\r\n*1000000000\r\n",
    "after a value": b"*2\r\n$3\r\nabc\r\n*1000000000\r\n",
    "nested": b"*99999\r\n" * 1000,
    "nested, small": b"*99\r\n" * 20_000,
    "nested, not first": b"*2\r\n:1\r\n" * 5_000,
    "of empty ones": b"*999999\r\n" + b"*0\r\n" * 50_000,
    "second answer": b"+OK\r\n*1000000000\r\n",
}


@pytest.mark.parametrize("data", EVIL.values(), ids=EVIL.keys())
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_too_much_is_refused_before_there_is_room_for_it(data, seed):
    parser = Parser()
    read = parser.read if seed is None else functools.partial(parser.read_cut, chance=random.Random(seed))
    tracemalloc.start()
    try:
        with pytest.raises((AnswerTooLargeError, hiredis.ProtocolError)):  # hiredis bounds the depth
            read(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 150e6


LOOKALIKE = b"\r\n".join(b"*%d" % n for n in (10**9, 99_999, 5, 10**6)) + b"\r\n"


def bulk(value):
    return b"$%d\r\n%s\r\n" % (len(value), value)


VALUES = [
    LOOKALIKE,
    LOOKALIKE * 300,
    b"\n*1000000000",
    b"*1000000000\r\n",
    b"",
    b"*",
    b"\n>",
    b"x" * 100_000,
    b"\n*999999999\r\n" * 5_000,
]


@pytest.mark.parametrize("seed", range(cases(8)))
def test_what_looks_like_an_announcement_within_a_value_is_read(seed):
    chance = random.Random(seed)
    wanted, sent = [], b""
    for _ in range(30):
        some = [chance.choice(VALUES) for _ in range(chance.choice((0, 1, 3, 40)))]
        wanted.append(some)
        sent += b"*%d\r\n" % len(some) + b"".join(map(bulk, some))
    parser = Parser()
    assert parser.read_cut(sent, chance) == wanted
    assert not parser.bounds.holds
    assert parser.read(b"+*1000000000\r\n") == [b"*1000000000"]
    assert parser.read(b"+") + parser.read(b"*1000000000\r\n") == [b"*1000000000"]


def test_many_small_answers_are_no_large_one():
    parser = Parser()
    one = b"*3\r\n:1\r\n:2\r\n*1\r\n_\r\n"
    assert len(parser.read_cut(one * 30_000, random.Random(3))) == 30_000
    large = b"*900000\r\n" + b":1\r\n" * 900_000
    for _ in range(3):
        assert [len(answer) for answer in parser.read(large)] == [900_000]


def test_bytes_without_an_end(monkeypatch):
    monkeypatch.setattr(answer_bounds, "MAX_BYTES", 1_000_000)
    parser = Parser()
    parser.read(b"$9999999999\r\n")
    for _ in range(15):
        parser.read(b"x" * 65_536)
    with pytest.raises(AnswerTooLargeError, match="bytes"):
        parser.read(b"x" * 65_536)
