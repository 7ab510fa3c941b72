"""A real Prometheus stores the exemplars of our pages."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from shm_metrics import MetricsBackend, start_http_server
from tests.support.waiting import until
from tests.system.servers.test_prometheus import Prometheus, prometheus

__all__ = ["prometheus"]
pytestmark = pytest.mark.slow

TRACE = "4bf92f3577b34da6 of é\U0001f600, a=b # {}"


def test_prometheus_stores_the_newest_exemplar_of_whichever_worker(
    make_backend: Callable[..., MetricsBackend], prometheus: Callable[..., Prometheus]
) -> None:
    backend = make_backend()
    began = time.time()
    counter = backend.counter("jobs_total", "Jobs.", shop="a")
    counter.inc(2, {"trace_id": "older"})
    if os.fork() == 0:
        status = 1
        try:
            counter.inc(3, {"trace_id": TRACE, "span.id": "1"})
            backend.histogram("job_seconds", buckets=[0.1, 1.0]).observe(0.5, {"trace_id": "slow"})
            status = 0
        finally:
            os._exit(status)
    assert os.wait()[1] == 0
    server, thread = start_http_server(0, backend=backend)
    try:
        watching = prometheus(server.server_port, "--enable-feature=exemplar-storage")
        until(lambda: watching.number("jobs_total") == 5.0, "the counter is there")
        window = {"start": began - 60, "end": time.time() + 60}
        until(lambda: watching.ask("query_exemplars", query="jobs_total", **window), "its exemplar is there")
        (of_counter,) = watching.ask("query_exemplars", query="jobs_total", **window)
        assert of_counter["seriesLabels"]["shop"] == "a"
        (exemplar,) = of_counter["exemplars"]
        assert exemplar["labels"] == {"trace_id": TRACE, "span_id": "1"}
        assert float(exemplar["value"]) == 3.0
        assert began <= exemplar["timestamp"] <= time.time()
        (of_bucket,) = watching.ask("query_exemplars", query="job_seconds_bucket", **window)
        assert of_bucket["seriesLabels"]["le"] == "1.0"
        assert of_bucket["exemplars"][0]["labels"] == {"trace_id": "slow"}
    finally:
        server.shutdown()
        thread.join()
