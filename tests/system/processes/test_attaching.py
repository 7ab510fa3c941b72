"""Which segment a process counts in: two at once, changing it, incarnations, races to make one."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from shm_metrics import MetricsBackend, SegmentError, SegmentFormatError
from shm_metrics.segment import layout as L
from shm_metrics.segment.layout import Header, Layout
from tests.support.processes import Child, Link, die, run_well

# -- two segments ------------------------------------------------------------------------------------------------------


def count_in_both(link: Link, one: MetricsBackend, two: MetricsBackend) -> tuple[int | None, int | None]:
    one.counter("x_total").inc(1)
    two.counter("x_total").inc(10)
    two.gauge("only_two").set(3.0)
    return one.row, two.row


def test_two_segments_in_one_process_keep_their_counts_apart_also_in_its_children(
    attach: Callable[..., MetricsBackend], fork: Callable[..., Child], name: str
) -> None:
    one, two = attach(), attach(name)
    for _ in range(3):
        assert fork(count_in_both, one, two).result() == (2, 2)
    one.counter("x_total").inc(1)
    assert one.snapshot().value("x_total") == 4.0
    assert two.snapshot().value("x_total") == 30.0
    assert one.snapshot().family("only_two") is None
    assert one.instance_id != two.instance_id
    one.close()
    fork(lambda link: two.counter("x_total").inc(10)).result()
    two.counter("x_total").inc(10)
    assert two.snapshot().value("x_total") == 50.0


def test_one_metric_name_may_be_declared_differently_in_two_segments(
    attach: Callable[..., MetricsBackend], name: str
) -> None:
    one, two = attach(), attach(name)
    one.counter("x").inc()
    two.gauge("x").set(5.0)
    assert (one.snapshot().value("x"), two.snapshot().value("x")) == (1.0, 5.0)


# -- configure() after metrics exist -----------------------------------------------------------------------------------

LATE = """
    import os, sys
    from shm_metrics import *
    REQUESTS = Counter("requests", "Requests", ["path"])
    PLAIN, DEPTH = Counter("plain", "Plain"), Gauge("depth", "Depth")
    LATENCY, SIZE = Histogram("latency_seconds", "Latency"), Summary("size_bytes", "Size")
    BUILD, STATE = Info("build", "Build"), Enum("state", "State", states=["a", "b"])
    A = REQUESTS.labels("/a")
    A.inc(2); PLAIN.inc(3); DEPTH.set(4); DEPTH.inc(); LATENCY.observe(.25); SIZE.observe(7)
    BUILD.info({"version": "1"}); STATE.state("b")
    """


def after_configure(name: str, then: str) -> dict[str, str]:
    """Sample -> value, as a process shows them that counted, called configure(name), and went on as `then` says."""
    told = run_well(
        LATE
        + f"""
    first = get_backend()
    {then}
    print(generate_latest().decode())
    """,
        name,
        SHM_METRICS_SEGMENT=name + "-first",
    )
    lines = [line for line in told.splitlines() if not line.startswith(("#", "shm_metrics_", "process_"))]
    return dict(line.rsplit(" ", 1) for line in lines if line)


def test_counts_made_before_configure_go_along_when_nobody_else_used_the_segment(name: str) -> None:
    shown = after_configure(
        name,
        """configure(sys.argv[1])
    A.inc(); REQUESTS.labels("/b").inc(); PLAIN.inc(); DEPTH.inc(); LATENCY.observe(.25); SIZE.observe(1)
    assert not os.path.exists(first.place.path)""",
    )
    assert shown['requests_total{path="/a"}'] == "3.0"
    assert shown['requests_total{path="/b"}'] == "1.0"
    assert shown["plain_total"] == "4.0"
    assert shown["depth"] == "6.0"
    assert (shown["latency_seconds_count"], shown["latency_seconds_sum"]) == ("2.0", "0.5")
    assert (shown["size_bytes_count"], shown["size_bytes_sum"]) == ("2.0", "8.0")
    assert shown['build_info{version="1"}'] == "1.0"
    assert shown['state{state="b"}'] == "1.0"


def test_counts_made_before_configure_stay_where_others_count_on(name: str) -> None:
    shown = after_configure(
        name,
        """other = MetricsBackend(os.environ["SHM_METRICS_SEGMENT"])
    configure(sys.argv[1])
    A.inc(); PLAIN.inc()
    assert other.snapshot().value("plain_total") == 3.0
    assert other.snapshot().value("requests_total", path="/a") == 2.0
    assert os.path.exists(other.place.path)""",
    )
    assert shown['requests_total{path="/a"}'] == "1.0"
    assert shown["plain_total"] == "1.0"
    assert shown["latency_seconds_count"] == "0.0"


def test_children_forked_before_and_after_configure_count_where_their_parent_did_when_they_were_forked(
    name: str,
) -> None:
    told = run_well(
        LATE
        + """
    def child():
        go, went = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            PLAIN.inc(); os.write(went[1], b"."); os.read(go[0], 1); PLAIN.inc(); A.inc(); os._exit(0)
        os.read(went[0], 1)
        return pid, go[1]
    first = get_backend()
    before = child()
    configure(sys.argv[1])
    after = child()
    PLAIN.inc(100)
    for pid, go in (before, after):
        os.write(go, b".")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    was = MetricsBackend(os.environ["SHM_METRICS_SEGMENT"], read_only=True)
    for backend in (was, get_backend()):
        snapshot = backend.snapshot()
        print(snapshot.value("plain_total"), snapshot.value("requests_total", path="/a"))
    was.place.unlink()
    """,
        name,
        SHM_METRICS_SEGMENT=name + "-first",
    )
    assert told.splitlines() == ["5.0 3.0", "102.0 1.0"]


def test_a_failing_configure_leaves_everything_as_it_was(name: str) -> None:
    shown = after_configure(
        name,
        """
    for bad in ({"name": "a/b"}, {"path": "/none/at/all"}, {"name": "x", "path": "y"}, {"rows": 0}):
        try:
            configure(**bad)
        except MetricsError:
            pass
        else:
            raise SystemExit(f"{bad} was accepted")
    PLAIN.inc()
    assert get_backend() is first""",
    )
    assert shown["plain_total"] == "4.0"


# -- metrics declared at import ----------------------------------------------------------------------------------------

MODULE = """
from shm_metrics import Counter, Gauge, Histogram
ORDERS = Counter("orders", "Orders", ["kind"])
TOTAL = Counter("all_orders", "All orders")
SECONDS = Histogram("order_seconds", "Seconds", buckets=[1.0, 2.0])
def order(kind):
    ORDERS.labels(kind).inc(); TOTAL.inc(); SECONDS.observe(1.5)
"""


@pytest.mark.parametrize("imported", ["before", "after", "both"])
def test_a_module_that_declares_metrics_at_import_may_be_imported_before_and_after_fork(
    imported: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(MODULE)
    told = run_well(
        """
        import os, sys
        sys.path.insert(0, sys.argv[1])
        imported = sys.argv[2]
        import shm_metrics
        shm_metrics.get_backend()
        if imported != "after":
            import shop
            shop.order("parent")
        for _ in range(4):
            pid = os.fork()
            if pid == 0:
                if imported == "both":
                    sys.modules.pop("shop")
                import shop
                shop.order("child"); shop.order("child")
                os.kill(os.getpid(), 9)
            os.waitpid(pid, 0)
        if imported == "after":
            import shop
            shop.order("parent")
        snapshot = shm_metrics.get_backend().snapshot()
        print(*(snapshot.value("orders_total", kind=kind) for kind in ("parent", "child")))
        print(snapshot.value("all_orders_total"), snapshot.value("order_seconds"), len(snapshot.used_rows))
        print(snapshot.series)
        """,
        str(tmp_path),
        imported,
        SHM_METRICS_SEGMENT=name,
    )
    assert told.splitlines() == ["1.0 8.0", "9.0 9.0 2", "4"]


# -- incarnations ------------------------------------------------------------------------------------------------------


def work_and_die(link: Link, path: str, amount: float) -> None:
    backend = MetricsBackend(path=path, process_metrics=False)
    backend.counter("work_total").inc(amount)
    link.say(backend.instance_id)
    die()


def test_all_workers_may_die_while_a_master_lives_and_the_next_ones_go_on(
    path: str, fork: Callable[..., Child]
) -> None:
    def master(link: Link) -> None:
        backend = MetricsBackend(path=path, process_metrics=False)
        link.say(backend.instance_id)
        link.hear()

    first = fork(master)
    incarnation = first.hear()
    for _ in range(3):
        workers = [fork(work_and_die, path, 1.0) for _ in range(2)]
        assert [worker.hear() for worker in workers] == [incarnation] * 2
        for worker in workers:
            worker.wait()
    scraper = MetricsBackend(path=path, read_only=True, process_metrics=False)
    assert scraper.snapshot().value("work_total") == 6.0
    assert len(scraper.snapshot().live_rows) == 1


def test_with_nobody_present_the_next_worker_begins_anew_and_readers_follow(
    path: str, fork: Callable[..., Child]
) -> None:
    first = fork(work_and_die, path, 5.0)
    incarnation = first.hear()
    first.wait()
    scraper = MetricsBackend(path=path, read_only=True, process_metrics=False)
    assert scraper.snapshot().value("work_total") == 5.0  # the last word of the dead, until somebody comes
    second = fork(work_and_die, path, 2.0)
    assert second.hear() != incarnation
    second.wait()
    assert scraper.snapshot().value("work_total") == 2.0
    assert scraper.instance_id != incarnation


def test_keep_carries_the_totals_over_when_nobody_was_present(path: str, fork: Callable[..., Child]) -> None:
    def job(link: Link) -> str:
        backend = MetricsBackend(path=path, keep=True, process_metrics=False)
        backend.counter("runs_total").inc()
        backend.histogram("run_seconds").observe(0.5)
        backend.gauge("last").set(backend.counter("runs_total").value)
        backend.gauge("peak", multiprocess_mode="max").set(backend.counter("runs_total").value)
        return backend.instance_id

    incarnations = {fork(job).result() for _ in range(4)}
    assert len(incarnations) == 1
    scraper = MetricsBackend(path=path, read_only=True, process_metrics=False)
    snapshot = scraper.snapshot()
    assert [snapshot.value(name) for name in ("runs_total", "run_seconds", "last", "peak")] == [4.0] * 4
    assert len(snapshot.used_rows) == 1


def test_a_segment_kept_over_a_reboot_keeps_its_totals_and_which_value_is_the_newest(
    path: str, fork: Callable[..., Child]
) -> None:
    def before(link: Link) -> None:
        backend = MetricsBackend(path=path, process_metrics=False)
        backend.counter("runs_total").inc(3)
        backend.gauge("last").set(7.0)
        backend.gauge("newest", multiprocess_mode="mostrecent").set(7.0)
        segment = backend._writer.segment
        header = segment.header
        # as if written under another boot, with a clock far ahead of this one's
        packed = Header(header.layout, header.incarnation, header.index_key, bytes(16), header.created_at).pack()
        segment.bytes[: len(packed)] = packed
        row = segment.row_view(backend.row or 0)
        for slot in range(segment.slots_used):
            if segment.codes[slot] in (L.SLOT_STAMP_INHERITED, L.SLOT_STAMP_NEWEST):
                row[slot] = 1e9
        die()

    fork(before).wait()
    backend = MetricsBackend(path=path, keep=True, process_metrics=False)
    names = ("runs_total", "last", "newest")
    assert [backend.snapshot().value(name) for name in names] == [3.0, 7.0, 7.0]
    backend.gauge("last").set(8.0)
    backend.gauge("newest", multiprocess_mode="mostrecent").set(8.0)
    assert [backend.snapshot().value(name) for name in names] == [3.0, 8.0, 8.0]
    backend.close()


def test_a_read_only_observer_keeps_no_incarnation_alive_and_cannot_write(
    path: str, fork: Callable[..., Child]
) -> None:
    first = fork(work_and_die, path, 5.0)
    incarnation = first.hear()
    first.wait()
    scraper = MetricsBackend(path=path, read_only=True, process_metrics=False)
    assert scraper.row is None
    with pytest.raises(SegmentError, match="read_only"):
        scraper.counter("work_total").inc()
    assert fork(work_and_die, path, 1.0).hear() != incarnation
    assert scraper.snapshot().value("work_total") == 1.0


# -- making it ---------------------------------------------------------------------------------------------------------


def join(link: Link, path: str) -> tuple[str, int | None]:
    link.say("ready")
    link.hear()
    backend = MetricsBackend(path=path, rows=32, slots=4096, process_metrics=False)
    backend.counter("joined_total").inc()
    link.say((backend.instance_id, backend.row))
    link.hear()
    return backend.instance_id, backend.row


def race(fork: Callable[..., Child], path: str, n: int) -> None:
    """n processes start on the segment at once: one makes it, all join it, each on a row of its own."""
    children = [fork(join, path) for _ in range(n)]
    for child in children:
        child.hear()
    for child in children:
        child.say("go")
    told = [child.hear() for child in children]
    assert len({incarnation for incarnation, _ in told}) == 1
    assert sorted(row for _, row in told) == list(range(1, n + 1))
    scraper = MetricsBackend(path=path, read_only=True, process_metrics=False)
    assert scraper.snapshot().value("joined_total") == n
    assert len(scraper.snapshot().live_rows) == n
    scraper.close()
    for child in children:
        child.say("end")
        child.result()


def test_of_twenty_processes_that_start_at_once_one_makes_the_segment_and_all_join_it(
    path: str, fork: Callable[..., Child]
) -> None:
    for _ in range(5):  # and each time but the first, the old incarnation is in the way
        race(fork, path, 20)


def half_made(written: int, state: int = L.INITIALISING) -> bytes:
    """What a maker leaves that dies after so many bytes of its header."""
    layout = Layout(8, 1024)
    header = Header(layout, os.urandom(16), os.urandom(16), os.urandom(16), 1.0).pack()
    whole = header + struct.pack("<Q", state)
    return whole[:written]


HALVES = {
    "an empty file": (0, 0),
    "part of the magic": (3, 3),
    "the magic": (L.VERSION_OFFSET, L.VERSION_OFFSET),
    "part of the header": (L.INDEX_KEY_OFFSET + 5, L.INDEX_KEY_OFFSET + 5),
    "a whole header and no more": (L.CHECKSUM_OFFSET + L.WORD, L.CHECKSUM_OFFSET + L.WORD),
    "a whole header in a file of full size": (L.CHECKSUM_OFFSET + L.WORD, Layout(8, 1024).total),
}


@pytest.mark.parametrize("half", HALVES)
def test_a_half_made_segment_is_taken_over_by_whoever_comes_next_also_by_many_at_once(
    half: str, path: str, fork: Callable[..., Child]
) -> None:
    written, size = HALVES[half]
    Path(path).write_bytes(half_made(written))
    os.truncate(path, size)
    with pytest.raises((FileNotFoundError, SegmentFormatError)):
        MetricsBackend(path=path, read_only=True)
    race(fork, path, 4)


def test_a_maker_that_is_killed_at_any_moment_leaves_nothing_that_stops_the_next(
    path: str, fork: Callable[..., Child]
) -> None:
    """Every system call of the making is once the last one."""

    def make(link: Link, last: int) -> str:
        calls = 0

        def counted(function: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object) -> object:
                nonlocal calls
                calls += 1
                if calls > last:
                    die()
                return function(*args)

            return call

        for name in ("ftruncate", "pwrite", "posix_fallocate"):
            setattr(os, name, counted(getattr(os, name)))
        MetricsBackend(path=path, rows=8, slots=1024, process_metrics=False)
        return "made"

    for last in range(100):
        maker = fork(make, last)
        if maker.wait() == 0:
            break
        race(fork, path, 2)
        Path(path).unlink()
    assert last > 8
