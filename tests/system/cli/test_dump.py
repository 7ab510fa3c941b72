"""`dump`: one look at a segment."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from shm_metrics import __version__
from shm_metrics.cli import main
from shm_metrics.native.implementation import COMPILED


@pytest.fixture
def dump(capfd):
    """dump(*arguments) -> (exit status, standard output, standard error)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main(["dump", *arguments])
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def counted(make_backend):
    """A worker that lives and has counted 3 jobs."""
    backend = make_backend()
    backend.counter("jobs_total", "Jobs done.", queue="a").increment(3)
    return backend


def value(families, name: str) -> float:
    return next(sample.value for family in families for sample in family.samples if sample.name == name)


def test_it_prints_what_a_scrape_would_show(dump, counted, segment_name):
    status, text, errors = dump(segment_name)
    assert (status, errors) == (0, "")
    families = list(parse_text(text))
    assert value(families, "jobs_total") == 3
    assert value(families, "shm_metrics_workers") == 1
    assert value(families, "process_resident_memory_bytes") > 0


@pytest.mark.parametrize(
    ("format", "parse"),
    [
        ("text", lambda text: value(parse_text(text), "jobs_total")),
        ("openmetrics", lambda text: value(parse_openmetrics(text), "jobs_total")),
        (
            "json",
            lambda text: next(
                family["series"][0]["value"] for family in json.loads(text)["families"] if family["name"] == "jobs"
            ),
        ),
        ("csv", lambda text: float(next(line for line in text.splitlines() if line.startswith("jobs,")).split(",")[5])),
    ],
)
def test_it_prints_each_format(dump, counted, segment_name, format, parse):
    status, text, _ = dump(segment_name, "--format", format)
    assert (status, parse(text), text[-1]) == (0, 3, "\n")


def test_a_name_with_a_slash_is_a_path(dump, make_backend, tmp_path):
    backend = make_backend(path=tmp_path / "segment")
    backend.counter("jobs_total").increment()
    status, text, _ = dump(str(tmp_path / "segment"))
    assert (status, "jobs_total 1.0" in text) == (0, True)


def test_without_a_name_it_is_the_segment_that_the_variable_names(dump, counted, segment_name, monkeypatch):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", segment_name)
    status, text, _ = dump()
    assert (status, 'jobs_total{queue="a"} 3.0' in text) == (0, True)


def test_process_metrics_can_be_left_out_or_had_for_each_worker(dump, counted, segment_name):
    assert "process_" not in dump(segment_name, "--no-process-metrics")[1]
    assert "shm_metrics_worker_threads{" not in dump(segment_name)[1]
    assert f'pid="{os.getpid()}"' in dump(segment_name, "--per-worker")[1]


def test_the_metrics_of_an_application_that_ended_can_still_be_read(dump, counted, segment_name):
    counted.close()
    status, text, _ = dump(segment_name)
    assert (status, 'jobs_total{queue="a"} 3.0' in text, "shm_metrics_workers 0.0" in text) == (0, True, True)


def test_a_look_keeps_nothing_alive_and_takes_no_row(dump, counted, segment_name, make_backend):
    counted.close()
    assert dump(segment_name)[0] == 0
    assert make_backend().counter("jobs_total", queue="a").value == 0


def test_a_segment_that_is_not_there_is_status_2_and_says_which_are(dump, counted, segment_name):
    status, text, errors = dump("no-such-segment")
    assert (status, text) == (2, "")
    assert errors.startswith(
        f"shm_metrics: no metrics segment at /dev/shm/shm_metrics-{os.geteuid()}-no-such-segment: "
    )
    assert "There are (shm_metrics-UID-NAME): /dev/shm/shm_metrics-" in errors


def test_a_path_that_is_not_there_is_status_2(dump, tmp_path):
    status, text, errors = dump(str(tmp_path / "nothing"))
    assert (status, text) == (2, "")
    assert f"no metrics segment at {tmp_path / 'nothing'}" in errors


def test_a_name_that_cannot_be_one_is_status_2(dump):
    status, text, errors = dump("not a name")
    assert (status, text) == (2, "")
    assert errors.startswith("shm_metrics: segment name 'not a name': use letters")


def test_a_file_that_is_no_segment_is_status_1(dump, tmp_path):
    (tmp_path / "letter").write_text("Dear reader,\n" * 1000)
    status, text, errors = dump(str(tmp_path / "letter"))
    assert (status, text) == (1, "")
    assert "not a shm_metrics segment" in errors


@pytest.mark.parametrize("arguments", [[], ["sing"], ["dump", "name", "--format", "xml"]])
def test_a_command_line_that_makes_no_sense_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: shm-metrics" in capsys.readouterr().err


def test_a_name_of_the_variable_that_cannot_be_one_names_the_variable(dump, monkeypatch):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", "a b")
    assert dump()[2].startswith("shm_metrics: SHM_METRICS_SEGMENT: segment name 'a b': use letters")


def test_the_version_says_which_cells_there_are(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"shm_metrics {__version__}, {'compiled' if COMPILED else 'interpreted'} cells, ")


def test_ctrl_c_is_status_130_and_no_traceback(monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("shm_metrics.cli.dump.run", interrupted)
    assert main(["dump"]) == 130


def test_a_closed_standard_output_is_status_1_and_one_line(counted, segment_name):
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m shm_metrics dump "$1" >&-', sys.executable, segment_name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "shm_metrics: standard output is closed\n")


def test_a_reader_that_has_enough_is_no_traceback(make_backend, segment_name):
    backend = make_backend()
    for number in range(5000):
        backend.counter("jobs_total", number=number).increment()
    with subprocess.Popen(
        [sys.executable, "-m", "shm_metrics", "dump", segment_name],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline().startswith(b"# HELP")
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
