"""``GET /metrics``: the services, the process and the event loop, for a Prometheus server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from bot.core.phase4_admin.api_errors import ApiError
from bot.core.phase4_admin.library import Library
from bot.core.phase4_admin.loop_lag import LoopLag

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class MetricsApi:
    """A registry of the mount's own, so that two in one process do not collide."""

    def __init__(self, library: Library, lag: LoopLag) -> None:
        self._library = library
        self._lag = lag
        # Made by the first request: until then prometheus-client is not imported.
        self._registry: CollectorRegistry | None = None

    async def get(self, request: web.Request) -> web.Response:
        """The text format, or OpenMetrics if that is asked for; ``?name[]=`` picks metrics.

        Raises ApiError 501 without prometheus-client.
        """
        try:
            from prometheus_client.exposition import choose_encoder

            registry = self._registry = self._registry or self._made()
        except ImportError:
            raise ApiError(
                501, "no_metrics", "Metrics need prometheus-client: pip install prometheus-client."
            ) from None
        try:
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        if names := request.query.getall("name[]", []):
            registry = registry.restricted_registry(names)  # type: ignore[assignment]

        async def encoded() -> bytes:
            return encode(registry)

        return web.Response(body=await self._library.there(encoded), headers={"Content-Type": content_type})

    def _made(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

        registry = CollectorRegistry(auto_describe=True)
        registry.register(self._library.collector(self._lag.histograms))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        return registry
