"""A source of scrapes that does not count: calls on top of calls."""

from __future__ import annotations

from shm_metrics.scrape.observer import SegmentObserver


def test_a_call_on_top_of_a_scrape_in_the_same_thread_reads_beside_it(make_backend):
    backend = make_backend()
    backend.counter("jobs").inc(3)
    observer, nested = SegmentObserver(backend.place, process_metrics=False), []

    def on_top() -> list[object]:
        nested.append((observer.attach(), len(observer.collect())))
        return []

    observer.attach()
    observer._scraper.register(on_top)
    families = observer.collect()
    assert nested == [(backend.instance_id, len(families))]
    observer.close()
