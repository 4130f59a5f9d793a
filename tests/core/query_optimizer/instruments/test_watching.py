"""What an instrument remembers of its reads' scopes: no tenant and no place gets the results of another."""

import gc
from dataclasses import dataclass
from typing import Any

import pytest

from bot.core.query_optimizer import QueryOptimizer, Scope
from bot.core.query_optimizer.execution.result_scopes import known, scope_key
from bot.core.query_optimizer.execution.results import hash_of
from bot.core.query_optimizer.instruments.watching import MAX_SCOPES, Instrument, Options, Session


@dataclass
class Tenant:
    """Whose turn it is."""

    who: Any = None

    def __call__(self) -> Any:
        return self.who


def place_of(instrument, *place):
    scope = instrument.scope_for(place)
    return None if scope is None else scope_key(scope)[0]


@pytest.mark.parametrize(
    "others", [(1, True, 1.0, "1"), (0, False, 0.0, -0.0, "", b""), ((1,), (True,), "(1,)")]
)
def test_tenants_that_look_equal_are_apart(others):
    tenant = Tenant()
    instrument = Instrument(QueryOptimizer(), Options(tenant=tenant))
    places = []
    for _ in range(2):  # the second time what is remembered answers
        for tenant.who in others:
            places.append(place_of(instrument, "database", "ann"))
    assert len(set(places)) == len(others)
    assert places[: len(others)] == places[len(others) :]


def test_the_tenant_is_asked_each_time():
    tenant = Tenant("ann")
    instrument = Instrument(QueryOptimizer(), Options(tenant=tenant))
    before = place_of(instrument, "database")
    tenant.who = None
    assert place_of(instrument, "database") is None, "who it is cannot be told"
    tenant.who = "bob"
    assert place_of(instrument, "database") not in (None, before)


def test_places_kinds_of_reads_and_instruments_are_apart():
    one, other = (Instrument(QueryOptimizer(), Options()) for _ in range(2))
    places = [
        place_of(one, "addr", "ann", "fetch", 0),
        place_of(one, "addr", "bob", "fetch", 0),
        place_of(one, "addr", "ann", "fetchval", 0),
        place_of(one, "addr", "ann", "fetchval", "0"),
        place_of(other, "addr", "ann", "fetch", 0),
    ]
    assert len(set(places)) == len(places)


def test_other_options_forget_what_was_remembered():
    instrument = Instrument(QueryOptimizer(), Options())
    before = place_of(instrument, "addr")
    instrument.change(instrument.optimizer, Options(scope="staff"))
    staff = place_of(instrument, "addr")
    instrument.change(instrument.optimizer, Options(scope=Scope(database="d")))
    scope = instrument.scope_for(("addr",))
    assert len({before, staff, scope.place}) == 3
    assert scope.database == instrument.database != ""


def test_what_is_remembered_is_bounded():
    tenant = Tenant()
    instrument = Instrument(QueryOptimizer(), Options(tenant=tenant))
    places = []
    for tenant.who in range(MAX_SCOPES + 50):
        places.append(place_of(instrument, "addr"))
    tenant.who = 0
    assert place_of(instrument, "addr") == places[0], "made anew, and the same"
    assert len(instrument._scopes) == MAX_SCOPES
    assert len(set(places)) == len(places)


def test_no_other_scope_equals_a_remembered_one():
    scope = Scope(role="ann", search_path=("a", 1))
    [written] = known(scope).place
    others = [written, (written,), scope, Scope(search_path=written)]
    assert known(scope).place not in [scope_key(each)[0] for each in others]
    assert known(scope) == known(Scope(role="ann", search_path=("a", 1)))


@pytest.mark.parametrize("scope", [Scope(tenant=[]), Scope(tenant="x" * 2_000)])
def test_what_is_no_scope_is_refused(scope):
    with pytest.raises(ValueError, match="scope"):
        known(scope)


class Connection:
    """A driver's connection, which can be referred to weakly."""


def test_the_session_of_a_connection_is_forgotten_with_it():
    instrument = Instrument(QueryOptimizer(), Options())
    sessions = instrument.sessions
    first, second = Connection(), Connection()
    sessions[first], sessions[second] = Session(instrument, bool), Session(instrument, bool)
    assert sessions.get(first) is not sessions.get(second)
    place = id(first)
    del first
    assert len(sessions) == 1
    assert place not in sessions.by_id
    assert sessions.get(second) is not None


def test_a_connection_in_a_circle_takes_its_session_along():
    instrument = Instrument(QueryOptimizer(), Options())
    connection = Connection()
    connection.itself = connection
    instrument.sessions[connection] = Session(instrument, bool)
    del connection
    gc.collect()
    assert len(instrument.sessions) == 0


def test_a_new_session_takes_the_place_of_the_old_one():
    instrument = Instrument(QueryOptimizer(), Options())
    connection = Connection()
    for _ in range(2):
        session = instrument.sessions[connection] = Session(instrument, bool)
        gc.collect()
        assert instrument.sessions.get(connection) is session
    del connection
    assert len(instrument.sessions) == 0


def test_values_that_look_equal_are_other_executions():
    others = [(1,), (True,), (1.0,), ("1",), ([1],), ((1,),), (1, 1), (1, True), [1], {"a": 1}, None, ()]
    hashes = [hash_of(1, "SELECT 1", params) for params in others]
    assert len(set(hashes)) == len(others)
    assert hashes == [hash_of(1, "SELECT 1", params) for params in others]
    assert hash_of(2, "SELECT 1", (1,)) not in hashes
    with pytest.raises(TypeError):
        hash_of(1, "SELECT 1", (object(),))
