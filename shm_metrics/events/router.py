"""Which backends get an event: by its name, with one sampling draw for all of them.

An exact name wins over every glob; among globs the highest priority wins, then the one mapped first.
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
    """Events of one name, or of a glob of names, and who gets them.

    event_name: `*`, `?` and `[...]` make it a glob; `*` stands for dots too. backends: names, in this order.
    enabled: whether anybody gets them. sampling_rate: how many of them, from 0 to 1. priority: among globs.
    metadata: whatever you want to know of it.

    Raises InvalidMetricError.
    """

    event_name: str
    backends: Iterable[str] = ("metrics",)
    enabled: bool = True
    sampling_rate: float = 1.0
    priority: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        told = f"event mapping {self.event_name!r}"
        if not isinstance(self.event_name, str) or not self.event_name:
            raise InvalidMetricError(f"{told}: give the name of an event, or a glob")
        names = (self.backends,) if isinstance(self.backends, str) else tuple(self.backends)
        if not all(isinstance(name, str) and name for name in names):
            raise InvalidMetricError(f"{told}: backends {self.backends!r}: give a list of names")
        if type(self.enabled) is not bool:
            raise InvalidMetricError(f"{told}: enabled={self.enabled!r}: give True or False")
        rate = self.sampling_rate
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.0 <= rate <= 1.0:
            raise InvalidMetricError(f"{told}: sampling_rate={rate!r}: give a number from 0 to 1")
        if type(self.priority) is not int:
            raise InvalidMetricError(f"{told}: priority={self.priority!r}: give a whole number")
        if not isinstance(self.metadata, Mapping):
            raise InvalidMetricError(f"{told}: metadata={self.metadata!r}: give a mapping")
        object.__setattr__(self, "backends", tuple(dict.fromkeys(names)))
        object.__setattr__(self, "sampling_rate", float(rate))

    @property
    def exact(self) -> bool:
        """Whether it is for one name, and no glob."""
        return not any(character in self.event_name for character in "*?[")


class EventRouter:
    """Passes events to the backends that their mapping names.

    default_backends: who gets an event that no mapping is for; nobody if left out.
    draw: gives a number from 0 to below 1; an event is passed on if that is below its sampling rate.
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

    # -- who is there ---------------------------------------------------------------------------------------------

    def register_backend(self, name: str, backend: Any) -> None:
        """Have `backend` known by this name, in place of whoever was.

        It has handle_event(event_name, payload), or is called with the two; it took the event unless it raises or
        gives False. With handle_sampled_event(event_name, payload, sampling_rate) it is told of sampling.
        Raises InvalidMetricError.
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
        """Forget a backend; mappings that name it pass it over. Raises KeyError."""
        with self._lock:
            del self._backends[name]

    # -- mappings -------------------------------------------------------------------------------------------------

    def map(self, event_name: str | EventMapping, backends: Iterable[str] = ("metrics",), **options: Any) -> None:
        """Map a name or glob, in place of what it was mapped to. options: the fields of EventMapping."""
        self._put(
            [event_name if isinstance(event_name, EventMapping) else EventMapping(event_name, backends, **options)]
        )

    def unmap(self, event_name: str) -> bool:
        """Take the mapping of just this name or glob away; whether there was one."""
        with self._lock:
            left = {**self._mappings}
            there = left.pop(event_name, None) is not None
            self._replace(left)
            return there

    def configure(self, mappings: Any) -> None:
        """Map many, or none if one of them is not valid.

        mappings: an EventMapping; a list of them, or of dicts of their fields; such a dict; or a dict of name ->
        EventMapping, dict of the other fields, or list of backends. Raises InvalidMetricError.
        """
        self._put(list(_told(mappings)))

    def _put(self, mappings: list[EventMapping]) -> None:
        with self._lock:
            self._replace({**self._mappings, **{mapping.event_name: mapping for mapping in mappings}})

    def _replace(self, mappings: dict[str, EventMapping]) -> None:
        # In this order: whoever looks meanwhile keeps what it found in the old dict, where nobody sees it.
        self._mappings = mappings
        self._found = {}

    @property
    def mappings(self) -> tuple[EventMapping, ...]:
        """All, in the order in which they were mapped."""
        return tuple(self._mappings.values())

    def mapping_for(self, event_name: str) -> EventMapping | None:
        """The mapping for events of this name."""
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
        """The names and globs whose events this backend gets, sorted."""
        return sorted(each.event_name for each in self.mappings if each.enabled and name in each.backends)

    # -- events ---------------------------------------------------------------------------------------------------

    def route(self, event_name: str, payload: Mapping[str, Any] | None = None) -> list[str]:
        """Pass an event on; the names of the backends that took it. Raises nothing that is an Exception."""
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
        finally:  # also of an event in whose middle Ctrl-C comes
            with self._lock:
                if unmapped:
                    self._counts["unmapped"] += 1
                if what != "routed" or names:
                    self._counts[what] += 1
                for name, outcome in outcomes:
                    self._taken[name][outcome] += 1
        return names

    def handle_event(self, event_name: str, payload: Mapping[str, Any] | None = None) -> bool:
        """route(), for whoever publishes to anything with this method: whether somebody took it."""
        return bool(self.route(event_name, payload))

    def _drawn(self, rate: float) -> bool:
        try:
            return self._draw() < rate
        except Exception as error:
            self._warn_once("draw", error)
            return False

    def _pass_on(self, name: str, event_name: str, payload: Any, rate: float) -> str:
        """What became of it; nothing where there is no such backend."""
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
        self._log_once.warning(name, "shm_metrics: event backend %s: %s (it will not be told again)", name, text)

    def routing_stats(self) -> dict[str, Any]:
        """What this process' router did with its events.

        routed: somebody took it; unmapped: no mapping was for it; disabled, sampled_out: nobody was to get it.
        backends: name -> how many it took, refused (by False), and failed at. mappings: how many there are.
        """
        with self._lock:
            backends = {name: dict(counts) for name, counts in self._taken.items()}
            return {**self._counts, "mappings": len(self._mappings), "backends": backends}


_routers: weakref.WeakSet[EventRouter] = weakref.WeakSet()


@forks.in_child(forks.LOCKS)
def _renew_locks() -> None:
    for router in list(_routers):
        router._lock = RLock()


def _told(mappings: Any) -> Iterable[EventMapping]:
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
