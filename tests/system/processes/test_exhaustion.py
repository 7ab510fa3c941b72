"""No memory, no slots, no rows: the application goes on, what did not fit is counted, and the log says it once."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shm_metrics import MetricsBackend, SegmentFullError, generate_latest
from tests.support.processes import PATIENCE, Child, Link, run_well
from tests.support.waiting import until


class SmallDisk:
    """A tmpfs of so many KiB."""

    def __init__(self, directory: Path, kib: int) -> None:
        self.directory = directory
        self.ballast = directory / "ballast"
        self._mount("-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(directory))

    def _mount(self, *arguments: str) -> None:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            told = f"a tmpfs cannot be mounted here ({(done.stderr or done.stdout).strip()}); run the tests as root"
            if os.environ.get("CI") == "true":
                pytest.fail(told)
            pytest.skip(told)

    @property
    def segment(self) -> str:
        return str(self.directory / "segment")

    @property
    def free(self) -> int:
        status = os.statvfs(self.directory)
        return status.f_bavail * status.f_bsize

    def fill(self, leave: int = 0) -> None:
        """Take all of the room that is left but for `leave` bytes."""
        with self.ballast.open("ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), max(1, self.free - leave))

    def make_room(self) -> None:
        self.ballast.unlink()

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.directory)], check=False)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], SmallDisk]]:
    made: list[SmallDisk] = []

    def make(kib: int) -> SmallDisk:
        directory = tmp_path / f"disk{len(made)}"
        directory.mkdir()
        small = SmallDisk(directory, kib)
        made.append(small)
        return small

    yield make
    for small in made:
        small.unmount()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kib", [4, 8, 16, 32, 64, 96, 112, 128])
def test_a_segment_that_does_not_fit_on_its_file_system_is_refused_and_leaves_nothing(
    kib: int, disk: Callable[[int], SmallDisk], fork: Callable[..., Child]
) -> None:
    small = disk(kib)

    def attach_and_count(link: Link) -> str:
        try:
            backend = MetricsBackend(path=small.segment, rows=4, slots=512, process_metrics=False)
        except SegmentFullError as error:
            return str(error)
        backend.counter("x_total").inc()
        for n in range(100):
            backend.counter("y_total", n=str(n)).inc()
        assert backend.stats()["detached"] is False
        return "made"

    said = fork(attach_and_count).result()
    if said != "made":
        assert small.segment in said
        assert os.listdir(small.directory) == []


def test_an_application_on_a_full_file_system_counts_for_itself_and_says_so_once(
    disk: Callable[[int], SmallDisk],
) -> None:
    small = disk(16)
    small.fill()
    told = run_well(
        """
        import logging, sys
        logging.basicConfig(stream=sys.stdout, format="LOG %(message)s")
        from shm_metrics import Counter, Gauge, generate_latest
        ORDERS = Counter("orders", "Orders")
        DEPTH = Gauge("depth", "Depth", ["of"])
        ORDERS.inc(3)
        DEPTH.labels("queue").set(2)
        print(generate_latest().decode())
        """,
        SHM_METRICS_SEGMENT=small.segment,
    )
    assert "orders_total 3.0" in told
    assert 'depth{of="queue"} 2.0' in told
    assert "shm_metrics_detached 1" in told
    assert told.count("LOG") == 1


def make_series(link: Link, backend: MetricsBackend, n: int) -> None:
    """One update to each of n counters and histograms of its own, and to one counter that was there before."""
    before = backend.counter("before_total")
    for i in range(n):
        backend.counter("made_total", pid=str(os.getpid()), n=str(i)).inc()
        backend.histogram("made_seconds", pid=str(os.getpid()), n=str(i)).observe(1.0)
        before.inc()


@pytest.mark.parametrize("leave", [0, 1, 4, 40])
def test_when_the_file_system_fills_up_under_a_segment_new_series_overflow_and_old_ones_count_on(
    leave: int, disk: Callable[[int], SmallDisk], fork: Callable[..., Child], caplog: pytest.LogCaptureFixture
) -> None:
    small = disk(4096)
    backend = MetricsBackend(path=small.segment, rows=8, slots=65_536, process_metrics=False)
    try:
        backend.counter("before_total").inc(0)
        backend.counter("made_total", pid="0", n="0").inc(0)
        backend.histogram("made_seconds", pid="0", n="0")
        small.fill(leave=leave * 4096)
        n = 1_000
        make_series(None, backend, n)  # a SIGBUS would end the tests
        snapshot = backend.snapshot()
        assert snapshot.value("before_total") == n
        made, overflow = snapshot.family("made_total"), snapshot.value("made_total", overflow="true")
        assert made is not None
        figures = backend.stats()
        seconds = snapshot.family("made_seconds")
        assert seconds is not None
        assert float(made.values.sum() + seconds.values.sum()) <= 2 * n
        assert overflow is not None
        assert figures["overflowed_updates"] > 0
        # every update is in a series, in the overflow, or (nowhere else to go) only counted
        own = float(made.values.sum()) - overflow
        own_seconds = float(seconds.values.sum()) - (snapshot.value("made_seconds", overflow="true") or 0.0)
        assert own + own_seconds + figures["overflowed_updates"] == 2 * n
        assert len(warnings(caplog)) == 1
        assert "no room" in warnings(caplog)[0]
        # with room again, new series are made
        small.make_room()
        backend.counter("made_total", pid="0", n="after").inc()
        until(lambda: backend.snapshot().value("made_total", pid="0", n="after") == 1.0, seconds=PATIENCE / 3)
    finally:
        backend.unlink()


def test_a_worker_without_memory_for_its_row_counts_in_private_until_there_is_room(
    disk: Callable[[int], SmallDisk], fork: Callable[..., Child]
) -> None:
    small = disk(2048)
    backend = MetricsBackend(path=small.segment, rows=8, slots=65_536, process_metrics=False)

    def work(link: Link) -> list[str]:
        messages: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("shm_metrics").addHandler(handler)
        link.say(backend.row)
        for _ in range(1_000):
            backend.counter("worked_total").inc()
        backend.histogram("worked_seconds").observe(0.5)
        link.say("counted")
        link.hear()
        backend.counter("worked_total").inc()
        return messages

    try:
        backend.counter("worked_total").inc()
        backend.histogram("worked_seconds")
        small.fill()
        child = fork(work)
        assert child.hear() is None
        assert child.hear() == "counted"
        assert backend.stats()["workers_without_row"] == 1
        assert backend.snapshot().value("worked_total") == 1.0
        small.make_room()
        until(lambda: backend.snapshot().value("worked_total") == 1_001.0, seconds=PATIENCE / 3)
        assert backend.snapshot().value("worked_seconds") == 1.0
        assert backend.stats()["workers_without_row"] == 0
        child.say("end")
        child.result()
        assert backend.snapshot().value("worked_total") == 1_002.0
    finally:
        backend.unlink()


# -- slots -------------------------------------------------------------------------------------------------------------


def count_labels(link: Link, backend: MetricsBackend, n: int) -> list[str]:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("shm_metrics").addHandler(handler)
    link.say("ready")
    link.hear()
    for i in range(n):
        for _ in range(2):
            backend.counter("labelled_total", n=str(i)).inc(3)
            backend.gauge("level", multiprocess_mode="sum", n=str(i)).set(1.0)
    return messages


def test_when_slots_run_out_the_overflow_series_takes_the_updates_and_each_process_says_it_once(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach(slots=512)
    processes, n = 3, 400
    children = [fork(count_labels, backend, n) for _ in range(processes)]
    for child in children:
        assert child.hear() == "ready"
    for child in children:
        child.say("go")
    messages = [child.result() for child in children]
    snapshot = backend.snapshot()
    found = snapshot.family("labelled_total")
    assert found is not None
    assert found.values.sum() == processes * n * 2 * 3
    overflow = snapshot.value("labelled_total", overflow="true")
    assert overflow is not None
    assert 0.0 < overflow < processes * n * 2 * 3
    kept = len(found.labels) - 1
    assert overflow == processes * (n - kept) * 2 * 3
    gauges = snapshot.family("level")
    assert gauges is not None
    updates = processes * 2 * ((n - kept) + (n - (len(gauges.labels) - 1)))
    assert backend.stats()["overflowed_updates"] == updates
    assert f"\nshm_metrics_overflowed_updates_total {updates:.1f}\n" in generate_latest(backend).decode()
    for told in messages:
        assert len(told) == 1
        assert "slots" in told[0]


def test_metrics_that_were_there_before_the_slots_ran_out_count_on(attach: Callable[..., MetricsBackend]) -> None:
    backend = attach(slots=512)
    before = backend.counter("before_total")
    for n in range(1_000):
        backend.counter("many_total", n=str(n)).inc()
        before.inc()
    backend.histogram("late_seconds", of="a").observe(1.0)
    backend.histogram("late_seconds").observe(1.0)
    backend.gauge("late").set(2.0)
    assert backend.snapshot().value("before_total") == 1_000.0
    assert backend.snapshot().value("late") is None
    assert backend.stats()["overflowed_updates"] >= 3.0


# -- rows --------------------------------------------------------------------------------------------------------------


def count_slowly(link: Link, backend: MetricsBackend) -> list[str]:
    """Counts, and says so, whenever it is told."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("shm_metrics").addHandler(handler)
    link.say("ready")
    while link.hear() != "end":
        backend.counter("worked_total").inc()
        backend.histogram("worked_seconds", buckets=(1.0, 2.0)).observe(1.5)
        backend.gauge("shared").inc()
        link.say(backend.row)
    return messages


def test_workers_without_a_row_are_counted_and_their_counts_arrive_once_a_row_is_free(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shm_metrics.writer.writer.REPAIR_SECONDS", 0.05)
    backend = attach(rows=2)
    children = [fork(count_slowly, backend) for _ in range(5)]
    for child in children:
        assert child.hear() == "ready"
    for child in children:
        child.say("count")
    rows = [child.hear() for child in children]
    assert sorted(rows, key=lambda row: row or 0) == [None, None, None, None, 2]  # the other one is our own
    assert backend.stats()["workers_without_row"] == 4
    assert backend.stats()["live_workers"] == 2
    names = ("worked_total", "worked_seconds", "shared")
    total = 1.0
    assert [backend.snapshot().value(name) for name in names] == [total] * 3

    # Whoever has the row dies, again and again; one of the others takes it over, with all it has counted so far.
    for rounds in (1, 2, 3, 4):
        holder = rows.index(2)
        children.pop(holder).kill()
        total += rounds
        until(lambda total=total: backend.snapshot().value("worked_total") == total, seconds=PATIENCE / 3)
        assert [backend.snapshot().value(name) for name in names] == [total] * 3
        found = backend.snapshot().family("worked_seconds")
        assert found is not None
        assert found.sums is not None
        assert found.sums.tolist() == [1.5 * total]
        assert backend.stats()["workers_without_row"] == 4 - rounds
        for child in children:
            child.say("count")
        rows = [child.hear() for child in children]
        assert rows.count(2) == 1
        total += 1
        assert [backend.snapshot().value(name) for name in names] == [total] * 3
    (last,) = children
    last.say("end")
    assert last.result() == []  # it said that it has no row when it was forked, and nothing since


def test_a_worker_without_a_row_says_it_once(
    attach: Callable[..., MetricsBackend], caplog: pytest.LogCaptureFixture
) -> None:
    first = attach(rows=1)
    second = attach()
    for _ in range(100):
        second.counter("x_total").inc()
    for n in range(100):
        second.counter("y_total", n=str(n)).inc()
    assert len(warnings(caplog)) == 1
    assert "no free row" in warnings(caplog)[0]
    assert first.stats()["workers_without_row"] == 1
    first.close()
    # The row is this worker's before its counts have moved there.
    until(lambda: second.snapshot().value("x_total") == 100.0, seconds=PATIENCE / 3)
    until(lambda: second.snapshot().value("y_total", n="99") == 1.0, seconds=PATIENCE / 3)
    assert second.row == 1
