"""Which tables a statement reads and writes, and when two names mean one table (pure).

A name is kept as it was qualified (``users``, ``public.users``), folded as its dialect folds. Two names
may mean one table if one ends with all the parts of the other: ``users`` may be any schema's, while
``a.users`` and ``b.users`` are two. What a text may do beyond what can be read is "anything".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from bot.core.query_optimizer.census import Census
from bot.core.query_optimizer.functions import HARMLESS_SETTINGS, in_question, may_write, why_not

GRAPHQL = "(graphql)"
"""What every GraphQL query reads and every mutation writes; no database can have a table of this name."""

MAX_RELATIONS = 10_000
"""Views and cascades remembered; one more, and every write counts as a write to anything."""

_POSTGRES_NAME = 63  # bytes; PostgreSQL cuts longer names, so two long ones may be one table
_PLAIN = re.compile(r"[\w$ -]+\Z")

# Statements that change no table's rows nor what a query means, by first word.
HARMLESS = frozenset(
    (
        "begin start rollback abort savepoint release show explain describe desc lock unlock vacuum "
        "analyze reindex cluster checkpoint listen unlisten notify deallocate prepare fetch close comment "
        "grant revoke kill optimize flush"
    ).split()
)
# Words before a table's name that some parser here takes for the name.
_MODIFIERS = frozenset(("low_priority", "ignore", "quick", "only"))
_CATALOGS = ("pg_", "sqlite_", "pragma_")
_CATALOG_SCHEMAS = frozenset(("information_schema", "pg_catalog", "performance_schema", "mysql", "sys"))


class Effects(NamedTuple):
    """What a statement may do, as far as invalidation is concerned."""

    reads: frozenset[str]
    writes: frozenset[str]
    anything: bool
    """It may write tables that cannot be told: every cached result must go."""
    reason: str
    """Why its result must not be cached; empty if it may."""
    transaction: str = ""
    """What it does to the transaction, in the words of ``Transactions.change``."""
    view: tuple[str, frozenset[str]] | None = None
    """A view it defines, and what that reads."""


@functools.cache
def _classes() -> Any:
    from sqlglot import exp

    change = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Alter)
    removal = (exp.TruncateTable, exp.Drop)
    ends = (exp.Transaction, exp.Commit, exp.Rollback)
    session = (exp.Command, exp.Pragma, exp.Set, exp.Use, exp.Attach, exp.Detach, exp.Describe)
    rare = (*change, *removal, *ends, *session, exp.Copy, exp.Into, exp.Lock, exp.LoadData)
    return exp, change, removal, ends, session, frozenset(rare)


def effects(census: Census, dialect: str, pure: frozenset[str] = frozenset()) -> Effects:
    """What one statement reads and writes; ``pure`` are functions that depend on their arguments alone."""
    exp, *_, rare = _classes()
    writes: set[str] = set()
    targets: set[int] = set()
    anything, reason, transaction = False, "", ""
    if census.has(rare):
        anything, reason, transaction = _changes(census, dialect, writes, targets)
    reads: set[str] = set()
    has_with = bool(census.all(exp.CTE))
    for table in census.all(exp.Table):
        if id(table) in targets:
            continue
        name = name_of(table, dialect)
        args = table.args
        if not name:
            inner = table.this
            if not isinstance(inner, exp.Parameter):  # INTO @variable
                reason = reason or _why_not_source(inner, pure)
        elif has_with and not args.get("db") and _is_cte(table, name, dialect, exp):
            continue
        else:
            if name.startswith(_CATALOGS) or (args.get("db") and _is_of_catalog(table, name)):
                reason = (
                    reason or f"{name.rpartition('.')[2]} is a catalog, which changes without a write to it"
                )
            if name == "only" and dialect == "" and args.get("alias") is not None:
                reason = reason or "ONLY may be PostgreSQL's word, and the table what follows"
            reads.add(name)
    for node in census.all(exp.In):
        field = node.args.get("field")
        if field is not None:
            reason = _read_in(field, dialect, reads, exp) or reason
    reason = reason or _why_not_again(census, dialect, exp)
    for kind in in_question(tuple(census.by_class)):
        for function in census.by_class[kind]:
            if may_write(function, dialect, pure):
                anything = True
            if not reason:
                reason = why_not(function, pure)
    view = None
    statement = census.statement
    if statement.__class__ is exp.Describe and "ANALYZE" not in str(statement.args.get("style")).upper():
        return Effects(frozenset(), frozenset(), anything, reason)  # it explains and does not run
    if statement.__class__ is exp.Create and statement.args.get("kind") == "VIEW" and len(writes) == 1:
        view = (next(iter(writes)), frozenset(reads))
    return Effects(frozenset(reads), frozenset(writes), anything, reason, transaction, view)


def _is_of_catalog(table: Any, name: str) -> bool:
    return name.rpartition(".")[2].startswith(_CATALOGS) or table.db.lower() in _CATALOG_SCHEMAS


_WITHOUT_PARENTHESES = frozenset(("utc_timestamp", "utc_date", "utc_time", "sql_calc_found_rows"))
"""What MySQL does not take for a column."""


def _why_not_again(census: Census, dialect: str, exp: Any) -> str:
    """Why the same text may give another result, or leave something behind for the next."""
    asks = census.has((exp.TableSample, exp.SessionParameter, exp.Parameter))
    if asks and any(sample.args.get("seed") is None for sample in census.all(exp.TableSample)):
        return "it takes a sample, another each time"
    if asks and census.all(exp.SessionParameter):
        return "it reads a variable of the session"
    if dialect not in ("mysql", ""):
        return ""
    if asks and census.all(exp.Parameter):
        return "it reads or sets a variable"  # @x; what drivers take is a Placeholder here
    for column in [column for column in census.all(exp.Column) if column.args.get("table") is None]:
        name = column.args["this"]
        if name.__class__ is exp.Identifier and not name.args.get("quoted"):
            word = name.this.lower()
            if word in _WITHOUT_PARENTHESES:
                return f"{word} differs from call to call"
    for select in census.all(exp.Select):
        modifiers = select.args.get("operation_modifiers")
        if modifiers and any(word.name.upper() == "SQL_CALC_FOUND_ROWS" for word in modifiers):
            return "FOUND_ROWS() depends on its execution"
    return ""


def _read_in(field: Any, dialect: str, reads: set[str], exp: Any) -> str:
    """Add the table of SQLite's ``x IN table``, a column to the parser; why a result must not be cached."""
    if field.__class__ is exp.Column:
        parts = [field.args[part] for part in ("db", "table", "this") if field.args.get(part) is not None]
        if all(part.__class__ is exp.Identifier for part in parts):
            names = [fold(p.name, quoted=bool(p.args.get("quoted")), dialect=dialect) for p in parts]
            reads.add(".".join(names))
            return f"{names[-1]} is a catalog" if names[-1].startswith(_CATALOGS) else ""
    if isinstance(field, exp.Func) or field.__class__ in (exp.Placeholder, exp.Parameter):
        return ""
    return "it reads from what is no table"


def _why_not_source(function: Any, pure: frozenset[str]) -> str:
    """Why a result must not be cached that selects from this function."""
    return why_not(function, pure) if hasattr(function, "sql_names") else "it reads from what is no table"


def _changes(census: Census, dialect: str, writes: set[str], targets: set[int]) -> tuple[bool, str, str]:
    exp, change, removal, ends, session, _ = _classes()
    anything = False
    reason = transaction = ""

    def written(tables: Iterable[Any]) -> bool:
        found = False
        for table in tables:
            name = name_of(table, dialect)
            targets.add(id(table))
            if name:
                writes.add(name)
                found = True
        return found

    for node in census.all(*removal):
        if isinstance(node.parent, exp.Alter):
            continue  # a column of the table that the ALTER names
        kind = str(node.args.get("kind") or "TABLE").upper()
        tables = list(node.find_all(exp.Table))
        if kind == "INDEX":
            targets |= {id(table) for table in tables}
        elif (
            kind not in ("TABLE", "VIEW") or node.args.get("cascade") or node.args.get("option") == "CASCADE"
        ):
            anything = True  # a schema's tables, or what refers to the table: not told here
        elif not written(tables):
            anything = True
    for node in census.all(*change):
        if isinstance(node.parent, exp.When):
            continue  # it writes the table that the MERGE names
        target = node.this.find(exp.Table) if hasattr(node.this, "find") else None
        kind = str(node.args.get("kind") or "").upper()
        if target is None or (node.__class__ in (exp.Create, exp.Alter) and kind not in _STORED):
            anything = True
            continue
        if not written([target]):
            anything = True
        if node.__class__ in (exp.Update, exp.Delete):
            # MySQL writes any table of a join; which, only the columns' owners would tell.
            joined = [join.this for join in target.args.get("joins") or ()]
            if joined or node.args.get("tables") or (dialect in ("mysql", "") and node.args.get("using")):
                named = [table for table in node.args.get("using") or () if dialect in ("mysql", "")]
                joined += [join.this for table in named for join in table.args.get("joins") or ()]
                several = [target, *joined, *named]
                names = {name_of(table, dialect) for table in several if isinstance(table, exp.Table)}
                anything = anything or not all(isinstance(table, exp.Table) for table in several)
                writes |= names - {""}
                aliases = {table.alias_or_name for table in several}
                own = [t for t in node.args.get("tables") or () if t.name not in aliases]
                targets |= {id(table) for table in node.args.get("tables") or ()}
                writes |= {name_of(table, dialect) for table in own} - {""}
                targets.discard(id(target))  # it is read as well
        elif node.__class__ is exp.Alter:
            for renamed in node.find_all(exp.AlterRename):
                written(renamed.find_all(exp.Table))
    for node in census.all(exp.Into):
        if not written(node.find_all(exp.Table)) and not node.find(exp.Parameter):
            anything = True
    for node in census.all(exp.Copy):
        if node.args.get("kind") and node.this:  # FROM
            anything = not written(node.this.find_all(exp.Table)) or anything
        reason = reason or "COPY is no read"
    for node in census.all(exp.LoadData):
        anything = not written(node.find_all(exp.Table)) or anything
    if census.all(exp.Lock):
        reason = reason or "it locks what it reads"
    if not writes.isdisjoint(_MODIFIERS):
        anything = True  # UPDATE LOW_PRIORITY t: to the parser t is an alias
    for node in census.all(*ends):
        name = {exp.Transaction: "begin", exp.Commit: "commit", exp.Rollback: "rollback"}[node.__class__]
        if name == "rollback" and node.args.get("savepoint"):
            name = "back"
        transaction = "chain" if node.args.get("chain") else name
    for node in census.all(*session):
        found, why = _session(node, exp)
        anything = anything or found
        reason = reason or why
        if node.__class__ is exp.Set:
            transaction = transaction or _autocommit(node, exp)
    if dialect in ("mysql", "") and isinstance(census.statement, (exp.Create, exp.Alter, *removal)):
        transaction = "implicit"
    return anything, reason, transaction


# Kinds of CREATE and ALTER whose effect is told by the name that they give.
_STORED = frozenset(("TABLE", "VIEW", "INDEX", "MATERIALIZED VIEW"))


def _session(node: Any, exp: Any) -> tuple[bool, str]:
    """(whether a statement about the session may change any result, why its own is not cached)"""
    if isinstance(node, exp.Command):
        word = str(node.this).lower()
        rest = str(node.args.get("expression") or "").lower()
        if word == "explain":
            runs = ("analyze" in rest or "analyse" in rest) and not rest.strip(" '").startswith("query plan")
            return runs, "explain is no read"
        return word not in HARMLESS, f"{word} is no read"
    if isinstance(node, exp.Describe):
        # EXPLAIN ANALYZE runs what it explains; its own nodes are in the census and tell what.
        return False, "explain is no read"
    word = type(node).__name__.lower()
    if isinstance(node, exp.Pragma | exp.Set):
        names = [
            item.this.name.lower() for item in node.find_all(exp.EQ) if hasattr(item.this, "name")
        ]  # fmt: skip
        names = names or [str(node.this).lower()] if isinstance(node, exp.Pragma) else names
        names = [re.sub(r"\W.*", "", name.strip()) for name in names]
        if node.find(exp.SetItem) is not None and not names:
            names = [str(node.find(exp.SetItem).args.get("kind") or "").lower()]
        return not names or not all(name in HARMLESS_SETTINGS for name in names), f"{word} is no read"
    return True, f"{word} is no read"


def _autocommit(setting: Any, exp: Any) -> str:
    """What a SET says of autocommit; a value that is not told may be either, and off is the safe side."""
    for item in setting.find_all(exp.EQ):
        if getattr(item.this, "name", "").lower() == "autocommit":
            return (
                "autocommit on"
                if str(item.expression.this).lower() in ("1", "on", "true")
                else "autocommit off"
            )
    return ""


def name_of(table: Any, dialect: str) -> str:
    """The name of a table as it is kept; "" for what is not a table's own name, such as a function."""
    args = table.args
    this = args.get("this")
    if not args.get("db") and this.__class__.__name__ == "Identifier":
        return fold(this.name, quoted=bool(this.args.get("quoted")), dialect=dialect)
    parts = []
    for part in (args.get("catalog"), args.get("db"), this):
        if part is None or part == "":
            continue
        if part.__class__.__name__ != "Identifier":
            return ""
        parts.append(fold(part.name, quoted=bool(part.args.get("quoted")), dialect=dialect))
    return parts[0] if len(parts) == 1 else ".".join(parts)


def fold(name: str, *, quoted: bool, dialect: str) -> str:
    """A part of a name as its database compares it.

    PostgreSQL keeps the case of quoted names alone; SQLite compares without case, and whether MySQL
    does depends on the server's machine, so without case is the safe side there.
    """
    if dialect == "postgres":
        name = name if quoted else name.lower()
        if len(name) > _POSTGRES_NAME // 4:
            name = name.encode("utf-8", "replace")[:_POSTGRES_NAME].decode("utf-8", "ignore")
    else:
        name = name.lower()
    # A dot inside a name must not look like one between names.
    if name.isidentifier() or _PLAIN.match(name):
        return name
    return '"' + name.replace('"', '""').replace(".", "\\.") + '"'


def _is_cte(table: Any, name: str, dialect: str, exp: Any) -> bool:
    """Whether an unqualified name is that of a WITH in whose reach it stands."""
    node = table
    while node.parent is not None:
        parent = node.parent
        clause = parent.args.get("with_")
        if clause is not None:
            inside = clause is node
            for cte in clause.expressions:
                alias = cte.args.get("alias")
                label = alias.this if alias is not None else None
                if label is None:
                    continue
                same = fold(label.name, quoted=bool(label.args.get("quoted")), dialect=dialect) == name
                # Within the WITH itself only the names before this one are known.
                if inside and not clause.args.get("recursive") and _holds(cte, table):
                    break
                if same:
                    return True
        node = parent
    return False


def _holds(outer: Any, inner: Any) -> bool:
    while inner is not None:
        if inner is outer:
            return True
        inner = inner.parent
    return False


# Names that people give: "public.users", 'shop."Order"', `db`.`t`, [dbo].[t].
_PART = re.compile(r'\s*(?:"((?:[^"]|"")*)"|`((?:[^`]|``)*)`|\[([^\]]*)\]|([^."`\[\]]+?))\s*(?:\.|\Z)')


def names_given(name: str, dialect: str) -> list[str]:
    """The names, as kept, that a name written by a person may mean. Raises ValueError for no name.

    With mixed case and without quotes it may be meant either way in PostgreSQL: both are answered.
    """
    parts: list[str] = []
    exact: list[str] = []
    position = 0
    while position < len(name):
        match = _PART.match(name, position)
        if match is None or match.end() == position:
            raise ValueError(name)
        plain = match.group(4)
        text = next(group for group in match.groups() if group is not None)
        quote = {1: '"', 2: "`", 3: "]"}.get(match.lastindex or 4, "")
        text = text.replace(quote * 2, quote) if quote and quote != "]" else text
        if not text.strip():
            raise ValueError(name)
        parts.append(fold(text, quoted=plain is None, dialect=dialect))
        exact.append(fold(text, quoted=True, dialect=dialect))
        position = match.end()
    if not parts or name.rstrip().endswith("."):
        raise ValueError(name)
    return list(dict.fromkeys((".".join(parts), ".".join(exact))))


@functools.lru_cache(maxsize=4096)
def parts_of(name: str) -> tuple[str, ...]:
    """The name and what remains of it as qualifiers are left off: a.b.c, b.c, c."""
    pieces = re.split(r"(?<!\\)\.", name)
    return tuple(".".join(pieces[start:]) for start in range(len(pieces)))


@functools.lru_cache(maxsize=4096)
def read_marks(names: frozenset[str]) -> frozenset[str]:
    """What a result that read these tables is filed under."""
    marks: set[str] = set()
    for name in names:
        whole, *shorter = parts_of(name)
        marks.add(whole)
        marks.update(f"?.{short}" for short in shorter)
    return frozenset(marks)


def write_marks(names: Iterable[str]) -> set[str]:
    """Under what the results are filed that may have read one of these tables.

    A result is filed under ``s.t`` and ``?.t`` if it read s.t, under ``t`` if it read t. A write to s.t
    concerns ``s.t`` and ``t``; one to t concerns ``t`` and ``?.t``.
    """
    marks: set[str] = set()
    for name in names:
        marks.update(parts_of(name))
        marks.add(f"?.{name}")
    return marks


class Relations:
    """Which tables stand behind views, and which change along with others.

    Kept under every way a name may be written; changed only by ``view`` and ``cascade``.
    """

    def __init__(self) -> None:
        self._behind: dict[str, set[str]] = {}
        self._along: dict[str, set[str]] = {}
        self._marks: dict[frozenset[str], frozenset[str]] = {}  # of marks_of, until a relation joins
        self.overflow = False
        """Too many to remember: then any write may change anything."""

    def __bool__(self) -> bool:
        return bool(self._behind or self._along)

    def __len__(self) -> int:
        return len(self._behind) + len(self._along)

    def view(self, name: str, tables: Iterable[str]) -> None:
        """A result that reads ``name`` depends on ``tables``; a write to ``name`` may write them."""
        self._add(self._behind, name, tables)

    def cascade(self, table: str, tables: Iterable[str]) -> None:
        """A write to ``table`` changes ``tables`` too, by a trigger or a foreign key."""
        self._add(self._along, table, tables)

    def _add(self, where: dict[str, set[str]], name: str, others: Iterable[str]) -> None:
        if name not in where and len(self) >= MAX_RELATIONS:
            self.overflow = True
            return
        where.setdefault(name, set()).update(others)
        self._marks.clear()

    def clear(self) -> None:
        self._behind.clear()
        self._along.clear()
        self._marks.clear()
        self.overflow = False

    def read_by(self, names: frozenset[str]) -> frozenset[str]:
        """``names``, and what stands behind those of them that are views."""
        return self._closure(names, (self._behind,)) if self._behind else names

    def marks_of(self, names: frozenset[str]) -> frozenset[str]:
        """What a result that read ``names`` is filed under: :func:`read_marks` of ``read_by``."""
        marks = self._marks.get(names)
        if marks is None:
            if len(self._marks) >= MAX_RELATIONS:
                self._marks.clear()
            marks = self._marks[names] = read_marks(self.read_by(names))
        return marks

    def written_by(self, names: frozenset[str]) -> frozenset[str]:
        """``names``, and what changes along with them."""
        return self._closure(names, (self._behind, self._along)) if self else names

    @staticmethod
    def _closure(names: Iterable[str], maps: tuple[dict[str, set[str]], ...]) -> frozenset[str]:
        found = set(names)
        queue = list(found)
        for name in queue:
            marks = write_marks([name])
            for relation in maps:
                for known, others in relation.items():
                    if not marks.isdisjoint(read_marks(frozenset((known,)))):
                        fresh = others - found
                        found |= fresh
                        queue += fresh
        return frozenset(found)
