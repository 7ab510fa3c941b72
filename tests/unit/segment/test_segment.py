"""One file: made once, joined, kept, left behind; never half-made, never touched where nothing is reserved."""

from __future__ import annotations

import logging
import os
import threading

import numpy as np
import pytest

from shm_metrics.errors import SegmentError, SegmentFormatError, SegmentFullError
from shm_metrics.segment import layout as L
from shm_metrics.segment.file_locks import FileLocks
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.location import SegmentLocation
from shm_metrics.segment.segment import Segment

SMALL = Layout(rows=3, slots=1024)


@pytest.fixture
def attach(place):
    """attach(): one more holder of the segment; all are closed afterwards."""
    held = []

    def attach(layout=SMALL, at=place, **options):
        held.append(Segment.attach(at, layout, **options))
        return held[-1]

    yield attach
    for segment in held:
        segment.close()


def write_at(place, offset, data):
    with open(place.path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def test_the_first_makes_it_and_the_next_joins_it(attach):
    one, other = attach(), attach()
    one.matrix[1, 7] = 42.0
    assert other.matrix[1, 7] == 42.0
    assert one.header == other.header


def test_a_file_path_serves_as_well(attach, tmp_path):
    at = SegmentLocation.at(tmp_path / "segment")
    one, other = attach(at=at), attach(at=at)
    one.matrix[1, 7] = 42.0
    assert other.matrix[1, 7] == 42.0


def test_a_process_that_joins_gets_the_sizes_of_the_segment(attach):
    attach()
    assert attach(Layout(rows=99, slots=9999)).layout == SMALL


def test_the_file_has_its_full_size_and_takes_little_memory(attach, place):
    segment = attach(Layout(rows=256, slots=131_072))
    assert os.path.getsize(place.path) == segment.layout.total > 256 << 20
    assert segment.allocated_bytes() < 300 << 10


def test_a_new_life_begins_when_nobody_was_present(attach, place):
    first = attach()
    first.matrix[1, 7] = 42.0
    first.close()
    second = attach()
    assert second.matrix[1, 7] == 0.0
    assert second.header.incarnation != first.header.incarnation
    assert first.abandoned, "those who still read the old file must notice"
    assert not second.abandoned
    assert place.is_file(second.locks.fd)


def test_keep_carries_everything_over(attach):
    first = attach()
    first.matrix[1, 7] = 42.0
    first.close()
    second = attach(keep=True)
    assert second.matrix[1, 7] == 42.0
    assert second.header.incarnation == first.header.incarnation
    assert not second.abandoned


def test_the_life_goes_on_as_long_as_anybody_is_present(attach):
    first, second = attach(), attach()
    first.matrix[1, 7] = 42.0
    first.close()
    third = attach()
    second.close()
    assert attach().matrix[1, 7] == 42.0
    assert not third.abandoned


def test_a_watcher_is_not_present(attach, place):
    first = attach()
    watcher = Segment.open_read_only(place)
    first.close()
    assert attach().header.incarnation != watcher.header.incarnation
    assert watcher.abandoned
    watcher.close()


def test_a_watcher_cannot_write(attach, place):
    attach()
    watcher = Segment.open_read_only(place)
    with pytest.raises(ValueError):
        watcher.matrix[1, 7] = 1.0
    with pytest.raises(TypeError):
        watcher.set(L.GENERATION_OFFSET, 1)
    with pytest.raises(OSError):
        os.write(watcher.locks.fd, b"x")
    watcher.close()


def test_watching_without_a_segment_is_an_error(place):
    with pytest.raises(FileNotFoundError, match="has the application started"):
        Segment.open_read_only(place)
    assert not os.path.exists(place.path), "looking must not make it"


@pytest.mark.parametrize("written", [b"", b"SHM", b"SHMMETR\0", L.MAGIC + bytes(400)])
def test_what_a_dead_maker_left_is_made_again(attach, place, written):
    fd = place.open(create=True, write=True)
    os.write(fd, written)
    os.close(fd)
    with pytest.raises(FileNotFoundError, match="being made"):
        Segment.open_read_only(place)
    assert attach().get(L.STATE_OFFSET) == L.READY


def test_a_maker_that_died_at_any_step_is_taken_over(attach, place, monkeypatch):
    """Stop the maker after each of its writes, as a kill would, and let the next one come."""
    real, steps = os.pwrite, [0]

    class Killed(BaseException):
        pass

    def counted(fd, data, offset):
        if steps[0] == 0:
            raise Killed
        steps[0] -= 1
        return real(fd, data, offset)

    for n in range(100):
        steps[0] = n
        monkeypatch.setattr(os, "pwrite", counted)
        try:
            attach().close()
        except Killed:
            monkeypatch.setattr(os, "pwrite", real)
            segment = attach()
            assert segment.get(L.STATE_OFFSET) == L.READY
            assert segment.slots_used == L.FIRST_SERIES_SLOT
            segment.close()
            place.unlink()
        else:
            assert n > 5, "there were several places to die at"
            return
    pytest.fail("the maker never came to an end")


def test_makers_that_race_end_up_in_one_segment(place):
    start, segments = threading.Barrier(8), []

    def make():
        start.wait(30)
        segments.append(Segment.attach(place, SMALL))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({segment.header.incarnation for segment in segments}) == 1
    assert len(segments) == 8
    for segment in segments:
        segment.close()


def test_a_process_that_waits_while_the_file_is_replaced_joins_the_new_one(attach, monkeypatch):
    """
    1. a deploy has ended: a segment, and nobody present
    2. one opens the file, and waits for the creation lock
    3. another one has it: it leaves the old segment behind, and makes its own at the same place
    4. the first one gets the lock, of a file that has no name any more
    """
    attach().close()
    real, successor = FileLocks.wait_exclusive, []

    def wait(locks, byte, seconds):
        monkeypatch.setattr(FileLocks, "wait_exclusive", real)
        successor.append(attach())
        return real(locks, byte, seconds)

    monkeypatch.setattr(FileLocks, "wait_exclusive", wait)
    late = attach()
    assert late.header.incarnation == successor[0].header.incarnation
    assert not late.abandoned


def test_what_is_not_ours_is_refused_and_left_as_it_is(attach, place):
    for text in (b"#!/bin/sh\n" + b"x" * 5000, b"x"):
        place.unlink()
        fd = place.open(create=True, write=True)
        os.write(fd, text)
        os.close(fd)
        with pytest.raises(SegmentFormatError, match=place.path):
            attach()
        with open(place.path, "rb") as file:
            assert file.read() == text


def test_an_unused_segment_of_another_version_is_replaced_and_logged(attach, place, caplog):
    first = attach()
    first.close()
    write_at(place, L.VERSION_OFFSET, (99).to_bytes(8, "little"))
    with caplog.at_level(logging.WARNING, "shm_metrics"):
        second = attach()
    assert second.header.incarnation != first.header.incarnation
    assert "format 99" in caplog.text


def test_a_segment_of_another_version_that_is_in_use_is_an_error(attach, place):
    attach()
    write_at(place, L.VERSION_OFFSET, (99).to_bytes(8, "little"))
    with pytest.raises(SegmentFormatError, match=f"format 99, this library reads {L.VERSION}"):
        attach()
    with pytest.raises(SegmentFormatError, match="format 99"):
        Segment.open_read_only(place)


def test_a_header_damaged_while_in_use_is_an_error(attach, place):
    attach()
    write_at(place, L.CREATED_AT_OFFSET, b"\xff")
    with pytest.raises(SegmentFormatError, match="checksum"):
        attach()


def test_a_file_truncated_while_in_use_is_noticed_before_it_is_touched(attach, place):
    segment = attach()
    segment.check_size()
    assert segment.layout.total == SMALL.total
    os.truncate(place.path, SMALL.total - L.PAGE)
    with pytest.raises(SegmentFormatError, match=f"truncated to {SMALL.total - L.PAGE} of {SMALL.total}"):
        segment.check_size()
    with pytest.raises(SegmentFormatError, match="truncated"):
        attach()


def test_an_unlinked_segment_serves_those_who_have_it_and_the_next_makes_another(attach, place):
    first = attach()
    place.unlink()
    second = attach()
    first.matrix[1, 7] = 42.0
    assert second.matrix[1, 7] == 0.0


def test_abandoning_removes_the_name_and_tells_those_who_have_it(attach, place):
    one, other = attach(), attach()
    one.abandon()
    assert other.abandoned
    assert not os.path.exists(place.path)
    successor = attach()
    other.abandon()
    assert place.is_file(successor.locks.fd), "the name is another segment's by now"


def test_slots_are_reserved_before_they_are_touched(attach):
    segment = attach()
    segment.reserve_slots(1, 0, 1)
    before = segment.allocated_bytes()
    segment.reserve_slots(2, 510, 4)  # across a page's end
    assert segment.pages[2].tolist() == [1, 1]
    assert segment.pages[3].tolist() == [0, 0]
    assert segment.allocated_bytes() == before + 2 * L.PAGE
    segment.reserve_slots(2, 510, 4)
    assert segment.allocated_bytes() == before + 2 * L.PAGE


def test_wanted_pages_are_reserved_and_no_others(attach):
    segment = attach(Layout(rows=2, slots=512 * 6))
    segment.reserve_pages(1, bytes([0, 1, 1, 0, 0, 1]))
    assert segment.pages[1].tolist() == [0, 1, 1, 0, 0, 1]


def test_a_full_file_system_is_a_full_segment_that_names_the_file(attach, place, monkeypatch):
    segment = attach()

    def full(fd, offset, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SegmentFullError, match=f"{place.path}: no room for 4096 more bytes .No space left"):
        segment.reserve_slots(1, 0, 1)
    assert segment.pages[1].tolist() == [0, 0], "what is not there must not be said to be there"


def test_a_file_system_too_full_to_begin_with_leaves_nothing_behind(attach, place, monkeypatch):
    def full(fd, offset, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SegmentFullError):
        attach()
    assert not os.path.exists(place.path)


def test_an_own_description_after_fork_holds_presence_and_leaves_the_parents_locks(attach):
    segment = attach()
    parent = segment.locks
    parent.try_exclusive(L.LOCK_CLAIM + 1)
    close_inherited = segment.new_description()
    assert segment.locks is not parent
    assert segment.locks.held_by_other(L.LOCK_CLAIM + 1)
    close_inherited()
    assert not segment.locks.held_by_other(L.LOCK_CLAIM + 1)
    other = attach()
    assert other.locks.held_by_other(L.LOCK_PRESENCE)


def test_the_sole_user_knows_it(attach):
    one = attach()
    other = attach()
    assert not one.sole_user()
    other.close()
    assert one.sole_user()


def test_stamps_of_an_earlier_boot_come_before_all_of_this_one_in_their_old_order(attach, place, monkeypatch):
    first = attach()
    first.reserve_slots(1, 16, 4)
    first.bytes[SMALL.slot_map + 16 : SMALL.slot_map + 20] = bytes(
        [L.SLOT_STAMP_INHERITED, L.SLOT_VALUE, L.SLOT_STAMP_NEWEST, L.SLOT_VALUE]
    )
    first.set(L.SLOTS_USED_OFFSET, 20)
    first.matrix[1, 16:20] = [1e9, 7.0, 2e9, 8.0]
    first.close()
    monkeypatch.setattr("shm_metrics.segment.reboot.boot_id", lambda: b"another boot....")
    second = attach(keep=True)
    stamps, values = second.matrix[1, 16:20:2], second.matrix[1, 17:20:2]
    assert np.all(values == [7.0, 8.0])
    assert 0.0 < stamps[0] < stamps[1] < 1e-3
    kept = stamps.copy()
    second.close()
    assert np.all(attach(keep=True).matrix[1, 16:20:2] == kept), "once a boot"


def test_a_private_segment_has_no_name_and_is_whole():
    segment = Segment.private(SMALL)
    segment.reserve_slots(1, 0, 1)
    segment.matrix[1, 0] = 1.0
    assert segment.get(L.STATE_OFFSET) == L.READY
    segment.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_segment_of_another_user_is_refused_by_name(open_directory, python):
    path = open_directory / "segment"
    path.touch()
    path.chmod(0o666)
    code = (
        "import os, sys; from shm_metrics import errors; from shm_metrics.segment import layout, location, segment\n"
        "p = location.SegmentLocation.at(sys.argv[1])\n"
        "os.setuid(65534)\n"
        "try: segment.Segment.attach(p, layout.Layout(2, 512))\n"
        "except errors.SegmentError as error: print(error)\n"
    )
    assert "owned by uid 0, this process runs as uid 65534" in python(code, str(path))


def test_a_maker_that_does_not_come_to_an_end_is_an_error_and_no_hang(attach, place, monkeypatch):
    monkeypatch.setattr("shm_metrics.segment.segment.CREATION_SECONDS", 0.01)
    maker = FileLocks(place.open(create=True, write=True))
    assert maker.try_exclusive(L.LOCK_CREATION)
    with pytest.raises(SegmentError, match="another process has been creating it"):
        attach()
    maker.close()
    attach()


def test_a_closed_segment_says_so(attach):
    segment = attach()
    segment.close()
    with pytest.raises(SegmentError, match="closed"):
        segment.check_size()
