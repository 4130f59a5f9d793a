"""Suggested indexes against a real planner: used or not, and claimed and measured share of the cost.

    python -m benchmarks.evidence postgresql://postgres@127.0.0.1:5432/database

The schema ``adv`` of the database has a bot's tables, a million rows or more in all. Each suggested index is
created in a transaction that is rolled back. ``... URL hold-out`` runs the queries that were written after the
code was done.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg

from bot.core.query_optimizer import QueryOptimizer

# ruff: noqa: E501 - a query in each line
QUERIES = """
SELECT id, url, status FROM downloads WHERE user_id = 4711
SELECT id, url FROM downloads WHERE user_id = 4711 AND status = 'active'
SELECT id, url FROM downloads WHERE user_id = 4711 ORDER BY created_at DESC LIMIT 10
SELECT id, url FROM downloads WHERE status = 'queued' ORDER BY priority DESC, created_at LIMIT 1
SELECT id FROM downloads WHERE status = 'active'
SELECT count(*) FROM downloads WHERE status = 'done'
SELECT count(*) FROM downloads WHERE status = 'error'
SELECT id FROM downloads WHERE gid = 'b0b0'
SELECT id FROM downloads WHERE gid = ANY(ARRAY['a', 'b'])
SELECT id FROM downloads WHERE gid IN ('a', 'b', 'c', 'd')
SELECT sum(size) FROM downloads WHERE user_id = 99
SELECT user_id, sum(size) FROM downloads WHERE created_at > now() - interval '1 day' GROUP BY user_id
SELECT user_id, count(*) FROM downloads WHERE status = 'error' GROUP BY user_id ORDER BY count(*) DESC LIMIT 10
SELECT id FROM downloads WHERE created_at < now() - interval '299 days'
SELECT id FROM downloads WHERE finished_at IS NULL AND user_id = 12
SELECT count(*) FROM downloads WHERE finished_at IS NULL
SELECT max(created_at) FROM downloads WHERE user_id = 77
SELECT min(created_at) FROM downloads
SELECT id FROM downloads ORDER BY created_at DESC LIMIT 20
SELECT id FROM downloads ORDER BY size DESC LIMIT 10
SELECT id FROM downloads WHERE size > 3990000000
SELECT id FROM downloads WHERE size BETWEEN 100 AND 2000000
SELECT id FROM downloads WHERE url = 'https://host/abc'
SELECT id FROM downloads WHERE url LIKE 'https://host/abc%'
SELECT d.id, u.username FROM downloads d JOIN users u ON u.id = d.user_id WHERE d.status = 'active'
SELECT d.id FROM users u JOIN downloads d ON d.user_id = u.id WHERE u.id = 42
SELECT d.id FROM users u JOIN downloads d ON d.user_id = u.id WHERE u.username = 'user42'
SELECT u.username, count(d.id) FROM users u LEFT JOIN downloads d ON d.user_id = u.id WHERE u.id = 10 GROUP BY u.username
SELECT id FROM users WHERE username = 'user9'
SELECT id FROM users WHERE username LIKE 'user9999%'
SELECT id FROM users WHERE lower(email) = 'user7@mail.example'
SELECT id FROM users WHERE email = 'User7@mail.example'
SELECT id, username FROM users WHERE lang = 'ru'
SELECT count(*) FROM users WHERE lang = 'ru'
SELECT count(*) FROM users WHERE is_premium
SELECT id FROM users WHERE is_banned = true
SELECT id FROM users WHERE is_premium = false AND balance <> 5
SELECT id FROM users WHERE lang = 'ru' AND username LIKE '%7777%'
SELECT id FROM users WHERE lang = 'de' AND is_premium = true
SELECT id FROM users WHERE referrer_id = 500
SELECT count(*) FROM users WHERE referrer_id IS NULL
SELECT referrer_id, count(*) FROM users WHERE referrer_id IS NOT NULL GROUP BY referrer_id ORDER BY 2 DESC LIMIT 10
SELECT id FROM users WHERE last_seen < now() - interval '85 days'
SELECT id FROM users WHERE created_at > now() - interval '600 days' AND last_seen < now() - interval '89 days'
SELECT id, balance FROM users ORDER BY balance DESC LIMIT 10
SELECT id FROM users WHERE balance > 99.5
SELECT count(*) FROM users WHERE created_at > now() - interval '1 day'
SELECT id FROM users WHERE created_at > now() - interval '350 days'
SELECT date_trunc('day', created_at), count(*) FROM users WHERE created_at > now() - interval '7 days' GROUP BY 1
SELECT u.id FROM users u JOIN payments p ON p.user_id = u.id WHERE p.amount > 499
SELECT u.id FROM users u WHERE EXISTS (SELECT 1 FROM payments p WHERE p.user_id = u.id AND p.amount > 499)
SELECT id, amount FROM payments WHERE user_id = 55
SELECT sum(amount) FROM payments WHERE user_id = 55 AND status = 'paid'
SELECT id FROM payments WHERE status = 'pending' AND created_at < now() - interval '499 days'
SELECT provider, sum(amount) FROM payments WHERE status = 'paid' GROUP BY provider
SELECT id FROM payments WHERE provider = 'stars' AND status = 'failed' AND created_at > now() - interval '3 days'
SELECT id FROM payments WHERE created_at > now() - interval '30 days' ORDER BY created_at DESC LIMIT 50
SELECT u.username, p.amount FROM payments p JOIN users u ON u.id = p.user_id WHERE p.created_at > now() - interval '1 day'
SELECT c.id, c.title FROM chats c JOIN members m ON m.chat_id = c.id WHERE m.user_id = 555
SELECT user_id FROM members WHERE chat_id = -10
SELECT chat_id FROM members WHERE user_id = 555
SELECT user_id FROM members WHERE chat_id = -10 AND role = 'admin'
SELECT chat_id, user_id FROM members WHERE role = 'admin'
SELECT count(*) FROM members WHERE joined_at > now() - interval '2 days'
SELECT u.username FROM members m JOIN users u ON u.id = m.user_id WHERE m.role = 'admin' AND m.chat_id = -3
SELECT id, text FROM messages WHERE chat_id = -3 ORDER BY id DESC LIMIT 50
SELECT id, text FROM messages WHERE chat_id = -3 ORDER BY created_at DESC LIMIT 50
SELECT max(created_at) FROM messages WHERE chat_id = -3
SELECT id FROM messages WHERE user_id = 77 AND chat_id = -3
SELECT count(*) FROM messages WHERE user_id = 77
SELECT user_id, count(*) FROM messages WHERE chat_id = -30 GROUP BY user_id ORDER BY 2 DESC LIMIT 10
SELECT id FROM messages WHERE hash = 'abcdef'
SELECT id FROM messages WHERE deleted
SELECT id FROM messages WHERE reply_to_id = 5000
SELECT id FROM messages WHERE created_at > now() - interval '1 day'
SELECT id FROM messages WHERE created_at BETWEEN now() - interval '200 days' AND now() - interval '100 days'
SELECT m.id FROM messages m JOIN messages r ON r.id = m.reply_to_id WHERE r.user_id = 5
SELECT id FROM messages WHERE user_id IN (SELECT id FROM users WHERE is_banned) AND chat_id = -7
SELECT c.id FROM chats c LEFT JOIN messages m ON m.chat_id = c.id WHERE m.id IS NULL AND c.id = -4999
SELECT c.id, m.id FROM chats c CROSS JOIN LATERAL (SELECT id FROM messages WHERE chat_id = c.id ORDER BY created_at DESC LIMIT 1) m WHERE c.id > -20
SELECT id FROM messages WHERE deleted AND chat_id = -44
SELECT id FROM messages WHERE user_id = 12 OR reply_to_id = 12
SELECT command, count(*) FROM commands WHERE guild_id = 77 GROUP BY command ORDER BY 2 DESC
SELECT command, count(*) FROM commands WHERE used > now()::timestamp - interval '1 day' GROUP BY command
SELECT author_id, count(*) FROM commands WHERE guild_id = 77 AND used > now()::timestamp - interval '10 days' GROUP BY author_id
SELECT count(*) FROM commands WHERE author_id = 500
SELECT * FROM commands WHERE failed AND guild_id = 12
SELECT count(*) FROM commands WHERE command = 'stars'
SELECT command FROM commands WHERE author_id = 500 ORDER BY used DESC LIMIT 1
SELECT id, content FROM tags WHERE name = 'Tag100' AND location_id = 12
SELECT id, name FROM tags WHERE location_id = 12 ORDER BY uses DESC LIMIT 5
SELECT t.content FROM tag_lookup l JOIN tags t ON t.id = l.tag_id WHERE l.location_id = 9 AND l.name = 'Tag8'
SELECT name FROM tags WHERE owner_id = 100
SELECT s.author_id FROM starrers s JOIN starboard_entries e ON e.id = s.entry_id WHERE e.message_id = 5 OR e.bot_message_id = 5
SELECT e.id, count(*) FROM starboard_entries e JOIN starrers s ON s.entry_id = e.id WHERE e.guild_id = 7 GROUP BY e.id
SELECT s.author_id FROM starrers s WHERE s.entry_id = 77
SELECT id, total FROM starboard_entries WHERE guild_id = 7 ORDER BY total DESC LIMIT 5
SELECT id FROM reminders WHERE expires < now()::timestamp + interval '1 hour' ORDER BY expires LIMIT 1
SELECT id FROM reminders WHERE event = 'reminder' AND extra #>> '{args,0}' = '7'
SELECT id, text FROM detected_spam WHERE gid = 'g5' AND added = false ORDER BY timestamp DESC LIMIT 20
SELECT type, count(*) FROM samples WHERE gid = 'g3' GROUP BY type
SELECT value FROM settings WHERE user_id = 9 AND key = 'lang'
SELECT access_hash FROM access_hash WHERE entity_id = 500
SELECT id FROM users WHERE lower(email) = 'user7@mail.example'
SELECT id, balance FROM users WHERE lower(username) = 'user77'
SELECT id FROM users WHERE lower(username) LIKE 'user9999%'
SELECT id FROM users WHERE username ILIKE '%9999%'
SELECT id FROM users WHERE email LIKE '%7777@mail%'
SELECT id, text FROM messages WHERE text LIKE '%number 7777%'
SELECT id FROM messages WHERE chat_id = -3 AND text ILIKE '%abcdef%'
SELECT id FROM downloads WHERE url LIKE '%abcdef0%'
SELECT id FROM reminders WHERE extra @> '{"args": ["7"]}'
SELECT id FROM reminders WHERE extra ->> 'kind' = 'x'
SELECT id FROM reminders WHERE extra ? 'args' AND event = 'tempban'
SELECT id FROM messages WHERE deleted ORDER BY created_at DESC LIMIT 50
SELECT id FROM downloads WHERE status = 'active' ORDER BY created_at DESC LIMIT 20
SELECT id, url FROM downloads WHERE status = 'active' AND user_id = 7
SELECT id FROM users WHERE is_premium AND last_seen < now() - interval '80 days'
SELECT count(*) FROM commands WHERE failed
SELECT author_id FROM commands WHERE failed AND guild_id = 12 ORDER BY used DESC LIMIT 3
SELECT id FROM starboard_entries WHERE bot_message_id IS NULL AND guild_id = 7
SELECT date_trunc('day', used), count(*) FROM commands WHERE date_trunc('day', used) = '2026-01-01' GROUP BY 1
SELECT count(*) FROM commands WHERE used::date = '2026-01-01'
SELECT sum(size) FROM downloads WHERE status = 'error'
SELECT sum(total) FROM starboard_entries WHERE guild_id < 200
SELECT max(size) FROM downloads WHERE user_id = 77
SELECT id FROM downloads ORDER BY finished_at DESC NULLS LAST LIMIT 10
SELECT id FROM users ORDER BY lower(username) LIMIT 10
SELECT id FROM users ORDER BY last_seen NULLS FIRST LIMIT 10
SELECT user_id, created_at FROM messages WHERE chat_id = -3 AND NOT deleted ORDER BY created_at DESC LIMIT 10
UPDATE downloads SET status = 'done' WHERE gid = 'abc'
UPDATE downloads SET status = 'done', finished_at = now() WHERE status = 'active' AND created_at < now() - interval '1 day'
UPDATE users SET is_banned = true WHERE username = 'user77'
UPDATE payments SET status = 'failed' WHERE status = 'pending' AND created_at < now() - interval '499 days'
UPDATE messages SET deleted = true WHERE reply_to_id = 5000
UPDATE downloads SET priority = 1 WHERE user_id IN (SELECT id FROM users WHERE is_premium) AND status = 'queued'
UPDATE downloads SET status = 'active' WHERE id = (SELECT id FROM downloads WHERE status = 'queued' ORDER BY priority DESC, created_at LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id
UPDATE users SET last_seen = now() WHERE id = 7
DELETE FROM downloads WHERE finished_at < now() - interval '299 days'
DELETE FROM messages WHERE chat_id = -3 AND user_id = 77
DELETE FROM users WHERE last_seen < now() - interval '89 days'
DELETE FROM starrers s USING starboard_entries e WHERE e.id = s.entry_id AND e.guild_id = 7
DELETE FROM members WHERE user_id = 555
DELETE FROM reminders WHERE expires < now()::timestamp - interval '8 days'
DELETE FROM messages WHERE deleted
DELETE FROM tags WHERE lower(name) = 'tag7'
DELETE FROM downloads WHERE NOT EXISTS (SELECT 1 FROM users u WHERE u.id = downloads.user_id)
""".strip().splitlines()
"""What mirror, leech and moderation bots ask; among them queries that no index helps."""

HOLD_OUT = """
SELECT id, title FROM chats WHERE type = 'channel' AND created_at > now() - interval '10 days'
SELECT id FROM chats WHERE lower(title) = 'chat 77'
SELECT count(*) FROM chats WHERE type = 'private'
SELECT u.id, u.username FROM users u WHERE u.referrer_id = 77 AND u.is_premium ORDER BY u.created_at DESC LIMIT 5
SELECT count(DISTINCT user_id) FROM commands c JOIN downloads d ON d.user_id = c.author_id WHERE c.guild_id = 1500
SELECT id FROM payments WHERE external_id ILIKE '%9999%'
SELECT count(*), sum(amount) FROM payments WHERE created_at BETWEEN now() - interval '40 days' AND now() - interval '38 days'
SELECT user_id FROM payments GROUP BY user_id HAVING count(*) > 8
SELECT provider, status, count(*) FROM payments WHERE user_id BETWEEN 100 AND 200 GROUP BY provider, status
SELECT id FROM detected_spam WHERE NOT added ORDER BY timestamp LIMIT 100
SELECT user_name FROM detected_spam WHERE user_id = 77 OR user_name = 'n77'
SELECT id FROM detected_spam WHERE text LIKE '%spam 5999%'
SELECT gid, count(*) FROM detected_spam WHERE timestamp > now() - interval '2 days' GROUP BY gid
SELECT message FROM samples WHERE type = 'spam' AND origin = 'user' AND gid = 'g3' ORDER BY timestamp DESC LIMIT 10
SELECT id FROM samples WHERE md5(message) = 'abc'
SELECT entity_id FROM access_hash WHERE access_hash = 77777
SELECT user_id FROM settings WHERE key = 'thumb' AND value = 'x'
SELECT id FROM reminders WHERE event = 'tempban' AND expires < now()::timestamp ORDER BY expires LIMIT 10
SELECT id FROM reminders WHERE extra @> '{"args": ["77", "c"]}' AND expires > now()::timestamp
SELECT min(expires) FROM reminders WHERE event = 'tempmute'
SELECT t.name, l.name FROM tags t JOIN tag_lookup l ON l.tag_id = t.id WHERE t.owner_id = 77
SELECT name, uses FROM tags WHERE uses > 985
SELECT name FROM tags WHERE lower(name) LIKE 'tag999%' AND location_id = 7
SELECT location_id, count(*) FROM tag_lookup WHERE owner_id = 5 GROUP BY location_id
SELECT e.message_id FROM starboard_entries e WHERE e.channel_id = 12 AND e.total > 30
SELECT author_id, sum(total) FROM starboard_entries WHERE guild_id = 12 GROUP BY author_id ORDER BY 2 DESC LIMIT 3
SELECT DISTINCT entry_id FROM starrers WHERE author_id = 500
SELECT m.id, u.username FROM messages m JOIN users u ON u.id = m.user_id WHERE m.hash = 'abc' ORDER BY m.id LIMIT 20
SELECT id FROM messages WHERE reply_to_id IS NULL AND user_id = 99 AND chat_id = -9
SELECT chat_id, max(created_at) FROM messages WHERE user_id = 4242 GROUP BY chat_id
SELECT count(*) FROM messages WHERE length(text) > 200
SELECT id FROM downloads WHERE priority = 2 AND status = 'active' ORDER BY size DESC LIMIT 5
SELECT id FROM downloads WHERE finished_at BETWEEN now() - interval '2 days' AND now() - interval '1 day' AND status = 'error'
SELECT d.status, count(*) FROM downloads d WHERE d.user_id IN (1, 2, 3, 4, 5) GROUP BY d.status
SELECT id FROM downloads WHERE size IS NULL
SELECT command FROM commands WHERE prefix = '?' AND channel_id = 77 ORDER BY used DESC LIMIT 20
SELECT guild_id FROM commands WHERE failed AND command = 'stars' AND used > now()::timestamp - interval '5 days'
UPDATE tags SET uses = uses + 1 WHERE lower(name) = 'tag42' AND location_id = 12
UPDATE members SET role = 'admin' WHERE user_id = 555 AND role = 'member'
UPDATE starboard_entries SET total = total + 1 WHERE bot_message_id = 900077
DELETE FROM settings WHERE value = 'old'
DELETE FROM commands WHERE used < now()::timestamp - interval '399 days'
DELETE FROM samples s USING detected_spam d WHERE d.gid = s.gid AND d.user_id = 77 AND s.origin = 'preset'
""".strip().splitlines()
"""Written after the code was done, and not used to tune it."""


class Measured(NamedTuple):
    query: str
    suggested: list[str]
    used: int
    claimed: float
    measured: float

    @property
    def off(self) -> float:
        return abs(self.claimed - self.measured)


async def _plan(connection: asyncpg.Connection[Any], query: str) -> tuple[float, str]:
    text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {query}")
    return json.loads(text)[0]["Plan"]["Total Cost"], text


async def measure(url: str, queries: Sequence[str]) -> list[Measured]:
    connection = await asyncpg.connect(url, statement_cache_size=0)
    await connection.execute("SET search_path = adv, public; SET jit = off")

    async def explain(statements: Sequence[tuple[str, Any]]) -> list[list[tuple[Any, ...]]]:
        return [
            [tuple(row) for row in await connection.fetch(sql, *(params or ()))] for sql, params in statements
        ]

    optimizer = QueryOptimizer()
    await optimizer.enable(dialect="postgres")
    optimizer.explain_with(explain, "postgres")
    found = []
    for query in queries:
        result = await optimizer.analyze_query(query)
        before, _ = await _plan(connection, query)
        transaction = connection.transaction()
        await transaction.start()
        try:
            for suggestion in result.index_suggestions:
                if suggestion.extension:
                    await connection.execute(f"CREATE EXTENSION IF NOT EXISTS {suggestion.extension}")
                await connection.execute(suggestion.ddl)
            after, text = await _plan(connection, query)
        finally:
            await transaction.rollback()
        used = [each for each in result.index_suggestions if f'"{each.ddl.split()[2]}"' in text]
        found.append(
            Measured(
                query,
                [each.ddl.partition(" ON ")[2] for each in result.index_suggestions],
                len(used),
                result.estimated_improvement,
                100 * (1 - after / before),
            )
        )
    await optimizer.disable()
    await connection.close()
    return found


def report(found: Sequence[Measured]) -> str:
    lines = ["claimed measured used  query -> suggested"]
    for each in found:
        mark = "!" if each.off > 10 or each.used < len(each.suggested) else " "
        lines.append(
            f"{each.claimed:7.1f} {each.measured:8.1f} {each.used}/{len(each.suggested)} {mark} {each.query}"
            f" -> {'; '.join(each.suggested) or '-'}"
        )
    suggested = sum(len(each.suggested) for each in found)
    helped = [each for each in found if each.suggested]
    lines += [
        f"suggestions used by the planner: {sum(each.used for each in found)} of {suggested}",
        f"claimed within 10 points of measured: {sum(each.off <= 10 for each in found)} of {len(found)} queries, "
        f"{sum(each.off <= 10 for each in helped)} of {len(helped)} with a suggestion",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evidence", description=__doc__.splitlines()[0]
    )
    url = os.environ.get("PHASE4_BENCH_POSTGRESQL_URL")
    parser.add_argument("url", nargs="?", default=url, help="default: PHASE4_BENCH_POSTGRESQL_URL")
    parser.add_argument("queries", nargs="?", choices=("tuned", "hold-out"), default="tuned")
    given = parser.parse_args()
    if given.url is None:
        parser.error("the url of a database with a schema adv is needed")
    chosen = HOLD_OUT if given.queries == "hold-out" else QUERIES
    print(report(asyncio.run(measure(given.url, chosen))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
