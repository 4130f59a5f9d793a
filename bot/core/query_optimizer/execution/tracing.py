"""OpenTelemetry spans of queries, by the semantic conventions for databases; loaded only if switched on.

A span has no value of a query and no text of an error, since both may hold data of users: the text is the
query's shape, and an error is its class and the code of the database.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bot.core._shared.errors import MisuseError
from bot.core.query_optimizer.models import Analysis
from bot.core.query_optimizer.sql.comments import untagged
from bot.core.query_optimizer.sql.names import GRAPHQL, MONGODB, is_mongodb

CACHE = "phase4.cache"
""""hit": answered without a run of its own, "miss": it ran. Only spans of what may be cached have it."""

_SYSTEMS = {"postgres": "postgresql", "mysql": "mysql", "sqlite": "sqlite"}
_PARENT = re.compile(r"traceparent\s*=\s*'(00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})'")
MAX_TEXT = 2_000
"""Characters of a query's shape in a span."""


class Tracer:
    """Makes spans. Each is a child of the current one; without one, of what a sqlcommenter tag names.

    Raises MisuseError if opentelemetry-api is not installed.
    """

    def __init__(self, dialect: Callable[[], str]) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise MisuseError(
                "QUERY_OPTIMIZER_TRACING = True: opentelemetry-api is not installed; "
                "pip install 'bot-phase4[opentelemetry]'"
            ) from error
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = trace.get_tracer("bot.core.query_optimizer")
        self._dialect = dialect

    @contextmanager
    def span(self, analysis: Analysis, text: str = "") -> Iterator[Any]:
        """A span around a run, which is the current one meanwhile."""
        span = self._started(analysis, text, None)
        plain = {"record_exception": False, "set_status_on_exception": False}
        with self._trace.use_span(span, end_on_exit=True, **plain):
            try:
                yield span
            except BaseException as error:
                self._mark(span, error)
                raise

    async def around(self, analysis: Analysis, run: Callable[[], Awaitable[Any]]) -> Any:
        """``await run()`` in a span: a look-up that found nothing, or that may not be cached."""
        with self.span(analysis) as span:
            if analysis.cacheable and not analysis.is_write:
                span.set_attribute(CACHE, "miss")
            return await run()

    def traced(self, execute: Callable[..., Awaitable[Any]], analyse: Callable[..., Analysis]) -> Any:
        """``execute`` of the optimizer, in spans."""

        async def execute_in_span(
            query: Any, params: Any, executor: Any, ttl: float | None = None, scope: Any = None
        ) -> Any:
            if not isinstance(query, str):
                return await execute(query, params, executor, ttl, scope)
            ran = False

            async def run(query: str, params: Any) -> Any:
                nonlocal ran
                ran = True
                return await executor(query, params)

            run.__wrapped__ = executor  # type: ignore[attr-defined]  # the line of a slow query
            analysis = analyse(query, params)
            with self.span(analysis, query) as span:
                try:
                    return await execute(query, params, run, ttl, scope)
                finally:
                    if analysis.cacheable and not analysis.is_write:
                        span.set_attribute(CACHE, "miss" if ran else "hit")

        return execute_in_span

    def hit(self, analysis: Analysis) -> None:
        """A read was answered from the cache."""
        span = self._started(analysis, "", None)
        span.set_attribute(CACHE, "hit")
        span.end()

    def ran(self, analysis: Analysis, text: str, seconds: float, error: BaseException | None = None) -> None:
        """A query has run for so long, and ends now."""
        ended = time.time_ns()
        span = self._started(analysis, text, ended - int(seconds * 1e9))
        if error is not None:
            self._mark(span, error)
        span.end(ended)

    def failed(self, analysis: Analysis, seconds: float, kind: str, code: Any) -> None:
        """As :meth:`ran`, for a command that ended with an error of this class and code."""
        ended = time.time_ns()
        span = self._started(analysis, "", ended - int(seconds * 1e9))
        span.set_attribute("error.type", kind)
        if code is not None:
            span.set_attribute("db.response.status_code", str(code))
        span.set_status(self._trace.StatusCode.ERROR)
        span.end(ended)

    def _started(self, analysis: Analysis, text: str, start: int | None) -> Any:
        context = None
        if text and not self._trace.get_current_span().get_span_context().is_valid:
            parent = parent_in(text)
            if parent:
                context = self._propagator.extract({"traceparent": parent})
        found = attributes_of(analysis, self._dialect())
        return self._tracer.start_span(
            found["db.query.summary"],
            context=context,
            kind=self._trace.SpanKind.CLIENT,
            attributes=found,
            start_time=start,
        )

    def _mark(self, span: Any, error: BaseException) -> None:
        kind = type(error)
        span.set_attribute("error.type", f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."))
        code = getattr(error, "sqlstate", None) or getattr(error, "code", None)
        if isinstance(code, str | int):
            span.set_attribute("db.response.status_code", str(code))
        span.set_status(self._trace.StatusCode.ERROR)


def parent_in(text: str) -> str:
    """The traceparent in a sqlcommenter tag at an end of a text; "" without one."""
    if "traceparent" not in text:
        return ""
    bare = untagged(text)
    if bare is text:
        return ""
    before, _, after = text.partition(bare)
    found = _PARENT.search(before) or _PARENT.search(after)
    return found[1] if found else ""


def attributes_of(analysis: Analysis, dialect: str) -> dict[str, str]:
    """What the conventions say of a query: its system, operation, collection, summary and shape."""
    names = analysis.reads | analysis.writes
    found = {"db.query.text": analysis.normal_form[:MAX_TEXT]}
    if is_mongodb(names):
        found["db.system.name"] = "mongodb"
        own = [each for each in sorted(names) if not each.endswith("/")]
        operation = _mongodb_operation(analysis)
        databases = {each[len(MONGODB) :].partition("/")[0] for each in sorted(names)} - {""}
        if len(databases) == 1:
            found["db.namespace"] = databases.pop().replace("\\.", ".")
        tables = [each.partition("/")[2].replace("\\.", ".") for each in own]
    else:
        found["db.system.name"] = _SYSTEMS.get(dialect, "other_sql")
        words = analysis.normal_form.split(None, 1)
        operation = words[0][:40].upper() if words else analysis.query_type.value.upper()
        tables = sorted(name for name in names if not name.startswith("("))
        if GRAPHQL in names:
            found["db.system.name"], operation = "graphql", analysis.query_type.value
    found["db.operation.name"] = operation
    if len(tables) == 1:
        found["db.collection.name"] = tables[0]
    found["db.query.summary"] = " ".join([operation, *tables])[:255]
    return found


def _mongodb_operation(analysis: Analysis) -> str:
    """The method in a form such as ``db.users.find_one({_id: ?})``."""
    return analysis.normal_form.partition("(")[0].rpartition(".")[2][:60] or analysis.query_type.value
