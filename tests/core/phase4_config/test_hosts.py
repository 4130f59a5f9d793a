"""Settings taken from where a bot keeps its own: a class, a module, an object, a dict."""

import importlib
import sys
import types
from dataclasses import dataclass

import pytest

from bot.core.enhanced_startup_phase4 import initialize_phase4_services, shutdown_phase4_services
from bot.core.phase4_config import ConfigError, Phase4Config

FOREIGN = """
    AS_DOCUMENT AUTHORIZED_CHATS BASE_URL BASE_URL_PORT BOT_TOKEN CELERY_BROKER_URL CMD_SUFFIX DATABASE_NAME
    DB_MAX_OVERFLOW DB_POOL_SIZE DEFAULT_UPLOAD DOWNLOAD_DIR ENABLE_API_AUTH ENABLE_AUTO_BACKUP ENABLE_CELERY
    ENABLE_JSON_LOGGING ENABLE_METRICS ENABLE_RATE_LIMITING ENABLE_REDIS_CACHE
    EQUAL_SPLITS    EXCLUDED_EXTENSIONS FEATURE_FLAGS FFMPEG_CMDS FILELION_API GDRIVE_ID HYBRID_LEECH
    INCOMPLETE_TASK_NOTIFIER INDEX_URL
    IS_TEAM_DRIVE JD_EMAIL JD_PASS JWT_EXPIRATION LEECH_DUMP_CHAT LEECH_SPLIT_SIZE LOG_LEVEL
    MAX_CONCURRENT_DOWNLOADS MEDIA_GROUP METRICS_PORT NAME_SUBSTITUTE OWNER_ID QUEUE_ALL QUEUE_DOWNLOAD
    QUEUE_UPLOAD RATE_LIMIT_COMMANDS_PER_MINUTE RATE_LIMIT_DOWNLOADS_PER_HOUR RCLONE_FLAGS RCLONE_PATH
    REDIS_DB REDIS_HOST REDIS_PASSWORD REDIS_PORT RSS_CHAT RSS_DELAY RSS_SIZE_LIMIT SEARCH_API_LINK
    SEARCH_LIMIT SEARCH_PLUGINS STATUS_LIMIT STATUS_UPDATE_INTERVAL STOP_DUPLICATE SUDO_USERS
    TASK_TIMEOUT_DOWNLOAD
    TELEGRAM_API TELEGRAM_HASH TG_PROXY THUMBNAIL_LAYOUT TORRENT_TIMEOUT UPLOAD_PATHS UPSTREAM_REPO
    USER_SESSION_STRING USE_SERVICE_ACCOUNTS
""".split()
"""Names such as a mirror bot's Config has."""


def config_class(**values):
    return type("Config", (), {**dict.fromkeys(FOREIGN, ""), **values})


def read(host, config=None, *, modules=(), environ=None):
    return Phase4Config.read(config, host=host, modules=modules, environ=environ or {})


def as_class(values):
    return config_class(**values)


def as_subclass(values):
    return type("Production", (config_class(**values),), {"BOT_TOKEN": "1:x"})


def as_object(values):
    host = config_class()()
    vars(host).update(values)
    return host


def as_module(values):
    module = types.ModuleType("settings_of_the_host")
    vars(module).update(dict.fromkeys(FOREIGN, ""), **values)
    return module


def as_dict(values):
    return {**dict.fromkeys(FOREIGN, ""), **values, 5: "not a name"}


@pytest.mark.parametrize("host", [as_class, as_subclass, as_object, as_module, as_dict])
def test_ours_are_taken_from_among_dozens_of_foreign_names_and_nothing_is_said_of_those(host):
    assert len(FOREIGN) == 71
    config, warnings = read(host({"CACHE_DEFAULT_TTL": 7, "ENABLE_RATE_LIMITER": True}))
    assert config == Phase4Config.from_mapping({"CACHE_DEFAULT_TTL": 7, "ENABLE_RATE_LIMITER": True})
    assert warnings == []


@dataclass
class WithDefaults:
    POOL_MAX_SIZE: int = 30
    BATCH_MAX_SIZE: int = 40


@dataclass(slots=True)
class WithSlots:
    POOL_MAX_SIZE: int
    BATCH_MAX_SIZE: int = 40


@pytest.mark.parametrize("host", [WithDefaults(POOL_MAX_SIZE=31), WithSlots(31)])
def test_an_object_has_its_own_values_before_those_of_its_class(host):
    config, _ = read(host)
    assert (config.POOL_MAX_SIZE, config.BATCH_MAX_SIZE) == (31, 40)


def test_nothing_of_the_host_is_called():
    class Config:
        CACHE_DEFAULT_TTL = 9

        @property
        def REDIS_URL(self):
            raise AssertionError("called")

        @classmethod
        def DATABASE_URL(cls):
            raise AssertionError("called")

        def __getattr__(self, name):
            raise AssertionError("called")

    for host in (Config, Config()):
        config, warnings = read(host)
        assert config == Phase4Config.from_mapping({"CACHE_DEFAULT_TTL": 9})
        assert len(warnings) == 2
        assert "REDIS_URL" in "".join(warnings)
        assert "property" in warnings[0]


@pytest.mark.parametrize("host", [config_class(), {}, as_object({}), {"cache_default_ttl": 5}])
def test_a_host_without_a_setting_of_ours_is_told(host):
    config, (warning,) = read(host)
    assert config == Phase4Config()
    assert warning.endswith(" has no setting of this library; names are in upper case")


def test_a_host_of_any_size_is_looked_through_soon():
    config, warnings = read({**{f"CACHE_DEFAULT_TTL{n}": n for n in range(20_000)}, "POOL_MAX_SIZE": 7})
    assert config.POOL_MAX_SIZE == 7
    assert 0 < len(warnings) <= 1_000


def test_names_that_are_nearly_ours_are_told_with_the_one_they_look_like():
    config, warnings = read(config_class(CACHE_L1_MAX_SIZ_MB=5, POOL_MAXSIZE=3, cache_default_tll=1))
    assert config == Phase4Config()
    assert warnings == [
        "CACHE_L1_MAX_SIZ_MB (from Config) looks like CACHE_L1_MAX_SIZE_MB, and is ignored",
        "POOL_MAXSIZE (from Config) looks like POOL_MAX_SIZE, and is ignored",
    ]


@pytest.mark.parametrize("name", ["RATE_LIMIT_STRATEGY", "ENABLE_BATCH_DOWNLOADS"])
def test_a_retired_name_is_told_whatever_the_source(name):
    file = types.ModuleType("config_enhancements_phase4")
    vars(file)[name] = True
    sources = (
        read(config_class(**{name: True})),
        read(None, {name: True}),
        read(None, environ={name: "true"}),
        read(None, modules=[file]),
    )
    for config, warnings in sources:
        assert config == Phase4Config()
        (warning,) = warnings
        assert warning.startswith(f"{name} (from ")
        assert "is ignored: " in warning


def test_a_dict_that_is_given_may_have_foreign_names_but_no_slips():
    config, warnings = read(None, {**dict.fromkeys(FOREIGN, ""), "POOL_MAX_SIZE": 7})
    assert config.POOL_MAX_SIZE == 7
    (warning,) = (warning for warning in warnings if warning.startswith("no settings of this library"))
    assert "AS_DOCUMENT" in warning
    assert " more" in warning
    with pytest.raises(ConfigError, match=r"CACHE_DEFAULT_TLL .*: no such setting; did you mean CACHE_D"):
        read(None, {"CACHE_DEFAULT_TLL": 7})


class Int64(int):
    """As the driver of MongoDB gives whole numbers."""


@pytest.mark.parametrize(
    ("name", "stored", "value"),
    [
        ("ENABLE_CACHE_MANAGER", "True", True),
        ("ENABLE_CACHE_MANAGER", "off", False),
        ("POOL_MAX_SIZE", "10", 10),
        ("POOL_MAX_SIZE", Int64(10), 10),
        ("POOL_MAX_SIZE", 10.0, 10),
        ("BATCH_TIMEOUT", " 2.5 ", 2.5),
        ("BATCH_TIMEOUT_SECONDS", "2.5", 2.5),
        ("LOAD_BALANCER_STRATEGY", "RANDOM", "random"),
        ("REDIS_URL", " redis://h:1/0 ", "redis://h:1/0"),
        ("RATE_LIMITS", '{"vip": {"requests_per_second": 3}}', None),
    ],
)
def test_what_a_database_keeps_as_text_is_taken_as_from_the_environment(name, stored, value):
    config, _ = read(config_class(**{name: stored}))
    name = {"BATCH_TIMEOUT_SECONDS": "BATCH_TIMEOUT"}.get(name, name)
    if value is None:
        assert config.RATE_LIMITS["vip"].requests_per_second == 3
    else:
        assert getattr(config, name) == value


@pytest.mark.parametrize("name", ["POOL_MAX_SIZE", "ENABLE_QUERY_OPTIMIZER", "RATE_LIMITS", "REDIS_URL"])
@pytest.mark.parametrize("unset", ["", "  ", None])
def test_what_a_host_has_without_a_value_is_not_set(name, unset):
    config, _ = read(config_class(**{name: unset}))
    assert config == Phase4Config()


def test_a_host_wins_over_files_and_the_environment_and_the_dict_win_over_the_host():
    file = types.ModuleType("config_enhancements_phase4")
    names = ("POOL_MAX_SIZE", "BATCH_MAX_SIZE", "RATE_LIMIT_BURST_SIZE", "CACHE_DEFAULT_TTL")
    vars(file).update(dict.fromkeys(names, 31))
    host = config_class(BATCH_MAX_SIZE=32, RATE_LIMIT_BURST_SIZE=32, CACHE_DEFAULT_TTL=32)
    environ = {"RATE_LIMIT_BURST_SIZE": "33", "CACHE_DEFAULT_TTL": "33"}
    config, _ = read(host, {"CACHE_DEFAULT_TTL": 34}, modules=[file], environ=environ)
    assert [getattr(config, name) for name in names] == [31, 32, 33, 34]


HOST = """
class Base:
    POOL_MAX_SIZE = 5


class Config(Base):
    BOT_TOKEN = ""
    CACHE_DEFAULT_TTL = -1
"""


def test_a_bad_value_is_told_with_the_file_and_the_line_of_the_class(tmp_path, monkeypatch):
    (tmp_path / "host_config.py").write_text(HOST)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "host_config", raising=False)
    host = importlib.import_module("host_config")
    monkeypatch.setattr(host.Base, "POOL_MAX_SIZE", "many")
    for each in (host.Config, host.Config()):
        with pytest.raises(ConfigError) as caught:
            read(each)
        pool, ttl = str(caught.value).splitlines()
        assert pool.startswith(
            "POOL_MAX_SIZE = 'many' (from Config, host_config.py line 3): expected a whole"
        )
        assert ttl.startswith(
            "CACHE_DEFAULT_TTL = -1 (from Config, host_config.py line 8): expected a number"
        )
    with pytest.raises(ConfigError, match=r"CACHE_DEFAULT_TTL = -1 \(from from_host\): expected"):
        read(dict(vars(host.Config)))


@pytest.mark.parametrize("host", ["config", 5, [("POOL_MAX_SIZE", 5)], b"", True])
def test_what_can_hold_no_settings_is_refused(host):
    with pytest.raises(ConfigError, match=r"from_host = .*: expected a class, a module or an object"):
        read(host)


async def test_the_report_has_the_warnings_and_no_secret_in_them():
    host = config_class(
        ENABLE_RATE_LIMITER="True",
        ENABLE_QUERY_OPTIMIZER=False,
        RATE_LIMIT_STRATEGY="token_bucket",
        REDIS_URI="redis://:hunter2@cache/0",
    )
    try:
        report = await initialize_phase4_services(from_host=host)
        assert report["success"]
        assert report["services_initialized"] == ["RateLimiter"]
        assert report["warnings"] == [
            "configuration: RATE_LIMIT_STRATEGY (from Config) is ignored: every rate is a token bucket",
            "configuration: REDIS_URI (from Config) looks like REDIS_URL, and is ignored",
        ]
        assert report["summary"].endswith("; 2 warning(s)")
        assert "hunter2" not in str(report)
    finally:
        await shutdown_phase4_services()


async def test_a_bad_host_is_in_the_report_and_starts_nothing():
    report = await initialize_phase4_services(from_host="Config")
    assert not report["success"]
    assert "from_host = str" in report["errors"][0]
    report = await initialize_phase4_services(Phase4Config(), from_host=config_class())
    assert "pass only one of them" in report["errors"][0]
