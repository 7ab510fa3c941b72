"""Every error the package raises, in one tree.

MetricsError
├── InvalidMetricError(ValueError)     a name, label, bucket, amount or value that cannot be recorded
├── MetricConflictError(ValueError)    one name declared twice in one process, with different definitions
├── SegmentError
│   ├── SegmentFormatError             the file is not a segment of this version, or is damaged or truncated
│   └── SegmentFullError               no slot, no row, or no memory left
├── ExportError                        an exporter delivered nothing, or a part; the rest is still due
└── SyncError
    ├── LockLostError                  another process took the leader lease
    └── WireFormatError                a published blob of unknown version, or damaged

A message names the thing, the value, and what to do about it. short_repr() formats any value for it.
"""

__all__ = [
    "ExportError",
    "InvalidMetricError",
    "LockLostError",
    "MetricConflictError",
    "MetricsError",
    "SegmentError",
    "SegmentFormatError",
    "SegmentFullError",
    "SyncError",
    "WireFormatError",
    "short_repr",
]

_MOST_CHARACTERS = 80


def short_repr(value: object) -> str:
    """Return the repr of `value` for a message, shortened to 80 characters. Never raise."""
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 3] + "..."


class MetricsError(Exception):
    """Root of every error of this package."""


class InvalidMetricError(MetricsError, ValueError):
    """A name, label, bucket, amount or value that cannot be recorded; nothing was written."""


class MetricConflictError(MetricsError, ValueError):
    """The name is already declared in this process with another type, buckets, labels or mode."""


class SegmentError(MetricsError):
    """The segment cannot be made, joined or read, or its catalog is locked."""


class SegmentFormatError(SegmentError):
    """The file is not a segment of this version, or it is truncated or damaged beyond its header."""


class SegmentFullError(SegmentError):
    """No slot, row or memory left where one is needed."""


class ExportError(MetricsError):
    """An exporter could not deliver, or not all of it. partly: the receiver is there, and took the rest."""

    def __init__(self, *args: object, partly: bool = False) -> None:
        super().__init__(*args)
        self.partly = partly


class SyncError(MetricsError):
    """Root of the errors of cluster sync."""


class LockLostError(SyncError):
    """Another process took the leader lease."""


class WireFormatError(SyncError):
    """A published blob is of an unknown version, or damaged."""
