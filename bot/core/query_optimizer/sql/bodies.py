"""What the body of a trigger, or of its function, writes, by its words (pure).

Only what is certain counts: a body that may do more than insert, update, delete or merge rows of tables that
it names may write anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from bot.core.query_optimizer.sql import builtins
from bot.core.query_optimizer.sql.dialects import tokens_in
from bot.core.query_optimizer.sql.functions import KNOWN_TYPES
from bot.core.query_optimizer.sql.names import ANY, fold
from bot.core.query_optimizer.sql.operators import unknown_operator

MAX_BODY = 50_000
"""Characters of a body that is read; a longer one may write anything."""


class Body(NamedTuple):
    """What a body does."""

    writes: frozenset[str]
    """The tables that it writes; ``ANY`` if that is not known."""
    why: str = ""
    """Why that is not known; "" if it is."""


class _Unclear(Exception):
    """The body may write other tables than it names."""


# Words that run what they do not show, or change tables in another way.
_OTHERS = frozenset(
    (
        "execute call copy create drop alter truncate load prepare import rename handler attach detach "
        "pragma vacuum exec security grant revoke"
    ).split()
)
_SAFE_CALLS = frozenset(
    (
        # the grammar: words that a bracket may follow
        "in values any all some exists not and or on using as over filter partition by select from where "
        "when then else elsif elseif case end between "
        "join union except intersect having limit offset with array "
        "row cast extract coalesce nullif greatest least conflict key set returning interval lateral is "
        "like ilike distinct order group if while return "
        "exit loop raise default check into ignore only update "
        "begin declare perform for foreach reverse until repeat leave iterate assert escape similar to "
        "concat left right mod char varchar numeric decimal "
        "integer int bigint time date timestamp position overlay "
        "substring trim replace insert rlike regexp glob match div"
    ).split()
)
_NOTIFIES = frozenset(("pg_notify", "raise"))
_TARGET_ENDS = frozenset(("(", "values", "select", "default", "set", "as", "overriding", "with", "table"))
_MODIFIERS = frozenset(
    "low_priority delayed high_priority ignore or replace abort fail rollback only".split()
)


Resolve = Callable[[str], Body | None]
"""What functions of the user's own with a name write; None if there is none, or it is not known."""


def written_in(
    body: str, dialect: str, resolve: Resolve | None = None, safe: Collection[str] = frozenset()
) -> Body:
    """The tables that a body writes; ``safe`` are further functions that write no table."""
    if len(body) > MAX_BODY:
        return Body(frozenset((ANY,)), "it is too long")
    try:
        if dialect != "sqlite" and ("/*!" in body or "/*M!" in body):
            raise _Unclear("it has code in a comment")
        if dialect == "postgres" and (operator := unknown_operator(body)):
            raise _Unclear(f"{operator} may be an operator of the user's own")
        tokens = tokens_in(body, dialect)
        return Body(_Walk(tokens, dialect, resolve, safe).writes())
    except _Unclear as error:
        return Body(frozenset((ANY,)), str(error))
    except Exception:  # whatever the tokenizer raises for what is no SQL
        return Body(frozenset((ANY,)), "it cannot be read")


class _Walk:
    """One pass over the tokens of a body."""

    def __init__(
        self, tokens: list[Any], dialect: str, resolve: Resolve | None, safe: Collection[str]
    ) -> None:
        self.dialect = dialect
        self.resolve = resolve
        self.safe = safe
        self.texts: list[str] = []
        """What stands in quotes, as it is; other words in lower case."""
        self.words: list[str] = []
        """The same, but " and ' for what stands in quotes."""
        self.found: set[str] = set()
        self._take(tokens)

    def _take(self, tokens: list[Any]) -> None:
        for token in tokens:
            kind, text = token.token_type.name, str(token.text)
            quoted = '"' if kind == "IDENTIFIER" else "'" if "STRING" in kind or kind == "HEREDOC" else ""
            if quoted == "'" and self.words and self.words[-1] in ("refresh", "replace"):
                self._take(tokens_in(text, self.dialect))  # the rest of a command comes as a string
                continue
            if quoted == "'" and self.words and self.words[-1] in _COMMANDS:
                raise _Unclear(f"it has {self.words[-1].upper()}")  # the rest of it, unread
            words = [text] if quoted else text.lower().split()  # ORDER BY is one token
            self.texts += words
            self.words += [quoted or word for word in words]

    def writes(self) -> frozenset[str]:
        for at, word in enumerate(self.words):
            if (word in _OTHERS or (word == "do" and self._at(at + 1) == "'")) and not self._is_name(at):
                raise _Unclear(f"it has {word.upper()}")
            if word == "refresh" and self._at(at + 1) == "materialized":
                self._name(at + (4 if self._at(at + 3) == "concurrently" else 3))
            elif word == "::":
                self._type(at + 1)
            elif word == "cast" and self._at(at + 1) == "(":
                self._cast(at + 2)
            if word in ("insert", "replace", "merge"):
                self._insert(at, word)
            elif word == "update":
                self._update(at)
            elif word == "delete":
                self._delete(at)
            elif word == "(" and at:
                self._call(at - 1)
            elif word == "." and self._at(at + 2) != "(":
                self._calls_own(self._at(at + 1))  # NEW.f is f(NEW), if there is no such column
        return frozenset(self.found)

    def _at(self, at: int) -> str:
        return self.words[at] if 0 <= at < len(self.words) else ""

    def _is_name(self, at: int) -> bool:
        """Whether a word is the name of a column: NEW.call, old.load."""
        return self._at(at - 1) == "."

    def _name(self, at: int) -> int:
        """Take a table's name that begins here; returns where it ends."""
        parts = []
        while True:
            if at >= len(self.words) or not (self.words[at] == '"' or self.words[at].isidentifier()):
                raise _Unclear("it writes what has no plain name")
            quoted = self.words[at] == '"'
            parts.append(fold(self.texts[at], quoted=quoted, dialect=self.dialect))
            at += 1
            if self._at(at) != ".":
                break
            at += 1
        self.found.add(".".join(parts))
        return at

    def _insert(self, at: int, word: str) -> None:
        if self._is_name(at) or self._at(at + 1) == "(":  # a column; replace(a, b, c)
            return
        before = self._at(at - 1)
        if word == "replace" and before == "or":
            return  # INSERT OR REPLACE
        if word == "insert" and before == "then" and self._at(at + 1) in ("values", "default"):
            return  # WHEN NOT MATCHED THEN INSERT: the MERGE names the table
        at += 1
        while self._at(at) in _MODIFIERS:
            at += 1
        if self._at(at) == "into":
            at += 1
        elif self.dialect != "mysql":
            raise _Unclear(f"it has {word.upper()} without INTO")
        while self._at(at) in _MODIFIERS:
            at += 1
        end = self._name(at)
        if word != "merge" and self._at(end) not in _TARGET_ENDS:
            raise _Unclear("an INSERT in it is not understood")

    def _update(self, at: int) -> None:
        before, after = self._at(at - 1), self._at(at + 1)
        if self._is_name(at) or (before in ("do", "key", "for", "then", "no") and after in (
            "set", ";", "", "skip", "nowait", "of", ")", "limit", "'",
        )):  # fmt: skip
            return  # a column; ON CONFLICT DO UPDATE, FOR UPDATE, WHEN MATCHED THEN UPDATE
        if before == "key" and self._at(at - 2) == "duplicate":
            return
        if before in ("for", "key"):
            raise _Unclear("an UPDATE in it is not understood")
        at += 1
        while self._at(at) in _MODIFIERS:
            at += 1
        end = self._name(at)
        if self._at(end) == "as":
            end += 1
        if self._at(end) != "set":
            end += 1  # an alias
        if self._at(end) != "set":
            raise _Unclear("an UPDATE in it is not understood")

    def _delete(self, at: int) -> None:
        before, after = self._at(at - 1), self._at(at + 1)
        if self._is_name(at) or (before == "then" and after in ("when", ";", "")):
            return  # a column; WHEN MATCHED THEN DELETE
        at += 1
        while self._at(at) in (*_MODIFIERS, "quick"):
            at += 1
        if self._at(at) != "from":
            raise _Unclear("a DELETE in it is not understood")
        at += 1
        while self._at(at) in ("only",):
            at += 1
        end = self._name(at)
        if self.dialect == "mysql" and self._at(end) in (",", "using", "join", "inner", "left", "."):
            raise _Unclear("a DELETE of a join in it is not understood")

    def _cast(self, at: int) -> None:
        """CAST(... AS type), from behind the bracket."""
        depth = 1
        while depth and at < len(self.words):
            word = self.words[at]
            depth += (word == "(") - (word == ")")
            if word == "as" and depth == 1:
                return self._type(at + 1)
            at += 1
        return None

    def _type(self, at: int) -> None:
        """A cast to a type of the user's own may be a function of the user's own."""
        word = self._at(at)
        if self.dialect == "postgres" and (word not in _TYPES or self._at(at + 1) == "."):
            raise _Unclear(f"it casts to {word}, which may call a function of the user's own")

    def _call(self, at: int) -> None:
        """A bracket follows this token: is that a call of what may write?"""
        if self.dialect == "sqlite":
            return  # it has no stored functions
        word = self.words[at]
        if word == '"':
            word = self.texts[at].lower()
        elif not word.isidentifier():
            return
        qualified = self._at(at - 1) == "."
        if self._is_target(at):
            return
        if self._calls_own(word):
            return
        if not qualified or self._at(at - 2) == "pg_catalog":
            known = word in _SAFE_CALLS or word in _NOTIFIES or word in self.safe
            if known or self._is_built_in(word):
                return
        raise _Unclear(f"it calls {word}()")

    def _calls_own(self, name: str) -> bool:
        """Whether that is a function of the user's own; what it writes is written here, too."""
        found = None if self.resolve is None else self.resolve(name)
        if found is None:
            return False
        if found.why:
            raise _Unclear(f"it may call {name}(): {found.why}")
        self.found |= found.writes
        return True

    def _is_built_in(self, word: str) -> bool:
        if self.dialect == "postgres":
            return (
                word in builtins.POSTGRES
                or word in builtins.POSTGRES_GRAMMAR
                or word in builtins.POSTGRES_READS
                or word in _CLOCKS
            )
        return word in builtins.MYSQL or word in builtins.MYSQL_READS or word in _CLOCKS

    def _is_target(self, at: int) -> bool:
        """Whether the bracket after this name holds columns: INSERT INTO t (a), or the name of a WITH."""
        while self._at(at - 1) == ".":
            at -= 2
        return self._at(at - 1) in ("into", "with", "as") and self._at(at) != "("


_TYPES = KNOWN_TYPES | frozenset(
    (
        "text int int2 int4 int8 smallint bigint bool boolean float float4 float8 double decimal varchar "
        "character date time timetz timestamp timestamptz interval json jsonb uuid bytea regclass oid"
    ).split()
)
_COMMANDS = frozenset(
    "analyze call copy explain optimize prepare vacuum do refresh show kill execute".split()
)
_CLOCKS = frozenset(
    (
        "uuid_generate_v4 now clock_timestamp "
        "statement_timestamp transaction_timestamp random gen_random_uuid "
        "current_setting current_date current_time current_timestamp localtime "
        "localtimestamp uuid rand sysdate curdate "
        "curtime unix_timestamp utc_timestamp utc_date utc_time last_insert_id user current_user "
        "session_user connection_id row_count found_rows database schema txid_current"
    ).split()
)
