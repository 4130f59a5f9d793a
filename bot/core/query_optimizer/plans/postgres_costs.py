"""What PostgreSQL's planner would say of a scan by an index that does not exist (pure).

The formulas are those of ``cost_index``, ``cost_bitmap_heap_scan`` and ``btcostestimate`` in PostgreSQL's
costsize.c and selfuncs.c; costs are in the planner's unit, a page read in sequence at the default settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

PAGE = 8192


@dataclass(frozen=True, slots=True)
class Prices:
    """The planner's settings; the defaults are PostgreSQL's."""

    seq_page_cost: float = 1.0
    random_page_cost: float = 4.0
    cpu_tuple_cost: float = 0.01
    cpu_index_tuple_cost: float = 0.005
    cpu_operator_cost: float = 0.0025
    effective_cache_size: float = 524_288.0
    """In pages."""
    min_parallel_table_scan_size: float = 1024.0
    """In pages, as the next."""
    min_parallel_index_scan_size: float = 64.0


class ColumnFigures(NamedTuple):
    """What pg_stats knows of a column."""

    distinct: float
    """Different values; negative: their share of the rows."""
    correlation: float
    """Of the order of values with the order in the table, -1 to 1."""
    width: float
    """Bytes of an average value."""
    nulls: float
    """Share (0-1) of the rows."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the planner sees it."""

    rows: float
    pages: float
    visible: float
    """Share (0-1) of its pages that an index-only scan need not look at."""
    columns: Mapping[str, ColumnFigures]

    def distinct(self, column: str) -> float:
        found = self.columns.get(column)
        if found is None:
            return min(200.0, self.rows)  # the planner's guess
        return max(1.0, found.distinct if found.distinct > 0 else -found.distinct * self.rows)

    def matching(self, column: str) -> float:
        """Share of the rows that one value of another table's column finds."""
        found = self.columns.get(column)
        return (1 - found.nulls if found is not None else 1.0) / self.distinct(column)


class Cost(NamedTuple):
    startup: float
    total: float


@dataclass(frozen=True, slots=True)
class Path:
    """One way to read a table by an index."""

    startup: float
    pages: float
    """The part of its cost that is for pages, without its startup."""
    work: float
    """The part that is for the processor, which workers share."""
    workers: int = 0
    """How many the planner would consider for it."""

    def cost(self, processes: float = 1.0) -> Cost:
        return Cost(self.startup, self.startup + self.pages + self.work / processes)


def workers_for(pages: float, least: float) -> int:
    """One for ``least`` pages, and one more for each three times as many."""
    least = max(1.0, least)
    return 0 if pages < least else 1 + int(math.log(pages / least, 3) + 1e-9)


class Index:
    """A B-tree that could be created on ``relation`` over ``columns`` (names in lower case).

    ``own_order``: its first column is not in the order of its type (text_pattern_ops); ``share`` (0-1): of
    the rows that a partial index holds; ``include``: columns that it holds beside the keys; ``behind``: for
    an expression the column that its values are made of.
    """

    def __init__(
        self,
        relation: Relation,
        columns: tuple[str, ...],
        prices: Prices,
        *,
        own_order: bool = False,
        share: float = 1.0,
        include: tuple[str, ...] = (),
        behind: Mapping[str, str] | None = None,
    ) -> None:
        self.relation = relation
        self.prices = prices
        self.columns = columns
        self.rows = max(1.0, relation.rows * share)
        made_of = behind or {}
        held = [made_of.get(column, column) for column in (*columns, *include)]
        known = [relation.columns.get(column) for column in held]
        width = sum(8 * math.ceil((each.width if each else 8.0) / 8) for each in known)
        distinct = 1.0
        for column in held[: len(columns)]:
            distinct = min(self.rows, distinct * relation.distinct(column))
        repeated = self.rows / max(1.0, distinct)
        # A tuple has a header of 8 bytes and a line pointer of 4; equal keys are kept once for many rows.
        size = 12 + width if repeated < 2 or include else 6 + (20 + width) / min(repeated, 130.0)
        self.pages = max(1.0, math.ceil(self.rows * size / (PAGE * 0.9)))
        first = None if columns[0] in made_of else known[0]
        self.correlation = (first.correlation if first and not own_order else 0.0) * (
            0.75 if len(columns) > 1 else 1.0
        )

    def search(self, selected: float, conditions: int, loops: float) -> tuple[float, float, float]:
        """(start-up, pages, processor) of the index alone."""
        prices, relation = self.prices, self.relation
        tuples = max(1.0, relation.rows * selected)
        pages: float = math.ceil(tuples * self.pages / self.rows)
        read = pages
        if loops > 1:
            read = self.fetched(pages * loops, self.pages) / loops
        height = 0 if self.pages <= 1 else math.ceil(math.log(self.pages, 300))
        descent = math.ceil(math.log2(max(2.0, self.rows))) + (height + 1) * 50
        startup = descent * prices.cpu_operator_cost
        work = tuples * (prices.cpu_index_tuple_cost + conditions * prices.cpu_operator_cost)
        return startup, read * prices.random_page_cost, work

    def fetched(self, tuples: float, pages: float) -> float:
        """Pages read for tuples at random places, some of them from the cache (Mackert and Lohman)."""
        total = max(1.0, pages)
        cache = max(1.0, self.prices.effective_cache_size)
        if total <= cache:
            return min(2 * total * tuples / (2 * total + tuples), total)
        limit = 2 * total * cache / (2 * total - cache)
        if tuples <= limit:
            return 2 * total * tuples / (2 * total + tuples)
        return cache + (tuples - limit) * (total - cache) / total

    def scan(
        self, selected: float, conditions: int, others: float, *, covers: bool, loops: float = 1.0
    ) -> Path:
        """By the index and row by row, in its order.

        ``selected`` is the share of rows that its ``conditions`` leave, ``others`` what the remaining
        conditions cost for each row, ``covers`` whether it holds every column the query reads, ``loops`` how
        often it is searched.
        """
        prices, relation = self.prices, self.relation
        startup, index_pages, work = self.search(selected, conditions, loops)
        tuples = max(1.0, relation.rows * selected)
        unseen = 1 - relation.visible if covers else 1.0
        in_order = math.ceil(selected * relation.pages)
        if loops > 1:
            worst = self.fetched(tuples * loops, relation.pages) * unseen * prices.random_page_cost / loops
            best = self.fetched(in_order * loops, relation.pages) * unseen * prices.random_page_cost / loops
        else:
            worst = math.ceil(self.fetched(tuples, relation.pages) * unseen) * prices.random_page_cost
            few = math.ceil(in_order * unseen)
            best = prices.random_page_cost + (few - 1) * prices.seq_page_cost if few > 0 else 0.0
        heap = worst + self.correlation**2 * (best - worst)
        work += tuples * (prices.cpu_tuple_cost + others)
        workers = workers_for(
            index_pages / max(prices.random_page_cost, 1e-9), prices.min_parallel_index_scan_size
        )
        return Path(startup, index_pages + heap, work, workers)

    def bitmap(self, selected: float, conditions: int, others: float, loops: float = 1.0) -> Path:
        """By a bitmap of the rows found, page by page; arguments as for :meth:`scan`."""
        return bitmap_of([(self, selected, conditions)], selected, others, loops)


def bitmap_of(
    parts: list[tuple[Index, float, int]], selected: float, others: float, loops: float = 1.0
) -> Path:
    """One bitmap of several searches, each (index, share of the rows, conditions): an OR of conditions."""
    relation, prices = parts[0][0].relation, parts[0][0].prices
    tuples = max(1.0, relation.rows * selected)
    startup = 0.0
    recheck = 0
    for index, share, conditions in parts:
        start, index_pages, work = index.search(share, conditions, loops)
        startup += start + index_pages + work
        startup += 0.1 * prices.cpu_operator_cost * relation.rows * share
        recheck = max(recheck, conditions)
    total = max(1.0, relation.pages)
    once = min(total, 2 * total * tuples / (2 * total + tuples))
    pages = once if loops == 1 else parts[0][0].fetched(tuples * loops, total) / loops
    each = prices.random_page_cost
    if pages >= 2:
        each -= (prices.random_page_cost - prices.seq_page_cost) * math.sqrt(pages / total)
    work = tuples * (prices.cpu_tuple_cost + others + recheck * prices.cpu_operator_cost)
    return Path(startup, pages * each, work, workers_for(pages, prices.min_parallel_table_scan_size))
