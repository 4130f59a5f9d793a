"""What a statement defines: views, partitions, heirs, cascading keys, triggers, sequences, functions (pure).

What the parser reads is taken from its tree, the rest from the words of the text. A definition that cannot be
read leaves a doubt: from then on any name may be a view (:class:`Relations`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from bot.core.query_optimizer.sql.census import Census
from bot.core.query_optimizer.sql.controls import may_define_later
from bot.core.query_optimizer.sql.declarations import Declaration
from bot.core.query_optimizer.sql.names import ANY, NEVER, name_of, names_given, parts_of
from bot.core.query_optimizer.sql.triggers import function, trigger


def declared(
    census: Census, dialect: str, text: str, writes: Iterable[str], reads: Iterable[str], reason: str
) -> list[Declaration]:
    """What a CREATE, an ALTER or an unparsed statement declares about names.

    ``reason`` is why what it reads must not be cached.
    """
    from sqlglot import exp

    statement = census.statement
    if statement.__class__ is exp.Command:
        return declared_by_words(_text_of(statement, text), dialect)
    kind = str(statement.args.get("kind") or "").upper()
    target = statement.this.find(exp.Table) if hasattr(statement.this, "find") else None
    name = name_of(target, dialect) if target is not None else ""
    if not name:
        return declared_by_words(text, dialect)
    found: list[Declaration] = []
    if kind == "VIEW" and census.all(exp.MaterializedProperty):
        found.append(Declaration("table", name))  # its rows change when it is refreshed, which writes it
    elif kind == "VIEW":
        found += _view(name, census, reads, reason, exp)
    elif kind == "TABLE":
        found += _table(name, census, dialect, text, exp)
    elif kind == "SEQUENCE":
        found.append(Declaration("view", name, frozenset((ANY,))))
    elif kind in ("FUNCTION", "AGGREGATE", "PROCEDURE"):
        found.append(Declaration("function", _last(name)))
        found += function(name, text)
    elif kind not in ("INDEX", "SCHEMA", "DATABASE"):
        found += declared_by_words(text, dialect)
    if statement.__class__ is exp.Alter:
        for renamed in census.all(exp.AlterRename):
            others = frozenset(name_of(table, dialect) for table in renamed.find_all(exp.Table))
            # In PostgreSQL and MySQL ALTER TABLE renames views, too.
            is_view = kind == "VIEW" or dialect != "sqlite"
            found.append(Declaration("renamed view" if is_view else "renamed", name, others))
        if kind == "TABLE":
            found += _relations_in(statement.sql(dialect=dialect or None), dialect)
    return found


def _view(name: str, census: Census, reads: Iterable[str], reason: str, exp: Any) -> Iterator[Declaration]:
    body = census.statement.args.get("expression") or next(iter(census.all(exp.Select)), None)
    if body is not None:
        yield Declaration("view", name, frozenset((*reads, NEVER) if reason else reads))


def _table(name: str, census: Census, dialect: str, text: str, exp: Any) -> Iterator[Declaration]:
    """That the table exists, and what changes along with it: partitions, heirs, tables with foreign keys."""
    virtual = _VIRTUAL.match(text)
    if virtual is not None:
        yield from _virtual(name, virtual.group(2).lower(), virtual.group(3), dialect)
        return
    if census.statement.__class__ is exp.Create and not census.all(exp.TemporaryProperty):
        yield Declaration("table", name)
    for part in census.all(exp.PartitionedOfProperty):
        yield from _both_ways(name, [name_of(part.this, dialect)])
    for heirs in census.all(exp.InheritsProperty):
        yield from _both_ways(name, [name_of(parent, dialect) for parent in heirs.expressions])
    for reference in census.all(exp.Reference):
        options = " ".join(str(option) for option in reference.args.get("options") or ()).upper()
        parent = reference.find(exp.Table)
        if parent is not None and (on := passed_on(options)):
            yield Declaration("cascade", name_of(parent, dialect), frozenset((name,)), on)


def _text_of(command: Any, text: str) -> str:
    """The text of an unparsed statement and everything after it: the body of a trigger has semicolons of its
    own.
    """
    rest = str(command.args.get("expression") or "")
    at = text.find(rest[:40]) if rest else -1
    return f"{command.this} {text[at:] if at >= 0 else rest}"


def passed_on(options: str) -> frozenset[str]:
    """The events at which a foreign key with these options changes the rows that refer to others."""
    return frozenset(event.lower() for event in _PASSES_ON.findall(options))


_PASSES_ON = re.compile(r"(?i)\bON\s+(DELETE|UPDATE)\s+(?:CASCADE|SET)\b")
_REPLACES = re.compile(r"(?i)\bON\s+CONFLICT\s+REPLACE\b")


def replacing(declares: Iterable[Declaration], query: str) -> tuple[Declaration, ...]:
    """What a text declares, and that its table replaces rows, if it does: in SQLite any write may delete one.

    ``query`` is the text as it was given; the parser gets one without these words.
    """
    found = tuple(declares)
    if _REPLACES.search(query) is None:
        return found
    tables = [each.name for each in found if each.kind == "table"]
    return (*found, *[Declaration("cascade", name, frozenset((name,))) for name in tables])


_PART = r"""(?:"(?:[^"]|"")+"|`[^`]+`|\[[^\]]+\]|[^\W\d][\w$]*)"""
_NAME = rf"{_PART}(?:\s*\.\s*{_PART}){{0,2}}"
_START = r"(?is)\A\W*"
_IF_NOT_EXISTS = r"(?:IF\s+NOT\s+EXISTS\s+)?"
_RENAMES = re.compile(
    rf"(?is)(?:TABLES?\s+|,\s*)(?:IF\s+EXISTS\s+)?({_NAME})\s+(?:WAIT\s+\d+\s+|NOWAIT\s+)?TO\s+({_NAME})"
)
_CREATED = re.compile(rf"(?is)\bTABLE\s+{_IF_NOT_EXISTS}({_NAME})")
_LASTING_TABLE = re.compile(r"(?i)CREATE\s+(?:OR\s+REPLACE\s+)?(?:UNLOGGED\s+)?TABLE\b")
_ALTERED = re.compile(rf"(?is)\AALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?({_NAME})")
_INHERITS = re.compile(r"(?is)\)\s*INHERITS\s*\(([^()]*)\)")
_REFERENCES = re.compile(rf"(?is)\bREFERENCES\s+({_NAME})\s*(?:\([^()]*\))?([^,;]*)")
_MOVED = re.compile(
    rf"(?is)\AALTER\s+(?:TABLE|(?:MATERIALIZED\s+)?VIEW)\s+(?:IF\s+EXISTS\s+)?({_NAME})\s+SET\s+SCHEMA\s+({_PART})"
)
_MATERIALIZED = re.compile(
    rf"(?is)\AREFRESH\s+MATERIALIZED\s+VIEW\s+(?:CONCURRENTLY\s+)?({_NAME})(?!.*;\s*\S)"
)
_LOADED = re.compile(rf"(?is)\ALOAD\s+(?:DATA|XML)\s.*?\sINTO\s+TABLE\s+({_NAME})(?!.*\bSET\b)(?!.*;)")
_LISTED = re.compile(rf"(?i)\ACREATE\s+(?:UNLOGGED\s+)?TABLE\s+{_IF_NOT_EXISTS}({_NAME})\s*\((?!\s*SELECT\b)")
_MORE = re.compile(
    r"(?i)\b(?:rename|schema|select|with|using|default|partition|inherits?|exchange)\b(?!\s+time)|;"
)
"""In a CREATE or ALTER TABLE: what calls functions, reads, or concerns other tables."""
_FIRST_WORDS = re.compile(r"(?is)\A\s*(\w+)(?:\s+OR\s+REPLACE)?(.*)")
_OF_VIEWS = re.compile(
    r"(?i)\b(?:view|rename|schema|rule|trigger|partition|inherits?|references|execute|call|perform|select)\b"
)
_OF_RELATIONS = re.compile(r"(?i)\b(?:rename|schema|partition|inherit|references|of)\b")
_ASKED = re.compile(r"(?is)\bexists\s*\(\s*select\b[^()]*\)")
_COMMENTS = re.compile(r"(?s)\A(?:\s|--[^\n]*(?:\n|\Z)|/\*(?![!+]|M!).*?\*/)*")


def without_comments_before(text: str) -> str:
    return text[_COMMENTS.match(text).end() :]  # type: ignore[union-attr]  # it matches nothing, too


def declared_by_words(text: str, dialect: str) -> list[Declaration]:
    """The same for a text that no parser reads. If the words tell nothing either, it is a doubt."""
    text = without_comments_before(text)
    match = _FIRST_WORDS.match(text)
    word = match.group(1).lower() if match else ""
    if word in _DEFINE_NOTHING:
        return [Declaration("doubt")] if may_define_later(text) else []
    if word == "rename":
        pairs = [(_names(a, dialect), _names(b, dialect)) for a, b in _RENAMES.findall(text)]
        renamed = [
            Declaration("renamed view", one, frozenset(others)) for names, others in pairs for one in names
        ]
        return renamed or [Declaration("doubt")]
    if word == "do":
        return [Declaration("doubt")] if _OF_VIEWS.search(_ASKED.sub("", text)) else []
    if word == "alter" and _ALTERED.match(text) and not _OF_RELATIONS.search(text):
        return []
    if word in ("create", "alter") and match is not None:
        found = _created(text, dialect)
        kinds = re.match(r"(?is)\W*(?:\w+\W+){0,3}?(" + "|".join(_KINDS) + r")\b", match.group(2))
        if found or (kinds is not None and kinds.group(1).lower() not in _OPAQUE):
            return found
    return [Declaration("doubt")]


# Statements that define no relation, whether they can be read or not.
_DEFINE_NOTHING = frozenset(
    (
        "select insert update delete merge replace with values table set show explain describe desc analyze "
        "truncate drop grant revoke comment begin start commit end rollback abort savepoint release lock "
        "unlock vacuum reindex cluster checkpoint listen unlisten notify deallocate prepare fetch close move "
        "declare copy load kill optimize flush discard reset refresh reassign security pragma detach attach "
        "use xa handler cache change purge check repair checksum binlog signal resignal"
    ).split()
)
_KINDS = (
    "table view trigger rule function aggregate procedure sequence index role user group type domain "
    "database schema extension cast operator collation conversion policy publication "
    "subscription server statistics "
    "tablespace text event language transform access foreign large default system materialized"
).split()
_OPAQUE = frozenset("table view materialized event schema foreign rule trigger text".split())
"""Kinds that may be, or become, something to read from."""


_VIRTUAL = re.compile(rf"(?is)\A\s*CREATE\s+VIRTUAL\s+TABLE\s+{_IF_NOT_EXISTS}({_NAME})\s+USING\s+(\w+)(.*)")
_OWN_ROWS = frozenset("fts3 fts4 fts5 rtree rtree_i32 geopoly".split())
_CONTENT = re.compile(r"(?i)\bcontent\s*=\s*[\"'\[]?([\w.]*)")


_PARTS = "config content data docsize idx node parent rowid segdir segments stat".split()
"""Endings of the tables in which SQLite's fts3 to fts5 and rtree keep a virtual table's rows."""


def _virtual(name: str, module: str, arguments: str, dialect: str) -> list[Declaration]:
    """SQLite's virtual tables: rows of their own, of another table, or from anywhere."""
    if module in _OWN_ROWS:
        content = _CONTENT.search(arguments)
        behind = Declaration("cascade", name, frozenset(f"{name}_{part}" for part in _PARTS))
        if content is None or not content.group(1):
            return [Declaration("table", name), behind]
        return [Declaration("view", name, frozenset(_names(content.group(1), dialect))), behind]
    return [Declaration("view", name, frozenset((ANY, NEVER)))]


def _virtual_table(match: re.Match[str], dialect: str) -> list[Declaration]:
    found: list[Declaration] = []
    for name in _names(match.group(1), dialect):
        found += _virtual(name, match.group(2).lower(), match.group(3), dialect)
    return found


def _trigger(match: re.Match[str], dialect: str) -> list[Declaration]:
    return trigger(_names(match.group(2), dialect), match.group(1), match.group(3), dialect)


def _rule(match: re.Match[str], dialect: str) -> list[Declaration]:
    names = _names(match.group(1), dialect)
    return [Declaration(kind, name, frozenset((ANY,))) for name in names for kind in ("cascade", "view")]


def _function(match: re.Match[str], dialect: str) -> list[Declaration]:
    return [Declaration("function", _last(match.group(1))), *function(match.group(1), match.string)]


def _sequence(match: re.Match[str], dialect: str) -> list[Declaration]:
    return [Declaration("view", name, frozenset((ANY,))) for name in _names(match.group(1), dialect)]


_HEAD = 200
"""Characters at the start of a text that tell its kind."""


class _Form(NamedTuple):
    """A way to define something other than a plain table, and what that declares."""

    pattern: re.Pattern[str]
    declares: Callable[[re.Match[str], str], list[Declaration]]
    """Gets the match and the dialect."""
    kind: re.Pattern[str] | None = None
    """The pattern that the head of the text must match."""
    in_head: bool = False
    """Whether the pattern must end within the head."""

    def found_in(self, text: str) -> re.Match[str] | None:
        head = text[:_HEAD]
        if self.kind is not None and self.kind.search(head) is None:
            return None
        return self.pattern.search(head if self.in_head else text)


# What stands in ``(?>...)`` is looked for once: a text without the rest would else be read to its end for
# each of these words in it.
_FORMS = (
    _Form(_VIRTUAL, _virtual_table),
    _Form(
        re.compile(rf"(?is)\A(?>.*?\bTRIGGER\b)(.*?)\bON\s+({_NAME})(.*)"),
        _trigger,
        kind=re.compile(r"(?i)\A\w+\b.{0,80}?\bTRIGGER\b"),
    ),
    _Form(
        re.compile(rf"(?is)\A(?>.*?\bRULE\b).*?\bON\s+(?:SELECT|INSERT|UPDATE|DELETE)\s+TO\s+({_NAME})"),
        _rule,
        kind=re.compile(r"(?i)\A\w+\b.{0,30}?\bRULE\b"),
    ),
    _Form(
        re.compile(rf"(?is)\b(?:FUNCTION|AGGREGATE|PROCEDURE)\s+{_IF_NOT_EXISTS}({_NAME})"),
        _function,
        in_head=True,
    ),
    _Form(re.compile(rf"(?is)\bSEQUENCE\s+{_IF_NOT_EXISTS}({_NAME})"), _sequence, in_head=True),
)
"""The first one that matches tells everything that a CREATE or an ALTER declares."""

_BOTH_WAYS = (
    re.compile(rf"(?is)\bTABLE\s+{_IF_NOT_EXISTS}({_NAME})\s+PARTITION\s+OF\s+({_NAME})"),
    re.compile(rf"(?is)\bTABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?({_NAME})\s+ATTACH\s+PARTITION\s+({_NAME})"),
    re.compile(
        rf"(?is)\A(?>.*?\bTABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?({_NAME})\b).*?\sINHERIT\s+({_NAME})"
    ),
)
"""Tables and their partitions or heirs, in both directions: a write to one changes what a read of the other
finds.
"""


def _created(text: str, dialect: str) -> list[Declaration]:
    for form in _FORMS:
        match = form.found_in(text)
        if match is not None:
            return form.declares(match, dialect)
    if (match := _MOVED.match(text)) is not None:
        return _moved(match, dialect)
    found = _relations_in(text, dialect)
    if _LASTING_TABLE.match(text) and (match := _CREATED.search(text[:_HEAD])) is not None:
        found += [Declaration("table", name) for name in _names(match.group(1), dialect)]
    return found


def _relations_in(text: str, dialect: str) -> list[Declaration]:
    """Partitions, heirs and cascading keys of a CREATE or ALTER TABLE, by its words."""
    found: list[Declaration] = []
    for pattern in _BOTH_WAYS:
        if (match := pattern.search(text)) is not None:
            for name in _names(match.group(1), dialect):
                found += _both_ways(name, _names(match.group(2), dialect))
    owner = _ALTERED.match(text) or _CREATED.search(text[:_HEAD])
    if owner is None:
        return found
    names = _names(owner.group(1), dialect)
    if (match := _INHERITS.search(text)) is not None:
        for parent in match.group(1).split(","):
            for name in names:
                found += _both_ways(name, _names(parent, dialect))
    for parent, options in _REFERENCES.findall(text):
        if on := passed_on(options):
            found += [Declaration("cascade", each, frozenset(names), on) for each in _names(parent, dialect)]
    return found


def _moved(match: re.Match[str], dialect: str) -> list[Declaration]:
    """A table or view that goes to another schema keeps the last part of its name."""
    [name, *others], [schema, *_] = _names(match.group(1), dialect), _names(match.group(2), dialect)
    moved = f"{schema}.{parts_of(name)[-1]}"
    return [Declaration("renamed view", each, frozenset((moved,))) for each in (name, *others)]


def _both_ways(name: str, others: Iterable[str]) -> list[Declaration]:
    """A write to a partition or an heir changes what a read of the parent finds, and the reverse."""
    named = frozenset(other for other in others if other)
    return [
        Declaration("cascade", name, named),
        *[Declaration("cascade", other, frozenset((name,))) for other in named],
    ]


def written_by_words(text: str, dialect: str) -> frozenset[str]:
    """The table that an unparsed text writes; nothing if that is unclear, or if it may write others."""
    text = without_comments_before(text)
    for pattern in (_MATERIALIZED, _LOADED):
        if (match := pattern.match(text)) is not None:
            return frozenset(_names(match.group(1), dialect))
    match = _LISTED.match(text) or _ALTERED.match(text)
    if match is None or _MORE.search(text, match.end()) is not None:
        return frozenset()
    return frozenset(_names(match.group(1), dialect))


def _names(written: str, dialect: str) -> list[str]:
    try:
        return names_given(re.sub(r"\s*\.\s*", ".", written.strip()), dialect)
    except ValueError:
        return []


def _last(written: str) -> str:
    return re.split(r"\.", written)[-1].strip().strip('"`[]').lower()
