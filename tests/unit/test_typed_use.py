"""What the type checker reads is run, too: types that promise what is not there help nobody."""

from __future__ import annotations

from shm_metrics.segment.location import locate_segment
from tests import typed_use


def test_what_the_type_checker_reads_runs(make_backend, segment_name):
    backend = make_backend()
    assert typed_use.declared(backend) > 0
    assert typed_use.asked_for(backend) == 1.0
    assert typed_use.read(backend) == 1.0
    typed_use.served(backend)
    typed_use.published(backend)
    metered = typed_use.Metered("metered", registry=backend)
    metered.twice()
    assert metered.value == 2.0


def test_the_default_backend_is_as_typed(metrics_backend, segment_name):
    name = f"{segment_name}-default"
    assert typed_use.default(name)
    locate_segment(name).unlink()
