"""A hit in L1 stands in place wherever it is hot: the same statements each time, as a syntax tree."""

import ast
import inspect
import textwrap

import pytest

from bot.core.cache_manager import decorators
from bot.core.cache_manager.local import LocalTier
from bot.core.cache_manager.service import CacheManager


def hit_in(function):
    """What the function does with an entry from counting the read to its value, as text."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)).replace("cache._", "self._"))
    for node in ast.walk(tree):
        for name in ("body", "orelse"):
            block = getattr(node, name, None)
            for at, statement in enumerate(block if isinstance(block, list) else []):
                if isinstance(statement, ast.If) and ast.unparse(statement.test).startswith(
                    "entry.frequency"
                ):
                    text = "\n".join(map(ast.unparse, block[at:]))
                    # Two readings of one attribute, or one that is kept: the same to a reader.
                    return text.replace("thaw = entry.thaw\n", "").replace("entry.thaw", "thaw")
    raise AssertionError(f"no hit in {function.__qualname__}")


@pytest.mark.parametrize(
    "function",
    [CacheManager.get, CacheManager.get_local, CacheManager.get_or_load, decorators._caching],
    ids=["get", "get_local", "get_or_load", "cached"],
)
def test_a_hit_that_stands_in_place_does_what_the_local_tier_does(function):
    assert hit_in(function) == hit_in(LocalTier.hit)


def test_a_hit_that_differs_is_found():
    def other(self, entry):
        if entry.frequency < 3:
            entry.frequency += 1
        return entry.value

    assert hit_in(other) != hit_in(LocalTier.hit)
