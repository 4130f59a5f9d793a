"""The settings of limits: tiers of every kind, their backoff, and clients that are never limited."""

import pytest

from bot.core.enhanced_startup_phase4 import initialize_phase4_services, shutdown_phase4_services
from bot.core.phase4_config import ConfigError, Phase4Config
from bot.core.rate_limiter import Backoff, RateLimitConfig, RateLimiter, WindowLimit

TIERS = {
    "rate": {"requests_per_second": 1, "burst_size": 20, "backoff": False},
    "window": {"max_requests": 5, "window": 60, "backoff": {"base": 30, "max": 600, "grace": 2}},
    "text": "10/second;100/hour",
    "quiet": {"limits": "10/minute", "backoff": False},
}


async def test_tiers_of_every_kind_are_set_with_their_backoff():
    report = await initialize_phase4_services(
        {"ENABLE_RATE_LIMITER": True, "RATE_LIMITS": TIERS, "RATE_LIMIT_EXEMPT_CLIENTS": [7, "root"]}
    )
    assert report["success"], report
    limiter = RateLimiter.get_instance()
    assert limiter.get_tier_limit("rate") is RateLimitConfig(1.0, 20, backoff=None)
    assert limiter.get_tier_limit("window") is WindowLimit(5, 60.0, backoff=Backoff(30, 600, 2))
    assert limiter.get_tier_limit("text") == (WindowLimit(10, 1.0), WindowLimit(100, 3_600.0))
    assert limiter.get_tier_limit("quiet") is WindowLimit(10, 60.0, backoff=None)
    assert [limiter.is_exempt(client) for client in (7, "7", "root", 8)] == [True, False, True, False]
    await shutdown_phase4_services()


def test_settings_come_from_the_environment_as_json():
    config = Phase4Config.load(
        environ={"RATE_LIMITS": '{"free": "5/minute"}', "RATE_LIMIT_EXEMPT_CLIENTS": '[1, "x"]'}, modules=()
    )
    assert config.RATE_LIMITS["free"].limits == "5/minute"
    assert config.RATE_LIMIT_EXEMPT_CLIENTS == [1, "x"]


@pytest.mark.parametrize(
    ("tier", "said"),
    [
        ({}, "expected requests_per_second and burst_size, or max_requests and window, or limits"),
        ("", "RATE_LIMITS['free']"),
        ({"max_requests": 5}, "expected requests_per_second"),
        ({"window": 5}, "expected requests_per_second"),
        ({"requests_per_second": 1, "max_requests": 5, "window": 1}, "expected requests_per_second"),
        ({"max_requests": 0, "window": 1}, "max_requests"),
        ({"max_requests": True, "window": 1}, "max_requests"),
        ({"max_requests": 5, "window": 0}, "window"),
        ("5/fortnight", "RATE_LIMITS['free'].limits = '5/fortnight': expected limits such as"),
        ("0/second", "RATE_LIMITS['free'].limits = '0/second': expected from 1 to 100,000 requests"),
        ("5/3years", "RATE_LIMITS['free'].limits = '5/3years': expected from 1"),
        (5, "RATE_LIMITS['free']"),
    ],
)
def test_a_wrong_tier_is_named_with_what_is_allowed(tier, said):
    with pytest.raises(ConfigError) as refused:
        Phase4Config.from_mapping({"RATE_LIMITS": {"free": tier}})
    assert said in str(refused.value)


@pytest.mark.parametrize("clients", [5, "x", [True], [1.5], [None]])
def test_wrong_exempt_clients_are_named(clients):
    with pytest.raises(ConfigError, match="RATE_LIMIT_EXEMPT_CLIENTS"):
        Phase4Config.from_mapping({"RATE_LIMIT_EXEMPT_CLIENTS": clients})
