"""What the engine says of itself."""

from __future__ import annotations

from shm_metrics.exposition import render_text
from shm_metrics.model.families import COUNTER, GAUGE
from shm_metrics.scrape.self_metrics import EngineFigures, self_families

FIGURES = EngineFigures(
    rows=1,
    rows_used=2,
    reaped_rows=3,
    workers_without_row=4,
    slots=5,
    slots_used=6,
    series=7,
    shadowed_series=8,
    damaged_records=9,
    counters_near_limit=15,
    overflowed_updates=10.0,
    dropped_exemplars=3.0,
    segment_bytes=11,
    detached=True,
    collector_errors=13,
    last_scrape_seconds=14.5,
)


def test_every_figure_has_a_family_with_its_value():
    shown = list(self_families(FIGURES).split())
    assert {found.family.name for found in shown} == {f"shm_metrics_{name}" for name in EngineFigures.__slots__}
    for found in shown:
        name = found.family.name.removeprefix("shm_metrics_")
        assert found.values.tolist() == [float(getattr(FIGURES, name))]
        assert found.family.type in (COUNTER, GAUGE)
        assert found.family.documentation
    text = render_text([self_families(FIGURES)]).decode()
    assert "\nshm_metrics_reaped_rows_total 3.0\n" in text
    assert "\nshm_metrics_last_scrape_seconds 14.5\n" in text


def test_no_name_is_one_of_the_process_metrics():
    from shm_metrics.runtime.process_usage import ProcessUsage, WorkerUsage
    from shm_metrics.scrape.process_families import process_families

    workers = [WorkerUsage(1, 100, "", ProcessUsage(100, 1, 1.0, 1, 1, 1, 1, 1.0, 1.0))]
    ours = {found.family.name for found in self_families(FIGURES).split()}
    assert not ours & {family.name for family in process_families(workers, 0.0, per_worker=True)}


def test_a_segment_says_its_own_state(make_backend):
    first = make_backend(rows=3, slots=512)
    first.counter("a", n=1).inc()
    second = make_backend()
    second.close()
    make_backend()
    (figures,) = [first.stats()]
    assert {
        name: figures[name] for name in ("rows", "rows_used", "reaped_rows", "slots", "series", "live_workers")
    } == {
        "rows": 3,
        "rows_used": 2,
        "reaped_rows": 1,
        "slots": 512,
        "series": 1,
        "live_workers": 2,
    }
    assert figures["slots_used"] == 16 + 2  # the engine's own, the series and the overflow of its family
    assert 0 < figures["segment_bytes"] < 300_000
    assert figures["workers_without_row"] == figures["damaged_records"] == figures["shadowed_series"] == 0


def test_the_seconds_of_the_previous_scrape_are_shown(make_backend):
    backend = make_backend()

    def seconds():
        text = render_text(backend.collect()).decode()
        (line,) = [line for line in text.splitlines() if line.startswith("shm_metrics_last_scrape_seconds ")]
        return float(line.split()[1])

    assert seconds() == 0.0
    assert seconds() > 0.0
