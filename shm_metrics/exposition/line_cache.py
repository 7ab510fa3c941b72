"""The fast path: snapshots and runs to bytes, where a repeated scrape formats only the numbers that changed.

A page is its lines, each a prefix that never changes and a number:

    b'# HELP a_total ..\\n# TYPE a_total counter\\na_total{x="1"} '   b'17.0\\n'
    b'a_total{x="2"} '                                               b'3.0\\n'
    b'# HELP b ..\\n# TYPE b gauge\\nb '                               b'0.25\\n'

The head of a family is part of its first prefix, so that a family costs no more than a series.
The cache is one tuple, replaced as a whole and never changed in place: concurrent scrapes each start from numbers and
texts that belong together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from shm_metrics.exposition.dialect import Dialect
from shm_metrics.exposition.escaping import label_text, metric_name, utf8
from shm_metrics.exposition.exemplar_text import exemplar_text
from shm_metrics.exposition.floats import ObjectArray, go_text, number_lines
from shm_metrics.exposition.lines import line_keys
from shm_metrics.model.arrays import FloatArray
from shm_metrics.model.families import Exemplar, Exemplars, Family, LabelPairs, SeriesLabels
from shm_metrics.model.line_shape import LineShape, line_shape

__all__ = ["LargeLineCache", "LineCache", "SmallLineCache", "make_line_cache"]

_SMALL = 32
"""Up to so many lines a loop in Python is faster than numpy's fixed costs."""


class _ExemplarTexts:
    """The texts of the exemplars of one line cache, kept for as long as they are the same objects."""

    __slots__ = ("_kept", "_lines")

    def __init__(self, shape: LineShape) -> None:
        self._lines = shape.lines
        self._kept: dict[tuple[int, int], tuple[Exemplar, bytes]] = {}

    def behind(self, exemplars: Exemplars) -> Iterator[tuple[int, bytes]]:
        """(line, what stands behind its number) for each exemplar."""
        before, kept = self._kept, {}
        for key, exemplar in exemplars.items():
            known = before.get(key)
            if known is None or known[0] is not exemplar:
                known = exemplar, utf8(exemplar_text(exemplar))
            kept[key] = known
            yield key[0] * self._lines + key[1], known[1]
        self._kept = kept


class SmallLineCache:
    """The lines of a small page: the whole text is cached, and rendered again when a number has changed."""

    __slots__ = ("_exemplars", "_kept", "_prefixes", "_shape", "_tail")

    def __init__(self, prefixes: list[bytes], tail: bytes, shape: LineShape) -> None:
        self._prefixes = prefixes
        self._tail = tail
        self._shape = shape
        self._exemplars = _ExemplarTexts(shape)
        self._kept: tuple[list[float], bytes] = ([], tail)

    def render(self, values: FloatArray, sums: FloatArray | None, exemplars: Exemplars | None = None) -> bytes:
        """The page with these numbers; all is as in FamilySnapshot.

        Raises ValueError where there are not as many numbers as lines.
        """
        numbers: list[float] = self._shape.list(values, sums) if self._shape.type else values.tolist()
        kept, text = self._kept
        if exemplars:
            return self._with(exemplars, numbers)
        if numbers == kept:
            return text
        pairs = zip(self._prefixes, numbers, strict=True)
        text = b"".join([b"%b%b\n" % (prefix, go_text(number).encode()) for prefix, number in pairs]) + self._tail
        self._kept = (numbers, text)
        return text

    def _with(self, exemplars: Exemplars, numbers: list[float]) -> bytes:
        lines = [
            b"%b%b" % (prefix, go_text(number).encode()) for prefix, number in zip(self._prefixes, numbers, strict=True)
        ]
        for line, text in self._exemplars.behind(exemplars):
            lines[line] += text
        return b"".join([line + b"\n" for line in lines]) + self._tail


class LargeLineCache:
    """The lines of a large page: the texts of numbers are cached, and only those of changed numbers replaced."""

    __slots__ = ("_exemplars", "_kept", "_shape", "_tail")

    def __init__(self, prefixes: list[bytes], tail: bytes, shape: LineShape) -> None:
        self._tail = tail
        self._shape = shape
        self._exemplars = _ExemplarTexts(shape)
        zeros = np.zeros(len(prefixes))
        page: ObjectArray = np.empty((len(prefixes), 2), dtype=object)
        page[:, 0] = prefixes
        page[:, 1] = number_lines(zeros)
        self._kept: tuple[FloatArray, ObjectArray] = (zeros, page)

    def render(self, values: FloatArray, sums: FloatArray | None, exemplars: Exemplars | None = None) -> bytes:
        """As SmallLineCache.render."""
        numbers = self._shape.array(values, sums)
        kept, page = self._kept
        if len(numbers) != len(kept):
            raise ValueError(f"{len(numbers)} numbers for {len(kept)} lines: values and labels of a snapshot disagree")
        # Compared as bits: NaN equals itself then, and -0.0 is not 0.0.
        changed = np.flatnonzero(numbers.view(np.int64) != kept.view(np.int64))
        if changed.size:
            page = page.copy()
            page[changed, 1] = number_lines(numbers[changed])
            # A copy, because a scalar family's numbers are the reader's own array.
            self._kept = (numbers.copy(), page)
        if exemplars:
            page = page.copy()
            for line, text in self._exemplars.behind(exemplars):
                page[line, 1] = page[line, 1][:-1] + text + b"\n"
        return b"".join(page.ravel().tolist()) + self._tail


LineCache = SmallLineCache | LargeLineCache


def make_line_cache(families: Iterable[tuple[Family, SeriesLabels]], dialect: Dialect) -> LineCache:
    """Return the line cache of families of one shape, in this order."""
    shape = LineShape("", 1)
    prefixes: list[bytes] = []
    head = b""
    for family, labels in families:
        shape = line_shape(family, dialect.openmetrics)
        own_head, own = _family_prefixes(family, labels, shape, dialect)
        head += own_head
        if own:
            prefixes.append(head + own[0])
            prefixes += own[1:]
            head = b""
    # A family without series has no line that its head could be part of: the next family's first line takes it too.
    kind = SmallLineCache if len(prefixes) <= _SMALL else LargeLineCache
    return kind(prefixes, head, shape)


def _family_prefixes(
    family: Family, labels: SeriesLabels, shape: LineShape, dialect: Dialect
) -> tuple[bytes, list[bytes]]:
    """Return a family's head and prefixes, from a cache: a new series in a family of a run renders that family only."""
    key = (dialect.key, family.name)
    kept: tuple[Family, bytes, list[bytes]] | None = labels.cache.get(key)
    if kept is None or kept[0] != family:
        head = utf8(dialect.head(family.name, family.type, family.documentation, family.unit))
        kept = labels.cache[key] = (family, head, [utf8(text) for text in _prefixes(family, shape, labels)])
    return kept[1], kept[2]


def _prefixes(family: Family, shape: LineShape, labels: Iterable[LabelPairs]) -> Iterator[str]:
    keys = line_keys(family, shape)
    named = [(metric_name(name), label_text(extra)) for name, extra in keys]
    extra_name = next((extra[0][0] for _, extra in keys if extra), "")
    for pairs in labels:
        plain = f"{{{text}}} " if (text := label_text(pairs)) else " "
        left = right = ""
        if extra_name and pairs:
            # prometheus_client sorts `le` and the state among the other labels, and so do we: the texts are equal.
            left = "".join([f"{label_text((pair,))}," for pair in pairs if pair[0] < extra_name])
            right = "".join([f",{label_text((pair,))}" for pair in pairs if pair[0] >= extra_name])
        for name, extra in named:
            yield f"{name}{{{left}{extra}{right}}} " if extra else name + plain
