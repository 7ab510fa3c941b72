"""The methods of prometheus_client's metric classes while the drop-in is installed.

An update is one call of the series' own method, found in the instance. Everything else takes the slow path: a parent
without labels, a metric whose worker is identified at each update, an amount that prometheus_client accepts and the
series does not (True, text of a number).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from threading import Lock
from typing import Any

from shm_metrics.errors import InvalidMetricError, short_repr
from shm_metrics.metrics.family_handle import FamilyHandle
from shm_metrics.model.families import COUNTER, GAUGE
from shm_metrics.model.labels import label_pairs
from shm_metrics.prometheus.binding import declares, pairs_of, series_of
from shm_metrics.runtime.log_once import LogOnce

__all__ = ["METHODS", "originals"]

log = logging.getLogger("shm_metrics")

originals: dict[tuple[str, str], Callable[..., Any]] = {}
"""(class, method) -> what prometheus_client has there; filled by the installation."""

_log_once = LogOnce(log)


def _warn_once(metric: Any, message: str) -> None:
    _log_once.warning(metric._name, "shm_metrics: %s %s: %s (logged once)", metric._type, metric._name, message)


def _series(metric: Any) -> Any:
    """Return the series of a metric, or None if prometheus_client's own value counts."""
    series = metric.__dict__.get("_shm_series")
    if series is not None:
        return series
    metric._raise_if_not_observable()
    value: Any = getattr(metric, "_value", None) or getattr(metric, "_sum", None)
    if not hasattr(value, "worker"):
        return None
    return series_of(value.worker.backend, value.family, pairs_of(metric))


def _slowly(metric: Any, name: str, amount: Any, *more: Any) -> None:
    """Update a metric by the slow path. more: an exemplar."""
    series = _series(metric)
    if series is None:
        originals[_class_of(metric), name](metric, amount, *more)
        return
    exemplar = more[0] if more else None
    if exemplar:
        _check_exemplar(exemplar)
    try:
        number = float(amount)
    except (TypeError, ValueError) as error:
        called = f"{metric._type} {series.display_name()}: {name}({short_repr(amount)})"
        raise type(error)(f"{called}: give a number") from None
    if metric._type != GAUGE and (math.isnan(number) or (metric._type == COUNTER and math.isinf(number))):
        # It would spoil the total of all workers for good, and raising could break a running application.
        _warn_once(metric, f"{name}({number}) was left out")
        return
    try:
        if exemplar:
            getattr(series, name)(number, exemplar)
        else:
            getattr(series, name)(number)
    except InvalidMetricError as error:
        if getattr(metric, "_is_most_recent", False):
            raise RuntimeError(f"{name} must not be used with the mostrecent mode") from error
        raise


def _class_of(metric: Any) -> str:
    return {"counter": "Counter", "gauge": "Gauge", "summary": "Summary", "histogram": "Histogram"}[metric._type]


def _check_exemplar(exemplar: Any) -> None:
    """Check by prometheus_client's rules, which may allow legacy names only; the series has its own check."""
    from prometheus_client import metrics

    metrics._validate_exemplar(exemplar)  # type: ignore[attr-defined, no-untyped-call]


# -- updates ----------------------------------------------------------------------------------------------------------


def _counter_inc(self: Any, amount: float = 1.0, exemplar: Any = None) -> None:
    """Increment counter by the given amount."""
    if exemplar is None:
        try:
            self._shm_series.inc(amount)
            return
        except (AttributeError, InvalidMetricError):
            pass
    _slowly(self, "inc", amount, exemplar)


def _counter_reset(self: Any) -> None:
    """Reset the counter to zero, for all workers."""
    series = _series(self)
    if series is None:
        originals["Counter", "reset"](self)
    else:
        series.reset()


def _gauge_inc(self: Any, amount: float = 1.0) -> None:
    """Increment gauge by the given amount."""
    try:
        self._shm_series.inc(amount)
    except (AttributeError, InvalidMetricError):
        _slowly(self, "inc", amount)


def _gauge_dec(self: Any, amount: float = 1.0) -> None:
    """Decrement gauge by the given amount."""
    try:
        self._shm_series.dec(amount)
    except (AttributeError, InvalidMetricError):
        _slowly(self, "dec", amount)


def _gauge_set(self: Any, value: float) -> None:
    """Set gauge to the given value."""
    try:
        self._shm_series.set(value)
    except (AttributeError, InvalidMetricError):
        _slowly(self, "set", value)


def _gauge_set_function(self: Any, f: Callable[[], float]) -> None:
    """Call the function at each scrape that this process answers; the value is seen by all."""
    series = _series(self)
    if series is None:
        originals["Gauge", "set_function"](self, f)
    else:
        series.set_function(f)


def _summary_observe(self: Any, amount: float) -> None:
    """Observe the given amount."""
    try:
        self._shm_series.observe(amount)
    except (AttributeError, InvalidMetricError):
        _slowly(self, "observe", amount)


def _histogram_observe(self: Any, amount: float, exemplar: Any = None) -> None:
    """Observe the given amount."""
    if exemplar is None:
        try:
            self._shm_series.observe(amount)
            return
        except (AttributeError, InvalidMetricError):
            pass
    _slowly(self, "observe", amount, exemplar)


def _info_info(self: Any, val: Any) -> None:
    """Set info metric."""
    self._raise_if_not_observable()
    originals["Info", "info"](self, val)
    series = self.__dict__.get("_shm_series")
    if series is None:
        return
    try:
        series._set_labels(label_pairs(val))  # any names, as prometheus_client has them: pages escape them
    except InvalidMetricError as error:
        _warn_once(self, f"{error}; pages of all workers do not show it")


def _enum_state(self: Any, state: str) -> None:
    """Set enum metric state."""
    originals["Enum", "state"](self, state)
    series = self.__dict__.get("_shm_series")
    if series is not None:
        series.state(state)


# -- children ---------------------------------------------------------------------------------------------------------


def _labels(self: Any, *labelvalues: Any, **labelkwargs: Any) -> Any:
    """The child for the given labels. One that is known is found without a lock."""
    key = labelvalues
    try:
        if labelkwargs:
            # By name, and all of them: none by position beside them, and none that it does not have.
            key = () if labelvalues or len(labelkwargs) != len(self._labelnames) else _in_order(self, labelkwargs)
        for value in key:
            if type(value) is not str:
                break
        else:
            return self._metrics[key]
    except (AttributeError, KeyError):
        pass
    return originals["MetricWrapperBase", "labels"](self, *labelvalues, **labelkwargs)


def _in_order(metric: Any, labelkwargs: dict[str, Any]) -> tuple[Any, ...]:
    return tuple([labelkwargs[name] for name in metric._labelnames])


def _handle(metric: Any) -> FamilyHandle | None:
    """Return the handle of a metric's family, for removal; None when it does not count in the segment."""
    from shm_metrics.prometheus.installation import current

    handle = current().backend.families.handles.get(metric._name)
    return handle if handle is not None and declares(metric, handle) else None


def _remove(self: Any, *labelvalues: Any) -> None:
    """Remove the given labelset from the metric, for all workers."""
    if not self._labelnames:
        raise ValueError(f"No label names were set when constructing {self}")
    if len(labelvalues) != len(self._labelnames):
        raise ValueError(f"Incorrect label count (expected {len(self._labelnames)}, got {labelvalues})")
    values = tuple(str(value) for value in labelvalues)
    with self._lock:
        self._metrics.pop(values, None)
        handle = _handle(self)
        if handle is not None:
            handle.remove(tuple(sorted(zip(self._labelnames, values, strict=True))))


def _remove_by_labels(self: Any, labels: dict[str, str]) -> None:
    """Remove all series whose labelset has these labels, for all workers."""
    if not self._labelnames:
        raise ValueError(f"No label names were set when constructing {self}")
    if not isinstance(labels, dict):
        raise TypeError("labels must be a dict of {label_name: label_value}")
    unknown = [name for name in labels if name not in self._labelnames]
    if unknown:
        raise ValueError(f"Unknown label names: {unknown}; expected {self._labelnames}")
    if not labels:
        return
    wanted = {name: str(value) for name, value in labels.items()}
    with self._lock:
        for values in list(self._metrics):
            if wanted.items() <= dict(zip(self._labelnames, values, strict=True)).items():
                self._metrics.pop(values, None)
        handle = _handle(self)
        if handle is not None:
            handle.remove_matching(wanted)


def _clear(self: Any) -> None:
    """Remove all labelsets from the metric, for all workers."""
    if not self._labelnames:
        return
    with self._lock:
        self._metrics = {}
        handle = _handle(self)
        if handle is not None:
            handle.clear()


def renew_locks(metric: Any) -> None:
    """Renew the locks of a metric after a fork: a thread of the parent may have held them."""
    if "_lock" in metric.__dict__:
        metric._lock = Lock()


METHODS: dict[str, dict[str, Callable[..., Any]]] = {
    "MetricWrapperBase": {
        "labels": _labels,
        "remove": _remove,
        "remove_by_labels": _remove_by_labels,
        "clear": _clear,
    },
    "Counter": {"inc": _counter_inc, "reset": _counter_reset},
    "Gauge": {"inc": _gauge_inc, "dec": _gauge_dec, "set": _gauge_set, "set_function": _gauge_set_function},
    "Summary": {"observe": _summary_observe},
    "Histogram": {"observe": _histogram_observe},
    "Info": {"info": _info_info},
    "Enum": {"state": _enum_state},
}
