"""Whose fault an exception of a request handler is, and how a bug is logged."""

import json
import logging
import ssl

import aiohttp
import pytest

from bot.core.load_balancer import InstanceFailure, NotSentError, RequestRejected
from bot.core.load_balancer.faults import FAULT_LOG_SECONDS, FaultLog, blame, never_sent


class ClientResponseError(Exception):
    """As aiohttp's: with the status on it."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status


KEY = aiohttp.client_reqrep.ConnectionKey("h", 1, False, None, None, None, None)


@pytest.mark.parametrize(
    ("error", "at_fault", "unsent"),
    [
        (RequestRejected("no"), "request", False),
        (ClientResponseError(404), "request", False),
        (ClientResponseError(500), "answer", False),
        (InstanceFailure("HTTP 502", status=502), "answer", False),
        (json.JSONDecodeError("x", "", 0), "answer", False),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "x"), "answer", False),
        (RuntimeError("the instance said no"), "answer", False),
        (ConnectionRefusedError(), "transport", True),
        (NotSentError("proxy is away"), "transport", True),
        (TimeoutError(), "transport", False),
        (ssl.SSLCertVerificationError("self-signed"), "transport", False),
        (aiohttp.ServerDisconnectedError(), "transport", False),
        (aiohttp.ClientPayloadError("cut"), "transport", False),
        (aiohttp.ClientConnectorError(KEY, OSError(111, "x")), "transport", True),
        (KeyError("result"), "code", False),
        (AttributeError("json"), "code", False),
        (ModuleNotFoundError("orjson"), "code", False),
        (ExceptionGroup("both", [ConnectionResetError(), KeyError("x")]), "transport", False),
        (ExceptionGroup("bugs", [TypeError(), KeyError("x")]), "code", False),
    ],
)
def test_kinds_of_errors(error, at_fault, unsent):
    assert blame(error) == at_fault
    assert never_sent(error) is unsent


def raised(error):
    try:
        raise error
    except Exception as caught:
        return caught


def test_a_bug_is_logged_once_a_minute_and_then_with_how_many_there_were(caplog):
    log = FaultLog()
    for turn in range(10):
        log.tell(raised(KeyError(turn)), raised, "bot-1", float(turn))
    log.tell(raised(KeyError("late")), raised, "bot-1", FAULT_LOG_SECONDS)
    first, second = [record.getMessage() for record in caplog.records]
    assert "raised has a bug, seen at instance bot-1" in first
    assert "9 more of them since it was last logged" in second
    assert "KeyError: 'late'" in second


def test_a_bug_at_another_place_is_logged_too(caplog):
    log = FaultLog()
    log.tell(raised(KeyError(1)), raised, "bot-1", 0.0)
    try:
        raise KeyError(2)
    except KeyError as error:
        log.tell(error, raised, "bot-1", 1.0)
    assert len(caplog.records) == 2


def test_what_is_logged_of_a_bug_is_masked_and_bounded(caplog):
    log = FaultLog()
    with caplog.at_level(logging.ERROR):
        log.tell(raised(KeyError("postgresql://bot:hunter2@db/main" + "x" * 100_000)), raised, "bot-1", 0.0)
    assert "hunter2" not in caplog.text
    assert len(caplog.text) < 20_000


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError


def test_a_bug_whose_text_cannot_be_had_is_logged_all_the_same(caplog):
    FaultLog().tell(raised(Unspeakable()), raised, "bot-1", 0.0)
    assert "Unspeakable" in caplog.text


def test_a_handler_that_raises_a_new_kind_each_time_fills_no_memory():
    log = FaultLog()
    for number in range(1_000):
        log.tell(raised(type(f"Bug{number}", (KeyError,), {})()), raised, "bot-1", 0.0)
    assert len(log._last) <= 100


class NoteRaises(TypeError):
    def add_note(self, note):
        raise RuntimeError("no notes")


class CannotBeChanged(AttributeError):
    def __setattr__(self, name, value):
        raise AttributeError(name)


class OddNotes(TypeError):
    __notes__ = 5


class NotesRaise(TypeError):
    @property
    def __notes__(self):
        raise RuntimeError("no notes")


class StatusRaises(TypeError):
    @property
    def status(self):
        raise RuntimeError("no status")


class ResponseRaises(TypeError):
    @property
    def response(self):
        raise RuntimeError("no response")


class EveryNameRaises(TypeError):
    def __getattr__(self, name):
        raise RuntimeError(name)


class ClassRaises(TypeError):
    @property
    def __class__(self):
        raise RuntimeError("no class")


HOSTILE = [
    NoteRaises, CannotBeChanged, OddNotes, NotesRaise, StatusRaises, ResponseRaises, EveryNameRaises,
    ClassRaises,
]  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_exception_that_raises_when_it_is_looked_at_is_judged_by_its_type_and_logged(kind, caplog):
    def handler():
        raise kind("a bug")

    with pytest.raises(kind) as caught:
        handler()
    with caplog.at_level(logging.ERROR):
        assert blame(caught.value) == "code"
        FaultLog().tell(caught.value, handler, "a", 0.0)
    assert kind.__name__ in caplog.text


def test_a_group_of_exceptions_that_raise_when_they_are_looked_at():
    class Refused(ConnectionRefusedError):
        @property
        def status(self):
            raise RuntimeError("no status")

    assert blame(ExceptionGroup("g", [StatusRaises(), Refused()])) == "transport"
