"""Which tables the body of a trigger writes; a body that is not understood may write any."""

import pytest

from bot.core.query_optimizer.sql.bodies import MAX_BODY, Body, written_in
from bot.core.query_optimizer.sql.names import ANY

PG, MY, LITE = "postgres", "mysql", "sqlite"


@pytest.mark.parametrize(
    ("dialect", "body", "tables"),
    [
        (PG, "BEGIN NEW.updated_at = now(); RETURN NEW; END", ""),
        (PG, "BEGIN INSERT INTO shop.log VALUES (NEW.v); RETURN NEW; END", "shop.log"),
        (PG, "BEGIN IF TG_OP = 'DELETE' THEN DELETE FROM ONLY a; ELSE UPDATE b x SET n = 1; END IF; END",
         "a b"),
        (PG, "BEGIN PERFORM pg_notify('c', row_to_json(NEW)::text); RETURN NULL; END", ""),
        (PG, 'BEGIN INSERT INTO "Log"(a) VALUES (NEW.call) ON CONFLICT (a) DO UPDATE SET b = 1; END',
         "Log"),
        (PG, "BEGIN WITH d AS (DELETE FROM q RETURNING id) INSERT INTO r SELECT id FROM d; END", "q r"),
        (PG, "BEGIN MERGE INTO t USING s ON t.id = s.id WHEN MATCHED THEN UPDATE SET v = 1 "
             "WHEN NOT MATCHED THEN INSERT VALUES (1); END", "t"),
        (PG, "BEGIN REFRESH MATERIALIZED VIEW CONCURRENTLY s.m; RETURN NULL; END", "s.m"),
        (PG, "-- it's\nBEGIN /* don't */ DELETE FROM t; END", "t"),
        (MY, "INSERT INTO log VALUES (new.v)", "log"),
        (MY, "BEGIN SET NEW.x = UPPER(NEW.x); INSERT IGNORE INTO `l`(a) VALUES (1) ON DUPLICATE KEY UPDATE "
             "a = VALUES(a); REPLACE INTO z SET a = 1; UPDATE db.q SET a = 1; END", "l z db.q"),
        (LITE, "BEGIN INSERT OR REPLACE INTO u VALUES (new.x); DELETE FROM [z]; SELECT RAISE(ABORT, ''); END",
         "u z"),
        (LITE, "BEGIN UPDATE OR IGNORE t SET v = mine(v); END", "t"),
    ],
)  # fmt: skip
def test_what_it_names_is_what_it_writes(dialect, body, tables):
    assert written_in(body, dialect) == Body(frozenset(tables.split()))


@pytest.mark.parametrize(
    ("dialect", "body", "why"),
    [
        (PG, "BEGIN EXECUTE 'delete from t'; END", "EXECUTE"),
        (PG, "BEGIN CALL p(); END", "CALL"),
        (PG, "BEGIN TRUNCATE t; END", "TRUNCATE"),
        (PG, "BEGIN COPY t FROM '/x'; END", "COPY"),
        (PG, "BEGIN DO $x$ BEGIN DELETE FROM t; END $x$; END", "DO"),
        (PG, "BEGIN PERFORM audit(NEW.id); END", "audit()"),
        (PG, "BEGIN INSERT INTO l VALUES (my.lower('x')); END", "lower()"),
        (PG, "BEGIN INSERT INTO l VALUES (NEW.s::mood); END", "mood"),
        (PG, "BEGIN INSERT INTO l VALUES (CAST(NEW.s AS mood)); END", "mood"),
        (PG, "BEGIN INSERT INTO l VALUES (1 @+@ 2); END", "operator"),
        (MY, "BEGIN UPDATE a JOIN b ON a.x = b.x SET a.y = 1; END", "UPDATE"),
        (MY, "BEGIN DELETE a FROM a JOIN b; END", "DELETE"),
        (MY, "SET NEW.v = wr()", "wr()"),
        (MY, "/*! DELETE FROM t */", "comment"),
        (PG, "DELETE FROM t " * MAX_BODY, "long"),
    ],
)
def test_what_is_not_understood_may_write_anything(dialect, body, why):
    found = written_in(body, dialect)
    assert found.writes == {ANY}
    assert why in found.why


def test_what_functions_of_the_users_own_write_counts():
    own = {"audit": Body(frozenset(("log",))), "opaque": Body(frozenset((ANY,)), "it has EXECUTE")}
    body = "BEGIN PERFORM s.audit(NEW.id); DELETE FROM t; END"
    assert written_in(body, PG, own.get) == Body(frozenset(("log", "t")))
    assert written_in("BEGIN x := NEW.audit; END", PG, own.get).writes == {"log"}, "NEW.f may be f(NEW)"
    assert "opaque(): it has EXECUTE" in written_in("BEGIN PERFORM opaque(); END", PG, own.get).why
