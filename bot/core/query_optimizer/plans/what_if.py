"""The indexes that PostgreSQL's planner would use for a plan, and what it would cost with them (pure).

Each index that may serve the query is tried in each way a scan or a join of the plan could use it, and the
plan is priced with it. What is not cheaper, the planner would not use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bot.core.query_optimizer.models import IndexSuggestion
from bot.core.query_optimizer.plans.gin_costs import GinIndex
from bot.core.query_optimizer.plans.plan_costs import GATHERS, Change, Node, Plan, below, inputs_of, processes
from bot.core.query_optimizer.plans.postgres_costs import Index, Path, Prices, Relation, bitmap_of

LEAST_SAVED = 0.02
"""Share of the cost that an index must save: below it, an estimate cannot tell whether it is used."""

LEAST_BY_HOLDING = 0.2
"""Share of the cost that an index must save more than another by holding columns beside its keys."""

MAX_NODES = 100
"""Of a plan that is priced: each way to use an index costs a walk through it."""

_SORTS = ("Sort", "Incremental Sort")
_JOINS = ("Hash Join", "Merge Join", "Nested Loop")
_SCANS = ("Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan")
_PASSED = ("Hash", "Materialize", "Memoize", *_SORTS, *GATHERS)


class Option(NamedTuple):
    """An index that could be created, or exists, with what its search would use."""

    suggestion: IndexSuggestion
    scope: int
    alias: str
    table: str
    selected: float
    """Share of the table's rows that its conditions with constants leave."""
    conditions: int
    searched: tuple[str, ...]
    joined: tuple[str, ...]
    ordered: bool
    extreme: bool
    side: int
    reads: frozenset[str] | None
    exists: bool
    share: float = 1.0
    """Of the table's rows that a partial index holds."""
    behind: Mapping[str, str] = {}
    """For each expression a column that it is made of."""
    entries: int = 0
    """Keys that a search of a GIN index looks up."""

    @property
    def partial(self) -> bool:
        return bool(self.suggestion.predicate)


class Ways:
    """The ways in which indexes could change a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.prices = plan.prices
        self.above = plan.above

    def of(self, options: Sequence[Option]) -> Iterator[Change]:
        """What the indexes of one group change: one alone, or those of the sides of an OR together."""
        first = options[0]
        relation = self.plan.relations.get(first.table)
        if relation is None:
            return
        indexes = [_index(relation, each, self.prices) for each in options]
        for node in below(self.plan.top):
            if not _reads(node, first):
                continue
            if first.side:
                yield self._by_or(node, options, indexes)
            else:
                yield from self._by_scan(node, first, indexes[0])
                yield from self._by_lookup(node, first, indexes[0])

    def _others(self, node: Node, relation: Relation, conditions: int) -> float:
        """What the conditions that no index serves cost for each row."""
        operator = self.prices.cpu_operator_cost
        if node["Node Type"] != "Seq Scan":
            return str(node.get("Filter", "")).count(" AND ") * operator
        spread = 1.0
        if node.get("Parallel Aware"):
            gather = next((each for each in self.above[id(node)] if each["Node Type"] in GATHERS), None)
            spread = processes(int(gather.get("Workers Planned", 0))) if gather is not None else 1.0
        run = float(node["Total Cost"]) - float(node["Startup Cost"])
        work = (run - relation.pages * self.prices.seq_page_cost) * spread
        each_row = work / max(1.0, relation.rows) - self.prices.cpu_tuple_cost
        return max(0.0, each_row - conditions * operator)

    def _gives_order(self, node: Node) -> bool:
        """Whether steps above may rely on the order of a scan."""
        if node["Node Type"] not in ("Index Scan", "Index Only Scan"):
            return False
        for each in self.above[id(node)]:
            kind = each["Node Type"]
            if kind in ("Sort", "Hash") or (kind == "Aggregate" and each.get("Strategy") == "Hashed"):
                return False
            if kind in ("Merge Join", "Unique", "Group", "WindowAgg", "Merge Append", "Incremental Sort"):
                return True
            if kind == "Aggregate" and each.get("Strategy") == "Sorted":
                return True
        return self.plan.orders

    def _loops(self, node: Node) -> float:
        """How often a scan inside a join or a subquery is repeated."""
        loops = 1.0
        under = node
        for each in self.above[id(node)]:
            inputs = inputs_of(each)
            if under.get("Parent Relationship") == "SubPlan":
                loops *= max(1.0, float((inputs[0] if inputs else each)["Plan Rows"]))
            elif each["Node Type"] == "Nested Loop" and under is inputs[1]:
                loops *= max(1.0, float(inputs[0]["Plan Rows"]))
            under = each
        return loops

    def _by_or(self, node: Node, options: Sequence[Option], indexes: Sequence[Index]) -> Change:
        relation = indexes[0].relation
        parts = [
            (index, each.selected, each.conditions) for index, each in zip(indexes, options, strict=True)
        ]
        selected = min(1.0, sum(each.selected for each in options))
        others = self._others(node, relation, 0)
        return Change({id(node): bitmap_of(parts, selected, others)})

    def _by_scan(self, node: Node, option: Option, index: Index) -> Iterator[Change]:
        """The scan itself, with the constants; and inside a loop with the values of the loop."""
        relation = index.relation
        loops = self._loops(node)
        selected, conditions = option.selected, option.conditions
        if option.joined:
            said = str(node.get("Filter", "")).lower().replace('"', "")
            # By the values of a loop, or by a constant that follows from the join.
            if all(re.search(rf"\b{re.escape(name)}\)?(?:::\w+)? = ", said) for name in option.joined):
                for column in option.joined:
                    selected *= relation.matching(column)
                conditions += len(option.joined)
            else:
                return  # the same index without these columns is another option
        if not (conditions or option.ordered or option.partial):
            return
        if not option.joined:
            loops = 1.0
        others = self._others(node, relation, conditions + option.partial)
        covers = _covers(option)
        relied = self._gives_order(node)
        if option.suggestion.method == "gin":
            if not relied:
                yield Change({id(node): index.bitmap(selected, conditions, others, loops)})
            return
        scan = index.scan(selected, conditions, others, covers=covers, loops=loops)
        if (conditions or option.partial) and not relied:
            yield Change({id(node): scan})
            yield Change({id(node): index.bitmap(selected, conditions, others, loops)})
        if not option.ordered:
            return
        above = self.above[id(node)]
        if option.extreme:
            aggregate = None
            for each in above:
                if each["Node Type"] not in ("Aggregate", *GATHERS):
                    break
                aggregate = each if each["Node Type"] == "Aggregate" else aggregate
            if aggregate is not None:
                cost = scan.cost()
                first = (cost.total - cost.startup) / max(1.0, relation.rows * selected)
                yield Change({id(aggregate): Path(cost.startup, first, 0.02)})
            return
        sorts = []
        for each in above:
            if each["Node Type"] in _SORTS:
                sorts.append(id(each))
            elif each["Node Type"] not in GATHERS:
                break
        if sorts or relied:
            yield Change({id(node): scan}, skipped=frozenset(sorts))

    def _by_lookup(self, node: Node, option: Option, index: Index) -> Iterator[Change]:
        """Rows of the table looked up for each row of what it is joined with."""
        if not option.joined:
            return
        relation = index.relation
        under = node
        for join in self.above[id(node)]:
            if join["Node Type"] in _JOINS:
                break
            if join["Node Type"] not in _PASSED:
                return
            under = join
        else:
            return
        outer, inner = inputs_of(join)
        is_inner = under is inner
        if join.get("Join Type") not in ("Inner", "Semi", *(("Left", "Anti") if is_inner else ("Right",))):
            return
        said = " ".join(str(join.get(part, "")) for part in ("Hash Cond", "Merge Cond", "Join Filter"))
        said += str(inner.get("Index Cond", "")) + str(inner.get("Cache Key", ""))
        names = "|".join(map(re.escape, option.joined))
        if not re.search(rf"\b{re.escape(option.alias)}\.(?:{names})\b", said.lower().replace('"', "")):
            return
        kept = outer if is_inner else inner
        if join["Node Type"] == "Nested Loop" and not is_inner and _depends_on(inner, option.alias):
            return  # it is searched by what this table gives
        while kept["Node Type"] in ("Hash", "Materialize", "Sort", "Memoize"):
            kept = kept["Plans"][0]
        selected = option.selected
        for column in option.joined:
            selected *= relation.matching(column)
        conditions = option.conditions + len(option.joined)
        others = self._others(node, relation, conditions)
        loops = max(1.0, float(kept["Plan Rows"]))
        covers = _covers(option)
        scan = index.scan(selected, conditions, others, covers=covers, loops=loops)
        bitmap = index.bitmap(selected, conditions, others, loops)
        path = min(scan, bitmap, key=lambda each: each.cost().total)
        yield Change(lookups={id(join): (kept, path)})


def _index(relation: Relation, option: Option, prices: Prices) -> Index:
    made = option.suggestion
    columns = tuple([each if each in made.expressions else each.lower() for each in made.columns])
    if made.method == "gin":
        trigrams = made.operator_class.endswith("gin_trgm_ops")
        return GinIndex(relation, columns[0], prices, entries=option.entries, trigrams=trigrams)
    return Index(
        relation,
        columns,
        prices,
        own_order=bool(made.operator_class),
        share=option.share,
        include=tuple([each.lower() for each in made.include]),
        behind=option.behind,
    )


def _covers(option: Option) -> bool:
    made = option.suggestion
    columns = {column.lower() for column in (*made.columns, *made.include)}
    return option.reads is not None and option.reads <= columns


def _reads(node: Node, option: Option) -> bool:
    if (
        node["Node Type"] not in _SCANS
        or str(node.get("Relation Name", "")).lower() != option.table
        or re.sub(r"_\d+\Z", "", str(node.get("Alias", "")).lower()) not in (option.alias, option.table)
    ):
        return False
    if "SubPlan" in str(node.get("Filter", "")):
        return False  # for how many rows it would be executed is unknown
    # The table may be read by another SELECT under the same name.
    said = " ".join(str(node.get(part, "")) for part in ("Filter", "Index Cond", "Recheck Cond")).lower()
    return option.side > 0 or all(re.search(rf"\b{re.escape(each)}\b", said) for each in option.searched)


def _depends_on(node: Node, alias: str) -> bool:
    return any(
        f"{alias}." in str(each.get(part, "")).lower()
        for each in below(node)
        for part in ("Index Cond", "Recheck Cond", "Filter", "Cache Key")
    )


def _rank(option: Option, preferred: set[str]) -> int:
    """The lowest is suggested, if several save alike: a small one, then one for other values, then others."""
    made = option.suggestion
    if option.partial:
        return 0  # it holds few rows, and others do not maintain it
    if made.include or made.method == "gin":
        return 3
    return 1 if made.ddl in preferred else 2


def _worth_their_size(
    found: list[tuple[float, Change, list[Option]]], cost: float, before: float
) -> list[tuple[float, Change, list[Option]]]:
    """Without the indexes that hold further columns, if they save little more than the others."""
    others = [each for each in found if not any(option.suggestion.include for option in each[2])]
    least = min([cost, *[priced for priced, _, _ in others]])
    holding = [each for each in found if each[0] < least - LEAST_BY_HOLDING * before]
    return [*others, *[each for each in holding if any(option.suggestion.include for option in each[2])]]


def best_indexes(
    plan: Plan, options: Sequence[Option], advised: Sequence[IndexSuggestion]
) -> tuple[list[IndexSuggestion], float] | None:
    """(the indexes that the planner would use, the cost with them): the one that saves most first, then what
    saves most beside it. Of those that save alike, one that is ``advised`` for the query's text, since it
    is for other values too, else one with few columns. None for a plan that is too large.
    """
    preferred = {each.ddl for each in advised}
    groups: list[list[Option]] = [[each] for each in options if not each.side and not each.exists]
    sides: dict[tuple[int, str], dict[int, Option]] = {}
    for each in options:
        if each.side:
            known = sides.setdefault((each.scope, each.alias), {})
            if each.side not in known or each.exists:
                known[each.side] = each
    groups += [list(by_side.values()) for by_side in sides.values()]
    if len(plan.above) > MAX_NODES:
        return None
    ways_of = Ways(plan)
    before = cost = plan.priced(Change())
    change = Change()
    chosen: dict[str, IndexSuggestion] = {}
    for _ in range(4):
        found: list[tuple[float, Change, list[Option]]] = []
        for group in groups:
            ways = [change.with_(way) for way in ways_of.of(group)]
            if ways:
                priced, way = min(((plan.priced(each), each) for each in ways), key=lambda each: each[0])
                found.append((priced, way, group))
        found = _worth_their_size(found, cost, before)
        least = min((priced for priced, _, _ in found), default=cost)
        if cost - least < LEAST_SAVED * before:
            break
        alike = min(LEAST_SAVED * before, 0.1 * (cost - least)) / 2
        cost, change, group = min(
            (each for each in found if each[0] <= least + alike),
            key=lambda each: (
                max(_rank(option, preferred) for option in each[2]),
                sum(len(option.suggestion.columns) for option in each[2]),
                each[0],
            ),
        )
        chosen.update({each.suggestion.ddl: each.suggestion for each in group if not each.exists})
        # One index for a table of a SELECT; it may serve several steps.
        place = group[0].scope, group[0].alias
        groups = [each for each in groups if each is group or (each[0].scope, each[0].alias) != place]
    return list(chosen.values()), cost
