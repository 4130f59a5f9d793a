"""What users import and call stays where it is: new names may come, none of these may go.

README, guide and docs name these modules. A name or an argument is taken out here only together with
a line in the change log that tells users what to write instead.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

NAMES = {
    "batch_processor": """
        BatchClosedError BatchItem BatchProcessor BatchQueueFullError BatchStatus DeadLetter
        DeadLetteredError HandlerTimeoutError ItemCancelledError ItemFailedError ItemStatus LostItemError
        MissingResultError PeriodicItem ReplayReport ResultNotKeptError ResultTimeoutError Submission
        UnknownItemError durable_dead_letters
    """,
    "cache_manager": """
        FOREVER CacheEvent CacheInfo CacheManager CachedFunction CachedPlainFunction CircularLoadError
        LoadOptions LoaderTimeoutError LockTimeoutError NotAnIntegerError UnsupportedValueError cached
        invalidate register_type
    """,
    "connection_pool_manager": """
        ConnectionPoolManager LeaseError LeaseReleasedError MissingDriverError PoolClosedError
        PoolConnectError PoolHealth PoolOptions PoolSetupError PoolTimeoutError PooledConnection
        QueryTimeoutError UnknownPoolError
    """,
    "load_balancer": """
        Attempt BalancerOffError Instance InstanceEvent InstanceFailure InstanceState
        LoadBalancer LoadBalancingStrategy NoInstanceError NotSentError RequestFailed
        RequestRejected RouteResult UnknownInstanceError
    """,
    "outbound": """
        Limits MessageDeletedError Outbound OutboundClosedError OutboundDeadlineError
        OutboundFullError OutboundHeldError Priority Request sending
    """,
    "query_optimizer": """
        Finding IndexSuggestion NPlusOnePattern OptimizationResult QueryOptimizer
        QueryTimeoutError QueryTooComplexError QueryType Scope SlowQuery database_time
        optimize_query
    """,
    "rate_limiter": """
        Backoff ByteLimit ConcurrencyLimit ConcurrencyLimitExceeded RateLimitConfig RateLimitExceeded
        RateLimitStatus RateLimiter Slot SlotStatus UnknownTierError WindowLimit limited_slots
        parse_limits rate_limited
    """,
    "enhanced_startup_phase4": """
        cached get_phase4_status initialize_phase4_services invalidate limited_slots mount_phase4
        optimize_query rate_limited reset_phase4_services shutdown_phase4_services
    """,
    "phase4_metrics": """
        Phase4Collector register_phase4_metrics
    """,
}
"""What each module of ``bot.core`` exports."""

ATTRIBUTES = {
    "batch_processor.BatchProcessor": """
        cancel_item(item_id)
        check_invariants()
        count_dead_letters()
        dead_letters(limit)
        disable()
        discard_dead_letters(item_ids)
        enable(process_handler, max_batch_size, batch_timeout, max_concurrent, max_pending,
            handler_timeout, max_retries, retry_base, retry_max, retry_after_max, isolate, adaptive,
            drain_timeout, result_ttl, max_results, max_dead_letters, redis_url, queue_name, lease,
            max_deliveries, max_item_bytes)
        enabled
        flush(timeout)
        forget_instances()
        get_batch_status(batch_id)
        get_dead_letter(item_id)
        get_instance()
        get_item_status(item_id)
        get_result(item_id, timeout)
        get_statistics()
        histograms()
        iter_dead_letters(offset, limit, newest_first)
        list_periodic()
        process_handler
        remove_periodic(name)
        replay(item_ids)
        replay_dead_letters(item_ids)
        reset()
        reset_statistics()
        service_name
        statistics()
        submit(data, priority)
        submit_and_wait(data, priority, timeout, lane, delay, not_before)
        submit_item(data, priority, key, lane, delay, not_before, replace)
        submit_many(data, priority, keys, all_or_none, lane, lanes, delay, not_before, replace)
        submit_periodic(name, data, every, priority, lane, jitter)
        warnings()
    """,
    "cache_manager.CacheManager": """
        bypass()
        clear(namespace)
        delete(key, namespace)
        disable()
        enable(l1_max_size_mb, l1_max_entries, eviction, default_ttl, compression, redis_url,
            warming, warming_interval, load_timeout)
        enabled
        forget_instances()
        get(key, namespace, default)
        get_instance()
        get_local(key, namespace, default)
        get_many(keys, namespace)
        get_or_load(key, loader, ttl, namespace, tags, options)
        get_statistics()
        histograms()
        invalidate_pattern(pattern, namespace)
        invalidate_tag(tag)
        invalidate_tags(tags)
        listen(topic, listener)
        on(event, callback)
        reset()
        reset_statistics()
        service_name
        set(key, value, ttl, namespace, tags)
        set_many(items, ttl, namespace, tags)
        statistics()
        stop_warming(key, namespace)
        tell(topic, items)
        warm_cache(key, loader_func, ttl, interval, namespace, timeout)
        warnings()
    """,
    "connection_pool_manager.ConnectionPoolManager": """
        acquire_connection(name, timeout)
        close_pool(name, drain_timeout)
        connection(name, timeout)
        create_pool(name, backend, min_size, max_size, url, driver_options)
        disable(drain_timeout)
        enable(min_size, max_size, acquire_timeout, connect_timeout, idle_timeout, max_lifetime,
            keepalive_interval, leak_threshold, query_timeout, pools, urls)
        enabled
        forget_instances()
        get_all_statistics()
        get_instance()
        get_statistics()
        health_check_all()
        histograms()
        release_connection(name, conn, is_healthy)
        reset()
        reset_statistics()
        service_name
        statistics()
        warnings()
    """,
    "connection_pool_manager.PooledConnection": """
        backend
        connection_id
        is_healthy
        is_released
        raw_connection
        use_count
    """,
    "load_balancer.LoadBalancer": """
        add_instance(id, host, port, weight, scheme)
        check_invariants()
        disable(drain_timeout)
        drain_instance(id, timeout)
        enable(strategy, request_handler, health_check, instances, figures)
        enabled
        forget_instances()
        get_instance()
        get_instance_by_id(id)
        get_statistics()
        histograms()
        instances
        on_event(callback)
        remove_instance(id, drain, timeout)
        return_instance(id)
        request_handler
        reset()
        reset_statistics()
        route_request(data, session_id, max_retries, timeout, idempotent)
        select_instance(session_id)
        select_nowait(session_id)
        service_name
        statistics()
        warnings()
    """,
    "outbound.Outbound": """
        call(send, request)
        check_invariants()
        disable()
        enable(limits, max_pending, max_in_flight, max_wait, drain_timeout)
        enabled
        forget_instances()
        get_instance()
        get_statistics()
        histograms()
        hold(chat, seconds)
        release(chat)
        reset()
        reset_statistics()
        service_name
        statistics()
        warnings()
    """,
    "query_optimizer.QueryOptimizer": """
        after_write(hook)
        analyze_query(query, params, scope)
        cache_query_result(query, result, ttl, params, scope, fresh)
        clear_cache()
        clear_statistics()
        declare_cascade(table, tables)
        declare_view(name, tables)
        disable()
        enable(cache_ttl, cache_max_size_mb, cache_max_entries, slow_query_threshold,
            detect_n_plus_one, dialect, n_plus_one_threshold, n_plus_one_window, views, cascades,
            pure_functions, graphql_max_depth, graphql_max_complexity, query_timeout)
        enabled
        execute(query, params, executor, ttl, scope)
        explain_with(explainer, dialect, timeout)
        forget_instances()
        get_cached_result(query, params, scope)
        get_instance()
        get_n_plus_one_patterns()
        get_slow_queries(threshold)
        get_statistics()
        histograms()
        invalidate_tables(tables, scope)
        learn_catalog()
        record_execution(query, execution_time_ms, result_count, cache_hit, scope)
        request()
        reset()
        reset_statistics()
        service_name
        statistics()
        transaction()
        warnings()
        written_elsewhere(tables)
    """,
    "rate_limiter.RateLimiter": """
        acquire(client_id, config, tokens_required, tier, timeout)
        allow_batch(client_id, batch_size, config, tier)
        charge(client_id, limit, tokens)
        check(client_id, config)
        check_tier(client_id, tier)
        disable()
        enable(default_limit, tiers, backoff, backoff_base, backoff_max, backoff_grace, redis_url)
        enabled
        exempt(client_id)
        forget_instances()
        get_client_status(client_id, config, tier)
        get_instance()
        get_statistics()
        get_tier_limit(tier)
        histograms()
        is_allowed(client_id, config, tokens_required, tier)
        is_allowed_all(checks)
        is_exempt(client_id)
        refund(client_id, limit, tokens)
        reset()
        reset_client(client_id, limit)
        reset_statistics()
        service_name
        set_tier_limit(tier, config)
        shared
        statistics()
        unexempt(client_id)
        warnings()
    """,
}
"""The public attributes of what users hold, with the names of their arguments, in order."""

DESCRIBED = re.compile(r"(\w+)(?:\(([^)]*)\))?")


def described(text: str) -> dict[str, list[str] | None]:
    """Each attribute with its arguments; None for what is not called."""
    return {
        name: [word.strip() for word in arguments.split(",") if word.strip()] if called else None
        for name, arguments, called in (
            (match[1], match[2] or "", match[2] is not None) for match in DESCRIBED.finditer(text)
        )
    }


def attributes() -> list[tuple[str, str, list[str] | None]]:
    return [
        (owner, name, arguments)
        for owner, text in ATTRIBUTES.items()
        for name, arguments in described(text).items()
    ]


@pytest.mark.parametrize("module", NAMES)
def test_a_module_exports_what_users_import(module: str) -> None:
    found = importlib.import_module(f"bot.core.{module}")
    assert set(NAMES[module].split()) <= set(found.__all__)
    assert all(hasattr(found, name) for name in found.__all__)


@pytest.mark.parametrize(
    ("owner", "name", "arguments"), attributes(), ids=[f"{owner}.{name}" for owner, name, _ in attributes()]
)
def test_an_attribute_stays_with_its_arguments(owner: str, name: str, arguments: list[str] | None) -> None:
    module, class_name = owner.split(".")
    attribute = getattr(getattr(importlib.import_module(f"bot.core.{module}"), class_name), name)
    if arguments is None:
        return  # a property or a fact; that it is there is all
    parameters = inspect.signature(attribute).parameters
    taken = [each for each in parameters if each != "self" and not each.startswith("_")]
    assert [each for each in taken if each in arguments] == arguments


def test_every_import_that_the_documents_name_is_listed() -> None:
    pages = [ROOT / "README.md", ROOT / "tests/docs/guide.md", *sorted((ROOT / "docs").rglob("*.md"))]
    line = re.compile(r"^ *from bot\.core\.(\w+) import (?:\(([^)]*)\)|(.*))$", re.MULTILINE)
    named = 0
    for page in pages:
        for module, several, one in line.findall(page.read_text(encoding="utf-8")):
            names = {word.split(" as ")[0].strip() for word in (several or one).split("#")[0].split(",")} - {
                ""
            }
            named += len(names)
            assert names <= set(NAMES[module].split()), f"{page.name} names {module}: {names}"
    assert named > 20
