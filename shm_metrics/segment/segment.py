"""One mapped segment: make it, join it, reserve its pages.

Two open file descriptions a segment: one is mapped and holds no lock, the other holds locks and is mapped by its Pin
only. Any other mapping survives fork in the child, and with it the description it was made from; a lock on that
description would outlive its owner for as long as any child lives.

A child locks through the first of these that works:
    the description that its parent made just before the fork
    a new one, by way of /proc/self/fd
    a new one, by the path                  where a sandbox or chroot has no /proc
    the parent's, with locks by process     after setuid, or chroot: see ProcessLocks
    none: it counts in private memory       while no descriptor is left

How an attach decides (the creation byte is held throughout; `present` = some process shares the presence byte):

    the file is              no process present                        some process present
    empty or INITIALISING    make it (its maker died half-way)         SegmentFormatError: it was READY once
    READY, ours              keep=True: join; else abandon, remake     join
    READY, not readable      a segment of ours: remove, remake         SegmentFormatError
    ABANDONED                unlink, start over                        unlink, start over
"""

from __future__ import annotations

import errno
import logging
import os
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from shm_metrics.errors import SegmentError, SegmentFormatError, SegmentFullError
from shm_metrics.runtime import forks
from shm_metrics.runtime.cached_property import cached_property
from shm_metrics.runtime.signals import deferred_signals
from shm_metrics.segment import layout as L
from shm_metrics.segment import reboot
from shm_metrics.segment.file_locks import Descriptor, FileLocks, ProcessLocks
from shm_metrics.segment.layout import Header, Layout, parse_header
from shm_metrics.segment.location import SegmentLocation
from shm_metrics.segment.mapping import address_range, map_file
from shm_metrics.segment.shared_lock import SharedLock

if TYPE_CHECKING:
    from shm_metrics.model.arrays import ByteArray, FloatArray

__all__ = ["Segment"]

log = logging.getLogger("shm_metrics")

CREATION_SECONDS = 10.0


def _same_file_again(fd: int, place: SegmentLocation, status: os.stat_result, write: bool) -> int:
    """Return a second open file description of the file behind `fd`, also when it is unlinked. Raise OSError."""
    if fd < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    try:
        return os.open(f"/proc/self/fd/{fd}", _access(write))
    except OSError as error:
        try:
            return _file_at(place, status, write)  # a sandbox, or chroot, may have no /proc
        except (OSError, SegmentError):
            raise error from None


def _file_at(place: SegmentLocation, status: os.stat_result, write: bool) -> int:
    """Open the file of `status` by its path. Raise FileNotFoundError, or SegmentError."""
    fd = place.open(create=False, write=write)
    if os.path.samestat(os.fstat(fd), status):
        return fd
    os.close(fd)
    raise SegmentError(f"{place.path}: replaced by another segment meanwhile")


def _file_by(place: SegmentLocation, status: os.stat_result, write: bool, mapped: str) -> int:
    """Open the file of `status` by its path or, where the kernel allows it, by our mapping of it. Raises as above."""
    try:
        return _file_at(place, status, write)
    except (OSError, SegmentError):
        try:
            fd = os.open(f"/proc/self/map_files/{mapped}", _access(write))
        except OSError:
            fd = -1
        if fd >= 0:
            if os.path.samestat(os.fstat(fd), status):
                return fd
            os.close(fd)
        raise


def _access(write: bool) -> int:
    return (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC


def _reserve(fd: int, offset: int, length: int, where: str) -> None:
    try:
        os.posix_fallocate(fd, offset, length)
    except OSError as error:
        raise SegmentFullError(
            f"{where}: no room for {length} more bytes ({error.strerror}); free memory on its file system"
        ) from error


def _check_process(place: SegmentLocation, pid: int) -> None:
    """Raise SegmentError in a child that was forked since: its parent goes on through the same description."""
    if os.getpid() != pid:
        raise SegmentError(f"{place.path}: this process was forked while it attached")


_MOST_LOST = 8  # times that a descriptor is lost on the way, before it is an error


class Segment:
    """A mapped segment.

    For writers, plain memoryviews; a process that only counts never loads numpy:
        words: the header as 64-bit words, indexed by offset // 8.
        doubles: the matrix as one run of float64; row_view() is a row of it.
        page_bytes: the page map, a byte a page, row after row; codes: the slot map.
    For readers, numpy arrays of the same memory, made when first asked for: matrix, pages, slot_map.
    leader, publisher: locks of the process that pushes for all workers, and of the one that writes the snapshot file.
    """

    def __init__(
        self, place: SegmentLocation, header: Header, locks: FileLocks, mapped: Descriptor, writable: bool
    ) -> None:
        lay = header.layout
        map_fd = mapped.number()
        self.place = place
        self.header = header
        self.layout: Layout = lay
        self._lock_through(locks)
        self.status = os.fstat(map_fd)
        self.writable = writable
        self.map = self.bytes = map_file(map_fd, lay.total, write=writable)
        if mapped.number() != map_fd or mapped.file != locks.file:
            # A handler on top of this call closed descriptors: what is mapped may be a shorter file of the application.
            raise SegmentError(f"{place.path}: something closed its descriptor while the file was being mapped")
        self.words = self.bytes[: L.HEADER_END].cast("Q")
        self.doubles = self.bytes[lay.matrix : lay.exemplars].cast("d")
        self.page_bytes = self.bytes[lay.page_map : lay.page_map + lay.matrix_rows * lay.pages_per_row]
        self.codes = self.bytes[lay.slot_map : lay.slot_map + lay.slots]

        self._for_child: FileLocks | None = None
        self._inherited_by_children = False  # whether a child may count through our description
        self._root = os.stat("/")
        # Not through self: without a cycle, a dropped segment is closed at once, not by the garbage collector.
        self._reopen = partial(_file_by, place, self.status, writable, address_range(self.map))
        with forks.block_forks():  # a child would inherit a page that is not yet marked DONTFORK
            locks.keep(self._reopen)

    def _lock_through(self, locks: FileLocks) -> None:
        self.locks = locks
        self.leader = SharedLock(locks, L.LOCK_LEADER)
        self.publisher = SharedLock(locks, L.LOCK_PUBLISHER)

    @cached_property
    def matrix(self) -> FloatArray:
        """shape (1 + rows, slots); row 0 is the ledger row."""
        import numpy as np

        lay = self.layout
        flat = np.frombuffer(self.map, np.float64, lay.matrix_rows * lay.slots, lay.matrix)
        return flat.reshape(lay.matrix_rows, lay.slots)

    @cached_property
    def pages(self) -> ByteArray:
        """shape (1 + rows, pages a row); 1 where the page of the matrix is reserved."""
        import numpy as np

        return np.frombuffer(self.page_bytes, np.uint8).reshape(self.layout.matrix_rows, self.layout.pages_per_row)

    @cached_property
    def slot_map(self) -> ByteArray:
        """shape (slots,), the SLOT_* codes."""
        import numpy as np

        return np.frombuffer(self.codes, np.uint8)

    def row_view(self, row: int) -> memoryview[float]:
        """Return the row's slots, float64."""
        return self.doubles[row * self.layout.slots : (row + 1) * self.layout.slots]

    def row_pages(self, row: int) -> memoryview:
        """Return the row's part of the page map."""
        return self.page_bytes[row * self.layout.pages_per_row : (row + 1) * self.layout.pages_per_row]

    def two_dimensional(self) -> tuple[memoryview[float], memoryview]:
        """Return the matrix and the page map with their two dimensions, for the cells."""
        lay = self.layout
        matrix = self.bytes[lay.matrix : lay.exemplars].cast("d", (lay.matrix_rows, lay.slots))
        return matrix, self.page_bytes.cast("B", (lay.matrix_rows, lay.pages_per_row))

    # -- attaching ------------------------------------------------------------------------------------------------

    @classmethod
    def attach(cls, place: SegmentLocation, layout: Layout, *, keep: bool = False) -> Segment:
        """Join the segment at `place`, or make it with `layout` (capacities of a living one win over `layout`).

        Raise SegmentFormatError, SegmentFullError, or SegmentError (another owner, no permission).
        """
        lost = 0
        while True:
            pid = os.getpid()
            locks = FileLocks(place.open(create=True, write=True))
            try:
                segment = cls._attach_once(place, locks, layout, keep, pid)
            except (OSError, SegmentError):
                ours = locks.fd >= 0 and os.getpid() == pid
                locks.close()
                lost += 1
                if ours or lost == _MOST_LOST:
                    raise
                # Code of others closed the descriptor on the way, and whatever failed says nothing; or this is the
                # child of a fork on top of this call, which goes on with a description of its own.
                continue
            except BaseException:
                locks.close()
                raise
            if segment is not None:
                return segment
            locks.close()

    @classmethod
    def _attach_once(
        cls, place: SegmentLocation, locks: FileLocks, layout: Layout, keep: bool, pid: int
    ) -> Segment | None:
        """Attach by `locks`, which the process `pid` opened; None: the file was replaced meanwhile."""
        status = os.fstat(locks.fd)
        if status.st_uid != os.geteuid() and os.geteuid() != 0:
            raise SegmentError(
                f"{place.path}: owned by uid {status.st_uid}, this process runs as uid {os.geteuid()}; "
                "remove it, or use another name"
            )
        if not _first_lock(place, lambda: locks.wait_exclusive(L.LOCK_CREATION, CREATION_SECONDS)):
            raise SegmentError(
                f"{place.path}: another process has been creating it for {CREATION_SECONDS:.0f} s; is it stopped?"
            )
        if not place.is_file(locks.fd):
            return None  # replaced while we waited
        start = os.pread(locks.fd, L.HEADER_END, 0)
        size = os.fstat(locks.fd).st_size
        if _half_made(start):
            if not locks.try_exclusive(L.LOCK_PRESENCE):
                raise SegmentFormatError(
                    f"{place.path}: its header is damaged while processes use it; restart the processes that use it"
                )
            with deferred_signals():
                _check_process(place, pid)
                header = cls._make(place, locks.fd, layout)
        else:
            alone = locks.try_exclusive(L.LOCK_PRESENCE)
            try:
                header = parse_header(start, size, place.path)
            except SegmentFormatError as error:
                if not alone or not start.startswith(L.MAGIC):
                    raise
                log.warning("shm_metrics: %s; no process uses it, so it is replaced", error)
                place.unlink()
                return None
            abandoned = L.word(start, L.STATE_OFFSET) == L.ABANDONED
            if abandoned or (alone and not keep):
                with deferred_signals():
                    _check_process(place, pid)
                    os.pwrite(locks.fd, L.ABANDONED.to_bytes(L.WORD, "little"), L.STATE_OFFSET)
                    place.unlink()
                return None
            if alone:
                with deferred_signals():
                    _check_process(place, pid)
                    reboot.age_stamps(locks.fd, header)
        if not locks.try_shared(L.LOCK_PRESENCE):
            raise SegmentError(f"{place.path}: presence could not be taken")
        segment = cls._map(place, header, locks, writable=True)
        locks.release(L.LOCK_CREATION)
        return segment

    @classmethod
    def _make(cls, place: SegmentLocation, fd: int, layout: Layout) -> Header:
        header = Header(layout, uuid.uuid4().bytes, os.urandom(16), reboot.boot_id(), time.time())
        try:
            cls._lay_out(fd, header, place.path)
        except OSError as error:
            place.unlink()
            raise SegmentFullError(
                f"{place.path}: cannot be made ({error.strerror}); free memory on its file system"
            ) from error
        except SegmentFullError:
            place.unlink()
            raise
        return header

    @staticmethod
    def _lay_out(fd: int, header: Header, where: str) -> None:
        layout = header.layout
        os.ftruncate(fd, 0)
        # The checksummed part goes first: from here on the file is recognised as a segment.
        os.pwrite(fd, header.pack(), 0)
        os.ftruncate(fd, layout.total)
        _reserve(fd, 0, layout.family_use, where)
        _reserve(fd, layout.page_map, layout.pages_per_row, where)  # the ledger row's part
        _reserve(fd, layout.slot_table, L.PAGE, where)
        _reserve(fd, layout.removals, L.REMOVALS * L.WORD, where)
        _reserve(fd, layout.index, L.INDEX_FIRST_SIZE * L.INDEX_ENTRY_BYTES, where)
        _reserve(fd, layout.catalog, L.CATALOG_RESERVE_STEP, where)
        _reserve(fd, layout.slot_map, L.PAGE, where)
        words = {
            L.INDEX_SIZE_OFFSET: L.INDEX_FIRST_SIZE,
            L.SLOTS_USED_OFFSET: L.FIRST_SERIES_SLOT,
            L.CATALOG_RESERVED_OFFSET: L.CATALOG_RESERVE_STEP,
        }
        for offset, value in words.items():
            os.pwrite(fd, value.to_bytes(L.WORD, "little"), offset)
        os.pwrite(fd, bytes([L.SLOT_ADDS]) * L.FIRST_SERIES_SLOT, layout.slot_map)
        # READY goes last: a process that sees it sees a complete segment.
        os.pwrite(fd, L.READY.to_bytes(L.WORD, "little"), L.STATE_OFFSET)

    @classmethod
    def open_read_only(cls, place: SegmentLocation) -> Segment:
        """Map the segment for reading only; holds no presence, claims nothing.

        Raise FileNotFoundError when there is none (yet), SegmentFormatError when it cannot be read.
        """
        locks = FileLocks(place.open(create=False, write=False))
        try:
            start = os.pread(locks.fd, L.HEADER_END, 0)
            if _half_made(start):
                raise FileNotFoundError(f"no metrics segment at {place.path} yet: it is being made")
            header = parse_header(start, os.fstat(locks.fd).st_size, place.path)
            return cls._map(place, header, locks, writable=False)
        except BaseException:
            locks.close()
            raise

    @classmethod
    def private(cls, layout: Layout) -> Segment:
        """Return a segment without a name, for this process and its children: a fallback."""
        fd = os.memfd_create("shm_metrics-private", os.MFD_CLOEXEC)
        place = SegmentLocation("(private memory)")
        locks = FileLocks(fd)
        try:
            header = cls._make(place, fd, layout)
            _first_lock(place, lambda: locks.try_shared(L.LOCK_PRESENCE))
            return cls._map(place, header, locks, writable=True)
        except BaseException:
            locks.close()
            raise

    @classmethod
    def _map(cls, place: SegmentLocation, header: Header, locks: FileLocks, *, writable: bool) -> Segment:
        try:
            fd = locks.fd
            # A Descriptor, because other code may close this number, too.
            mapped = Descriptor(_same_file_again(fd, place, os.fstat(fd), writable))
            try:
                return cls(place, header, locks, mapped, writable)
            finally:
                mapped.close()
        except OSError as error:
            raise SegmentError(
                f"{place.path}: {header.layout.total} bytes of address space, or a second descriptor by way of "
                f"/proc/self/fd, cannot be had: {error}"
            ) from error

    # -- after fork -----------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Open a description for the child, with presence.

        Without it the parent could see itself as the sole user between the fork and the child's first step:
            parent   forks; the child has the same description, and no presence of its own
            parent   sole_user() is True; it moves its counts to another segment, and removes this one
            child    starts in a segment that no reader will ever read
        """
        self.after_fork_in_parent()
        fd = self.locks.fd
        if fd < 0:
            return
        if isinstance(self.locks, ProcessLocks):
            return  # the child tries itself: closing a description here would drop our locks
        try:
            locks = FileLocks(_same_file_again(fd, self.place, self.status, self.writable))
        except OSError as error:
            # No descriptor left, or no permission: the child tries again.
            self._inherited_by_children |= not self._passes(error)
            return
        locks.try_shared(L.LOCK_PRESENCE)
        self._for_child = locks

    def after_fork_in_parent(self) -> None:
        """Close our descriptor of the description that was made for the child."""
        locks, self._for_child = self._for_child, None
        if locks is not None:
            locks.close()

    def new_description(self) -> Callable[[], None]:
        """Lock through a description of the child's own from now on. Called in a forked child.

        Return the function that closes the inherited description. Until then the parent's locks, presence among them,
        stay even if the parent dies, so that some process is always present; afterwards they no longer depend on the
        child. Do not wait for a lock in between: it might be one that the child itself keeps.
        """
        inherited, prepared = self.locks, self._for_child
        self._for_child = None
        if prepared is None or prepared.inherited_fd() < 0:
            prepared = self._description_for_child(inherited)
        self._lock_through(prepared)
        prepared.keep(self._reopen)
        self._inherited_by_children = False
        if self.writable:
            self.locks.try_shared(L.LOCK_PRESENCE)
        return inherited.close

    def _description_for_child(self, inherited: FileLocks) -> FileLocks:
        """Return a new description or, without access to the file, process locks through `inherited`. Raise OSError."""
        fd = inherited.inherited_fd()
        try:
            return FileLocks(_same_file_again(fd, self.place, self.status, self.writable))
        except OSError as error:
            if fd < 0 or self._passes(error):
                raise
            return ProcessLocks(inherited)

    def _passes(self, error: OSError) -> bool:
        """Return whether the file can be opened as soon as a descriptor is free."""
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            return False
        try:
            mode = os.R_OK | (os.W_OK if self.writable else 0)
            same = os.path.samestat(os.stat(self.place.path), self.status)
            return same and os.access(self.place.path, mode, effective_ids=True)
        except (OSError, NotImplementedError):
            return False

    def reopen(self) -> None:
        """Lock through a new description, after close(). Raise SegmentError or FileNotFoundError."""
        locks = FileLocks(self._reopen())
        if self.writable:
            locks.try_shared(L.LOCK_PRESENCE)
        locks.keep(self._reopen)
        self._lock_through(locks)

    # -- words, pages ---------------------------------------------------------------------------------------------

    def get(self, offset: int) -> int:
        return self.words[offset // L.WORD]

    def set(self, offset: int, value: int) -> None:
        self.words[offset // L.WORD] = value

    @property
    def slots_used(self) -> int:
        return min(self.get(L.SLOTS_USED_OFFSET), self.layout.slots)

    @property
    def abandoned(self) -> bool:
        return self.get(L.STATE_OFFSET) == L.ABANDONED

    @property
    def in_place(self) -> bool:
        """Whether a process that attaches at this location finds this segment: it is neither abandoned nor removed."""
        if self.abandoned:
            return False
        # After a chroot the path belongs to another tree.
        return self.place.is_file(self.status) or not os.path.samestat(os.stat("/"), self._root)

    def _status_now(self) -> os.stat_result:
        """What fstat says of the file; without a descriptor, what its path says. Raises SegmentError."""
        while (fd := self.locks.fd) >= 0:
            try:
                return os.fstat(fd)
            except OSError:
                pass  # closed since the proof, by a fork or a handler on top of this call
        if self.locks.closed:
            raise SegmentError(f"{self.place.path}: closed by this process; make another MetricsBackend to read it")
        if self.status.st_nlink == 0:
            return self.status  # private memory: it has no name to truncate it by
        try:
            status = os.stat(self.place.path)
        except OSError:
            status = None
        if status is None or not os.path.samestat(status, self.status):
            raise SegmentError(
                f"{self.place.path}: something closed this process' descriptor of it, and it cannot be opened again; "
                "restart the process, and exempt the descriptors of shm_metrics from what closes them"
            )
        return status

    def check_size(self) -> None:
        """Raise SegmentFormatError if the file was truncated: touching the lost part would kill the process."""
        size = self._status_now().st_size
        if size < self.layout.total:
            raise SegmentFormatError(
                f"{self.place.path}: truncated to {size} of {self.layout.total} bytes while in use; "
                "restart the processes that use it"
            )

    def reserve(self, offset: int, length: int) -> None:
        """Make sure that bytes of the file are really there. Raises SegmentFullError."""
        with deferred_signals():  # no handler between proof and use
            fd = self.locks.fd
            if fd < 0:
                raise SegmentFullError(f"{self.place.path}: no room for {length} more bytes: it cannot be opened again")
            _reserve(fd, offset, length, self.place.path)

    def reserve_slots(self, row: int, first: int, count: int) -> None:
        """Reserve the pages of `row` that hold `count` slots from `first`, before any access to them."""
        pages = self.row_pages(row)
        for page in range(first // L.SLOTS_PER_PAGE, (first + count - 1) // L.SLOTS_PER_PAGE + 1):
            if not pages[page]:
                self.reserve(self.layout.matrix + row * self.layout.row_bytes + page * L.PAGE, L.PAGE)
                pages[page] = 1  # after the page is there: the reader trusts this byte

    def reserve_pages(self, row: int, wanted: bytes) -> None:
        """Reserve in `row` every page whose byte in `wanted` is set."""
        page = wanted.find(1)
        while page >= 0:
            self.reserve_slots(row, page * L.SLOTS_PER_PAGE, L.SLOTS_PER_PAGE)
            page = wanted.find(1, page + 1)

    def sole_user(self) -> bool:
        """Return whether no other process is present. If so, hold presence exclusively until close().

        Also return False when that is unknown: while children may count through our description, now or later, and
        while a description of ours that lost its number is present.
        """
        return not self._inherited_by_children and self.locks.try_exclusive(L.LOCK_PRESENCE)

    def abandon(self) -> None:
        """Mark the segment as abandoned and remove its name."""
        self.set(L.STATE_OFFSET, L.ABANDONED)
        if self.place.is_file(self.status):
            self.place.unlink()

    def allocated_bytes(self) -> int:
        """Return how many bytes of memory (or disk) the file occupies."""
        return self._status_now().st_blocks * 512

    def close(self) -> None:
        """Drop every lock. The mapping goes with the last view of it."""
        self.locks.close()


def _first_lock(place: SegmentLocation, take: Callable[[], bool]) -> bool:
    """Take the first lock. Raise SegmentError if the system does not support these locks."""
    try:
        return take()
    except OSError as error:
        raise SegmentError(
            f"{place.path}: cannot be locked ({error.strerror}): it takes open-file-description locks of its file "
            "system and of the kernel, which network file systems and sandboxes may lack"
        ) from error


def _half_made(start: bytes) -> bool:
    """Return whether the header `start` was left by a maker that died before READY."""
    ours = start.startswith(L.MAGIC) or L.MAGIC.startswith(start)
    return ours and (len(start) < L.HEADER_END or L.word(start, L.STATE_OFFSET) == L.INITIALISING)
