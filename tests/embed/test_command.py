"""``phase4 embed``: a small payload put into bots, upgraded, taken out."""

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bot.embed import manifest as manifests
from bot.embed.manifest import FOLDER
from bot.embed.payload import REQUIREMENTS, SETTINGS, TESTS
from tests.embed.conftest import SMALL, contents, make

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("small_payload")]
"""Each run asks an interpreter for its version."""

CLASHING = {
    "bot/core/cache_manager.py": "class CacheManager: ...\n",
    "bot/modules/mirror.py": "from ..core import cache_manager\n",
}


def of_phase4(host):
    return {name: data for name, data in contents(host).items() if name in SMALL}


def test_a_bot_without_clashes_gets_all_and_keeps_its_own(bot, run):
    before = contents(bot)
    status, said = run(bot)
    assert status == 0
    after = contents(bot)
    assert {name: after[name] for name in before if name != "requirements.txt"} == {
        name: data for name, data in before.items() if name != "requirements.txt"
    }
    assert of_phase4(bot) == {**SMALL, "bot/core/__init__.py": before["bot/core/__init__.py"]}
    assert "9 files new" in said


def test_a_dry_run_touches_nothing(bot, run):
    before = contents(bot)
    status, said = run(bot, "--dry-run")
    assert (status, contents(bot)) == (0, before)
    assert "9 files new" in said
    assert "Nothing was touched" in said
    assert not (bot / FOLDER).exists()


def test_it_can_be_given_again(bot, run):
    run(bot)
    first = contents(bot)
    status, said = run(bot)
    assert (status, contents(bot)) == (0, first)
    assert "already" in said


def test_remove_leaves_the_bot_as_it_was(bot, run):
    before, folders = contents(bot), sorted(bot.rglob("*"))
    run(bot)
    status, said = run(bot, "--remove")
    assert (status, contents(bot)) == (0, before)
    assert sorted(bot.rglob("*")) == folders
    assert "9 files taken out" in said


def test_a_clash_stops_it_with_the_lines_that_import_it(bot, run):
    make(bot, CLASHING)
    before = contents(bot)
    status, said = run(bot)
    assert (status, contents(bot)) == (1, before)
    assert "bot/core/cache_manager.py: Phase 4's package bot/core/cache_manager/ would hide it" in said
    assert "bot/modules/mirror.py:1 imports bot.core.cache_manager" in said
    assert "git mv bot/core/cache_manager.py bot/core/own_cache_manager.py" in said
    assert not (bot / FOLDER).exists()


def test_replace_keeps_what_it_replaces_and_remove_puts_it_back(bot, run):
    make(bot, {**CLASHING, "bot/core/phase4_metrics.py": "mine\n"})
    before = contents(bot)
    assert run(bot, "--replace")[0] == 0
    assert not (bot / "bot/core/cache_manager.py").exists()
    assert (bot / "bot/core/phase4_metrics.py").read_bytes() == SMALL["bot/core/phase4_metrics.py"]
    assert run(bot)[0] == 0, "the clash is settled"
    assert run(bot, "--remove")[0] == 0
    assert contents(bot) == before


def test_names_that_would_break_are_named(bot, run):
    make(bot, {**CLASHING, "bot/modules/old.py": "from bot.core.cache_manager import CacheManager, Legacy\n"})
    assert "Phase 4's bot.core.cache_manager has no Legacy" in run(bot)[1]
    assert (
        "BREAKS: Phase 4's bot.core.cache_manager has no Legacy; see bot/modules/" in run(bot, "--replace")[1]
    )


def test_a_package_of_the_bots_is_replaced_whole(bot, run):
    make(
        bot, {"bot/core/cache_manager/__init__.py": "mine\n", "bot/core/cache_manager/redis.py": "mine too\n"}
    )
    before = contents(bot)
    assert run(bot)[0] == 1
    assert run(bot, "--replace")[0] == 0
    assert not (bot / "bot/core/cache_manager/redis.py").exists()
    assert run(bot, "--remove")[0] == 0
    assert contents(bot) == before


def test_a_package_that_would_hide_a_module_of_phase4(bot, run):
    make(bot, {"bot/core/phase4_metrics/__init__.py": "mine\n"})
    status, said = run(bot)
    assert status == 1
    assert "bot/core/phase4_metrics/: it would hide Phase 4's module" in said
    assert run(bot, "--replace")[0] == 0
    assert not (bot / "bot/core/phase4_metrics").exists()


def test_the_bots_settings_are_its_own(bot, run):
    make(bot, {SETTINGS: "ENABLE_CACHE_MANAGER = True\n"})
    before = contents(bot)
    status, said = run(bot)
    assert status == 0
    assert f"{SETTINGS}: the bot's own settings" in said
    assert (bot / SETTINGS).read_text() == "ENABLE_CACHE_MANAGER = True\n"
    run(bot, "--remove")
    assert contents(bot) == before


def test_the_guides_tests_can_be_left_out(bot, run):
    make(bot, {TESTS: "mine\n"})
    status, said = run(bot)
    assert status == 1
    assert "to keep it: --no-tests" in said
    assert run(bot, "--no-tests")[0] == 0
    assert (bot / TESTS).read_text() == "mine\n"


NEW = {
    **{name: data for name, data in SMALL.items() if name != "bot/integrations/aiogram.py"},
    "bot/core/cache_manager/l1.py": b"L1 = 2\n",
    "bot/core/cache_manager/l2.py": b"L2 = 2\n",
    "bot/core/phase4_metrics.py": b"METRICS = 2\n",
    REQUIREMENTS: b"msgspec>=0.21\n",
}
"""Version 2: one file new, one gone, three changed."""


class TestUpgrade:
    def test_what_was_installed_becomes_the_new_version(self, bot, run, small_payload):
        before = contents(bot)
        run(bot)
        small_payload(NEW, "2")
        status, said = run(bot)
        assert status == 0
        assert "1 file new" in said
        assert "3 files upgraded" in said
        assert "1 file deleted" in said
        assert of_phase4(bot)["bot/core/cache_manager/l1.py"] == b"L1 = 2\n"
        assert not (bot / "bot/integrations/aiogram.py").exists()
        assert "msgspec>=0.21" in (bot / "requirements.txt").read_text()
        assert "psutil" not in (bot / "requirements.txt").read_text()
        run(bot, "--remove")
        assert contents(bot) == before

    def test_what_was_changed_by_hand_is_left_and_named(self, bot, run, small_payload):
        run(bot)
        make(
            bot,
            {
                "bot/core/cache_manager/l1.py": "L1 = 'mine'\n",
                "bot/integrations/aiogram.py": "mine\n",
                SETTINGS: "set = 1\n",
            },
        )
        small_payload(NEW, "2")
        status, said = run(bot)
        assert status == 0
        assert "bot/core/cache_manager/l1.py" in said
        assert "no longer part of Phase 4, left:\n    bot/integrations/aiogram.py" in said
        assert f"{SETTINGS}: your settings, kept" in said
        assert (bot / "bot/core/cache_manager/l1.py").read_text() == "L1 = 'mine'\n"
        status, said = run(bot, "--remove")
        assert (status, "Changed by hand, and left:" in said) == (0, True)
        assert (bot / "bot/core/cache_manager/l1.py").exists()
        assert (bot / "bot/integrations/aiogram.py").exists()
        assert (bot / SETTINGS).read_text() == "set = 1\n"
        assert not (bot / "phase4.py").exists()

    def test_replace_takes_the_new_one_and_keeps_the_edit(self, bot, run, small_payload):
        run(bot)
        make(bot, {"bot/core/cache_manager/l1.py": "L1 = 'mine'\n", SETTINGS: "set = 1\n"})
        small_payload(NEW, "2")
        assert run(bot, "--replace")[0] == 0
        assert (bot / "bot/core/cache_manager/l1.py").read_bytes() == b"L1 = 2\n"
        assert (bot / SETTINGS).read_text() == "set = 1\n", "settings are never replaced"
        assert (bot / FOLDER / "edited/bot/core/cache_manager/l1.py").read_text() == "L1 = 'mine'\n"
        assert f"{FOLDER}/ stays: it has files of yours" in run(bot, "--remove")[1]

    def test_a_file_that_was_deleted_is_put_back(self, bot, run):
        run(bot)
        (bot / "bot/core/cache_manager/l1.py").unlink()
        assert "1 file put back" in run(bot)[1]
        assert (bot / "bot/core/cache_manager/l1.py").exists()

    def test_a_file_that_a_power_failure_left_empty_is_written_again(self, bot, run):
        run(bot)
        (bot / "bot/core/cache_manager/l1.py").write_bytes(b"")
        assert "1 file upgraded" in run(bot)[1]
        assert (bot / "bot/core/cache_manager/l1.py").read_bytes() == SMALL["bot/core/cache_manager/l1.py"]

    def test_a_checkout_with_windows_line_ends_is_not_a_change(self, bot, run, small_payload):
        run(bot)
        for name in SMALL:
            path = bot / name
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        assert "changed by hand" not in run(bot)[1]
        small_payload(NEW, "2")
        assert "changed by hand" not in run(bot)[1]

    def test_a_module_that_an_update_of_the_bot_brought_back(self, bot, run):
        make(bot, CLASHING)
        run(bot, "--replace")
        make(bot, {"bot/core/cache_manager.py": "newer\n"})
        assert run(bot)[0] == 1
        assert run(bot, "--replace")[0] == 0
        assert (bot / FOLDER / "replaced/bot/core/cache_manager.py").read_text() == "newer\n"
        assert (bot / FOLDER / "replaced/bot/core/cache_manager.py.1").exists(), "the older one is not lost"


class TestRequirements:
    def test_only_what_the_bot_does_not_name_is_added(self, bot, run):
        make(bot, {"requirements.txt": "PSUTIL\nflask"})
        run(bot)
        lines = (bot / "requirements.txt").read_text().splitlines()
        assert lines[:2] == ["PSUTIL", "flask"]
        assert "msgspec>=0.20" in lines
        assert not [line for line in lines[2:] if line.startswith(("psutil", "pytest"))]

    @pytest.mark.parametrize(
        "text", ["", "flask", "flask\n", "flask\r\nredis", "\ufeffflask\n", "caf\udce9\n"]
    )
    def test_remove_restores_the_file_to_the_byte(self, bot, run, text):
        path = bot / "requirements.txt"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        before = path.read_bytes()
        run(bot)
        assert path.read_bytes() != before
        run(bot, "--remove")
        assert path.read_bytes() == before

    def test_a_version_that_cannot_go_with_ours_is_told(self, bot, run):
        make(bot, {"requirements.txt": "-r base.in\n", "base.in": "psutil==5.9.8  # old\n"})
        said = run(bot)[1]
        assert "conflict: base.in asks for psutil==5.9.8, Phase 4 needs psutil>=7.0" in said

    def test_the_file_may_lie_elsewhere(self, bot, run):
        (bot / "requirements.txt").unlink()
        make(bot, {"config/requirements.txt": "flask\n", "other.txt": "flask\n"})
        run(bot)
        assert "msgspec" in (bot / "config/requirements.txt").read_text()
        run(bot, "--remove")
        run(bot, "--requirements", "other.txt")
        assert "msgspec" in (bot / "other.txt").read_text()
        assert run(bot, "--requirements", "none.txt")[0] == 2

    def test_pyproject_is_told_and_not_written(self, bot, run):
        text = '[project]\nname = "x"\ndependencies = ["psutil<7"]\n'
        make(bot, {"pyproject.toml": text})
        said = run(bot)[1]
        assert "pyproject.toml is not written to. Add to its dependencies:\n    msgspec>=0.20" in said
        assert "conflict: pyproject.toml asks for psutil<7" in said
        assert (bot / "pyproject.toml").read_text() == text

    def test_lines_that_were_changed_by_hand_are_left(self, bot, run):
        run(bot)
        path = bot / "requirements.txt"
        path.write_text(path.read_text().replace("msgspec>=0.20", "msgspec==0.20.1"))
        assert "were changed by hand and are left as they are" in run(bot)[1]
        assert "requirements.txt: Phase 4's lines were changed by hand" in run(bot, "--remove")[1]
        assert "msgspec==0.20.1" in path.read_text()

    def test_utf_16_is_refused(self, bot, run):
        (bot / "requirements.txt").write_text("flask\n", encoding="utf-16")
        assert "UTF-16" in run(bot)[1]
        assert not (bot / FOLDER).exists()


class TestHosts:
    def test_no_folder(self, tmp_path, run):
        assert run(tmp_path / "nowhere") == (2, f"{tmp_path}/nowhere: no such folder\n")
        make(tmp_path, {"file": ""})
        assert run(tmp_path / "file")[0] == 2

    def test_a_module_bot(self, tmp_path, run):
        make(tmp_path, {"bot.py": ""})
        status, said = run(tmp_path)
        assert (status, "Rename bot.py" in said, "pip install" in said) == (2, True, True)

    def test_a_module_beside_the_package(self, bot, run):
        make(bot, {"bot.py": ""})
        assert run(bot)[0] == 2

    def test_a_package_of_another_name(self, tmp_path, run):
        make(tmp_path, {"mirror/__init__.py": ""})
        status, said = run(tmp_path)
        assert (status, "it has mirror" in said, "pip install" in said) == (2, True, True)

    def test_the_package_instead_of_its_folder(self, bot, run):
        assert f"HOST is the folder above it: {bot}" in run(bot / "bot")[1]

    def test_this_repository(self, run):
        root = Path(__file__).resolve().parents[2]
        status, said = run(root)
        assert (status, "Phase 4's own folder" in said) == (2, True)

    def test_the_same_through_a_link(self, tmp_path, run):
        (tmp_path / "link").symlink_to(Path(__file__).resolve().parents[2])
        assert run(tmp_path / "link")[0] == 2

    def test_a_name_with_spaces_and_cyrillic_letters(self, tmp_path, bot, run):
        host = bot.rename(tmp_path / "мой бот 2")
        before = contents(host)
        assert run(host)[0] == 0
        assert run(host, "--remove")[0] == 0
        assert contents(host) == before

    def test_a_link_to_the_bot_is_the_bot(self, tmp_path, bot, run):
        (tmp_path / "link").symlink_to(bot)
        assert run(tmp_path / "link")[0] == 0
        assert (bot / "phase4.py").exists()

    def test_a_package_that_is_a_link_to_elsewhere(self, tmp_path, bot, run):
        (bot / "bot/core").rename(tmp_path / "shared")
        (bot / "bot/core").symlink_to(tmp_path / "shared")
        status, said = run(bot)
        assert (status, "outside" in said) == (2, True)

    def test_a_folder_of_ours_that_is_a_link_to_elsewhere(self, tmp_path, bot, run):
        (tmp_path / "shared").mkdir()
        (bot / "bot/core/cache_manager").symlink_to(tmp_path / "shared")
        status, said = run(bot)
        assert (status, "outside" in said) == (2, True)
        assert list((tmp_path / "shared").iterdir()) == []

    def test_a_file_that_is_a_link_is_a_clash(self, tmp_path, bot, run):
        make(tmp_path, {"elsewhere.py": "theirs\n"})
        (bot / "phase4.py").symlink_to(tmp_path / "elsewhere.py")
        status, said = run(bot)
        assert (status, "phase4.py: a link of the bot's" in said) == (1, True)
        assert run(bot, "--replace")[0] == 0
        assert (tmp_path / "elsewhere.py").read_text() == "theirs\n"
        run(bot, "--remove")
        assert (bot / "phase4.py").is_symlink()

    def test_a_requirements_file_that_is_a_link_stays_one(self, bot, run):
        (bot / "requirements.txt").rename(bot / "real.txt")
        (bot / "requirements.txt").symlink_to("real.txt")
        run(bot)
        assert (bot / "requirements.txt").is_symlink()
        assert "msgspec" in (bot / "real.txt").read_text()

    def test_an_interpreter_that_is_too_old_or_none(self, bot, tmp_path, run):
        old = make(tmp_path, {"old": "#!/bin/sh\necho '[3, 9, 1]'\n"}) / "old"
        old.chmod(0o755)
        status, said = run(bot, "--python", str(old))
        assert (status, "3.11 or later" in said, "3.9.1" in said) == (2, True, True)
        assert run(bot, "--python", str(bot / "requirements.txt"))[0] == 2
        assert run(bot, "--python", str(tmp_path / "none"))[0] == 2
        assert not (bot / FOLDER).exists()

    def test_a_bot_that_was_not_given_phase4(self, bot, run):
        status, said = run(bot, "--remove")
        assert (status, "was not put there by this command" in said) == (1, True)


class TestAccidents:
    def test_two_runs_at_once(self, bot, run):
        (bot / FOLDER).mkdir()
        holder = (
            "import sys; from pathlib import Path; from bot.embed.manifest import only_run\n"
            "with only_run(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", holder, str(bot)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        ) as other:  # fmt: skip
            assert other.stdout.readline() == "held\n"
            status, said = run(bot)
            assert (status, "another run is at work" in said) == (1, True)
            assert not (bot / "phase4.py").exists()
            other.kill()
        assert run(bot)[0] == 0, "a run that died holds nothing"

    @pytest.mark.parametrize("what", ["install", "upgrade", "remove"])
    def test_a_crash_at_any_step_is_mended_by_the_next_run(
        self, tmp_path, run, small_payload, monkeypatch, what
    ):
        """Each step that changes a name in the folder fails in turn, as if the process had died there."""
        mine = {**CLASHING, "bot/core/phase4_metrics.py": "mine\n", "requirements.txt": "flask"}
        for step in range(1, 100):
            host = make(tmp_path / f"{step}", {"bot/__init__.py": "", **mine})
            before = contents(host)
            small_payload(SMALL, "1")
            if what != "install":
                run(host, "--replace")
            if what == "upgrade":
                small_payload(NEW, "2")
            with monkeypatch.context() as patch:
                died = fail_at(patch, step)
                with contextlib.suppress(Died):
                    run(host, {"install": "--replace", "upgrade": "--no-tests", "remove": "--remove"}[what])
            if not died():
                break
            if what != "remove":
                begun = manifests.load(host) is not None
                status, said = run(host, *([] if begun else ["--replace"]))
                assert (status, "by hand" in said) == (0, False), "--replace was given once"
                expected = SMALL if what == "install" else NEW
                assert {name: (host / name).read_bytes() for name in expected} == expected
                assert manifests.load(host).state == "installed"
            run(host, "--remove")
            assert contents(host) == before
        assert step > 8

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
    def test_a_disk_that_refuses(self, bot, run, monkeypatch, number):
        before = contents(bot)
        with monkeypatch.context() as patch:
            real = Path.replace

            def refuse(self, target):
                if Path(target).name == "l1.py":
                    raise OSError(number, os.strerror(number), str(target))
                return real(self, target)

            patch.setattr(Path, "replace", refuse)
            status, said = run(bot)
        assert status == 1
        assert os.strerror(number) in said
        assert "l1.py" in said
        assert run(bot)[0] == 0
        run(bot, "--remove")
        assert contents(bot) == before

    def test_a_folder_that_cannot_be_written_to(self, bot, run, monkeypatch):
        locked = str(bot / "bot/core")
        monkeypatch.setattr("bot.embed.command.os.access", lambda path, mode: str(path) != locked)
        assert run(bot) == (1, f"No file can be written to {locked}: nothing was touched\n")
        assert not (bot / FOLDER).exists()

    def test_a_reader_that_has_seen_enough(self, bot):
        code = (
            "import os, sys; sys.path.insert(0, sys.argv[1]); from bot.embed import command; "
            "command._prove = lambda host, look: 0; from bot.embed.__main__ import main; "
            "read, write = os.pipe(); os.close(read); os.dup2(write, 1); sys.exit(main(sys.argv[2:]))"
        )
        arguments = [str(Path(__file__).resolve().parents[2]), str(bot)]
        shown = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
        )
        assert (shown.returncode, shown.stderr) == (0, "")
        assert (bot / "phase4.py").exists()

    def test_a_terminal_of_another_alphabet(self, bot):
        host = bot.rename(bot.parent / "мой бот")
        shown = subprocess.run(
            [sys.executable, "-m", "bot.embed", str(host), "--dry-run"],
            capture_output=True, check=False, cwd=Path(__file__).resolve().parents[2],
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )  # fmt: skip
        assert (shown.returncode, shown.stderr) == (0, b"")
        assert b"Nothing was touched" in shown.stdout

    def test_a_disk_that_is_full_before(self, bot, run, monkeypatch):
        monkeypatch.setattr("bot.embed.command.shutil.disk_usage", lambda path: type("", (), {"free": 10}))
        status, said = run(bot)
        assert (status, "are needed" in said) == (1, True)
        assert not (bot / "phase4.py").exists()

    @pytest.mark.parametrize(
        "text",
        [
            "{",
            "[]",
            '{"format": 99}',
            '{"format": 1, "block": null, "files": {"../../etc/passwd": ["x"]}}',
            '{"format": 1, "block": null, "replaced": {"/etc/passwd": "x"}}',
            '{"format": 1, "block": {"file": "../x", "text": "", "ended_line": false}}',
        ],
    )
    def test_a_manifest_that_cannot_be_trusted(self, bot, run, text):
        make(bot, {f"{FOLDER}/manifest.json": text})
        before = contents(bot)
        for arguments in ([], ["--remove"], ["--replace"]):
            status, said = run(bot, *arguments)
            assert (status, "manifest.json" in said) == (1, True)
            assert contents(bot) == before


class Died(BaseException):
    """The process is gone."""


def fail_at(patch, step):
    """The step-th change of a name from now on does not happen; returns whether it came to that."""
    count = 0
    real = {name: getattr(Path, name) for name in ("replace", "unlink", "rmdir")}

    def counted(name):
        def change(self, *args, **options):
            nonlocal count
            if name != "unlink" or self.name != "unfinished":
                count += 1
                if count >= step:
                    raise Died
            return real[name](self, *args, **options)

        return change

    for name in real:
        patch.setattr(Path, name, counted(name))
    return lambda: count >= step
