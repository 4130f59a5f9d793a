"""``GET /metrics``: the services, the process and the event loop, for a Prometheus server."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from bot.core.phase4_admin.library import Library
from bot.core.phase4_admin.loop_lag import LoopLag


class MetricsApi:
    """A registry of the service's own, so that two services in one process do not collide."""

    def __init__(self, library: Library, lag: LoopLag) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        self._registry.register(library.collector(lag.histograms))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    async def get(self, request: web.Request) -> web.Response:
        """The text format, or OpenMetrics if that is asked for; ``?name[]=`` picks metrics."""
        try:
            encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = choose_encoder("")
        registry = self._registry
        if names := request.query.getall("name[]", []):
            registry = registry.restricted_registry(names)  # type: ignore[assignment]
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})
