"""Route events to backends by name, with one sampling draw for all backends of an event.

An exact name wins over every glob. Among globs the highest priority wins, then the one that was mapped first.
"""

from __future__ import annotations

import logging
import random
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from threading import RLock
from typing import Any

from shm_metrics.errors import InvalidMetricError, short_repr
from shm_metrics.runtime import forks
from shm_metrics.runtime.log_once import LogOnce

__all__ = ["EventMapping", "EventRouter"]

log = logging.getLogger("shm_metrics")

MAX_FOUND = 2_048


@dataclass(frozen=True)
class EventMapping:
    """The backends for events of one name, or of a glob of names.

    event_name: `*`, `?` and `[...]` make it a glob; `*` also matches dots.
    backends: names, called in this order.
    enabled: False drops the events. sampling_rate: share of events to pass on, from 0 to 1.
    priority: of a glob among globs. metadata: for your own use.

    Raises InvalidMetricError.
    """

    event_name: str
    backends: Iterable[str] = ("metrics",)
    enabled: bool = True
    sampling_rate: float = 1.0
    priority: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        subject = f"event mapping {self.event_name!r}"
        if not isinstance(self.event_name, str) or not self.event_name:
            raise InvalidMetricError(f"{subject}: give the name of an event, or a glob")
        names = (self.backends,) if isinstance(self.backends, str) else tuple(self.backends)
        if not all(isinstance(name, str) and name for name in names):
            raise InvalidMetricError(f"{subject}: backends {self.backends!r}: give a list of names")
        if type(self.enabled) is not bool:
            raise InvalidMetricError(f"{subject}: enabled={self.enabled!r}: give True or False")
        rate = self.sampling_rate
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.0 <= rate <= 1.0:
            raise InvalidMetricError(f"{subject}: sampling_rate={rate!r}: give a number from 0 to 1")
        if type(self.priority) is not int:
            raise InvalidMetricError(f"{subject}: priority={self.priority!r}: give a whole number")
        if not isinstance(self.metadata, Mapping):
            raise InvalidMetricError(f"{subject}: metadata={self.metadata!r}: give a mapping")
        object.__setattr__(self, "backends", tuple(dict.fromkeys(names)))
        object.__setattr__(self, "sampling_rate", float(rate))

    @property
    def exact(self) -> bool:
        """Whether it maps one name, not a glob."""
        return not any(character in self.event_name for character in "*?[")


class EventRouter:
    """Passes events to the backends that their mapping names.

    default_backends: the backends for events without a mapping; none if left out.
    draw: returns a number in [0, 1); an event is passed on if it is below the sampling rate.
    """

    def __init__(self, default_backends: Iterable[str] = (), *, draw: Callable[[], float] = random.random) -> None:
        self._default = EventMapping("*", default_backends)
        self._draw = draw
        self._backends: dict[str, tuple[Callable[..., Any], Callable[..., Any] | None]] = {}
        self._mappings: dict[str, EventMapping] = {}
        self._found: dict[str, EventMapping | None] = {}
        self._counts = dict.fromkeys(("routed", "unmapped", "disabled", "sampled_out"), 0)
        self._taken: dict[str, dict[str, int]] = {}
        self._log_once = LogOnce(log)
        self._lock = RLock()  # a signal handler or a __del__ that publishes may come in on top
        _routers.add(self)

    # -- backends -------------------------------------------------------------------------------------------------

    def register_backend(self, name: str, backend: Any) -> None:
        """Register `backend` under this name, replacing any other.

        backend: has handle_event(event_name, payload), or is callable with these two. It has taken the event unless it
            raises or returns False. If it has handle_sampled_event(event_name, payload, sampling_rate), sampled events
            go there.

        Raise InvalidMetricError.
        """
        if not isinstance(name, str) or not name:
            raise InvalidMetricError(f"backend name {name!r}: give text")
        take = getattr(backend, "handle_event", backend)
        if backend is self or not callable(take):
            raise InvalidMetricError(f"backend {name}: {backend!r}: give a callable, or an object with handle_event()")
        with self._lock:
            self._log_once.forget(name)
            self._backends[name] = take, getattr(backend, "handle_sampled_event", None)
            self._taken.setdefault(name, {"taken": 0, "refused": 0, "failed": 0})

    def unregister_backend(self, name: str) -> None:
        """Remove a backend; mappings that name it skip it. Raise KeyError."""
        with self._lock:
            del self._backends[name]

    # -- mappings -------------------------------------------------------------------------------------------------

    def map(self, event_name: str | EventMapping, backends: Iterable[str] = ("metrics",), **options: Any) -> None:
        """Map a name or glob, replacing its earlier mapping. options: the fields of EventMapping."""
        self._put(
            [event_name if isinstance(event_name, EventMapping) else EventMapping(event_name, backends, **options)]
        )

    def unmap(self, event_name: str) -> bool:
        """Remove the mapping of exactly this name or glob; return whether there was one."""
        with self._lock:
            left = {**self._mappings}
            there = left.pop(event_name, None) is not None
            self._replace(left)
            return there

    def configure(self, mappings: Any) -> None:
        """Add many mappings, or none if one of them is invalid.

        mappings: an EventMapping; a list of them, or of dicts of their fields; such a dict; or a dict of name ->
            EventMapping, dict of the other fields, or list of backends.

        Raise InvalidMetricError.
        """
        self._put(list(_parsed(mappings)))

    def _put(self, mappings: list[EventMapping]) -> None:
        with self._lock:
            self._replace({**self._mappings, **{mapping.event_name: mapping for mapping in mappings}})

    def _replace(self, mappings: dict[str, EventMapping]) -> None:
        # In this order: a concurrent lookup caches its result in the old dict, which is dropped.
        self._mappings = mappings
        self._found = {}

    @property
    def mappings(self) -> tuple[EventMapping, ...]:
        """All mappings, in the order in which they were added."""
        return tuple(self._mappings.values())

    def mapping_for(self, event_name: str) -> EventMapping | None:
        """Return the mapping for events of this name, or None."""
        kept = self._found
        try:
            return kept[event_name]
        except KeyError:
            pass
        mappings = self._mappings
        found = mappings.get(event_name)
        if found is None or not found.exact:
            globs = [each for each in mappings.values() if not each.exact and fnmatchcase(event_name, each.event_name)]
            found = max(globs, key=lambda each: each.priority, default=None)
        if len(kept) >= MAX_FOUND:
            kept.clear()
        kept[event_name] = found
        return found

    def events_for_backend(self, name: str) -> list[str]:
        """Return the names and globs whose events this backend gets, sorted."""
        return sorted(each.event_name for each in self.mappings if each.enabled and name in each.backends)

    # -- events ---------------------------------------------------------------------------------------------------

    def route(self, event_name: str, payload: Mapping[str, Any] | None = None) -> list[str]:
        """Pass an event on; return the names of the backends that took it. Never raises an Exception."""
        mapping = self.mapping_for(event_name) if isinstance(event_name, str) else None
        unmapped = mapping is None
        if mapping is None:
            mapping = self._default
        names: list[str] = []
        outcomes: list[tuple[str, str]] = []
        what = "routed"
        try:
            if not mapping.enabled:
                what = "disabled"
            elif mapping.sampling_rate < 1.0 and not self._drawn(mapping.sampling_rate):
                what = "sampled_out"
            else:
                for name in mapping.backends:
                    outcome = self._pass_on(name, event_name, payload, mapping.sampling_rate)
                    if outcome:
                        outcomes.append((name, outcome))
                    if outcome == "taken":
                        names.append(name)
        finally:  # also when Ctrl-C interrupts
            with self._lock:
                if unmapped:
                    self._counts["unmapped"] += 1
                if what != "routed" or names:
                    self._counts[what] += 1
                for name, outcome in outcomes:
                    self._taken[name][outcome] += 1
        return names

    def handle_event(self, event_name: str, payload: Mapping[str, Any] | None = None) -> bool:
        """Route an event; return whether any backend took it. The interface that publishers expect."""
        return bool(self.route(event_name, payload))

    def _drawn(self, rate: float) -> bool:
        try:
            return self._draw() < rate
        except Exception as error:
            self._warn_once("draw", error)
            return False

    def _pass_on(self, name: str, event_name: str, payload: Any, rate: float) -> str:
        """Return the outcome at one backend: taken, refused or failed; "" if there is no such backend."""
        try:
            take, take_sampled = self._backends[name]
        except KeyError:
            self._warn_once(name, "it is not registered")
            return ""
        try:
            if rate == 1.0 or take_sampled is None:
                took = take(event_name, payload)
            else:
                took = take_sampled(event_name, payload, rate)
        except Exception as error:
            self._warn_once(name, error)
            return "failed"
        return "refused" if took is False else "taken"

    def _warn_once(self, name: str, what: object) -> None:
        if name in self._log_once:
            return
        text = what if isinstance(what, str) else short_repr(what)
        self._log_once.warning(
            name, "shm_metrics: event backend %s: %s (further errors of it are suppressed)", name, text
        )

    def routing_stats(self) -> dict[str, Any]:
        """Return the counts of this router, in this process.

        routed: a backend took the event. unmapped: no mapping matched. disabled, sampled_out: it was not passed on.
        backends: name -> events that it took, refused (by False) and failed at. mappings: their number.
        """
        with self._lock:
            backends = {name: dict(counts) for name, counts in self._taken.items()}
            return {**self._counts, "mappings": len(self._mappings), "backends": backends}


_routers: weakref.WeakSet[EventRouter] = weakref.WeakSet()


@forks.in_child(forks.LOCKS)
def _renew_locks() -> None:
    for router in list(_routers):
        router._lock = RLock()


def _parsed(mappings: Any) -> Iterable[EventMapping]:
    if isinstance(mappings, EventMapping):
        yield mappings
    elif isinstance(mappings, Mapping):
        if isinstance(mappings.get("event_name"), str):
            yield _mapping(mappings)
            return
        for name, rest in mappings.items():
            if isinstance(rest, EventMapping):
                if rest.event_name != name:
                    raise InvalidMetricError(f"event mapping {name!r}: its value is the one of {rest.event_name!r}")
                yield rest
            elif isinstance(rest, Mapping):
                yield _mapping({"event_name": name, **rest})
            else:
                yield _mapping({"event_name": name, "backends": rest})
    elif isinstance(mappings, Iterable) and not isinstance(mappings, str | bytes):
        for each in mappings:
            yield each if isinstance(each, EventMapping) else _mapping(each)
    else:
        raise InvalidMetricError(f"event mappings {mappings!r}: give an EventMapping, a list or a dict")


def _mapping(fields: Any) -> EventMapping:
    try:
        return EventMapping(**fields)
    except TypeError as error:
        raise InvalidMetricError(f"event mapping {fields!r}: {error}") from None
