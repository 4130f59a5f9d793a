"""The one query that replaces many queries which differ in a value (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bot.core.query_optimizer.sql.dialects import statements_of, tokens_in
from bot.core.query_optimizer.sql.fingerprint import is_too_deep, tokens_of
from bot.core.query_optimizer.sql.long_texts import SHORT
from bot.core.query_optimizer.sql.parameters import Parameters
from bot.core.query_optimizer.sql.spelling import printed, spelling

Sample = tuple[str, Any]
"""A query's text and its parameters."""

_MANY_ROWS = (
    "one INSERT of all rows, VALUES (...), (...), or executemany of the driver; if one fails, all fail"
)
_REPEATED = (
    "executemany of the driver, in a transaction: the same statements in the same order; "
    "it returns no rows, and if one fails, all fail"
)
_ONE_FIELD = "one field that takes a list, or one per value under an alias: { a: f(id: 1) b: f(id: 2) }"
_GRAPHQL = ("{", "query(", "query (", "mutation(", "mutation ")
_WRITES = frozenset(("INSERT", "REPLACE", "UPDATE", "DELETE"))
_RETURNS = re.compile(r"\bRETURNING\b", re.IGNORECASE)
_LISTS = re.compile(
    r"(?:UNNEST|EXPLODE|JSONB?_EACH|JSON_TABLE|JSONB?_ARRAY_ELEMENTS|STRING_TO_ARRAY|FIND_IN_SET|OPENJSON|STRING_SPLIT)",
    re.IGNORECASE,
)
_UNKNOWN = object()
_STEM = "phase4_parameter_"
_WRITTEN = re.compile(rf":{_STEM}(\d+)\b")


def batched(normal_form: str, samples: Sequence[Sample], dialect: str, *, writes: bool = False) -> str | None:
    """One query with the results of many of one shape, of which some samples are given.

    A sentence if it is no query. Empty if nothing is known to do the same: the values that differ are not
    compared by ``column = value``, or the shape says too little. None if it is not an N+1 pattern but a walk
    through pages or lists of values. ``writes``: it may write even if it is a SELECT.

    Samples do not show which values are the same in all queries. So writes become one only if every value in
    them is a key; for all others, the driver repeats the statement.
    """
    word = normal_form.partition(" ")[0].upper()
    if normal_form.startswith(_GRAPHQL):
        return _ONE_FIELD
    longest = max(len(query) for query, _ in samples)
    if max(len(normal_form), longest) > SHORT:
        return _REPEATED if word in _WRITES and not _RETURNS.search(normal_form) else ""
    try:
        return _batched(samples, dialect, writes=writes)
    except MemoryError:
        raise
    except Exception:  # of the parser, or of values that are not found in the text
        return ""


class _Query:
    """A sample's tree, with the values of its literals and parameters."""

    def __init__(self, sample: Sample, dialect: str) -> None:
        query, params = sample
        tokens = tokens_of(query, dialect)
        if not tokens or is_too_deep(query, tokens):
            raise ValueError("not to be parsed")
        self.parameters = Parameters()
        self.text = self.parameters.name_all(query, tokens, every=True)
        self.tokens = tokens_of(self.text, dialect) or []
        statements = [one for one in statements_of(self.tokens, self.text, dialect) if one is not None]
        if len(statements) != 1:
            raise ValueError("not one statement")
        self.tree = statements[0]
        if isinstance(params, Mapping) and "" in params:  # as @optimize_query passes it on
            rest = [value for name, value in params.items() if name]
            params = rest[0] if len(rest) == 1 and isinstance(rest[0], Mapping | list | tuple) else rest
        self.params = params
        positional = [n for n, text in enumerate(self.parameters.written) if text in ("?", "%s", "%d")]
        self._position = {n: position for position, n in enumerate(positional)}

    def written(self, leaf: Any) -> str:
        """A parameter as it is written in the text; "?" for a literal, which may be a user's data."""
        name = _name_of(leaf)
        if name.startswith(_STEM):
            return self.parameters.written[int(name[len(_STEM) :])]
        return "?"

    def value(self, leaf: Any) -> Any:
        from sqlglot import exp

        if isinstance(leaf, exp.Literal):
            return (leaf.is_string, leaf.this)
        name = _name_of(leaf)
        if not name.startswith(_STEM):
            return self.params.get(name, _UNKNOWN) if isinstance(self.params, Mapping) else _UNKNOWN
        number = int(name[len(_STEM) :])
        text = self.parameters.written[number]
        if text[:2] == "%(":
            return self.params[text[2:-2]]
        if isinstance(self.params, str | bytes) or not isinstance(self.params, Sequence):
            raise ValueError("no sequence of parameters")
        return self.params[self._position[number] if number in self._position else int(text[1:]) - 1]


def _name_of(leaf: Any) -> str:
    return str(leaf.name)


def _batched(samples: Sequence[Sample], dialect: str, *, writes: bool) -> str | None:
    from sqlglot import exp

    one = _Query(samples[0], dialect)
    tree = one.tree
    differing = _differing(one, samples[1:], dialect, exp)
    if differing is None or _has_many_rows(tree, exp):
        return None
    if not differing:
        return ""
    keys = [leaf for leaf, _ in differing]
    if isinstance(tree, exp.Insert | exp.Update | exp.Delete):
        if tree.args.get("returning") is not None:
            return ""
        if isinstance(tree, exp.Insert):
            return _MANY_ROWS if _is_plain_insert(tree, exp) else _REPEATED
        keys = list(tree.find_all(exp.Literal, exp.Placeholder, exp.Parameter))
        if not _deletes_by_keys(tree, keys, exp):
            return _REPEATED
    elif not isinstance(tree, exp.Select) or writes or tree.args.get("locks"):
        return ""
    of_one_kind = all(same for _, same in differing)
    found = _replaced(one, keys, dialect, exp) if of_one_kind and _prints_as_written(one, dialect) else ""
    return found or (_REPEATED if isinstance(tree, exp.Delete) else "")


def _differing(
    one: _Query, others: Sequence[Sample], dialect: str, exp: Any
) -> list[tuple[Any, bool]] | None:
    """Each value of the first query that another one has otherwise, and whether all are text or none is.

    None if the queries are pages, or take lists. Raises ValueError for a value that is not known.
    """
    found: dict[int, tuple[Any, bool]] = {}
    for sample in others:
        other = _Query(sample, dialect)
        for leaf, counterpart in _pairs(one.tree, other.tree, exp):
            if isinstance(leaf, exp.In | exp.Values):
                return None  # lists of different lengths
            mine, its = one.value(leaf), other.value(counterpart)
            if mine is _UNKNOWN or its is _UNKNOWN:
                raise ValueError("a value that is not given")
            if mine != its:
                if _is_paged(leaf, one.tree, exp) or _is_list(leaf, mine, its, exp):
                    return None
                same = _is_text(mine) == _is_text(its) or mine is None or its is None
                found[id(leaf)] = leaf, same and found.get(id(leaf), (leaf, True))[1]
    order = {id(leaf): n for n, (leaf, _) in enumerate(_pairs(one.tree, one.tree, exp))}
    return [found[n] for n in sorted(found, key=order.__getitem__)]


def _is_text(value: Any) -> bool:
    """MySQL compares a column otherwise if a list holds both numbers and strings."""
    return bool(value[0]) if isinstance(value, tuple) else isinstance(value, str | bytes)


def _has_many_rows(tree: Any, exp: Any) -> bool:
    """Whether it is an INSERT of several rows."""
    rows = tree.expression if isinstance(tree, exp.Insert) else None
    return isinstance(rows, exp.Values) and len(rows.expressions) > 1


def _is_plain_insert(tree: Any, exp: Any) -> bool:
    """Whether rows do not depend on those before: all are values, and none changes a row that is there."""
    conflict = tree.args.get("conflict")
    if conflict is not None and conflict.expressions:
        return False
    rows = tree.expression
    if tree.args.get("with_") or tree.args.get("with") or not isinstance(rows, exp.Values):
        return False
    plain = exp.Literal | exp.Placeholder | exp.Parameter | exp.Null | exp.Boolean
    return all(
        isinstance(row, exp.Tuple) and all(isinstance(v, plain) for v in row.expressions)
        for row in rows.expressions
    )


def _deletes_by_keys(tree: Any, keys: list[Any], exp: Any) -> bool:
    """Whether it is a DELETE whose every value is a key, and whose other conditions are of the row alone."""
    where = tree.args.get("where")
    known = ("this", "where")
    if (
        not isinstance(tree, exp.Delete)
        or where is None
        or any(v for k, v in tree.args.items() if k not in known)
    ):
        return False
    compared = 0
    for condition in _conjunction(where.this, exp):
        if any(_compares(condition, leaf, exp) for leaf in keys):
            compared += 1
            continue
        tested = condition.this if isinstance(condition, exp.Not) else condition
        if not (
            isinstance(tested, exp.Is)
            and isinstance(tested.this, exp.Column)
            and isinstance(tested.expression, exp.Null)
        ):
            return False
    return compared == len(keys)


def _replaced(one: _Query, keys: list[Any], dialect: str, exp: Any) -> str:
    """The query with a list for each of these values; empty if they are not compared by ``=``."""
    tree = one.tree
    where = tree.args.get("where")
    if where is None:
        return ""
    equal = []
    conditions = _conjunction(where.this, exp)
    for leaf in keys:
        found = next((c for c in conditions if _compares(c, leaf, exp)), None)
        if found is None:
            return ""
        equal.append((found, _column_of(found, exp), leaf))
    columns = [column for _, column, _ in equal]
    if len({(column.table, column.name) for column in columns}) < len(columns):
        return ""
    note = _complete(tree, columns, exp) if isinstance(tree, exp.Select) else ""
    if note is None:
        return ""
    several = _several(equal, one, dialect, exp)
    # It replaces the first of them; the others are contained in it.
    equal[0][0].replace(several)
    for condition, _, _ in equal[1:]:
        _leave_out(condition, exp)
    return _restored(one, dialect) + note


def _pairs(one: Any, other: Any, exp: Any) -> Iterator[tuple[Any, Any]]:
    """Pairs of corresponding values of two trees of the same form, in the order of the tree."""
    if one.__class__ is not other.__class__:
        raise ValueError("not of one form")
    if isinstance(one, exp.Literal | exp.Placeholder | exp.Parameter):
        yield one, other
        return
    if isinstance(one, exp.In | exp.Values) and len(one.expressions) != len(other.expressions):
        yield one, other
        return
    for name, value in one.args.items():
        counterpart = other.args.get(name)
        if isinstance(value, exp.Expr):
            yield from _pairs(value, counterpart, exp)
        elif isinstance(value, list):
            if not isinstance(counterpart, list) or len(value) != len(counterpart):
                raise ValueError("not of one form")
            for item, its in zip(value, counterpart, strict=True):
                if isinstance(item, exp.Expr):
                    yield from _pairs(item, its, exp)


def _is_paged(leaf: Any, tree: Any, exp: Any) -> bool:
    """Whether a value says where a page begins: OFFSET, or ``key > value ORDER BY key LIMIT n``."""
    node = leaf
    while node is not tree:
        if isinstance(node, exp.Limit | exp.Offset | exp.Fetch):
            return True
        if isinstance(node, exp.GT | exp.GTE | exp.LT | exp.LTE):
            around = node.find_ancestor(exp.Query)
            arguments = around.args if around is not None else {}
            return arguments.get("order") is not None and arguments.get("limit") is not None
        node = node.parent
    return False


def _is_list(leaf: Any, one: Any, other: Any, exp: Any) -> bool:
    """Whether a value is, or belongs to, a list of several."""
    node = leaf.parent
    while node is not None and not isinstance(node, exp.Query):
        if isinstance(node, exp.Any | exp.All):
            return True
        if isinstance(node, exp.Func) and _LISTS.fullmatch(
            node.name if isinstance(node, exp.Anonymous) else node.sql_name()
        ):
            return True
        node = node.parent
    if isinstance(one, list | tuple | set | frozenset) and not isinstance(leaf, exp.Literal):
        return len(one) > 1 or (isinstance(other, list | tuple | set | frozenset) and len(other) > 1)
    parent = leaf.find_ancestor(exp.In)
    return isinstance(parent, exp.In) and len(parent.expressions) > 1 and leaf is not parent.this


def _prints_as_written(query: _Query, dialect: str) -> bool:
    """Whether sqlglot prints the query's own tokens, so that it is likely to have understood it."""
    text = printed(query.tree, dialect)
    return spelling(query.text, query.tokens, dialect) == spelling(text, tokens_in(text, dialect), dialect)


def _restored(query: _Query, dialect: str) -> str:
    """The tree's text with its parameters as they were written, and without a literal's value."""
    from sqlglot import exp

    styles = {written[:1] for written in query.parameters.written}
    for n, literal in enumerate(list(query.tree.find_all(exp.Literal))):
        if not isinstance(literal.parent, exp.Interval | exp.DataType | exp.DataTypeParam):
            name = f"{_STEM}{len(query.parameters.written)}"
            query.parameters.written.append(
                f"$literal{n}" if "$" in styles else "%s" if "%" in styles else "?"
            )
            literal.replace(exp.Placeholder(this=name))
    numbers: dict[str, int] = {}

    def restored(match: re.Match[str]) -> str:
        written = query.parameters.written[int(match.group(1))]
        if written[:1] == "$":
            return f"${numbers.setdefault(written, len(numbers) + 1)}"
        return "?" if written[:1] == "?" else written

    return _WRITTEN.sub(restored, printed(query.tree, dialect))


def _compares(condition: Any, leaf: Any, exp: Any) -> bool:
    """Whether it is ``column = leaf``, or the same as a list or an array with one value."""
    if isinstance(condition, exp.In):
        return isinstance(condition.this, exp.Column) and condition.expressions == [leaf]
    if not isinstance(condition, exp.EQ):
        return False
    sides = condition.this, condition.expression
    return any(side is leaf for side in sides) and any(isinstance(side, exp.Column) for side in sides)


def _column_of(condition: Any, exp: Any) -> Any:
    return condition.this if isinstance(condition.this, exp.Column) else condition.expression


def _several(equal: list[tuple[Any, Any, Any]], query: _Query, dialect: str, exp: Any) -> Any:
    """The condition that takes many values, or many rows of values."""
    dots = exp.Var(this="...")
    style = query.written(equal[0][2])
    if len(equal) == 1:
        _, column, leaf = equal[0]
        if dialect in ("", "postgres") and (style[:1] == "$" or (dialect and style[:1] == "%")):
            return exp.EQ(this=column.copy(), expression=exp.Any(this=exp.Paren(this=leaf.copy())))
    marks = [
        leaf.copy() if style[:1] == "$" else exp.Var(this="%s" if style[:1] == "%" else "?")
        for _, _, leaf in equal
    ]
    if len(equal) == 1:
        again = [] if style[:1] == "$" else [marks[0].copy()]
        return exp.In(this=equal[0][1].copy(), expressions=[marks[0], *again, dots])
    columns = exp.Tuple(expressions=[column.copy() for _, column, _ in equal])
    return exp.In(this=columns, expressions=[exp.Tuple(expressions=marks), dots])


def _complete(tree: Any, columns: list[Any], exp: Any) -> str | None:
    """Make a SELECT show which row belongs to which value; returns a note for the user.

    None if its rows would differ from those of the single queries, as with window functions.
    """
    distinct = tree.args.get("distinct")
    if tree.find(exp.Window) or tree.args.get("offset") is not None:
        return None
    if distinct is not None and distinct.args.get("on") is not None:
        return None
    star = any(item.is_star for item in tree.expressions)
    missing = []
    for column in columns:
        if any(item == column for item in tree.expressions):
            continue
        if any(item.alias_or_name.lower() == column.name.lower() for item in tree.expressions):
            return None  # another thing has its name
        missing.append(column)
    aggregate = any(item.find(exp.AggFunc) for item in tree.expressions if not isinstance(item, exp.Star))
    if missing and (not star or aggregate):
        tree.set("expressions", [*[column.copy() for column in missing], *tree.expressions])
    group = tree.args.get("group")
    note = ""
    if group is not None:
        group.set("expressions", [*[column.copy() for column in columns], *group.expressions])
    elif aggregate:
        tree.set("group", exp.Group(expressions=[column.copy() for column in columns]))
        note = " -- a value without rows is not in the result"
    if tree.args.get("limit") is not None:
        tree.set("limit", None)
        by = ", ".join(column.sql() for column in columns)
        return f" -- LIMIT was per value: number the rows with ROW_NUMBER() OVER (PARTITION BY {by} ...)"
    return note


def _conjunction(node: Any, exp: Any) -> list[Any]:
    found: list[Any] = []
    queue = [node]
    while queue:
        node = queue.pop()
        if isinstance(node, exp.And):
            queue += [node.expression, node.this]
        elif isinstance(node, exp.Paren):
            queue.append(node.this)
        else:
            found.append(node)
    return found


def _leave_out(condition: Any, exp: Any) -> None:
    while isinstance(condition.parent, exp.Paren):
        condition = condition.parent
    connector = condition.parent
    other = connector.expression if condition.arg_key == "this" else connector.this
    connector.replace(other)
