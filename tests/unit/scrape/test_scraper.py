"""What one scrape collects: segment, processes, engine, and what the application adds."""

from __future__ import annotations

import gc
import os

import prometheus_client
import prometheus_client.core
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shm_metrics import InvalidMetricError, SampleFamily, generate_latest
from shm_metrics.model.families import GAUGE, Sample


def scrape(backend):
    """sample name with labels -> value, as a Prometheus reads it."""
    text = generate_latest(backend).decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def queue_sizes():
    yield SampleFamily("queue_size", "Of another system.", GAUGE, [Sample("queue_size", {"queue": "q"}, 7.0)])


class Collector:
    """As prometheus_client has them."""

    def collect(self):
        family = prometheus_client.core.GaugeMetricFamily("their_size", "Of another system.", labels=["queue"])
        family.add_metric(["q"], 8.0)
        yield family


def test_collectors_run_once_a_scrape_functions_and_objects_alike(make_backend):
    backend, calls = make_backend(), []

    def counted():
        calls.append(1)
        return queue_sizes()

    for collector in (counted, Collector(), prometheus_client.PlatformCollector(registry=None)):
        backend.register_collector(collector)
    found = scrape(backend)
    assert found[("queue_size", ("queue", "q"))] == 7.0
    assert found[("their_size", ("queue", "q"))] == 8.0
    assert any(name == "python_info" for name, *_ in found)
    assert len(calls) == 1


def test_a_collector_registered_twice_runs_once_and_not_at_all_once_it_is_unregistered(make_backend):
    backend, calls = make_backend(), []
    collector = lambda: calls.append(1) or []  # noqa: E731
    backend.register_collector(collector)
    backend.register_collector(collector)
    scrape(backend)
    assert len(calls) == 1
    backend.unregister_collector(collector)
    scrape(backend)
    assert len(calls) == 1
    with pytest.raises(ValueError):
        backend.unregister_collector(collector)


@pytest.mark.parametrize("collector", [None, 7, "x", object()])
def test_what_is_no_collector_is_refused(make_backend, collector):
    with pytest.raises(TypeError, match="give a callable that returns families"):
        make_backend().register_collector(collector)


def test_a_collector_that_fails_is_counted_and_logged_once_and_the_rest_served(make_backend, caplog):
    backend = make_backend()
    backend.counter("jobs").inc(3)

    def failing():
        yield SampleFamily("half", "", GAUGE, [Sample("half", {}, 1.0)])
        raise RuntimeError("its database is gone")

    backend.register_collector(failing)
    backend.register_collector(queue_sizes)
    for n in (1, 2, 3):
        found = scrape(backend)
        assert found[("jobs_total",)] == 3.0
        assert found[("queue_size", ("queue", "q"))] == 7.0
        assert ("half",) not in found, "half an answer is none"
        assert found[("shm_metrics_collector_errors_total",)] == n - 1
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "failing" in messages[0]
    assert "its database is gone" in messages[0]


NO_FAMILIES = {
    "none": None,
    "number": 7,
    "list of none": [None],
    "list of text": ["text"],
    "list of object": [object()],
    "no samples": [SampleFamily("x", "", GAUGE, None)],
}


@pytest.mark.parametrize("answer", NO_FAMILIES.values(), ids=NO_FAMILIES)
def test_a_collector_that_gives_no_families_is_a_failed_one(make_backend, answer):
    backend = make_backend()
    backend.counter("jobs").inc(3)
    backend.register_collector(lambda: answer)
    assert scrape(backend)[("jobs_total",)] == 3.0
    assert scrape(backend)[("shm_metrics_collector_errors_total",)] >= 1.0


def test_a_collectors_sample_that_cannot_be_rendered_costs_its_family_and_no_other(make_backend):
    backend = make_backend()
    backend.counter("jobs").inc(3)
    for value in (None, Sample("x", {}, "text"), Sample("x", None, 1.0), Sample(7, {}, 1.0)):
        backend.register_collector(lambda value=value: [SampleFamily("x", "", GAUGE, [value])])
        assert scrape(backend)[("jobs_total",)] == 3.0


def test_a_gauges_function_is_asked_at_each_scrape(make_backend):
    backend, values = make_backend(), iter([5, 6.5, 7])
    backend.gauge("depth", queue="q").set_function(lambda: next(values))
    for expected in (5.0, 6.5, 7.0):
        assert scrape(backend)[("depth", ("queue", "q"))] == expected


def test_a_gauges_function_that_fails_leaves_the_last_value_and_is_counted(make_backend, caplog):
    backend, answers = make_backend(), [lambda: 5.0, lambda: 1 / 0, lambda: "text", lambda: 6.0]
    backend.gauge("depth").set_function(lambda: answers.pop(0)())
    assert [scrape(backend)[("depth",)] for _ in range(4)] == [5.0, 5.0, 5.0, 6.0]
    assert scrape(backend)[("shm_metrics_collector_errors_total",)] >= 2.0
    assert len(caplog.records) == 1
    assert "depth" in caplog.records[0].getMessage()


def test_a_function_given_again_replaces_the_one_before(make_backend):
    backend = make_backend()
    backend.gauge("depth").set_function(lambda: 1)
    backend.gauge("depth").set_function(lambda: 2)
    assert scrape(backend)[("depth",)] == 2.0


def test_what_is_no_function_is_refused(make_backend):
    with pytest.raises(InvalidMetricError, match="set_function"):
        make_backend().gauge("depth").set_function(7)


def test_one_scrape_shows_the_processes_of_all_workers(make_backend):
    backend = make_backend()
    make_backend()
    found = scrape(backend)
    assert found[("shm_metrics_workers",)] == 2.0
    assert found[("process_resident_memory_bytes",)] > 2e6
    assert found[("process_cpu_seconds_total",)] > 0.0


def test_process_metrics_can_be_left_out_and_had_per_worker(make_backend):
    assert not any(name.startswith("process_") for name, *_ in scrape(make_backend(process_metrics=False)))
    found = scrape(make_backend(per_worker=True, role="web"))
    mine = [key for key in found if key[0] == "shm_metrics_worker_threads" and ("role", "web") in key[1:]]
    assert len(mine) == 1
    assert ("pid", str(os.getpid())) in mine[0]


def test_a_reader_shows_what_a_writer_shows_and_claims_no_row(make_backend):
    writer = make_backend()
    writer.counter("jobs").inc(2)
    reader = make_backend(read_only=True)
    assert scrape(reader)[("jobs_total",)] == 2.0
    assert scrape(reader)[("shm_metrics_workers",)] == 1.0
    assert reader.row is None
    assert reader.instance_id == writer.instance_id


def test_a_reader_follows_the_segment_to_its_next_life(make_backend):
    first = make_backend()
    first.counter("jobs").inc(2)
    reader = make_backend(read_only=True)
    assert scrape(reader)[("jobs_total",)] == 2.0
    first.close()
    assert scrape(reader)[("jobs_total",)] == 2.0, "its last words can still be read"
    second = make_backend()
    second.counter("jobs").inc(7)
    assert scrape(reader)[("jobs_total",)] == 7.0
    assert reader.instance_id == second.instance_id


def test_a_reader_of_a_removed_segment_says_so_and_finds_the_next_one(make_backend):
    first = make_backend()
    reader = make_backend(read_only=True)
    first.unlink()
    with pytest.raises(FileNotFoundError, match="no metrics segment"):
        reader.collect()
    make_backend().counter("jobs").inc()
    assert scrape(reader)[("jobs_total",)] == 1.0


def test_readers_that_come_and_go_leave_nothing_open(make_backend):
    make_backend()
    make_backend(read_only=True).snapshot()
    gc.collect()  # what tests before this one forgot would be closed in the middle
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        reader = make_backend(read_only=True)
        reader.snapshot()
        reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_each_scrape_shows_a_removed_segment_and_the_log_once(make_backend, caplog):
    backend = make_backend()
    backend.counter("jobs").inc()
    assert scrape(backend)[("shm_metrics_detached",)] == 0.0
    backend.place.unlink()
    for _ in range(2):
        found = scrape(backend)
        assert (found[("jobs_total",)], found[("shm_metrics_detached",)]) == (1.0, 1.0)
    make_backend()  # a process that starts now makes another one, in the same place
    assert scrape(backend)[("shm_metrics_detached",)] == 1.0
    (record,) = caplog.records
    assert f"{backend.place.path} was removed while it is in use" in record.getMessage()
