"""Carry a segment over from an earlier boot of the host."""

from __future__ import annotations

import struct
import uuid

from shm_metrics.segment import layout as L
from shm_metrics.segment.layout import Header, Layout
from shm_metrics.segment.mapping import map_file

__all__ = ["age_stamps", "boot_id"]

_BEFORE_BOOT = 2.0**-60  # times this, any stamp lies before the first nanosecond of a boot, in the old order


def boot_id() -> bytes:
    """Return 16 bytes that differ from boot to boot; zeros if the kernel does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return uuid.UUID(file.read().strip()).bytes
    except (OSError, ValueError):
        return bytes(16)


def age_stamps(fd: int, header: Header) -> None:
    """Bring the stamps of a kept segment of an earlier boot before every stamp of this one, in their old order.

    CLOCK_MONOTONIC restarts at boot. No process is present, so this may write every row. Exemplars are dropped.
    """
    this_boot = boot_id()
    if this_boot == header.boot_id:
        return
    lay = header.layout
    map_ = map_file(fd, lay.total, write=True)
    used = min(L.word(map_, L.SLOTS_USED_OFFSET), lay.slots)
    codes = map_[lay.slot_map : lay.slot_map + used]
    stamps = [
        slot
        for slot, code in enumerate(codes)
        if L.SLOT_STAMP_INHERITED <= code & ~L.SLOT_REMOVED <= L.SLOT_STAMP_SHARED
    ]
    for row in range(lay.matrix_rows):
        first_page = lay.page_map + row * lay.pages_per_row
        for slot in stamps:
            if map_[first_page + slot // L.SLOTS_PER_PAGE]:
                at = lay.matrix + row * lay.row_bytes + slot * L.WORD
                (stamp,) = struct.unpack_from("<d", map_, at)
                struct.pack_into("<d", map_, at, stamp * _BEFORE_BOOT)
        entries = L.word(map_, lay.worker(row) + L.WORKER_EXEMPLARS_OFFSET)
        for entry in range(min(entries, L.EXEMPLARS_PER_ROW)):
            at = lay.exemplar_table(row) + entry * L.EXEMPLAR_BYTES
            map_[at : at + L.WORD] = bytes(L.WORD)
    _age_births(map_, lay, used)
    new = Header(lay, header.incarnation, header.index_key, this_boot, header.created_at)
    map_[: L.STATE_OFFSET] = new.pack()


def _age_births(map_: memoryview, lay: Layout, used: int) -> None:
    """Do the same for the stamps in the slot table, at which series were removed or took over the slots of others."""
    for slot in range(L.FIRST_SERIES_SLOT, used):
        at = lay.slot_table + slot * L.SLOT_ENTRY_BYTES + L.SLOT_BORN_OFFSET
        (born,) = struct.unpack_from("<d", map_, at)
        if born:
            struct.pack_into("<d", map_, at, born * _BEFORE_BOOT)
