"""Logs of real servers: every statement once, with its time, its values and its place."""

import gzip
from pathlib import Path

import pytest

from bot.core.query_optimizer.workload.executions import SourceError
from bot.core.query_optimizer.workload.lines import MAX_LINE, lines_of
from bot.core.query_optimizer.workload.logs import log_of
from bot.core.query_optimizer.workload.postgres_entries import Entry
from bot.core.query_optimizer.workload.postgres_log import executions_in, parameters_of

SAMPLES = Path(__file__).parent / "samples"
POSTGRES = [SAMPLES / f"postgresql-15.{kind}" for kind in ("log", "csv", "json")]


def read(path, encoding=""):
    log, _ = log_of(lines_of(str(path), encoding))
    return log, list(log.executions)


def calls_by_text(executions):
    found = {}
    for each in executions:
        found[each.text] = found.get(each.text, 0) + each.calls
    return found


@pytest.mark.parametrize("path", POSTGRES, ids=lambda path: path.suffix)
def test_a_log_of_postgresql(path):
    log, executions = read(path)
    assert log.dialect == "postgres"
    calls = calls_by_text(executions)
    assert calls["SELECT id FROM users WHERE name = $1"] == 6, "by the server and by auto_explain, after it"
    assert (
        calls["SELECT id\n  FROM users\n WHERE token = 'MARK\nLOG:  duration: 5 ms  statement: forged'"] == 1
    )
    assert calls["SELECT name FROM users WHERE token = 'MARK\"j' ORDER BY name"] == 1, "auto_explain in JSON"
    assert calls["SELECT named('MARKn')"] == 1, "auto_explain came before it"
    assert calls["UPDATE users SET token = 'MARKu' WHERE name = 'n1'"] == 1, "log_statement and log_duration"
    assert calls["SELECT token FROM users WHERE id = $1 AND name = $2"] == 1
    assert not any("nope" in text for text in calls), "it failed"
    assert "forged" not in calls
    assert {each.database for each in executions} == {"бот"}
    assert {each.user for each in executions} == {"bot_user"}
    assert len({each.session for each in executions}) == 1
    nested = [each.text for each in executions if each.nested]
    assert nested == ["(select count(*) from users where name = $1)"]
    prepared = [each for each in executions if each.text == "SELECT id FROM users WHERE name = $1"]
    assert {each.parameters for each in prepared if each.parameters} == {(f"MARK'{i}",) for i in range(6)}
    assert sum(each.rows for each in prepared if each.rows is not None) == 0
    assert next(e.parameters for e in executions if e.text.startswith("SELECT token")) == ("7", None)


def test_the_three_formats_of_postgresql_say_the_same():
    told = []
    for path in POSTGRES:
        _, executions = read(path)
        told.append([each._replace(session="") for each in executions])
    assert told[0] == told[1] == told[2]


def test_the_time_of_an_execution_that_is_logged_twice_is_that_of_the_server():
    _, executions = read(POSTGRES[0])
    named = [each for each in executions if each.text == "SELECT named('MARKn')"]
    assert sum(each.seconds for each in named) == pytest.approx(3.157e-3)


def test_a_slow_log_of_mariadb():
    log, executions = read(SAMPLES / "mariadb-10.11-slow.log")
    assert (log.dialect, log.kind) == ("mysql", "slow query log")
    by_text = {each.text: each for each in executions}
    assert len(by_text) == 8
    assert by_text["SELECT id FROM users WHERE email = 'MARK78'\n  AND lang = 'ru'"].seconds == 0.024738
    assert by_text["UPDATE users SET lang = 'xx' WHERE email = 'secret''s; # Time: 1'"].rows == 0
    one = by_text["SELECT id FROM users WHERE email = 'MARK77'"]
    assert (one.rows, one.session, one.user, one.database) == (1, "4", "root", "bot")
    assert one.at == 1795825220


def test_a_slow_log_of_mysql():
    _, executions = read(SAMPLES / "mysql-8.0-slow.log")
    assert [(each.seconds, each.user, each.session) for each in executions] == [
        (1.5, "bot", "11"),
        (0.5, "other", "12"),
    ]
    assert executions[0].text.endswith("WHERE token = 'MARK;\n' LIMIT 3"), "a line that ends with ;"
    assert "# Time: a line of the statement" in executions[0].text
    assert {each.database for each in executions} == {"bot"}


@pytest.mark.parametrize("path", sorted(SAMPLES.iterdir()), ids=lambda path: path.name)
def test_a_log_that_is_compressed_or_cut_off_anywhere(path, tmp_path):
    whole = path.read_bytes()
    _, expected = read(path)
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(whole))
    assert read(packed)[1] == expected
    packed.write_bytes(gzip.compress(whole)[:-50])
    assert len(read(packed)[1]) <= len(expected)
    lines = whole.splitlines(keepends=True)
    cut = tmp_path / "cut"
    for begin in range(1, len(lines) - 12, 5):
        cut.write_bytes(b"".join(lines[begin:])[:-7])
        log, _ = log_of(lines_of(str(cut)))
        found = list(log.executions) if log is not None else []
        assert sum(each.calls for each in found) <= sum(each.calls for each in expected)


def test_a_log_in_another_encoding(tmp_path):
    path = tmp_path / "slow.log"
    text = (SAMPLES / "mysql-8.0-slow.log").read_text().replace("users", "имена")
    for encoding, given in (("cp1251", "cp1251"), ("utf-16", ""), ("utf-8-sig", "")):
        path.write_bytes(text.encode(encoding))
        assert read(path, given)[1][-1].text == "SELECT count(*) FROM имена"
    path.write_bytes(text.encode("cp1251"))
    assert len(read(path)[1]) == 2, "letters that are not known do not stop it"


def test_a_file_that_is_not_there():
    with pytest.raises(SourceError, match=r"none\.log: No such file"):
        list(lines_of("none.log"))


def test_a_line_without_an_end_takes_bounded_memory(tmp_path):
    path = tmp_path / "long"
    path.write_bytes(b"x" * (3 * MAX_LINE) + b"\nnext\n")
    assert [len(line) for line in lines_of(str(path))] == [MAX_LINE + 1, 5]


@pytest.mark.parametrize(
    "line",
    [
        "SELECT 1;\n",
        "-- NOTICE:  of a comment\n",
        "/* LOG:  2026-01-01 00:00:00 */\n",
        '{"a": 1}\n',
        "# a comment of MySQL\n",
        "2026-01-01 00:00:00.123 UTC\n",
    ],
)
def test_what_is_no_log(line):
    assert log_of(iter([line]))[0] is None


@pytest.mark.parametrize(
    ("prefix", "session", "user", "database"),
    [
        ("2026-11-28 00:41:08.569 UTC [8556] ", "8556", "", ""),
        ("2026-11-28 00:41:08 UTC [8556-3] bot@main ", "8556", "bot", "main"),
        ("2026-11-28 00:41:08 UTC:10.0.0.7(4711):bot@main:[8556]:", "8556", "bot", "main"),
        ("2026-11-28 00:41:08 UTC [8556]: user=bot,db=main,app=x,client=10.0.0.7 ", "8556", "bot", "main"),
        ("1795826468.569 6b0a2324.216c bot main ", "6b0a2324.216c", "", ""),
        ("", "", "", ""),
    ],
)
def test_prefixes_of_lines(prefix, session, user, database):
    log, _ = log_of(iter([f"{prefix}LOG:  duration: 2.5 ms  statement: SELECT 1\n"]))
    (execution,) = log.executions
    assert (execution.text, execution.seconds) == ("SELECT 1", 0.0025)
    assert (execution.session, execution.user, execution.database) == (session, user, database)
    assert (execution.at is None) == (not prefix)


@pytest.mark.parametrize(
    ("detail", "values"),
    [
        ("parameters: $1 = '7', $2 = NULL", ("7", None)),
        ("Parameters: $1 = 'it''s, $2 = ''x'''", ("it's, $2 = 'x'",)),
        ("parameters: $1 = 'cut...'", None),
        ("parameters: $2 = 'x'", None),
        ("prepare: PREPARE x AS SELECT 1", None),
        ("", None),
    ],
)
def test_values_of_parameters(detail, values):
    assert parameters_of(detail) == values


def test_a_cursor_that_is_fetched_from_again_is_one_call():
    entries = [
        Entry("duration: 2 ms  execute <unnamed>/C_1: SELECT a FROM t"),
        Entry("duration: 3 ms  execute fetch from <unnamed>/C_1: SELECT a FROM t"),
    ]
    executions = list(executions_in(entries))
    assert [each.calls for each in executions] == [1, 0]
    assert sum(each.seconds for each in executions) == pytest.approx(0.005)


def test_parameters_in_a_plan_of_postgresql_16():
    plan = "duration: 3.0 ms  plan:\nQuery Text: SELECT a FROM t WHERE b = $1\nQuery Parameters: $1 = 'x'\n"
    entry = Entry(plan + "Seq Scan on t  (cost=0.00..1.00 rows=1 width=4) (actual rows=3.00 loops=2)")
    (execution,) = executions_in([entry])
    assert (execution.text, execution.parameters) == ("SELECT a FROM t WHERE b = $1", ("x",))
    assert execution.rows == 6
