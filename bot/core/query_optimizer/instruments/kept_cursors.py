"""Cursors that replay kept rows, as sqlite3's would give them.

An open cursor of SQLite holds a snapshot as long as it has rows left, which no kept result can. So kept rows
answer only a first fetch that takes all of them; any other makes the cursor a real one.
"""

from __future__ import annotations

import gc
import operator
import sqlite3
from typing import Any

MANY = ("execute", "executemany", "executescript")


def _kind_of_statements() -> type | None:
    """The type by which an unfinished cursor refers to its statement; None if this Python has no such type.

    sqlite3 steps ahead by one row, and lets go of the statement when there is none. Nothing else tells
    without a fetch whether rows are left.
    """
    connection = sqlite3.connect(":memory:")
    try:
        cursor = connection.execute("SELECT 1 UNION ALL SELECT 2")
        before = set(map(type, gc.get_referents(cursor)))
        cursor.fetchone()
        between = set(map(type, gc.get_referents(cursor)))
        cursor.fetchone()
        gone = before - set(map(type, gc.get_referents(cursor)))
        return gone.pop() if before == between and len(gone) == 1 else None
    finally:
        connection.close()


_STATEMENT = _kind_of_statements()


def is_over(cursor: sqlite3.Cursor) -> bool:
    """Whether no rows are left. Only in the connection's thread; False if this Python does not tell."""
    return _STATEMENT is not None and _STATEMENT not in map(type, gc.get_referents(cursor))


class KeptCursor:
    """What aiosqlite's cursor has in place of sqlite3's; its methods may run in the connection's thread.

    ``text`` and ``params`` are the query's, ``names`` those of the columns, ``lastrowid`` the connection's.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        text: str,
        params: Any,
        names: tuple[str, ...],
        rows: list[Any],
        lastrowid: int,
    ) -> None:
        self.connection = connection
        self.text = text
        self.params = params
        self.real: sqlite3.Cursor | None = None
        """The cursor that has taken its place."""
        self._rows = rows
        self._description = tuple([(name, None, None, None, None, None, None) for name in names])
        self._lastrowid = lastrowid
        self._row_factory = self._rows_made_by = connection.row_factory
        self._text_factory = connection.text_factory
        self._arraysize = 1
        self.is_closed = False
        self._is_read = not rows

    @property
    def is_armed(self) -> bool:
        """Whether it stands for a cursor of which no row was taken yet."""
        return not (self.is_closed or self._is_read or self.real is not None)

    def answers(self, name: str, args: tuple[Any, ...]) -> bool:
        """Whether the method ``name`` needs no database."""
        if self.real is not None:
            return False
        if self.is_closed:
            return True  # with an error
        if name in MANY:
            return False
        if self._is_read or name == "close":
            return True
        if (
            self._row_factory is not self._rows_made_by
            or self.connection.text_factory is not self._text_factory
        ):
            return False
        if name == "fetchall":
            return True
        size = 1 if name == "fetchone" else args[0] if args else self._arraysize
        return type(size) is int and size >= len(self._rows)

    def become(self, real: sqlite3.Cursor) -> None:
        """``real`` takes its place."""
        real.arraysize = self._arraysize
        real.row_factory = self._row_factory
        self.real = real

    def _take(self, name: str, args: tuple[Any, ...]) -> Any:
        if self.is_closed and self.real is None:
            raise sqlite3.ProgrammingError("Cannot operate on a closed cursor.")
        if not self.answers(name, args):
            if self.real is None:
                again = self.connection.cursor()
                if name not in MANY and not self._is_read:
                    again.execute(self.text, self.params or ())
                self.become(again)
            return getattr(self.real, name)(*args)
        rows, self._rows, self._is_read = self._rows, [], True
        if name == "fetchone":
            return rows[0] if rows else None
        return rows

    def execute(self, *args: Any) -> Any:
        return self._take("execute", args)

    def executemany(self, *args: Any) -> Any:
        return self._take("executemany", args)

    def executescript(self, *args: Any) -> Any:
        return self._take("executescript", args)

    def fetchone(self) -> Any:
        return self._take("fetchone", ())

    def fetchmany(self, *args: Any) -> Any:
        return self._take("fetchmany", args)

    def fetchall(self) -> Any:
        return self._take("fetchall", ())

    def close(self) -> None:
        if self.real is not None:
            self.real.close()
        self.is_closed = True
        self._rows = []

    @property
    def description(self) -> Any:
        return self._description if self.real is None else self.real.description

    @property
    def rowcount(self) -> int:
        return -1 if self.real is None else self.real.rowcount

    @property
    def lastrowid(self) -> int | None:
        return self._lastrowid if self.real is None else self.real.lastrowid

    @property
    def arraysize(self) -> int:
        return self._arraysize if self.real is None else self.real.arraysize

    @arraysize.setter
    def arraysize(self, value: int) -> None:
        if self.real is None:
            self._arraysize = operator.index(value)
        else:
            self.real.arraysize = value

    @property
    def row_factory(self) -> Any:
        return self._row_factory if self.real is None else self.real.row_factory

    @row_factory.setter
    def row_factory(self, factory: Any) -> None:
        if self.real is None:
            self._row_factory = factory
        else:
            self.real.row_factory = factory
