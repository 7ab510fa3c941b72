"""Whether the index and the catalog of a segment agree, record by record."""

from __future__ import annotations

from shm_metrics.reader.catalog_view import CatalogView
from shm_metrics.runtime.call_lock import CallLock
from shm_metrics.segment.catalog import Catalog
from shm_metrics.segment.index import Index
from shm_metrics.segment.segment import Segment


def check_sound(segment: Segment) -> int:
    """Every published record is whole, its key is found in the index, and no key or slot comes twice.

    Returns the number of series.
    """
    catalog = Catalog(segment)
    index = Index(segment, catalog, CallLock())
    index.make_ready()  # as the next maker of a series does: whoever was killed may have left one to be indexed
    assert not index._lost_entries()
    keys: set[bytes] = set()
    slots: set[int] = set()
    for offset, record, _ in catalog.scan(0):
        assert record is not None, f"damaged record at {offset}"
        assert record.key not in keys, f"{record.key!r} is there twice"
        assert index.find(record.key, record.hash) == offset
        keys.add(record.key)
        mine = set(range(record.slot, record.slot + record.count))
        assert not mine & slots, f"slots of {record.key!r} belong to another series too"
        slots |= mine
        assert not mine or max(mine) < segment.slots_used
    catalog_view = CatalogView(segment)
    catalog_view.refresh()
    assert catalog_view.damaged == 0
    assert not catalog_view.older
    return sum(key.startswith(b"S") for key in keys)
