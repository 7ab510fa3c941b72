"""One owner for each name on a page: families of one name are merged, clashing ones dropped and reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

from shm_metrics.exposition.line_cache import LineCache
from shm_metrics.exposition.samples import MetricLike, Renderable, as_samples, base_name, one_by_one, sample_names
from shm_metrics.model.families import Family, FamilySnapshot, Sample, SampleFamily, SeriesLabels
from shm_metrics.model.family_run import FamilyRun

__all__ = ["Dropped", "OnDropped", "PageEntry", "Resolved", "ignore", "page_entry", "resolve_conflicts"]


class Dropped(NamedTuple):
    """A family that is not on the page, and why: another type has its name, or it cannot be rendered."""

    name: str
    reason: str


OnDropped: TypeAlias = Callable[[Dropped], object]


def ignore(dropped: Dropped) -> None:
    """Do nothing: the default of `on_dropped`, which can be the `append` of a list."""


class PageEntry:
    """What one set of series keeps between scrapes: its names, a line cache for each dialect, and its last page."""

    __slots__ = ("clashes", "families", "line_caches", "names", "page")

    def __init__(self, families: Iterable[tuple[Family, SeriesLabels]]) -> None:
        self.families = tuple(families)
        taken = [sample_names(family.name, family.type) for family, _ in self.families]
        self.names: frozenset[str] = frozenset().union(*taken)
        self.clashes = len(self.names) < sum(map(len, taken))
        """Whether two of the families clash with each other."""
        self.line_caches: dict[str, LineCache] = {}
        self.page: tuple[list[PageEntry], frozenset[str]] | None = None
        """Set on the first of a page: all of that page, which had no clash, and their names."""


def page_entry(item: FamilySnapshot | FamilyRun) -> PageEntry:
    """Return the PageEntry of `item`, from the cache that its series carry."""
    entry: PageEntry | None
    if isinstance(item, FamilyRun):
        entry = item.families.cache.get("kept")
        if entry is None:
            entry = item.families.cache["kept"] = PageEntry(item.families)
        return entry
    family = item.family
    entry = item.labels.cache.get(family.name)
    # Compared by identity first: equality of two families compares all their fields.
    if entry is None or (entry.families[0][0] is not family and entry.families[0][0] != family):
        entry = item.labels.cache[family.name] = PageEntry(((family, item.labels),))
    return entry


def _names(item: Renderable) -> frozenset[str]:
    if isinstance(item, FamilySnapshot | FamilyRun):
        return page_entry(item).names
    return sample_names(item.name, item.type)


Resolved: TypeAlias = tuple[list[Renderable], list[PageEntry | None]]
"""The items and, side by side with them, the PageEntry of each; a family of samples has none."""


def resolve_conflicts(families: Iterable[Renderable], on_dropped: OnDropped = ignore) -> Resolved:
    """Return `families` with every name taken once, and the PageEntry of each.

    Families of the same name and type become one; of two samples with the same name and labels the first stays.
    Of families that differ in type, or take each other's sample names (a counter `x` and a gauge `x_total`), the
    first stays, and the others are reported to `on_dropped`.
    """
    items = list(families)
    entries = _entries(items)
    names = _page_names([each for each in entries if each is not None])
    if names is not None:
        others = [_names(item) for item, each in zip(items, entries, strict=True) if each is None]
        together = frozenset().union(*others)
        if len(together) == sum(map(len, others)) and names.isdisjoint(together):
            return items, entries
    items = list(_merged(items, on_dropped))
    return items, _entries(items)


def _entries(items: list[Renderable]) -> list[PageEntry | None]:
    return [page_entry(item) if isinstance(item, FamilySnapshot | FamilyRun) else None for item in items]


def _page_names(page: list[PageEntry]) -> frozenset[str] | None:
    """The names of all, or None where two clash. A page of the same series as the last is not looked at again."""
    if not page:
        return frozenset()
    before = page[0].page
    if before is not None and before[0] == page:
        return before[1]
    names = frozenset().union(*[entry.names for entry in page])
    if len(names) < sum(len(entry.names) for entry in page) or any(entry.clashes for entry in page):
        return None
    page[0].page = (page, names)
    return names


def _merged(items: list[Renderable], on_dropped: OnDropped) -> Iterator[Renderable]:
    counts = Counter(name for item in one_by_one(items) for name in _names(item))
    contested = {name for name, count in counts.items() if count > 1}
    owners: dict[str, tuple[str, str]] = {}
    groups: dict[str, list[FamilySnapshot | MetricLike]] = {}
    order: list[Renderable | str] = []
    for item in items:
        if contested.isdisjoint(_names(item)):
            order.append(item)
            continue
        for part in one_by_one((item,)):
            names = _names(part)
            if contested.isdisjoint(names):
                order.append(part)
                continue
            identity = _identity(part)
            name = identity[0]
            rival = next((owners[other] for other in sorted(names) if owners.get(other, identity) != identity), None)
            if rival is not None:
                reason = f"the {identity[1]} {name!r} takes names of the {rival[1]} {rival[0]!r}: rename one of them"
                on_dropped(Dropped(name, reason))
                continue
            owners.update(dict.fromkeys(names, identity))
            if name not in groups:
                groups[name] = []
                order.append(name)
            groups[name].append(part)
    for entry in order:
        yield _join(groups[entry]) if isinstance(entry, str) else entry


def _identity(item: FamilySnapshot | MetricLike) -> tuple[str, str]:
    family = item.family if isinstance(item, FamilySnapshot) else item
    return base_name(family.name, family.type), family.type


def _join(parts: list[FamilySnapshot | MetricLike]) -> Renderable:
    if len(parts) == 1:
        return parts[0]
    metrics = [as_samples(part) for part in parts]
    samples: dict[Any, Sample] = {}
    for metric in metrics:
        for sample in metric.samples:
            key = (sample.name, frozenset(sample.labels.items()), str(sample.timestamp))
            samples.setdefault(key, sample)
    first = metrics[0]
    documentation = next((metric.documentation for metric in metrics if metric.documentation), "")
    unit = next((metric.unit for metric in metrics if metric.unit), "")
    return SampleFamily(first.name, documentation, first.type, list(samples.values()), unit)
