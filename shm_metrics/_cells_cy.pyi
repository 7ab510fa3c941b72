"""What _cells_cy.py offers, for type checkers: its own annotations are Cython's."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, SupportsFloat, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

COMPILED: bool

class Row:
    def __init__(self, view: Any, ledger: Any, matrix: Any, pages: Any, slots_per_page: int) -> None: ...
    def renew(self) -> None: ...
    def point(self, view: Any, ledger: Any, matrix: Any, pages: Any, slots_per_page: int) -> None: ...
    def take(self, other: Row) -> None: ...
    def add(self, slot: int, amount: float) -> None: ...
    def read(self, slot: int) -> float: ...

def private_row(slots: int) -> Row: ...

class Cell:
    def bind(self, row: Row, slot: int) -> None: ...
    def told(self) -> str: ...
    def place(self) -> tuple[Row, int]: ...
    def move(self, row: Row, slot: int) -> None: ...
    def carry(self, source: Row, row: Row) -> None: ...
    def forget(self) -> None: ...

def adopt(private: Row, shared: Row, cells: dict[Any, Any]) -> None: ...

class CounterCell(Cell):
    def inc(self, amount: SupportsFloat = 1.0, exemplar: Mapping[str, str] | None = None) -> None:
        """Add `amount`, finite and at least 0. exemplar: labels that say which event this was, such as a trace's id.

        Raises InvalidMetricError, and then counts nothing.
        """

    def increment(self, amount: SupportsFloat = 1.0, exemplar: Mapping[str, str] | None = None) -> None:
        """The same as inc()."""

class MovingCell(Cell):
    def set(self, value: SupportsFloat) -> None:
        """Set the value: any float."""

    def inc(self, amount: SupportsFloat = 1.0) -> None:
        """Add to the value."""

    def dec(self, amount: SupportsFloat = 1.0) -> None:
        """Subtract from the value."""

    def increment(self, amount: SupportsFloat = 1.0) -> None:
        """The same as inc()."""

    def decrement(self, amount: SupportsFloat = 1.0) -> None:
        """The same as dec()."""

class GaugeCell(MovingCell): ...
class SharedGaugeCell(MovingCell): ...

class HistogramCell(Cell):
    def divide(self, bounds: Any) -> None: ...
    def observe(self, amount: SupportsFloat, exemplar: Mapping[str, str] | None = None) -> None:
        """Count one observation: any float but NaN. exemplar: labels that say which event this was.

        Raises InvalidMetricError, and then counts nothing.
        """

    def time(self) -> HistogramTimer:
        """A context manager and decorator that observes the seconds a block or a call takes."""

class HistogramTimer:
    cell: HistogramCell
    began: float
    @property
    def duration(self) -> float | None:
        """The seconds that the block took, or None while it has not ended."""

    def labels(self, *labelvalues: object, **labelkwargs: object) -> None: ...
    def __enter__(self) -> HistogramTimer: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def __call__(self, function: F) -> F: ...

def gather(view: Any, indexes: Any, out: Any) -> None: ...
