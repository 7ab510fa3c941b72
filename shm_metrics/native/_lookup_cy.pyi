"""What _lookup_cy.py offers, for type checkers: its own annotations are Cython's."""

from collections.abc import Iterable, Mapping
from typing import Any

COMPILED: bool

class Children:
    labelnames: tuple[str, ...]
    def name_labels(self, labelnames: Iterable[str]) -> None: ...
    def known_children(self) -> dict[tuple[str, ...], Any]: ...

class Getters:
    def forget_series(self) -> None: ...
    def series_cache(self, kind: str) -> dict[tuple[Any, ...], Any]: ...

def cache_key(name: object, keywords: Mapping[str, object]) -> tuple[Any, ...] | None: ...

labels_method: Any
counter_method: Any
gauge_method: Any
histogram_method: Any
summary_method: Any
