"""One set of indexes for a workload: every wish is served, and no index is wider than one of them."""

from hypothesis import given
from hypothesis import strategies as st

from bot.core.query_optimizer.advice.index_ddl import create_index, listed_column
from bot.core.query_optimizer.models import IndexSuggestion
from bot.core.query_optimizer.workload.index_set import Wish, blocks_of, keys_of, merged, not_served
from tests.support.searching import searching


def wish(equal="", then="", seconds=1.0, *, table="t", shape="", dialect="postgres", **more):
    """``equal`` and ``then``: a letter for each column."""
    columns = (*equal, *then)
    listed = [listed_column(column, dialect) for column in columns]
    ddl = create_index(f"idx_{table}_{'_'.join(columns)}", "", table, listed, dialect, **more)
    suggestion = IndexSuggestion(
        table, columns, ddl, "", equality_columns=tuple(equal), sort_columns=tuple(then), **more
    )
    return Wish(suggestion, shape or f"{equal}|{then}", seconds, dialect=dialect)


def ddls(wishes, most=10):
    kept, left = merged(wishes, most)
    return [index.ddl for index in kept], [index.ddl for index in left]


def is_served(by, wanted):
    keys, suggestion = keys_of(by.ddl), wanted.suggestion
    equal = len(suggestion.equality_columns)
    length = len(suggestion.columns)
    return set(keys[:equal]) == set(suggestion.equality_columns) and keys[equal:length] == list(
        suggestion.columns[equal:]
    )


def test_a_shorter_one_is_served_by_the_longer():
    assert ddls([wish("a"), wish("ab"), wish("ab", "c")]) == (["CREATE INDEX idx_t_a_b_c ON t (a, b, c)"], [])


def test_the_order_of_equal_columns_is_chosen_for_most():
    kept, _ = merged([wish("ab", seconds=9), wish("b", seconds=5), wish("abc", "d")], 10)
    assert [index.ddl for index in kept] == ["CREATE INDEX idx_t_b_a_c_d ON t (b, a, c, d)"]
    assert kept[0].seconds == 15
    assert kept[0].shapes == ["ab|", "b|", "abc|d"]


def test_where_one_order_cannot_serve_both_the_greater_saving_wins():
    kept, _ = ddls([wish("ab", seconds=3), wish("a", seconds=1), wish("b", seconds=2)])
    assert kept == ["CREATE INDEX idx_t_b_a ON t (b, a)", "CREATE INDEX idx_t_a ON t (a)"]


def test_orders_and_ranges_keep_their_place():
    kept, _ = ddls([wish("a", "c", seconds=2), wish("ab")])
    assert sorted(kept) == ["CREATE INDEX idx_t_a_b ON t (a, b)", "CREATE INDEX idx_t_a_c ON t (a, c)"]


def test_what_is_never_one_index():
    apart = [
        wish("a"),
        wish("a", "b", table="u"),
        wish("a", "b", predicate="c IS NULL"),
        wish("a", "b", method="gin"),
        wish("a", "b", dialect="mysql"),
    ]
    assert len(merged(apart, 10)[0]) == len(apart)


def test_the_number_of_indexes_is_bounded_and_the_best_are_kept():
    wishes = [wish(letter, seconds=number) for number, letter in enumerate("abcdef")]
    kept, left = ddls(wishes, 2)
    assert kept == ["CREATE INDEX idx_t_f ON t (f)", "CREATE INDEX idx_t_e ON t (e)"]
    assert len(left) == 4


def test_an_index_without_evidence_does_not_widen_one_with():
    kept, _ = merged([wish("ab", seconds=5)], 10)
    rest = not_served([wish("b", seconds=0), wish("abc", seconds=0)], kept)
    assert [each.shape for each in rest] == ["abc|"]
    assert kept[0].ddl == "CREATE INDEX idx_t_b_a ON t (b, a)"


def test_a_name_is_kept_if_the_keys_are_and_never_taken_twice():
    one, other = wish("a"), wish("b", table="u")
    for each, ddl in ((one, "CREATE INDEX mine ON t (a)"), (other, "CREATE INDEX mine ON u (b)")):
        object.__setattr__(each.suggestion, "ddl", ddl)
    kept, _ = merged([one, other], 10, frozenset(["mine_2"]))
    assert [index.ddl for index in kept] == ["CREATE INDEX mine ON t (a)", "CREATE INDEX mine_3 ON u (b)"]


def test_a_schema_stays_where_the_dialect_wants_it():
    one, other = wish("ab", seconds=3, dialect="sqlite"), wish("b", dialect="sqlite")
    object.__setattr__(one.suggestion, "ddl", "CREATE INDEX main.i ON t (a, b)")
    kept, _ = merged([one, other], 10)
    assert kept[0].ddl == "CREATE INDEX main.idx_t_b_a ON t (b, a)"


def test_included_columns_stay_beside_the_keys():
    kept, _ = ddls([wish("ab", include=("x",)), wish("a")])
    assert kept == ["CREATE INDEX idx_t_a_b ON t (a, b) INCLUDE (x)"]
    kept, _ = ddls([wish("a", include=("x",)), wish("a", include=("y",))])
    assert len(kept) == 2


def test_keys_with_quotes_commas_and_brackets():
    ddl = (
        """CREATE INDEX i ON "a(b" ("x,(y", lower((name)::text), (data ->> 'k,)'), `z` DESC) WHERE (c > 1)"""
    )
    assert keys_of(ddl) == ['"x,(y"', "lower((name)::text)", "(data ->> 'k,)')", "`z` DESC"]


LETTERS = st.text("abcd", max_size=3).map(lambda text: "".join(dict.fromkeys(text)))


@st.composite
def wishes(draw):
    found = []
    for number in range(draw(st.integers(1, 8))):
        equal = draw(LETTERS)
        then = "".join(each for each in draw(LETTERS) if each not in equal)
        if equal or then:
            seconds = draw(st.integers(0, 5))
            found.append(wish(equal, then, seconds, shape=f"{number}"))
    return found


@searching(300)
@given(wishes())
def test_every_wish_is_served(found):
    kept, left = merged(found, 100)
    assert not left
    assert sum(index.seconds for index in kept) == sum(each.seconds for each in found)
    for each in found:
        mine = [index for index in kept if each.shape in index.shapes]
        assert len(mine) == 1
        assert is_served(mine[0], each)
    assert len({index.ddl for index in kept}) == len(kept)
    for index in kept:
        keys = keys_of(index.ddl)
        assert len(set(keys)) == len(keys)
        widest = max(
            (each for each in found if each.shape in index.shapes), key=lambda w: len(w.suggestion.columns)
        )
        assert len(keys) == len(widest.suggestion.columns)
        assert blocks_of(index.suggestion)
