"""What PostgreSQL's planner would say of a search by a GIN index that does not exist (pure).

The formulas are those of ``gincostestimate`` in PostgreSQL's selfuncs.c. It knows the pages of an index;
those of one that does not exist are estimated from the width of the column.
"""

from __future__ import annotations

import math

from bot.core.query_optimizer.plans.postgres_costs import PAGE, Index, Prices, Relation

_ITEM_BYTES = 2.8
"""Of one row under one key, compressed: measured 1.7 to 3.8 on URLs, messages, names and addresses."""
_TRIGRAMS = 3_000.0
"""Different ones in a column of texts: measured 1,200 to 4,700."""


class GinIndex(Index):
    """A GIN index over one column. ``entries`` keys are looked up in a search."""

    def __init__(
        self, relation: Relation, column: str, prices: Prices, *, entries: int, trigrams: bool
    ) -> None:
        super().__init__(relation, (column,), prices)
        figures = relation.columns.get(column)
        width = figures.width if figures is not None else 32.0
        # A text has about a trigram for each character, a document a key for each 16 bytes.
        items = relation.rows * max(1.0, width if trigrams else width / 16)
        if trigrams:
            self.keys = min(_TRIGRAMS, items)
            in_keys = 0.25
        else:
            self.keys = max(1.0, min(items, relation.distinct(column)))
            in_keys = 0.8
        self.pages = max(2.0, math.ceil(items * _ITEM_BYTES / PAGE))
        self.key_pages = max(1.0, math.ceil(self.pages * in_keys))
        self.data_pages = max(1.0, self.pages - self.key_pages)
        self.entries = entries
        self.correlation = 0.0

    def search(self, selected: float, conditions: int, loops: float) -> tuple[float, float, float]:
        prices = self.prices
        key_pages = math.ceil(self.entries * round(self.key_pages**0.15))
        data_pages = math.ceil(self.data_pages * self.entries / self.keys)
        rows = max(1.0, self.relation.rows * selected)
        data_pages = max(data_pages, math.ceil(rows / (PAGE / 3)))
        work = rows * (prices.cpu_index_tuple_cost + conditions * prices.cpu_operator_cost)
        return key_pages * prices.random_page_cost, data_pages * prices.random_page_cost, work
