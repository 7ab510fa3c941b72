"""Segments that were truncated, scribbled over, made by another version or another user, or are no segments at all.

Whatever meets them is a child: a SIGBUS, a crash or a hang is its end and not the tests'.
"""

from __future__ import annotations

import logging
import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shm_metrics import Counter, Enum, Info, InvalidMetricError, MetricsBackend, SegmentError, SegmentFormatError
from shm_metrics.exposition import render_text
from shm_metrics.segment import layout as L
from shm_metrics.segment.layout import Layout
from tests.support.processes import Child, Link, run

ROWS, SLOTS = 8, 1024
SERIES = 20


def populate(backend: MetricsBackend) -> None:
    for n in range(SERIES):
        backend.counter("kept_total", n=str(n)).inc(n)
        backend.histogram("kept_seconds", buckets=(1.0, 2.0), n=str(n)).observe(0.5)
        backend.gauge("kept_level", n=str(n)).set(n)
        backend.gauge("kept_max", multiprocess_mode="max", n=str(n)).set(n)
    backend.gauge("kept_level", n="0").inc()
    backend.summary("kept_bytes").observe(2.0)
    Enum("kept_state", states=["a", "b", "c"], registry=backend).state("b")
    Info("kept_build", registry=backend).info({"version": "1"})
    removed = Counter("removed", labelnames=["n"], registry=backend)
    removed.labels("0").inc()
    removed.remove("0")


@pytest.fixture
def used(path: str, fork: Callable[..., Child]) -> str:
    """The path of a segment that two workers counted in and left."""

    def work(link: Link) -> None:
        first = MetricsBackend(path=path, rows=ROWS, slots=SLOTS, process_metrics=False)
        second = MetricsBackend(path=path, process_metrics=False)
        populate(first)
        populate(second)

    fork(work).result()
    return path


def read_all(path: str) -> str:
    """What a scraper and the tools do. Returns what happened."""
    try:
        backend = MetricsBackend(path=path, read_only=True)
        render_text(backend.collect())
        backend.stats()
        backend.export()
    except (SegmentError, FileNotFoundError) as error:
        return f"{type(error).__name__}: {error}"
    return "served"


def write_all(path: str, keep: bool = True) -> str:
    """What a new worker does, and its children. Returns what happened."""
    try:
        backend = MetricsBackend(path=path, rows=ROWS, slots=SLOTS, keep=keep)
    except SegmentError as error:
        return f"{type(error).__name__}: {error}"
    use(backend)
    return "used"


def use(backend: MetricsBackend) -> None:
    populate(backend)
    for n in range(SERIES):
        backend.counter("new_total", n=str(n)).inc()
        backend.histogram("new_seconds", n=str(n)).observe(n)
    try:
        backend.counter("new_total", n="0").value
        backend.gauge("kept_max", multiprocess_mode="max", n="0").value
        backend.export()
        backend.clear()
        render_text(backend.collect())
    except SegmentError:
        pass
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            populate(backend)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# -- no segment --------------------------------------------------------------------------------------------------------

STRANGERS = {
    "text": b"root:x:0:0:root:/root:/bin/bash\n" * 100,
    "short text": b"hello",
    "zeros": bytes(8192),
    "an image": b"\x89PNG\r\n\x1a\n" + os.urandom(4096),
    "half of our magic, then something else": L.MAGIC[:4] + b"????" + bytes(4096),
}


@pytest.mark.parametrize("what", STRANGERS)
def test_a_file_that_is_no_segment_is_refused_and_left_as_it_was(what: str, path: str) -> None:
    Path(path).write_bytes(STRANGERS[what])
    with pytest.raises(SegmentFormatError, match=r"not a shm_metrics segment|without a segment header") as raised:
        MetricsBackend(path=path)
    assert path in str(raised.value)
    with pytest.raises(SegmentFormatError):
        MetricsBackend(path=path, read_only=True)
    assert Path(path).read_bytes() == STRANGERS[what]


def test_a_directory_a_missing_directory_and_a_bad_name_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SegmentError, match=str(tmp_path)):
        MetricsBackend(path=tmp_path)
    with pytest.raises(SegmentError, match="missing"):
        MetricsBackend(path=tmp_path / "missing" / "segment")
    with pytest.raises(InvalidMetricError, match="a/b"):
        MetricsBackend("a/b")
    with pytest.raises(FileNotFoundError, match="has the application started"):
        MetricsBackend(path=tmp_path / "none", read_only=True)


# -- another version ---------------------------------------------------------------------------------------------------


def forge(path: str, **fields: int) -> None:
    """Change header fields as another version would have written them, checksum included."""
    import zlib

    with open(path, "r+b") as file:
        start = bytearray(file.read(L.HEADER_END))
        for name, value in fields.items():
            struct.pack_into("<Q", start, getattr(L, name), value)
        struct.pack_into("<Q", start, L.CHECKSUM_OFFSET, zlib.crc32(start[: L.CHECKSUM_OFFSET]))
        file.seek(0)
        file.write(start)


def hold(link: Link, path: str) -> None:
    """Be present until told otherwise."""
    backend = MetricsBackend(path=path, rows=ROWS, slots=SLOTS, process_metrics=False)
    backend.counter("held_total").inc()
    link.say("present")
    link.hear()
    backend.counter("held_total").inc()


@pytest.mark.parametrize("fields", [{"VERSION_OFFSET": L.VERSION + 1}, {"LAYOUT_HASH_OFFSET": 7}])
def test_a_segment_of_another_version_in_use_is_refused_and_still_serves_its_own(
    fields: dict[str, int], path: str, fork: Callable[..., Child]
) -> None:
    holder = fork(hold, path)
    holder.hear()
    forge(path, **fields)
    before = Path(path).read_bytes()[: L.HEADER_BYTES]
    with pytest.raises(SegmentFormatError, match=r"format|layout"):
        MetricsBackend(path=path)
    with pytest.raises(SegmentFormatError, match=r"format|layout"):
        MetricsBackend(path=path, read_only=True)
    assert Path(path).read_bytes()[: L.HEADER_BYTES] == before
    holder.say("end")
    holder.result()


@pytest.mark.parametrize("fields", [{"VERSION_OFFSET": L.VERSION + 1}, {"LAYOUT_HASH_OFFSET": 7}])
def test_a_segment_of_another_version_that_nobody_uses_is_replaced_with_a_warning(
    fields: dict[str, int], used: str, caplog: pytest.LogCaptureFixture
) -> None:
    forge(used, **fields)
    backend = MetricsBackend(path=used, process_metrics=False)
    backend.counter("new_total").inc()
    assert backend.snapshot().series == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    backend.close()


# -- another owner -----------------------------------------------------------------------------------------------------


def as_nobody(path: str) -> str:
    """The error that uid 65534 gets for the segment."""
    done = run(
        """
        import os, sys
        from shm_metrics import MetricsBackend, SegmentError, generate_latest  # before it may no longer read them
        import shm_metrics.reader.reader
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        for read_only in (False, True):
            try:
                MetricsBackend(path=sys.argv[1], read_only=read_only)
            except SegmentError as error:
                print(error)
            else:
                print("opened")
        """,
        path,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def root() -> None:
    if os.geteuid() != 0:
        told = "giving a file to another user takes root"
        pytest.fail(told) if os.environ.get("CI") == "true" else pytest.skip(told)


@pytest.mark.usefixtures("root")
def test_a_segment_of_another_user_is_refused_naming_both(used: str) -> None:
    told = as_nobody(used).splitlines()
    assert len(told) == 2
    assert all("65534" in line and used in line for line in told)


@pytest.mark.usefixtures("root")
def test_a_segment_of_another_user_that_may_be_written_by_all_is_refused_all_the_same(used: str) -> None:
    os.chmod(used, 0o666)
    written = as_nobody(used).splitlines()[0]
    assert "owned by uid 0" in written


# -- truncated ---------------------------------------------------------------------------------------------------------

WHOLE = Layout(ROWS, SLOTS)
SIZES = {
    "nothing": 0,
    "three bytes": 3,
    "half a header": L.CHECKSUM_OFFSET // 2,
    "the header": L.HEADER_BYTES,
    "up to the index": WHOLE.index,
    "up to the catalog": WHOLE.catalog,
    "up to the matrix": WHOLE.matrix,
    "all but the last page": WHOLE.total - L.PAGE,
    "all but the last byte": WHOLE.total - 1,
}


@pytest.mark.parametrize("size", SIZES)
def test_a_truncated_segment_that_nobody_uses_cannot_be_read_and_is_made_anew_by_the_next_worker(
    size: str, used: str, fork: Callable[..., Child]
) -> None:
    os.truncate(used, SIZES[size])
    said = fork(lambda link: read_all(used)).result()
    assert said.startswith(("SegmentFormatError", "FileNotFoundError"))
    assert used in said
    assert fork(lambda link: write_all(used)).result() == "used"
    assert fork(lambda link: read_all(used)).result() == "served"


@pytest.mark.parametrize("size", SIZES)
def test_scrapers_of_a_segment_that_is_truncated_under_them_say_so_and_live(
    size: str, path: str, fork: Callable[..., Child]
) -> None:
    def watch(link: Link, read_only: bool) -> list[str]:
        backend = MetricsBackend(path=path, read_only=read_only, rows=ROWS, slots=SLOTS)
        backend.collect()
        link.say("watching")
        link.hear()
        said = []
        for scrape in (backend.collect, backend.snapshot, backend.stats, backend.export):
            try:
                scrape()
            except SegmentFormatError as error:
                said.append(str(error))
        return said

    writer = fork(watch, False)
    writer.hear()
    reader = fork(watch, True)
    reader.hear()
    os.truncate(path, SIZES[size])
    for child in (writer, reader):
        child.say("go")
        said = child.result()
        assert len(said) == 4
        assert all("truncated" in told and path in told for told in said)
    assert "SegmentFormatError" in fork(lambda link: read_all(path)).result() or SIZES[size] < L.HEADER_END


def test_a_worker_does_not_join_a_segment_that_was_truncated_while_in_use(
    path: str, fork: Callable[..., Child]
) -> None:
    holder = fork(hold, path)
    holder.hear()
    for size in sorted(SIZES.values(), reverse=True):
        os.truncate(path, size)
        assert fork(lambda link: write_all(path)).result().startswith("SegmentFormatError")
        assert os.stat(path).st_size == size


# -- scribbled over ----------------------------------------------------------------------------------------------------

REGIONS = {
    "header": (0, L.HEADER_BYTES),
    "moving words of the header": (L.STATE_OFFSET, L.HEADER_END),
    "worker table": (WHOLE.worker_table, WHOLE.page_map),
    "page map": (WHOLE.page_map, WHOLE.slot_map),
    "slot map": (WHOLE.slot_map, WHOLE.index),
    "index": (WHOLE.index, WHOLE.index + L.INDEX_FIRST_SIZE * L.INDEX_ENTRY_BYTES),
    "catalog": (WHOLE.catalog, WHOLE.catalog + 16_384),
    "ledger row": (WHOLE.matrix, WHOLE.matrix + L.PAGE),
    "rows": (WHOLE.matrix + WHOLE.row_bytes, WHOLE.matrix + 3 * WHOLE.row_bytes),
}
SEEDS = 5


def scribbles(region: str) -> Iterator[tuple[str, Callable[[bytearray], None]]]:
    """Ways to spoil the bytes of a region."""

    def fill(value: int) -> Callable[[bytearray], None]:
        return lambda data: data.__setitem__(slice(None), bytes([value]) * len(data))

    def flip(seed: int) -> Callable[[bytearray], None]:
        def spoil(data: bytearray) -> None:
            rng = random.Random(seed)
            # Where something is written, for the most part: a region is nearly all zeros.
            written = [i for i, byte in enumerate(data) if byte] or [0]
            for _ in range(1 << rng.randrange(7)):
                at = rng.choice(written) if rng.random() < 0.8 else rng.randrange(len(data))
                data[at] ^= rng.randrange(1, 256)

        return spoil

    def noise(data: bytearray) -> None:
        data[:] = random.Random(region).randbytes(len(data))

    yield "all ones", fill(0xFF)
    yield "all zeros", fill(0)
    yield "all 0x01", fill(1)
    yield "all 0x7f", fill(0x7F)
    yield "noise", noise
    for seed in range(SEEDS):
        yield f"flips {seed}", flip(seed)


def spoil(path: str, region: str, how: Callable[[bytearray], None]) -> None:
    start, end = REGIONS[region]
    with open(path, "r+b") as file:
        file.seek(start)
        data = bytearray(file.read(end - start))
        how(data)
        file.seek(start)
        file.write(data)


@pytest.mark.slow
@pytest.mark.parametrize("region", REGIONS)
def test_nothing_crashes_or_hangs_on_a_segment_that_was_scribbled_over_before(
    region: str, used: str, fork: Callable[..., Child]
) -> None:
    good = Path(used).read_bytes()
    for name, how in scribbles(region):
        with open(used, "r+b" if os.path.exists(used) else "w+b") as file:  # the same bytes as before, sparse or not
            file.truncate(len(good))
            file.write(good)
        spoil(used, region, how)
        try:
            said = fork(lambda link: read_all(used)).result()
            assert said == "served" or used in said
            written = fork(lambda link: write_all(used)).result()
            assert written == "used" or (region == "header" and used in written)
        except AssertionError as error:
            raise AssertionError(f"{region}, {name}: {error}") from None


@pytest.mark.slow
@pytest.mark.parametrize("region", REGIONS)
def test_nothing_crashes_or_hangs_while_a_segment_in_use_is_scribbled_over(
    region: str, path: str, fork: Callable[..., Child]
) -> None:
    def live(link: Link) -> None:
        backend = MetricsBackend(path=path, rows=ROWS, slots=SLOTS)
        populate(backend)
        link.say("there")
        link.hear()
        use(backend)

    for name, how in scribbles(region):
        workers = [fork(live), fork(live)]
        try:
            for worker in workers:
                worker.hear()
            spoil(path, region, how)
            newcomer = fork(lambda link: write_all(path))
            for worker in workers:
                worker.say("go on")
            said = newcomer.result()
            assert said == "used" or path in said
            said = fork(lambda link: read_all(path)).result()
            assert said == "served" or path in said
            for worker in workers:
                worker.result()
        except AssertionError as error:
            raise AssertionError(f"{region}, {name}: {error}") from None
        finally:
            Path(path).unlink(missing_ok=True)


# -- what is damaged is counted, the rest is served --------------------------------------------------------------------


def kept(backend: MetricsBackend) -> dict[str, float]:
    snapshot = backend.snapshot()
    return {str(n): value for n in range(SERIES) if (value := snapshot.value("kept_total", n=str(n))) is not None}


def record_at(path: str, needle: bytes) -> int:
    """Where in the file a piece of a catalog record is."""
    data = Path(path).read_bytes()
    at = data.find(needle, WHOLE.catalog)
    assert at >= 0
    return at


def test_a_damaged_series_record_is_counted_and_all_other_series_are_served(used: str) -> None:
    at = record_at(used, b"n\xff7")
    with open(used, "r+b") as file:
        file.seek(at)
        file.write(b"m")
    backend = MetricsBackend(path=used, read_only=True, process_metrics=False)
    everything = {str(n): 2.0 * n for n in range(SERIES)}
    del everything["7"]
    assert kept(backend) == everything
    assert backend.stats()["damaged_records"] == 1
    # a worker makes the lost one anew, and goes on with the others
    writer = MetricsBackend(path=used, keep=True, process_metrics=False)
    for n in range(SERIES):
        writer.counter("kept_total", n=str(n)).inc()
    assert kept(writer) == {**{n: value + 1 for n, value in everything.items()}, "7": 1.0}
    writer.close()


@pytest.mark.parametrize("value", [0x00, 0xFF, 0x5A])
def test_a_damaged_index_loses_nothing(value: int, used: str) -> None:
    spoil(used, "index", lambda data: data.__setitem__(slice(None), bytes([value]) * len(data)))
    backend = MetricsBackend(path=used, keep=True, process_metrics=False)
    before = backend.snapshot().series
    for n in range(SERIES):
        backend.counter("kept_total", n=str(n)).inc()
    assert kept(backend) == {str(n): 2.0 * n + 1 for n in range(SERIES)}
    assert backend.snapshot().series == before
    assert backend.stats()["damaged_records"] == 0
    backend.close()


def test_an_index_damaged_in_use_makes_no_series_twice_and_loses_none(path: str, fork: Callable[..., Child]) -> None:
    backend = MetricsBackend(path=path, rows=ROWS, slots=SLOTS, process_metrics=False)
    populate(backend)
    before = backend.snapshot().series
    rng = random.Random(9)

    def add(link: Link) -> None:
        for n in range(SERIES):
            backend.counter("kept_total", n=str(n)).inc()
            newcomer = MetricsBackend(path=path, process_metrics=False)
            newcomer.counter("kept_total", n=str(n)).inc()
            newcomer.close()

    for turn in range(1, 11):
        spoil(path, "index", lambda data: [data.__setitem__(rng.randrange(len(data)), 0xA5) for _ in range(200)])
        fork(add).result()
        assert kept(backend) == {str(n): float(n + 2 * turn) for n in range(SERIES)}
    assert backend.snapshot().series == before
    backend.close()
