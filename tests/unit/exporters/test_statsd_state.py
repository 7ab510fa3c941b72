"""The file that says what was sent: whose it is, what stays in it, and what is said when it cannot be written."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket

import pytest

from shm_metrics import ExportError, MetricsBackend, Sample, SampleFamily
from shm_metrics.exporters import PushSchedule, exporter
from tests.support.processes import Child
from tests.support.receivers import Datagrams

NOBODY = 65534


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def kept(path):
    """The names of the totals in a state file."""
    return set(json.loads(path.read_text())["totals"])


# -- whose it is -------------------------------------------------------------------------------------------------------


def test_two_segments_do_not_share_a_file_that_they_were_both_told(make, udp, state, tmp_path):
    mine, other = make(), make(path=tmp_path / "other")
    for backend in (mine, other):
        backend.counter("orders_total").inc(3)
    to = exporter("statsd", state=state, names="orders", **udp.options)
    to.export(mine)
    with pytest.raises(ExportError, match=r"sent of .*/segment, and this is .*/other: give each segment a state file"):
        to.export(other)
    mine.counter("orders_total").inc(2)
    to.export(mine)
    udp.receive()
    assert udp.deltas == [3, 2]


def test_the_next_life_of_a_segment_goes_on_in_its_file(make, udp, state):
    to = exporter("statsd", state=state, names="orders", **udp.options)
    for amount in (3, 5):
        backend = make()
        backend.counter("orders_total").inc(amount)
        to.export(backend)
        backend.unlink()
    udp.receive()
    assert udp.deltas == [3, 5]


@pytest.fixture
def as_nobody(make, udp, tmp_path):
    """as_nobody(work): what `work` gives as another user than root, in a child."""
    if os.geteuid() != 0:
        told = "giving a file to another user takes root"
        pytest.fail(told) if os.environ.get("CI") == "true" else pytest.skip(told)
    # Loads what a push needs: another user may not be able to read it.
    PushSchedule(make(path=tmp_path / "loading"), exporter("statsd", **udp.options)).push_now()
    udp.receive()
    udp.counters.clear()

    def run(work):
        def act(link):
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            return work()

        return Child(act, ()).result()

    return run


def test_a_file_of_roots_is_told_apart_with_whose_it_is_and_logged_once(open_directory, as_nobody, udp, caplog):
    def push():
        backend = MetricsBackend(path=open_directory / "segment", process_metrics=False)
        backend.counter("orders_total").inc()
        schedule = PushSchedule(backend, exporter("statsd", state=open_directory / "state", **udp.options))
        for _ in range(3):
            with contextlib.suppress(ExportError):
                schedule.push_now()
        return schedule.failed, schedule.last_error, [record.getMessage() for record in caplog.records]

    open_directory.chmod(0o777)
    (open_directory / "state.lock").touch(0o600)
    failed, error, logged = as_nobody(push)
    assert failed == 3
    assert "state.lock belongs to uid 0, with mode 600, and this process runs as uid 65534: let one user push" in error
    assert len(logged) == 1
    assert udp.receive() == []


def test_a_push_of_roots_leaves_the_files_to_the_segments_owner(open_directory, as_nobody, udp):
    """In a sticky directory, as /dev/shm is: root makes the files there, or finds those of the workers."""
    os.chown(open_directory, 0, 0)
    open_directory.chmod(0o1777)
    path = open_directory / "segment"

    def push():
        backend = MetricsBackend(path=path, process_metrics=False)
        backend.counter("orders_total").inc()
        try:
            backend.export_as("statsd", names="orders", **udp.options)
        except ExportError as error:
            return str(error)
        return os.getuid()

    assert as_nobody(lambda: MetricsBackend(path=path).row) is not None
    backend = MetricsBackend(path=path, read_only=True, process_metrics=False)
    for by_root in (True, False, True, False):
        if by_root:
            backend.export_as("statsd", names="orders", **udp.options)
        else:
            assert as_nobody(push) == NOBODY
        files = [each for each in open_directory.iterdir() if each != path]
        assert len(files) == 2
        assert {each.stat().st_uid for each in files} == {NOBODY}
    backend.close()


# -- what stays in it --------------------------------------------------------------------------------------------------


def test_series_that_are_gone_go_from_the_file_and_begin_anew_when_they_come_back(backend, udp, state):
    to = exporter("statsd", state=state, names=["orders", "depth"], **udp.options)
    for number in range(20):
        orders = backend.counter("orders_total", shop=f"shop-{number}")
        orders.inc(5)
        to.export(backend)
        orders._handle.remove((("shop", f"shop-{number}"),))
    backend.counter("orders_total", shop="shop-0").inc(7)
    to.export(backend)
    assert kept(state) == {"orders_total:|#shop:shop-0"}
    udp.receive()
    assert udp.counters["orders_total#shop:shop-0"] == 12
    assert sum(udp.deltas) == 20 * 5 + 7


def test_what_another_exporter_sends_stays_in_the_file_that_they_share(backend, udp, state):
    """Their names differ, and their receiver does not: it is the default that they have one file."""
    for name in ("a_total", "b_total"):
        backend.counter(name).inc()
    for names in ("a", "b", "a", "b"):
        exporter("statsd", state=state, names=names, **udp.options).export(backend)
    assert kept(state) == {"a_total:", "b_total:"}
    udp.receive()
    assert udp.deltas == [1, 1]


def test_a_series_that_is_hidden_for_a_while_is_not_sent_twice(make, udp, state):
    """By a worker that has other buckets; and what is removed meanwhile waits until all is seen again."""
    to = exporter("statsd", state=state, names="seconds", **udp.options)
    older, newer = make(), make()
    older.histogram("seconds", buckets=[1]).observe(0.5)
    to.export(older)
    before = kept(state)
    newer.histogram("seconds", buckets=[2]).observe(0.5)
    to.export(older)
    assert before <= kept(state)


def test_what_a_collector_leaves_out_for_a_while_is_not_sent_twice(backend, udp, state):
    to = exporter("statsd", state=state, names="seen", **udp.options)
    samples = [Sample("seen_total", {}, 5.0), Sample("seen_created", {}, 1.0)]

    def collector():
        return [SampleFamily("seen", "", "counter", samples)]

    backend.counter("seen_too_total").inc()
    for there in (True, False, True):
        if there:
            backend.register_collector(collector)
        else:
            backend.unregister_collector(collector)
        to.export(backend)
    udp.receive()
    assert udp.deltas == [5]


def test_a_writer_that_is_killed_leaves_nothing_behind_that_stays(backend, udp, state, fork, tmp_path):
    to = exporter("statsd", state=state, names="orders", **udp.options)
    backend.counter("orders_total").inc(3)

    def push(link):
        os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        to.export(backend)

    for _ in range(3):
        child = fork(push)
        assert child.wait() == -signal.SIGKILL
    to.export(backend)
    assert udp.receive() == ["orders_total:3|c"]
    assert {each.name for each in tmp_path.iterdir()} == {"segment", "state", "state.lock"}


# -- what is said ------------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_written_is_an_error_before_anything_is_sent(backend, udp, state, tmp_path):
    (tmp_path / "state.new").mkdir()
    backend.counter("orders_total").inc(3)
    with pytest.raises(ExportError, match=r"state: cannot be written: Is a directory; nothing was sent$"):
        backend.export_as("statsd", state=state, **udp.options)
    assert udp.receive() == []


def test_what_was_sent_and_could_not_be_taken_back_is_told_as_it_is(backend, tmp_path, monkeypatch):
    """The receiver takes one datagram and no more, and then the file cannot be written."""
    directory = tmp_path / "kept"
    directory.mkdir()
    made = Datagrams(tmp_path / "statsd.sock")
    for shop in range(20):
        backend.counter("orders_total", shop=f"shop-{shop}").inc()

    class Socket(socket.socket):
        def send(self, data, *rest):
            if not directory.exists():
                raise TimeoutError
            shutil.rmtree(directory)
            return super().send(data, *rest)

    monkeypatch.setattr("shm_metrics.exporters.statsd.socket.socket", Socket)
    told = r"time-out; 1 of \d+ datagrams were sent, and what the others held is lost: .*state: cannot be written"
    with pytest.raises(ExportError, match=told) as caught:
        backend.export_as("statsd", packet_bytes=64, state=directory / "state", names="orders", **made.options)
    assert "nothing was sent" not in str(caught.value)
    assert 0 < len(made.receive()) < 20
    made.close()


def test_a_collector_that_gives_nonsense_does_not_stop_the_others(backend, udp):
    backend.register_collector(lambda: [SampleFamily("odd", "", "gauge", [Sample("odd", {}, "many")])])
    backend.counter("orders_total").inc(3)
    for _ in range(2):
        with pytest.raises(ExportError, match=r"odd: it is not understood: .*'many'.*; the others were sent"):
            backend.export_as("statsd", names=["orders", "odd"], **udp.options)
    assert udp.receive() == ["orders_total:3|c"]
