"""The six figures of the guide's dashboard, and what is said below them."""

import pytest

from bot.core.phase4_admin import figures


@pytest.mark.parametrize(
    ("on", "value", "verdict", "note"),
    [
        ((), None, "off", ""),
        (("query_optimizer",), None, "idle", "no look-up in the last 5 minutes"),
        (("query_optimizer",), 20.0, "low", ""),
        (("cache_manager",), 90.0, "in", ""),
        (("query_optimizer", "cache_manager"), 90.0, "in", "of the look-ups of optimizer and cache together"),
    ],
)
def test_the_hit_rate_says_of_what_it_is(on, value, verdict, note):
    status = {"services": {service: {} for service in on}}
    [line, *_] = figures.headlines(status, {"query_hit_rate": value})
    assert (line["verdict"], line["note"]) == (verdict, note)
