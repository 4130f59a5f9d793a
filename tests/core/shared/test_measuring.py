"""Bytes reported for a value, against what it takes."""

import array
import collections
import dataclasses
import datetime
import decimal
import fractions
import io
import os
import random
import sys
import types
import uuid
from typing import NamedTuple

import msgspec
import pytest

from bot.core._shared.isolation import freeze
from bot.core._shared.measuring import weigh
from tests.support.memory import traced


def text(length=40):
    return os.urandom(length // 2).hex()


class Slots:
    __slots__ = ("items", "name")

    def __init__(self):
        self.name, self.items = text(), [text()]


class Attributes:
    def __init__(self):
        self.name, self.items = text(), [text()]


class Both(Slots):
    def __init__(self):
        super().__init__()
        self.more = text()


class Lying(Attributes):
    def __sizeof__(self):
        return 0


class Itself:
    def __init__(self):
        self.name = text(1000)

    def __deepcopy__(self, memo):
        return self


class Row(NamedTuple):
    name: str
    items: list


@dataclasses.dataclass
class Record:
    name: str
    items: list


@dataclasses.dataclass(frozen=True, slots=True)
class Closed:
    name: str
    items: tuple


class Struct(msgspec.Struct):
    name: str
    items: list


class Untracked(msgspec.Struct, frozen=True, gc=False):
    name: str
    number: int


class Words(list):
    pass


def number():
    return random.randrange(10**9, 10**12)


MAKERS = {
    "slots": Slots,
    "attributes": Attributes,
    "slots and attributes": Both,
    "a __sizeof__ that lies": Lying,
    "its own copy": Itself,
    "named tuple": lambda: Row(text(), [text()]),
    "dataclass": lambda: Record(text(), [text()]),
    "closed dataclass": lambda: Closed(text(), (text(),)),
    "msgspec": lambda: Struct(text(), [text()]),
    "msgspec without gc": lambda: Untracked(text(), number()),
    "deque": lambda: collections.deque([text() for _ in range(20)]),
    "ordered dict": lambda: collections.OrderedDict((text(), text()) for _ in range(8)),
    "default dict": lambda: collections.defaultdict(list, {text(): [text()] for _ in range(5)}),
    "counter": lambda: collections.Counter({text(): number() for _ in range(8)}),
    "list of its own class": lambda: Words([text()]),
    "array": lambda: array.array("d", [0.5] * 200),
    "bytearray": lambda: bytearray(500),
    "bytes io": lambda: io.BytesIO(os.urandom(3000)),
    "string io": lambda: io.StringIO(text(3000)),
    "namespace": lambda: types.SimpleNamespace(a=text(), b=[text()]),
    "exception": lambda: ValueError(text(), [text()]),
    "decimals": lambda: [decimal.Decimal(random.getrandbits(200)) for _ in range(5)],
    "fractions": lambda: [fractions.Fraction(number(), 10**9 + 7) for _ in range(9)],
    "uuids": lambda: [uuid.uuid4() for _ in range(10)],
    "dates": lambda: [datetime.datetime.fromtimestamp(number() // 1000) for _ in range(20)],
    "four bytes a character": lambda: ["😀" * 100 + text(20)],
    "rows": lambda: [{"id": number(), "name": text(), "n": 0, "x": None} for _ in range(50)],
    "rows with keys of their own": lambda: [{text(): number()} for _ in range(20)],
    "tuples": lambda: [(number(), text(), 0, None) for _ in range(50)],
    "nested": lambda: {"a": [{"b": text(), "c": [text(), (text(),)]} for _ in range(5)]},
    "zeros": lambda: [0] * 500,
    "the same many times": lambda: [[text(200)]] * 50,
    "a set": lambda: {text() for _ in range(10)},
    "records": lambda: [Record(text(), [text()]) for _ in range(20)],
}


def reported_and_taken(make, count=100):
    for _ in range(3):
        freeze(make())  # what is remembered of a class is not the value's
    kept = [None] * count
    with traced() as memory:
        reported = 0
        for position in range(count):
            frozen = freeze(make())
            kept[position] = frozen.value
            reported += frozen.size
        del frozen
    return reported, memory.kept


@pytest.mark.parametrize("kind", MAKERS)
def test_reported_and_taken_agree(kind):
    reported, taken = reported_and_taken(MAKERS[kind])
    assert taken / 1.5 < reported < taken * 1.5


def test_arrays_and_frames_of_numpy_and_pandas():
    numpy = pytest.importorskip("numpy")
    makers = [
        lambda: numpy.random.rand(100),
        lambda: numpy.random.rand(5000)[::50],  # of a view, what is copied
        lambda: numpy.array([text() for _ in range(20)], dtype=object),
    ]
    for make in makers:
        reported, taken = reported_and_taken(make)
        assert taken / 1.5 < reported < taken * 1.5
    pandas = pytest.importorskip("pandas")
    reported, taken = reported_and_taken(
        lambda: pandas.DataFrame({"a": numpy.random.rand(2000), "b": [text() for _ in range(2000)]}), 10
    )
    assert taken / 1.5 < reported < taken * 1.5


def test_models_of_pydantic():
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Model", name=(str, ...), items=(list[str], ...))
    reported, taken = reported_and_taken(lambda: model(name=text(), items=[text(), text()]))
    assert taken / 1.5 < reported < taken * 1.5


def test_what_is_shared_by_the_program_is_not_charged():
    assert weigh([int, len, io], set(), 100) == sys.getsizeof([int, len, io])
