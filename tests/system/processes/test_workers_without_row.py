"""A worker that gets its row late: what it counted meanwhile shows under its own labels, and a fork does no harm."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shm_metrics import Counter, Histogram, MetricsBackend
from shm_metrics.writer import writer
from tests.support.processes import Child, Link
from tests.support.waiting import until


@pytest.fixture(autouse=True)
def no_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Repairs happen when the test says so."""
    with monkeypatch.context() as patch:
        patch.setattr(writer.Writer, "_start_repairs", lambda self: None)
        yield


def get_row(backend: MetricsBackend) -> None:
    until(backend._writer.repair, "the worker has a row")
    assert backend.row is not None


def fill(backend: MetricsBackend) -> None:
    number = 0
    while not backend.counter("filler_total", n=str(number)).overflowed:
        number += 1


def shown(backend: MetricsBackend, name: str = "jobs_total") -> dict[str, float]:
    """The label `of`, or `overflow`, of each series -> its value or count."""
    family = backend.snapshot().family(name)
    assert family is not None
    values = family.values if family.values.ndim == 1 else family.values.sum(axis=1)
    return {pairs[0][1]: float(value) for pairs, value in zip(family.labels, values, strict=True)}


# -- slots that are reused meanwhile -----------------------------------------------------------------------------------


def count_without_row(link: Link, path: str) -> None:
    """Counts by handles that it keeps; each number that it hears is one more round. None: get a row and end."""
    backend = MetricsBackend(path=path, process_metrics=False)
    assert backend.row is None
    jobs = Counter("jobs", "", ["of"], registry=backend)
    seconds = Histogram("seconds", "", ["of"], buckets=[1.0], registry=backend)
    kept, timed, stays = jobs.labels("a"), seconds.labels("a"), jobs.labels("stays")
    link.say()
    while (times := link.hear()) is not None:
        for _ in range(times):
            kept.inc()
            timed.observe(0.5)
            stays.inc()
        link.say()
    get_row(backend)
    backend.close()


class Meeting:
    """One row, which `first` has; `late` waits for it."""

    def __init__(self, attach: Callable[..., MetricsBackend], fork: Callable[..., Child]) -> None:
        self.first = attach(rows=1, slots=1024)
        self.jobs = Counter("jobs", "", ["of"], registry=self.first)
        self.seconds = Histogram("seconds", "", ["of"], buckets=[1.0], registry=self.first)
        self.jobs.labels("a").inc(5)
        self.seconds.labels("a").observe(2.0)
        # The master sees it all to the end: it has no row, and keeps the segment.
        self.reader = MetricsBackend(path=self.first.place.path, read_only=True)
        self.late = fork(count_without_row, self.first.place.path)
        self.late.hear()

    def count(self, times: int) -> None:
        self.late.say(times)
        self.late.hear()

    def hand_over(self) -> None:
        """The first worker gives its row up, and the late one takes it."""
        self.first.close()
        self.late.say(None)
        assert self.late.result() is None

    def reuse(self) -> None:
        """What was removed goes to others: each of these takes the slots of an `a`."""
        assert not self.jobs.labels("b").overflowed
        assert not self.seconds.labels("b").overflowed
        self.jobs.labels("b").inc(2)
        self.seconds.labels("b").observe(0.5)


@pytest.fixture
def meeting(attach: Callable[..., MetricsBackend], fork: Callable[..., Child]) -> Iterator[Meeting]:
    meeting = Meeting(attach, fork)
    yield meeting
    meeting.reader.close()


def test_what_it_counted_shows_under_its_own_labels_though_the_slots_are_anothers(meeting: Meeting) -> None:
    meeting.count(1000)
    fill(meeting.first)
    meeting.jobs.remove("a")
    meeting.seconds.remove("a")
    meeting.reuse()
    meeting.count(3)
    meeting.hand_over()
    assert shown(meeting.reader) == {"b": 2.0, "stays": 1003.0, "true": 3.0}
    assert shown(meeting.reader, "seconds") == {"b": 1.0, "true": 3.0}


def test_a_series_that_it_counts_in_after_the_removal_keeps_its_slots(meeting: Meeting) -> None:
    meeting.count(1000)
    fill(meeting.first)
    meeting.jobs.remove("a")
    meeting.seconds.remove("a")
    meeting.count(7)
    assert meeting.jobs.labels("b").overflowed
    assert meeting.seconds.labels("b").overflowed
    meeting.hand_over()
    assert shown(meeting.reader) == {"a": 7.0, "stays": 1007.0}
    assert shown(meeting.reader, "seconds") == {"a": 7.0}


def test_it_gets_slots_of_its_own_again_where_there_are_some(meeting: Meeting) -> None:
    meeting.count(1000)
    fill(meeting.first)
    meeting.jobs.remove("a")
    meeting.seconds.remove("a")
    meeting.reuse()
    for name in ("0", "1"):
        Counter("filler", "", ["n"], registry=meeting.first).remove(name)
    meeting.count(3)
    meeting.hand_over()
    assert shown(meeting.reader)["a"] == 3.0
    assert shown(meeting.reader)["b"] == 2.0


def test_what_is_only_removed_counts_from_0_in_its_row(meeting: Meeting) -> None:
    meeting.count(1000)
    meeting.jobs.remove("a")
    meeting.count(3)
    meeting.hand_over()
    assert shown(meeting.reader) == {"a": 3.0, "stays": 1003.0}
    assert shown(meeting.reader, "seconds") == {"a": 1004.0}


def test_a_removal_that_it_did_not_notice_before_it_has_a_row_takes_what_was_counted(meeting: Meeting) -> None:
    meeting.count(1000)
    meeting.jobs.remove("a")
    meeting.hand_over()
    assert shown(meeting.reader) == {"stays": 1000.0}


# -- a fork while the row is taken -------------------------------------------------------------------------------------


def fork_and_count(backend: MetricsBackend, amount: float) -> None:
    """A child that counts, and its end."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            backend.counter("jobs_total", of="child").inc(amount)
            backend.counter("jobs_total", of="a").inc(amount)
            backend.snapshot()
            backend._writer.repair()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def adopting(backend: MetricsBackend, moment: str, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Have `act()` called once within the adoption of a row, at this moment of it."""
    pending = [act]

    def once() -> None:
        if pending:
            pending.pop()()

    if moment == "before the lease is noted":
        real = writer.cells.adopt

        def adopt(*args: Any) -> None:
            real(*args)
            once()

        monkeypatch.setattr(writer.cells, "adopt", adopt)
    else:
        table = writer.ExemplarTable

        def made(*args: Any) -> Any:
            once()
            return table(*args)

        monkeypatch.setattr(writer, "ExemplarTable", made)


@pytest.mark.parametrize("moment", ["before the lease is noted", "after the lease is noted"])
def test_a_fork_while_another_thread_takes_a_row_leaves_the_parents_row_intact(
    moment: str, attach: Callable[..., MetricsBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = attach(rows=2)
    first = keeper.another_worker()
    late = keeper.another_worker()
    late.counter("jobs_total", of="a").inc(1000)
    inside, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert go_on.wait(60)

    first.close()
    adopting(late, moment, monkeypatch, wait)
    thread = threading.Thread(target=late._writer.repair)
    thread.start()
    assert inside.wait(60)
    keeper.close()  # a row for the child
    fork_and_count(late, 5)
    go_on.set()
    thread.join()
    late.counter("jobs_total", of="a").inc()
    assert shown(late) == {"a": 1006.0, "child": 5.0}
    assert late._writer.lease is not None
    late.close()


@pytest.mark.parametrize("moment", ["before the lease is noted", "after the lease is noted"])
def test_a_fork_on_top_of_taking_a_row_leaves_the_parents_row_intact(
    moment: str, attach: Callable[..., MetricsBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a signal handler or __del__: the child returns into the call that its parent goes on with."""
    keeper = attach(rows=2)
    first = keeper.another_worker()
    late = keeper.another_worker()
    late.counter("jobs_total", of="a").inc(1000)
    pids: list[int] = []

    def fork() -> None:
        keeper.close()  # a row for the child
        pids.append(os.fork())

    first.close()
    adopting(late, moment, monkeypatch, fork)
    status = 1
    try:
        late._writer.repair()
        if pids == [0]:
            assert late.row == 1
            late.counter("jobs_total", of="a").inc(5)
            late.counter("jobs_total", of="child").inc(5)
            # Its row is its own as long as it lives: another worker gets another one.
            assert late._writer.lease is not None
            assert late._writer.lease.held
            status = 0
    finally:
        if pids == [0]:
            if status:
                import traceback

                traceback.print_exc()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0
    late.counter("jobs_total", of="a").inc()
    assert shown(late) == {"a": 1006.0, "child": 5.0}
    late.close()


def test_the_sum_of_a_removed_histogram_is_of_what_was_observed_since(attach: Callable[..., MetricsBackend]) -> None:
    """Private memory keeps a sum for each bucket beside the row; a removal takes both."""
    holder, backend = attach(rows=1), attach()
    first = Histogram("seconds", "", ["of"], buckets=[1, 5, 10], registry=holder)
    second = Histogram("seconds", "", ["of"], buckets=[1, 5, 10], registry=backend)
    first.labels("a")
    assert backend.row is None
    second.labels("a").observe(1000)
    first.remove("a")
    for amount in (8, 2):
        second.labels("a").observe(amount)
    holder.close()
    get_row(backend)
    family = backend.snapshot().family("seconds")
    assert family is not None
    assert family.sums is not None
    assert (family.values.tolist(), family.sums.tolist()) == ([[0.0, 1.0, 1.0, 0.0]], [10.0])
