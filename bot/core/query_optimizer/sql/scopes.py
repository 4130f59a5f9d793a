"""Which table a column belongs to, and in which clause it stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlglot import exp

from bot.core.query_optimizer.sql.census import Census
from bot.core.query_optimizer.sql.schema import Schema

COMPARISONS = (exp.EQ, exp.GT, exp.GTE, exp.LT, exp.LTE)
SETS = (exp.Union, exp.Intersect, exp.Except)
_SCOPES = frozenset((exp.Select, exp.Update, exp.Delete, *SETS))
_TRANSPARENT = frozenset((exp.And, exp.Or, exp.Not, exp.Paren))
_FILTERS = frozenset((exp.Where, exp.Join, exp.Having))

_CLAUSES = {
    "expressions": "select", "where": "where", "joins": "join", "group": "group_by", "having": "having",
    "order": "order_by", "distinct": "select", "using": "join", "from_": "join",
}  # fmt: skip
"""Clauses by the name of their argument in the tree."""

SYSTEM_SCHEMAS = frozenset(("information_schema", "pg_catalog", "mysql", "performance_schema", "sys"))


class Source:
    """One table, subquery or function in the FROM of a scope."""

    __slots__ = ("alias", "is_base", "join", "name", "node")

    def __init__(self, node: Any, join: Any, with_names: frozenset[str]) -> None:
        self.node = node
        self.join = join
        """The Join that brings it in; None for the first one."""
        is_table = node.__class__ is exp.Table and node.this.__class__ is exp.Identifier
        args = node.args
        self.name: str = args["this"].name if is_table else ""
        alias = args.get("alias")
        self.alias: str = (alias.name if alias is not None else "") or self.name
        db = args.get("db") if is_table else None
        in_catalog = db is not None and db.name.lower() in SYSTEM_SCHEMAS
        renames = alias is not None and alias.__class__ is exp.TableAlias and alias.args.get("columns")
        self.is_base = (
            is_table
            and not renames  # AS t (a, b): the table's own columns go by other names
            and not in_catalog
            and (db is not None or self.name.lower() not in with_names)
            and not self.name.lower().startswith(("pg_", "sqlite_"))
        )


class Scope:
    """A SELECT, UPDATE or DELETE with what it reads from."""

    __slots__ = ("_conditions", "has_doubled_names", "joins", "node", "parent", "schema", "sources")

    def __init__(self, node: Any, with_names: frozenset[str], schema: Schema | None = None) -> None:
        self.node = node
        self.schema = schema
        self.parent: Scope | None = None
        self._conditions: list[Any] | None = None
        self.joins: list[Any] = []
        self.sources: dict[str, Source] = {}
        self.has_doubled_names = False
        """Two sources have one name, as a.t and b.t: what is told by it alone may be of either."""
        args = node.args
        first: list[Any] = []
        if node.__class__ in (exp.Update, exp.Delete):
            first.append(args.get("this"))
        clause = args.get("from_")
        if clause is not None:
            first.append(clause.this)
        first += args.get("using") or ()
        for table in first:
            self._add(table, None, with_names)
        for join in args.get("joins") or ():
            self.joins.append(join)
            self._add(join.this, join, with_names)
        for lateral in args.get("laterals") or ():
            self._add(lateral, lateral, with_names)

    def _add(self, table: Any, join: Any, with_names: frozenset[str]) -> None:
        if not isinstance(table, exp.Expr):
            return  # DELETE t FROM t has True there
        if table.__class__ is exp.Paren:
            table = table.this
        source = Source(table, join, with_names)
        name = source.alias.lower() or f"#{len(self.sources)}"
        self.has_doubled_names = self.has_doubled_names or name in self.sources
        self.sources[name] = source
        for nested in table.args.get("joins") or ():
            self.joins.append(nested)
            self._add(nested.this, nested, with_names)

    def source_of(self, column: Any) -> Source | None:
        """The source of a column; None if the query does not tell."""
        qualifier = column.args.get("table")
        if qualifier is None:
            if self.schema is not None:
                return self._owner_of(column.name.lower(), self.schema)
            return next(iter(self.sources.values())) if len(self.sources) == 1 else None
        name = qualifier.name.lower()
        scope: Scope | None = self
        while scope is not None:
            found = scope.sources.get(name)
            if found is not None:
                return None if scope.has_doubled_names else found
            scope = scope.parent
        return None

    def _owner_of(self, column: str, schema: Schema) -> Source | None:
        """The source of a column without a qualifier, here or in an outer query, if the schema tells it."""
        scope: Scope | None = self
        while scope is not None:
            sources = list(scope.sources.values())
            known = [
                schema.columns.get(source.name.lower()) if source.is_base else None for source in sources
            ]
            having = [s for s, columns in zip(sources, known, strict=True) if columns and column in columns]
            if len(having) == 1 and all(columns is not None for columns in known):
                return having[0]
            if having or any(columns is None for columns in known):
                break
            scope = scope.parent
        return next(iter(self.sources.values())) if len(self.sources) == 1 else None

    def conditions(self) -> list[Any]:
        """The conditions of WHERE that must all hold."""
        found = self._conditions
        if found is None:
            where = self.node.args.get("where")
            found = self._conditions = [] if where is None else operands(where.this, exp.And)
        return found


class Scopes:
    """The scopes of one statement."""

    __slots__ = ("by_node", "with_names")

    def __init__(self, census: Census, schema: Schema | None = None) -> None:
        self.with_names = frozenset(cte.alias.lower() for cte in census.all(exp.CTE))
        self.by_node = {
            id(node): Scope(node, self.with_names, schema)
            for node in census.all(exp.Select, exp.Update, exp.Delete)
        }  # fmt: skip
        if len(self.by_node) > 1:
            for scope in self.by_node.values():
                scope.parent = self.around(scope.node)

    def around(self, node: Any) -> Scope | None:
        """The innermost scope that ``node`` stands in, not counting itself."""
        node = node.parent
        while node is not None:
            found = self.by_node.get(id(node))
            if found is not None:
                return found
            node = node.parent
        return None

    def __iter__(self) -> Iterator[Scope]:
        return iter(self.by_node.values())


def columns_by_clause(census: Census, scopes: Scopes) -> dict[str, dict[str, None]]:
    """``{"where": ("users.id", ...), ...}``: each column once, in the order of the text's levels."""
    found: dict[str, dict[str, None]] = {}
    # By where it stands: (names of the clause, scope, what a qualifier means there).
    places: dict[Any, tuple[dict[str, None], Scope | None, dict[str, str]]] = {}
    for column in census.all(exp.Column):
        args = column.args
        name = args["this"]
        if name.__class__ is exp.Star:
            continue
        child, above = column, column.parent
        while above is not None and above.__class__ not in _SCOPES:
            child, above = above, above.parent
        if above is None:
            continue
        key = (child.arg_key, id(above))
        place = places.get(key)
        if place is None:
            clause = _CLAUSES.get(child.arg_key)
            if clause is None:
                continue
            if clause == "select" and above.__class__ is exp.Update:
                clause = "set"
            names = found.setdefault(clause, {})
            place = places[key] = (names, scopes.by_node.get(id(above)), {})
        names, scope, prefixes = place
        qualifier = args.get("table")
        said = "" if qualifier is None else qualifier.name
        prefix = prefixes.get(said)
        if prefix is None:
            source = scope.source_of(column) if scope is not None else None
            shown = source.name if source is not None and source.name else said
            prefix = f"{shown}." if shown else ""
            if said or scope is None or scope.schema is None:  # a schema knows columns apart
                prefixes[said] = prefix
        names[prefix + name.name] = None
    return found


def operands(condition: Any, connector: Any) -> list[Any]:
    """The operands of an AND or an OR, left to right, also within parentheses."""
    found: list[Any] = []
    stack: list[Any] = [condition]
    while stack:
        node: Any = stack.pop()
        kind = node.__class__
        while kind is exp.Paren:
            node = node.this
            kind = node.__class__
        if kind is connector:
            stack += (node.args["expression"], node.this)
        else:
            found.append(node)
    return found


def in_filter(node: Any) -> bool:
    """Whether a condition decides by itself, or through AND, OR and NOT, which rows count."""
    parent = node.parent
    while parent is not None and parent.__class__ in _TRANSPARENT:
        parent = parent.parent
    return parent is not None and parent.__class__ in _FILTERS


def bare(node: Any) -> Any:
    """The expression within parentheses."""
    while node.__class__ is exp.Paren:
        node = node.this
    return node


def written(column: Any) -> str:
    """A column as it is written: ``u.id`` or ``id``."""
    qualifier = column.args.get("table")
    return f"{qualifier.name}.{column.name}" if qualifier is not None else str(column.name)


ColumnKey = tuple[str, ...]


def key_of(column: Any) -> ColumnKey:
    """Equal for two columns that are written the same, whatever the case of what is not quoted."""
    args = column.args
    qualifier = args.get("table")
    if qualifier is None:
        return (name_key(column.this),)
    if args.get("db") is None:
        return (name_key(qualifier), name_key(column.this))
    parts = (args.get("catalog"), args["db"], qualifier, column.this)
    return tuple([name_key(part) for part in parts if part is not None])


def name_key(identifier: Any) -> str:
    return str(identifier.name if identifier.args.get("quoted") else identifier.name.lower())


def is_constant(node: Any) -> bool:
    """Whether it holds no column and no query: a literal, a parameter, or computed from such."""
    kind = node.__class__
    if kind is exp.Literal:
        return True
    return kind is not exp.Column and node.find(exp.Column, exp.Select) is None


def is_plain_constant(node: Any) -> bool:
    """A literal or a parameter."""
    if node.__class__ is exp.Neg:
        node = node.this
    return node.__class__ in (exp.Literal, exp.Placeholder, exp.Parameter, exp.Boolean)


def select_in(node: Any) -> Any:
    """The SELECT or set operation inside a subquery's parentheses."""
    while node is not None and node.__class__ in (exp.Subquery, exp.Paren):
        node = node.this
    return node


def is_limited(node: Any) -> bool:
    return node.args.get("limit") is not None or node.args.get("offset") is not None


def line_of(node: Any) -> int:
    """The line of the text at which a node begins, as far as its names and literals tell."""
    queue = [node]
    for part in queue:  # grows while it is read
        if part._meta:
            line = part.meta.get("line")
            if line:
                return int(line)
        for value in part.args.values():
            if value.__class__ is list:
                queue += [item for item in value if isinstance(item, exp.Expr)]
            elif isinstance(value, exp.Expr):
                queue.append(value)
    return 1
