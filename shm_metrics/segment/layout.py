"""The layout of a segment: the offset and meaning of every byte.

    0                                                                     ascending offsets
    +--------------------------------------------------------------------------------------+
    | header        one page: what this file is, and the few numbers that move              |
    +--------------------------------------------------------------------------------------+
    | worker table  a record a row: pid, start, claim, generation, role; CPU ledger          |
    +--------------------------------------------------------------------------------------+
    | family use    a bit a family for each row: its worker uses this definition             |
    +--------------------------------------------------------------------------------------+
    | page map      a byte a page of the matrix: 1 = the page is really there                |
    +--------------------------------------------------------------------------------------+
    | slot map      a byte a slot: counter, bucket, gauge stamp, ... (see SLOT_*)            |
    +--------------------------------------------------------------------------------------+
    | slot table    of the first slot of each series: generation, owner, created, born       |
    +--------------------------------------------------------------------------------------+
    | removals      a ring: which series generation n removed, or gave new slots             |
    +--------------------------------------------------------------------------------------+
    | index         (hash, record offset) pairs of 64 bits, open addressing                  |
    +--------------------------------------------------------------------------------------+
    | catalog       two regions of records, append only: families, series. One is in use;    |
    |               when it is full, what lives is copied to the other one                   |
    +--------------------------------------------------------------------------------------+
    | matrix        float64, a row a worker                                                  |
    |               row 0          the ledger row: what dead gauges left, and flags           |
    |               row 1 .. rows  one worker each                                           |
    +--------------------------------------------------------------------------------------+
    | exemplars     a table a row: the newest exemplar of a counter or bucket, as far as      |
    |               its row's worker knows one; filled from the front                         |
    +--------------------------------------------------------------------------------------+

    header:  magic | version | layout hash | rows | slots | catalog bytes | index entries | incarnation (16) |
             index key (16) | boot id (16) | created at | checksum of all before      <- written once
             state | indexed | index size | index used | slots used | generation | changes | families | dead records |
             catalog switches | index switches | catalog commit * 2 | catalog reserved * 2

A slot is one float64. The slots of a series:

    counter    value
    histogram  sequence | bucket * k (not cumulative) | sum when the count is even | sum when it is odd
    gauge      stamp (CLOCK_MONOTONIC seconds, 0 = never set by this row) | value
    shared     (stamp | base) * 2 | epoch | delta
               in the ledger row: epoch | - | - | - | the epoch in which inc or dec was used | -

An entry of an exemplar table:

    sequence (odd while it is written) | slot of the counter or bucket | value | Unix time | stamp (CLOCK_MONOTONIC) |
    text length (32 bits) | checksum of all but the sequence (32 bits) | labels as text
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from shm_metrics.errors import InvalidMetricError, SegmentFormatError

MAGIC = b"SHMMETR\x00"
VERSION = 3

PAGE = 4096
WORD = 8
LARGEST_WORD = (1 << 8 * WORD) - 1

# -- header ------------------------------------------------------------------------------------------------------------
MAGIC_OFFSET = 0
VERSION_OFFSET = MAGIC_OFFSET + len(MAGIC)
LAYOUT_HASH_OFFSET = VERSION_OFFSET + WORD
ROWS_OFFSET = LAYOUT_HASH_OFFSET + WORD
SLOTS_OFFSET = ROWS_OFFSET + WORD
CATALOG_BYTES_OFFSET = SLOTS_OFFSET + WORD
INDEX_ENTRIES_OFFSET = CATALOG_BYTES_OFFSET + WORD
INCARNATION_OFFSET = INDEX_ENTRIES_OFFSET + WORD
INDEX_KEY_OFFSET = INCARNATION_OFFSET + 2 * WORD
BOOT_ID_OFFSET = INDEX_KEY_OFFSET + 2 * WORD
CREATED_AT_OFFSET = BOOT_ID_OFFSET + 2 * WORD
CHECKSUM_OFFSET = CREATED_AT_OFFSET + WORD
STATE_OFFSET = CHECKSUM_OFFSET + WORD
INDEXED_OFFSET = STATE_OFFSET + WORD
INDEX_SIZE_OFFSET = INDEXED_OFFSET + WORD
INDEX_USED_OFFSET = INDEX_SIZE_OFFSET + WORD
SLOTS_USED_OFFSET = INDEX_USED_OFFSET + WORD
GENERATION_OFFSET = SLOTS_USED_OFFSET + WORD  # of removals; every cell compares it with what its row has followed
CHANGES_OFFSET = GENERATION_OFFSET + WORD  # of what readers know: removals, revivals, definitions shown again
FAMILIES_OFFSET = CHANGES_OFFSET + WORD  # how many identities were given to families
DEAD_RECORDS_OFFSET = FAMILIES_OFFSET + WORD  # in the catalog since it was last copied
CATALOG_SWITCHES_OFFSET = DEAD_RECORDS_OFFSET + WORD  # the lowest bit says which region is in use
INDEX_SWITCHES_OFFSET = CATALOG_SWITCHES_OFFSET + WORD  # the catalog switches that the index was made for
CATALOG_COMMIT_OFFSET = INDEX_SWITCHES_OFFSET + WORD
CATALOG_RESERVED_OFFSET = CATALOG_COMMIT_OFFSET + 2 * WORD
HEADER_END = CATALOG_RESERVED_OFFSET + 2 * WORD
HEADER_BYTES = PAGE

INITIALISING, READY, ABANDONED = 0, 1, 2

_STATIC_FORMAT = "<8sQ8sQQQQ16s16s16sd"
_STATIC = struct.Struct(_STATIC_FORMAT)
assert _STATIC.size == CHECKSUM_OFFSET

# -- worker table ------------------------------------------------------------------------------------------------------
ROLE_BYTES = 64
WORKER_PID_OFFSET = 0
WORKER_START_OFFSET = WORKER_PID_OFFSET + WORD  # clock ticks since boot, field 22 of /proc/<pid>/stat
WORKER_CLAIMED_AT_OFFSET = WORKER_START_OFFSET + WORD  # Unix seconds
WORKER_CLAIMS_OFFSET = WORKER_CLAIMED_AT_OFFSET + WORD  # how many workers this row has had; 0 = never used
WORKER_GENERATION_OFFSET = WORKER_CLAIMS_OFFSET + WORD  # removals up to this one are followed in the row
WORKER_ROLE_OFFSET = WORKER_GENERATION_OFFSET + WORD
# What scrapers read of the process in /proc; written under the ledger lock only, see cpu_ledger.py.
WORKER_CPU_CHOICE_OFFSET = WORKER_ROLE_OFFSET + ROLE_BYTES  # which of the two notes counts: the lowest bit
WORKER_CPU_NOTES_OFFSET = WORKER_CPU_CHOICE_OFFSET + WORD
CPU_NOTE_BYTES = 4 * WORD  # pid and start of the process seen last, its CPU seconds, those of all before it
# How many entries of the row's exemplar table have memory: those from the front; 0 = it never kept one.
WORKER_EXEMPLARS_OFFSET = WORKER_CPU_NOTES_OFFSET + 2 * CPU_NOTE_BYTES
WORKER_BYTES = WORKER_EXEMPLARS_OFFSET + WORD

# -- family use --------------------------------------------------------------------------------------------------------
MAX_USED_FAMILIES = 4096  # a family beyond them counts as used
FAMILY_USE_BYTES = MAX_USED_FAMILIES // 8

# -- slot table --------------------------------------------------------------------------------------------------------
SLOT_GENERATION_OFFSET = 0  # of its last removal or reuse: rows that have not followed it hold nothing of the series
SLOT_OWNER_OFFSET = SLOT_GENERATION_OFFSET + WORD  # hash of the series' key
SLOT_CREATED_OFFSET = SLOT_OWNER_OFFSET + WORD  # Unix seconds
SLOT_BORN_OFFSET = SLOT_CREATED_OFFSET + WORD  # CLOCK_MONOTONIC: exemplars up to it are of an earlier life
SLOT_ENTRY_BYTES = SLOT_BORN_OFFSET + WORD

# -- removals ----------------------------------------------------------------------------------------------------------
REMOVALS = 4096  # kept in the ring; a process that is further behind looks at every slot
REUSED = 1 << 63  # in an entry: the slots went to another series
RESET = 1 << 62  # in an entry: the series counts from 0 and goes on being shown

# -- index -------------------------------------------------------------------------------------------------------------
INDEX_ENTRY_BYTES = 2 * WORD
INDEX_FIRST_SIZE = 1024  # entries in use at first; doubled up to the capacity
INDEX_ENTRIES_PER_KEY = 4  # before it is doubled: a new key then passes 0.4 entries on its way, with 2 it would be 1.5

# -- catalog -----------------------------------------------------------------------------------------------------------
RECORD_START = "<IIQ"  # length, checksum, rank
RECORD_HEAD = "<HHIQQQQd"  # kind, padding, key length, hash, parent, slot, count, created
RECORD_ALIGN = 8
RECORD_FAMILY, RECORD_SERIES = 1, 2
CATALOG_BYTES_PER_SLOT = 128
CATALOG_RESERVE_STEP = 16 * PAGE

# -- matrix ------------------------------------------------------------------------------------------------------------
SLOTS_PER_PAGE = PAGE // WORD
LEDGER_ROW = 0
FIRST_WORKER_ROW = 1

# The first slots belong to the engine: each row counts its own lost updates there.
SLOT_OVERFLOWED_UPDATES = 0
SLOT_DROPPED_EXEMPLARS = 1
FIRST_SERIES_SLOT = 16

# The codes of the slot map. A new owner of a row reads them to know what it inherits.
SLOT_FREE = 0
SLOT_ADDS = 1  # counters and the engine's own: inherited as they are
SLOT_SEQUENCE = 2  # of a histogram: set to its count by a new owner
SLOT_BUCKET = 3
SLOT_SUM = 4
SLOT_STAMP_INHERITED = 5  # gauge stamps, by what happens to the gauge when its row gets a new owner
SLOT_STAMP_CLEARED = 6
SLOT_STAMP_MIN = 7
SLOT_STAMP_MAX = 8
SLOT_STAMP_NEWEST = 9
SLOT_STAMP_SHARED = 10  # of a shared gauge: the stamps of its two bases, and its epoch
SLOT_VALUE = 11
SLOT_DELTA = 12

SLOT_REMOVED = 0x80  # beside the code of a series' first slot

# -- exemplars ---------------------------------------------------------------------------------------------------------
EXEMPLARS_PER_ROW = 512
EXEMPLAR_BYTES = 1024  # the longest there can be has 815; no entry crosses a page
EXEMPLARS_PER_PAGE = PAGE // EXEMPLAR_BYTES
EXEMPLAR_SEQUENCE_OFFSET = 0
EXEMPLAR_SLOT_OFFSET = EXEMPLAR_SEQUENCE_OFFSET + WORD
EXEMPLAR_VALUE_OFFSET = EXEMPLAR_SLOT_OFFSET + WORD
EXEMPLAR_TIMESTAMP_OFFSET = EXEMPLAR_VALUE_OFFSET + WORD
EXEMPLAR_STAMP_OFFSET = EXEMPLAR_TIMESTAMP_OFFSET + WORD
EXEMPLAR_LENGTH_OFFSET = EXEMPLAR_STAMP_OFFSET + WORD
EXEMPLAR_CHECKSUM_OFFSET = EXEMPLAR_LENGTH_OFFSET + WORD // 2
EXEMPLAR_TEXT_OFFSET = EXEMPLAR_CHECKSUM_OFFSET + WORD // 2
EXEMPLAR_TEXT_BYTES = EXEMPLAR_BYTES - EXEMPLAR_TEXT_OFFSET

# -- locks -------------------------------------------------------------------------------------------------------------
# Byte ranges far behind the end of the file: nothing is stored there, the kernel only keeps the locks.
LOCK_BASE = 1 << 40
LOCK_CREATION = LOCK_BASE
LOCK_CATALOG = LOCK_CREATION + 1
LOCK_LEADER = LOCK_CATALOG + 1
LOCK_PRESENCE = LOCK_LEADER + 1
LOCK_LEDGER = LOCK_PRESENCE + 1
LOCK_PUBLISHER = LOCK_LEDGER + 1
MAX_ROWS = 1 << 16
LOCK_CLAIM = LOCK_BASE + MAX_ROWS  # + row: its holder owns the row
LOCK_LIVE = LOCK_CLAIM + MAX_ROWS  # + row: taken once the row is repaired; a worker is alive while it is locked
LOCK_ROWLESS = LOCK_LIVE + MAX_ROWS  # + n: a worker that found no free row
ROWLESS_BYTES = 1024

DEFAULT_ROWS = 256
DEFAULT_SLOTS = 131_072


def _what_the_bytes_are() -> tuple[tuple[object, ...], ...]:
    """Return every offset, size and code that two processes must agree on to share a segment; no name, and no default.

    Append to a group, or append a group: the place of a number in here is what it means.
    """
    header = (
        *(_STATIC_FORMAT, PAGE, WORD, HEADER_BYTES, HEADER_END),
        *(MAGIC_OFFSET, VERSION_OFFSET, LAYOUT_HASH_OFFSET, ROWS_OFFSET, SLOTS_OFFSET, CATALOG_BYTES_OFFSET),
        *(INDEX_ENTRIES_OFFSET, INCARNATION_OFFSET, INDEX_KEY_OFFSET, BOOT_ID_OFFSET, CREATED_AT_OFFSET),
        *(CHECKSUM_OFFSET, STATE_OFFSET, INDEXED_OFFSET, INDEX_SIZE_OFFSET, INDEX_USED_OFFSET, SLOTS_USED_OFFSET),
        *(GENERATION_OFFSET, CHANGES_OFFSET, FAMILIES_OFFSET, DEAD_RECORDS_OFFSET, CATALOG_SWITCHES_OFFSET),
        *(INDEX_SWITCHES_OFFSET, CATALOG_COMMIT_OFFSET, CATALOG_RESERVED_OFFSET),
        *(INITIALISING, READY, ABANDONED),
    )
    workers = (
        *(ROLE_BYTES, WORKER_BYTES, CPU_NOTE_BYTES, WORKER_PID_OFFSET, WORKER_START_OFFSET, WORKER_CLAIMED_AT_OFFSET),
        *(WORKER_CLAIMS_OFFSET, WORKER_GENERATION_OFFSET, WORKER_ROLE_OFFSET, WORKER_CPU_CHOICE_OFFSET),
        *(WORKER_CPU_NOTES_OFFSET, WORKER_EXEMPLARS_OFFSET, MAX_USED_FAMILIES, FAMILY_USE_BYTES),
    )
    series = (
        *(SLOT_GENERATION_OFFSET, SLOT_OWNER_OFFSET, SLOT_CREATED_OFFSET, SLOT_BORN_OFFSET, SLOT_ENTRY_BYTES),
        *(REMOVALS, REUSED, RESET, INDEX_ENTRY_BYTES, INDEX_FIRST_SIZE),
    )
    catalog = (
        *(RECORD_START, RECORD_HEAD, RECORD_ALIGN, RECORD_FAMILY, RECORD_SERIES),
        *(CATALOG_BYTES_PER_SLOT, CATALOG_RESERVE_STEP),
    )
    matrix = (
        *(SLOTS_PER_PAGE, LEDGER_ROW, FIRST_WORKER_ROW, FIRST_SERIES_SLOT),
        *(SLOT_OVERFLOWED_UPDATES, SLOT_DROPPED_EXEMPLARS),
        *(SLOT_FREE, SLOT_ADDS, SLOT_SEQUENCE, SLOT_BUCKET, SLOT_SUM, SLOT_STAMP_INHERITED, SLOT_STAMP_CLEARED),
        *(SLOT_STAMP_MIN, SLOT_STAMP_MAX, SLOT_STAMP_NEWEST, SLOT_STAMP_SHARED, SLOT_VALUE, SLOT_DELTA, SLOT_REMOVED),
    )
    exemplars = (
        *(EXEMPLARS_PER_ROW, EXEMPLAR_BYTES, EXEMPLARS_PER_PAGE, EXEMPLAR_SEQUENCE_OFFSET, EXEMPLAR_SLOT_OFFSET),
        *(EXEMPLAR_VALUE_OFFSET, EXEMPLAR_TIMESTAMP_OFFSET, EXEMPLAR_STAMP_OFFSET, EXEMPLAR_LENGTH_OFFSET),
        *(EXEMPLAR_CHECKSUM_OFFSET, EXEMPLAR_TEXT_OFFSET, EXEMPLAR_TEXT_BYTES),
    )
    locks = (
        *(LOCK_BASE, LOCK_CREATION, LOCK_CATALOG, LOCK_LEADER, LOCK_PRESENCE, LOCK_LEDGER, LOCK_PUBLISHER, MAX_ROWS),
        *(LOCK_CLAIM, LOCK_LIVE, LOCK_ROWLESS, ROWLESS_BYTES),
    )
    return header, workers, series, catalog, matrix, exemplars, locks


def _pages_up(n: int) -> int:
    return -(-n // PAGE) * PAGE


@dataclass(frozen=True)
class Layout:
    """The offsets of a segment of `rows` worker rows and `slots` slots (rounded up to whole pages of 512).

    worker_table, family_use, page_map, slot_map, slot_table, removals, index, catalog, matrix, exemplars: where the
        regions begin.
    catalog_bytes: of each of the two catalog regions.
    total: where the last one ends.
    index_entries: index capacity, the power of two that keeps the load at one half with a record in every slot.
    """

    rows: int = DEFAULT_ROWS
    slots: int = DEFAULT_SLOTS
    matrix_rows: int = field(init=False, compare=False)
    pages_per_row: int = field(init=False, compare=False)
    row_bytes: int = field(init=False, compare=False)
    index_entries: int = field(init=False, compare=False)
    catalog_bytes: int = field(init=False, compare=False)
    worker_table: int = field(init=False, compare=False)
    page_map: int = field(init=False, compare=False)
    slot_map: int = field(init=False, compare=False)
    family_use: int = field(init=False, compare=False)
    slot_table: int = field(init=False, compare=False)
    removals: int = field(init=False, compare=False)
    index: int = field(init=False, compare=False)
    catalog: int = field(init=False, compare=False)
    matrix: int = field(init=False, compare=False)
    exemplars: int = field(init=False, compare=False)
    total: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.rows, int) or not 1 <= self.rows < MAX_ROWS - 1:
            raise InvalidMetricError(f"rows={self.rows!r}: give a whole number of workers from 1 to {MAX_ROWS - 2}")
        if not isinstance(self.slots, int) or not 1 <= self.slots <= 1 << 28:
            raise InvalidMetricError(f"slots={self.slots!r}: give a whole number of slots from 1 to {1 << 28}")
        slots = -(-self.slots // SLOTS_PER_PAGE) * SLOTS_PER_PAGE
        matrix_rows = FIRST_WORKER_ROW + self.rows
        pages_per_row = slots // SLOTS_PER_PAGE
        index_entries = max(INDEX_FIRST_SIZE, 1 << (2 * slots - 1).bit_length())
        catalog_bytes = _pages_up(max(CATALOG_RESERVE_STEP, slots * CATALOG_BYTES_PER_SLOT))
        worker_table = HEADER_BYTES
        family_use = _pages_up(worker_table + matrix_rows * WORKER_BYTES)
        page_map = _pages_up(family_use + matrix_rows * FAMILY_USE_BYTES)
        slot_map = _pages_up(page_map + matrix_rows * pages_per_row)
        slot_table = _pages_up(slot_map + slots)
        removals = _pages_up(slot_table + slots * SLOT_ENTRY_BYTES)
        index = _pages_up(removals + REMOVALS * WORD)
        catalog = _pages_up(index + index_entries * INDEX_ENTRY_BYTES)
        matrix = catalog + 2 * catalog_bytes
        exemplars = matrix + matrix_rows * slots * WORD
        found = {
            "slots": slots,
            "matrix_rows": matrix_rows,
            "pages_per_row": pages_per_row,
            "row_bytes": slots * WORD,
            "index_entries": index_entries,
            "catalog_bytes": catalog_bytes,
            "worker_table": worker_table,
            "page_map": page_map,
            "slot_map": slot_map,
            "family_use": family_use,
            "slot_table": slot_table,
            "removals": removals,
            "index": index,
            "catalog": catalog,
            "matrix": matrix,
            "exemplars": exemplars,
            "total": exemplars + matrix_rows * EXEMPLARS_PER_ROW * EXEMPLAR_BYTES,
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def worker(self, row: int) -> int:
        """Return the offset of the row's record in the worker table."""
        return self.worker_table + row * WORKER_BYTES

    def exemplar_table(self, row: int) -> int:
        """Return the offset of the row's exemplar table."""
        return self.exemplars + row * EXEMPLARS_PER_ROW * EXEMPLAR_BYTES

    def regions(self) -> tuple[int, ...]:
        """Return where each region begins, from the worker table on, and where the last one ends."""
        return (
            *(self.worker_table, self.family_use, self.page_map, self.slot_map, self.slot_table, self.removals),
            *(self.index, self.catalog, self.matrix, self.exemplars, self.total),
        )

    def hash(self) -> bytes:
        """Eight bytes that differ when any offset, size or code of the layout does, whatever it is called."""
        sizes = (self.rows, self.slots, self.matrix_rows, self.pages_per_row, self.index_entries, self.catalog_bytes)
        text = repr((_what_the_bytes_are(), sizes, self.regions()))
        return blake2b(text.encode(), digest_size=8).digest()


@dataclass(frozen=True)
class Header:
    """The part of a header that is written once."""

    layout: Layout
    incarnation: bytes
    index_key: bytes
    boot_id: bytes
    created_at: float

    def pack(self) -> bytes:
        lay = self.layout
        static = _STATIC.pack(
            MAGIC,
            VERSION,
            lay.hash(),
            lay.rows,
            lay.slots,
            lay.catalog_bytes,
            lay.index_entries,
            self.incarnation,
            self.index_key,
            self.boot_id,
            self.created_at,
        )
        return static + struct.pack("<Q", zlib.crc32(static))


def word(data: Any, offset: int) -> int:
    """Return the 64-bit word at `offset` of bytes or of a mapping."""
    return int.from_bytes(data[offset : offset + WORD], "little")


def parse_header(data: bytes, size: int, where: str) -> Header:
    """Read a header's first bytes (at least HEADER_END) from a file of `size` bytes, called `where` in errors.

    Raise SegmentFormatError when the file is no segment, of another version or layout, damaged or truncated.
    """
    if len(data) < HEADER_END or not any(data[: len(MAGIC)]):
        raise SegmentFormatError(
            f"{where}: {size} bytes without a segment header; the file was truncated or never made"
        )
    static = _STATIC.unpack_from(data)
    magic, version, stored_hash, rows, slots, _catalog, _entries, incarnation, key, boot, created = static
    if magic != MAGIC:
        raise SegmentFormatError(f"{where}: not a shm_metrics segment (it begins with {magic!r}); give another path")
    if version != VERSION:
        raise SegmentFormatError(
            f"{where}: segment format {version}, this library reads {VERSION}; "
            "stop the processes that use it, or give the new deploy another segment name"
        )
    (checksum,) = struct.unpack_from("<Q", data, CHECKSUM_OFFSET)
    if checksum != zlib.crc32(data[:CHECKSUM_OFFSET]):
        raise SegmentFormatError(f"{where}: the header is damaged (its checksum is wrong); remove the file")
    try:
        layout = Layout(rows, slots)
    except InvalidMetricError as error:
        raise SegmentFormatError(f"{where}: the header is damaged ({error}); remove the file") from None
    if stored_hash != layout.hash():
        raise SegmentFormatError(f"{where}: made with another layout of format {version}; remove the file")
    if size < layout.total:
        raise SegmentFormatError(f"{where}: truncated to {size} of {layout.total} bytes; remove the file")
    return Header(layout, incarnation, key, boot, created)
