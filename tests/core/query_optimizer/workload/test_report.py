"""``phase4 sql`` of logs, as a program: what it prints, and that it prints no value of a statement."""

import argparse
import gzip
import io
import json
import sys
from pathlib import Path

import pytest

from bot.core.query_optimizer.__main__ import main
from bot.core.query_optimizer.workload.command import address_of
from bot.core.query_optimizer.workload.executions import SourceError
from bot.core.query_optimizer.workload.wording import duration, size_of

SAMPLES = Path(__file__).parent / "samples"
SLOW = str(SAMPLES / "mariadb-10.11-slow.log")


@pytest.mark.parametrize("path", sorted(map(str, SAMPLES.iterdir())), ids=lambda path: Path(path).name)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_no_value_is_printed_unless_it_is_asked_for(path, form, capsys):
    main([path, *form, "--top", "100"])
    shown = capsys.readouterr().out
    assert "users" in shown
    assert "MARK" not in shown
    assert "secret" not in shown
    main([path, *form, "--top", "100", "--literals"])
    assert "MARK" in capsys.readouterr().out


def test_what_takes_most_time_comes_first(capsys):
    assert main([SLOW, "--top", "2"]) == 0
    shown = capsys.readouterr().out
    assert "slow query log, 8 statements" in shown
    assert "  1. UPDATE users SET lang = ? WHERE email = ?" in shown
    assert "  2. SELECT count ( * ) FROM users WHERE created_at > ? AND lang IN ( ? )" in shown
    assert "  3. " not in shown
    assert "there is no evidence" in shown
    assert "saves" not in shown
    assert "CREATE INDEX idx_users_email_lang ON users (email, lang);" in shown, "one index for three shapes"
    assert "no --url" in shown


def test_a_script_beside_a_log_tells_the_tables(tmp_path, capsys):
    script = tmp_path / "schema.sql"
    script.write_text(
        "CREATE TABLE users (id INT PRIMARY KEY, email TEXT); CREATE INDEX e ON users (email, lang);"
    )
    assert main([SLOW, str(script), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["statements"]) == 2
    ddls = [each["ddl"] for each in told["workload"]["indexes_without_evidence"]]
    assert not any("(email, lang)" in ddl for ddl in ddls), "it exists"
    assert told["workload"]["calls"] == 8
    first = told["workload"]["shapes"][0]
    assert (first["calls"], first["saved_seconds"], first["evidence"]) == (1, 0, [])


def test_a_log_on_standard_input(monkeypatch, capsys):
    packed = gzip.compress(Path(SLOW).read_bytes())
    stdin = argparse.Namespace(buffer=io.BufferedReader(io.BytesIO(packed)))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["-"]) == 0
    assert "Workload: stdin (MySQL slow query log, 8 statements)" in capsys.readouterr().out


def test_findings_in_a_log_count_for_the_exit_status(tmp_path, capsys):
    log = tmp_path / "pg.log"
    log.write_text("2026-11-28 00:41:08 UTC [1] LOG:  duration: 9 ms  statement: DELETE FROM users\n")
    assert main([str(log)]) == 1
    assert "error Q002 [delete-without-where]" in capsys.readouterr().out
    assert main([str(log), "--ignore", "Q002"]) == 0
    assert main([str(log), "--fail-on", "never"]) == 0


def test_n_plus_one_in_a_log(tmp_path, capsys):
    lines = [
        f"2026-11-28 00:41:08.{number:03} UTC [77] bot@main LOG:  duration: 0.5 ms  "
        f"statement: SELECT title FROM users WHERE id = {number + 4000}\n"
        for number in range(200)
    ]
    log = tmp_path / "pg.log"
    log.write_text("".join(lines))
    assert main([str(log)]) == 0
    shown = capsys.readouterr().out
    assert "N+1: 1 run of up to 200 different values on one connection, 200 statements in all." in shown
    assert "Use one query: SELECT id , title FROM users WHERE id IN ( ? , ? , ... )" in shown
    assert "4000" not in shown


def test_no_control_character_reaches_the_terminal(tmp_path, capsys):
    log = tmp_path / "pg.log"
    log.write_text('2026-11-28 00:41:08 UTC [1] LOG:  duration: 9 ms  statement: SELECT "a\x1b[2Jb" FROM t\n')
    assert main([str(log)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_of_one_database(capsys):
    path = str(SAMPLES / "mysql-8.0-slow.log")
    assert main([path, "--database", "bot", "--user", "other"]) == 0
    shown = capsys.readouterr().out
    assert "1 statements)" in shown
    assert "1 statements are of other databases or users" in shown


def test_a_log_without_times_says_what_to_set(tmp_path, capsys):
    log = tmp_path / "pg.log"
    log.write_text("2026-11-28 00:41:08 UTC [1] LOG:  checkpoint starting: time\n")
    assert main([str(log)]) == 0
    assert "log_min_duration_statement" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--url", "oracle://x/y"], "oracle://, but it may be postgresql:// or mysql://"),
        (["--url", "env:PHASE4_NOT_THERE"], "the environment has no PHASE4_NOT_THERE"),
        (["--url", "postgresql://bot:sekret@127.0.0.1:1/x"], "postgresql://***@127.0.0.1:1/x: Connection"),
        (["none.log"], "none.log: No such file"),
        ([SLOW, "--encoding", "klingon"], "--encoding: 'klingon'"),
    ],
)
def test_bad_sources(arguments, said, capsys):
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "sekret" not in told


@pytest.mark.parametrize(
    "arguments", [["--top", "0"], ["--max-indexes", "x"], ["--timeout", "0"], ["--unused-after", "nan"]]
)
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main([SLOW, *arguments])
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_url_of_the_environment(monkeypatch):
    monkeypatch.setenv("PHASE4_TEST_ADDRESS", "mysql://h/d")
    assert address_of("env:PHASE4_TEST_ADDRESS") == "mysql://h/d"
    assert address_of("mysql://h/d") == "mysql://h/d"
    with pytest.raises(SourceError):
        address_of("env:")


def test_numbers_for_people():
    assert [duration(each) for each in (0.00123, 5, 600, 7_300, 400_000)] == [
        "1.23 ms", "5.0 s", "10 min", "2.0 h", "4.6 days",
    ]  # fmt: skip
    assert [size_of(each) for each in (12, 4096, 5 << 20, 3 << 30)] == ["12 B", "4 kB", "5 MB", "3.0 GB"]
