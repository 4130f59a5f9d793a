"""``phase4 check --project``: settings of bots as people have them, read without starting the bot."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from bot.core.phase4_admin.check import project
from bot.core.phase4_admin.check.findings import State
from bot.core.phase4_admin.check.project import Reader, interpreter
from bot.core.phase4_config import Phase4Config

ROOT = Path(__file__).resolve().parents[3]
START = "from bot.core.enhanced_startup_phase4 import initialize_phase4_services\n"


@pytest.fixture
def host(tmp_path):
    """``host({"config.py": text})`` makes a bot whose package must never be run."""

    def make(files):
        marks_a_start = f"open({str(tmp_path / 'STARTED')!r}, 'w')\nraise SystemExit('started')\n"
        files = {"bot/__init__.py": marks_a_start, "bot/core/__init__.py": marks_a_start, **files}
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    yield make
    assert not (tmp_path / "STARTED").exists(), "the bot was started"


def read(root, **environ):
    environ = {name: value for name, value in os.environ.items() if "PYTHON" not in name} | environ
    found = Reader(root, Path(sys.executable), environ).read()
    config, warnings = Phase4Config.read(
        found.overrides, host=found.host, modules=found.modules, environ=found.environ
    )
    return config, found.findings, warnings


def said(findings, check):
    return "\n".join(finding.found for finding in findings if finding.check == check)


@pytest.fixture
def nothing_is_run(monkeypatch):
    monkeypatch.setattr(project, "run", lambda *_: pytest.fail("nothing has to be run"))


PLAIN = "ENABLE_CACHE_MANAGER = True\nCACHE_L1_MAX_SIZE_MB: int = 50\nBOT_TOKEN = '1:secret'\n"


@pytest.mark.parametrize(
    "files",
    [
        {"config.py": PLAIN},
        {"config/__init__.py": "", "config/main_config.py": PLAIN},
        {"config_enhancements_phase4.py": PLAIN},
        {"config.py": "CACHE_L1_MAX_SIZE_MB = 7\n", "config_enhancements_phase4.py": PLAIN},
        {".env": "# ours\nexport ENABLE_CACHE_MANAGER=true\nCACHE_L1_MAX_SIZE_MB='50' # MB\nNAME=x\n"},
        {"config.env": 'ENABLE_CACHE_MANAGER = "1"\nCACHE_L1_MAX_SIZE_MB = 50\n'},
    ],
)
@pytest.mark.usefixtures("nothing_is_run")
def test_what_is_written_plainly_is_read_and_nothing_is_run(host, files):
    config, findings, _ = read(host(files))
    assert config.ENABLE_CACHE_MANAGER
    assert config.CACHE_L1_MAX_SIZE_MB == 50
    for name in files:
        if files[name]:
            assert name in said(findings, "settings read")


@pytest.mark.usefixtures("nothing_is_run")
def test_the_shell_wins_over_the_environment_file_and_the_call_over_all(host):
    main = f"{START}async def main():\n    await initialize_phase4_services({{'POOL_MAX_SIZE': 9}})\n"
    root = host({".env": "POOL_MAX_SIZE=7\nCACHE_DEFAULT_TTL=5\n", "main.py": main})
    config, findings, _ = read(root, POOL_MAX_SIZE="8", CACHE_DEFAULT_TTL="6")
    assert (config.POOL_MAX_SIZE, config.CACHE_DEFAULT_TTL) == (9, 6)
    assert "the environment (CACHE_DEFAULT_TTL, POOL_MAX_SIZE)" in said(findings, "settings read")
    assert "main.py line 3" in said(findings, "start")


@pytest.mark.server
@pytest.mark.parametrize(
    "text",
    [
        "import os\nCACHE_L1_MAX_SIZE_MB = int(os.environ.get('MB', '50'))\n",
        "import os\nif os.name:\n    CACHE_L1_MAX_SIZE_MB = 50\n",
        "from own import *\n",
        "globals()['CACHE_L1_MAX_SIZE_MB'] = 50\n",
        "CACHE_L1_MAX_SIZE_MB = 25\nCACHE_L1_MAX_SIZE_MB += 25\n",
        "import sys\nprint('noise')\nsys.stderr.write('noise')\nCACHE_L1_MAX_SIZE_MB = 5 * 10\n",
    ],
)
def test_what_only_running_tells_is_run_apart(host, text):
    config, findings, _ = read(host({"config.py": text, "own.py": "CACHE_L1_MAX_SIZE_MB = 50\n"}))
    assert config.CACHE_L1_MAX_SIZE_MB == 50
    assert f"config.py by importing it with {sys.executable}" in said(findings, "settings read")
    assert "config" not in sys.modules


@pytest.mark.server
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("raise SystemExit('BOT_TOKEN is missing')\n", "BOT_TOKEN is missing"),
        ("import nowhere_to_be_found\n", "nowhere_to_be_found"),
        ("from bot import LOGGER\n", "cannot import name 'LOGGER'"),
        ("import time\ntime.sleep(3600)\n", "took more than"),
        ("import os\nos._exit(3)\n", "exit status 3"),
        ("from bot.other import x\n", "No module named 'bot.other'"),
    ],
)
def test_what_cannot_be_read_is_told_and_is_not_ready(host, monkeypatch, text, why):
    monkeypatch.setattr(project, "RUN_SECONDS", 2.0)
    text += "ENABLE_CACHE_MANAGER = True\nCACHE_L1_MAX_SIZE_MB = int('50')\n"
    config, findings, _ = read(host({"config.py": text}))
    assert config.ENABLE_CACHE_MANAGER, "what is written plainly counts"
    assert "CACHE_L1_MAX_SIZE_MB" in said(findings, "not read")
    assert why in said(findings, "not read")


@pytest.mark.server
def test_what_the_settings_start_does_not_outlive_the_check(host, tmp_path):
    text = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "CACHE_L1_MAX_SIZE_MB = int('50')\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(project, "RUN_SECONDS", 3.0)  # it holds the pipe that the answer comes by
        config, findings, _ = read(host({"config.py": text}))
    assert config.CACHE_L1_MAX_SIZE_MB == 50
    assert "by importing it" in said(findings, "settings read")
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def runs(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


CLASS = """
class Config:
    BOT_TOKEN = ""
    ENABLE_RATE_LIMITER = True
    CACHE_L1_MAX_SIZE_MB = 10

    @classmethod
    def load(cls):
        for name, value in vars(__import__("config")).items():
            setattr(cls, name, value)
"""


@pytest.mark.usefixtures("nothing_is_run")
@pytest.mark.parametrize("module", ["bot.core.config_manager", ".core.config_manager"])
def test_a_class_of_settings_that_the_call_names(host, module):
    named = f"from {module} import Config"
    main = f"{START}{named}\nasync def main():\n    await initialize_phase4_services(from_host=Config)\n"
    root = host(
        {
            "bot/__main__.py": main,
            "bot/core/config_manager.py": CLASS,
            "config.py": "CACHE_L1_MAX_SIZE_MB = 50\n",
        }
    )
    config, findings, _ = read(root)
    assert config.ENABLE_RATE_LIMITER
    assert config.CACHE_L1_MAX_SIZE_MB == 50, "its load() takes it from config.py"
    assert "bot/core/config_manager.py (Config) as written" in said(findings, "settings read")


@pytest.mark.usefixtures("nothing_is_run")
def test_settings_that_are_put_together_while_the_bot_runs_are_told(host):
    main = f"{START}async def main():\n    await initialize_phase4_services(settings_from_mongodb())\n"
    _, findings, _ = read(host({"main.py": main, "config.py": PLAIN}))
    assert "main.py line 3" in said(findings, "not read")


@pytest.mark.usefixtures("nothing_is_run")
def test_a_file_that_phase4_config_names(host):
    root = host({"config.py": "POOL_MAX_SIZE = 7\n", "deploy/prod.py": "POOL_MAX_SIZE = 9\n"})
    assert read(root, PHASE4_CONFIG="deploy/prod.py")[0].POOL_MAX_SIZE == 9
    _, findings, _ = read(root, PHASE4_CONFIG="deploy/none.py")
    assert any(f.state is State.FAIL and "PHASE4_CONFIG" in f.found for f in findings)


@pytest.mark.parametrize("text", ["def (", "\0", "x = '\\N{nothing}'"])
def test_a_file_that_is_no_python_fails(host, text):
    _, findings, _ = read(host({"config.py": text}))
    assert any(f.state is State.FAIL and "config.py cannot be read" in f.found for f in findings)


def test_a_folder_without_settings_fails(host):
    _, findings, _ = read(host({}))
    assert findings[0].state is State.FAIL
    assert "no settings in" in findings[0].found
    assert any("nothing in" in finding.found for finding in findings if finding.check == "start")


def test_what_phase4_calls_itself_is_no_start_of_the_bots(host):
    ours = "bot/integrations/services.py"
    root = host(
        {
            "config.py": "ENABLE_RATE_LIMITER = True\n",
            ours: (ROOT / ours).read_text(encoding="utf-8"),
            "bot/main.py": f"{START}async def main():\n    await initialize_phase4_services()\n",
        }
    )
    _, findings, _ = read(root)
    assert said(findings, "start") == "bot/main.py line 3 calls initialize_phase4_services"


def test_the_bots_own_interpreter_is_found(tmp_path):
    assert interpreter(tmp_path) == Path(sys.executable)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("")
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("")
    assert interpreter(tmp_path) == python


@pytest.mark.server
def test_the_command(host):
    def check(*arguments):
        return subprocess.run(
            [sys.executable, ROOT / "phase4.py", "check", *map(str, arguments)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    main = f"{START}async def main():\n    await initialize_phase4_services()\n"
    root = host({"config.py": PLAIN, "main.py": main})
    well = check("--project", root)
    assert well.returncode == 0, well.stdout
    assert "config.py as written" in well.stdout
    assert "ready to deploy" in well.stdout
    assert "1:secret" not in well.stdout + well.stderr
    (root / "config.py").write_text("POOL_MAX_SIZE = 'many'\n")
    wrong = check("--project", root)
    assert wrong.returncode == 1
    assert "POOL_MAX_SIZE = 'many'" in wrong.stdout
    (root / "config.py").write_text("ENABLE_CACHE_MANAGER = nowhere.to_be_found\n")
    unread = check("--project", root)
    assert "not known whether it is ready" in unread.stdout
    (root / "config.py").unlink()
    nothing = check("--project", root)
    assert nothing.returncode == 1
    assert "NOT ready" in nothing.stdout
    assert check("--project", root / "nowhere").returncode == 2
