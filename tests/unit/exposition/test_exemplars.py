"""Exemplars on a page: at their lines, whichever way the page is made, and never where the standard forbids them."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from shm_metrics.exposition import (
    FamilyRun,
    RunFamilies,
    filter_families,
    render_json,
    render_openmetrics,
    render_text,
)
from shm_metrics.exposition.samples import as_samples, one_by_one
from shm_metrics.model.families import (
    COUNTER,
    HISTOGRAM,
    Exemplar,
    Family,
    FamilySnapshot,
    Sample,
    SampleFamily,
    SeriesLabels,
)
from tests.support.families import unhurried

exemplar_values = st.builds(
    Exemplar,
    st.dictionaries(st.text(max_size=6).filter(bool), st.text(max_size=20), max_size=3),
    st.floats(allow_nan=False),
    st.none() | st.floats(0, 2e9),
)


@st.composite
def runs(draw: st.DrawFn) -> FamilyRun:
    """A run of a few families, some large, of counters or histograms, with exemplars here and there."""
    kind = draw(st.sampled_from([COUNTER, HISTOGRAM]))
    bounds = (draw(st.sampled_from([-1.0, 0.5])), 2.0, inf) if kind == HISTOGRAM else ()
    families, total = [], 0
    for n in range(draw(st.integers(1, 4))):
        size = draw(st.integers(0, 40))
        families.append((Family(f"f{n}", kind, bounds=bounds), SeriesLabels((("n", str(i)),) for i in range(size))))
        total += size
    width = max(1, len(bounds))
    places = st.tuples(st.integers(0, max(0, total - 1)), st.integers(0, width - 1))
    exemplars = draw(st.dictionaries(places, exemplar_values, max_size=8)) if total else {}
    values = np.arange(float(total * width)).reshape(total, width)
    if kind == COUNTER:
        return FamilyRun(RunFamilies(families), values[:, 0].copy(), None, None, exemplars or None)
    return FamilyRun(RunFamilies(families), values, values.sum(axis=1), None, exemplars or None)


def sample_by_sample(run: FamilyRun) -> list[SampleFamily]:
    return [as_samples(each, openmetrics=True) for each in one_by_one([run])]


@unhurried
@given(runs())
def test_the_fast_way_and_the_slow_one_make_the_same_page(run):
    wanted = render_openmetrics(sample_by_sample(run))
    assert render_openmetrics([run]) == wanted
    assert render_openmetrics([run]) == wanted
    assert render_openmetrics(list(run.split())) == wanted


@unhurried
@given(runs())
def test_the_text_format_has_none_of_them(run):
    bare = FamilyRun(run.families, run.values, run.sums)
    assert render_text([run]) == render_text([bare])


@unhurried
@given(runs())
def test_a_page_without_them_afterwards_is_the_page_without_them(run):
    bare = FamilyRun(run.families, run.values, run.sums)
    fresh = FamilyRun(RunFamilies(run.families), run.values, run.sums)
    before = render_openmetrics([fresh])
    render_openmetrics([run])
    assert render_openmetrics([bare]) == before


@pytest.mark.parametrize("series", [2, 100])
def test_they_stand_at_their_lines_and_change_with_them(series):
    labels = SeriesLabels((("n", str(n)),) for n in range(series))
    family = Family("seconds", HISTOGRAM, bounds=(1.0, inf))
    values, sums = np.ones((series, 2)), np.ones(series)
    for trace in ("first", "second"):
        kept = {(1, 0): Exemplar({"trace_id": trace}, 0.5, 12.5), (series - 1, 1): Exemplar({"trace_id": "inf"}, 9.0)}
        page = render_openmetrics([FamilySnapshot(family, labels, values, sums, None, kept)]).decode()
        lines = [line for line in page.splitlines() if " # " in line]
        assert lines == [
            f'seconds_bucket{{le="1.0",n="1"}} 1.0 # {{trace_id="{trace}"}} 0.5 12.5',
            f'seconds_bucket{{le="+Inf",n="{series - 1}"}} 2.0 # {{trace_id="inf"}} 9.0',
        ]
        list(text_string_to_metric_families(page))


def test_one_that_is_too_long_or_not_allowed_is_left_out_and_the_line_stays():
    samples = [
        Sample("jobs_total", {"n": "1"}, 1.0, None, Exemplar({"a": "x" * 127}, 1.0)),
        Sample("jobs_total", {"n": "2"}, 1.0, None, Exemplar({"a": "x" * 128}, 1.0)),
        Sample("jobs_total", {"n": "3"}, 1.0, None, Exemplar({"1" * 64: "x" * 64}, 1.0)),
        Sample("jobs_created", {}, 1.0, None, Exemplar({"a": "b"}, 1.0)),
    ]
    lines = render_openmetrics([SampleFamily("jobs", "", COUNTER, samples)]).decode().splitlines()
    assert [line for line in lines if " # " in line] == [f'jobs_total{{n="1"}} 1.0 # {{a="{"x" * 127}"}} 1.0']
    assert 'jobs_total{n="2"} 1.0' in lines
    assert 'jobs_total{n="3"} 1.0' in lines, "with its underscore the name has 65 characters"
    assert "jobs_created 1.0" in lines


def test_a_filter_keeps_them():
    labels, family = SeriesLabels([()]), Family("seconds", HISTOGRAM, bounds=(1.0, inf))
    kept = {(0, 0): Exemplar({"trace_id": "a"}, 0.5)}
    found = FamilySnapshot(family, labels, np.ones((1, 2)), np.ones(1), None, kept)
    for names in (["seconds"], ["seconds_bucket"]):
        assert b'# {trace_id="a"} 0.5' in render_openmetrics(filter_families([found], names))
    assert b"trace_id" not in render_openmetrics(filter_families([found], ["seconds_count"]))
    assert b'"exemplars": {"1.0": {"labels": {"trace_id": "a"}, "value": 0.5}}' in render_json([found])
