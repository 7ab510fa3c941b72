"""Applications as they are on the servers they run on: all that was answered is counted, whichever worker is asked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.system.applications.clients import CRASH, Tally
from tests.system.applications.deployments import CLIENTS, REQUESTS, UVICORN, UVICORN_WORKER, Deployment
from tests.system.applications.packages import DJANGO, FASTAPI, FLASK, STARLETTE, Package

pytestmark = pytest.mark.slow

DEPLOYMENTS = [
    Deployment(FLASK, "sync", crash_at_rest=False),
    Deployment(FLASK, "sync", preload=True, multiproc_dir=True),
    Deployment(FLASK, "gthread", installed="by the hook", multiproc_dir=True),
    Deployment(FLASK, "gevent", installed="last"),
    Deployment(DJANGO, "sync", "wsgi", preload=True),
    Deployment(DJANGO, "gthread", "wsgi", multiproc_dir=True),
    Deployment(DJANGO, "gevent", "wsgi", installed="by the hook"),
    Deployment(DJANGO, UVICORN_WORKER, "asgi"),
    Deployment(DJANGO, UVICORN, "asgi"),
    Deployment(FASTAPI, UVICORN_WORKER, installed="by the hook"),
    Deployment(FASTAPI, UVICORN_WORKER, preload=True, multiproc_dir=True),
    Deployment(FASTAPI, UVICORN),
    Deployment(STARLETTE, UVICORN_WORKER, installed="last"),
    Deployment(STARLETTE, UVICORN_WORKER, preload=True),
    Deployment(STARLETTE, UVICORN, multiproc_dir=True),
]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=str)
def test_totals_are_what_the_clients_saw_though_a_worker_is_killed(deploy, deployment):
    running = deploy(deployment)
    tally = running.load()
    assert tally.answered.total() == REQUESTS
    assert tally.broken == {CRASH: 1}
    running.exact_page(tally)
    one, other = (page.values(deployment.package.steady) for page in running.pages_of_two_workers())
    assert one == other
    running.exact_page(tally)
    assert running.fallen() == []


def without_errors(package: Package) -> Package:
    """Nothing that is counted in one step of the event loop and answered in another."""
    return replace(package, paths=tuple(path for path in package.paths if path != "/error"))


@pytest.mark.parametrize(
    "deployment",
    [
        Deployment(without_errors(FASTAPI), UVICORN_WORKER, crash_at_rest=False),
        Deployment(without_errors(STARLETTE), UVICORN, crash_at_rest=False),
    ],
    ids=str,
)
def test_a_worker_that_dies_with_requests_under_way_has_counted_what_it_answered_and_no_more(deploy, deployment):
    running = deploy(deployment)
    tally = running.load()
    assert tally.answered.total() + tally.broken.total() == REQUESTS + 1
    assert tally.broken[CRASH] == 1
    assert tally.broken.total() <= CLIENTS
    running.exact_page(tally)
    assert running.fallen() == []


@pytest.mark.parametrize(
    "deployment",
    [
        Deployment(FLASK, "sync", installed="not", workers=1),
        Deployment(DJANGO, "gthread", "wsgi", installed="not", workers=1),
        Deployment(FASTAPI, UVICORN, installed="not", workers=1),
        Deployment(STARLETTE, UVICORN, installed="not", workers=1),
    ],
    ids=str,
)
def test_what_is_expected_of_a_package_is_what_it_counts_by_itself_in_one_worker(deploy, deployment):
    running = deploy(deployment)
    tally = Tally()
    for path in deployment.package.paths:
        tally.ask(running.server.port, path)
    running.exact_page(tally)
    assert running.fallen() == []
