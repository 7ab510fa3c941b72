"""Rows: claimed, inherited, put in order; who is alive is what the kernel says."""

from __future__ import annotations

import pytest

from shm_metrics import layout as L
from shm_metrics.errors import SegmentFullError
from shm_metrics.layout import Layout
from shm_metrics.rows import WorkerTable, claim_row
from shm_metrics.segment import Segment

SMALL = Layout(rows=3, slots=1024)
FIRST = L.FIRST_SERIES_SLOT


def run(work):
    work()
    return True


@pytest.fixture
def attach(place):
    held = []

    def attach():
        held.append(Segment.attach(place, SMALL))
        return held[-1]

    yield attach
    for segment in held:
        segment.close()


@pytest.fixture
def segment(attach):
    """A holder of the segment that owns no row, so that it stays there while workers come and go."""
    return attach()


def claim(segment, pid=100, ledger_lock=run, **options):
    told = {"pid": pid, "start_ticks": pid * 10, "now": 1e9 + pid, "role": f"worker {pid}", **options}
    return claim_row(segment, ledger_lock=ledger_lock, **told)


def lay_out(segment, *codes):
    """Say of the first slots of series what they are."""
    segment.bytes[SMALL.slot_map + FIRST : SMALL.slot_map + FIRST + len(codes)] = bytes(codes)
    segment.set(L.SLOTS_USED_OFFSET, FIRST + len(codes))
    segment.reserve_slots(L.LEDGER_ROW, FIRST, len(codes))


def left_behind(attach, values):
    """A worker that writes `values` into its row and is gone. Its row."""
    segment = attach()
    lease = claim(segment)
    segment.reserve_slots(lease.row, FIRST, len(values))
    segment.matrix[lease.row, FIRST : FIRST + len(values)] = values
    segment.close()
    return lease.row


def inherited(attach, values):
    """What the next worker finds in the row; it is gone again afterwards."""
    row = left_behind(attach, values)
    segment = attach()
    assert claim(segment, 200).row == row
    found = segment.matrix[row, FIRST : FIRST + len(values)].tolist()
    segment.close()
    return found


def test_workers_alive_at_once_have_rows_of_their_own(attach):
    rows = [claim(attach(), pid).row for pid in (100, 101, 102)]
    assert rows == [1, 2, 3]
    assert claim(attach(), 103) is None


def test_a_row_given_up_is_the_next_workers(attach):
    leases = [claim(attach(), pid) for pid in (100, 101, 102)]
    leases[1].release()
    assert claim(attach(), 103).row == 2


def test_a_row_is_free_as_soon_as_its_owners_description_is_closed(attach, segment):
    dying = attach()
    assert claim(dying).row == 1
    assert WorkerTable(segment).live() == [1]
    dying.close()
    assert WorkerTable(segment).live() == []
    assert claim(attach(), 101).row == 1


def test_the_table_says_who_has_a_row(attach, segment):
    claim(attach(), 100)
    claim(attach(), 101, role="é" * 40, lineage=7)
    table = WorkerTable(segment)
    worker = table.read(1)
    assert (worker.pid, worker.start_ticks, worker.claimed_at, worker.claims) == (100, 1000, 1e9 + 100, 1)
    assert worker.role == "worker 100"
    assert table.read(2).role == "é" * 32, "cut to 64 bytes, at a character"
    assert table.read(2).lineage == 7
    assert table.used() == table.live() == [1, 2]


def test_rows_used_are_the_greatest_number_of_workers_at_once(attach, segment):
    for pid in range(100, 120):
        dying = attach()
        claim(dying, pid)
        dying.close()
    table = WorkerTable(segment)
    assert table.used() == [1]
    assert table.reaped() == 19
    assert table.read(1).claims == 20
    assert table.read(1).pid == 119


def test_a_row_counts_as_alive_only_once_it_is_in_order(attach, segment):
    lay_out(segment, L.SLOT_STAMP_MIN, L.SLOT_VALUE)
    left_behind(attach, [5.0, 1.0])
    seen = []

    def look(work):
        seen.append(WorkerTable(segment).live())
        return run(work)

    claim(attach(), 200, ledger_lock=look)
    assert seen == [[]]
    assert WorkerTable(segment).live() == [1]


def test_counters_and_sums_are_inherited_as_they_are(attach, segment):
    lay_out(
        segment, L.SLOT_ADDS, L.SLOT_STAMP_INHERITED, L.SLOT_VALUE, L.SLOT_STAMP_INHERITED, L.SLOT_VALUE, L.SLOT_DELTA
    )
    values = [7.0, 5.0, 1.5, 6.0, 2.5, -3.0]
    assert inherited(attach, values) == values


def test_live_and_all_gauges_are_cleared(attach, segment):
    lay_out(segment, L.SLOT_STAMP_CLEARED, L.SLOT_VALUE, L.SLOT_ADDS)
    assert inherited(attach, [5.0, 1.5, 7.0]) == [0.0, 0.0, 7.0]
    assert segment.matrix[L.LEDGER_ROW, FIRST : FIRST + 3].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("code", "kept"),
    [(L.SLOT_STAMP_MIN, (9.0, -2.0)), (L.SLOT_STAMP_MAX, (9.0, 4.0)), (L.SLOT_STAMP_NEWEST, (9.0, 1.0))],
)
def test_what_the_dead_say_of_least_greatest_and_newest_is_folded_into_the_ledger_row(attach, segment, code, kept):
    lay_out(segment, code, L.SLOT_VALUE)
    for said in ([5.0, 4.0], [9.0, 1.0], [7.0, -2.0]):
        assert inherited(attach, said) == [0.0, 0.0]
    assert tuple(segment.matrix[L.LEDGER_ROW, FIRST : FIRST + 2]) == kept


def test_a_value_never_set_is_not_folded(attach, segment):
    lay_out(segment, L.SLOT_STAMP_MIN, L.SLOT_VALUE)
    assert inherited(attach, [0.0, -99.0])[0] == 0.0
    assert segment.matrix[L.LEDGER_ROW, FIRST] == 0.0


def test_a_row_whose_dead_cannot_be_folded_now_is_left_to_the_next(attach, segment):
    lay_out(segment, L.SLOT_STAMP_MIN, L.SLOT_VALUE)
    row = left_behind(attach, [5.0, 1.0])
    lease = claim(attach(), 200, ledger_lock=lambda work: False)
    assert lease.row != row
    assert segment.matrix[row, FIRST : FIRST + 2].tolist() == [5.0, 1.0]
    assert claim(attach(), 201).row == row
    assert segment.matrix[L.LEDGER_ROW, FIRST : FIRST + 2].tolist() == [5.0, 1.0]


def test_folding_twice_changes_nothing(attach, segment):
    """An owner that is killed between folding and clearing leaves both; the next one folds again."""
    lay_out(segment, L.SLOT_STAMP_MAX, L.SLOT_VALUE)
    row = left_behind(attach, [5.0, 3.0])

    class Killed(BaseException):
        pass

    def killed_after(work):
        work()
        raise Killed

    dying = attach()
    with pytest.raises(Killed):
        claim(dying, 200, ledger_lock=killed_after)
    dying.close()
    assert segment.matrix[row, FIRST] == 5.0
    claim(attach(), 201)
    assert segment.matrix[row, FIRST] == 0.0
    assert segment.matrix[L.LEDGER_ROW, FIRST : FIRST + 2].tolist() == [5.0, 3.0]


@pytest.mark.parametrize(
    ("found", "right"),
    [
        ([3.0, 2.0, 1.0, 9.5, 9.0], [3.0, 2.0, 1.0, 9.5, 9.0]),
        ([4.0, 2.0, 1.0, 9.5, 9.0], [3.0, 2.0, 1.0, 9.5, 9.0]),
        ([0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]),
        ([1.0, 0.0, 0.0, 0.0, 7.0], [0.0, 0.0, 0.0, 0.0, 7.0]),
    ],
)
def test_a_histogram_whose_owner_died_in_the_middle_is_put_right_by_its_count(attach, segment, found, right):
    shape = [L.SLOT_SEQUENCE, L.SLOT_BUCKET, L.SLOT_BUCKET, L.SLOT_SUM, L.SLOT_SUM]
    lay_out(segment, L.SLOT_ADDS, *shape, *shape, L.SLOT_ADDS)
    whole = [2.0, 1.0, 1.0, 5.0, 4.0]
    values = [7.0, *found, *whole, 8.0]
    assert inherited(attach, values) == [7.0, *right, *whole, 8.0]


def test_only_slots_in_use_are_looked_at(attach, segment):
    lay_out(segment, L.SLOT_ADDS)
    segment.bytes[SMALL.slot_map + FIRST + 1 : SMALL.slot_map + FIRST + 3] = bytes([L.SLOT_STAMP_CLEARED, L.SLOT_VALUE])
    assert inherited(attach, [7.0, 5.0, 6.0]) == [7.0, 5.0, 6.0]


def test_a_worker_without_a_row_is_counted(attach, segment):
    table = WorkerTable(segment)
    assert table.rowless() == 0
    for n in (0, 1, 5):
        attach().locks.try_exclusive(L.LOCK_ROWLESS + n)
    assert table.rowless() == 3


def test_a_row_for_which_there_is_no_memory_is_left_free(attach, segment, monkeypatch):
    def full(self, offset, length):
        raise SegmentFullError("no room")

    worker = attach()
    monkeypatch.setattr(Segment, "reserve", full)
    with pytest.raises(SegmentFullError):
        claim(worker)
    monkeypatch.undo()
    assert claim(attach(), 101).row == 1
