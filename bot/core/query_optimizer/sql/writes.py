"""What a statement writes, and what else it changes: transactions, settings of the session (pure)."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any

from bot.core.query_optimizer.sql.census import Census
from bot.core.query_optimizer.sql.controls import sets_transaction
from bot.core.query_optimizer.sql.declarations import EVERY_EVENT
from bot.core.query_optimizer.sql.functions import HARMLESS_SETTINGS
from bot.core.query_optimizer.sql.names import name_of

# Statements that change no table's rows nor what a query means, by first word.
HARMLESS = frozenset(
    (
        "begin start rollback abort savepoint release show explain describe desc lock unlock vacuum "
        "analyze reindex cluster checkpoint listen unlisten notify deallocate prepare fetch close comment "
        "grant revoke kill optimize flush"
    ).split()
)
# Words before a table's name that a parser may take for the name.
_MODIFIERS = frozenset(("low_priority", "ignore", "quick", "only"))


@functools.cache
def classes() -> Any:
    from sqlglot import exp

    change = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Alter)
    removal = (exp.TruncateTable, exp.Drop)
    ends = (exp.Transaction, exp.Commit, exp.Rollback)
    session = (exp.Command, exp.Pragma, exp.Set, exp.Use, exp.Attach, exp.Detach, exp.Describe)
    rare = (*change, *removal, *ends, *session, exp.Copy, exp.Into, exp.Lock, exp.LoadData)
    return exp, change, removal, ends, session, frozenset(rare)


# Kinds of CREATE and ALTER whose effect is told by the name that they give.
_STORED = frozenset(("TABLE", "VIEW", "INDEX", "MATERIALIZED VIEW"))


class _Changes:
    """What a statement changes, gathered from its nodes: a method for each class of node."""

    def __init__(self, dialect: str, writes: set[str], targets: set[int]) -> None:
        self.dialect = dialect
        self.writes = writes
        """Names of the tables that are written."""
        self.targets = targets
        """Nodes of tables that are written and not read, by ``id``."""
        self.anything = False
        self.reason = ""
        self.transaction = ""
        self.events: set[str] = set()
        """What is done to the rows of these tables."""

    def _written(self, tables: Iterable[Any]) -> bool:
        found = False
        for table in tables:
            name = name_of(table, self.dialect)
            self.targets.add(id(table))
            if name:
                self.writes.add(name)
                found = True
        return found

    def removal(self, node: Any, exp: Any) -> None:
        """DROP and TRUNCATE."""
        self.events |= EVERY_EVENT
        if isinstance(node.parent, exp.Alter):
            return  # a column of the table that the ALTER names
        kind = str(node.args.get("kind") or "TABLE").upper()
        tables = list(node.find_all(exp.Table))
        if kind == "INDEX":
            self.targets |= {id(table) for table in tables}
        elif (
            kind not in ("TABLE", "VIEW") or node.args.get("cascade") or node.args.get("option") == "CASCADE"
        ):
            self.anything = True  # the tables of a schema, or those that refer to the table: unknown here
        elif not self._written(tables):
            self.anything = True

    def change(self, node: Any, exp: Any) -> None:
        """INSERT, UPDATE, DELETE, MERGE, CREATE and ALTER."""
        if isinstance(node.parent, exp.When):
            return  # it writes the table that the MERGE names
        self.events |= _events_of(node, exp)
        target = node.this.find(exp.Table) if hasattr(node.this, "find") else None
        kind = str(node.args.get("kind") or "").upper()
        if target is None or (node.__class__ in (exp.Create, exp.Alter) and kind not in _STORED):
            self.anything = True
            return
        if not self._written([target]):
            self.anything = True
        if node.__class__ in (exp.Update, exp.Delete):
            self._change_of_join(node, target, exp)
        elif node.__class__ is exp.Alter:
            for renamed in node.find_all(exp.AlterRename):
                self._written(renamed.find_all(exp.Table))

    def _change_of_join(self, node: Any, target: Any, exp: Any) -> None:
        """MySQL may write any table of a join; only the columns would tell which."""
        in_mysql = self.dialect in ("mysql", "")
        joined = [join.this for join in target.args.get("joins") or ()]
        if not joined and not node.args.get("tables") and not (in_mysql and node.args.get("using")):
            return
        named = [table for table in node.args.get("using") or () if in_mysql]
        joined += [join.this for table in named for join in table.args.get("joins") or ()]
        several = [target, *joined, *named]
        names = {name_of(table, self.dialect) for table in several if isinstance(table, exp.Table)}
        self.anything = self.anything or not all(isinstance(table, exp.Table) for table in several)
        self.writes |= names - {""}
        aliases = {table.alias_or_name for table in several}
        own = [table for table in node.args.get("tables") or () if table.name not in aliases]
        self.targets |= {id(table) for table in node.args.get("tables") or ()}
        self.writes |= {name_of(table, self.dialect) for table in own} - {""}
        self.targets.discard(id(target))  # it is read, too

    def into(self, node: Any, exp: Any) -> None:
        self.events |= EVERY_EVENT
        if not self._written(node.find_all(exp.Table)) and not node.find(exp.Parameter):
            self.anything = True

    def copy(self, node: Any, exp: Any) -> None:
        self.events.add("insert")
        if node.args.get("kind") and node.this:  # FROM
            self.anything = not self._written(node.this.find_all(exp.Table)) or self.anything
        self.reason = self.reason or "COPY is no read"

    def load(self, node: Any, exp: Any) -> None:
        self.events |= EVERY_EVENT  # LOAD DATA ... REPLACE
        self.anything = not self._written(node.find_all(exp.Table)) or self.anything

    def lock(self, node: Any, exp: Any) -> None:
        self.reason = self.reason or "it locks what it reads"

    def end(self, node: Any, exp: Any) -> None:
        """BEGIN, COMMIT and ROLLBACK."""
        name = {exp.Transaction: "begin", exp.Commit: "commit", exp.Rollback: "rollback"}[node.__class__]
        if name == "begin" and any(
            str(m).upper() in ("SLAVE", "REPLICA") for m in node.args.get("modes") or ()
        ):
            name = "implicit"  # START SLAVE
        if name == "rollback" and node.args.get("savepoint"):
            name = "back"
        self.transaction = "chain" if node.args.get("chain") else name

    def session(self, node: Any, exp: Any) -> None:
        """SET, USE, PRAGMA, and statements that are not parsed."""
        if node.__class__ is exp.Command:
            from bot.core.query_optimizer.sql.definitions import written_by_words

            by_words = written_by_words(f"{node.this} {node.text('expression')}", self.dialect)
            if by_words:
                self.writes |= by_words
                self.events |= EVERY_EVENT
                self.reason = self.reason or "it is no read"
                return
        found, why = _session(node, exp)
        self.anything = self.anything or found
        self.reason = self.reason or why
        if node.__class__ is exp.Set:
            self.transaction = self.transaction or _autocommit(node, exp)


def _events_of(node: Any, exp: Any) -> frozenset[str]:
    """What an INSERT, UPDATE or DELETE may do to rows of its table, without its triggers."""
    if node.__class__ is exp.Insert and not node.args.get("overwrite"):
        if str(node.args.get("alternative") or "").upper() in ("", "IGNORE", "ABORT", "FAIL", "ROLLBACK"):
            return _INSERTED_OR_UPDATED if node.args.get("conflict") else _INSERTED
    elif node.__class__ is exp.Update:
        return _UPDATED
    elif node.__class__ is exp.Delete:
        return _DELETED
    return EVERY_EVENT


_INSERTED, _UPDATED, _DELETED = frozenset(("insert",)), frozenset(("update",)), frozenset(("delete",))
_INSERTED_OR_UPDATED = _INSERTED | _UPDATED


def changes_in(
    census: Census, dialect: str, writes: set[str], targets: set[int]
) -> tuple[bool, str, str, frozenset[str]]:
    """(whether it may write anything, why it is no read, what it does to the transaction, its events)"""
    exp, change, removal, ends, session, _ = classes()
    found = _Changes(dialect, writes, targets)
    for kinds, gather in (
        (removal, found.removal),
        (change, found.change),
        ((exp.Into,), found.into),
        ((exp.Copy,), found.copy),
        ((exp.LoadData,), found.load),
        ((exp.Lock,), found.lock),
        (ends, found.end),
    ):
        for node in census.all(*kinds):
            gather(node, exp)
    if not writes.isdisjoint(_MODIFIERS):
        found.anything = True  # UPDATE LOW_PRIORITY t: to the parser t is an alias
    for node in census.all(*session):
        found.session(node, exp)
    if dialect in ("mysql", "") and isinstance(census.statement, (exp.Create, exp.Alter, *removal)):
        found.transaction = "implicit"
    return found.anything, found.reason, found.transaction, frozenset(found.events) or EVERY_EVENT


def _session(node: Any, exp: Any) -> tuple[bool, str]:
    """(whether a statement about the session may change any result, why its own is not cached)"""
    if isinstance(node, exp.Command):
        word = str(node.this).lower().split()[0]
        rest = str(node.args.get("expression") or "").lower()
        if word == "explain":
            runs = ("analyze" in rest or "analyse" in rest) and not rest.strip(" '").startswith("query plan")
            return runs, "explain is no read"
        return word not in HARMLESS and not sets_transaction(f"{word} {rest}"), f"{word} is no read"
    if isinstance(node, exp.Describe):
        # EXPLAIN ANALYZE executes the statement, whose nodes are in the census and tell what it does.
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
    """What a SET does to autocommit. An unknown value may be either, and off is the safe side."""
    for item in setting.find_all(exp.EQ):
        if getattr(item.this, "name", "").lower() == "autocommit":
            return (
                "autocommit on"
                if str(item.expression.this).lower() in ("1", "on", "true")
                else "autocommit off"
            )
    return ""
