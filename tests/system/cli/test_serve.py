"""`serve`: the exporter process, a real one."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from shm_metrics.cli import main
from shm_metrics.segment.location import locate_segment
from tests.support.served import Serving, environ
from tests.support.waiting import PATIENCE_SECONDS, until

JOB = """
import sys
from shm_metrics import configure
configure(sys.argv[1]).counter("jobs_total").increment()
"""


@pytest.fixture
def serve() -> Iterator[Callable[..., Serving]]:
    """serve(*arguments) -> Serving; ended after the test."""
    running: list[Serving] = []

    def start(*arguments: str) -> Serving:
        running.append(Serving(*arguments))
        return running[-1]

    yield start
    for each in running:
        if each.process.returncode is None:
            each.end()


def scrape(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def run_job(name: str) -> None:
    subprocess.run([sys.executable, "-c", JOB, name], env=environ(), check=True, timeout=PATIENCE_SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_a_segment_and_ends_cleanly(serve, make_backend, segment_name, number):
    make_backend().counter("jobs_total").increment(5)
    serving = serve(segment_name, "--port", "0")
    url = serving.wait_for_url()
    status, text = scrape(url)
    assert (status, "jobs_total 5.0" in text, "process_resident_memory_bytes" in text) == (200, True, True)
    code, errors = serving.end(number)
    assert code == 0
    assert "Traceback" not in errors


@pytest.mark.slow
def test_it_waits_for_a_segment_that_is_not_there_yet_and_says_which_are(serve, make_backend, segment_name):
    another = make_backend(f"{segment_name}-another")
    serving = serve(segment_name, "--port", "0")
    url = serving.wait_for_url()
    assert serving.said().startswith("waiting: no metrics segment at /dev/shm/")
    assert re.match(r"There are \(shm_metrics-UID-NAME\): .*/dev/shm/shm_metrics-\d+-\S", serving.said())
    another.unlink()
    status, text = scrape(url)
    assert status == 503
    assert text.startswith("There are no metrics: no metrics segment at /dev/shm/")
    make_backend().counter("jobs_total").increment()
    status, text = scrape(url)
    assert (status, "jobs_total 1.0" in text) == (200, True)


@pytest.mark.slow
def test_it_keeps_the_totals_while_no_worker_lives(serve, make_backend, segment_name):
    backend = make_backend()
    backend.counter("jobs_total").increment(5)
    first = backend.instance_id
    serving = serve(segment_name, "--port", "0")
    serving.wait_for_url()
    assert serving.said() == f"present at {backend.place.path}, incarnation {first}\n"
    backend.close()
    again = make_backend()
    again.counter("jobs_total").increment()
    assert (again.instance_id, again.counter("jobs_total").value) == (first, 6)


@pytest.mark.slow
def test_jobs_that_begin_and_end_one_after_another_are_counted_exactly(serve, segment_name):
    serving = serve(segment_name, "--port", "0", "--create", "--rows", "4", "--slots", "1024")
    url = serving.wait_for_url()
    assert serving.said().startswith("present at ")
    for _ in range(5):
        run_job(segment_name)
    text = scrape(url)[1]
    assert "jobs_total 5.0" in text
    assert "shm_metrics_rows_used 1.0" in text
    assert "shm_metrics_rows 4.0" in text
    assert "shm_metrics_workers 0.0" in text


@pytest.mark.slow
def test_it_follows_a_segment_that_is_replaced(serve, make_backend, segment_name):
    old = make_backend()
    old.counter("jobs_total").increment(5)
    serving = serve(segment_name, "--port", "0")
    url = serving.wait_for_url()
    assert "jobs_total 5.0" in scrape(url)[1]
    old.unlink()
    assert scrape(url)[0] == 503
    new = make_backend()
    new.counter("jobs_total").increment(7)
    until(lambda: "jobs_total 7.0" in scrape(url)[1], "the new incarnation is served")
    while f"present at {new.place.path}, incarnation {new.instance_id}\n" != serving.said():
        assert serving.process.poll() is None


@pytest.mark.slow
def test_a_segment_that_it_made_and_somebody_removed_is_made_again(serve, segment_name):
    url = serve(segment_name, "--port", "0", "--create").wait_for_url()
    run_job(segment_name)
    locate_segment(segment_name).unlink()
    until(lambda: os.path.exists(locate_segment(segment_name).path), "it is there again")
    run_job(segment_name)
    run_job(segment_name)
    assert "jobs_total 2.0" in scrape(url)[1]


@pytest.mark.slow
def test_a_port_that_is_taken_is_status_1_and_one_line(serve, segment_name):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        serving = serve(segment_name, "--port", str(taken.getsockname()[1]))
        _, errors = serving.process.communicate(timeout=PATIENCE_SECONDS)
    assert serving.process.returncode == 1
    assert re.fullmatch(r"shm_metrics: cannot listen on 127.0.0.1 port \d+: Address already in use\n", errors)


@pytest.mark.parametrize("port", ["99999", "-1", "http", "²"])
def test_a_port_that_there_is_not_is_status_2(port, segment_name, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["serve", segment_name, "--port", port])
    assert ended.value.code == 2
    assert "give a whole number from 0 to 65535" in capsys.readouterr().err


@pytest.mark.slow
def test_it_listens_where_it_is_told(serve, segment_name):
    url = serve(segment_name, "--host", "127.0.0.2", "--port", "0").wait_for_url()
    assert url.startswith("http://127.0.0.2:")
    assert scrape(url)[0] == 503
