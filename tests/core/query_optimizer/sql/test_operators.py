"""Operators as PostgreSQL reads them, and which of them may be the user's own."""

import pytest

from bot.core.query_optimizer.sql.analyzer import analyze
from bot.core.query_optimizer.sql.operators import unknown_operator


@pytest.mark.parametrize(
    ("text", "operator"),
    [
        ("a ~~> b", "~~>"), ("a @#@ b", "@#@"), ("x |-> y", "|->"), ("a ##- 1", "##-"), ("a @@> 'b'", "@@>"),
        ("a = '@@@@' AND b @~@ c", "@~@"),
    ],
)  # fmt: skip
def test_what_is_in_no_list_may_be_the_users_own(text, operator):
    assert unknown_operator(text) == operator


@pytest.mark.parametrize(
    "text",
    [
        "a=-1", "a>=-1 | b", "x||y", "a @> b AND c <@ d", "a ->> 'b' #>> '{c}'", "a @-@ b", "a ?| b",
        "a <-> b ~* c",
        "a = '~~>' || \"#@#\"", "a -- ~~>\n || b", "a || /* @#@ */ b", "a || b-- c", "a=%s",
        "a>=%(b)s", "a = %s||%s",
        "a %% b", "a %%> b", "a=?", "a <%% b", "a ~~* b", "count(*)|1", "a % b", "2 ^ -1", "@ -5",
    ],
)  # fmt: skip
def test_what_the_database_and_its_usual_extensions_have(text):
    assert unknown_operator(text) == ""


def test_a_query_with_an_operator_of_the_users_own_is_not_cached():
    assert not analyze("SELECT a @@> b FROM t", "postgres").cacheable
    assert analyze("SELECT a @@ b FROM t WHERE c=%s", "postgres").cacheable
