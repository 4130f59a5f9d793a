"""The mutants of a source text: one small fault each, of the kinds that people make."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from typing import NamedTuple

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
EXCHANGED = {"min": "max", "max": "min", "any": "all", "all": "any"}
DELETED = (ast.Expr, ast.AugAssign, ast.Delete, ast.Raise, ast.Continue, ast.Break)
UNTOUCHED = frozenset({"check_invariants", "__repr__", "__init_subclass__"})
"""Functions whose faults are no faults of the program."""


class Mutant(NamedTuple):
    """One change of a source text, at bytes ``start`` to ``end``."""

    line: int
    within: str  # the function, with its classes
    change: str  # its lines, before and after
    start: int
    end: int
    text: str

    def applied_to(self, source: str) -> str:
        """The source text with this change."""
        encoded = source.encode()
        return (encoded[: self.start] + self.text.encode() + encoded[self.end :]).decode()


def exchanged(node: ast.expr) -> Iterator[ast.expr]:
    """Expressions to put in the place of ``node``, each with a single fault in its own outermost part."""
    if isinstance(node, ast.Compare):
        for position, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                changed = copy.deepcopy(node)
                changed.ops[position] = other()
                yield changed
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        for position in range(len(node.values)):
            others = node.values[:position] + node.values[position + 1 :]
            yield ast.BoolOp(node.op, others) if len(others) > 1 else others[0]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        if not (isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant | ast.JoinedStr)):
            yield ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in EXCHANGED:
        yield ast.Call(ast.Name(EXCHANGED[node.func.id]), node.args, node.keywords)
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)


def replaced(node: ast.stmt) -> Iterator[ast.stmt]:
    """Statements to put in the place of ``node``."""
    if isinstance(node, ast.Return) and node.value is not None:
        is_bool = isinstance(node.value, ast.Compare | ast.BoolOp) or (
            isinstance(node.value, ast.UnaryOp) and isinstance(node.value.op, ast.Not)
        )
        values = (True, False) if is_bool else () if _is_plain(node.value) else (None,)
        for value in values:
            yield ast.Return(ast.Constant(value))
    elif _is_deletable(node):
        yield ast.Pass()
    if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
        yield ast.AugAssign(node.target, ARITHMETIC[type(node.op)](), node.value)


def _is_plain(node: ast.expr) -> bool:
    """Constants have mutants of their own."""
    return isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, bool))


def _is_deletable(node: ast.stmt) -> bool:
    """Whether the program can go on without it: not without a name, and docstrings do nothing."""
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], ast.Attribute | ast.Subscript)
    return isinstance(node, DELETED) and not (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


class _Finder:
    """Walks through functions; leaves out annotations, docstrings and the texts of errors."""

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.lines = [0]
        for line in self.source.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.found: list[Mutant] = []

    def walk(self, node: ast.AST, within: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name in UNTOUCHED:
                return
            within = f"{within}.{node.name}".lstrip(".")
            parts: list[ast.AST] = [*node.body]
            if not isinstance(node, ast.ClassDef):
                parts += [each for each in (*node.args.defaults, *node.args.kw_defaults) if each is not None]
        elif isinstance(node, ast.AnnAssign):
            parts = [node.value] if node.value is not None else []
        elif isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
            parts = []
        elif isinstance(node, ast.If | ast.While):
            parts = list(ast.iter_child_nodes(node))
            if not isinstance(node.test, ast.Compare | ast.UnaryOp | ast.Constant):
                self.add(within, node.test, ast.UnaryOp(ast.Not(), node.test))
        else:
            parts = list(ast.iter_child_nodes(node))
        if within and isinstance(node, ast.expr):
            for other in exchanged(node):
                self.add(within, node, other)
        if within and isinstance(node, ast.stmt):
            for statement in replaced(node):
                self.add(within, node, statement)
        for part in parts:
            self.walk(part, within)

    def add(self, within: str, before: ast.expr | ast.stmt, after: ast.expr | ast.stmt) -> None:
        assert before.end_lineno is not None
        assert before.end_col_offset is not None
        text = ast.unparse(ast.fix_missing_locations(after))
        if isinstance(after, ast.expr) and not isinstance(after, ast.Constant):
            text = f"({text})"
        first, last = self.lines[before.lineno - 1], self.lines[before.end_lineno]
        start, end = first + before.col_offset, self.lines[before.end_lineno - 1] + before.end_col_offset
        whole = self.source[first:last].decode()
        new = (self.source[first:start] + text.encode() + self.source[end:last]).decode()
        change = f"{' '.join(whole.split())} -> {' '.join(new.split())}"
        self.found.append(Mutant(before.lineno, within, change, start, end, text))


def mutants_of(source: str) -> list[Mutant]:
    """Every mutant of a module's source text, in the order of its lines."""
    finder = _Finder(source)
    finder.walk(ast.parse(source), "")
    return sorted(set(finder.found))
