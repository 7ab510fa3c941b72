"""What this process has seen of the instances: which sequence since when, and the last blob of each that it has read.

Silence is watched. Each look adds the time since the one before, but no more than `interval` of it: in an hour without
an answer from the cache nobody could have been heard, and nobody may be taken for gone because of it.

A copy stands in for what the cache has lost. It is given up as soon as the record holds the instance, and when nobody
has put the instance into the record though there was time enough.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from shm_metrics.cluster.model.blob import Blob, Folded

__all__ = ["Sighting", "Sightings"]


@dataclass(slots=True)
class Sighting:
    """sequence: the newest that was seen, and changed_at: since when. watched: we saw it become that one.

    silent: seconds that were watched since then. there: whether the last look found it; there_at: when one did.
    copy: the last blob that was read, or None.
    """

    sequence: int
    changed_at: float
    there_at: float
    there: bool = True
    watched: bool = False
    silent: float = 0.0
    copy: Blob | None = None


class Sightings:
    """interval: seconds between two looks, as they should be. watched: seconds that were, until the last look."""

    def __init__(self, interval: float) -> None:
        self.watched = 0.0
        self._interval = interval
        self._looked_at: float | None = None
        self._of: dict[str, Sighting] = {}

    def look(self, there: Mapping[str, int], now: float) -> None:
        """`there`: instance -> the sequence that the cache has of it."""
        since = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        self.watched += min(since, self._interval)
        for instance, seen in self._of.items():
            seen.silent += min(since, self._interval)
            seen.there = instance in there
        for instance, sequence in there.items():
            known = self._of.get(instance)
            if known is None:
                self._of[instance] = Sighting(sequence, now, now)
                continue
            known.there_at = now
            if known.sequence != sequence:
                known.sequence, known.changed_at, known.silent = sequence, now, 0.0
                known.watched = since <= 2 * self._interval

    def keep(self, blobs: Iterable[Blob]) -> None:
        """Copies of those that the last look found."""
        for blob in blobs:
            self._of[blob.instance].copy = blob

    def get(self, instance: str) -> Sighting | None:
        return self._of.get(instance)

    @property
    def names(self) -> Collection[str]:
        """Of whom something was seen that counts by itself, or may."""
        return self._of.keys()

    def items(self) -> Iterable[tuple[str, Sighting]]:
        return self._of.items()

    def copies(self) -> dict[str, Blob]:
        """Of those that the last look did not find."""
        return {instance: seen.copy for instance, seen in self._of.items() if seen.copy is not None and not seen.there}

    def drop(self, instances: Iterable[str]) -> None:
        for instance in instances:
            self._of.pop(instance, None)

    def drop_folded(self, folded: Mapping[str, Folded]) -> None:
        """Those that are not there because they are in the record."""
        gone = [name for name, seen in self._of.items() if not seen.there and name in folded]
        self.drop(name for name in gone if self._newest(name) <= folded[name].sequence)

    def drop_lost(self, silent: float, absent: float) -> None:
        """Those that are not there, after so many seconds of silence or absence."""
        self.drop(
            [
                instance
                for instance, seen in self._of.items()
                if not seen.there and (seen.silent >= silent or (self._looked_at or 0.0) - seen.there_at >= absent)
            ]
        )

    def _newest(self, instance: str) -> int:
        """Of what can still be counted: the copy, or nothing but the sequence."""
        seen = self._of[instance]
        return seen.sequence if seen.copy is None else seen.copy.sequence
