"""What all tests share: the build under test, private segments, and several workers in one process.

Two Writers on one segment stand for two workers: each has its own descriptors, locks and row, as two processes have.

The suite tests one build of the cells at a time: the compiled one, or with SHM_METRICS_INTERPRETED=1 the interpreted
one. Where the compiled one is missing a run fails at once, unless that variable says that the interpreted one is meant.
"""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from shm_metrics import pytest_plugin

# For a run that comes after one on the other build, as `make test` has it: the variety was that one's task.
settings.register_profile("again", max_examples=25)

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a run in the background; what the tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

INTERPRETED = os.environ.get("SHM_METRICS_INTERPRETED", "") not in ("", "0")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # An installed package brings its plugin along; a tree that is only on the path does not.
    if not config.pluginmanager.is_registered(pytest_plugin):
        config.pluginmanager.register(pytest_plugin, "shm_metrics")
    from shm_metrics.native.implementation import COMPILED

    if not COMPILED and not INTERPRETED:
        raise pytest.UsageError(
            "the cells are not compiled, so this run would not test them: install the package with a C compiler at "
            "hand, or say SHM_METRICS_INTERPRETED=1 to test the interpreted cells"
        )

    if config.option.markexpr == "torture":  # one seed for all processes that test, to be printed at the start
        os.environ.setdefault("SHM_METRICS_TORTURE_SEED", str(secrets.randbelow(1 << 31)))


def pytest_report_header(config: pytest.Config) -> list[str]:
    from shm_metrics.native.implementation import COMPILED, cells

    lines = [f"shm_metrics: {'compiled' if COMPILED else 'interpreted'} cells, {os.path.basename(cells.__file__)}"]
    if config.option.markexpr == "torture":
        seconds = os.environ.get("SHM_METRICS_TORTURE_SECONDS", "20")
        seed = os.environ["SHM_METRICS_TORTURE_SEED"]
        lines.append(f"campaigns: SHM_METRICS_TORTURE_SEED={seed} SHM_METRICS_TORTURE_SECONDS={seconds}")
    return lines


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What the campaigns counted, also of those that passed."""
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, ())]
    counted = [text for each in reports for name, text in each.user_properties if name == "counted"]
    if counted:
        terminalreporter.section("counted")
        for text in counted:
            terminalreporter.line(text)


_numbers = itertools.count()


def _unique(what: str) -> str:
    return f"test-{os.getpid()}-{secrets.token_hex(4)}-{what}-{next(_numbers)}"


@pytest.fixture
def segment_name() -> Iterator[str]:
    """The name of a segment that is not there yet, and that nobody else uses; removed afterwards."""
    from shm_metrics.segment.location import SegmentLocation

    name = _unique("segment")
    yield name
    place = SegmentLocation.named(name, os.geteuid())
    place.unlink()
    for beside in Path(place.path).parent.glob(f"{Path(place.path).name}.*"):  # of a sync without a cache
        beside.unlink(missing_ok=True)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that other users can look into, as pytest's own cannot be."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.fixture
def place(segment_name: str) -> Any:
    """The place of a segment that is not there yet; removed afterwards."""
    from shm_metrics.segment.location import SegmentLocation

    return SegmentLocation.named(segment_name, os.geteuid())


@pytest.fixture
def make_backend(segment_name: str) -> Iterator[Callable[..., Any]]:
    """make_backend(**options): a MetricsBackend; each call is one more worker on the test's segment, or on `name`."""
    from shm_metrics import MetricsBackend

    made = []

    def make(name: str = segment_name, **options: Any) -> MetricsBackend:
        if "path" in options:
            made.append(MetricsBackend(**options))
        else:
            made.append(MetricsBackend(name, **options))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def make_writer(place: Any) -> Iterator[Callable[..., Any]]:
    """make_writer(**options): a Writer; each call is one more worker on the segment, of 8 rows and 2,048 slots."""
    from shm_metrics.segment.layout import Layout
    from shm_metrics.writer.writer import Writer

    made = []

    def make(rows: int = 8, slots: int = 2048, **options: Any) -> Writer:
        made.append(Writer(place, Layout(rows, slots), **options))
        return made[-1]

    yield make
    for writer in made:
        writer.close()


@pytest.fixture
def python() -> Callable[..., str]:
    """python(code, *arguments, **environment): what a new interpreter prints, by default on the same build."""

    def run(code: str, *arguments: str, **environment: str | None) -> str:
        told = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
        env = {name: value for name, value in told.items() if value is not None}
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
