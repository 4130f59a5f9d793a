"""Every key of the statistics and every metric, as users and their dashboards know them.

New ones may come; one that goes, or means something else, is taken out here only together with a line in
the change log.
"""

from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry

from bot.core import phase4_metrics
from bot.core._shared import __version__
from bot.core.batch_processor import BatchProcessor
from bot.core.cache_manager import CacheManager
from bot.core.connection_pool_manager import ConnectionPoolManager
from bot.core.load_balancer import LoadBalancer
from bot.core.outbound import Outbound
from bot.core.phase4_metrics import Phase4Collector
from bot.core.query_optimizer import QueryOptimizer
from bot.core.rate_limiter import ConcurrencyLimit, RateLimiter

KEYS = {
    "query_optimizer": """
        enabled:bool total_unique_queries:int total_executions:int cache_hits:int cache_misses:int
        hit_rate:float cache_hit_rate_percent:float avg_execution_time_ms:float
        total_execution_time_ms:float cached_results_count:int cached_results_mb:float
        cache_evictions:int slow_queries:int n_plus_one_patterns:int avg_execution_time:float
    """,
    "cache_manager": """
        enabled:bool l1_entries:int l1_memory_mb:float l1_max_size_mb:float l1_hits:int l1_misses:int
        l1_hit_rate_percent:float l1_evictions:int l1_insertions:int l2_enabled:bool l2_connected:bool
        l2_hits:int l2_misses:int l2_errors:int l2_undecodable:int l2_malformed_messages:int
        l1_only_values:int total_hits:int total_misses:int hit_rate:float overall_hit_rate_percent:float
        eviction_rate:float loads:int load_failures:int stale_served:int early_refreshes:int
        warming_tasks:int degraded:bool l2_refused:dict l1_memory:dict
    """,
    "rate_limiter": """
        enabled:bool active_clients:int total_allowed:int total_blocked:int total_requests:int
        block_rate:float block_rate_percent:float tiers_configured:int limits:dict shared:bool
        degraded:bool shared_checks:int shared_batches:int remembered_denials:int degraded_checks:int
        shared_p50_ms:float shared_p99_ms:float requests_blocked:int
    """,
    "batch_processor": """
        enabled:bool handler:bool submitted_items:int pending_items:int max_pending:int
        total_items_processed:int failed_items:int cancelled_items:int dead_lettered_items:int
        replayed_items:int refused_items:int pending_batches:int running_batches:int
        retrying_batches:int completed_batches:int failed_batches:int retries:int avg_batch_size:float
        batch_size:int throughput_items_per_sec:float oldest_pending_seconds:float wait_ms_p50:float
        wait_ms_p99:float handler_ms_p50:float handler_ms_p99:float results_kept:int durable:bool
        total_batches:int degraded:bool duplicate_items:int dead_letters:int
    """,
    "load_balancer": """
        enabled:bool strategy:str total_instances:int healthy_instances:int panic:bool degraded:bool
        total_requests:int successful_requests:int failed_requests:int rejected_requests:int
        success_rate_percent:float average_response_time_ms:float p95_response_time_ms:float
        p99_response_time_ms:float retries:int retries_refused:int hedged_requests:int hedge_wins:int
        distribution_variance:float instances:dict
    """,
    "outbound": """
        enabled:bool draining:bool total_requests:int sent:int failed:int cancelled:int unqueued:int
        queued:int max_pending:int in_flight:int max_in_flight:int waited:int p50_wait_ms:float
        p99_wait_ms:float refusals:int refusals_chat:int refusals_global:int retries:int superseded:int
        unchanged:int dropped:int expired:int held_too_long:int refused_full:int chats_held:int
        chats_waiting:int by_priority:dict
        chats_known:int held_globally_seconds:float shared:bool degraded:bool broadcasts_running:int
        broadcasts_finished:int broadcast_sent:int broadcast_blocked:int broadcast_deactivated:int
        broadcast_not_found:int broadcast_failed:int
    """,
    "batch_processor, durable": """
        stream_length:int enqueued_items:int reclaimed_items:int redelivered_items:int
        given_back_items:int settled_elsewhere_items:int results_not_kept:int
    """,
    "outbound, shared": """
        admissions:int admissions_denied:int sent_unshared:int admission_batches:int
    """,
    "a pool": """
        backend:str url:str total_connections:int active_connections:int idle_connections:int
        busy_connections:int opening_connections:int waiting:int min_size:int max_size:int
        utilization_percent:float peak_active:int peak_connections:int total_acquired:int
        total_released:int failed_acquisitions:int cancelled_acquisitions:int avg_wait_time_ms:float
        p50_wait_time_ms:float p99_wait_time_ms:float max_wait_time_ms:float longest_lease_seconds:float
        leaked:int connections_opened:int connections_closed:int connect_failures:int resets:int
        query_timeouts:int refused_as_demoted:int demoted:bool overdue_calls:int
        longest_call_seconds:float healthy:bool degraded:bool last_error:NoneType
    """,
    "a limit of slots": "max_in_flight:int in_flight:int waiting:int granted:int refused:int lost:int",
    "a limit": """
        requests_per_second:float burst_size:int active_clients:int allowed:int blocked:int
    """,
    "an instance": """
        address:str port:int url:str weight:float state:str healthy:bool active_requests:int
        total_requests:int successful_requests:int failed_requests:int success_rate_percent:float
        average_response_time_ms:float p99_response_time_ms:float consecutive_failures:int
        failed_checks:int ejections:int last_error:str history:list avg_response_time:float
        drained:bool since:float
    """,
}
"""What each service tells, ``key:type``, and what the entries in it are made of."""

METRICS = """
    cache_hit_rate gauge cache Percent of look-ups answered from the cache, last 5 minutes; NaN of none
    rate_limit_block_rate gauge - Percent of limited requests that were refused, last 5 minutes; NaN of none
    pool_active_connections gauge pool Connections on loan
    pool_max_size gauge pool The most connections of the pool
    query_avg_execution_time gauge - Milliseconds of an execution on the database, average of the last 5 minutes; NaN of none
    phase4_info gauge version Version of the library
    phase4_scrape_success gauge - 1 if the services could be read, 0 if the event loop did not answer in time
    phase4_uptime_seconds gauge - Seconds since the services were started
    phase4_service_enabled gauge service 1 if the service is on
    phase4_service_degraded gauge service 1 if the service goes on without its backend
    phase4_query_cache_hits counter - Query results answered from the cache
    phase4_query_cache_misses counter - Query results that were not in the cache
    phase4_query_cache_entries gauge - Query results held
    phase4_query_cache_bytes gauge - Bytes of query results held
    phase4_query_cache_evictions counter - Query results evicted
    phase4_query_executions counter - Executions on the database
    phase4_query_execution_seconds counter - Seconds of executions on the database
    phase4_query_slow_executions counter - Executions at or above the slow-query threshold
    phase4_query_shapes gauge - Distinct query shapes known
    phase4_query_n_plus_one_patterns gauge - Query shapes found to run once per row
    phase4_cache_hits counter tier Look-ups answered, by tier (l1: memory, l2: Redis)
    phase4_cache_misses counter tier Look-ups a tier could not answer
    phase4_cache_entries gauge tier Entries in memory
    phase4_cache_bytes gauge tier Bytes in memory
    phase4_cache_max_bytes gauge tier Bytes the cache may take in memory
    phase4_cache_evictions counter tier Entries displaced by others
    phase4_cache_insertions counter tier Entries put into memory
    phase4_cache_eviction_rate_percent gauge - Percent of what was put into memory that displaced something, last 5 minutes; NaN of none
    phase4_cache_l2_configured gauge - 1 if there is a Redis behind the memory
    phase4_cache_l2_connected gauge - 1 while Redis answers
    phase4_cache_l2_errors counter - Operations that Redis refused or did not answer
    phase4_cache_loads counter - Loaders run
    phase4_cache_load_failures counter - Loaders that raised an error
    phase4_cache_stale_served counter - Expired values served because a loader failed
    phase4_cache_warming_tasks gauge - Keys kept warm
    phase4_pool_connections gauge pool,state Connections by state
    phase4_pool_min_size gauge pool The fewest connections that the pool keeps open
    phase4_pool_utilization_percent gauge pool Connections on loan, percent of `max_size`
    phase4_pool_waiters gauge pool Callers that wait for a connection
    phase4_pool_acquired counter pool Leases
    phase4_pool_released counter pool Leases released
    phase4_pool_failed_acquisitions counter pool Callers that got no connection
    phase4_pool_connect_failures counter pool Connections that could not be opened
    phase4_pool_leaked counter pool Leases held beyond the leak threshold
    phase4_pool_longest_lease_seconds gauge pool Age of the oldest lease
    phase4_pool_overdue_calls gauge pool Calls that have waited long for an answer
    phase4_pool_query_timeouts counter pool Calls ended because of their timeout
    phase4_pool_demoted gauge pool 1 while the server takes no writes
    phase4_pool_healthy gauge pool 1 while the pool can connect
    phase4_rate_limit_requests counter tier,outcome Requests by limit and outcome
    phase4_rate_limit_active_clients gauge tier Clients whose bucket is not full
    phase4_rate_limit_slots counter limit,outcome Calls for a slot by limit and outcome
    phase4_rate_limit_slots_in_flight gauge limit Slots taken in this process
    phase4_rate_limit_slots_waiting gauge limit Callers of this process that wait for a slot
    phase4_rate_limit_slots_lost counter limit Slots whose lease ended before they were given back
    phase4_batch_pending_items gauge - Items that wait or are being handled
    phase4_batch_max_pending_items gauge - The most pending items; further ones are refused
    phase4_batch_stream_length gauge - Durable mode: unfinished items of all instances
    phase4_batch_reclaimed_items counter - Durable mode: items taken over from another instance
    phase4_batch_pending_batches gauge - Batches that wait or are being handled
    phase4_batch_batches counter outcome Batches by outcome
    phase4_batch_items counter outcome Items by outcome
    phase4_batch_retries counter - Handler runs that repeated a failed one
    phase4_batch_dead_letters gauge - Items in the dead letters
    phase4_batch_average_size gauge - Items in a batch, on average
    phase4_batch_throughput_items_per_second gauge - Items that ended, lately
    phase4_load_balancer_instances gauge - Instances known
    phase4_load_balancer_healthy_instances gauge - Instances that get requests
    phase4_load_balancer_requests counter outcome Requests routed by outcome
    phase4_load_balancer_retries counter - Requests sent again to another instance
    phase4_load_balancer_average_response_seconds gauge - Response time on average
    phase4_load_balancer_distribution_variance_percent gauge - How far requests per instance are from their share, percent
    phase4_load_balancer_instance_healthy gauge bot_instance 1 while the instance is healthy
    phase4_load_balancer_instance_drained gauge bot_instance 1 while an operator has taken the instance out
    phase4_load_balancer_instance_active gauge bot_instance Requests in progress
    phase4_load_balancer_instance_requests counter bot_instance Requests by instance
    phase4_load_balancer_instance_failures counter bot_instance Failed requests by instance
    phase4_outbound_requests counter outcome Requests to Telegram by outcome
    phase4_outbound_queued gauge - Requests that wait to be sent
    phase4_outbound_max_queued gauge - The most waiting requests; further ones are refused
    phase4_outbound_in_flight gauge - Requests that were sent and have no answer yet
    phase4_outbound_refusals counter scope Requests that Telegram refused with a flood wait
    phase4_outbound_retries counter - Retries after a refusal
    phase4_outbound_chats_held gauge - Chats that are held by a flood wait
    phase4_outbound_broadcasts_running gauge - Broadcasts that run
    phase4_outbound_broadcasts_finished counter - Broadcasts that are finished
    phase4_outbound_broadcast_recipients counter outcome Recipients of broadcasts by outcome
    phase4_outbound_held_globally_seconds gauge - Seconds for which nothing is sent to any chat
"""  # noqa: E501 - one line for each
"""``name kind labels help``."""

SAMPLES = {
    "query_optimizer": """
        cache_hits -> phase4_query_cache_hits_total
        cache_misses -> phase4_query_cache_misses_total
        cached_results_count -> phase4_query_cache_entries
        cached_results_mb -> phase4_query_cache_bytes * 1048576
        cache_evictions -> phase4_query_cache_evictions_total
        total_executions -> phase4_query_executions_total
        total_execution_time_ms -> phase4_query_execution_seconds_total * 0.001
        slow_queries -> phase4_query_slow_executions_total
        total_unique_queries -> phase4_query_shapes
        n_plus_one_patterns -> phase4_query_n_plus_one_patterns
    """,
    "cache_manager": """
        l1_hits -> phase4_cache_hits_total{tier=l1}
        l2_hits -> phase4_cache_hits_total{tier=l2}
        l1_misses -> phase4_cache_misses_total{tier=l1}
        l2_misses -> phase4_cache_misses_total{tier=l2}
        l1_entries -> phase4_cache_entries{tier=l1}
        l1_memory_mb -> phase4_cache_bytes{tier=l1} * 1048576
        l1_max_size_mb -> phase4_cache_max_bytes{tier=l1} * 1048576
        l1_evictions -> phase4_cache_evictions_total{tier=l1}
        l1_insertions -> phase4_cache_insertions_total{tier=l1}
        l2_enabled -> phase4_cache_l2_configured
        l2_connected -> phase4_cache_l2_connected
        l2_errors -> phase4_cache_l2_errors_total
        loads -> phase4_cache_loads_total
        load_failures -> phase4_cache_load_failures_total
        stale_served -> phase4_cache_stale_served_total
        warming_tasks -> phase4_cache_warming_tasks
    """,
    "batch_processor": """
        pending_items -> phase4_batch_pending_items
        max_pending -> phase4_batch_max_pending_items
        stream_length -> phase4_batch_stream_length
        reclaimed_items -> phase4_batch_reclaimed_items_total
        pending_batches -> phase4_batch_pending_batches
        completed_batches -> phase4_batch_batches_total{outcome=completed}
        failed_batches -> phase4_batch_batches_total{outcome=failed}
        total_items_processed -> phase4_batch_items_total{outcome=processed}
        failed_items -> phase4_batch_items_total{outcome=failed}
        cancelled_items -> phase4_batch_items_total{outcome=cancelled}
        dead_lettered_items -> phase4_batch_items_total{outcome=dead_lettered}
        refused_items -> phase4_batch_items_total{outcome=refused}
        retries -> phase4_batch_retries_total
        dead_letters -> phase4_batch_dead_letters
        avg_batch_size -> phase4_batch_average_size
        throughput_items_per_sec -> phase4_batch_throughput_items_per_second
    """,
    "load_balancer": """
        total_instances -> phase4_load_balancer_instances
        healthy_instances -> phase4_load_balancer_healthy_instances
        successful_requests -> phase4_load_balancer_requests_total{outcome=succeeded}
        failed_requests -> phase4_load_balancer_requests_total{outcome=failed}
        average_response_time_ms -> phase4_load_balancer_average_response_seconds * 0.001
        rejected_requests -> phase4_load_balancer_requests_total{outcome=rejected}
        retries -> phase4_load_balancer_retries_total
        distribution_variance -> phase4_load_balancer_distribution_variance_percent
    """,
    "outbound": """
        sent -> phase4_outbound_requests_total{outcome=sent}
        failed -> phase4_outbound_requests_total{outcome=failed}
        cancelled -> phase4_outbound_requests_total{outcome=cancelled}
        unqueued -> phase4_outbound_requests_total{outcome=unqueued}
        superseded -> phase4_outbound_requests_total{outcome=superseded}
        unchanged -> phase4_outbound_requests_total{outcome=unchanged}
        dropped -> phase4_outbound_requests_total{outcome=dropped}
        expired -> phase4_outbound_requests_total{outcome=expired}
        held_too_long -> phase4_outbound_requests_total{outcome=held_too_long}
        refused_full -> phase4_outbound_requests_total{outcome=refused_full}
        queued -> phase4_outbound_queued
        max_pending -> phase4_outbound_max_queued
        in_flight -> phase4_outbound_in_flight
        refusals_chat -> phase4_outbound_refusals_total{scope=chat}
        refusals_global -> phase4_outbound_refusals_total{scope=global}
        retries -> phase4_outbound_retries_total
        chats_held -> phase4_outbound_chats_held
        held_globally_seconds -> phase4_outbound_held_globally_seconds
        broadcasts_running -> phase4_outbound_broadcasts_running
        broadcasts_finished -> phase4_outbound_broadcasts_finished_total
        broadcast_sent -> phase4_outbound_broadcast_recipients_total{outcome=sent}
        broadcast_blocked -> phase4_outbound_broadcast_recipients_total{outcome=blocked}
        broadcast_deactivated -> phase4_outbound_broadcast_recipients_total{outcome=deactivated}
        broadcast_not_found -> phase4_outbound_broadcast_recipients_total{outcome=not_found}
        broadcast_failed -> phase4_outbound_broadcast_recipients_total{outcome=failed}
    """,
    "a pool": """
        active_connections -> pool_active_connections{pool=db}
        max_size -> pool_max_size{pool=db}
        active_connections -> phase4_pool_connections{pool=db,state=active}
        idle_connections -> phase4_pool_connections{pool=db,state=idle}
        busy_connections -> phase4_pool_connections{pool=db,state=busy}
        opening_connections -> phase4_pool_connections{pool=db,state=opening}
        min_size -> phase4_pool_min_size{pool=db}
        utilization_percent -> phase4_pool_utilization_percent{pool=db}
        waiting -> phase4_pool_waiters{pool=db}
        total_acquired -> phase4_pool_acquired_total{pool=db}
        total_released -> phase4_pool_released_total{pool=db}
        failed_acquisitions -> phase4_pool_failed_acquisitions_total{pool=db}
        connect_failures -> phase4_pool_connect_failures_total{pool=db}
        leaked -> phase4_pool_leaked_total{pool=db}
        longest_lease_seconds -> phase4_pool_longest_lease_seconds{pool=db}
        overdue_calls -> phase4_pool_overdue_calls{pool=db}
        query_timeouts -> phase4_pool_query_timeouts_total{pool=db}
        demoted -> phase4_pool_demoted{pool=db}
        healthy -> phase4_pool_healthy{pool=db}
    """,
    "a limit": """
        allowed -> phase4_rate_limit_requests_total{outcome=allowed,tier=upload}
        blocked -> phase4_rate_limit_requests_total{outcome=blocked,tier=upload}
        active_clients -> phase4_rate_limit_active_clients{tier=upload}
    """,
    "a limit of slots": """
        in_flight -> phase4_rate_limit_slots_in_flight{limit=downloads}
        waiting -> phase4_rate_limit_slots_waiting{limit=downloads}
        granted -> phase4_rate_limit_slots_total{limit=downloads,outcome=granted}
        refused -> phase4_rate_limit_slots_total{limit=downloads,outcome=refused}
        lost -> phase4_rate_limit_slots_lost_total{limit=downloads}
    """,
    "an instance": """
        healthy -> phase4_load_balancer_instance_healthy{bot_instance=bot-1}
        drained -> phase4_load_balancer_instance_drained{bot_instance=bot-1}
        active_requests -> phase4_load_balancer_instance_active{bot_instance=bot-1}
        total_requests -> phase4_load_balancer_instance_requests_total{bot_instance=bot-1}
        failed_requests -> phase4_load_balancer_instance_failures_total{bot_instance=bot-1}
    """,
}
"""``key -> sample``, and what the key's value is multiplied by."""

JUDGED = {
    "cache_hit_rate", "phase4_cache_eviction_rate_percent", "query_avg_execution_time",
    "rate_limit_block_rate",
}  # fmt: skip
"""Of the last minutes, and so of no one key; tests/core/test_metrics.py has their values."""


def keys(figures):
    return {f"{key}:{type(value).__name__}" for key, value in figures.items()}


async def handle(items):
    return {item.item_id: None for item in items}


async def read(service, *arguments, **options):
    """The statistics of a service that is on."""
    await service.enable(*arguments, **options)
    try:
        return await service.get_statistics()
    finally:
        await service.disable()


SERVICES = {
    "query_optimizer": (QueryOptimizer, ()),
    "cache_manager": (CacheManager, ()),
    "rate_limiter": (RateLimiter, ()),
    "batch_processor": (BatchProcessor, (handle,)),
    "load_balancer": (LoadBalancer, ()),
    "outbound": (Outbound, ()),
}


@pytest.mark.parametrize("name", SERVICES)
async def test_the_keys_of_a_service_that_is_on(name):
    service, arguments = SERVICES[name]
    assert keys(await read(service(), *arguments)) >= set(KEYS[name].split())


@pytest.mark.parametrize("name", SERVICES)
async def test_the_keys_of_a_service_that_is_off(name):
    service, _ = SERVICES[name]
    expected = {"enabled:bool"} if name == "outbound" else set(KEYS[name].split())
    assert keys(await service().get_statistics()) >= expected


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("cache_manager", ""),
        ("rate_limiter", ""),
        ("batch_processor", "batch_processor, durable"),
        ("outbound", "outbound, shared"),
    ],
)
async def test_the_keys_of_a_service_that_has_a_redis(name, more, redis_url):
    service, arguments = SERVICES[name]
    expected = KEYS[name].split() + KEYS.get(more, "").split()
    assert keys(await read(service(), *arguments, redis_url=redis_url)) >= set(expected)


async def test_the_keys_of_a_pool_a_limit_and_an_instance(tmp_path):
    pools, limiter, balancer = ConnectionPoolManager(), RateLimiter(), LoadBalancer()
    try:
        await pools.enable()
        await pools.create_pool("db", "sqlite", min_size=1, max_size=2, url=f"sqlite:///{tmp_path}/db")
        assert keys((await pools.get_statistics())["db"]) >= set(KEYS["a pool"].split())
        await limiter.enable()
        await limiter.is_allowed(7)
        async with limiter.slot(1, ConcurrencyLimit(1)):
            told = await limiter.get_statistics()
        assert keys(told["limits"]["default"]) >= set(KEYS["a limit"].split())
        assert keys(told["slots"]["1 in flight"]) >= set(KEYS["a limit of slots"].split())
        await balancer.enable()
        await balancer.add_instance("bot-1", "127.0.0.1", 1)
        assert keys((await balancer.get_statistics())["instances"]["bot-1"]) >= set(
            KEYS["an instance"].split()
        )
    finally:
        await pools.disable()
        await limiter.disable()
        await balancer.disable()


def test_the_metrics_with_their_kinds_labels_and_help():
    found = {
        f"{family.name} {family.type} {','.join(family._labelnames) or '-'} {family.documentation}"
        for family in Phase4Collector().describe()
    }
    assert found >= {line.strip() for line in METRICS.strip().splitlines()}


def test_each_metric_has_the_value_of_its_key(monkeypatch):
    status = made_up_status()
    monkeypatch.setattr(phase4_metrics, "phase4_status", lambda: status)
    monkeypatch.setattr(phase4_metrics, "phase4_loop", lambda: None)
    registry = CollectorRegistry()
    registry.register(Phase4Collector())
    found = {
        shown(sample): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name not in JUDGED
    }
    expected = {
        f"phase4_info{{version={__version__}}}": 1.0,
        "phase4_scrape_success": 1.0,
        "phase4_uptime_seconds": 12.5,
    }
    for name in (*SERVICES, "connection_pool_manager"):
        expected[f"phase4_service_enabled{{service={name}}}"] = 1.0
        if "degraded" in status["services"][name]:
            expected[f"phase4_service_degraded{{service={name}}}"] = status["services"][name]["degraded"]
    for where, table in SAMPLES.items():
        for line in table.strip().splitlines():
            key, sample, scale = re.fullmatch(r"(\w+) -> (\S+)(?: \* (\S+))?", line.strip()).groups()
            expected[sample] = pytest.approx(entry(status, where)[key] * float(scale or 1))
    assert found == expected


def shown(sample):
    labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
    return f"{sample.name}{{{labels}}}" if labels else sample.name


def made_up_status():
    """A status in which each number stands for one key."""
    number = iter(range(3, 10_000))

    def made_up(names):
        return {key.split(":")[0]: next(number) for key in names.split()}

    services = {name: made_up(KEYS[name]) for name in SERVICES}
    services["batch_processor"] |= made_up(KEYS["batch_processor, durable"])
    services["outbound"] |= made_up(KEYS["outbound, shared"])
    services["rate_limiter"]["limits"] = {"upload": made_up(KEYS["a limit"])}
    services["rate_limiter"]["slots"] = {"downloads": made_up(KEYS["a limit of slots"])}
    services["load_balancer"]["instances"] = {"bot-1": made_up(KEYS["an instance"])}
    services["connection_pool_manager"] = {"db": made_up(KEYS["a pool"])}
    return {"uptime_seconds": 12.5, "services": services}


def entry(status, where):
    services = status["services"]
    members = {
        "a pool": services["connection_pool_manager"]["db"],
        "a limit": services["rate_limiter"]["limits"]["upload"],
        "a limit of slots": services["rate_limiter"]["slots"]["downloads"],
        "an instance": services["load_balancer"]["instances"]["bot-1"],
    }
    return members[where] if where in members else services[where]
