"""uvicorn by itself: its workers are spawned, and it has no hook that anybody could use."""

from __future__ import annotations

import pytest

from tests.support.running import CLIENTS, Service

REQUESTS = 300


@pytest.mark.slow
def test_workers_that_uvicorn_spawned_are_counted_exactly_though_one_is_killed(uvicorn):
    service: Service = uvicorn(workers=3)
    service.scrape_from_several()
    tally = service.load(REQUESTS, halfway=service.kill_one)
    assert len(service.scrape_from_several()) == 1
    answered, broken = tally.answered.total(), tally.broken.total()
    assert service.counted() == service.marks()
    assert answered <= service.counted() <= answered + broken == REQUESTS
    assert broken <= CLIENTS
    assert service.snapshot().value("in_progress") == 0
