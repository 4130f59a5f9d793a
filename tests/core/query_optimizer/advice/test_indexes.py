"""The DDL of index suggestions: the databases that they are for take it."""

import sqlite3

import asyncpg
import pytest

from bot.core.query_optimizer.advice.advisor import advise
from bot.core.query_optimizer.sql.analyzer import read
from bot.core.query_optimizer.sql.schema import Schema

PG, LITE = "postgres", "sqlite"
TABLES = (
    'CREATE TABLE Users (UserId INT, Created INT, grp INT, "Name" TEXT);'
    'CREATE TABLE "Odd" (UserId INT, "order" INT); CREATE TABLE chats (id INT, userid INT, grp INT, old INT)'
)
CASES = [
    # Names without quotes are folded in PostgreSQL, those in quotes are not.
    (PG, "SELECT * FROM Users WHERE UserId = 5", "CREATE INDEX idx_users_userid ON users (userid)"),
    (PG, 'SELECT * FROM Users WHERE "Name" = ?', 'CREATE INDEX idx_users_name ON users ("Name")'),
    (PG, 'SELECT * FROM "Odd" AS o JOIN Users AS u ON o.UserId = u.UserId WHERE u.Grp > 3 AND o."order" = 2',
     'CREATE INDEX idx_odd_order ON "Odd" ("order")'),
    (LITE, "SELECT * FROM Users WHERE UserId = 5", "CREATE INDEX idx_users_userid ON Users (UserId)"),
    # However a column is spelled, it is listed once.
    (PG, "SELECT * FROM users WHERE Created > 5 ORDER BY created LIMIT 5",
     "CREATE INDEX idx_users_created ON users (created)"),
    (LITE, "SELECT * FROM users WHERE grp = 1 AND Created > 5 ORDER BY created DESC LIMIT 5",
     "CREATE INDEX idx_users_grp_created ON users (grp, Created)"),
    (LITE, "SELECT * FROM users WHERE grp = 1 ORDER BY Created DESC, GRP, UserId LIMIT 5",
     "CREATE INDEX idx_users_grp_created_userid ON users (grp, Created DESC, UserId)"),
    # An index of SQLite is in its table's schema.
    (LITE, "SELECT * FROM main.users WHERE grp = 1", "CREATE INDEX main.idx_users_grp ON users (grp)"),
    (PG, "SELECT * FROM Pg_Temp.users WHERE grp = 1", "CREATE INDEX idx_users_grp ON pg_temp.users (grp)"),
    # What every row has without a declaration cannot be in one.
    (LITE, "SELECT * FROM users WHERE rowid = 5", None),
    (LITE, "SELECT * FROM users WHERE _rowid_ > 5 ORDER BY oid", None),
    (LITE, "SELECT * FROM users WHERE grp = 1 ORDER BY rowid LIMIT 3",
     "CREATE INDEX idx_users_grp ON users (grp)"),
    (PG, "SELECT * FROM users WHERE ctid = '(0,1)'", None),
    (PG, "SELECT * FROM users WHERE tableoid = 5 AND xmin > 3", None),
    # LIKE needs the order of characters, unless the collation is C.
    (PG, 'SELECT * FROM users WHERE "Name" LIKE \'a%\'',
     'CREATE INDEX idx_users_name ON users ("Name" text_pattern_ops)'),
    (PG, 'SELECT * FROM users WHERE "Name" LIKE \'a%\' ORDER BY "Name" LIMIT 3',
     'CREATE INDEX idx_users_name ON users ("Name" text_pattern_ops)'),
    (PG, 'SELECT * FROM users WHERE "Name" = \'a\'', 'CREATE INDEX idx_users_name ON users ("Name")'),
    (LITE, "SELECT * FROM users WHERE Name LIKE 'a%'", "CREATE INDEX idx_users_name ON users (Name)"),
    # A range of the joined table selects its rows: the column of the join would not.
    (PG, "SELECT * FROM chats c JOIN users u ON u.userid = c.id WHERE u.created > 5",
     "CREATE INDEX idx_users_created ON users (created)"),
    (PG, "SELECT * FROM chats c WHERE EXISTS (SELECT 1 FROM users u WHERE u.userid = c.id AND u.created > 5)",
     "CREATE INDEX idx_users_created ON users (created)"),
    # The table with conditions is read first, the other one is looked up.
    (PG, "SELECT * FROM users u JOIN chats c ON c.id = u.userid WHERE c.id = 5",
     "CREATE INDEX idx_users_userid ON users (userid)"),
    (PG, "SELECT * FROM users u JOIN chats c ON c.id = u.userid WHERE c.id = 5 OR c.old = 5",
     "CREATE INDEX idx_users_userid ON users (userid)"),
    (PG, "SELECT * FROM users u LEFT JOIN chats c ON c.userid = u.userid WHERE c.grp = 5",
     "CREATE INDEX idx_chats_grp_userid ON chats (grp, userid)"),
    # PostgreSQL searches an index for a boolean column that stands alone; SQLite does not.
    (PG, "SELECT * FROM users WHERE created AND grp = 1",
     "CREATE INDEX idx_users_created_grp ON users (created, grp)"),
    (PG, "SELECT * FROM users WHERE created IS TRUE", "CREATE INDEX idx_users_created ON users (created)"),
    (PG, "SELECT * FROM users WHERE created IS NOT TRUE", None),
    (PG, "SELECT * FROM users WHERE NOT created", None),
    (LITE, "SELECT * FROM users WHERE created", None),
    # The smallest value is the first of an index.
    (PG, "SELECT max(created) FROM users WHERE grp = 1",
     "CREATE INDEX idx_users_grp_created ON users (grp, created)"),
    (LITE, "SELECT min(created) AS first FROM users", "CREATE INDEX idx_users_created ON users (created)"),
    (LITE, "SELECT min(created), max(created) FROM users", None),
    (LITE, "SELECT min(created) FROM users GROUP BY grp", None),
]  # fmt: skip


def suggested(dialect, query):
    return [suggestion.ddl for suggestion in advise(read(query, dialect)).index_suggestions]


@pytest.mark.parametrize(("dialect", "query", "ddl"), CASES)
def test_suggestions(dialect, query, ddl):
    found = suggested(dialect, query)
    assert ddl in found if ddl else found == []


def test_sqlite_takes_them():
    for dialect, query, _ in CASES:
        database = sqlite3.connect(":memory:")
        database.executescript(TABLES)
        for ddl in suggested(dialect, query) if dialect == LITE else ():
            database.execute(ddl)
        database.close()


async def test_postgresql_takes_them(postgresql_url):
    for dialect, query, _ in CASES:
        connection = await asyncpg.connect(postgresql_url)
        await connection.execute(TABLES.replace("TABLE", "TEMPORARY TABLE"))
        for ddl in suggested(dialect, query) if dialect == PG else ():
            await connection.execute(ddl)
        await connection.close()


def with_schema(dialect, ddl, query):
    schema = Schema()
    for census in read(ddl, dialect).censuses:
        schema.learn(census)
    return [suggestion.ddl for suggestion in advise(read(query, dialect), schema).index_suggestions]


def test_a_type_without_order_is_in_no_index():
    """PostgreSQL has such; a column that is only asked for NULL may be one."""
    query = "SELECT id FROM jobs WHERE payload IS NULL AND state = 1"
    assert suggested(PG, query) == ["CREATE INDEX idx_jobs_state ON jobs (state)"]
    ddl = "CREATE TABLE jobs (state int, payload json)"
    assert with_schema(PG, ddl, query) == ["CREATE INDEX idx_jobs_state ON jobs (state)"]
    ddl = "CREATE TABLE jobs (state int, payload int)"
    assert with_schema(PG, ddl, query) == ["CREATE INDEX idx_jobs_payload_state ON jobs (payload, state)"]


def test_mysql_indexes_the_beginning_of_a_long_column():
    query = "SELECT id FROM jobs WHERE note = 'x' AND name = 'y' AND state = 1"
    ddl = "CREATE TABLE jobs (state int, note text, name varchar(255))"
    assert with_schema("mysql", ddl, query) == [
        "CREATE INDEX idx_jobs_note_name_state ON jobs (note(190), name(190), state)"
    ]
    assert with_schema("mysql", "CREATE TABLE jobs (note json)", "SELECT id FROM jobs WHERE note = '1'") == []


def test_reserved_words_and_marks_in_names_are_quoted():
    assert suggested("mysql", "SELECT id FROM `a``b` WHERE `float` = 1 AND `recursive` = 2") == [
        "CREATE INDEX idx_a_b_float_recursive ON `a``b` (`float`, `recursive`)"
    ]
    assert suggested(PG, 'SELECT id FROM "over" WHERE "system_user" = 1 AND "lateral" = 2') == [
        'CREATE INDEX idx_over_system_user_lateral ON "over" (system_user, "lateral")'
    ]


def test_long_names_stay_apart():
    names = [
        suggested(PG, f"SELECT id FROM {'t' * 60} WHERE {column} = 1")[0].split()[2]
        for column in ("some_column", "some_other")
    ]
    assert names[0] != names[1]
    assert all(len(name) == 63 for name in names)


def test_indexes_of_one_query_have_names_of_their_own():
    database = sqlite3.connect(":memory:")
    database.executescript("CREATE TABLE t (a_b, i); CREATE TABLE t_a (b, i)")
    both = suggested(LITE, "SELECT 1 FROM t WHERE a_b = 1 UNION ALL SELECT 2 FROM t_a WHERE b = 1")
    assert len(both) == 2
    for ddl in both:
        database.execute(ddl)
    database.close()
