"""``python -m bot.core.query_optimizer``: what it prints and how it exits."""

import io
import json
import subprocess
import sys

import pytest

from bot.core.query_optimizer.__main__ import main
from bot.core.query_optimizer.advice.report import analyse_scripts, statements_of

SCRIPT = """-- what the bot runs
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE INDEX users_name ON users (name);

SELECT id FROM users WHERE name = ?;
/* gone */ DELETE FROM users;
SELECT id
  FROM users
 WHERE lower(name) = 'x'
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "bot.sql"
    path.write_text(SCRIPT)
    return str(path)


def test_a_report_for_people(script, capsys):
    assert main([script]) == 1
    shown = capsys.readouterr().out
    assert f"{script}:6: DELETE FROM users" in shown
    assert "  6: error Q002 [delete-without-where] DELETE of every row of users." in shown
    assert "  9: warning Q005 [function-on-column] LOWER() on name" in shown, "the line of the file"
    assert "index:" not in shown, "the file creates the index that would be suggested"
    assert shown.endswith("5 statements: 1 error, 1 warning, 0 info\n")


def test_a_report_for_programs(script, capsys):
    assert main([script, "--format", "json", "--dialect", "sqlite"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == {"info": 0, "warning": 1, "error": 1}
    last = told["statements"][-1]
    assert (last["line"], last["query_type"], last["tables"]) == (7, "select", ["users"])
    assert [(f["code"], f["line"]) for f in last["findings"]] == [("Q005", 9)]


@pytest.mark.parametrize(
    ("query", "fail_on", "status"),
    [
        ("DELETE FROM t", "error", 1),
        ("DELETE FROM t", "never", 0),
        ("SELECT a FROM t WHERE lower(b) = ?", "error", 0),
        ("SELECT a FROM t WHERE lower(b) = ?", "warning", 1),
        ("SELECT * FROM t WHERE b = 1", "warning", 0),
        ("SELECT * FROM t WHERE b = 1", "info", 1),
        ("SELECT a FROM t WHERE b = 1", "info", 0),
        ("", "info", 0),
        ("SELEC * FORM t", "warning", 1),
        ("SELEC * FORM t", "error", 0),
    ],
)
def test_the_exit_status_is_for_ci(query, fail_on, status, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(query))
    assert main(["--fail-on", fail_on]) == status


def test_what_is_ignored_does_not_fail(script, capsys):
    assert main([script, "--ignore", "q002, Q005", "--fail-on", "info"]) == 0
    assert "Q00" not in capsys.readouterr().out


def test_a_code_to_ignore_that_no_rule_has(script, capsys):
    assert main([script, "--ignore", "Q002,ZZZ"]) == 2
    assert "no rule has the code ZZZ" in capsys.readouterr().err
    assert main([script, "--ignore", "q000,Q002"]) == 0


def test_one_statement_is_one(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT 1"))
    assert main([]) == 0
    assert capsys.readouterr().out == "1 statement: 0 errors, 0 warnings, 0 info\n"


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main([str(tmp_path / "none.sql")]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.server
def test_it_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "bot.core.query_optimizer", "-"],
        input="UPDATE t SET a = 1", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Q001" in done.stdout


def test_indexes_of_one_file_are_known_to_the_others(tmp_path, capsys):
    tables, queries = tmp_path / "a.sql", tmp_path / "b.sql"
    tables.write_text("CREATE TABLE t (a INT, b INT NOT NULL); CREATE UNIQUE INDEX i ON t (a, b); -- done\n")
    queries.write_text(
        "SELECT 1 FROM t WHERE a = 1 AND b = 2; SELECT 1 FROM u WHERE x NOT IN (SELECT b FROM t)"
    )
    assert main([str(queries), str(tables), "--fail-on", "info"]) == 0
    assert "2 statements" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        (" ; ;; -- nothing\n", []),
        ("SELECT 1", [1]),
        ("-- one\nSELECT 1;\n\n-- two\nSELECT ';' ;SELECT 3", [2, 5, 5]),
        ("SELECT 1;\nSELECT 1;\nSELECT 1;", [1, 2, 3]),
    ],
)
def test_a_script_is_split_with_its_lines(text, lines):
    assert [line for line, _ in statements_of(text)] == lines


def codes(text, dialect="postgres"):
    return [
        finding.code for found in analyse_scripts([text], dialect)[0] for finding in found.advice.findings
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "COMMENT ON TABLE users IS 'Who talks to the bot'",
        "COMMENT ON COLUMN users.name IS $$The user's name$$",
        "GRANT SELECT ON users TO bot",
        "REVOKE ALL ON users FROM public",
    ],
)
def test_statements_about_tables_are_read(statement):
    assert codes(statement) == []


def test_a_table_that_gets_its_key_under_its_final_name_has_one():
    script = "CREATE TABLE new_users (name TEXT); DROP TABLE users; ALTER TABLE new_users RENAME TO users;"
    assert codes(script) == ["Q036"]
    assert codes(script + "CREATE UNIQUE INDEX users_name ON users (name);") == []


JOINED = """
CREATE TABLE users (id INT PRIMARY KEY, status TEXT);
CREATE TABLE files (id INT PRIMARY KEY, user_id INT, size INT, {more} TEXT);
SELECT name FROM users JOIN files ON user_id = users.id WHERE {condition};
"""


@pytest.mark.parametrize(
    ("more", "condition", "suggested"),
    [
        pytest.param(
            "name", "status = 'on'", {("users", ("status",)), ("files", ("user_id",))}, id="each its own"
        ),
        pytest.param("status", "status = 'on'", {("files", ("user_id",))}, id="both have it"),
        pytest.param("name", "stat = 'on'", {("files", ("user_id",))}, id="none has it"),
    ],
)
def test_columns_without_a_qualifier_belong_where_the_scripts_say(more, condition, suggested):
    found = analyse_scripts([JOINED.format(more=more, condition=condition)], "postgres")[0]
    assert {(s.table, s.columns) for s in found[-1].advice.index_suggestions} == suggested


def test_a_column_may_be_of_a_table_that_no_script_creates():
    script = "CREATE TABLE users (id INT PRIMARY KEY, status TEXT);"
    script += "SELECT 1 FROM users JOIN others ON others.id = users.id WHERE status = 'on';"
    assert analyse_scripts([script], "")[0][-1].advice.index_suggestions == ()


@pytest.mark.server
@pytest.mark.parametrize("options", [[], ["--format", "json"]])
def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path, options):
    path = tmp_path / "long.sql"
    path.write_text("DELETE FROM downloads;\n" * 2_000)
    command = subprocess.Popen(
        [sys.executable, "-m", "bot.core.query_optimizer", str(path), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    command.stdout.read(10)
    command.stdout.close()
    assert command.stderr.read() == b""
    command.stderr.close()
    assert command.wait(30) == 1
