"""A plan of PostgreSQL priced again with some of its steps done otherwise (pure).

The steps above a changed scan stay as they are and cost what they cost, with what comes from below changed;
but a sort whose order an index gives is left out, workers that no longer pay are, and a join may look rows up
instead of reading a table whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bot.core.query_optimizer.plans.postgres_costs import Cost, Path, Prices, Relation

Node = Mapping[str, Any]

GATHERS = ("Gather", "Gather Merge")
_SUBPLANS = ("InitPlan", "SubPlan")
_BLOCKING = ("Sort", "Hash")


@dataclass(frozen=True, slots=True)
class Change:
    """What differs from the plan: by the id of a node."""

    paths: Mapping[int, Path] = field(default_factory=dict)
    """A scan, or an aggregate, and what replaces it."""
    lookups: Mapping[int, tuple[Node, Path]] = field(default_factory=dict)
    """A join, its input that remains, and the search for each of its rows."""
    skipped: frozenset[int] = frozenset()
    """Sorts that are not needed."""

    def with_(self, other: Change) -> Change:
        return Change(
            {**self.paths, **other.paths}, {**self.lookups, **other.lookups}, self.skipped | other.skipped
        )


def below(node: Node) -> Iterator[Node]:
    stack = [node]
    while stack:
        each = stack.pop()
        yield each
        stack += each.get("Plans", ())


def inputs_of(node: Node) -> list[Node]:
    """The nodes whose rows it reads, without subqueries of its conditions and values."""
    return [each for each in node.get("Plans", ()) if each.get("Parent Relationship") not in _SUBPLANS]


def processes(workers: int) -> float:
    """How many the planner counts: the leader does less the more workers it has."""
    return workers + max(0.0, 1 - 0.3 * workers)


class Plan:
    """A plan that was explained, to be priced with other ways to read its tables."""

    def __init__(
        self, top: Node, relations: Mapping[str, Relation], prices: Prices, *, orders: bool = False
    ) -> None:
        self.top = top
        self.orders = orders
        """Whether the query asks for an order somewhere."""
        self.relations = relations
        self.prices = prices
        self.above: dict[int, list[Node]] = {}  # the nodes above each, the nearest first
        queue: list[tuple[Node, list[Node]]] = [(top, [])]
        for node, above in queue:  # grows while it is read
            self.above[id(node)] = above
            queue += [(each, [node, *above]) for each in node.get("Plans", ())]
        # Where each worker does a part, and not the whole.
        self.partial: set[int] = set()
        for node in below(top):
            if node.get("Parallel Aware"):
                self.partial.add(id(node))
                self.partial.update(map(id, self.above[id(node)]))

    def priced(self, change: Change) -> float:
        return _Pricing(self, change).cost(self.top, 1.0, shared=1.0).total


class _Pricing:
    """One change of a plan, priced."""

    def __init__(self, plan: Plan, change: Change) -> None:
        self.plan = plan
        self.change = change
        self.touched: set[int] = set()  # what is changed, and all above it
        for changed in (*change.paths, *change.lookups, *change.skipped):
            self.touched.add(changed)
            self.touched.update(map(id, plan.above[changed]))

    def cost(self, node: Node, spread: float, *, shared: float) -> Cost:
        """``spread``: the workers whose parts are added up, because the plan has none any more; ``shared``:
        those that a changed scan is divided among.
        """
        known = Cost(float(node["Startup Cost"]), float(node["Total Cost"]))
        path = self.change.paths.get(id(node))
        if path is not None:
            cost = path.cost(shared)
            once = [each for each in node.get("Plans", ()) if each.get("Parent Relationship") == "InitPlan"]
            return Cost(cost.startup, cost.total + sum(float(each["Total Cost"]) for each in once))
        lookup = self.change.lookups.get(id(node))
        if lookup is not None:
            return self._looked_up(*lookup, spread, shared)
        if id(node) in self.change.skipped:
            return self.cost(inputs_of(node)[0], spread, shared=shared)
        partial = spread > 1 and id(node) in self.plan.partial
        if id(node) not in self.touched:
            return self._spread(node, spread) if partial else known
        kind = node["Node Type"]
        if kind in GATHERS:
            return self._gathered(node, known)
        inputs = inputs_of(node)
        if kind == "Limit":
            new = self.cost(inputs[0], spread, shared=shared)
            share = min(1.0, float(node["Plan Rows"]) / max(1.0, float(inputs[0]["Plan Rows"])))
            return Cost(new.startup, new.startup + (new.total - new.startup) * share)
        own, added, startup = known.total, 0.0, known.startup
        for each, loops in self._repeated(node, inputs, spread if partial else 1.0):
            if loops > 1 and id(each) not in self.touched:
                continue  # its searches stay part of what the step itself costs
            cost = self.cost(each, spread, shared=shared)
            own -= float(each["Total Cost"]) * loops
            added += cost.total * loops
            startup += cost.startup - float(each["Startup Cost"])
            if each["Node Type"] == "Hash":  # it is filled before the first row
                startup += cost.total - cost.startup
                startup -= float(each["Total Cost"]) - float(each["Startup Cost"])
        total = max(0.0, own) * (spread if partial else 1.0) + added
        if kind in _BLOCKING or (kind == "Aggregate" and node.get("Strategy") != "Sorted"):
            startup = total - (known.total - known.startup)
        return Cost(min(max(0.0, startup), total), total)

    def _repeated(self, node: Node, inputs: Sequence[Node], spread: float) -> list[tuple[Node, float]]:
        """The nodes below one, and how often each is executed."""
        rows = float((inputs[0] if inputs else node)["Plan Rows"]) * spread
        found = []
        for each in node.get("Plans", ()):
            loops = 1.0
            if each.get("Parent Relationship") == "SubPlan":
                loops = 1.0 if "hashed" in str(node.get("Filter", "")) else rows
            elif node["Node Type"] == "Nested Loop" and each is inputs[1]:
                loops = 1.0 if each["Node Type"] == "Materialize" else rows
            found.append((each, loops))
        return found

    def _spread(self, node: Node, spread: float) -> Cost:
        """A part of a plan for several workers, done by one process."""
        total = float(node["Total Cost"])
        children: Sequence[Node] = node.get("Plans", ())
        relation = self.plan.relations.get(str(node.get("Relation Name", "")).lower())
        if node["Node Type"] == "Seq Scan" and relation is not None:
            pages = min(total, relation.pages * self.plan.prices.seq_page_cost)
            return Cost(0.0, pages + (total - pages) * spread)
        own = max(0.0, total - sum(float(each["Total Cost"]) for each in children))
        below = sum(
            self._spread(each, spread).total if id(each) in self.plan.partial else float(each["Total Cost"])
            for each in children
        )
        return Cost(float(node["Startup Cost"]), own * spread + below)

    def _gathered(self, node: Node, known: Cost) -> Cost:
        child = inputs_of(node)[0]
        planned = int(node.get("Workers Planned", 0))
        alone = self.cost(child, processes(planned), shared=1.0)
        paths = [self.change.paths[id(each)] for each in below(child) if id(each) in self.change.paths]
        workers = min([planned, *[path.workers for path in paths]])
        if not workers or any(id(each) in self.change.skipped for each in below(node)):
            return alone
        shared = processes(workers)
        together = self.cost(child, processes(planned) / shared, shared=shared)
        overhead = known.total - float(child["Total Cost"])
        if together.total + overhead < alone.total:
            return Cost(together.startup + overhead, together.total + overhead)
        return alone

    def _looked_up(self, kept: Node, path: Path, spread: float, shared: float) -> Cost:
        cost = self.cost(kept, spread, shared=shared)
        rows = float(kept["Plan Rows"]) * (spread if id(kept) in self.plan.partial else 1.0)
        each = path.cost()
        return Cost(cost.startup + each.startup, cost.total + rows * each.total)
