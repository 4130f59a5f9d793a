"""Values without end: they contain themselves, or are the same few parts many times over."""


def _itself():
    value = [1]
    value.append(value)
    return value


def _itself_twice():
    value = {}
    value["$and"] = [value, value]
    return value


def _in_pairs(leaf, pair):
    value = leaf
    for _ in range(60):
        value = pair(value)
    return value


def _deep(leaf, deeper):
    value = leaf
    for _ in range(100_000):
        value = deeper(value)
    return value


ENDLESS = {
    "a list in itself": _itself,
    "a document in itself, twice": _itself_twice,
    "pairs of pairs": lambda: _in_pairs([1], lambda value: [value, value]),
    "rows of rows": lambda: _in_pairs((1,), lambda value: (value, value)),
    "documents of documents": lambda: _in_pairs({"a": 1}, lambda value: {"$or": [value, value]}),
    "a deep list": lambda: _deep([], lambda value: [value]),
    "a deep document": lambda: _deep({"a": 1}, lambda value: {"$and": [value]}),
}
"""What makes one, by name."""
