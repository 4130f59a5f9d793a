"""Dashboard, terminal and states ask for keys that exist: a misspelt one would show nothing, for ever."""

from __future__ import annotations

from types import UnionType
from typing import get_args, get_type_hints

import pytest

from bot.core.phase4_admin import figures, status
from bot.core.phase4_statistics.batch_processor import BatchProcessorFigures
from bot.core.phase4_statistics.cache_manager import CacheManagerFigures
from bot.core.phase4_statistics.connection_pools import PoolFigures
from bot.core.phase4_statistics.load_balancer import InstanceFigures, LoadBalancerFigures
from bot.core.phase4_statistics.outbound import OutboundFigures
from bot.core.phase4_statistics.query_optimizer import QueryOptimizerFigures
from bot.core.phase4_statistics.rate_limiter import LimitFigures, RateLimiterFigures, SlotFigures
from bot.core.phase4_statistics.rolling_rates import RecentReader
from bot.core.phase4_statistics.states import state_of

ASKED_OF_ALL = {"error", "degraded"}
"""Told in place of the statistics if these cannot be read; and what some services do not have."""


class Told(dict):
    """Figures that refuse to be asked for a key that no such figures have."""

    def __init__(self, kind, truth, **members):
        self.kind = kind.__name__
        hints = get_type_hints(kind)
        made = {key: value_of(hints[key], truth) for key in kind.__struct_fields__}
        super().__init__(kind(**made).as_dict() | members)

    def get(self, key, default=None):
        assert key in self or key in ASKED_OF_ALL, f"{self.kind} has no figure {key!r}"
        return super().get(key, default)


def value_of(hint, truth):
    if isinstance(hint, UnionType):
        hint = get_args(hint)[0]
    base = getattr(hint, "__origin__", hint)
    # Of nothing there is no share: what a share is of is asked for to the end only if all of it is zero.
    made = {bool: truth, int: 7 * truth, float: 7.5 * truth, str: "seven"}
    return made[base] if base in made else base()


@pytest.fixture(params=[True, False], ids=["something", "nothing"])
def services(request):
    truth = request.param
    return {
        "query_optimizer": Told(QueryOptimizerFigures, truth),
        "cache_manager": Told(CacheManagerFigures, truth),
        "connection_pool_manager": {"db": Told(PoolFigures, truth)},
        "rate_limiter": Told(
            RateLimiterFigures,
            truth,
            limits={"upload": Told(LimitFigures, truth)},
            slots={"downloads": Told(SlotFigures, truth)},
        ),
        "batch_processor": Told(BatchProcessorFigures, truth),
        "load_balancer": Told(LoadBalancerFigures, truth, instances={"bot-1": Told(InstanceFigures, truth)}),
        "outbound": Told(OutboundFigures, truth),
    }


def test_the_dashboard(services):
    told = {"services": services, "process": {}}
    recent = RecentReader(0.0).read(1.0, services)
    figures.headlines(told, figures.points(told, recent, 0.0))
    cards = figures.services(told)
    assert len(cards) == len(services)
    assert all(len(card["facts"]) >= 3 for card in cards), "a key of which no figure comes is left out"
    for rows in (figures.pool_rows, figures.instance_rows):
        assert len(rows(told)) == 1
    assert {row["name"] for row in figures.limit_rows(told)} == {"upload", "downloads (slots)"}


def test_the_terminal(services):
    table = status.as_table({"status": "ok", "phase4": {"services": services}})
    for name in services:
        assert name.replace("_", " ") in table


def test_the_states(services):
    for name, told in services.items():
        state_of(name, told)


def test_the_refusal_itself(services):
    with pytest.raises(AssertionError, match="CacheManagerFigures has no figure 'l1_hitz'"):
        services["cache_manager"].get("l1_hitz")
