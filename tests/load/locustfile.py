"""The guide's Locust load test, against ``python -m bot``.

``locust -f tests/load/locustfile.py --headless -u 100 -r 10 -t 1m --host http://127.0.0.1:8000``
(the guide names the address without ``--host``, which Locust took before its version 2)

All of them ask from one address, which the service limits as one client. With PHASE4_DASHBOARD_TOKEN set for
both, they ask as the bot does, and each user has a limit of its own.

A refusal by the rate limiter (429) is what the limiter is there for: it counts as a success, under a
name of its own, so that the table shows how many were allowed and how many were not.
"""

from __future__ import annotations

import itertools
import os
import random

from locust import HttpUser, between, task

USERS, FILES = 2_000, 12_000  # of the service's data set
_clients = itertools.count(1)


class Phase4User(HttpUser):
    """One user of the bot, with an id of its own."""

    wait_time = between(1, 5)

    def on_start(self) -> None:
        self.user_id = next(_clients) % USERS + 1
        if token := os.environ.get("PHASE4_DASHBOARD_TOKEN"):
            self.client.headers["Authorization"] = f"Bearer {token}"

    @task
    def query_with_caching(self) -> None:
        # Every user asks for the same: all but the first are served from the cache.
        self.client.get("/api/data")

    @task
    def batch_operation(self) -> None:
        items = [{"user_id": self.user_id, "file_id": random.randint(1, FILES)} for _ in range(10)]
        with self.client.post("/api/batch", json={"items": items}, catch_response=True) as answer:
            if answer.status_code == 202:
                answer.success()

    @task
    def rate_limited(self) -> None:
        with self.client.get(
            "/api/upload", params={"user_id": self.user_id}, name="/api/upload", catch_response=True
        ) as answer:
            if answer.status_code == 429:
                answer.request_meta["name"] = "/api/upload (refused by the limit)"
                answer.success()
