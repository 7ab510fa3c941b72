"""The plugin as users have it: in a test run of its own, with and without pytest-xdist."""

from __future__ import annotations

import glob
import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

# What of pytest nobody needs here takes longer to load than the tests take.
QUICKLY = [each for name in ("cacheprovider", "anyio", "hypothesispytest") for each in ("-p", f"no:{name}")]
APPLICATION = """
from shm_metrics import Counter, Gauge
ORDERS = Counter("orders", "Orders placed.", ["shop"])
PLAIN = Counter("plain", "Calls.")
def place_order(shop="a"):
    ORDERS.labels(shop).inc()
    PLAIN.inc()
"""

TESTS = """
import os, subprocess, sys
import pytest
from shm_metrics import get_backend, generate_latest
import application

@pytest.mark.parametrize("n", range(6))
def test_orders_begin_at_nothing(metrics_backend, n):
    assert metrics_backend.snapshot().value("orders", shop="a") is None
    assert metrics_backend.snapshot().value("plain") == 0
    application.place_order()
    assert metrics_backend.snapshot().value("orders", shop="a") == 1
    assert metrics_backend.snapshot().value("plain") == 1
    assert get_backend() is metrics_backend
    assert b'orders_total{shop="a"} 1.0' in generate_latest()

def test_a_child_process_joins(metrics_backend):
    application.place_order()
    subprocess.run([sys.executable, "-c", "import application; application.place_order()"], check=True)
    assert metrics_backend.snapshot().value("orders", shop="a") == 2

class TestOptions:
    @pytest.fixture
    def metrics_backend_options(self):
        return {"rows": 3, "slots": 512}

    def test_options_are_given(self, metrics_backend):
        assert metrics_backend.stats()["rows"] == 3

def test_the_run_has_a_segment_of_its_own():
    assert os.environ["SHM_METRICS_SEGMENT"].startswith("pytest-run-")
    application.place_order("b")
    assert get_backend().snapshot().value("orders", shop="b") >= 1
    assert os.environ["SHM_METRICS_SEGMENT"] in get_backend().place.path

def test_configure_in_a_test_is_undone(metrics_backend, request):
    from shm_metrics import configure
    name = os.environ["SHM_METRICS_SEGMENT"] + "x"
    configure(name)
    application.place_order("c")
    assert get_backend().snapshot().value("orders", shop="c") == 1
    request.addfinalizer(lambda: os.unlink(f"/dev/shm/shm_metrics-{os.geteuid()}-{name}"))
"""


@pytest.fixture
def run(tmp_path):
    """run(*arguments, **environment): a test run of the user's project; what it printed."""
    (tmp_path / "application.py").write_text(APPLICATION)
    (tmp_path / "test_orders.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    def run(*arguments, **environment):
        env = {**os.environ, **environment}
        # Where the tree is not installed, the plugin has to be named; given by its entry point it is loaded once.
        env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        env.pop("PYTEST_ADDOPTS", None)
        plugin = [] if installed() else ["-p", "shm_metrics.pytest_plugin"]
        command = [sys.executable, "-m", "pytest", "-q", *QUICKLY, "-W", "error", *plugin, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def installed() -> bool:
    return any(point.value == "shm_metrics.pytest_plugin" for point in entry_points(group="pytest11"))


@pytest.mark.slow
def test_tests_in_parallel_do_not_meet(run):
    assert "10 passed" in run("-n", "2")


def test_each_test_has_its_own_segment_and_nothing_is_left(run, tmp_path):
    asked = "\nimport pathlib\ndef test_pid():\n    pathlib.Path('pid').write_text(str(os.getpid()))\n"
    (tmp_path / "test_orders.py").write_text(TESTS + asked)
    assert "11 passed" in run()
    pid = (tmp_path / "pid").read_text()
    assert glob.glob(f"/dev/shm/*-pytest-run-{pid}-*") == []


def test_a_segment_that_the_user_named_is_used_and_left(run, segment_name, tmp_path):
    (tmp_path / "test_orders.py").write_text("import application\n\ndef test_one():\n    application.place_order()\n")
    run(SHM_METRICS_SEGMENT=segment_name)
    assert os.path.exists(f"/dev/shm/shm_metrics-{os.geteuid()}-{segment_name}")


def test_the_fixture_gives_our_own_tests_a_backend_too(metrics_backend):
    from shm_metrics import Counter, get_backend

    counter = Counter("of_this_test", "")
    counter.inc()
    assert get_backend() is metrics_backend
    assert metrics_backend.snapshot().value("of_this_test") == 1.0
    assert os.environ["SHM_METRICS_SEGMENT"] in metrics_backend.place.path


def test_loading_the_plugin_loads_neither_numpy_nor_the_engine(python):
    code = (
        "import sys, shm_metrics.pytest_plugin\n"
        "print(*sorted(name for name in sys.modules if name.startswith(('numpy', 'shm_metrics'))))"
    )
    assert python(code).split() == ["shm_metrics", "shm_metrics.pytest_plugin"]
