"""Metrics and series through pickle: they count where the one that was sent does, also in another process."""

from __future__ import annotations

import pickle
import shutil

import pytest

from shm_metrics import Counter, Enum, Gauge, Histogram, Info, Summary


def through_pickle(thing):
    return pickle.loads(pickle.dumps(thing))


class Doubling(Counter):
    def inc_twice(self):
        self.inc(2)


@pytest.mark.parametrize("labelnames", [[], ["a", "b"]], ids=["plain", "labelled"])
@pytest.mark.parametrize(
    ("type_", "options"),
    [
        (Counter, {"unit": "bytes"}),
        (Doubling, {}),
        (Gauge, {}),
        (Gauge, {"multiprocess_mode": "max"}),
        (Gauge, {"multiprocess_mode": "mostrecent"}),
        (Histogram, {"buckets": [1, 2]}),
        (Summary, {}),
        (Info, {}),
        (Enum, {"states": ["off", "on"]}),
    ],
)
def test_a_declared_metric_arrives_as_it_was_declared(metrics_backend, type_, options, labelnames):
    metric = type_("thing", "Things.", labelnames, namespace="shop", **options)
    arrived = through_pickle(metric)
    assert type(arrived) is type(metric)
    assert (arrived._family, arrived._labelnames) == (metric._family, metric._labelnames)


def test_what_arrives_counts_on_and_follows_the_default_backend(metrics_backend, make_backend):
    from shm_metrics.default import use_backend

    jobs, seconds = Doubling("jobs", "", ["a"]), Histogram("seconds", "", buckets=[1])
    jobs.labels("x").inc()
    other, same = through_pickle(jobs), through_pickle(seconds)
    other.labels("x").inc(2)
    same.observe(0.5)
    assert (jobs.labels("x").value, seconds.count) == (3, 1)
    second = make_backend()
    use_backend(second)
    try:
        other.labels("x").inc(5)
        assert second.snapshot().value("jobs", a="x") == 5
    finally:
        use_backend(metrics_backend)


def test_a_series_arrives_as_the_one_that_is_there(metrics_backend):
    declared, by_name = Counter("jobs", "", ["b", "a"]).labels("1", "2"), metrics_backend.gauge("depth", shop="x")
    assert through_pickle(declared) is declared
    assert through_pickle(by_name) is by_name


def test_who_has_a_backend_of_its_own_takes_it_along(metrics_backend, make_backend):
    own = make_backend()
    metric, series = Counter("jobs", "", registry=own), own.counter("other")
    for each in (metric, series):
        each.inc()
        arrived = through_pickle(each)
        arrived.inc(2)
        assert each.value == 3
    assert metrics_backend.all_metrics() == {}


SENDER = """
import pickle, sys
from shm_metrics import Counter, configure
configure(**{sys.argv[1]: sys.argv[2]})
jobs = Counter("jobs", "", ["a"])
jobs.labels("x").inc()
print(pickle.dumps([jobs, jobs.labels("x")]).hex())
"""
RECEIVER = """
import pickle, sys
from shm_metrics import Counter, get_backend
if sys.argv[2:]:
    Counter("declared_before", "")
jobs, series = pickle.loads(bytes.fromhex(sys.argv[1]))
jobs.labels("x").inc()
series.inc()
print(get_backend().place.path.rpartition("/")[2], series.value)
"""


def test_a_process_without_a_default_backend_gets_that_of_the_sender(make_backend, segment_name, python):
    make_backend()  # present, so that the life of the segment goes on
    sent = python(SENDER, "name", segment_name).strip()
    assert python(RECEIVER, sent, SHM_METRICS_SEGMENT=f"{segment_name}-elsewhere").endswith(f"-{segment_name} 3.0\n")


def test_a_process_that_has_one_counts_there(make_backend, segment_name, python):
    elsewhere = make_backend(f"{segment_name}-elsewhere")
    sent = python(SENDER, "name", segment_name).strip()
    told = python(RECEIVER, sent, "first", SHM_METRICS_SEGMENT=f"{segment_name}-elsewhere")
    assert told.endswith("-elsewhere 2.0\n")
    elsewhere.unlink()


def test_a_segment_that_the_receiver_cannot_have_is_told_and_stops_nobody(segment_name, python, tmp_path):
    (tmp_path / "mine").mkdir()
    sent = python(SENDER, "path", str(tmp_path / "mine" / "segment")).strip()
    shutil.rmtree(tmp_path / "mine")
    told = python(
        "import logging, sys; logging.basicConfig(stream=sys.stdout)" + RECEIVER, sent, SHM_METRICS_SEGMENT=segment_name
    )
    assert "its directory does not exist; make it, or give another path; this process counts where" in told
    assert told.endswith(f"-{segment_name} 2.0\n")
