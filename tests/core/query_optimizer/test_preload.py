"""The SQL parser is there before the first query needs it."""

import subprocess
import sys
import threading

import pytest

from bot.core.query_optimizer import preload

NAME = "query optimizer: load the SQL parser"

STORY = """
import asyncio, sys, threading
from bot.core.query_optimizer import QueryOptimizer
from bot.core.query_optimizer.sql.long_texts import repetitions
from bot.core.query_optimizer.sql.numbers import number_or_quoted

async def main():
    optimizer = QueryOptimizer()
    assert "sqlglot" not in sys.modules
    await optimizer.enable(dialect="postgres")
    assert "sqlglot" not in sys.modules, "the start does not wait for it"
    assert "bot.core.query_optimizer.graphql.operations" not in sys.modules, "the first text loads it"
    assert not repetitions.cache_info().currsize
    assert not number_or_quoted.cache_info().currsize
    while not WAIT and "sqlglot.parsers.postgres" not in sys.modules:
        await asyncio.sleep(0.01)

    async def executor(query, params):
        return [{"id": 1}]

    for query in QUERIES:
        assert await optimizer.execute(query, None, executor) == [{"id": 1}]
    await optimizer.disable()
    assert "sqlglot.parsers.postgres" in sys.modules
    assert WAIT or repetitions.cache_info().currsize == 1, "no long text waits for it"
    assert number_or_quoted.cache_info().currsize == 1
    await asyncio.sleep(0.1)
    assert not any(thread.name == NAME for thread in threading.enumerate())

asyncio.run(main())
"""


def run(queries):
    code = STORY.replace("NAME", repr(NAME)).replace("QUERIES", repr(queries)).replace("WAIT", repr(queries))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.server  # a process of its own
@pytest.mark.parametrize("queries", [[], ["SELECT id FROM users"]], ids=["no query", "a query at once"])
def test_enable_loads_the_parser_and_disable_waits_for_it(queries):
    done = run(queries)
    assert (done.returncode, done.stderr) == (0, "")


HANDLER = """
import asyncio, sys, threading
from bot.core.enhanced_startup_phase4 import initialize_phase4_services, shutdown_phase4_services

SETTINGS = {"ENABLE_QUERY_OPTIMIZER": True, "ENABLE_RATE_LIMITER": False, "QUERY_OPTIMIZER_DIALECT": SPOKEN}

async def executor(query, params):
    return [{"id": 1}]

async def handler(optimizer):
    await optimizer.execute("SELECT u.id FROM users u JOIN t ON t.id = u.id WHERE u.a = 3", None, executor)
    for number in range(20):  # a pattern of N+1, and its query of one call
        await optimizer.execute("SELECT id FROM users WHERE id = ?", (number,), executor)
    numbers = ", ".join(map(str, range(3000)))
    await optimizer.execute(f"SELECT a FROM t WHERE id IN ({numbers})", None, executor)
    await optimizer.execute("UPDATE users SET a = 1 WHERE id = 3", None, executor)
    await optimizer.record_execution("SELECT b FROM t", 5000)
    await optimizer.analyze_query("SELECT * FROM users WHERE lower(a) = 'x' OR a = 'y' ORDER BY b LIMIT 5")
    assert await optimizer.get_n_plus_one_patterns()

async def main():
    report = await initialize_phase4_services(SETTINGS)
    assert report["success"], report
    from bot.core.query_optimizer import QueryOptimizer

    while LAST not in sys.modules or any(thread.name == NAME for thread in threading.enumerate()):
        await asyncio.sleep(0.01)
    before = set(sys.modules)
    await handler(QueryOptimizer.get_instance())
    print(*sorted(set(sys.modules) - before))
    await shutdown_phase4_services()

asyncio.run(main())
"""


@pytest.mark.server  # a process of its own
@pytest.mark.parametrize("dialect", ["", "postgres", "mysql", "sqlite"])
def test_a_handler_imports_nothing_once_the_parser_is_there(dialect):
    last = "bot.core.query_optimizer.execution.batching"
    code = HANDLER.replace("SPOKEN", repr(dialect)).replace("NAME", repr(NAME)).replace("LAST", repr(last))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


@pytest.mark.server  # processes of their own
@pytest.mark.parametrize("attempt", range(3))
def test_threads_that_need_the_parser_at_once_do_not_stop_one_another(attempt):
    code = f"""
import random, threading, time
from bot.core.query_optimizer.analyses import advice_on, analysis_of
from bot.core.query_optimizer.preload import Preload

random.seed({attempt})
found, loading = [], Preload()

def read(number):
    time.sleep(random.random() / 20)
    dialect = ("", "postgres", "mysql", "sqlite")[number % 4]
    for call in (analysis_of, advice_on):
        found.append(call(f"SELECT a{{number}} FROM b WHERE c = 1", dialect))

threads = [threading.Thread(target=read, args=(number,)) for number in range(12)]
for thread in threads:
    thread.start()
loading._start("mysql")
for thread in threads:
    thread.join()
print(len(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "24\n")


async def test_a_parser_that_is_loaded_is_not_loaded_again(optimizer):
    await optimizer.analyze_query("SELECT 1")
    await optimizer._preload.ended()
    await optimizer.enable(dialect="sqlite")
    assert not any(thread.name == NAME for thread in threading.enumerate())


async def test_a_service_that_is_switched_off_at_once_starts_no_thread(monkeypatch):
    monkeypatch.delitem(sys.modules, preload._PARSER)
    loading = preload.Preload()
    loading.soon("")
    loading.soon("mysql")
    timer = loading._timer
    await loading.ended()
    assert timer.cancelled()
    assert loading._thread is None


async def test_without_a_thread_the_first_query_loads_it(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.delitem(sys.modules, preload._PARSER)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    loading = preload.Preload()
    loading._start("")
    await loading.ended()


async def test_a_parser_that_cannot_be_loaded_is_told_and_stops_nothing(monkeypatch, caplog):
    def broken(query, dialect):
        raise ImportError("no module named sqlglot")

    monkeypatch.delitem(sys.modules, preload._PARSER)
    monkeypatch.setattr(preload, "analysis_of", broken)
    loading = preload.Preload()
    loading._start("")
    await loading.ended()
    assert "The SQL parser could not be loaded: ImportError" in caplog.text
