"""`python -m shm_metrics push`: one push of a segment whose application may be gone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shm_metrics import MetricsBackend
from shm_metrics.cli import main


def push(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "shm_metrics", "push", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_pushes_once_and_the_next_time_what_came_since(make, udp, tmp_path):
    path = tmp_path / "segment"
    backend = make()
    backend.counter("orders_total").inc(3)
    to = ("--to", "statsd", "--option", f"port={udp.port}", "--option", 'names=["orders"]', "--option", "tags.env=prod")
    done = push(path, *to)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"statsd: {len('orders_total:3|c|#env:prod')} bytes of {path}\n"
    assert udp.receive() == ["orders_total:3|c|#env:prod"]
    backend.counter("orders_total").inc(2)
    backend.close()
    assert push(path, *to).returncode == 0
    assert udp.receive() == ["orders_total:2|c|#env:prod"]


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("--to", "carbon"), 2, "exporter 'carbon': there is none"),
        (("--to", "text"), 2, "--to text: that is a document, which is sent nowhere; dump prints it"),
        (("--to", "statsd", "--option", "port"), 2, "--option 'port': give NAME=VALUE"),
        (("--to", "statsd", "--option", "colour=red"), 2, "exporter 'statsd': "),
        (("--to", "statsd", "--option", "host=host.invalid"), 1, "host.invalid port 8125"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said(backend, tmp_path, capsys, words, status, told):
    assert main(["push", str(tmp_path / "segment"), *words]) == status
    assert told in capsys.readouterr().err


def test_a_path_that_the_locale_cannot_print_does_not_make_a_failure_of_a_push(make, udp, tmp_path):
    path = tmp_path / "\u00e9"
    made = MetricsBackend(path=path)
    made.counter("orders_total").inc(3)
    done = push(path, "--to", "statsd", "--option", f"port={udp.port}", PYTHONIOENCODING="ascii")
    made.close()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\\xe9\n")


def test_where_there_is_no_segment_it_says_so(tmp_path, capsys):
    assert main(["push", str(tmp_path / "none"), "--to", "statsd"]) == 2
    assert "no metrics segment" in capsys.readouterr().err
