"""Every text that leaves by the log goes through ``masking``: no secret, no forged line, no raw error."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import bot

ROOT = Path(bot.__file__).parent
LEVELS = {"debug", "info", "warning", "error", "critical", "exception", "log"}
FIT = {
    "one_line",
    "masked_traceback",
    "mask_secrets",
    "mask_url",
    "described",
    "told",
    "masked",
    "masked_text",
}
"""Functions whose answer is fit for the log: the last four call the first ones."""

PLACES = re.compile(r"%(?:\.?\d*)([a-z%])")

ALLOWED = {
    # Code's own words, names of classes and packages, and what was checked when it was set.
    "core/batch_processor/durable/loops.py": {"what"},
    "core/connection_pool_manager/connection_tasks.py": {"reason", "said"},
    "core/connection_pool_manager/drivers/base.py": {"self.package"},
    "core/connection_pool_manager/reports.py": {
        "failure",  # of the connector, which masks
        "self.demotion", "describe_site(slot.site)",
        "args",  # of its callers, here and in slow_calls.py
    },
    "core/connection_pool_manager/slow_calls.py": {
        "describe_site(first.site)", "f'after query_timeout = {limit:g} s' if limit else 'never'",
    },
    "core/enhanced_startup_phase4.py": {"wiring.class_name", "message", "report['summary']"},
    "core/phase4_service.py": {"self.while_off", "self.flag"},
    "core/load_balancer/faults.py": {"getattr(handler, '__qualname__', type(handler).__qualname__)", "again"},
    "core/load_balancer/service.py": {"event.old", "event.new", "event.old or 'new'", "event.new or 'gone'"},
    "core/phase4_config/sources.py": {
        "name", "new", "source", "values[name]", "origin[name]",
        "unknown(name, f'{module.__name__}.py')",
    },
    "core/query_optimizer/analyses.py": {"MISSING"},
    "core/query_optimizer/execution/recording.py": {"since"},
    "core/query_optimizer/plans/explain.py": {"reason"},  # one_line, just before
    # The name of the server is a masked URL; texts have gone through told().
    "core/redis_link/breaker.py": {"self.name"},
    "core/redis_link/calls.py": {"health.name"},
    "core/redis_link/connections.py": {"self.name"},
    "core/redis_link/primary.py": {"self._connections.name"},
    "core/redis_link/rights.py": {"self._name", "what", "text", "consequence"},
    "core/redis_link/subscription.py": {
        "breaker.name", "told(text_of(error)) or type(error).__name__",
    },
    "core/phase4_admin/connections.py": {"address"},  # of the socket
    "core/phase4_admin/routes.py": {"route.method", "route.path"},  # our own
    "service/database.py": {"said"},
    "service/dataset.py": {"path", "kept.name"},  # the operator's own
    "service/front.py": {"request[REQUEST_ID]"},  # checked, or made here
    "service/journal.py": {"self._error"},
    "service/loop_errors.py": {"more"},
    "service/middleware.py": {
        "request_id", "_shown(request)", "_method(request)", "f' cache={state}' if state else ''",
    },
    "service/batch_api.py": {"batch_id"},  # checked against a pattern
}  # fmt: skip


def logging_calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LEVELS
            and "logger" in ast.unparse(node.func.value)
        ):
            yield node


def raw_arguments(call: ast.Call) -> Iterator[str]:
    """What of a call is neither a number by its place, nor a name by ``%r``, nor made fit."""
    if call.func.attr == "exception":  # type: ignore[attr-defined]
        yield "logger.exception"
    yield from (f"{word.arg}=" for word in call.keywords if word.arg in ("exc_info", "stack_info"))
    arguments = call.args[1:] if call.func.attr == "log" else call.args  # type: ignore[attr-defined]
    message, values = arguments[0], arguments[1:]
    text = message.value if isinstance(message, ast.Constant) else ast.unparse(message)
    places = [place for place in PLACES.findall(str(text)) if place != "%"]
    for index, value in enumerate(values):
        place = places[index] if index < len(places) else "s"
        if place in "dgfxi":
            continue
        shown = ast.unparse(value)
        if place == "r" and (shown == "name" or shown.endswith(".name")):
            continue  # escaped, and of the operator
        if isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] in FIT:
            continue
        if re.fullmatch(r"type\(\w+\)\.__name__", shown):
            continue
        yield shown.removeprefix("*")


def offences(source: str, allowed: set[str]) -> list[str]:
    return [
        f"{call.lineno}: {raw}"
        for call in logging_calls(ast.parse(source))
        for raw in raw_arguments(call)
        if raw not in allowed
    ]


def test_every_logging_call_passes_texts_that_are_fit_for_a_log():
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        found += [f"{name}:{offence}" for offence in offences(path.read_text(), ALLOWED.get(name, set()))]
    assert not found, "pass these through one_line or masked_traceback: " + "; ".join(found)


def test_what_may_not_be_passed_is_found():
    for line in (
        "logger.warning('it failed: %s', error)",
        "logger.warning('it failed: %r', error)",
        "logger.error('it failed', exc_info=error)",
        "logger.exception('it failed')",
        "self._logger.log(level, '%d of %s', n, key)",
    ):
        assert offences(line, set()), line
    assert not offences("logger.warning('%d %r: %s', n, pool.name, one_line(error))", set())


ANSWERS = {"ApiError", "bad_request"}
OWN = {
    # Numbers, names of settings, what was checked, and ids that were made here.
    "HOSTS_VARIABLE", "batch_id", "user_id", "there", "self._largest", "MAX_UPLOAD_BYTES", "MAX_ITEMS",
    "room", "seconds", "READ_SECONDS", "status.retry_after", "len(rows)", "len(downloads)", "len(text)",
    "MIN_SEARCH_LENGTH", "MAX_SEARCH_LENGTH", "2 ** 63 - 1",
}  # fmt: skip


def raw_answers(source: str) -> Iterator[str]:
    """What of an answer's text came from elsewhere and is neither made fit, nor a short, quoted piece."""
    for call in ast.walk(ast.parse(source)):
        if not (isinstance(call, ast.Call) and ast.unparse(call.func) in ANSWERS):
            continue
        for node in (part for argument in call.args for part in ast.walk(argument)):
            if not isinstance(node, ast.FormattedValue):
                continue
            value = node.value
            fit = isinstance(value, ast.Call) and ast.unparse(value.func) in FIT
            piece = node.conversion == ord("r") and isinstance(value, ast.Subscript)
            if not (fit or piece or ast.unparse(value) in OWN):
                yield f"{node.lineno}: {ast.unparse(value)}"


def test_every_answer_quotes_what_is_fit_to_be_quoted():
    found = [
        f"{path.name}:{raw}"
        for path in sorted((ROOT / "service").rglob("*.py"))
        for raw in raw_answers(path.read_text())
    ]
    assert not found, "pass these through one_line: " + "; ".join(found)


def test_a_raw_text_in_an_answer_is_found():
    for line in ("bad_request(f'body: {error}')", "ApiError(400, 'x', f'{name!r}: unknown')"):
        assert list(raw_answers(line)), line
    assert not list(raw_answers("bad_request(f'{text[:40]!r}: {one_line(error)} {room:,}')"))
