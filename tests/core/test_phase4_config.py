"""Where settings come from, which source wins, and how a bad one is refused."""

import copy
import pickle
import types

import pytest

from bot.core._shared.errors import InvalidArgumentError
from bot.core.outbound import Limits
from bot.core.phase4_config import SETTING_NAMES, ConfigError, Phase4Config


def module(name="config_enhancements_phase4", **values):
    made = types.ModuleType(name)
    vars(made).update(values)
    return made


def load(overrides=None, *, modules=(), environ=None):
    return Phase4Config.load(overrides, modules=modules, environ=environ or {})


def test_everything_is_off_by_default():
    config = load()
    flags = [name for name in SETTING_NAMES if name.startswith("ENABLE_")]
    assert len(flags) == 8
    assert not any(getattr(config, name) for name in flags)


def test_settings_are_compared_by_value_and_do_not_change():
    config = load({"BATCH_MAX_SIZE": 7})
    assert (
        config == load({"BATCH_MAX_SIZE": 7}) == copy.deepcopy(config) == pickle.loads(pickle.dumps(config))
    )
    assert config == load({"BATCH_MAX_SIZE": 7, "POOL_MIN_SIZE": load().POOL_MIN_SIZE}), "a default, set"
    assert config != load()
    assert config != "settings"
    with pytest.raises(AttributeError, match="settings do not change"):
        config.redis = load().redis
    with pytest.raises(TypeError, match="unhashable"):
        hash(config)
    with pytest.raises(TypeError, match="rediss: no such section; there are switches, "):
        Phase4Config(rediss=load().redis)
    assert "secret" not in repr(load({"PHASE4_DASHBOARD_TOKEN": "secret" * 4}))


def test_a_section_that_is_asked_for_counts_as_set_no_more_than_before():
    config = load({"PHASE4_DASHBOARD_NAME": "mirror"})
    assert (config.redis.key_prefix, config.redis_url("BATCH_REDIS_URL")) == ("", "")
    assert config.sets("dashboard")
    assert not config.sets("redis")


def test_each_source_wins_over_the_one_before():
    old = module(
        "config", POOL_MAX_SIZE=31, BATCH_MAX_SIZE=31, CACHE_DEFAULT_TTL=31, RATE_LIMIT_BURST_SIZE=31
    )
    ours = module(BATCH_MAX_SIZE=32, CACHE_DEFAULT_TTL=32, RATE_LIMIT_BURST_SIZE=32)
    environ = {"CACHE_DEFAULT_TTL": "33", "RATE_LIMIT_BURST_SIZE": "33"}
    config = load({"RATE_LIMIT_BURST_SIZE": 34}, modules=(old, ours), environ=environ)
    assert config.POOL_MAX_SIZE == 31
    assert config.BATCH_MAX_SIZE == 32
    assert config.CACHE_DEFAULT_TTL == 33
    assert config.RATE_LIMIT_BURST_SIZE == 34


def test_a_flag_that_the_settings_file_overrules_is_told():
    old, ours = module("config", ENABLE_CACHE_MANAGER=True), module(ENABLE_CACHE_MANAGER=False)
    config, warnings = Phase4Config.read(modules=(old, ours), environ={})
    assert not config.ENABLE_CACHE_MANAGER
    assert warnings == [
        "ENABLE_CACHE_MANAGER = False in config_enhancements_phase4.py wins over True in config.py"
    ]
    config, warnings = Phase4Config.read(modules=(old,), environ={"ENABLE_CACHE_MANAGER": "0"})
    assert not config.ENABLE_CACHE_MANAGER
    assert not warnings, "the environment is meant to overrule"


def test_what_is_warned_of_is_logged_once_however_often_settings_are_loaded(caplog):
    for _ in range(3):
        load(modules=[module(QUERY_OPTIMIZER_CACHE_TTTL=3)])
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [
        ("BATCH_TIMEOUT_SECONDS", "BATCH_TIMEOUT", 9.0),
        ("LOAD_BALANCING_STRATEGY", "LOAD_BALANCER_STRATEGY", "random"),
    ],
)
def test_aliases(alias, name, value):
    assert getattr(load({alias: value}), name) == value
    assert getattr(load(modules=[module(**{alias: value})]), name) == value
    assert getattr(load(environ={alias: str(value)}), name) == value


def test_the_own_name_wins_over_its_alias_in_one_source():
    assert load({"BATCH_TIMEOUT_SECONDS": 1, "BATCH_TIMEOUT": 2}).BATCH_TIMEOUT == 2


def test_the_cache_falls_back_to_the_bots_redis():
    assert load(environ={"REDIS_URL": "redis://h/0"}).CACHE_L2_REDIS_URL == "redis://h/0"
    both = {"REDIS_URL": "redis://h/0", "CACHE_L2_REDIS_URL": "redis://l2/0"}
    assert load(both).CACHE_L2_REDIS_URL == "redis://l2/0"


def test_the_environment_speaks_every_type():
    config = load(
        environ={
            "ENABLE_RATE_LIMITER": "yes",
            "POOL_MAX_SIZE": " 7 ",
            "BATCH_TIMEOUT": "0.5",
            "LOAD_BALANCER_STRATEGY": "least_loaded",
            "RATE_LIMITS": '{"gold": {"requests_per_second": 3, "burst_size": 4}}',
            "LOAD_BALANCER_INSTANCES": '[{"id": "a", "address": "::1", "port": 1}]',
        }
    )
    assert config.ENABLE_RATE_LIMITER is True
    assert (config.POOL_MAX_SIZE, config.BATCH_TIMEOUT) == (7, 0.5)
    assert config.RATE_LIMITS["gold"].burst_size == 4
    assert config.LOAD_BALANCER_INSTANCES[0].weight == 1.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"RATE_LIMIT_DEFAULT_RPM": 1}, ["RATE_LIMIT_DEFAULT_RPM", "did you mean RATE_LIMIT_DEFAULT_RPS?"]),
        ({"RATE_LIMIT_DEFAULT_RPS": -1}, ["RATE_LIMIT_DEFAULT_RPS = -1", ">= 0.000000001"]),
        ({"RATE_LIMIT_DEFAULT_RPS": float("nan")}, ["RATE_LIMIT_DEFAULT_RPS = nan", "a number"]),
        ({"RATE_LIMIT_DEFAULT_RPS": float("inf")}, ["RATE_LIMIT_DEFAULT_RPS = inf", "a number"]),
        ({"RATE_LIMIT_BURST_SIZE": 0}, ["RATE_LIMIT_BURST_SIZE = 0", ">= 1"]),
        ({"RATE_LIMIT_BURST_SIZE": 1.5}, ["RATE_LIMIT_BURST_SIZE = 1.5", "a whole number"]),
        ({"POOL_MAX_SIZE": True}, ["POOL_MAX_SIZE = True", "a whole number"]),
        ({"POOL_MIN_SIZE": 21}, ["POOL_MIN_SIZE = 21", "POOL_MAX_SIZE = 20"]),
        ({"ENABLE_RATE_LIMITER": "maybe"}, ["ENABLE_RATE_LIMITER = 'maybe'", "True or False"]),
        ({"LOAD_BALANCER_STRATEGY": "fastest"}, ["LOAD_BALANCER_STRATEGY = 'fastest'", "'round_robin'"]),
        ({"CACHE_L2_REDIS_URL": 6379}, ["CACHE_L2_REDIS_URL = 6379", "a string"]),
        ({"RATE_LIMIT_BACKOFF_BASE": 9, "RATE_LIMIT_BACKOFF_MAX": 8}, ["RATE_LIMIT_BACKOFF_BASE = 9", "= 8"]),
        (
            {"RATE_LIMITS": {"gold": {"requests_per_second": 0, "burst_size": 1}}},
            ["RATE_LIMITS['gold'].requests_per_second", ">= 0.000000001"],
        ),
        ({"RATE_LIMITS": {"gold": {"rps": 1}}}, ["RATE_LIMITS", "rps"]),
        (
            {"DATABASE_POOLS": {"a": {"backend": "oracle"}}},
            ["DATABASE_POOLS['a'].backend = 'oracle'", "'redis'"],
        ),
        ({"DATABASE_POOLS": {"a": {"backend": "sqlite", "max_size": 0}}}, ["['a'].max_size = 0", "or None"]),
        ({"DATABASE_POOLS": {"a": 3}}, ["DATABASE_POOLS['a'] = 3"]),
        (
            {"LOAD_BALANCER_INSTANCES": [{"id": "a", "address": "h", "port": 0}]},
            ["[0].port = 0", "<= 65_535"],
        ),
    ],
)
def test_a_bad_setting_is_named_with_its_value_and_what_is_allowed(values, words):
    with pytest.raises(ConfigError) as caught:
        load(values)
    for word in words:
        assert word in str(caught.value)


def test_all_that_is_wrong_is_told_at_once():
    environ = {"POOL_MIN_SIZE": "few", "DATABASE_POOLS": "{", "BATCH_TIMEOUT": "2"}
    with pytest.raises(ConfigError) as caught:
        load(
            {"CACHE_DEFAULT_TLL": 1, "BATCH_MAX_SIZE": 0},
            modules=[module(POOL_MAX_SIZE="x")],
            environ=environ,
        )
    names = [line.split()[0] for line in str(caught.value).splitlines()]
    assert sorted(names) == [
        "BATCH_MAX_SIZE", "CACHE_DEFAULT_TLL", "DATABASE_POOLS", "POOL_MAX_SIZE", "POOL_MIN_SIZE",
    ]  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load({"POOL_MIN_SIZE": 30, "LOAD_BALANCER_CHECK_PATH": "health"})
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("name", ["LEAST_CONNECTIONS", "Least_Connections", " least_connections "])
def test_a_choice_is_accepted_in_any_case(name):
    assert load({"LOAD_BALANCER_STRATEGY": name}).LOAD_BALANCER_STRATEGY == "least_connections"
    environ = {"LOAD_BALANCER_STRATEGY": name}
    assert load(environ=environ).LOAD_BALANCER_STRATEGY == "least_connections"


def test_the_source_of_a_bad_setting_is_named():
    with pytest.raises(ConfigError, match="from environment"):
        load(environ={"POOL_MAX_SIZE": "many"})
    with pytest.raises(ConfigError, match=r"from config_enhancements_phase4\.py"):
        load(modules=[module(POOL_MAX_SIZE="many")])


def test_a_slip_of_the_pen_in_the_settings_file_is_logged(caplog):
    load(modules=[module(CACHE_DEFAULT_TLL=3)])
    assert "CACHE_DEFAULT_TLL" in caplog.text
    assert "CACHE_DEFAULT_TTL" in caplog.text


def test_a_settings_file_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_settings.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"broken_settings\.py line 1 cannot be imported: ZeroDivision"):
        load(modules=["broken_settings"])


def test_a_small_pool_needs_no_minimum():
    assert load({"POOL_MAX_SIZE": 3}).POOL_MIN_SIZE == 3


def test_an_instance_id_is_given_once():
    twice = [{"id": "a", "address": "h", "port": 1}] * 2
    with pytest.raises(ConfigError, match="'a' is given twice"):
        load({"LOAD_BALANCER_INSTANCES": twice})


def test_a_refused_url_is_shown_without_its_password():
    with pytest.raises(ConfigError) as caught:
        load({"DATABASE_POOLS": {"a": {"backend": "x", "url": "postgresql://u:hunter2@h/db"}}})
    assert "hunter2" not in str(caught.value)


def test_every_setting_can_be_read_by_its_name_and_in_its_section():
    config = load({"CACHE_DEFAULT_TTL": 7, "ENABLE_CACHE_WARMING": True, "OUTBOUND_EDITS": "separate"})
    assert config.CACHE_DEFAULT_TTL == config.cache_manager.default_ttl == 7
    assert config.ENABLE_CACHE_WARMING is config.cache_manager.warming is True
    assert config.OUTBOUND_EDITS == config.outbound.edits == "separate"
    assert [name for name in SETTING_NAMES if getattr(config, name) is None] == ["OUTBOUND_BULK_RESERVE"]
    with pytest.raises(AttributeError, match="CACHE_DEFAULT_TLL: no such setting"):
        _ = config.CACHE_DEFAULT_TLL


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 101, "x\n", None])
def test_a_queue_name_that_cannot_stand_in_a_key_is_told_what_may(name):
    with pytest.raises(ConfigError, match="expected 1 to 100 letters, digits and"):
        load({"BATCH_QUEUE_NAME": name})


@pytest.mark.parametrize("path", ["health", "/a b", "/ä", "/a\n"])
def test_a_path_of_health_checks_begins_with_a_slash_and_has_no_spaces(path):
    with pytest.raises(ConfigError, match="expected a path that begins with /"):
        load({"LOAD_BALANCER_CHECK_PATH": path})


def test_an_argument_is_named_as_it_was_given_and_a_setting_by_its_own_name():
    settings = load({"RATE_LIMIT_BACKOFF_MAX": 60}).rate_limiter
    with pytest.raises(InvalidArgumentError) as caught:
        settings.changed(backoff_base=-1, backoff_grace="long", backoff=None)
    assert str(caught.value).splitlines() == [
        "backoff_base = -1: expected a number >= 0.000001 and <= 31_536_000",
        "backoff_grace = 'long': expected a number >= 0 and <= 31_536_000",
    ]
    with pytest.raises(InvalidArgumentError, match=r"^backoff_base = 61: expected at most backoff_max = 60$"):
        settings.changed(backoff_base=61)
    with pytest.raises(ConfigError, match=r"^RATE_LIMIT_BACKOFF_BASE = 61: expected at most RATE_LIMIT_BA"):
        load({"RATE_LIMIT_BACKOFF_MAX": 60, "RATE_LIMIT_BACKOFF_BASE": 61})
    with pytest.raises(TypeError, match="backof: no such argument; there are default_rps, "):
        settings.changed(backof=True)


def test_what_is_not_given_stays():
    settings = load({"CACHE_DEFAULT_TTL": 7, "CACHE_L1_MAX_ENTRIES": 8}).cache_manager
    changed = settings.changed(default_ttl=9, l1_max_entries=None)
    assert (changed.default_ttl, changed.l1_max_entries) == (9, 8)
    assert settings.default_ttl == 7


@pytest.mark.parametrize(("text", "reserve"), [("", None), ("none", None), ("7", 7), ("0", 0)])
def test_a_setting_that_may_be_none_is_told_so_by_the_environment(text, reserve):
    assert load().OUTBOUND_BULK_RESERVE is None  # a tenth of the limit, whatever that is
    assert reserve == load(environ={"OUTBOUND_BULK_RESERVE": text}).OUTBOUND_BULK_RESERVE
    assert load({"OUTBOUND_BULK_RESERVE": None}, environ={"OUTBOUND_BULK_RESERVE": "5"}) == load()


def test_limits_of_outbound_have_the_defaults_of_their_settings():
    limits, settings = Limits(), load().outbound
    assert limits.group == (settings.group_limit, settings.group_window)
    assert limits.chat == (1, 1.0 / settings.chat_rate)
    assert (limits.bulk, limits.paid) == ((settings.bulk_limit, 1.0), (settings.paid_limit, 1.0))
    for field in ("chat_burst", "bulk_reserve", "edits"):
        assert getattr(limits, field) == getattr(settings, field)
    assert limits.typing == settings.typing_limits
