"""What this process has observed of the instances: their sequences, their silence, and the last blob read of each.

Only watched silence counts. Each observation adds the time since the previous one, capped at `interval`: an hour
without an answer from the cache must not make living instances look gone.

A copy stands in for a blob that the cache has lost. It is dropped as soon as the record holds the instance, or when no
leader has folded the instance in the time that folding may take.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from shm_metrics.cluster.model.blob import Blob, Folded

__all__ = ["Liveness", "Observation"]


@dataclass(slots=True)
class Observation:
    """What is known of one instance.

    sequence: the newest one observed. changed_at: when it was first observed. watched: whether the change was observed.
    silent: watched seconds since then. there: whether the last observation found it. there_at: when one last did.
    copy: the last blob that was read, or None.
    """

    sequence: int
    changed_at: float
    there_at: float
    there: bool = True
    watched: bool = False
    silent: float = 0.0
    copy: Blob | None = None


class Liveness:
    """The observed instances of a cluster.

    interval: intended seconds between two observations. watched: seconds watched until the last observation.
    """

    def __init__(self, interval: float) -> None:
        self.watched = 0.0
        self._interval = interval
        self._observed_at: float | None = None
        self._observations: dict[str, Observation] = {}

    def observe(self, there: Mapping[str, int], now: float) -> None:
        """Record an observation. there: instance -> the sequence that the cache has of it."""
        since = 0.0 if self._observed_at is None else now - self._observed_at
        self._observed_at = now
        self.watched += min(since, self._interval)
        for instance, seen in self._observations.items():
            seen.silent += min(since, self._interval)
            seen.there = instance in there
        for instance, sequence in there.items():
            known = self._observations.get(instance)
            if known is None:
                self._observations[instance] = Observation(sequence, now, now)
                continue
            known.there_at = now
            if known.sequence != sequence:
                known.sequence, known.changed_at, known.silent = sequence, now, 0.0
                known.watched = since <= 2 * self._interval

    def keep(self, blobs: Iterable[Blob]) -> None:
        """Keep the blobs as copies of instances that the last observation found."""
        for blob in blobs:
            self._observations[blob.instance].copy = blob

    def get(self, instance: str) -> Observation | None:
        return self._observations.get(instance)

    @property
    def names(self) -> Collection[str]:
        """The observed instances."""
        return self._observations.keys()

    def items(self) -> Iterable[tuple[str, Observation]]:
        return self._observations.items()

    def copies(self) -> dict[str, Blob]:
        """Return the copies of instances that the last observation did not find."""
        return {
            instance: seen.copy
            for instance, seen in self._observations.items()
            if seen.copy is not None and not seen.there
        }

    def drop(self, instances: Iterable[str]) -> None:
        for instance in instances:
            self._observations.pop(instance, None)

    def drop_folded(self, folded: Mapping[str, Folded]) -> None:
        """Drop the instances that are absent because the record holds them."""
        gone = [name for name, seen in self._observations.items() if not seen.there and name in folded]
        self.drop(name for name in gone if self._newest(name) <= folded[name].sequence)

    def drop_lost(self, silent: float, absent: float) -> None:
        """Drop the absent instances after `silent` seconds of silence or `absent` seconds of absence."""
        self.drop(
            [
                instance
                for instance, seen in self._observations.items()
                if not seen.there and (seen.silent >= silent or (self._observed_at or 0.0) - seen.there_at >= absent)
            ]
        )

    def _newest(self, instance: str) -> int:
        """Return the newest sequence that can still be counted: that of the copy, if there is one."""
        seen = self._observations[instance]
        return seen.sequence if seen.copy is None else seen.copy.sequence
