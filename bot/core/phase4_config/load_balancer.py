"""Settings of the load balancer (pure)."""

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from bot.core.phase4_config.fields import Percent, Port, PositiveSeconds, Seconds, doc, starting
from bot.core.phase4_config.settings import Settings

Strategy = Literal[
    "round_robin", "least_connections", "weighted", "weighted_round_robin", "random", "least_loaded"
]


class InstanceSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``LOAD_BALANCER_INSTANCES``."""

    id: Annotated[str, Meta(min_length=1)]
    address: Annotated[str, Meta(min_length=1)]
    port: Port
    weight: Annotated[float, Meta(gt=0, le=1_000_000)] = 1.0
    scheme: Literal["http", "https"] = "http"


class LoadBalancerOptions(Settings, frozen=True, rename=starting("LOAD_BALANCER_")):
    """The settings that are figures. Times are seconds, percentages 0-100."""

    check_interval: Annotated[Seconds, doc("seconds between health checks; 0: none")] = 10.0
    check_timeout: Annotated[PositiveSeconds, doc("seconds a health check may take")] = 2.0
    check_path: Annotated[
        str,
        Meta(
            pattern=r"^(/[!-~]*)?\Z",
            title="a path that begins with / and has no spaces, or an empty string",
            description="path that answers a health check with 2xx, such as /health; empty: TCP only",
        ),
    ] = ""
    failure_threshold: Annotated[
        int, Meta(ge=1, le=1000, description="failed checks in a row after which an instance is unhealthy")
    ] = 3
    recovery_threshold: Annotated[
        int,
        Meta(
            ge=1, le=1000, description="successful checks in a row after which an instance is healthy again"
        ),
    ] = 5
    request_timeout: Annotated[PositiveSeconds, doc("seconds one instance may take to answer a request")] = (
        30.0
    )
    total_timeout: Annotated[
        PositiveSeconds, doc("seconds a request may take in total, with all failovers")
    ] = 60.0
    max_concurrent: Annotated[
        int,
        Meta(ge=0, le=1_000_000, description="the most requests in progress at one instance; 0: no limit"),
    ] = 0
    retry_budget_percent: Annotated[
        Percent, doc("failovers allowed, in percent of the requests of the last 10 to 20 seconds")
    ] = 20.0
    retry_budget_min_per_second: Annotated[
        float, Meta(ge=0, le=1_000_000, description="failovers per second that are allowed in addition")
    ] = 10.0
    outlier_failures: Annotated[
        int, Meta(ge=1, le=100_000, description="failed requests in a row after which an instance is ejected")
    ] = 5
    outlier_failure_percent: Annotated[
        float,
        Meta(
            gt=0,
            le=100,
            description="percent of failed requests that ejects an instance, if twice the others' share",
        ),
    ] = 30.0
    outlier_min_requests: Annotated[
        int,
        Meta(
            ge=1, le=1_000_000, description="the fewest requests in the window for that percentage to count"
        ),
    ] = 20
    outlier_window: Annotated[
        PositiveSeconds,
        doc("window for that percentage: at least this many seconds, at most twice as many"),
    ] = 10.0
    ejection_time: Annotated[
        PositiveSeconds, doc("duration of the first ejection in seconds; each further one is twice as long")
    ] = 30.0
    ejection_max_time: Annotated[PositiveSeconds, doc("the longest ejection, in seconds")] = 300.0
    max_ejected_percent: Annotated[
        Percent,
        doc("the most instances ejected at a time, in percent; always at least one, never all"),
    ] = 50.0
    panic_percent: Annotated[
        Percent, doc("percent of healthy instances below which requests go to all instances")
    ] = 30.0
    slow_start: Annotated[
        Seconds,
        doc("seconds until a recovered instance gets its full share of requests; 0: at once"),
    ] = 10.0
    hedging: Annotated[
        bool, doc("send an idempotent request to a second instance too if it is slower than 95 % of all")
    ] = False

    def conflicts(self, named: Callable[[str], str]) -> Iterator[str]:
        """A first ejection longer than the longest."""
        if self.ejection_time > self.ejection_max_time:
            yield (
                f"{named('ejection_time')} = {self.ejection_time:g}: expected at most "
                f"{named('ejection_max_time')} = {self.ejection_max_time:g}"
            )


class LoadBalancerSettings(LoadBalancerOptions, frozen=True):
    """The figures, how an instance is chosen, and the instances that exist from the start on."""

    strategy: Annotated[Strategy, doc("how an instance is selected")] = "round_robin"
    instances: Annotated[
        list[InstanceSettings], doc("instances added at startup: [{id, address, port, weight, scheme}]")
    ] = field(default_factory=list)

    def conflicts(self, named: Callable[[str], str]) -> Iterator[str]:
        """A first ejection longer than the longest; an id that is given twice."""
        yield from LoadBalancerOptions.conflicts(self, named)
        ids = [instance.id for instance in self.instances]
        for instance_id in dict.fromkeys(ids):
            if ids.count(instance_id) > 1:
                yield f"{named('instances')}: id {instance_id!r} is given twice"
