"""Which of several definitions of a name is shown: the newest one that a living worker uses."""

from __future__ import annotations

import pytest

from shm_metrics.exposition import render_text
from shm_metrics.writer.writer import Writer
from tests.support.repairing import repaired
from tests.support.segments import shown

V1, V2 = {"buckets": [1]}, {"buckets": [1, 2]}


@pytest.fixture
def worker(make_backend):
    return lambda **options: make_backend(rows=8, slots=2048, **options)


def use(backend, version, shop="a", value=0.5):
    backend.histogram("seconds", **version, shop=shop).observe(value)


def bounds(backend):
    return len(backend.snapshot().family("seconds").family.bounds) - 1


def shadowed(backend):
    """As a scrape says it."""
    text = render_text(backend.collect()).decode()
    (line,) = [line for line in text.splitlines() if line.startswith("shm_metrics_shadowed_series ")]
    return float(line.split()[1])


def test_a_roll_out_shows_the_new_definition_and_a_rollback_the_old_one_again(worker):
    """v1, v2, v1 again, each by workers of its own."""
    scraper, first = worker(), worker()
    use(first, V1)
    use(first, V1, shop="b")
    assert (bounds(scraper), shadowed(scraper)) == (1, 0)
    second = worker()
    use(second, V2)
    assert (bounds(scraper), shadowed(scraper)) == (2, 2), "while both run, the newer one"
    first.close()
    assert (bounds(scraper), shadowed(scraper)) == (2, 2)
    third = worker()
    use(third, V1)
    assert bounds(scraper) == 2, "v2 is the newer one, and a living worker uses it"
    second.close()
    assert (bounds(scraper), shadowed(scraper)) == (1, 1)
    assert shown(scraper, "seconds") == {(("shop", "a"),): 2.0, (("shop", "b"),): 1.0}, "with all it counted before"
    fourth = worker()
    use(fourth, V2)
    assert (bounds(scraper), shadowed(scraper)) == (2, 2)
    assert shown(scraper, "seconds") == {(("shop", "a"),): 2.0}


def test_a_name_that_turned_into_another_type_and_back_is_shown_as_the_living_use_it(worker):
    scraper, old = worker(), worker()
    old.counter("thing").inc(5)
    new = worker()
    new.gauge("thing").set(7)
    assert scraper.snapshot().value("thing") == 7.0
    new.close()
    again = worker()
    again.counter("thing").inc()
    snapshot = scraper.snapshot()
    assert [found.family.type for found in snapshot] == ["counter"]
    assert snapshot.value("thing") == 6.0
    assert snapshot.shadowed_series == 1


def test_without_a_living_user_the_newest_definition_is_shown(worker):
    scraper, first, second = worker(), worker(), worker()
    use(first, V1)
    use(second, V2)
    first.close()
    second.close()
    assert bounds(scraper) == bounds(worker(read_only=True)) == 2


def test_every_reader_comes_to_the_same_definition(worker):
    first, second, reader = worker(), worker(), worker(read_only=True)
    use(first, V1)
    use(second, V2)
    late = worker(read_only=True)
    assert [bounds(each) for each in (first, second, reader, late)] == [2] * 4
    second.close()
    assert [bounds(each) for each in (first, reader, late, worker(read_only=True))] == [1] * 4


def test_a_worker_that_takes_the_row_of_a_dead_one_does_not_use_its_definitions(worker):
    scraper, first = worker(), worker()
    use(first, V1)
    second = worker()
    use(second, V2)
    row = second.row
    second.close()
    assert worker().row == row
    assert bounds(scraper) == 1


def test_hidden_definitions_go_on_counting_and_their_totals_come_back(worker):
    scraper, first, second = worker(), worker(), worker()
    use(first, V1)
    use(second, V2)
    for _ in range(4):
        use(first, V1)
    assert shown(scraper, "seconds") == {(("shop", "a"),): 1.0}
    second.close()
    assert shown(scraper, "seconds") == {(("shop", "a"),): 5.0}


def test_a_row_that_comes_late_says_what_its_worker_uses(make_backend, monkeypatch):
    monkeypatch.setattr(Writer, "_start_repairs", lambda self: None)
    holder = make_backend(rows=2, slots=2048)
    old = make_backend()
    use(old, V1)
    rowless = make_backend()
    use(rowless, V2)
    assert bounds(holder) == 1, "a worker without a row uses nothing that others see"
    use(old, V1)
    holder.close()
    assert repaired(rowless._writer)
    assert bounds(old) == 2
    assert shown(old, "seconds") == {(("shop", "a"),): 1.0}


def test_a_scrape_says_how_many_series_are_hidden(worker):
    first, second = worker(), worker()
    for shop in "abc":
        use(first, V1, shop)
    use(second, V2)
    assert "\nshm_metrics_shadowed_series 3.0\n" in render_text(second.collect()).decode()
