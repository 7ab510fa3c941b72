"""A source of scrapes that does not count: calls on top of calls."""

from __future__ import annotations

from shm_metrics.scrape.observer import Exporter


def test_a_call_on_top_of_a_scrape_in_the_same_thread_reads_beside_it(make_backend):
    backend = make_backend()
    backend.counter("jobs").inc(3)
    exporter, nested = Exporter(backend.place, process_metrics=False), []

    def on_top() -> list[object]:
        nested.append((exporter.look(), len(exporter.collect())))
        return []

    exporter.look()
    exporter._scraper.register(on_top)
    families = exporter.collect()
    assert nested == [(backend.instance_id, len(families))]
    exporter.close()
