"""The guide's configuration profiles load as written."""

import pytest

from bot.core.phase4_config import SETTING_NAMES, Phase4Config
from tests.docs.guide import blocks, settings

PROFILES = {
    "Minimal Configuration": {"ENABLE_QUERY_OPTIMIZER": True, "ENABLE_CACHE_MANAGER": False},
    "Standard Configuration": {
        "CACHE_L1_MAX_SIZE_MB": 100,
        "POOL_MAX_SIZE": 20,
        "RATE_LIMIT_DEFAULT_RPS": 10,
    },
    "Advanced Configuration": {"BATCH_MAX_SIZE": 150, "LOAD_BALANCER_STRATEGY": "least_connections"},
    "Optimize for Read-Heavy Workloads": {"QUERY_OPTIMIZER_CACHE_TTL": 600, "CACHE_WARMING_INTERVAL": 300},
    "Optimize for Write-Heavy Workloads": {"BATCH_TIMEOUT": 10, "BATCH_MAX_SIZE": 500},
    "Optimize for Many Connections": {"POOL_MAX_LIFETIME": 1800, "ENABLE_LOAD_BALANCER": True},
    "Optimize for Limited Memory": {"ENABLE_CONNECTION_POOLING": True, "BATCH_MAX_SIZE": 50},
}


@pytest.mark.parametrize("heading", PROFILES)
def test_profile(heading, tmp_path, monkeypatch):
    [block] = blocks(heading)
    (tmp_path / "guide_profile.py").write_text(block)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "guide_profile", raising=False)
    config = Phase4Config.load(modules=["guide_profile"], environ={})
    written = settings(block)
    assert written
    for name, value in {**written, **PROFILES[heading]}.items():
        assert getattr(config, name) == value
    untouched = set(SETTING_NAMES) - set(written)
    defaults = Phase4Config()
    assert all(getattr(config, name) == getattr(defaults, name) for name in untouched)
