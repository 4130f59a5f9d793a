"""The fingerprint depends on a query's shape alone."""

from hypothesis import given
from hypothesis import strategies as st

from bot.core.query_optimizer.sql.fingerprint import shape

tables = st.sampled_from(["users", "files", "downloads"])
columns = st.sampled_from(["id", "name", "size_bytes"])
literals = st.one_of(
    st.integers(0, 10**12).map(str),
    st.floats(0, 1e6, allow_nan=False).map(lambda value: f"{value:.3f}"),
    st.text(alphabet="abc' %_?-;\n", max_size=12).map(lambda value: "'" + value.replace("'", "''") + "'"),
)
gaps = st.sampled_from([" ", "  ", "\n", "\t", " /* note */ ", " -- note\n"])


@st.composite
def query(draw, table, column, size):
    values = [draw(literals) for _ in range(size)]
    words = ["SELECT", column, "FROM", table, "WHERE", column, "IN", "(", ", ".join(values), ")"]
    words = [word.lower() if draw(st.booleans()) and "'" not in word else word for word in words]
    return "".join(word + draw(gaps) for word in words)


@given(st.data(), tables, columns)
def test_literals_layout_case_and_comments_do_not_matter(data, table, column):
    sizes = st.integers(1, 4)
    first = data.draw(query(table, column, data.draw(sizes)))
    second = data.draw(query(table, column, data.draw(sizes)))
    assert shape(first, "")[0] == shape(second, "")[0]


@given(st.data(), tables, tables, columns, columns)
def test_tables_and_columns_do(data, table, other_table, column, other_column):
    first = shape(data.draw(query(table, column, 1)), "")[0]
    second = shape(data.draw(query(other_table, other_column, 1)), "")[0]
    assert (first == second) == ((table, column) == (other_table, other_column))


@given(st.text(max_size=300))
def test_any_text_has_a_shape_and_the_same_one_each_time(text):
    assert shape(text, "") == shape(text, "")
    assert len(shape(text, "")[0]) == 16
