"""Texts that differ in whole numbers alone mean the same, so one of them is parsed for all."""

import random
import re

import pytest

from bot.core.query_optimizer import analyses
from bot.core.query_optimizer.analyses import Analyses, advice_on, analysis_of
from bot.core.query_optimizer.sql.numbers import is_same_for_all, without_numbers
from tests.support.searching import cases
from tests.support.sql_differential import KINDS, Dataset, QueryGenerator


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT a FROM t WHERE id = 1", "SELECT a FROM t WHERE id = 42"),
        ("SELECT a FROM t WHERE id=1 AND b<>2", "SELECT a FROM t WHERE id=0 AND b<>77"),
        ("SELECT a FROM t WHERE chat_id = -1", "SELECT a FROM t WHERE chat_id = -1001234567890"),
        (
            "SELECT a FROM t WHERE b BETWEEN 1 AND 5 LIMIT 3",
            "SELECT a FROM t WHERE b BETWEEN 7 AND 9 LIMIT 0",
        ),
        ("update t set a = a + 1 where id in (1, 2)", "update t set a = a + 5 where id in (30, 0)"),
        ("INSERT INTO t VALUES (1, 'a1', 2)", "INSERT INTO t VALUES (10, 'a1', 20)"),
        ('DELETE FROM "t 1" WHERE "it\'s 1" > 1', 'DELETE FROM "t 1" WHERE "it\'s 1" > 2'),
    ],
)
def test_numbers_that_are_values_make_no_difference(one, other):
    assert without_numbers(one) == without_numbers(other) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SELECT a FROM t1 WHERE id = 1", "SELECT a FROM t2 WHERE id = 1"),
        ("SELECT a FROM t WHERE id = 1 AND b = 'x1'", "SELECT a FROM t WHERE id = 1 AND b = 'x2'"),
        ("SELECT nextval('1'), 1 + 1", "SELECT nextval('2'), 1 + 1"),
        ("SELECT a FROM t WHERE id = 1 AND b = 1.5", "SELECT a FROM t WHERE id = 1 AND b = 2.5"),
        ("SELECT a AS 1 FROM t WHERE id = 1", "SELECT a AS 2 FROM t WHERE id = 1"),
        ("SELECT a FROM t WHERE id = 1 AND b = ?1", "SELECT a FROM t WHERE id = 1 AND b = ?2"),
        ("SELECT a FROM t WHERE id IN (1, 2)", "SELECT a FROM t WHERE id IN (1, 2, 3)"),
        ("SELECT a FROM t WHERE id = 1", "SELECT a FROM t WHERE id = -1"),
        ("SELECT a FROM t WHERE b = '' AND id = 1", "SELECT a FROM t WHERE b = 1 AND id = ''"),
    ],
)
def test_all_else_does(one, other):
    assert None is not without_numbers(one) != without_numbers(other) is not None


@pytest.mark.parametrize(
    "query",
    [
        "SELECT a FROM t", "SELECT a FROM t WHERE b = 'x1'", "SELECT a FROM t WHERE id = $1 LIMIT 5",
        # It is not plain where a string or a comment ends, or what stands there.
        "SELECT a FROM t WHERE b = 'x AND id = 1", r"SELECT a FROM t WHERE b = 'x\' AND id = 1",
        "SELECT a -- 'b\nFROM t WHERE id = 1", "SELECT a /* b */ FROM t WHERE id = 1",
        "SELECT a # b\nFROM t WHERE id = 1", "SELECT $$ 1 $$, 1 + 1", "SELECT [a 1] FROM t WHERE id = 1",
        "SELECT {d 1}, 1 + 1", "FROM t |> LIMIT 5", "SELECT a FROM t |> LIMIT 5", "SELECT '\0', 1 + 1",
        # The number says what it does.
        "SET autocommit = 1", "PRAGMA foreign_keys = 1", "EXPLAIN SELECT a FROM t WHERE id = 1",
        "SELECT a FROM t WHERE id IN (" + "1, " * 2_000 + "1)",
    ],
)  # fmt: skip
def test_where_it_is_not_plain_nothing_is_left_out(query):
    assert without_numbers(query) is None


@pytest.mark.parametrize(
    "query",
    [
        "SELECT FROM WHERE (1", "SELECT 1 + 1; SELECT 1 + 2", "SELECT a INTO n FROM t WHERE id = 1 GARBAGE (",
        "WITH a AS (SELECT 1 + 1) MERGE INTO t USING a ON t.id = a.id WHEN MATCHED THEN DELETE",
        "SELECT f(1)",
    ],
)  # fmt: skip
def test_only_the_meaning_of_a_text_that_was_read_whole_is_shared(query):
    assert not is_same_for_all(analysis_of(query, "postgres"))


def _with_other_numbers(text, random):
    """The text with other numbers where one stands alone; also in strings, where they count."""
    return re.sub(r"(?<![\w.])\d+(?![\w.])", lambda _: str(random.choice((0, 1, 2, 99, 2**63))), text)


@pytest.mark.parametrize("dialect", KINDS)
def test_what_is_shared_is_what_the_parser_says_of_each_text(dialect):
    """Random queries, with operators, casts, subqueries and odd comments, and each with other numbers."""
    choice = random.Random(dialect)
    shared, known = 0, Analyses()
    known.read_as(dialect, frozenset())
    for seed in range(cases(300)):
        data = Dataset(dialect, seed // 10, KINDS[dialect])
        one = QueryGenerator(data, seed).query().text
        other = _with_other_numbers(one, choice)
        key = without_numbers(one)
        if key is None or key != without_numbers(other) or not is_same_for_all(analysis_of(one, dialect)):
            continue
        shared += one != other
        assert analysis_of(one, dialect) == analysis_of(other, dialect), (one, other)
        assert known.advise(one, None) == advice_on(one, dialect), one
        assert known.advise(other, None) == advice_on(other, dialect), (one, other)
    assert shared, "the search found nothing to compare"


def test_one_text_is_parsed_for_all_of_them(monkeypatch):
    parsed = []

    def counting(query, *rest):
        parsed.append(query)
        return analysis_of(query, *rest)

    monkeypatch.setattr(analyses, "analysis_of", counting)
    known = Analyses()
    one, other = known.analyse("SELECT a FROM t WHERE id = 1"), known.analyse("SELECT a FROM t WHERE id = 2")
    assert one == other == analysis_of("SELECT a FROM t WHERE id = 2", "")
    assert parsed == ["SELECT a FROM t WHERE id = 1"]


def test_a_function_that_is_created_makes_it_be_parsed_again():
    known = Analyses()
    known.read_as("postgres", frozenset())
    assert known.analyse("SELECT lower(a) FROM t WHERE id = 1").cacheable
    known.own_functions(frozenset(("lower",)))
    assert not known.analyse("SELECT lower(a) FROM t WHERE id = 2").cacheable


def test_another_dialect_makes_it_be_parsed_again():
    known = Analyses()
    known.read_as("mysql", frozenset())
    assert not known.analyse("SELECT sysdate FROM t WHERE id = 1").cacheable
    known.read_as("sqlite", frozenset())
    assert known.analyse("SELECT sysdate FROM t WHERE id = 2").cacheable


@pytest.mark.parametrize(
    ("one", "other", "code"),
    [
        ("SELECT a FROM t WHERE b = 1 LIMIT 1", "SELECT a FROM t WHERE b = 1 LIMIT 5", "Q014"),
        ("SELECT a FROM t WHERE b = 1 OFFSET 0", "SELECT a FROM t WHERE b = 1 OFFSET 90", "Q007"),
        ("SELECT a FROM t WHERE b = 1 AND b = 1", "SELECT a FROM t WHERE b = 1 AND b = 2", "Q030"),
        ("SELECT a FROM t WHERE b = 1 AND 1 = 2", "SELECT a FROM t WHERE b = 1 AND 1 = 1", "Q032"),
    ],
)
def test_advice_looks_at_the_numbers(one, other, code):
    known = Analyses()
    known.read_as("postgres", frozenset())
    assert code not in [finding.code for finding in known.advise(one, None).findings]
    second = known.advise(other, None)
    assert code in [finding.code for finding in second.findings]
    assert second == advice_on(other, "postgres")


def test_what_an_index_serves_is_found_once(monkeypatch):
    from bot.core.query_optimizer.advice import advisor

    asked = []
    monkeypatch.setattr(
        advisor, "suggestions_for", lambda facts, real=advisor.suggestions_for: asked.append(1) or real(facts)
    )
    known = Analyses()
    one = known.advise("SELECT a FROM t WHERE b = 1", None)
    other = known.advise("SELECT a FROM t WHERE b = 2", None)
    assert one.index_suggestions == other.index_suggestions != ()
    assert (one.columns, len(asked)) == (other.columns, 1)


def test_a_text_with_advice_is_not_parsed_again_before_it_runs(monkeypatch):
    known = Analyses()
    advice = known.advise("SELECT a FROM t", None)
    monkeypatch.setattr(analyses, "analysis_of", None)
    assert known.analyse("SELECT a FROM t") is advice.analysis
