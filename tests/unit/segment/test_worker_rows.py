"""Rows: claimed, inherited, put in order; who is alive is what the kernel says."""

from __future__ import annotations

import pytest

from shm_metrics.errors import SegmentFullError
from shm_metrics.model.families import GAUGE, Family
from shm_metrics.segment import layout as L
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.removals import EVERY_SLOT, Removals
from shm_metrics.segment.segment import Segment
from shm_metrics.segment.slots import slot_codes
from shm_metrics.segment.worker_rows import WorkerTable, claim_row, follow_removals

SMALL = Layout(rows=3, slots=1024)
FIRST = L.FIRST_SERIES_SLOT

SHARED = list(slot_codes(Family("shared", GAUGE, mode="shared")))


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
    leases.clear()
    for segment in held:
        segment.close()


@pytest.fixture
def segment(attach):
    """A holder of the segment that owns no row, so that it stays there while workers come and go."""
    return attach()


leases = []  # a lease that nobody holds gives its row up


def claim(segment, pid=100, ledger_lock=run, **options):
    arguments = {"pid": pid, "start_ticks": pid * 10, "now": 1e9 + pid, "role": f"worker {pid}", **options}
    leases.append(claim_row(segment, ledger_lock=ledger_lock, **arguments))
    return leases[-1]


def lay_out(segment, *codes):
    """Say of the first slots of series what they are."""
    segment.bytes[SMALL.slot_map + FIRST : SMALL.slot_map + FIRST + len(codes)] = bytes(codes)
    segment.set(L.SLOTS_USED_OFFSET, FIRST + len(codes))
    segment.reserve_slots(L.LEDGER_ROW, FIRST, len(codes))


def removed(segment, *slots, reused=False, reset=False):
    """One more removal for each of `slots`, as the allocator makes it."""
    removals = Removals(segment)
    for slot in slots:
        generation = removals.generation + 1
        removals.note(generation, slot, (L.REUSED if reused else 0) | (L.RESET if reset else 0))
        segment.set(L.GENERATION_OFFSET, generation)
        if slot < SMALL.slots:
            segment.codes[slot] |= L.SLOT_REMOVED
            set_generation(segment, slot, generation)


def set_generation(segment, slot, generation):
    at = SMALL.slot_table + slot * L.SLOT_ENTRY_BYTES + L.SLOT_GENERATION_OFFSET
    segment.bytes[at : at + L.WORD] = generation.to_bytes(L.WORD, "little")


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
    removed(segment, FIRST, SMALL.slots - 1)
    claim(attach(), 101, role="é" * 40)
    table = WorkerTable(segment)
    worker = table.read(1)
    assert (worker.pid, worker.start_ticks, worker.claimed_at, worker.claims) == (100, 1000, 1e9 + 100, 1)
    assert worker.role == "worker 100"
    assert table.read(2).role == "é" * 32, "cut to 64 bytes, at a character"
    assert [table.read(row).generation for row in (1, 2)] == [table.generation(row) for row in (1, 2)] == [0, 2]
    assert table.generations([2, 1]).tolist() == [2, 0]
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


def test_counters_sums_and_shared_gauges_are_inherited_as_they_are(attach, segment):
    lay_out(segment, L.SLOT_ADDS, L.SLOT_STAMP_INHERITED, L.SLOT_VALUE, *SHARED)
    values = [7.0, 5.0, 1.5, 6.0, 2.5, 7.0, 3.5, 7.0, -3.0]
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


# -- removals ----------------------------------------------------------------------------------------------------------

HISTOGRAM = [L.SLOT_SEQUENCE, L.SLOT_BUCKET, L.SLOT_BUCKET, L.SLOT_SUM, L.SLOT_SUM]
SHAPES = ([L.SLOT_ADDS], HISTOGRAM, [L.SLOT_STAMP_INHERITED, L.SLOT_VALUE], SHARED)


@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_a_new_owner_zeroes_all_of_what_was_removed_and_nothing_beside_it(attach, segment, shape):
    lay_out(segment, L.SLOT_ADDS, *shape, L.SLOT_ADDS)
    values = [7.0, *[float(n + 1) for n in range(len(shape))], 8.0]
    row = left_behind(attach, values)
    removed(segment, FIRST + 1)
    claim(attach(), 200)
    assert segment.matrix[row, FIRST : FIRST + len(values)].tolist() == [7.0, *[0.0] * len(shape), 8.0]
    assert WorkerTable(segment).generation(row) == 1


def test_a_first_owner_has_followed_everything(attach, segment):
    removed(segment, FIRST, FIRST)
    lease = claim(attach())
    assert WorkerTable(segment).generation(lease.row) == lease.generation()[0] == 2


def follow(segment, row, *, start=None, newest=None):
    """What follow_removals() says of the slots of series that were removed, and of all of them."""
    said = []
    follow_removals(
        segment,
        segment.row_view(row),
        segment.row_pages(row),
        leases[-1].generation(),
        Removals(segment).generation if newest is None else newest,
        start,
        lambda slot, carry: said.append((slot, carry)),
        lambda since: said.append(("all", since)),
    )
    return said


@pytest.fixture
def owner(attach, segment):
    """A row with 1, 2, 3, ... in counters from the first slot on, and its segment."""
    lay_out(segment, *[L.SLOT_ADDS] * 8)
    mine = attach()
    row = claim(mine).row
    mine.reserve_slots(row, FIRST, 8)
    mine.matrix[row, FIRST : FIRST + 8] = range(1, 9)
    return mine, row


def counts(segment, row):
    return segment.matrix[row, FIRST : FIRST + 8].tolist()


def test_a_living_owner_zeroes_what_was_removed_once(owner, segment):
    mine, row = owner
    removed(segment, FIRST, FIRST + 2)
    assert follow(mine, row) == [(FIRST, False), (FIRST + 2, False)]
    assert counts(segment, row) == [0.0, 2.0, 0.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert leases[-1].generation()[0] == 2
    mine.matrix[row, FIRST] = 9.0  # of the life after
    assert follow(mine, row) == []
    assert counts(segment, row)[0] == 9.0


def test_only_removals_up_to_the_one_that_is_asked_for_are_followed(owner, segment):
    mine, row = owner
    removed(segment, FIRST, FIRST + 1, FIRST + 2)
    follow(mine, row, newest=2)
    assert counts(segment, row)[:3] == [0.0, 0.0, 3.0]
    assert leases[-1].generation()[0] == 2


def test_a_reset_is_zeroed_and_lets_no_cell_go(owner, segment):
    mine, row = owner
    removed(segment, FIRST, reset=True)
    assert follow(mine, row) == []
    assert counts(segment, row)[:2] == [0.0, 2.0]


def test_cells_in_slots_that_were_reused_are_let_go_with_what_the_row_has_there(owner, segment):
    mine, row = owner
    removed(segment, FIRST)
    removed(segment, FIRST + 1, FIRST + 2, reused=True)
    assert follow(mine, row) == [(FIRST, False), (FIRST + 1, True), (FIRST + 2, True)]
    assert counts(segment, row)[:4] == [0.0, 0.0, 0.0, 4.0]


def test_cells_that_are_behind_their_row_are_let_go_without_what_the_row_has(owner, segment):
    """They were in private memory while the row was put in order: what is in the row is the next series'."""
    mine, row = owner
    removed(segment, FIRST, reused=True)
    follow(mine, row)
    mine.matrix[row, FIRST] = 9.0
    assert follow(mine, row, start=0) == [(FIRST, False)]
    assert counts(segment, row)[0] == 9.0, "what was followed is not zeroed again"


def test_of_every_slot_those_are_zeroed_that_the_slot_table_names(owner, segment):
    mine, row = owner
    for slot in (FIRST + 1, FIRST + 5):
        set_generation(segment, slot, 1)
    removed(segment, EVERY_SLOT, reused=True)
    assert follow(mine, row) == [("all", None)]
    assert counts(segment, row) == [1.0, 0.0, 3.0, 4.0, 5.0, 0.0, 7.0, 8.0]
    assert leases[-1].generation()[0] == 1


def test_an_owner_that_is_further_behind_than_the_ring_looks_at_every_slot(owner, segment):
    mine, row = owner
    removed(segment, FIRST)
    removed(segment, *[FIRST + 3] * L.REMOVALS)
    assert follow(mine, row) == [("all", 0)]
    assert counts(segment, row) == [0.0, 2.0, 3.0, 0.0, 5.0, 6.0, 7.0, 8.0]
    assert leases[-1].generation()[0] == L.REMOVALS + 1


def test_a_page_that_the_row_does_not_have_is_not_touched(attach, segment):
    lay_out(segment, *[L.SLOT_ADDS] * 600)
    mine = attach()
    row = claim(mine).row
    mine.matrix[row, FIRST] = 5.0
    before = segment.allocated_bytes()
    removed(segment, FIRST, FIRST + 590)
    before_following = segment.allocated_bytes()
    follow(mine, row)
    assert segment.matrix[row, FIRST] == 0.0
    assert segment.allocated_bytes() == before_following >= before
    assert not segment.pages[row, 1]


@pytest.mark.parametrize("code", [L.SLOT_STAMP_MIN, L.SLOT_STAMP_MAX, L.SLOT_STAMP_NEWEST])
def test_what_is_folded_does_not_meet_what_the_dead_of_an_earlier_life_said(attach, segment, code):
    lay_out(segment, code, L.SLOT_VALUE)
    assert inherited(attach, [5.0, 4.0]) == [0.0, 0.0]
    assert tuple(segment.matrix[L.LEDGER_ROW, FIRST : FIRST + 2]) == (5.0, 4.0)
    removed(segment, FIRST)
    segment.codes[FIRST] &= ~L.SLOT_REMOVED  # it is asked for again
    for value in (7.0, 1.0):
        assert inherited(attach, [6.0, value]) == [0.0, 0.0]
        segment.matrix[L.LEDGER_ROW, FIRST + 1] = value
    assert segment.matrix[L.LEDGER_ROW, FIRST] == 6.0
    assert WorkerTable(segment).generation(L.LEDGER_ROW) == 1


def test_folding_after_a_removal_keeps_what_a_shared_gauge_has_in_the_ledger(attach, segment):
    """Its words there are all workers': none of them names a base of the life after."""
    lay_out(segment, L.SLOT_STAMP_MAX, L.SLOT_VALUE, *SHARED)
    segment.matrix[L.LEDGER_ROW, FIRST + 2 : FIRST + 8] = range(1, 7)
    removed(segment, FIRST + 2)
    inherited(attach, [5.0, 4.0, *[0.0] * 6])
    assert segment.matrix[L.LEDGER_ROW, FIRST : FIRST + 8].tolist() == [5.0, 4.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


# -- families in use ---------------------------------------------------------------------------------------------------


def test_a_row_says_which_families_its_worker_uses(attach, segment):
    lease = claim(attach(), families=[1, 8, L.MAX_USED_FAMILIES - 1])
    table = WorkerTable(segment)
    assert [n for n in range(L.MAX_USED_FAMILIES) if table.uses(lease.row, n)] == [1, 8, L.MAX_USED_FAMILIES - 1]
    assert not any(table.uses(lease.row + 1, n) for n in range(L.MAX_USED_FAMILIES))
    lease.use(9)
    lease.use(8, False)
    assert [table.uses(lease.row, n) for n in (7, 8, 9, 10)] == [False, False, True, False]
    lease.use(L.MAX_USED_FAMILIES)
    assert table.uses(lease.row, L.MAX_USED_FAMILIES), "a family beyond them counts as used"
    assert not table.uses(lease.row + 1, 0)


def test_a_new_owner_uses_what_it_says_and_not_what_the_dead_one_used(attach, segment):
    dying = attach()
    row = claim(dying, families=[1, 2]).row
    dying.close()
    assert claim(attach(), 200, families=[2, 3]).row == row
    assert [n for n in range(100) if WorkerTable(segment).uses(row, n)] == [2, 3]
