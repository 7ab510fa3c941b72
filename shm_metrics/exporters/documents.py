"""The exporters that return a document: text, openmetrics, json, jsonl and csv."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from shm_metrics.errors import ExportError
from shm_metrics.exporters.options import check_flag, check_names
from shm_metrics.exposition import FORMATS, Dropped, filter_families
from shm_metrics.exposition.samples import Renderable

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = ["DocumentExporter", "chosen", "csv", "describe_dropped", "json", "jsonl", "openmetrics", "text"]


class DocumentExporter:
    """Renders a document.

    render: of an exposition format. names: families or samples to show, as `name[]` of a scrape; all if left out.
    partial: leave out families that cannot be shown, as a scrape does, instead of failing.
    """

    def __init__(
        self, render: Callable[..., bytes], *, names: Iterable[str] | None = None, partial: bool = False
    ) -> None:
        self._render = render
        self._names = check_names(names)
        self._partial = check_flag("partial", partial)

    def export(self, backend: MetricsBackend) -> bytes:
        """Return the document. Raise ExportError for a family that cannot be shown."""
        document, dropped = self.render(backend)
        if dropped and not self._partial:
            raise ExportError(f"{describe_dropped(dropped)}; say partial=True to get the others")
        return document

    def render(self, backend: MetricsBackend) -> tuple[bytes, list[Dropped]]:
        """Return the document without the families that cannot be shown, and these families."""
        dropped: list[Dropped] = []
        return self._render(chosen(backend, self._names), on_dropped=dropped.append), dropped


def chosen(backend: MetricsBackend, names: frozenset[str] | None) -> Sequence[Renderable]:
    """Return what a scrape shows, or the part of it that `names` select."""
    families = backend.collect()
    return families if names is None else filter_families(families, names)


def describe_dropped(dropped: Iterable[Dropped]) -> str:
    """Return a sentence on what was left out."""
    return "not all families can be shown: " + "; ".join(f"{each.name}: {each.reason}" for each in dropped)


def text(*, names: Iterable[str] | None = None, created: bool = False, partial: bool = False) -> DocumentExporter:
    """Prometheus text 0.0.4. created: also the creation time of each series."""
    return DocumentExporter(_with_created("text", created), names=names, partial=partial)


def openmetrics(
    *, names: Iterable[str] | None = None, created: bool = False, partial: bool = False
) -> DocumentExporter:
    """OpenMetrics 1.0.0, with exemplars. created: also the creation time of each series."""
    return DocumentExporter(_with_created("openmetrics", created), names=names, partial=partial)


def json(*, names: Iterable[str] | None = None, partial: bool = False) -> DocumentExporter:
    """One JSON document."""
    return DocumentExporter(FORMATS["json"].render, names=names, partial=partial)


def jsonl(*, names: Iterable[str] | None = None, partial: bool = False) -> DocumentExporter:
    """JSON Lines, a line a series."""
    return DocumentExporter(FORMATS["jsonl"].render, names=names, partial=partial)


def csv(*, names: Iterable[str] | None = None, partial: bool = False) -> DocumentExporter:
    """CSV, a row a sample."""
    return DocumentExporter(FORMATS["csv"].render, names=names, partial=partial)


def _with_created(name: str, created: bool) -> Callable[..., bytes]:
    check_flag("created", created)
    render = FORMATS[name].render

    def with_created(families: Iterable[object], *, on_dropped: Callable[[Dropped], None]) -> bytes:
        return render(families, on_dropped=on_dropped, created=created)

    return with_created
