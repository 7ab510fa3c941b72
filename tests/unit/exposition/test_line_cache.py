"""What is kept between scrapes never shows: every rendering equals one without a memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm_metrics.exposition import (
    FamilyRun,
    RunFamilies,
    filter_families,
    line_cache,
    render_csv,
    render_openmetrics,
    render_text,
)
from shm_metrics.exposition.floats import number_lines
from shm_metrics.model.families import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    INFO,
    STATESET,
    SUMMARY,
    Family,
    FamilySnapshot,
    SeriesLabels,
)
from shm_metrics.model.line_shape import line_shape
from tests.support.families import KINDS, anything, counter, peer_text, snapshots, unhurried


def paths(n: int) -> SeriesLabels:
    return SeriesLabels([(("path", f"/{i}"),) for i in range(n)])


@unhurried
@given(st.data())
def test_a_repeated_scrape_shows_the_new_numbers_for_few_series_and_for_many(data):
    n = data.draw(st.sampled_from([1, 5, 40, 100]))
    family, labels = Family("g", GAUGE, "Help."), paths(n)
    values = np.zeros(n)
    for _ in range(3):
        values = values.copy()
        for place, value in data.draw(st.lists(st.tuples(st.integers(0, n - 1), anything), max_size=5)):
            values[place] = value + 0.0  # -0.0 and 0.0 are equal, and a small line cache may show either
        page = [FamilySnapshot(family, labels, values)]
        assert render_text(page) == peer_text(page)


@unhurried
@given(st.sampled_from(KINDS).flatmap(lambda kind: snapshots(kind, most=40)))
def test_the_list_and_the_array_of_a_snapshots_numbers_are_equal(snapshot):
    shape = line_shape(snapshot.family)
    flat = shape.array(snapshot.values, snapshot.sums)
    assert np.array_equal(flat, np.array(shape.list(snapshot.values, snapshot.sums), dtype=float), equal_nan=True)


def test_an_array_that_the_reader_writes_again_is_not_trusted_to_stay():
    family, labels, values = Family("g", GAUGE), paths(100), np.zeros(100)
    for _ in range(3):
        values += 1
        page = [FamilySnapshot(family, labels, values)]
        assert render_text(page) == peer_text(page)


def test_a_new_definition_of_a_family_with_the_same_series_is_shown():
    before = counter()
    render_text([before])
    after = replace(before, family=replace(before.family, documentation="Other."))
    assert b"Other." in render_text([after])
    assert b"Jobs done." in render_text([before])


def test_families_may_share_one_object_of_series():
    shared = SeriesLabels([()])
    page = [FamilySnapshot(Family(f"x{i}", COUNTER), shared, np.array([float(i)])) for i in range(5)]
    for _ in range(2):
        assert render_text(page) == peer_text(page)


def test_the_two_formats_do_not_share_what_is_kept():
    page = [counter()]
    assert render_text(page) != render_openmetrics(page)
    assert b"# TYPE jobs_total counter" in render_text(page)
    assert b"# TYPE jobs counter" in render_openmetrics(page)


def test_concurrent_scrapes_of_different_moments_do_not_mix():
    family, labels = Family("g", GAUGE), paths(200)
    pages = [[FamilySnapshot(family, labels, np.full(200, float(moment)))] for moment in range(20)]
    expected = [peer_text(page) for page in pages]

    def scrape(turn: int) -> bool:
        return render_text(pages[turn % 20]) == expected[turn % 20]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(scrape, range(2_000)))


def test_a_scrape_that_comes_between_two_steps_of_another_changes_neither(monkeypatch):
    family, labels = Family("g", GAUGE), paths(100)
    pages = {}
    for moment, place in (("before", 0), ("outer", 1), ("inner", 2)):
        values = np.zeros(100)
        values[place] = 7
        pages[moment] = [FamilySnapshot(family, labels, values)]
    render_text(pages["before"])
    inner = []

    def interrupted(values):
        if not inner:
            inner.append(b"")
            inner[0] = render_text(pages["inner"])
        return number_lines(values)

    monkeypatch.setattr(line_cache, "number_lines", interrupted)
    assert render_text(pages["outer"]) == peer_text(pages["outer"])
    assert inner == [peer_text(pages["inner"])]
    assert render_text(pages["before"]) == peer_text(pages["before"])


def scalars() -> RunFamilies:
    return RunFamilies(
        [
            (Family("a", COUNTER, "A."), paths(3)),
            (Family("none", GAUGE, "No series."), SeriesLabels()),
            (Family("b", GAUGE, "B."), SeriesLabels([()])),
            (Family("c", INFO, "C."), paths(60)),
            (Family("last", COUNTER, "No series."), SeriesLabels()),
        ]
    )


def test_a_run_gives_the_text_of_its_families_one_by_one():
    n = 64
    runs = [
        FamilyRun(scalars(), np.arange(n, dtype=float)),
        FamilyRun(
            RunFamilies((Family(f"h{i}", HISTOGRAM, bounds=(float(i), inf)), paths(2)) for i in range(20)),
            np.arange(80, dtype=float).reshape(40, 2),
            np.arange(40) / 4,
        ),
        FamilyRun(RunFamilies([(Family("s", SUMMARY), paths(2))]), np.array([1.0, 2.0]), np.array([0.5, 0.25])),
        FamilyRun(RunFamilies([(Family("m", STATESET, states=("x", "y")), paths(2))]), np.array([1.0, 0.0])),
    ]
    parts = [part for run in runs for part in run.split()]
    for render in (render_text, render_openmetrics, render_csv):
        for _ in range(2):
            assert render(runs) == render(parts)
    assert render_text(runs) == peer_text(parts)


def test_a_run_of_different_shapes_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        RunFamilies([(Family("a", COUNTER), paths(1)), (Family("h", HISTOGRAM, bounds=(1.0, inf)), paths(1))])


def test_a_new_series_in_a_run_is_shown():
    families = scalars()
    render_text([FamilyRun(families, np.zeros(64))])
    grown = RunFamilies([(families[0][0], paths(4)), *families[1:]])
    run = FamilyRun(grown, np.ones(65))
    assert render_text([run]) == peer_text(run.split())


def test_a_run_that_clashes_with_a_family_is_taken_apart():
    run = FamilyRun(scalars(), np.zeros(64))
    assert render_text([counter("a", [1.0], label="queue"), run]).count(b"# TYPE a_total") == 1


def test_a_run_is_filtered_by_name():
    run = FamilyRun(scalars(), np.arange(64, dtype=float))
    assert filter_families([run], ["nobody"]) == []
    assert render_text(filter_families([run], ["b"])) == b"# HELP b B.\n# TYPE b gauge\nb 3.0\n"
