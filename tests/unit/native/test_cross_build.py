"""Each build of the cells reads, and goes on counting in, a segment that the other one wrote."""

from __future__ import annotations

import pytest

from shm_metrics.model.gauge_modes import MODES
from shm_metrics.native.implementation import COMPILED

WRITE = """
import sys
from shm_metrics import MetricsBackend
from shm_metrics.native.implementation import COMPILED
from shm_metrics.model.gauge_modes import MODES
backend = MetricsBackend(sys.argv[1], keep=True)
backend.counter("jobs", shop="a").inc(2)
for value in (0.5, 1.5, 99):
    backend.histogram("seconds", buckets=[1, 2], shop="a").observe(value)
for value in range(50):
    backend.histogram("wide", buckets=range(49)).observe(value)
backend.summary("bytes").observe(7)
for mode in MODES:
    backend.gauge(mode, multiprocess_mode=mode).set(5)
backend.gauge("moved").inc(3)
with backend.histogram("timed", buckets=[1e9]).time():
    pass
print(COMPILED)
"""

BUILDS = [None, "1"]  # of SHM_METRICS_INTERPRETED


@pytest.mark.parametrize("other", BUILDS, ids=["the compiled", "the interpreted"])
def test_a_segment_that_the_other_build_wrote_is_read_and_gone_on_with(other, python, make_backend, segment_name):
    reader = make_backend(process_metrics=False)
    compiled = python(WRITE, segment_name, SHM_METRICS_INTERPRETED=other).strip()
    if other is None and COMPILED:
        assert compiled == "True"
    if other == "1":
        assert compiled == "False"
    backend = reader
    backend.counter("jobs", shop="a").inc(1)
    backend.histogram("seconds", buckets=[1, 2], shop="a").observe(1)
    backend.summary("bytes").observe(3)
    backend.gauge("moved").dec(1)
    snapshot = backend.snapshot()
    assert snapshot.value("jobs", shop="a") == 3.0
    assert snapshot.family("seconds").values.tolist() == [[2, 1, 1]]
    assert snapshot.family("seconds").sums.tolist() == [102.0]
    assert snapshot.family("wide").values.tolist() == [[1.0] * 50]
    assert snapshot.family("wide").sums.tolist() == [sum(range(50))]
    assert (snapshot.family("bytes").values.tolist(), snapshot.family("bytes").sums.tolist()) == ([2.0], [10.0])
    assert snapshot.value("moved") == 2.0
    assert snapshot.value("timed") == 1.0
    for mode in MODES.values():
        values = snapshot.family(mode.name).values.tolist()
        assert values == ([5.0] if not mode.live else [0.0] if mode.name == "livesum" else [])


@pytest.mark.parametrize("second", BUILDS, ids=["the compiled", "the interpreted"])
@pytest.mark.parametrize("first", BUILDS, ids=["compiled first", "interpreted first"])
def test_builds_that_take_turns_in_one_row_stay_exact(first, second, python, make_backend, segment_name):
    keeper = make_backend()
    for build in (first, second, first):
        python(WRITE, segment_name, SHM_METRICS_INTERPRETED=build)
    snapshot = keeper.snapshot()
    assert snapshot.used_rows == (1, 2)
    assert snapshot.value("jobs", shop="a") == 6.0
    assert snapshot.family("seconds").values.tolist() == [[3, 3, 3]]
    assert snapshot.family("seconds").sums.tolist() == [303.0]
    assert snapshot.value("moved") == 9.0
    assert snapshot.value("sum") == 5.0
