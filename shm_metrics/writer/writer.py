"""The writer: this process' row and cells in one segment, and how they survive errors.

Where a cell writes:
    normally                             this process' row, the series' slots
    no slot left                         this process' row, the family's overflow series
    no row left                          private memory, slot for slot; moved into a row as soon as one is free
    catalog locked, or no memory for it  private memory of the cell's own; moved when the series can be made
"""

from __future__ import annotations

import _thread
import atexit
import logging
import mmap
import os
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from shm_metrics.errors import SegmentError, SegmentFullError
from shm_metrics.model.families import Family, LabelPairs
from shm_metrics.native.implementation import cells
from shm_metrics.runtime import forks
from shm_metrics.runtime.cached_property import cached_property
from shm_metrics.runtime.call_lock import BusyCallError, CallLock, ForkedCallError
from shm_metrics.runtime.log_once import LogOnce
from shm_metrics.runtime.procfs import own_start_ticks
from shm_metrics.runtime.signals import deferred_signals
from shm_metrics.segment import layout as L
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.location import SegmentLocation
from shm_metrics.segment.segment import Segment
from shm_metrics.segment.slots import slot_codes
from shm_metrics.segment.worker_rows import RowLease, claim_row, follow_removals
from shm_metrics.writer.allocator import Allocator, CatalogBusyError, FamilyPlace, SeriesPlace
from shm_metrics.writer.bound_cells import BoundCells
from shm_metrics.writer.exemplar_table import ExemplarTable

if TYPE_CHECKING:
    from shm_metrics.reader.reader import Reader

__all__ = ["Writer", "set_process_role"]

log = logging.getLogger("shm_metrics")

_SEARCH_SECONDS = 1.0
_MOST_LOGGED = 20  # messages of a process, where each names another metric

REPAIR_SECONDS = 1.0


class Writer:
    """This process as a worker of one segment. Raises what Segment.attach() raises.

    row: the Row that every cell of this process writes through. pid: the process id to show, by default this one's.
    """

    def __init__(
        self,
        place: SegmentLocation,
        layout: Layout,
        *,
        keep: bool = False,
        private: bool = False,
        role: str = "",
        pid: int | None = None,
    ) -> None:
        pid_before = os.getpid()
        self.segment = Segment.private(layout) if private else Segment.attach(place, layout, keep=keep)
        self.role = role
        self._shown_pid = pid
        self.allocator = Allocator(self.segment, _reader_of(self))
        self.lease: RowLease | None = None
        self.closed = False
        self.row = cells.private_row(L.FIRST_SERIES_SLOT)
        self.row.watch(_follower(self))
        self._wanted_pages = bytearray(self.segment.layout.pages_per_row)
        self._wanted_pages[0] = 1
        self._cells = BoundCells()
        self._rowless_byte: int | None = None
        self._carried: Any = None  # private memory from which an adoption was not yet carried over in full
        self._rowless: dict[int, Any] = {}  # slot -> a cell of it; kept alive, so that no count dies with its cell
        self._families: dict[int, tuple[Family, FamilyPlace]] = {}
        self._waiting: list[tuple[Any, Family, LabelPairs, LabelPairs]] = []
        self._exemplars: ExemplarTable | None = None
        self._log_once = LogOnce(log)
        self._no_room: dict[bytes, tuple[tuple[int, int], float]] = {}  # shape -> fullness and time of a vain search
        self._repairing = False
        self._repair_lock = CallLock(patient=False)
        # No fork on top of this: its child would have the same row. One before it shares the segment's description.
        with deferred_signals():
            if os.getpid() != pid_before:
                self.segment.new_description()()
            self._take_row()
            self.row.follow(self.row.memory()[0].followed[0])  # there are no cells yet that would have to follow
            _writers.add(self)

    @property
    def pid(self) -> int:
        """The process as which this worker is shown."""
        return os.getpid() if self._shown_pid is None else self._shown_pid

    def own_rows(self) -> tuple[int, ...]:
        return () if self.lease is None else (self.lease.row,)

    @cached_property
    def reader(self) -> Reader:
        """The reader of this segment. Loads numpy; a process that only counts never needs it."""
        with forks.block_forks():
            from shm_metrics.reader.reader import Reader

        return Reader(self.segment, self.own_rows)

    # -- the row --------------------------------------------------------------------------------------------------

    def _take_row(self) -> None:
        segment = self.segment
        self.lease = self._claim()
        if self.lease is not None:
            self._point(self.row, self.lease)
            self._exemplars = ExemplarTable(segment, self.lease.row)
            return
        self._wait_in_private_memory()
        for n in range(L.ROWLESS_BYTES):
            if segment.locks.try_exclusive(L.LOCK_ROWLESS + n):
                self._rowless_byte = n
                break
        self._warn_once("rows", "no free row: this worker counts in private memory until one is free; raise rows=")
        self._start_repairs()

    def _point(self, row: Any, lease: RowLease) -> None:
        """Point `row` to the row of the lease."""
        segment, followed = self.segment, lease.generation()
        view = segment.row_view(lease.row)
        content = _Content(view, segment.row_pages(lease.row), followed)
        row.point(view, segment.row_view(L.LEDGER_ROW), self._generation(), content, False)

    def _generation(self) -> memoryview:
        return self.segment.bytes[L.GENERATION_OFFSET : L.GENERATION_OFFSET + L.WORD].cast("Q")

    def _wait_in_private_memory(self) -> None:
        """Count in private memory, and keep track of the cells to move into a row."""
        self._point_to_private_memory()
        self._rowless = {cell.place()[1]: cell for cell in self._cells.all() if cell.place()[0] is self.row}

    def _point_to_private_memory(self) -> None:
        size = self.segment.layout.row_bytes
        view, ledger = (
            memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)).cast("d") for _ in range(2)
        )
        followed = memoryview(bytearray(L.WORD)).cast("Q")
        followed[0] = self.segment.get(L.GENERATION_OFFSET)
        generation = followed if self.closed else self._generation()
        self.row.point(view, ledger, generation, _Content(view, None, followed, ledger), True)
        if self.closed:
            self.row.settle()

    def _claim(self) -> RowLease | None:
        try:
            return claim_row(
                self.segment,
                pid=self.pid,
                start_ticks=own_start_ticks(),
                now=time.time(),
                role=self.role or _process_role,
                ledger_lock=self._under_catalog_lock,
                wanted_pages=bytes(self._wanted_pages),
                families=[place.number for _, place in list(self._families.values())],
            )
        except SegmentFullError as error:
            self._warn_once("memory", str(error))
            return None

    def _under_catalog_lock(self, work: Any) -> bool:
        try:
            self.allocator.run_locked(work)
        except CatalogBusyError:
            return False
        return True

    def set_role(self, role: str) -> None:
        """Set the role shown in the worker table."""
        self.role = role
        self.show_role()

    def show_role(self) -> None:
        """Write the role into the worker table: the backend's own, else the process'."""
        if self.lease is not None:
            self.lease.set_role(self.role or _process_role)

    # -- cells ----------------------------------------------------------------------------------------------------

    def family(self, family: Family, labelled: bool) -> FamilyPlace | None:
        """Return the family's place in the catalog, or None if the catalog is busy or full."""
        # Before taking the catalog lock: through an inherited description it excludes no other child.
        forks.detect_unannounced_fork()
        if self.closed:
            return None
        try:
            return self._family(family, labelled)
        except (CatalogBusyError, SegmentFullError) as error:
            self._warn_once(type(error).__name__, f"family {family.name}: {error}")
            return None

    def _family(self, family: Family, labelled: bool) -> FamilyPlace:
        known = self._families.get(id(family))
        if known is None:
            self._check_lease()
            # Keep the family itself: its id must stay unique.
            known = family, self.allocator.family(family, labelled, time.time())
            if self.lease is not None:
                self.lease.use(known[1].number)
            self._families[id(family)] = known
        return known[1]

    def show(self, family: Family) -> None:
        """Show this definition of its name, though another one was recorded later."""
        if self.family(family, False) is None:
            return
        for other, place in list(self._families.values()):
            if other.name == family.name and other != family:
                self._families.pop(id(other), None)
                if self.lease is not None:
                    self.lease.use(place.number, False)
        try:
            self.allocator.show(family)
        except (CatalogBusyError, SegmentFullError) as error:
            self._warn_once(type(error).__name__, f"family {family.name}: {error}; an older definition of it is shown")

    def bind(
        self, cell: Any, family: Family, labels: LabelPairs, payload: LabelPairs = (), *, move: bool = False
    ) -> bool:
        """Bind `cell` to its slots. Return whether they are the series' own, not the overflow or private memory.

        move: carry over what the cell has counted in private memory.
        """
        place_cell = cell.move if move else cell.bind
        forks.detect_unannounced_fork()
        if self._waiting and not self._repairing:
            self._start_repairs()  # an exception prevented it before
        if self.closed:
            self._put_aside(cell, family)
            return False
        found: FamilyPlace | None = None
        seen = self.row.followed()
        try:
            found = self._family(family, bool(labels))
            if self.allocator.lacks_room(family, found, labels, payload):
                if "slots" not in self._log_once:
                    self._warn_once("slots", f"series of {family.name}: {self.allocator.no_slots()}")
                self._bind_overflow(cell, place_cell, family, found, move)
                return False
            self._check_lease()
            place = self.allocator.series(family, found, labels, payload, time.time(), time.monotonic())
            self._reserve(place.slot, place.slots)
        except CatalogBusyError as error:
            kept = "what it counts is kept until the series can be made"
            self._warn_once("busy", f"series of {family.name}: {error}; {kept}")
            self._wait(cell, family, labels, payload, move)
            return False
        except SegmentFullError as error:
            self._warn_once("slots", f"series of {family.name}: {error}")
            self._bind_overflow(cell, place_cell, family, found, move)
            return False
        if move:
            # Another series may have had the slots: the carried count must not be zeroed with what that one left.
            self.follow_removals()
            if self.allocator.table.owner(place.slot) != place.hash:
                return self.bind(cell, family, labels, payload, move=True)
        self._remember(cell, place.slot, place.hash)
        place_cell(self.row, place.slot)
        if self.row.followed() != seen and self.allocator.table.owner(place.slot) != place.hash:
            # Removed and reused since the lookup, and this process has followed that already.
            return self.bind(cell, family, labels, payload)
        return True

    def _check_lease(self) -> None:
        lease = self.lease
        if lease is not None and not lease.held and self.lease is lease:  # unless a fork on top replaced it
            self.count_privately(SegmentError("something closed the descriptor that kept this process' row"))

    def place_of(self, family: Family, labels: LabelPairs, payload: LabelPairs = ()) -> SeriesPlace | None:
        """Return the living series, or None. Make none. Raise SegmentError when closed."""
        if self.closed:
            raise SegmentError(f"{self.segment.place.path}: closed by this process; make another MetricsBackend")
        found = self.family(family, bool(labels))
        return None if found is None else self.allocator.find(found, labels, payload)

    def has(self, family: Family, labels: LabelPairs | None = None) -> bool:
        """Return whether the segment has the family, and the living series if labels are given. Make nothing."""
        if self.closed:
            return False
        found = self.allocator.find_family(family)
        return found is not None and (labels is None or self.allocator.find(found, labels) is not None)

    def _reserve(self, slot: int, count: int) -> None:
        # Noted first: a lease that is taken in between finds it.
        for page in range(slot // L.SLOTS_PER_PAGE, (slot + count - 1) // L.SLOTS_PER_PAGE + 1):
            self._wanted_pages[page] = 1
        if self.lease is not None:
            self.segment.reserve_slots(self.lease.row, slot, count)

    def may_have_room(self, family: Family) -> bool:
        """Return whether an overflowed series of the family is worth another search, as an update asks each time.

        It is when a series was removed, or took slots, since the last search in vain; and once a second, for what else
        may give room: memory of the file system, another writer's end.
        """
        last = self._no_room.get(slot_codes(family))
        return last is None or last[0] != self.allocator.fullness() or time.monotonic() >= last[1] + _SEARCH_SECONDS

    def _bind_overflow(self, cell: Any, place_cell: Any, family: Family, found: FamilyPlace | None, move: bool) -> None:
        self._no_room[slot_codes(family)] = self.allocator.fullness(), time.monotonic()
        cell.overflowed = True
        if found is not None and found.overflow is not None:
            try:
                self._reserve(found.overflow, len(slot_codes(family)))
            except SegmentFullError:
                pass
            else:
                self._remember(cell, found.overflow, self.allocator.table.owner(found.overflow))
                place_cell(self.row, found.overflow)
                return
        if len(self._log_once) < _MOST_LOGGED:
            self._warn_once(
                f"nowhere {family.name}", f"{family.name}: nothing of it is shown until there is room for it"
            )
        if move:
            cell.place()[0].settle()
        else:
            self._put_aside(cell, family)

    def _put_aside(self, cell: Any, family: Family) -> None:
        cell.bind(cells.private_row(len(slot_codes(family))), 0)

    def _wait(self, cell: Any, family: Family, labels: LabelPairs, payload: LabelPairs, move: bool) -> None:
        # Append before settle(): an exception in between loses no count.
        if not move:
            self._put_aside(cell, family)
        self._waiting.append((cell, family, labels, payload))
        if move:
            cell.place()[0].settle()
        self._start_repairs()

    def count_overflow(self) -> None:
        """Count one update that went to an overflow series, or was lost."""
        self.row.add(L.SLOT_OVERFLOWED_UPDATES, 1.0)

    # -- exemplars ------------------------------------------------------------------------------------------------

    def keep_exemplar(self, cell: Any, position: int, text: bytes, value: float, timestamp: float) -> bool:
        """Keep the newest exemplar of one slot of a cell's series. text: from exemplar_text.

        position: of the slot within the series. Return False when it is left out: the cell counts in private memory,
        or there is no memory for the exemplar, which is counted and logged once.
        """
        table, (row, slot) = self._exemplars, cell.place()
        if table is None or row is not self.row:
            return False
        try:
            return table.keep(slot + position, value, timestamp, time.monotonic(), text)
        except SegmentFullError as error:
            self.row.add(L.SLOT_DROPPED_EXEMPLARS, 1.0)
            self._warn_once("exemplars", f"exemplars are left out: {error}")
            return False

    def _forget_exemplars(self) -> None:
        """Stop keeping exemplars in a row that is no longer ours."""
        table, self._exemplars = self._exemplars, None
        if table is not None:
            table.revoke()

    def _warn_once(self, kind: str, message: str) -> None:
        self._log_once.warning(kind, "shm_metrics: %s", message)

    # -- the way back ---------------------------------------------------------------------------------------------

    def repair(self) -> bool:
        """Move what waits in private memory into the segment. Return whether nothing waits any more."""
        try:
            self._repair_lock.run(self._repair)
        except (BusyCallError, ForkedCallError):
            return False  # another call is running, or this process was forked on top of this one
        return not self._waits()

    def _repair(self) -> None:
        if self._without_row() and not self.closed:
            if self.segment.locks.fd < 0:
                self.segment.reopen()
            with deferred_signals():  # a child forked on top of a claim would go on in its parent's row
                if self._repair_lock.poisoned:
                    raise ForkedCallError
                lease = self.lease or self._claim()
            if lease is not None:
                self._adopt(lease)
        for _ in range(0 if self.closed else len(self._waiting)):
            # Remove it from the list only when it has its place: a child forked in between must find it there.
            cell, family, labels, payload = self._waiting[0]
            if cell.place()[0] is not self.row:
                self.bind(cell, family, labels, payload, move=True)
            if self._repair_lock.poisoned:
                raise ForkedCallError
            del self._waiting[0]

    def _waits(self) -> bool:
        return not self.closed and (self._without_row() or bool(self._waiting))

    def _without_row(self) -> bool:
        """Return whether there is no row yet, also after an exception in _adopt(), which must run again."""
        return (
            self.lease is None
            or bool(self.row.memory()[1])
            or self._carried is not None
            or self._rowless_byte is not None
        )

    def _adopt(self, lease: RowLease) -> None:
        """Move into the row. It can be repeated after an exception.

        A child that was forked on top of this call has a row of its own, and the lease stays the parent's. No signal
        handler runs between a check of the lock and the store after it.
        """
        segment, row, lock = self.segment, lease.row, self._repair_lock
        if lock.poisoned:
            lease.forget()
            raise ForkedCallError
        self.lease = lease
        if self.row.memory()[1] or self._carried is not None:
            shared = cells.private_row(1)
            self._point(shared, lease)
            shared.follow(lease.generation()[0])
            self.follow_removals()
            # Include the pages and families of what another thread made since the row was claimed.
            segment.reserve_pages(row, bytes(self._wanted_pages))
            for _, place in list(self._families.values()):
                lease.use(place.number)
            exemplars = ExemplarTable(segment, row)
            carried = self._carried
            if carried is None:
                carried = cells.private_row(1)
                carried.take(self.row)
            if lock.poisoned:
                raise ForkedCallError
            self._carried = carried  # until all is carried over: after an exception the rest is
            self._exemplars = exemplars
            cells.adopt(self.row, shared, self._rowless, carried)
            overflowed = carried.read(L.SLOT_OVERFLOWED_UPDATES)
            self._carried = None
            self.row.add(L.SLOT_OVERFLOWED_UPDATES, overflowed)
        if lock.poisoned:
            raise ForkedCallError
        self._rowless = {}
        if self._rowless_byte is not None:
            segment.locks.release(L.LOCK_ROWLESS + self._rowless_byte)
            self._rowless_byte = None

    def _remember(self, cell: Any, slot: int, hash_: int) -> None:
        """Keep track of a cell by a weak reference, or a strong one if its counts would be lost with it."""
        if self.row.memory()[1]:
            self._rowless[slot] = cell
        self._cells.add(slot, hash_, cell)

    # -- removals -------------------------------------------------------------------------------------------------

    def follow(self, cell: Any) -> None:
        """Bring the row up to the segment's removals, and rebind `cell`, which is about to write, if needed."""
        while True:
            if cell.place()[0] is self.row:
                self.follow_removals()
                if cell.place()[0] is self.row:
                    return
            cell.rebind()
            if cell.place()[0] is not self.row:
                return  # in private memory, until there is a place for it
            # In our row again, which has not followed removals from before the series was made again.

    def follow_removals(self) -> None:
        """Zero removed series in our row; their cells rebind when they write next."""
        content, _ = self.row.memory()
        newest, start = self.segment.get(L.GENERATION_OFFSET), self.row.followed()
        follow_removals(
            *(self.segment, content.view, content.pages, content.followed, newest, start),
            *(self._let_go, self._let_all_go, content.private_ledger),
        )
        if self.row.followed() < newest:
            self.row.follow(newest)

    def _let_go(self, slot: int, carry: bool) -> None:
        """Detach the cells of the removed series at `slot`: they rebind when they write. carry: keep the counts."""
        for _, cell in self._cells.at(slot):
            self._put_off(cell, slot, carry)

    def _let_all_go(self, since: int | None) -> None:
        """Do the same for all series whose slots are others' now, or that were removed since a generation."""
        table = self.allocator.table
        for slot in self._cells.slots():
            owner, removed = table.owner(slot), since is not None and table.generation(slot) > since
            for hash_, cell in self._cells.at(slot):
                if hash_ != owner or removed:
                    self._put_off(cell, slot, not removed)

    def _put_off(self, cell: Any, slot: int, carry: bool) -> None:
        """Make the cell rebind when it writes next."""
        if cell.place() == (self.row, slot):
            aside = cells.private_row(cell.slots())
            aside.watch(self.row.follower_of())
            aside.unsettle()
            (cell.move if carry else cell.bind)(aside, 0)
            self._rowless.pop(slot, None)

    def _start_repairs(self) -> None:
        if self._repairing:
            return
        try:
            self._repairing = True
            # Not a threading.Thread: starting one takes a lock, which a signal handler may interrupt.
            _thread.start_new_thread(_repair_until_done, (weakref.ref(self),))
        except RuntimeError as error:
            self._repairing = False  # the next cell in private memory tries again
            self._warn_once("thread", f"what waits in private memory cannot be moved yet: {error}")
        except BaseException:
            self._repairing = False  # the same; a second thread does no harm
            raise

    # -- fork and close -------------------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Claim a row for the child; the parent reports what it counted in private memory."""
        if self.closed:
            return
        _, was_rowless = self.row.memory()
        if self.lease is not None:
            self.lease.forget()
        self._forget_exemplars()
        self.row.renew()
        self.allocator.renew()
        self._cells.renew()
        if "reader" in self.__dict__:
            self.reader.renew()
        self._repairing = False
        self._repair_lock.renew()
        close_inherited = self.segment.new_description()
        # The inherited description keeps the parent's locks alive: close it before waiting for any lock.
        close_inherited()
        if was_rowless:
            self._point_to_private_memory()  # the parent reports what it counted in its own memory
        # Cells that the parent's thread has just moved are in the parent's row by now.
        self._waiting = [waiting for waiting in self._waiting if waiting[0].place()[0] is not self.row]
        for cell, *_ in self._waiting:
            cell.place()[0].renew()
            cell.forget()
        self.lease = None
        self._rowless, self._rowless_byte, self._carried = {}, None, None
        self._take_row()
        if self._waiting:
            self._start_repairs()

    def count_privately(self, error: Exception) -> None:
        """Count in private memory after a failed fork hook, or after the row was lost: its next owner writes there."""
        self._forget_exemplars()
        if self.lease is not None:
            self.lease.forget()
        self._wait_in_private_memory()
        self.lease = None
        self.segment.locks.close()  # inherited or not: the parent's locks must not depend on this process
        self._warn_once("fork", f"no row ({error}): this worker counts in private memory until it has one")
        self._start_repairs()

    def last_repair(self) -> None:
        """Try once more to move what waits in private memory, which is lost with it."""
        if self._waits():
            try:
                self.repair()
            except Exception as error:
                self._warn_once("repair", f"what waited in private memory is lost: {error!r}")

    def close(self, *, unlink: bool = False) -> None:
        """Give the row up. Cells that are still referenced write to private memory from now on."""
        if self.closed:
            return
        self.last_repair()
        self.closed = True
        _writers.discard(self)
        self._forget_exemplars()
        self._point_to_private_memory()
        if self.lease is not None:
            self.lease.release()
            self.lease = None
        if unlink:
            self.segment.abandon()
        self.segment.close()


class _Content(NamedTuple):
    """The memory of a row.

    pages: its part of the page map, None if all may be touched. followed: one word.
    private_ledger: what private memory has in place of the segment's ledger row.
    """

    view: memoryview[float]
    pages: memoryview | None
    followed: memoryview
    private_ledger: memoryview[float] | None = None


def _reader_of(writer: Writer) -> Callable[[], Reader]:
    """Return a getter of the writer's reader, without a cycle: a writer that fails while made is freed with its row."""
    reference = weakref.ref(writer)

    def reader() -> Reader:
        found = reference()
        if found is None:
            raise ReferenceError("the writer is gone")
        return found.reader

    return reader


def _follower(writer: Writer) -> Callable[[Any], None]:
    """Return the follower of a writer, called with a cell that is about to write; it keeps no dropped writer alive."""
    reference = weakref.ref(writer)

    def follow(cell: Any) -> None:
        found = reference()
        if found is None:
            cell.place()[0].settle()
        else:
            found.follow(cell)

    return follow


_writers: weakref.WeakSet[Writer] = weakref.WeakSet()
_process_role = ""


def set_process_role(role: str) -> None:
    """Set the role shown for this process in all segments that it writes; forked children start without one.

    A server's hook may call it before the application makes a backend; `MetricsBackend(role=)` has precedence.
    """
    global _process_role
    _process_role = role
    for writer in list(_writers):
        writer.show_role()


def _repair_until_done(reference: weakref.ref[Writer]) -> None:
    while True:
        # Dereference it each time: the thread must not keep a dropped backend alive.
        writer = reference()
        if writer is None:
            return
        try:
            if writer.repair():
                writer._repairing = False
                # A cell may have been put aside just before, relying on this thread.
                if not writer._waits():
                    return
                writer._repairing = True
        except Exception as error:
            writer._warn_once("repair", f"what waits in private memory cannot be moved yet: {error!r}")
        del writer
        time.sleep(REPAIR_SECONDS)


@forks.before_fork
def _before_fork() -> None:
    for writer in list(_writers):
        writer.segment.before_fork()


@forks.in_parent
def _after_fork_in_parent() -> None:
    for writer in list(_writers):
        writer.segment.after_fork_in_parent()


@forks.in_child(forks.ROWS)
def _after_fork_in_child() -> None:
    global _process_role
    _process_role = ""
    for writer in list(_writers):
        try:
            writer.after_fork_in_child()
        except Exception as error:
            writer.count_privately(error)


def _at_exit() -> None:
    for writer in list(_writers):
        writer.last_repair()


atexit.register(_at_exit)
