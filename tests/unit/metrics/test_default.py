"""The default backend, and the declared metrics that follow it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os

import pytest

from shm_metrics import Counter, Enum, Gauge, Histogram, Info, Summary, configure, default, get_backend
from shm_metrics.backend import MetricsBackend
from shm_metrics.default import use_backend
from shm_metrics.errors import InvalidMetricError, SegmentError
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.location import locate_segment
from tests.support.segments import shown


@pytest.fixture
def names(segment_name):
    """Two more names, of segments that are removed afterwards."""
    told = [f"{segment_name}-a", f"{segment_name}-b"]
    yield told
    for name in told:
        locate_segment(name).unlink()


@pytest.fixture
def nothing_yet(monkeypatch, segment_name):
    """No default backend, as in a new process; and where the first one will be."""
    monkeypatch.setenv("SHM_METRICS_SEGMENT", segment_name)
    monkeypatch.setattr(default, "_default", None)
    yield
    if default._default is not None:
        default._default.close()


def test_nothing_is_made_before_somebody_asks(nothing_yet):
    assert default.current_backend() is None
    backend = get_backend()
    assert default.current_backend() is backend is get_backend()


def test_the_environment_names_the_segment(nothing_yet, segment_name, monkeypatch, tmp_path):
    assert get_backend().place.path.endswith(f"-{segment_name}")
    monkeypatch.setenv("SHM_METRICS_SEGMENT", str(tmp_path / "segment"))
    assert locate_segment().path == str(tmp_path / "segment")
    monkeypatch.delenv("SHM_METRICS_SEGMENT")
    assert locate_segment().path.endswith("-default")


def test_a_place_is_given_once():
    with pytest.raises(InvalidMetricError, match="give one of them"):
        locate_segment("name", "/a/path")


def test_a_metric_declared_before_configure_counts_where_configure_says(nothing_yet, names):
    counter = Counter("jobs", "Jobs.", ["shop"])
    held = counter.labels("a")
    backend = configure(names[0])
    assert get_backend() is backend
    counter.labels("a").inc()
    held.inc(2)
    assert shown(backend, "jobs") == {(("shop", "a"),): 3.0}


def test_what_was_counted_before_configure_goes_along_if_nobody_else_used_the_segment(nothing_yet, names):
    counter, labelled = Counter("jobs", ""), Counter("visits", "", ["shop"])
    gauge, histogram, summary = Gauge("depth", ""), Histogram("seconds", "", buckets=[1]), Summary("bytes", "")
    info, enum = Info("build", ""), Enum("light", "", states=["red", "green"])
    counter.inc(3)
    labelled.labels("a").inc(4)
    gauge.set(10)
    gauge.inc(5)
    for value in (0.5, 2, 3):
        histogram.observe(value)
    summary.observe(7)
    info.info({"version": "1"})
    enum.state("green")
    first = get_backend()
    second = configure(names[0])
    snapshot = second.snapshot()
    assert snapshot.value("jobs") == counter.value == 3.0
    assert snapshot.value("visits", shop="a") == labelled.labels("a").value == 4.0
    assert snapshot.value("depth") == gauge.value == 15.0
    assert snapshot.family("seconds").values.tolist() == [[1, 2]]
    assert snapshot.family("seconds").sums.tolist() == [5.5]
    assert (summary.count, summary.sum) == (1.0, 7.0)
    assert snapshot.value("build", version="1") == 1.0
    assert enum.value == "green"
    assert not place_exists(first), "nobody is left who would want it"
    counter.inc()
    histogram.observe(0.25)
    assert second.snapshot().value("jobs") == 4.0
    assert second.snapshot().family("seconds").sums.tolist() == [5.75]


def place_exists(backend):
    return os.path.exists(backend.place.path)


def test_what_was_counted_stays_where_others_count_too(nothing_yet, names, segment_name):
    counter = Counter("jobs", "")
    counter.inc(3)
    neighbour = MetricsBackend(segment_name)
    second = configure(names[0])
    counter.inc(1)
    assert shown(neighbour, "jobs") == {(): 3.0}
    assert shown(second, "jobs") == {(): 1.0}
    neighbour.close()


def test_configuring_the_same_segment_again_loses_nothing(nothing_yet, names):
    counter = Counter("jobs", "", ["shop"])
    configure(names[0])
    counter.labels("a").inc(3)
    backend = configure(names[0])
    counter.labels("a").inc()
    assert shown(backend, "jobs") == {(("shop", "a"),): 4.0}


def test_configuring_after_the_default_was_closed_or_removed_goes_on(nothing_yet, names):
    counter = Counter("jobs", "")
    configure(names[0]).close()
    counter.inc()
    configure(names[1]).unlink()
    counter.inc()
    backend = configure(names[0])
    counter.inc()
    assert shown(backend, "jobs") == {(): 1.0}


def test_a_segment_that_cannot_be_had_leaves_everything_as_it_was(nothing_yet, tmp_path):
    counter = Counter("jobs", "")
    before = get_backend()
    with pytest.raises(SegmentError):
        configure(path=tmp_path / "no" / "such" / "directory")
    assert get_backend() is before
    counter.inc()
    assert shown(before, "jobs") == {(): 1.0}


def test_without_a_segment_the_process_counts_for_itself_and_says_so(nothing_yet, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", str(tmp_path / "no" / "such" / "directory"))
    with caplog.at_level(logging.ERROR, "shm_metrics"):
        counter = Counter("jobs", "")
    counter.inc(2)
    assert "this process counts for itself" in caplog.text
    assert shown(get_backend(), "jobs") == {(): 2.0}
    assert get_backend().stats()["detached"] is True


def test_a_variable_that_names_no_segment_is_named_and_the_process_counts_for_itself(nothing_yet, monkeypatch, caplog):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", "the shop")
    counter = Counter("jobs", "")
    counter.inc(2)
    assert "SHM_METRICS_SEGMENT: segment name 'the shop': use letters" in caplog.text
    assert shown(get_backend(), "jobs") == {(): 2.0}
    assert get_backend().stats()["detached"] is True


LIMITED = """
import resource, sys
limit = getattr(resource, sys.argv[1])
resource.setrlimit(limit, (300 << 20, resource.getrlimit(limit)[1]))
from shm_metrics import Counter, generate_latest
counter = Counter("jobs", "", ["a"])
counter.labels("x").inc(2)
print([line for line in generate_latest().decode().splitlines() if line.startswith(("jobs", "shm_metrics_detached "))])
"""


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_FSIZE"])
def test_where_a_segment_is_larger_than_a_process_may_have_the_application_counts_for_itself(
    python, segment_name, limit
):
    # numpy would take address space for each processor of the machine
    told = python(LIMITED, limit, SHM_METRICS_SEGMENT=segment_name, OPENBLAS_NUM_THREADS="1")
    assert told == "['jobs_total{a=\"x\"} 2.0', 'shm_metrics_detached 1.0']\n"


def test_a_detached_process_takes_its_counts_along_when_it_gets_a_segment(nothing_yet, monkeypatch, tmp_path, names):
    monkeypatch.setenv("SHM_METRICS_SEGMENT", str(tmp_path / "no" / "such" / "directory"))
    counter = Counter("jobs", "")
    counter.inc(2)
    backend = configure(names[0])
    assert shown(backend, "jobs") == {(): 2.0}
    assert backend.stats()["detached"] is False


def test_a_metric_with_a_backend_of_its_own_does_not_follow(nothing_yet, names, make_backend):
    own = make_backend(names[1])
    counter = Counter("jobs", "", registry=own)
    backend = configure(names[0])
    counter.inc()
    assert shown(own, "jobs") == {(): 1.0}
    assert shown(backend, "jobs") == {}


def test_a_metric_that_nobody_holds_any_more_is_forgotten(nothing_yet, names):
    Counter("gone", "")
    kept = Counter("kept", "")
    backend = configure(names[0])
    assert [family.family.name for family in backend.snapshot()] == [kept.name]


# -- use_backend: for tests --------------------------------------------------------------------------------------------


def test_declared_metrics_count_in_the_backend_in_use_and_come_back(nothing_yet, names, make_backend):
    counter, plain = Counter("jobs", "", ["shop"]), Counter("plain", "")
    outer = get_backend()
    counter.labels("a").inc(5)
    plain.inc(5)
    inner = make_backend(names[0])
    assert use_backend(inner) is outer
    assert get_backend() is inner
    counter.labels("b").inc()
    plain.inc()
    assert shown(inner, "jobs") == {(("shop", "b"),): 1.0}
    assert shown(inner, "plain") == {(): 1.0}
    assert use_backend(outer) is inner
    counter.labels("a").inc()
    plain.inc()
    assert shown(outer, "jobs") == {(("shop", "a"),): 6.0}, "nothing of what went on meanwhile"
    assert shown(outer, "plain") == {(): 6.0}


def test_a_series_that_somebody_holds_goes_along_and_comes_back(nothing_yet, names, make_backend):
    counter = Counter("jobs", "", ["shop"])
    held = counter.labels("a")
    held.inc(5)
    outer, inner = get_backend(), make_backend(names[0])
    use_backend(inner)
    held.inc()
    assert counter.labels("a") is held
    use_backend(outer)
    held.inc()
    assert shown(inner, "jobs") == {(("shop", "a"),): 1.0}
    assert shown(outer, "jobs") == {(("shop", "a"),): 6.0}
    assert counter.labels("a") is held


def test_a_series_of_the_backend_itself_stays_with_it(nothing_yet, names, make_backend):
    outer, inner = get_backend(), make_backend(names[0])
    counter = Counter("jobs", "", ["shop"])
    counter.labels("a").inc()
    use_backend(inner)
    outer.counter("jobs", shop="a").inc()
    counter.labels("a").inc(10)
    assert shown(outer, "jobs") == {(("shop", "a"),): 2.0}
    assert shown(inner, "jobs") == {(("shop", "a"),): 10.0}
    use_backend(outer)


def test_gauge_functions_go_along(nothing_yet, names, make_backend):
    plain, labelled = Gauge("plain", ""), Gauge("depth", "", ["queue"])
    plain.set_function(lambda: 7)
    labelled.labels("q").set_function(lambda: 8)
    outer, inner = get_backend(), make_backend(names[0])
    for backend in (inner, outer):
        use_backend(backend)
        backend.collect()
        assert shown(backend, "plain") == {(): 7.0}
        assert shown(backend, "depth") == {(("queue", "q"),): 8.0}


def test_with_no_backend_in_use_the_next_to_ask_makes_one_and_metrics_follow(nothing_yet, names, monkeypatch):
    counter = Counter("jobs", "")
    before = get_backend()
    monkeypatch.setenv("SHM_METRICS_SEGMENT", names[0])
    assert use_backend(None) is before
    counter.inc()
    assert shown(before, "jobs") == {(): 0.0}
    assert shown(get_backend(), "jobs") == {(): 1.0}
    before.close()


def test_a_metric_that_cannot_go_along_stays_where_it_was(nothing_yet, names, make_backend, caplog):
    """Two tests, each with its own backend, declare one name in two ways, and somebody keeps the first one alive."""
    inner, outer = make_backend(names[0]), get_backend()
    use_backend(inner)
    first, also = Counter("jobs", ""), Counter("visits", "")
    use_backend(outer)
    first.inc()
    third = make_backend(names[1])
    third.gauge("jobs").set(5)
    with caplog.at_level(logging.WARNING, "shm_metrics"):
        use_backend(third)
    first.inc()
    also.inc()
    assert shown(outer, "jobs") == {(): 2.0}
    assert shown(third, "jobs") == {(): 5.0}
    assert shown(third, "visits") == {(): 1.0}
    assert "goes on counting where it did" in caplog.text


def test_a_file_system_without_locks_is_told_and_the_process_counts_for_itself(
    nothing_yet, monkeypatch, tmp_path, caplog
):
    """As network file systems may be; the kernel's answer is the only thing that is made up here."""
    real = fcntl.fcntl

    def fcntl_of_another_file_system(fd, command, *rest):
        if command == fcntl.F_OFD_SETLK and os.readlink(f"/proc/self/fd/{fd}") == str(tmp_path / "segment"):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        return real(fd, command, *rest)

    monkeypatch.setattr(fcntl, "fcntl", fcntl_of_another_file_system)
    monkeypatch.setenv("SHM_METRICS_SEGMENT", str(tmp_path / "segment"))
    counter = Counter("jobs", "")
    counter.inc(2)
    assert "cannot be locked (No locks available)" in caplog.text
    assert shown(get_backend(), "jobs") == {(): 2.0}
    assert get_backend().stats()["detached"] is True


# -- little address space ----------------------------------------------------------------------------------------------

_LIMITED = """
import logging, os, resource, sys
logging.basicConfig(format="%(message)s", stream=sys.stdout)
megabytes = int(sys.argv[1])
_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, hard))
from shm_metrics import Counter, Histogram, get_backend
Counter("orders", "", ["shop"]).labels("a").inc(3)
Histogram("seconds", "").observe(0.5)
files = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
print("files", sum("shm_metrics" in file for file in files))
pid = os.fork()
if not pid:
    Counter("orders", "", ["shop"]).labels("a").inc(4)
    os._exit(0 if get_backend().row else 1)
assert os.waitpid(pid, 0)[1] == 0
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))  # for numpy, which a scrape loads
shown = get_backend().snapshot()
print("counted", shown.value("orders", shop="a"), shown.family("seconds").sums[0])
print("detached", get_backend().stats()["detached"])
"""


@pytest.mark.parametrize(("megabytes", "slots"), [(48, 8_192), (250, 16_384)])
def test_an_application_with_little_address_space_counts_in_a_smaller_segment_and_says_so(
    python, segment_name, megabytes, slots
):
    told = python(_LIMITED, str(megabytes), SHM_METRICS_SEGMENT=segment_name)
    assert "counted 7.0 0.5" in told
    assert "detached True" in told
    assert "files 1" in told, "that of the locks; a mapping has none, and those that could not be mapped are closed"
    assert told.count("this process counts for itself until configure() finds a segment") == 1
    assert told.count(f"there is room for {slots} numbers of") == 1
    assert f"{segment_name}: {Layout().total} bytes of address space" in told
