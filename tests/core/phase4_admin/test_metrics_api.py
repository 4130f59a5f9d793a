"""``/metrics`` of the running service."""

import time
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families


def get(service, path="/metrics", **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{service.port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.headers, response.read().decode()


def samples(text, parse=text_string_to_metric_families):
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value for family in parse(text) for s in family.samples
    }


def test_it_counts_what_was_asked(service):
    before = samples(get(service)[1])
    for _ in range(4):
        service.call("/api/data?user_id=1501")
    headers, text = get(service)
    after = samples(text)
    assert headers["Content-Type"].startswith("text/plain")
    hits = ("phase4_query_cache_hits_total", ())
    assert after[hits] - before[hits] == 9, "three queries each, the first time not from the cache"
    assert after["process_open_fds", ()] > 0


def test_the_event_loops_lag_is_measured(service):
    deadline = time.monotonic() + 10
    while samples(get(service)[1])["phase4_event_loop_lag_seconds_count", ()] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_openmetrics_for_who_asks(service):
    headers, text = get(service, Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert samples(text, openmetrics)["phase4_scrape_success", ()] == 1


def test_metrics_by_name(service):
    _, text = get(service, "/metrics?name[]=phase4_uptime_seconds&name[]=process_open_fds")
    assert {name for name, _ in samples(text)} == {"phase4_uptime_seconds", "process_open_fds"}
