"""One HELP and TYPE a name, whoever gives it."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict

from shm_metrics.exposition import (
    FamilyRun,
    RunFamilies,
    render_csv,
    render_json,
    render_openmetrics,
    render_text,
)
from shm_metrics.model.families import COUNTER, GAUGE, Family, FamilySnapshot, SeriesLabels
from tests.support.families import counter


def gauge(name: str, value: float = 1.0) -> FamilySnapshot:
    return FamilySnapshot(Family(name, GAUGE, "A gauge."), SeriesLabels([()]), np.array([value]))


def test_families_of_one_name_become_one():
    other = CounterMetricFamily("jobs", "Other words.", labels=["queue"])
    other.add_metric(["elsewhere"], 9)
    text = render_text([counter(), gauge("between"), other]).decode()
    assert text == (
        "# HELP jobs_total Jobs done.\n"
        "# TYPE jobs_total counter\n"
        'jobs_total{queue="q0"} 1.0\n'
        'jobs_total{queue="elsewhere"} 9.0\n'
        "# HELP between A gauge.\n"
        "# TYPE between gauge\n"
        "between 1.0\n"
    )


def test_of_two_samples_with_the_same_labels_the_first_stays():
    text = render_text([counter(values=[1.0]), counter(values=[2.0, 3.0])])
    assert text.count(b'queue="q0"') == 1
    assert b'jobs_total{queue="q0"} 1.0' in text
    assert b'jobs_total{queue="q1"} 3.0' in text


def test_help_and_unit_come_from_the_first_that_has_them():
    bare = FamilySnapshot(Family("x_bytes", COUNTER), SeriesLabels([(("a", "1"),)]), np.ones(1))
    full = FamilySnapshot(Family("x_bytes", COUNTER, "Help.", "bytes"), SeriesLabels([(("a", "2"),)]), np.ones(1))
    assert render_openmetrics([bare, full]).startswith(
        b"# HELP x_bytes Help.\n# TYPE x_bytes counter\n# UNIT x_bytes bytes\n"
    )


@pytest.mark.parametrize("render", [render_text, render_openmetrics, render_json, render_csv])
def test_of_two_types_with_one_name_the_first_is_shown_and_the_caller_told(render):
    dropped = []
    page = [counter("x"), gauge("x"), gauge("y")]
    assert render(page, on_dropped=dropped.append) == render([counter("x"), gauge("y")])
    assert [one.name for one in dropped] == ["x"]
    assert dropped[0].reason == "the gauge 'x' takes names of the counter 'x': rename one of them"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (counter("x"), gauge("x_total")),
        (gauge("x_total"), counter("x")),
        (counter("x"), GaugeMetricFamily("x_created", "Help.", value=1)),
    ],
)
def test_a_family_may_not_have_the_sample_name_of_another(first, second):
    dropped = []
    text = render_openmetrics([first, second], on_dropped=dropped.append)
    assert len(dropped) == 1
    assert len(list(strict(text.decode()))) == 1


def test_a_clash_within_a_run_is_settled_too():
    families = RunFamilies([(Family("x", COUNTER), SeriesLabels([()])), (Family("x_total", GAUGE), SeriesLabels([()]))])
    dropped = []
    for _ in range(2):
        text = render_text([FamilyRun(families, np.array([1.0, 2.0]))], on_dropped=dropped.append)
        assert text == b"# HELP x_total \n# TYPE x_total counter\nx_total 1.0\n"
    assert len(dropped) == 2


def test_a_page_that_grows_a_clash_later_is_looked_at_again():
    first, second, rival = counter("x"), gauge("y"), gauge("x_total")
    clean = render_text([first, second])
    for _ in range(2):
        assert render_text([first, second]) == clean
        assert render_text([first, second, rival]) == clean
        assert render_text([first, second, GaugeMetricFamily("x_total", "Help.", value=1)]) == clean
        assert render_text([first, rival]) == render_text([first])


def test_a_page_may_be_any_iterable():
    assert render_text(iter([counter(), counter("other")])) == render_text([counter(), counter("other")])
