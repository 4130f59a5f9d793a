"""The rules that look at a statement, each a function of one node and what is known around it.

A rule names the classes of node it looks at, so one that does not concern a statement costs nothing.
``docs/query_rules.md`` explains each code; a code keeps its meaning for ever.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sqlglot import exp

from bot.core.query_optimizer.models import Finding, Severity
from bot.core.query_optimizer.sql.analyzer import Reading
from bot.core.query_optimizer.sql.census import Census, functions_among
from bot.core.query_optimizer.sql.column_types import exact_family, family_shown
from bot.core.query_optimizer.sql.schema import Schema
from bot.core.query_optimizer.sql.scopes import (
    COMPARISONS,
    SETS,
    ColumnKey,
    Scope,
    Scopes,
    Source,
    bare,
    in_filter,
    is_constant,
    is_limited,
    is_plain_constant,
    key_of,
    line_of,
    operands,
    select_in,
    written,
)

LONG_LIST = 100
"""Values in an IN from which Q023 speaks."""


class Facts:
    """What a rule may ask besides its node."""

    __slots__ = ("census", "dialect", "reading", "schema", "scopes")

    def __init__(self, reading: Reading, census: Census, schema: Schema | None) -> None:
        self.reading = reading
        self.dialect = reading.dialect
        self.census = census
        self.scopes = Scopes(census, schema)
        self.schema = schema

    def scope(self, node: Any) -> Scope | None:
        return self.scopes.by_node.get(id(node))

    def is_root(self, node: Any) -> bool:
        return node is self.census.statement

    def family(self, column: Any) -> str:
        """ "whole", "text" and so on, if equal values of the column are known to be one; else empty."""
        return exact_family(column, self.scopes.around(column), self.dialect)

    def shows_exact_values(self, select: Any) -> bool:
        scope = self.scope(select)
        return all(family_shown(item, scope, self.dialect) for item in select.expressions)


Advice = tuple[str, str]
"""(what is wrong, what to do)"""

Check = Callable[[Any, Facts], Advice | None]

Needs = Callable[[frozenset[type]], bool]


class Rule(NamedTuple):
    code: str
    name: str
    severity: Severity
    classes: tuple[type, ...]
    check: Check
    needs: Needs
    """Whether it can find anything in a statement made of nodes of these classes."""


RULES: list[Rule] = []
_BY_CLASS: dict[type, list[Rule]] = {}


def rule(
    code: str, name: str, severity: Severity, *classes: type, needs: tuple[type, ...] | Needs = ()
) -> Callable[[Check], Check]:
    """Register a rule for nodes of these classes; ``needs``: one of these must be in the statement too."""

    required = () if callable(needs) else needs

    def there(kinds: frozenset[type]) -> bool:
        return not required or not kinds.isdisjoint(required)

    def register(check: Check) -> Check:
        found = Rule(code, name, severity, classes, check, needs if callable(needs) else there)
        RULES.append(found)
        for kind in classes:
            _BY_CLASS.setdefault(kind, []).append(found)
        return check

    return register


def findings_of(facts: Facts) -> list[Finding]:
    """What the rules find in one statement, in the order of their codes, each thing once."""
    found: dict[tuple[str, str], Finding] = {}
    by_class = facts.census.by_class
    for kind, rules in _applicable(tuple(by_class)):
        nodes = by_class[kind]
        if kind in _COMPARISONS:
            nodes = [node for node in nodes if not _is_plain(node.args)]
        for applied in rules:
            check = applied.check
            for node in nodes:
                advice = check(node, facts)
                if advice is not None and (applied.code, advice[0]) not in found:
                    found[applied.code, advice[0]] = Finding(
                        applied.code, applied.name, applied.severity, *advice, line_of(node)
                    )
    if len(found) < 2:
        return list(found.values())
    return sorted(found.values(), key=lambda finding: (finding.code, finding.line))


_COMPARISONS = frozenset((*COMPARISONS, exp.NEQ))


def _is_plain(args: dict[str, Any]) -> bool:
    """Whether a comparison is of a column with a literal: most are, and no rule has anything to say."""
    return args["this"].__class__ is exp.Column and args["expression"].__class__ is exp.Literal


@functools.lru_cache(maxsize=1024)
def _applicable(kinds: tuple[type, ...]) -> tuple[tuple[type, tuple[Rule, ...]], ...]:
    """The rules that may find something in a statement made of nodes of these classes."""
    there = frozenset(kinds)
    chosen = []
    for kind in kinds:
        rules = tuple(rule for rule in _BY_CLASS.get(kind, ()) if rule.needs(there))
        if rules:
            chosen.append((kind, rules))
    return tuple(chosen)


# Writes.


@rule("Q001", "update-without-where", "error", exp.Update)
def _update_without_where(node: Any, facts: Facts) -> Advice | None:
    if _is_within(node, exp.When) or node.args.get("where") or not _names_table(node) or is_limited(node):
        return None
    if node.args.get("from_") or node.this.args.get("joins"):
        return None  # a join restricts it
    return f"UPDATE of every row of {node.this.name}.", "Add a WHERE, or WHERE TRUE if all are meant."


@rule("Q002", "delete-without-where", "error", exp.Delete)
def _delete_without_where(node: Any, facts: Facts) -> Advice | None:
    if node.args.get("where") or node.args.get("using") or not _names_table(node) or is_limited(node):
        return None
    if node.this.args.get("joins") or node.args.get("tables"):
        return None
    return f"DELETE of every row of {node.this.name}.", "Add a WHERE; TRUNCATE is faster if all are meant."


@rule("Q018", "insert-without-columns", "warning", exp.Insert)
def _insert_without_columns(node: Any, facts: Facts) -> Advice | None:
    if node.this.__class__ is not exp.Table or node.args.get("expression") is None:
        return None
    return (
        f"INSERT INTO {node.this.name} without a list of columns: it breaks, or fills the wrong ones, when "
        "the table changes.",
        f"Write INSERT INTO {node.this.name} (column, ...).",
    )


@rule("Q035", "replace-into", "info", exp.Insert)
def _replace_into(node: Any, facts: Facts) -> Advice | None:
    first = facts.reading.tokens[0].text.upper()
    alternative = str(node.args.get("alternative") or "").upper()
    if alternative != "REPLACE" and not (first == "REPLACE" and facts.is_root(node)):
        return None
    fix = "ON DUPLICATE KEY UPDATE" if facts.dialect == "mysql" else "ON CONFLICT (...) DO UPDATE"
    return (
        "REPLACE deletes the old row and inserts a new one: columns left out are lost, and foreign keys "
        "cascade.",
        f"Use INSERT ... {fix}.",
    )


@rule("Q036", "table-without-key", "info", exp.Create)
def _table_without_key(node: Any, facts: Facts) -> Advice | None:
    if str(node.args.get("kind")).upper() != "TABLE" or node.this.__class__ is not exp.Schema:
        return None
    if node.args.get("expression") is not None or node.find(
        exp.PrimaryKey, exp.PrimaryKeyColumnConstraint, exp.UniqueColumnConstraint,
        exp.TemporaryProperty, exp.PartitionedOfProperty, exp.InheritsProperty, exp.LikeProperty,
    ):  # fmt: skip
        return None
    if not node.find(exp.ColumnDef):
        return None
    if facts.schema is not None and facts.schema.has_key(node.this.this.name):
        return None  # a unique index made by a statement of its own
    return (
        f"Table {node.this.this.name} has neither primary key nor unique column: a row can be neither "
        "found quickly nor told from its copy.",
        "Declare a PRIMARY KEY.",
    )


# What is selected.


@rule("Q003", "select-star", "info", exp.Select)
def _select_star(node: Any, facts: Facts) -> Advice | None:
    for item in node.expressions:
        if item.__class__ is exp.Star or (item.__class__ is exp.Column and item.this.__class__ is exp.Star):
            break
    else:
        return None
    scope = facts.scope(node)
    tables = [source for source in scope.sources.values() if source.is_base] if scope else []
    if not tables or node.parent.__class__ is exp.Exists:
        return None
    if node.parent.__class__ is exp.Subquery and node.parent.parent.__class__ is exp.Exists:
        return None
    names = ", ".join(dict.fromkeys(source.name for source in tables))
    return (
        f"SELECT * reads every column of {names}, and others once the table changes.",
        "Name the columns that are used.",
    )


@rule("Q011", "unbounded-result", "info", exp.Select)
def _unbounded_result(node: Any, facts: Facts) -> Advice | None:
    if not facts.is_root(node) or is_limited(node):
        return None
    args = node.args
    if any(args.get(name) for name in ("where", "group", "having", "distinct", "into", "qualify")):
        return None
    scope = facts.scope(node)
    if scope is None or not scope.sources or not all(s.is_base for s in scope.sources.values()):
        return None
    if any(_has_aggregate(item) for item in node.expressions):
        return None
    names = ", ".join(source.name for source in scope.sources.values())
    return (
        f"Every row of {names} is fetched: neither WHERE nor LIMIT.",
        "Add a WHERE or a LIMIT, or read in pages by the key.",
    )


@rule("Q024", "correlated-scalar-subquery", "warning", exp.Subquery)
def _correlated_scalar_subquery(node: Any, facts: Facts) -> Advice | None:
    select = node.this
    if select.__class__ is not exp.Select:
        return None
    above = node
    while above.parent is not None and above.parent.__class__ not in (exp.Select, exp.Exists, exp.In):
        above = above.parent
    outer = above.parent
    if outer.__class__ is not exp.Select or above.arg_key != "expressions" or not outer.args.get("from_"):
        return None
    scope, around = facts.scope(select), facts.scope(outer)
    if scope is None or around is None or not scope.sources:
        return None
    for column in select.find_all(exp.Column):
        qualifier = column.table.lower()
        if qualifier and qualifier not in scope.sources and qualifier in around.sources:
            source = next(iter(scope.sources.values()))
            return (
                f"The subquery on {source.name or 'a subquery'} runs once for each row of the outer query.",
                "Join it, grouped by what it is compared with, or use a window function.",
            )
    return None


@rule("Q012", "redundant-distinct", "warning", exp.Distinct)
def _redundant_distinct(node: Any, facts: Facts) -> Advice | None:
    parent = node.parent
    if parent.__class__ in (exp.Min, exp.Max):
        return f"DISTINCT is not needed in {parent.sql_name()}(): a value counts once there.", "Leave it out."
    why = why_distinct_is_redundant(parent) if parent.__class__ is exp.Select else ""
    if not why:
        return None
    if asks_whether_any(parent) or not _is_compared_again(parent) or facts.shows_exact_values(parent):
        return f"DISTINCT changes nothing: {why}.", "Leave it out."
    return (
        f"DISTINCT is not needed: {why}.",
        "Leave it out, unless what it is compared with has another collation or type.",
    )


def _is_compared_again(select: Any) -> bool:
    """Whether a SELECT's values are compared by others, so that it matters which of equal ones is kept."""
    return asks_existence_only(select) or select.parent.__class__ is exp.Union


def why_distinct_is_redundant(select: Any) -> str:
    """Why the DISTINCT of a SELECT removes no row that is seen; empty if it may.

    Of columns whose equal values may be several (see ``column_types``) it holds as far as the query
    around compares as the columns do.
    """
    distinct = select.args.get("distinct")
    if distinct is None or distinct.args.get("on") is not None or is_limited(select):
        return ""
    if asks_whether_any(select):
        return "EXISTS only asks whether there is a row"
    if asks_existence_only(select):
        return "IN asks whether a value is there, not how often"
    parent = select.parent
    if parent.__class__ is exp.Union and parent.args.get("distinct") and not _is_among_other_sets(parent):
        return "UNION removes duplicates anyway"
    group = select.args.get("group")
    if group is None:
        if select.expressions and all(_is_aggregate(item) for item in select.expressions):
            return "without GROUP BY an aggregate gives one row"
        return ""
    if any(group.args.get(name) for name in ("cube", "rollup", "grouping_sets", "totals", "all")):
        return ""
    keys = [bare(key) for key in group.expressions]
    if not keys or any(key.__class__ is not exp.Column for key in keys):
        return ""
    aliases = {item.alias.lower() for item in select.expressions if item.__class__ is exp.Alias}
    shown = {key_of(item) for item in map(_unaliased, select.expressions) if item.__class__ is exp.Column}
    if all(key_of(key) in shown and key.name.lower() not in aliases for key in keys):
        return "the columns of GROUP BY are selected, so no row comes twice"
    return ""


def _is_among_other_sets(union: Any) -> bool:
    """Whether INTERSECT or EXCEPT stand beside it: which of them goes first differs by database."""
    top = union
    while top.parent.__class__ in SETS:
        top = top.parent
    return any(node is not top and node.__class__ is not exp.Union for node in top.find_all(*SETS)) or (
        top.__class__ is not exp.Union
    )


@rule("Q015", "union-removes-duplicates", "info", exp.Union)
def _union(node: Any, facts: Facts) -> Advice | None:
    if not node.args.get("distinct"):
        return None
    if asks_existence_only(node) and not is_limited(node):
        if asks_whether_any(node):
            return "UNION sorts out duplicates that EXISTS does not care about.", "Use UNION ALL."
        return (
            "UNION sorts out duplicates, and IN asks whether a value is there, not how often.",
            "Use UNION ALL, unless what it is compared with has another collation or type.",
        )
    left, right = select_in(node.this), select_in(node.args["expression"])
    if left.__class__ is exp.Select and right.__class__ is exp.Select:
        for one, other in zip(left.expressions, right.expressions, strict=False):
            if _differ_surely(_unaliased(one), _unaliased(other)):
                return (
                    "The parts of this UNION cannot have a row in common, yet all are compared.",
                    "Use UNION ALL unless one part repeats rows by itself.",
                )
    return None


def _differ_surely(one: Any, other: Any) -> bool:
    """Whether two literals are equal in no collation: words that differ in more than case and accents."""
    if one.__class__ is not exp.Literal or other.__class__ is not exp.Literal:
        return False
    if one.is_string != other.is_string:
        return False
    first, second = str(one.this), str(other.this)
    if not one.is_string:
        return first.isdigit() and second.isdigit() and int(first[:40]) != int(second[:40])
    if not (first.isascii() and first.isalpha() and second.isascii() and second.isalpha()):
        return False
    return first.lower() != second.lower()


# What is joined.


@rule("Q006", "implicit-cross-join", "warning", exp.Select)
def _implicit_cross_join(node: Any, facts: Facts) -> Advice | None:
    scope = facts.scope(node)
    if scope is None or len(scope.sources) < 2:
        return None
    for join in scope.joins:
        if _joined_by_comma(join):
            break
    else:
        return None
    if any(_may_be_one_row_or_lateral(s, node) for s in scope.sources.values()):
        return None
    group = {name: name for name in scope.sources}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    unclear = 0
    conditions = [*scope.conditions()]
    for join in scope.joins:
        on = join.args.get("on")
        if on is not None:
            conditions += operands(on, exp.And)
        if on is None and not _joined_by_comma(join):
            # USING, NATURAL and CROSS join with what stands before.
            names = list(scope.sources)
            alias = join.this.alias_or_name.lower()
            if alias in names and names.index(alias):
                group[root(alias)] = root(names[names.index(alias) - 1])
    for condition in conditions:
        columns = list(condition.find_all(exp.Column))
        named = {column.table.lower() for column in columns if column.table} & scope.sources.keys()
        if any(not column.table for column in columns) and len(columns) > 1:
            unclear += 1
        first = next(iter(named), None)
        for name in named:
            group[root(name)] = root(first or name)
    parts = {root(name) for name in scope.sources}
    if len(parts) - unclear <= 1:
        return None
    names = [source.name or source.alias for source in scope.sources.values()]
    return (
        f"{' and '.join(names[:3])} are joined by a comma and nothing relates them: every row of one meets "
        "every row of the other.",
        "Write JOIN ... ON, or CROSS JOIN if that is meant.",
    )


@rule("Q020", "outer-join-made-inner", "warning", exp.Join)
def _outer_join_made_inner(node: Any, facts: Facts) -> Advice | None:
    scope = facts.scope(node.parent)
    condition = why_join_is_inner(node, scope) if scope is not None else None
    if condition is None:
        return None
    name = node.this.alias_or_name
    return (
        f"LEFT JOIN {name} keeps rows without a match, and a condition of WHERE on {name} drops them.",
        "Write JOIN, or move the condition into ON if the rows are wanted.",
    )


def why_join_is_inner(join: Any, scope: Scope) -> Any:
    """The condition of WHERE that no row without a match meets; None if there is none."""
    side = join.args.get("side")
    if not side or side.upper() != "LEFT" or join.args.get("method") or join.this.__class__ is not exp.Table:
        return None
    if (join.args.get("kind") or "").upper() not in ("", "OUTER"):
        return None  # LEFT ANTI JOIN and the like
    alias = join.this.alias_or_name.lower()
    if scope.has_doubled_names:
        return None
    for condition in scope.conditions():
        if _rejects_null_of(condition, alias):
            return condition
    return None


def _is_null(condition: Any) -> bool:
    """Whether it is ``x IS NULL``; some dialects' IS NOT NULL is an Is as well."""
    return (
        condition.__class__ is exp.Is
        and condition.args["expression"].__class__ is exp.Null
        and not condition.args.get("negate")
    )


_NULL_REJECTING = frozenset((*COMPARISONS, exp.NEQ, exp.Like, exp.ILike))
_MAY_TAKE_A_SIDE = _NULL_REJECTING | {exp.Is, exp.In, exp.Between, exp.Not, exp.And, exp.Or}


def _rejects_null_of(condition: Any, alias: str) -> bool:
    """Whether a condition is never true when every column of ``alias`` is NULL."""
    kind = condition.__class__
    if kind in _NULL_REJECTING:
        sides = [bare(condition.this), bare(condition.args["expression"])]
        if any(side.__class__ in _MAY_TAKE_A_SIDE for side in sides):
            return False  # a = 1 IS NULL: to most databases a condition on what a = 1 gives
    elif (
        kind is exp.Between
        or (kind is exp.In and condition.expressions)
        or (
            kind is exp.Is
            and condition.args.get("negate")
            and condition.args["expression"].__class__ is exp.Null
        )
    ):
        sides = [bare(condition.this)]
    elif kind is exp.Not:
        inner = bare(condition.this)
        if _is_null(inner):
            sides = [bare(inner.this)]
        else:
            return False
    else:
        return False
    return any(side.__class__ is exp.Column and side.table.lower() == alias for side in sides)


@rule("Q025", "natural-join", "warning", exp.Join)
def _natural_join(node: Any, facts: Facts) -> Advice | None:
    if (node.args.get("method") or "").upper() != "NATURAL":
        return None
    return (
        f"NATURAL JOIN {node.this.alias_or_name} joins by whatever columns have the same name: a new "
        "column changes the result.",
        "Write JOIN ... USING (column) or ON.",
    )


@rule("Q026", "comma-beside-join", "warning", exp.Select)
def _comma_beside_join(node: Any, facts: Facts) -> Advice | None:
    if facts.dialect == "sqlite":
        return None  # which joins from left to right
    joins = node.args.get("joins") or ()
    commas = [j for j in joins if _joined_by_comma(j) and j.this.__class__ in (exp.Table, exp.Subquery)]
    if not commas or all(_joined_by_comma(join) for join in joins):
        return None
    if any(join.this.find(exp.Anonymous, exp.Unnest, exp.Lateral) for join in commas):
        return None
    return (
        "Commas and JOIN in one FROM: JOIN binds more tightly, so its ON cannot see the tables before the "
        "comma.",
        "Write every table with JOIN.",
    )


@rule("Q038", "unused-outer-join", "warning", exp.Join)
def _unused_outer_join(node: Any, facts: Facts) -> Advice | None:
    scope = facts.scope(node.parent)
    if scope is None or not is_join_unused(node, scope):
        return None
    if node.parent.args.get("distinct"):
        effect = "it repeats rows, which DISTINCT removes again"
    else:
        effect = "all it can do is to repeat rows"
    return f"LEFT JOIN {node.this.alias_or_name} is not used: {effect}.", "Leave it out."


def is_join_unused(join: Any, scope: Scope) -> bool:
    """Whether a LEFT JOIN's columns stand in its own ON only, as far as the query tells."""
    select = scope.node
    if select.__class__ is not exp.Select or select.args.get("group") or (join.side or "").upper() != "LEFT":
        return False
    if select.args.get("locks") or scope.has_doubled_names:
        return False  # FOR UPDATE locks its rows, too
    on = join.args.get("on")
    if on is None or join.args.get("method") or join.this.__class__ is not exp.Table:
        return False
    if join.parent is not select or any(source.node.args.get("joins") for source in scope.sources.values()):
        return False  # a join within a join: what stands in it goes as well
    if any(source.node.__class__ not in (exp.Table, exp.Subquery) for source in scope.sources.values()):
        return False  # a function or LATERAL, that may use it
    if (join.args.get("kind") or "").upper() not in ("", "OUTER"):
        return False
    alias = join.this.alias_or_name.lower()
    inside = {id(column) for column in on.find_all(exp.Column)}
    for node in select.find_all(exp.Column, exp.Star, exp.AggFunc, exp.Anonymous):
        if node.__class__ is not exp.Column:
            return False  # a COUNT(*), SUM and the like count the repeated rows, so they use the join
        table = node.table.lower()
        if id(node) not in inside and (table == alias or not table):
            return False
    return True


# What is filtered.


@rule("Q004", "leading-wildcard", "warning", exp.Like, exp.ILike)
def _leading_wildcard(node: Any, facts: Facts) -> Advice | None:
    pattern = node.args["expression"]
    if pattern.__class__ is not exp.Literal or not pattern.is_string or pattern.this[:1] not in ("%", "_"):
        return None
    if node.parent.__class__ is exp.Not or node.args.get("negate") or not in_filter(node):
        return None
    column = node.this.find(exp.Column)
    if column is None or not pattern.this.strip("%"):
        return None
    fix = {
        "postgres": "Use a trigram index (pg_trgm) or full-text search.",
        "mysql": "Use a FULLTEXT index and MATCH ... AGAINST.",
        "sqlite": "Use an FTS5 table.",
    }.get(facts.dialect, "Use a full-text or trigram index.")
    return (
        f"LIKE {pattern.this!r:.40} begins with a wildcard: no index on {written(column)} can serve it.",
        fix,
    )


_NEVER_ON_COLUMN = (
    exp.AggFunc, exp.Connector, exp.SubqueryPredicate,
    # No index but one on the expression would serve these, whatever they are compared with.
    exp.JSONExtract, exp.JSONExtractScalar, exp.JSONBExtract, exp.JSONBExtractScalar, exp.Case, exp.If,
    exp.Array, exp.ArrayContains, exp.Rand, exp.Exists,
)  # fmt: skip
_NEVER_A_CALL = frozenset((exp.Column, exp.Literal, exp.Placeholder, exp.Parameter, exp.Subquery))


def _may_be_on_column(kinds: frozenset[type]) -> bool:
    """Whether there is a call that Q005 may speak of."""
    return any(not issubclass(kind, _NEVER_ON_COLUMN) for kind in functions_among(tuple(kinds)))


@rule(
    "Q005", "function-on-column", "warning", *COMPARISONS, exp.In, exp.Between, exp.Like, exp.ILike,
    needs=_may_be_on_column,
)  # fmt: skip
def _function_on_column(node: Any, facts: Facts) -> Advice | None:
    if node.__class__ in COMPARISONS:
        pairs = [(node.this, node.args["expression"]), (node.args["expression"], node.this)]
    else:
        pairs = [(node.this, None)]
    for side, other in pairs:
        call = bare(side)
        if call.__class__ in _NEVER_A_CALL or not isinstance(call, exp.Func):
            continue
        if isinstance(call, _NEVER_ON_COLUMN) or not in_filter(node):
            continue
        if call.find(exp.Select, exp.AggFunc, exp.Window):
            continue
        if other is not None and not is_constant(other) and bare(other).__class__ is not exp.Column:
            continue
        columns = list(call.find_all(exp.Column))
        if len({key_of(column) for column in columns}) != 1 or not _in_where_or_on(node):
            continue
        scope = facts.scopes.around(node)
        source = scope.source_of(columns[0]) if scope is not None else None
        if source is not None and not source.is_base:
            continue
        return _advice_on_function(call, columns[0])
    return None


_DATES = (
    exp.Date, exp.TsOrDsToDate, exp.DateTrunc, exp.TimestampTrunc, exp.Year, exp.Month, exp.Extract,
    exp.TimeToStr, exp.Day, exp.Timestamp,
)  # fmt: skip


def _advice_on_function(call: Any, column: Any) -> Advice:
    name = written(column)
    is_cast = call.__class__ in (exp.Cast, exp.TryCast)
    function = "CAST" if is_cast else str(call.name if call.__class__ is exp.Anonymous else call.sql_name())
    what = f"{function.upper()}() on {name}: an index on {name} cannot serve the comparison."
    if call.__class__ in _DATES or (is_cast and call.args["to"].is_type("date", "timestamp", "datetime")):
        return what, f"Compare {name} itself with a range: {name} >= start AND {name} < end."
    if call.__class__ is exp.Coalesce:
        return what, f"Compare {name} itself and test {name} IS NULL apart."
    if call.__class__ in (exp.Lower, exp.Upper):
        return what, "Index the expression, or use a case-insensitive collation."
    return what, "Apply it to the other side of the comparison, or index the expression."


_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.DPipe)


@rule("Q019", "arithmetic-on-column", "warning", *COMPARISONS, exp.Between, exp.In, needs=_ARITHMETIC)
def _arithmetic_on_column(node: Any, facts: Facts) -> Advice | None:
    if node.__class__ in COMPARISONS:
        pairs = [(node.this, node.args["expression"]), (node.args["expression"], node.this)]
    else:
        pairs = [(node.this, None)]
    for side, other in pairs:
        sum_ = bare(side)
        if sum_.__class__ not in _ARITHMETIC:
            continue
        if not _in_where_or_on(node) or sum_.find(exp.Select, exp.AggFunc, exp.Func):
            continue
        columns = list(sum_.find_all(exp.Column))
        if len(columns) != 1 or (other is not None and not is_constant(other)):
            continue
        name = written(columns[0])
        return (
            f"Arithmetic on {name}: an index on {name} cannot serve the comparison.",
            f"Move it to the other side, so that {name} stands alone.",
        )
    return None


@rule("Q008", "not-in-nullable", "warning", exp.In, needs=(exp.Subquery,))
def _not_in_nullable(node: Any, facts: Facts) -> Advice | None:
    query = node.args.get("query")
    if query is None or (node.parent.__class__ is not exp.Not and not node.args.get("negate")):
        return None
    select = select_in(query)
    if select.__class__ is not exp.Select or len(select.expressions) != 1:
        return None
    column = _unaliased(select.expressions[0])
    if column.__class__ is not exp.Column or column.this.__class__ is exp.Star:
        return None
    scope = facts.scope(select)
    source = scope.source_of(column) if scope is not None else None
    if column.name.lower() == "id" or scope is None:
        return None  # by convention the primary key
    if facts.schema is not None and source is not None and facts.schema.is_not_null(source.name, column.name):
        return None
    key = key_of(column)
    for condition in scope.conditions():
        if condition.__class__ is exp.Or:
            continue
        if any(key_of(found) == key for found in _columns_not_null(condition)):
            return None
    return (
        f"NOT IN over {written(column)}: if it is NULL in one row, the condition is true for none.",
        f"Use NOT EXISTS, or add {written(column)} IS NOT NULL to the subquery.",
    )


def _columns_not_null(condition: Any) -> Iterator[Any]:
    """Columns that cannot be NULL where the condition is true."""
    kind = condition.__class__
    if kind is exp.Not:
        inner = bare(condition.this)
        if _is_null(inner):
            yield from inner.this.find_all(exp.Column)
    elif kind is exp.Is:
        if condition.args.get("negate") and condition.args["expression"].__class__ is exp.Null:
            yield from condition.this.find_all(exp.Column)
    elif kind in (*COMPARISONS, exp.NEQ, exp.In, exp.Between, exp.Like):
        for side in (condition.this, condition.args.get("expression")):
            if bare(side).__class__ is exp.Column:
                yield bare(side)


@rule("Q009", "or-across-columns", "info", exp.Where, needs=(exp.Or,))
def _or_across_columns(node: Any, facts: Facts) -> Advice | None:
    condition = bare(node.this)
    if condition.__class__ is not exp.Or:
        return None
    names: dict[ColumnKey, str] = {}
    for side in operands(condition, exp.Or):
        if side.__class__ not in (*COMPARISONS, exp.In, exp.Between):
            return None
        column = bare(side.this)
        if column.__class__ is not exp.Column:
            return None
        names[key_of(column)] = written(column)
    if len(names) < 2:
        return None
    listed = ", ".join(names.values())
    return (
        f"OR across {listed}: no single index serves it.",
        f"Index each of {listed}, or write one query for each and UNION them.",
    )


@rule("Q013", "compared-with-null", "error", *COMPARISONS, exp.NEQ, exp.In, needs=(exp.Null,))
def _compared_with_null(node: Any, facts: Facts) -> Advice | None:
    if node.__class__ is exp.In:
        if not any(item.__class__ is exp.Null for item in node.expressions) or not in_filter(node):
            return None
        if node.parent.__class__ is exp.Not or node.args.get("negate"):
            return "NOT IN with NULL in its list is true for no row.", "Leave NULL out; test IS NOT NULL."
        return "NULL in an IN list matches nothing.", "Test IS NULL apart."
    if exp.Null not in (bare(node.this).__class__, bare(node.args["expression"]).__class__):
        return None
    if not in_filter(node):
        return None  # SET x = NULL looks the same
    return "A comparison with NULL is true for no row.", "Use IS NULL or IS NOT NULL."


@rule("Q016", "having-without-aggregate", "info", exp.Having)
def _having(node: Any, facts: Facts) -> Advice | None:
    movable = conditions_for_where(node)
    if not movable:
        return None
    names = ", ".join(dict.fromkeys(written(c) for m in movable for c in m.find_all(exp.Column)))
    return f"HAVING on {names} filters after all rows were grouped.", "Put that condition into WHERE."


def conditions_for_where(having: Any) -> list[Any]:
    """The conditions of a HAVING that compare plain columns of GROUP BY with constants."""
    select = having.parent
    group = select.args.get("group")
    if group is None or any(group.args.get(n) for n in ("cube", "rollup", "grouping_sets", "totals", "all")):
        return []
    plain = []
    for condition in operands(having.this, exp.And):
        if condition.__class__ in (*COMPARISONS, exp.NEQ):
            column = bare(condition.this)
            if column.__class__ is exp.Column and is_plain_constant(condition.args["expression"]):
                plain.append((condition, column))
    if not plain:
        return []
    keys = {key_of(key) for key in group.expressions if key.__class__ is exp.Column}
    aliases = {item.alias.lower() for item in select.expressions if item.__class__ is exp.Alias}
    return [
        condition
        for condition, column in plain
        if key_of(column) in keys and column.name.lower() not in aliases
    ]


@rule("Q017", "count-to-test-existence", "warning", *COMPARISONS, exp.NEQ, needs=(exp.Subquery,))
def _count_to_test_existence(node: Any, facts: Facts) -> Advice | None:
    exists = count_as_existence(node)
    if exists is None:
        return None
    return (
        "COUNT(*) counts every row, only to tell whether there is one.",
        f"Use {'EXISTS' if exists[0] else 'NOT EXISTS'} (SELECT 1 ...): it stops at the first.",
    )


_AS_EXISTENCE = {
    (exp.GT, "0"): True, (exp.GTE, "1"): True, (exp.NEQ, "0"): True,
    (exp.EQ, "0"): False, (exp.LT, "1"): False, (exp.LTE, "0"): False,
}  # fmt: skip
_MIRRORED = {exp.GT: exp.LT, exp.LT: exp.GT, exp.GTE: exp.LTE, exp.LTE: exp.GTE}


def count_as_existence(comparison: Any) -> tuple[bool, Any] | None:
    """(whether it asks for a row or for none, the SELECT) of ``(SELECT COUNT(*) ...) > 0``."""
    kind = comparison.__class__
    query, value = comparison.this, comparison.args["expression"]
    if query.__class__ is exp.Literal:
        query, value, kind = value, query, _MIRRORED.get(kind, kind)
    if query.__class__ is not exp.Subquery or value.__class__ is not exp.Literal or value.is_string:
        return None
    wanted = _AS_EXISTENCE.get((kind, value.this))
    select = select_in(query)
    if wanted is None or select.__class__ is not exp.Select or len(select.expressions) != 1:
        return None
    count = _unaliased(select.expressions[0])
    counted = count.this if count.__class__ is exp.Count else None
    if not (counted.__class__ is exp.Star or (counted.__class__ is exp.Literal and not counted.is_string)):
        return None
    args = select.args
    if any(args.get(n) for n in ("group", "having", "distinct", "limit", "offset", "qualify", "with_")):
        return None
    return (wanted, select) if args.get("from_") else None


@rule("Q023", "long-in-list", "info", exp.In)
def _long_in_list(node: Any, facts: Facts) -> Advice | None:
    if len(node.expressions) < LONG_LIST:
        return None
    fix = {
        "postgres": "Pass one array: = ANY($1).",
        "sqlite": "Pass one JSON array: IN (SELECT value FROM json_each(?)).",
    }.get(facts.dialect, "Put the values into a temporary table and join it, or ask in parts.")
    column = node.this.find(exp.Column)
    name = written(column) if column is not None else "an expression"
    return f"{len(node.expressions)} values in the IN of {name}: parsed and planned anew each time.", fix


@rule("Q027", "compared-with-itself", "warning", *COMPARISONS, exp.NEQ)
def _compared_with_itself(node: Any, facts: Facts) -> Advice | None:
    one, other = bare(node.this), bare(node.args["expression"])
    if one.__class__ is not exp.Column or other.__class__ is not exp.Column or key_of(one) != key_of(other):
        return None
    if not in_filter(node):
        return None  # SET x = x has its uses
    if written(one) != written(other):
        return None  # T.a and t.a may be of two tables in MySQL
    instead = f", or {written(one)} IS NOT NULL" if node.__class__ in (exp.EQ, exp.GTE, exp.LTE) else ""
    return f"{written(one)} is compared with itself.", f"Say which two columns are meant{instead}."


_MOMENT_WORDS = ("time", "timestamp", "datetime", "created", "updated", "modified", "when")


@rule("Q028", "between-dates", "info", exp.Between)
def _between_dates(node: Any, facts: Facts) -> Advice | None:
    column, high = bare(node.this), node.args["high"]
    if column.__class__ is not exp.Column or high.__class__ is not exp.Literal or not high.is_string:
        return None
    name = column.name.lower()
    if not (name.endswith(("_at", "_ts", "_time")) or name in _MOMENT_WORDS):
        return None
    text = high.this
    if len(text) != 10 or text[4] != "-" or text[7] != "-":
        return None
    return (
        f"BETWEEN ends at midnight of {text}: what {written(column)} holds of that day is left out.",
        f"Write {written(column)} >= start AND {written(column)} < the day after.",
    )


@rule("Q030", "never-true", "error", exp.And)
def _never_true(node: Any, facts: Facts) -> Advice | None:
    if node.parent.__class__ in (exp.And, exp.Paren) or not in_filter(node):
        return None  # the outermost AND speaks for all
    equalities = [side for side in operands(node, exp.And) if side.__class__ is exp.EQ]
    if len(equalities) < 2:
        return None
    equal: dict[ColumnKey, Any] = {}
    columns: dict[ColumnKey, str] = {}
    for condition in equalities:
        column, value = bare(condition.this), bare(condition.args["expression"])
        if column.__class__ is not exp.Column or value.__class__ is not exp.Literal:
            continue
        before = equal.setdefault(key_of(column), value)
        if before is value:
            columns[key_of(column)] = written(column)
            continue
        if written(column) == columns[key_of(column)] and _are_never_equal(before, value, column, facts):
            return (
                f"{written(column)} cannot equal {before.this!r:.30} and {value.this!r:.30} at once: the "
                "condition is never true.",
                "Use OR, or leave one out.",
            )
    return None


def _are_never_equal(one: Any, other: Any, column: Any, facts: Facts) -> bool:
    """Whether no value of the column equals both literals.

    Strings: where the column is known to tell any two apart. 'a' and 'A' may be one, as may '1' and '01',
    '2024-01-01' and '2024-01-01 00:00', and any two words for MySQL's numbers. Numbers: where no float
    comes between, and in MySQL where they cannot be a year or a date in two notations.
    """
    if one.is_string != other.is_string:
        return False
    first, second = str(one.this), str(other.this)
    if one.is_string:
        return first != second and facts.family(column) == "text"
    if len(first) > 15 or len(second) > 15 or float(first) == float(second):
        return False
    if facts.dialect in ("postgres", "sqlite") or facts.family(column) == "whole":
        return True
    if not (first.isdigit() and second.isdigit() and len(first) == len(second)):
        return False
    return len(first) == 1 or "0" not in (first[0], second[0])


@rule("Q031", "repeated-condition", "info", exp.And, exp.Or)
def _repeated_condition(node: Any, facts: Facts) -> Advice | None:
    if node.parent.__class__ is node.__class__:
        return None
    repeated = repeated_operands(node)
    if not repeated:
        return None
    column = repeated[0].find(exp.Column)
    on = f" on {written(column)}" if column is not None else ""
    return f"The same condition{on} stands there twice.", "Leave one out, or correct it."


def repeated_operands(connector: Any) -> list[Any]:
    """Those operands of an AND or OR that equal one before them."""
    sides = operands(connector, connector.__class__)
    if len({side.__class__ for side in sides}) == len(sides):
        return []
    seen: dict[Any, list[Any]] = {}
    found = []
    for side in sides:
        this = side.args.get("this")
        key = (side.__class__, key_of(this) if this.__class__ is exp.Column else None)
        alike = seen.get(key)
        if alike is None:
            seen[key] = [side]
        elif any(side == other for other in alike) and not _has_positional_parameter(side):
            found.append(side)
        else:
            alike.append(side)
    return found


def _has_positional_parameter(node: Any) -> bool:
    """Two of them look the same and stand for different values."""
    return any(parameter.args.get("this") is None for parameter in node.find_all(exp.Placeholder))


@rule("Q032", "always-true", "info", exp.EQ, exp.Boolean)
def _always_true(node: Any, facts: Facts) -> Advice | None:
    if not is_always_true(node) or not in_filter(node) or not _in_where_or_having(node):
        return None
    if node.parent.__class__ is exp.Where and node.parent.parent.__class__ in (exp.Update, exp.Delete):
        return None  # WHERE TRUE says that all rows are meant
    return "A condition that is always true.", "Leave it out."


def is_always_true(node: Any) -> bool:
    """``TRUE`` or ``1 = 1``."""
    if node.__class__ is exp.Boolean:
        return bool(node.this)
    if node.__class__ is not exp.EQ:
        return False
    one, other = bare(node.this), bare(node.args["expression"])
    if one.__class__ is not exp.Literal or other.__class__ is not exp.Literal:
        return False
    return bool(one.is_string == other.is_string and one.this == other.this)


@rule("Q034", "like-without-wildcard", "info", exp.Like)
def _like_without_wildcard(node: Any, facts: Facts) -> Advice | None:
    pattern = node.args["expression"]
    if pattern.__class__ is not exp.Literal or not pattern.is_string or not in_filter(node):
        return None
    if any(mark in pattern.this for mark in "%_\\") or bare(node.this).__class__ is not exp.Column:
        return None
    name = written(bare(node.this))
    hint = " (with COLLATE NOCASE if case must not matter)" if facts.dialect in ("", "sqlite") else ""
    return f"LIKE without a wildcard on {name}.", f"Compare with ={hint}."


@rule("Q037", "or-of-equalities", "info", exp.Or)
def _or_of_equalities(node: Any, facts: Facts) -> Advice | None:
    if node.parent.__class__ is exp.Or or not in_filter(node):
        return None
    for column, sides in equalities_by_column(node):
        if len(sides) > 1:
            return f"{len(sides)} equalities on {written(column)} joined by OR.", "Use IN."
    return None


def equalities_by_column(connector: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Columns, each with the ``column = constant`` of one kind that an OR has for it."""
    found: dict[Any, tuple[Any, list[Any]]] = {}
    for side in operands(connector, exp.Or):
        if side.__class__ is not exp.EQ:
            continue
        column, value = bare(side.this), bare(side.args["expression"])
        if column.__class__ is not exp.Column or not is_plain_constant(value):
            continue
        kind = (value.__class__, value.args.get("is_string"))
        if value.__class__ is exp.Literal and not value.is_string and not value.this.isdigit():
            continue  # 1 and 1.5 need not be of one type
        if value.__class__ not in (exp.Literal, exp.Placeholder, exp.Parameter):
            continue
        found.setdefault((key_of(column), kind), (column, []))[1].append(side)
    yield from found.values()


def _is_inside(connector: Any) -> bool:
    """Whether an AND or OR is an operand of another of its kind, which is looked at with all of them."""
    parent = connector.parent
    while parent.__class__ is exp.Paren:
        parent = parent.parent
    return parent.__class__ is connector.__class__


@rule("Q039", "optional-filter", "info", exp.Or)
def _optional_filter(node: Any, facts: Facts) -> Advice | None:
    if _is_inside(node) or not in_filter(node):
        return None
    for side in operands(node, exp.Or):
        if side.__class__ is not exp.Is or side.args.get("negate"):
            continue
        if bare(side.this).__class__ in (exp.Placeholder, exp.Parameter):
            return (
                "A filter that a NULL parameter switches off: one plan has to serve both cases, so no index "
                "does.",
                "Leave the condition out of the text when there is nothing to filter by.",
            )
    return None


# What is ordered and cut off.


@rule("Q007", "offset-paging", "warning", exp.Offset)
def _offset_paging(node: Any, facts: Facts) -> Advice | None:
    value = node.args["expression"]
    if value.__class__ is exp.Literal and value.this == "0":
        return None
    return (
        "OFFSET reads and throws away every row before the page.",
        "Remember the last row's key: WHERE key > ? ORDER BY key LIMIT n.",
    )


@rule("Q010", "order-by-random", "warning", exp.Ordered, needs=(exp.Rand, exp.Anonymous))
def _order_by_random(node: Any, facts: Facts) -> Advice | None:
    by = bare(node.this)
    is_random = by.__class__ is exp.Rand or (
        by.__class__ is exp.Anonymous and by.name.lower() in ("random", "rand", "newid")
    )
    if not is_random:
        return None
    fix = "TABLESAMPLE, or " if facts.dialect == "postgres" else ""
    return (
        "ORDER BY random() draws a number for every row and sorts them all.",
        f"Use {fix}a random key: WHERE id >= ? ORDER BY id LIMIT n.",
    )


@rule("Q014", "limit-without-order", "info", exp.Limit)
def _limit_without_order(node: Any, facts: Facts) -> Advice | None:
    query = node.parent
    if query.__class__ not in (exp.Select, *SETS) or query.args.get("order"):
        return None
    value = node.args.get("expression")
    if value.__class__ is exp.Literal and value.this in ("0", "1"):
        return None
    if query.__class__ is exp.Select:
        if not query.args.get("from_") or asks_existence_only(query):
            return None
        if not query.args.get("group") and any(_has_aggregate(item) for item in query.expressions):
            return None
    return "LIMIT without ORDER BY: which rows come is up to the database.", "Add an ORDER BY."


@rule("Q021", "order-by-position", "info", exp.Ordered)
def _order_by_position(node: Any, facts: Facts) -> Advice | None:
    if node.this.__class__ is not exp.Literal or node.this.is_string:
        return None
    if node.parent.parent.__class__ not in (exp.Select, *SETS):
        return None  # in a window it is a constant
    return (
        f"ORDER BY {node.this.this} sorts by whatever column comes there.",
        "Name the column.",
    )


@rule("Q022", "order-in-subquery", "info", exp.Order)
def _order_in_subquery(node: Any, facts: Facts) -> Advice | None:
    select = node.parent
    if select.__class__ is not exp.Select or is_limited(select) or facts.is_root(select):
        return None
    if select.args.get("distinct") is not None and select.args["distinct"].args.get("on") is not None:
        return None
    if asks_existence_only(select):
        return "ORDER BY in the subquery of IN or EXISTS sorts for nothing.", "Leave it out."
    parent = select.parent
    if parent.__class__ is exp.Subquery and parent.parent.__class__ in (exp.From, exp.Join):
        outer = facts.scopes.around(parent)
        if outer is not None and outer.node.find(exp.Anonymous, exp.GroupConcat, exp.ArrayAgg, exp.Window):
            return None  # they see the order in practice
        return (
            "The order of a subquery in FROM is not kept by the query around it.",
            "Move ORDER BY to the end of the outer query.",
        )
    return None


@rule("Q029", "lock-without-where", "warning", exp.Lock)
def _lock_without_where(node: Any, facts: Facts) -> Advice | None:
    select = node.parent
    if select.__class__ is not exp.Select or select.args.get("where") or is_limited(select):
        return None
    return (
        "A locking read without WHERE locks every row of the table.",
        "Add a WHERE that picks the rows to be changed.",
    )


@rule("Q033", "unused-cte", "warning", exp.With)
def _unused_cte(node: Any, facts: Facts) -> Advice | None:
    used = {
        table.name.lower() for table in facts.census.all(exp.Table) if table.args.get("db") is None
    }  # fmt: skip
    for cte in node.expressions:
        if cte.alias.lower() in used or cte.this.find(exp.Insert, exp.Update, exp.Delete, exp.Merge):
            continue
        if facts.census.statement.find(exp.Command):
            continue
        return f"WITH {cte.alias} is never used.", "Leave it out."
    return None


# Shared.


def _unaliased(item: Any) -> Any:
    return item.this if item.__class__ is exp.Alias else item


def _is_within(node: Any, kind: type) -> bool:
    return node.parent.__class__ is kind


def _names_table(node: Any) -> bool:
    return node.this.__class__ is exp.Table and bool(node.this.name)


def _is_aggregate(item: Any) -> bool:
    return isinstance(_unaliased(item), exp.AggFunc)


def _has_aggregate(item: Any) -> bool:
    for found in item.find_all(exp.AggFunc, exp.Anonymous):
        if found.parent.__class__ is exp.Window:
            continue
        if found.__class__ is not exp.Anonymous or found.name.lower() in ("total", "json_group_array"):
            return True
    return False


def _joined_by_comma(join: Any) -> bool:
    return join is not None and not any(
        join.args.get(name) for name in ("on", "using", "kind", "side", "method")
    )


def _may_be_one_row_or_lateral(source: Source, select: Any) -> bool:
    node = source.node
    if node.__class__ is exp.Table:
        if not source.name:
            return True  # a function
        if source.is_base:
            return False
        # A WITH query: often one row of settings.
        statement = select
        while statement.parent is not None:
            statement = statement.parent
        for cte in statement.find_all(exp.CTE):
            if cte.alias.lower() == source.name.lower():
                return _is_one_row(select_in(cte.this))
        return False
    if node.__class__ is exp.Subquery:
        return _is_one_row(select_in(node))
    return True


def _is_one_row(select: Any) -> bool:
    if select.__class__ is not exp.Select:
        return True
    if not select.args.get("from_"):
        return True
    limit = select.args.get("limit")
    if limit is not None and getattr(limit.args.get("expression"), "this", None) == "1":
        return True
    return not select.args.get("group") and any(_has_aggregate(item) for item in select.expressions)


def asks_existence_only(query: Any) -> bool:
    """Whether a query is the whole of an IN's or EXISTS's subquery."""
    parent = query.parent
    if parent.__class__ is exp.Exists:
        return True
    if parent.__class__ is exp.Subquery:
        if parent.parent.__class__ is exp.Exists:
            return True
        return parent.parent.__class__ is exp.In and parent.arg_key == "query"
    return parent.__class__ is exp.In and query.arg_key == "query"


def asks_whether_any(query: Any) -> bool:
    """Whether a query is the whole of an EXISTS's subquery."""
    parent = query.parent
    if parent.__class__ is exp.Subquery:
        parent = parent.parent
    return parent.__class__ is exp.Exists


def _in_where_or_on(node: Any) -> bool:
    parent = node.parent
    while parent is not None and parent.__class__ in (exp.And, exp.Or, exp.Paren):
        parent = parent.parent
    return parent.__class__ in (exp.Where, exp.Join)


def _in_where_or_having(node: Any) -> bool:
    parent = node.parent
    while parent is not None and parent.__class__ in (exp.And, exp.Or, exp.Paren):
        parent = parent.parent
    return parent.__class__ in (exp.Where, exp.Having)
