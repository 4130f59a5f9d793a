"""The one query to use in the place of many that differ in a value (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bot.core.query_optimizer.fingerprint import marked, tokens_of
from bot.core.query_optimizer.sql.long_texts import SHORT

Sample = tuple[str, Any]
"""A query's text and its parameters."""

_GENERAL = "fetch all values at once, with WHERE <column> IN (...)"


def batched(normal_form: str, first: Sample, second: Sample, dialect: str) -> str:
    """The query that gets in one run what two samples of one shape got in two.

    A sentence instead, where the shape does not tell: for writes, and for conditions that are no
    equality.
    """
    word = normal_form.partition(" ")[0].upper()
    if normal_form.startswith(("{", "query(", "query (", "mutation(", "mutation ")):
        return "one that takes a list, or one field per value under an alias: { a: f(id: 1) b: f(id: 2) }"
    if word in ("INSERT", "REPLACE"):
        return "one INSERT of all rows, VALUES (...), (...), or the driver's executemany"
    if max(len(normal_form), len(first[0]), len(second[0])) > SHORT:
        return _GENERAL
    try:
        return _batched(normal_form, first, second, dialect) or _GENERAL
    except MemoryError:
        raise
    except Exception:  # whatever a parser makes of it: the general advice is right, too
        return _GENERAL


def _batched(normal_form: str, first: Sample, second: Sample, dialect: str) -> str:
    import sqlglot
    from sqlglot import exp

    tree = sqlglot.parse_one(normal_form, read=dialect or None, error_level=sqlglot.ErrorLevel.RAISE)
    where = tree.args.get("where")
    if not isinstance(tree, exp.Select | exp.Update | exp.Delete) or where is None:
        return ""
    marks = list(tree.find_all(exp.Placeholder, bfs=False))
    equal = []
    for condition in _conjunction(where.this, exp):
        if isinstance(condition, exp.EQ):
            left, right = condition.this, condition.expression
            if isinstance(right, exp.Column):
                left, right = right, left
            if isinstance(left, exp.Column) and isinstance(right, exp.Placeholder):
                equal.append((condition, left, right))
    if not equal:
        return ""
    if len(equal) > 1:
        differing = _differing(first, second, len(marks), dialect)
        chosen = [item for item in equal if any(marks[n] is item[2] for n in differing if n < len(marks))]
        equal = chosen or [min(equal, key=lambda item: _unlikeliness(item[1].name))]
    if isinstance(tree, exp.Update):
        changing = {n for n, mark in enumerate(marks) if not _below(mark, where)}
        if changing & set(_differing(first, second, len(marks), dialect)):
            return "one UPDATE joined to a list of (key, value), or the driver's executemany"
    columns = [column for _, column, _ in equal]
    rest = [c for c in _conjunction(where.this, exp) if not any(c is item[0] for item in equal)]
    dots = exp.Var(this="...")
    if len(columns) == 1:
        several = exp.In(this=columns[0].copy(), expressions=[exp.Placeholder(), exp.Placeholder(), dots])
    else:
        row = exp.Tuple(expressions=[exp.Placeholder() for _ in columns])
        several = exp.In(
            this=exp.Tuple(expressions=[column.copy() for column in columns]), expressions=[row, dots]
        )
    together: Any = several
    for condition in rest:
        together = exp.And(this=together, expression=condition.copy())
    where.set("this", together)
    note = ""
    if isinstance(tree, exp.Select):
        note = _complete(tree, columns, exp)
    return tree.sql(dialect=dialect or None, comments=False) + note


def _complete(tree: Any, columns: list[Any], exp: Any) -> str:
    """Make a SELECT tell which row belongs to which value; what remains to be said."""
    star = any(item.is_star for item in tree.expressions)
    shown = {item.alias_or_name for item in tree.expressions}
    missing = [column for column in columns if column.name not in shown]
    if missing and not star:
        tree.set("expressions", [*[column.copy() for column in missing], *tree.expressions])
    aggregate = any(item.find(exp.AggFunc) for item in tree.expressions if not isinstance(item, exp.Star))
    if aggregate and not any(item.find(exp.Window) for item in tree.expressions):
        group = tree.args.get("group")
        if group is None:
            tree.set("group", exp.Group(expressions=[column.copy() for column in columns]))
        else:
            group.set("expressions", [*[column.copy() for column in columns], *group.expressions])
    limit = tree.args.get("limit")
    if limit is not None:
        tree.set("limit", None)
        tree.set("offset", None)
        by = ", ".join(column.sql() for column in columns)
        return f" -- LIMIT was per value: number the rows with ROW_NUMBER() OVER (PARTITION BY {by} ...)"
    return ""


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


def _below(node: Any, ancestor: Any) -> bool:
    while node is not None:
        if node is ancestor:
            return True
        node = node.parent
    return False


def _unlikeliness(column: str) -> int:
    """How unlikely it is that a column is the key that a loop goes over."""
    name = column.lower()
    return 0 if name == "id" else 1 if name.endswith(("_id", "id", "uuid")) else 2


def _differing(first: Sample, second: Sample, marks: int, dialect: str) -> list[int]:
    """Which of the values, counted as they stand in the text, differ between two samples."""
    one, other = _values(first, dialect), _values(second, dialect)
    if one is None or other is None or not len(one) == len(other) == marks:
        return []
    return [n for n in range(marks) if one[n] != other[n]]


def _values(sample: Sample, dialect: str) -> list[Any] | None:
    """What stands at each place of the normal form that is marked ``?``; None if that is not clear."""
    query, params = sample
    found = tokens_of(query, dialect)
    if found is None:
        return None
    tokens = marked(query, found, dialect)
    if isinstance(params, Mapping) and "" in params:  # as @optimize_query hands it over
        rest = [value for name, value in params.items() if name]
        params = rest[0] if len(rest) == 1 and isinstance(rest[0], Mapping | list | tuple) else rest
    values: list[Any] = []
    position = 0
    for text in tokens:
        name = text.lstrip(":@$%(").rstrip(")s") if text[:2] == "%(" else text.lstrip(":@$")
        if text in ("?", "%s", "%d"):
            if not isinstance(params, Sequence) or isinstance(params, str) or position >= len(params):
                return None
            values.append(params[position])
            position += 1
        elif text[:1] == "$" and name.isdigit():
            if not isinstance(params, Sequence) or int(name) > len(params):
                return None
            values.append(params[int(name) - 1])
        elif text[:1] in ":@$" or text[:2] == "%(":
            if not isinstance(params, Mapping):
                return None
            values.append(params.get(name))
        else:
            values.append(text)
    return values
