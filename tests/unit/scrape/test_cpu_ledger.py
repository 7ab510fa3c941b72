"""CPU seconds outlive their workers: the counter never falls, and never says more than was used."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shm_metrics.runtime.process_usage import ProcessUsage
from shm_metrics.scrape.cpu_ledger import CpuLedger
from shm_metrics.segment import layout as L
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.segment import Segment


@pytest.fixture
def segment(place):
    segment = Segment.attach(place, Layout(rows=4, slots=512))
    yield segment
    segment.close()


def used(pid, seconds, start=1):
    return ProcessUsage(pid, start, seconds, 0, 0, 1)


def scrape(ledger, live):
    """What process_cpu_seconds_total says."""
    retired = ledger.retired_seconds((1, 2, 3, 4), live)
    ledger.note(live)
    return retired + sum(usage.cpu_seconds for usage in live.values())


def test_the_seconds_of_the_dead_stay(segment):
    ledger = CpuLedger(segment)
    assert scrape(ledger, {1: used(100, 5.0), 2: used(200, 1.0)}) == 6.0
    assert scrape(ledger, {2: used(200, 2.0)}) == 7.0
    assert scrape(ledger, {1: used(101, 0.5), 2: used(200, 2.0)}) == 7.5
    assert scrape(ledger, {}) == 7.5


def test_a_pid_that_comes_again_is_another_process(segment):
    ledger = CpuLedger(segment)
    assert scrape(ledger, {1: used(100, 5.0, start=1)}) == 5.0
    assert scrape(ledger, {1: used(100, 1.0, start=2)}) == 6.0


def test_a_process_that_moves_to_another_row_is_not_lost(segment):
    ledger = CpuLedger(segment)
    assert scrape(ledger, {1: used(100, 5.0)}) == 5.0
    assert scrape(ledger, {1: used(101, 1.0)}) == 6.0


def test_every_scraper_knows_what_any_of_them_noted(segment, place):
    other = Segment.attach(place, Layout(rows=4, slots=512))
    assert scrape(CpuLedger(segment), {1: used(100, 5.0)}) == 5.0
    assert scrape(CpuLedger(other), {1: used(101, 1.0)}) == 6.0
    assert scrape(CpuLedger(segment), {}) == 6.0
    watcher = Segment.open_read_only(place)
    assert scrape(CpuLedger(watcher), {}) == 6.0
    watcher.close()
    other.close()


def test_a_scraper_that_may_not_write_remembers_for_itself(segment, place):
    watcher = Segment.open_read_only(place)
    ledger = CpuLedger(watcher)
    assert scrape(ledger, {1: used(100, 5.0)}) == 5.0
    assert scrape(ledger, {}) == 5.0
    assert scrape(ledger, {1: used(101, 1.0)}) == 6.0
    assert scrape(CpuLedger(segment), {1: used(101, 1.0)}) == 1.0, "nothing was written"
    watcher.close()


def test_a_scraper_that_finds_another_at_the_ledger_does_not_wait(segment, place):
    other = Segment.attach(place, Layout(rows=4, slots=512))
    other.locks.try_exclusive(L.LOCK_LEDGER)
    ledger = CpuLedger(segment)
    assert scrape(ledger, {1: used(100, 5.0)}) == 5.0
    assert scrape(ledger, {}) == 5.0
    assert scrape(CpuLedger(other), {}) == 0.0
    other.close()
    scrape(ledger, {1: used(100, 6.0)})
    assert not segment.locks.held_by_other(L.LOCK_LEDGER)
    assert scrape(CpuLedger(segment), {}) == 6.0


# (row, what happens there): its process works a while, or is gone and another one comes
events = st.lists(
    st.tuples(
        st.integers(1, 3), st.sampled_from(["works", "dies", "is replaced"]), st.integers(1, 9), st.integers(0, 2)
    ),
    min_size=1,
    max_size=40,
)


@settings(deadline=None)
@given(events)
def test_the_counter_of_any_scraper_never_falls_and_never_exceeds_the_truth(happens):
    segment = Segment.private(Layout(rows=4, slots=512))
    scrapers = [CpuLedger(segment) for _ in range(2)]
    shown, truth, pids = [0.0, 0.0], 0.0, iter(range(100, 1000))
    live: dict[int, ProcessUsage] = {}
    for row, what, seconds, scraper in happens:
        if what == "dies":
            live.pop(row, None)
        elif what == "is replaced" or row not in live:
            live[row] = used(next(pids), 0.0)
        else:
            live[row] = used(live[row].pid, live[row].cpu_seconds + seconds)
            truth += seconds
        if scraper < 2:
            found = scrape(scrapers[scraper], dict(live))
            assert shown[scraper] <= found <= truth
            shown[scraper] = found
    segment.close()
