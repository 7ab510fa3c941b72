"""Sums over workers, and the same figures worker by worker."""

from __future__ import annotations

import math

import pytest

from shm_metrics.runtime.process_usage import ProcessUsage, WorkerUsage
from shm_metrics.scrape.process_families import process_families

WEB = WorkerUsage(0, 100, "web", ProcessUsage(100, 5, 1.5, 1000, 9000, 2, open_fds=10, max_fds=1024.0, start_time=50.0))
JOBS = WorkerUsage(
    4, 101, "jobs", ProcessUsage(101, 9, 2.25, 3000, 7000, 5, open_fds=7, max_fds=512.0, start_time=90.0)
)
BARE = WorkerUsage(5, 102, "", ProcessUsage(102, 11, 1.0, 10, 20, 1))
UNSEEN = WorkerUsage(6, 103, "web", None)


def values(workers, retired=0.0, per_worker=False):
    """Sample name -> value, of families without labels."""
    return {
        sample.name: sample.value
        for family in process_families(workers, retired, per_worker)
        for sample in family.samples
        if not sample.labels
    }


def test_live_workers_are_summed_and_limits_and_starts_are_the_least():
    assert values([WEB, JOBS]) == {
        "shm_metrics_workers": 2,
        "process_cpu_seconds_total": 3.75,
        "process_resident_memory_bytes": 4000,
        "process_virtual_memory_bytes": 16000,
        "process_open_fds": 17,
        "process_max_fds": 512,
        "process_threads": 7,
        "process_start_time_seconds": 50,
    }


def test_the_cpu_counter_does_not_fall_when_a_worker_retires():
    before = values([WEB, JOBS], retired=10.0)["process_cpu_seconds_total"]
    after = values([WEB], retired=10.0 + JOBS.usage.cpu_seconds)["process_cpu_seconds_total"]
    assert after == before


def test_without_workers_there_are_none_and_the_cpu_of_the_dead():
    assert values([], retired=7.5) == {"shm_metrics_workers": 0, "process_cpu_seconds_total": 7.5}


def test_what_is_not_known_of_anybody_is_left_out_rather_than_zero():
    known = values([BARE])
    assert known["process_threads"] == 1
    assert not {"process_open_fds", "process_max_fds", "process_start_time_seconds"} & set(known)


def test_an_unseen_worker_is_counted_and_adds_to_no_sum():
    assert values([WEB, UNSEEN]) == {**values([WEB]), "shm_metrics_workers": 2}
    assert values([UNSEEN]) == {"shm_metrics_workers": 1}


def test_an_unlimited_worker_does_not_hide_the_limit_of_another():
    unlimited = WorkerUsage(1, 1, "", ProcessUsage(1, 1, 0.0, 0, 0, 1, max_fds=math.inf))
    assert values([unlimited, JOBS])["process_max_fds"] == 512
    assert values([unlimited])["process_max_fds"] == math.inf


def test_each_worker_has_its_figures_under_names_that_no_sum_counts_twice():
    families = {family.name: family for family in process_families([WEB, JOBS, UNSEEN], per_worker=True)}
    cpu = families["shm_metrics_worker_cpu_seconds"]
    assert cpu.type == "counter"
    assert [(sample.name, dict(sample.labels), sample.value) for sample in cpu.samples] == [
        ("shm_metrics_worker_cpu_seconds_total", {"pid": "100", "role": "web", "row": "0"}, 1.5),
        ("shm_metrics_worker_cpu_seconds_total", {"pid": "101", "role": "jobs", "row": "4"}, 2.25),
    ]
    for name, family in families.items():
        if name.startswith("process_"):
            assert [sample.labels for sample in family.samples] == [{}]


def test_per_worker_figures_are_given_only_when_asked_for():
    assert not any("_worker_" in family.name for family in process_families([WEB]))


@pytest.mark.parametrize("per_worker", [False, True])
def test_every_sample_name_suits_its_family(per_worker):
    families = process_families([WEB, JOBS], 1.0, per_worker)
    assert len({family.name for family in families}) == len(families) == (15 if per_worker else 8)
    for family in families:
        expected = f"{family.name}_total" if family.type == "counter" else family.name
        assert {sample.name for sample in family.samples} == {expected}
        assert family.documentation.endswith(".")
