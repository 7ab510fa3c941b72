"""What users of these packages reported of several workers, and what it is now. The threads are named at each test."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from demo.load import get
from tests.support.running import ROOT
from tests.support.served import Serving
from tests.support.waiting import PATIENCE_SECONDS
from tests.system.applications.clients import Tally
from tests.system.applications.deployments import UVICORN, UVICORN_WORKER, Deployment
from tests.system.applications.packages import DJANGO, FASTAPI, FLASK, STARLETTE, Scrapes
from tests.system.applications.pages import Page

pytestmark = pytest.mark.slow

OF_PROCESSES = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_start_time_seconds",
    "process_open_fds",
    "python_gc_objects_collected_total",
    "python_gc_collections_total",
    "python_info",
}


def ask_each(running, times: int = 5) -> Tally:
    tally = Tally()
    for _ in range(times):
        for path in running.package.paths:
            tally.ask(running.server.port, path)
    return tally


# flask_exporter 18 and 123, instrumentator 138, 207 and 227, starlette_exporter 56
@pytest.mark.parametrize(
    "deployment",
    [
        Deployment(FLASK, "sync", multiproc_dir=True),
        Deployment(FASTAPI, UVICORN_WORKER, multiproc_dir=True, installed="last"),
        Deployment(STARLETTE, UVICORN),
    ],
    ids=str,
)
def test_processor_memory_gc_and_platform_are_on_the_page_once(deploy, deployment, tmp_path):
    running = deploy(deployment)
    page = running.exact_page(ask_each(running))
    families = page.families()
    assert set(families) >= OF_PROCESSES
    assert len(families) == len(set(families))
    page.values(lambda sample: True)
    for name in OF_PROCESSES - {"python_gc_objects_collected_total"}:  # there may have been none to collect
        assert page.total(name) > 0, name
    assert list((tmp_path / "multiproc").iterdir()) == []


def test_an_exporter_of_its_own_shows_what_the_application_shows(deploy, segment_name):
    running = deploy(Deployment(FLASK, "sync", multiproc_dir=True))
    serving = Serving(segment_name, "--port", "0")
    try:
        url = serving.wait_for_url()
        shown = running.exact_page(running.load()).values(FLASK.steady)
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as response:
            exported = Page(response.read().decode(), serving.process.pid)
        assert exported.values(FLASK.steady) == shown
    finally:
        serving.end()


# flask_exporter 89 and 165: what its README has for gunicorn
def test_the_classes_that_flask_exporter_has_for_gunicorn_count_as_exactly(deploy):
    old, new = "import PrometheusMetrics", "import GunicornInternalPrometheusMetrics as PrometheusMetrics"
    deployment = Deployment(
        FLASK,
        "gthread",
        multiproc_dir=True,
        edits=((f"prometheus_flask_exporter {old}", f"prometheus_flask_exporter.multiprocess {new}"),),
        conf="from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics\n"
        "def child_exit(server, worker):\n"
        "    GunicornInternalPrometheusMetrics.mark_process_dead_on_child_exit(worker.pid)\n",
    )
    running = deploy(deployment)
    running.exact_page(running.load())
    assert running.fallen() == []


# An address of 127.0.0.0/8 for this process alone: the port has to be known before anybody listens.
METRICS_HOST = f"127.{os.getpid() >> 14 & 127 | 128}.{os.getpid() >> 7 & 127}.{os.getpid() & 127 | 128}"
METRICS_PORT = 8080


# flask_exporter 89, django-prometheus 197, 283 and 339: a port of its own for metrics, which the master serves
@pytest.mark.parametrize(
    "deployment",
    [
        Deployment(
            FLASK,
            "sync",
            installed="by the hook",
            multiproc_dir=True,
            edits=(
                (
                    "prometheus_flask_exporter import PrometheusMetrics",
                    "prometheus_flask_exporter.multiprocess import GunicornPrometheusMetrics as PrometheusMetrics",
                ),
            ),
            conf="from prometheus_flask_exporter.multiprocess import GunicornPrometheusMetrics\n"
            "def when_ready(server):\n"
            f"    GunicornPrometheusMetrics.start_http_server_when_ready({METRICS_PORT}, {METRICS_HOST!r})\n"
            "def child_exit(server, worker):\n"
            "    GunicornPrometheusMetrics.mark_process_dead_on_child_exit(worker.pid)\n",
        ),
        Deployment(
            DJANGO,
            "sync",
            "wsgi",
            preload=True,
            edits=(
                (
                    "settings.configure(",
                    f"settings.configure(PROMETHEUS_METRICS_EXPORT_PORT={METRICS_PORT}, "
                    f"PROMETHEUS_METRICS_EXPORT_ADDRESS={METRICS_HOST!r}, ",
                ),
            ),
        ),
    ],
    ids=str,
)
def test_the_port_that_the_master_serves_shows_what_all_workers_count(deploy, deployment):
    running = deploy(deployment)
    tally = ask_each(running)
    with urllib.request.urlopen(f"http://{METRICS_HOST}:{METRICS_PORT}/metrics", timeout=PATIENCE_SECONDS) as response:
        page = Page(response.read().decode(), running.server.pid)
    assert deployment.package.differing(page, tally, Scrapes(0, 0)) == []


# starlette_exporter 51, client_python 701: the variable comes too late for prometheus_client, and the page is empty
def test_a_variable_that_is_set_after_prometheus_client_is_imported_does_not_empty_the_page(deploy):
    late = 'os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.path.join(os.path.dirname(__file__), "multiproc")\n'
    deployment = Deployment(STARLETTE, UVICORN_WORKER, edits=(("app = Starlette(", f"{late}app = Starlette("),))
    running = deploy(deployment)
    running.exact_page(running.load())


def samples_of(openmetrics: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(openmetrics) for sample in family.samples]


def test_what_prometheus_asks_for_and_a_selection_of_names_show_all_workers_too(deploy):
    running = deploy(Deployment(FLASK, "sync"))
    tally = ask_each(running)
    running.exact_page(tally)
    expected = {"200": 15.0, "404": 5.0, "410": 5.0, "500": 5.0}
    _, openmetrics = get(running.server.port, "/metrics", {"Accept": "application/openmetrics-text; version=1.0.0"})
    samples = samples_of(openmetrics.decode())
    assert {s.labels["status"]: s.value for s in samples if s.name == "flask_http_request_total"} == expected
    _, selected = get(running.server.port, "/metrics?name[]=flask_http_request_total")
    samples = Page(selected.decode(), 0).samples
    assert {s.labels["status"]: s.value for s in samples} == expected


# client_python 826: in multiprocess mode there are no exemplars
def test_exemplars_of_one_worker_are_on_the_page_of_another(deploy):
    running = deploy(
        Deployment(
            STARLETTE,
            UVICORN_WORKER,
            multiproc_dir=True,
            edits=(
                ("import PrometheusMiddleware, handle_metrics", "import PrometheusMiddleware, handle_openmetrics"),
                ('"/metrics", handle_metrics', '"/metrics", handle_openmetrics'),
                ("(PrometheusMiddleware)", '(PrometheusMiddleware, exemplars=lambda: {"worker": str(os.getpid())})'),
            ),
        )
    )
    ask_each(running)
    pages = running.pages_of_two_workers()
    shown = [
        {
            sample.labels["path"]: sample.exemplar.labels["worker"]
            for sample in samples_of(page.text)
            if sample.name == "starlette_requests_total" and sample.exemplar and sample.labels["path"] != "/metrics"
        }
        for page in pages
    ]
    assert shown[0] == shown[1]
    assert set(shown[0]) == {"/", "/threads", "/orders/{kind}", "/slow", "/gone", "/error"}
    assert {int(pid) for pid in shown[0].values()} <= set(running.server.booted())


TASKS = 20
QUEUE = """
import multiprocessing
import sys
import deployed  # the project, as the web workers have it
from django.db import connection

def task(n):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")

with multiprocessing.get_context("fork").Pool(2) as pool:
    pool.map(task, range(int(sys.argv[1])))
"""


# django-prometheus 339 and 197: workers of a task queue, forked from a process that has the project loaded
def test_what_workers_of_a_task_queue_count_is_on_the_page_of_the_web_workers(deploy, segment_name, tmp_path):
    running = deploy(Deployment(DJANGO, "sync", "wsgi"))
    tally = ask_each(running)
    running.exact_page(tally)
    path = os.pathsep.join([str(tmp_path), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(
        [sys.executable, "-c", QUEUE, str(TASKS)],
        env={**os.environ, "PYTHONPATH": path, "SHM_METRICS_SEGMENT": segment_name},
        check=True,
        timeout=60,
    )
    orders = tally.answered["/orders/books", 200]
    executed = {page.total("django_db_execute_total") for page in running.pages_of_two_workers()}
    assert executed == {orders + TASKS}
