"""Files and modules that settings come from, and how their faults are told."""

import sys

import pytest

from bot.core.phase4_config import CONFIG_MODULES, ConfigError, Phase4Config


@pytest.fixture
def host(tmp_path, monkeypatch):
    """An empty host in the working directory; ``write(path, text)`` adds a file to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("config", CONFIG_MODULES[-1])]:
        monkeypatch.delitem(sys.modules, name)

    def write(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    write("config_enhancements_phase4.py", "")
    yield write
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("config", "elsewhere", CONFIG_MODULES[-1]) or ":" in name:
            del sys.modules[name]


def read(config=None, environ=None):
    return Phase4Config.read(config, environ=environ or {})


def test_a_package_config_has_its_settings_in_main_config(host):
    host("config/__init__.py", "POOL_MAX_SIZE = 31\nBATCH_MAX_SIZE = 31\nCACHE_DEFAULT_TTL = 31\n")
    host("config/main_config.py", "BATCH_MAX_SIZE = 32\nCACHE_DEFAULT_TTL = 32\nBOT_TOKEN = ''\n")
    host("config_enhancements_phase4.py", "CACHE_DEFAULT_TTL = 33\n")
    config, warnings = read()
    assert (config.POOL_MAX_SIZE, config.BATCH_MAX_SIZE, config.CACHE_DEFAULT_TTL) == (31, 32, 33)
    assert warnings == []


def test_a_folder_config_without_an_init_has_them_too(host):
    host("config/main_config.py", "BATCH_MAX_SIZE = 32\n")
    assert read()[0].BATCH_MAX_SIZE == 32


@pytest.mark.parametrize("file", ["config.py", "config/__init__.py", "config/other.py"])
def test_a_host_without_main_config_starts(host, file):
    host(file, "ENABLE_RATE_LIMITER = True\n")
    assert read()[0].ENABLE_RATE_LIMITER is (not file.endswith("other.py"))


@pytest.mark.parametrize("named", ["deploy/phase4.py", "./deploy/phase4.py", "elsewhere.phase4", "elsewhere"])
def test_the_environment_names_one_more_file_or_module(host, named):
    host("config_enhancements_phase4.py", "POOL_MAX_SIZE = 31\nBATCH_MAX_SIZE = 31\n")
    for file in ("deploy/phase4.py", "elsewhere/phase4.py", "elsewhere/__init__.py"):
        host(file, "BATCH_MAX_SIZE = 32\nCACHE_DEFAULT_TTL = 32\n")
    config, warnings = read(environ={"PHASE4_CONFIG": named, "CACHE_DEFAULT_TTL": "33"})
    assert (config.POOL_MAX_SIZE, config.BATCH_MAX_SIZE, config.CACHE_DEFAULT_TTL) == (31, 32, 33)
    assert warnings == []


def test_a_module_that_is_read_anyway_wins_when_it_is_named(host):
    host("config.py", "BATCH_MAX_SIZE = 31\n")
    host("config_enhancements_phase4.py", "BATCH_MAX_SIZE = 32\n")
    assert read(environ={"PHASE4_CONFIG": "config"})[0].BATCH_MAX_SIZE == 31


@pytest.mark.parametrize("named", ["nowhere.py", "no.such.module", "deploy", "deploy/x.txt", "..", "config."])
def test_a_named_file_that_is_not_there_is_an_error(host, named):
    host("deploy/x.txt", "POOL_MAX_SIZE = 1")
    with pytest.raises(ConfigError, match=r"PHASE4_CONFIG = '.*' .from environment.: "):
        read(environ={"PHASE4_CONFIG": named})


def test_a_slip_in_the_named_file_is_told(host):
    host("phase4.py", "CACHE_DEFAULT_TLL = 3\nWHATEVER = 5\n")
    _, warnings = read(environ={"PHASE4_CONFIG": "phase4.py"})
    assert "CACHE_DEFAULT_TLL (from phase4.py) looks like CACHE_DEFAULT_TTL, and is ignored" in warnings
    assert "WHATEVER (from phase4.py): no such setting" in warnings


def test_a_bad_value_is_told_with_the_file_and_the_line_of_its_last_assignment(host):
    host("config/__init__.py", "")
    host(
        "config/main_config.py",
        "import os\n\nPOOL_MAX_SIZE = 5\nif not os.getenv('NOBODY_SETS_THIS'):\n    POOL_MAX_SIZE: int = 0\n"
        "def f():\n    POOL_MAX_SIZE = 3\n",
    )
    with pytest.raises(ConfigError) as caught:
        read()
    assert str(caught.value).startswith("POOL_MAX_SIZE = 0 (from config/main_config.py line 5): expected ")


def test_the_line_of_an_alias_is_found(host):
    host("config.py", "\n\nLOAD_BALANCING_STRATEGY = 'fastest'\n")
    with pytest.raises(ConfigError, match=r"LOAD_BALANCER_STRATEGY = 'fastest' \(from config\.py line 3\)"):
        read()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A = 1\nB = = 2\n", "config/main_config.py line 2 cannot be imported: SyntaxError"),
        ("\n\nA = B\n", "config/main_config.py line 3 cannot be imported: NameError"),
        (
            "def f():\n    raise ValueError('x')\n\nf()\n",
            "main_config.py line 2 cannot be imported: ValueError: x",
        ),
        ("from dotenv_that_is_not_there import load\n", "line 1 cannot be imported: ModuleNotFoundError"),
        ("raise OSError('redis://u:hunter2@h')\n", "line 1 cannot be imported: OSError: redis://***@h"),
    ],
)
def test_a_file_that_cannot_be_imported_is_told_with_the_line(host, text, said):
    host("config/__init__.py", "")
    host("config/main_config.py", text)
    with pytest.raises(ConfigError) as caught:
        read()
    assert said in str(caught.value)


def test_near_misses_in_a_hosts_own_file_are_warnings(host):
    host("config.py", "CACHE_L1_MAX_SIZ_MB = 4\nENABLE_RATE_LIMITING = True\nBOT_TOKEN = ''\n")
    config, warnings = read()
    assert config == Phase4Config()
    assert warnings == [
        "CACHE_L1_MAX_SIZ_MB (from config.py) looks like CACHE_L1_MAX_SIZE_MB, and is ignored"
    ]


def test_near_misses_in_the_environment_are_warnings(host):
    _, warnings = read(environ={"POOL_MAX_SIZ": "4", "PATH": "/bin", "CACHE_HOME": "/tmp"})
    assert warnings == ["POOL_MAX_SIZ (from environment) looks like POOL_MAX_SIZE, and is ignored"]


@pytest.mark.parametrize(
    ("name", "entry", "backend"),
    [
        ("main", {"url": "postgres://h/db"}, "postgresql"),
        ("main", {"url": "postgresql+asyncpg://h/db"}, "postgresql"),
        ("main", {"url": "mongodb+srv://h/db"}, "mongodb"),
        ("mysql", {"url": "sqlite:///a.db"}, "sqlite"),
        ("main", {"url": "MariaDB://h/db"}, "mysql"),
        ("main", {"url": "rediss://h"}, "redis"),
        ("mongodb", {"min_size": 5, "max_size": 20}, "mongodb"),
        ("redis", {}, "redis"),
        ("main-mongo", {}, "mongodb"),
        ("Postgres_2", {"backend": None}, "postgresql"),
        ("redis", {"backend": "sqlite"}, "sqlite"),
    ],
)
def test_a_pool_takes_its_backend_from_its_url_or_its_name(host, name, entry, backend):
    assert read({"DATABASE_POOLS": {name: entry}})[0].DATABASE_POOLS[name].backend == backend


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("main", {}), ("main", {"url": "oracle://u:hunter2@h"}), ("redis", {"url": "oracle://h"}),
        ("redis_or_mysql", {}), ("credits", {}), ("main", {"url": 5}),
    ],
)  # fmt: skip
def test_a_pool_whose_backend_nothing_tells_is_an_error(host, name, entry):
    with pytest.raises(ConfigError, match=rf"DATABASE_POOLS\['{name}'\]") as caught:
        read({"DATABASE_POOLS": {name: entry}})
    assert "'mongodb', 'redis'" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_pools_of_the_environment_take_theirs_too(host):
    config, _ = read(environ={"DATABASE_POOLS": '{"mongodb": {"max_size": 3}}'})
    assert config.DATABASE_POOLS["mongodb"].backend == "mongodb"
