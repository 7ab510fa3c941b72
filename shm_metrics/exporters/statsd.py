"""The exporter `statsd`: increments of totals since the last push, and gauges, as StatsD datagrams."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from math import isfinite
from time import monotonic
from typing import TYPE_CHECKING, Any

from shm_metrics.errors import ExportError, InvalidMetricError
from shm_metrics.exporters.classify import BUCKET, LEVEL, SUM, Series, classify
from shm_metrics.exporters.documents import chosen, describe_dropped
from shm_metrics.exporters.options import check_flag, check_names, check_seconds, check_text, check_texts
from shm_metrics.exporters.pushed_totals import Change, Kept, PushedTotals, growth
from shm_metrics.exporters.statsd_lines import DIALECTS, counter_line, gauge_line, name_of, packets
from shm_metrics.exposition.names import Dropped, resolve_conflicts
from shm_metrics.exposition.samples import Renderable, as_samples, one_by_one
from shm_metrics.model.families import FamilySnapshot

if TYPE_CHECKING:
    from shm_metrics.backend import MetricsBackend

__all__ = ["StatsdExporter"]

_UDP_BYTES = 1432
"""Fits an Ethernet frame of 1500 bytes with the headers of IP, UDP and a tunnel, as StatsD recommends."""
_UNIX_BYTES = 8192
_SHORTEST_WAIT = 0.001
_LONGEST_PATH = 107
_PREFIX = re.compile(r"[a-zA-Z0-9_.-]*")


class StatsdExporter:
    """host and port: where to send by UDP. path: or a Unix datagram socket.

    dialect: dogstatsd, labels as tags; or statsd, labels as parts of the name. prefix: before every name. tags: on
    every line. buckets: whether histograms send their buckets beside count and sum. names: the families to send.
    packet_bytes: the longest datagram; 1432 by UDP, 8192 else. state: the file that says what was sent, by default
    beside the segment. timeout: seconds to wait
    for the lock of that file, and for a receiver that is slow to take all the datagrams.
    Raises InvalidMetricError.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 8125,
        path: str | os.PathLike[str] | None = None,
        dialect: str = "dogstatsd",
        prefix: str = "",
        tags: Mapping[str, str] | None = None,
        buckets: bool = True,
        names: Iterable[str] | None = None,
        packet_bytes: int | None = None,
        state: str | os.PathLike[str] | None = None,
        timeout: float = 5.0,
    ) -> None:
        if dialect not in DIALECTS:
            raise InvalidMetricError(f"dialect={dialect!r}: give one of {', '.join(DIALECTS)}")
        if packet_bytes is not None and not _whole_number(packet_bytes, 64, 65_507):
            raise InvalidMetricError(f"packet_bytes={packet_bytes!r}: give bytes from 64 to 65507")
        if not _whole_number(port, 1, 65_535):
            raise InvalidMetricError(f"port={port!r}: give a number from 1 to 65535")
        if not _PREFIX.fullmatch(check_text("prefix", prefix, empty=True)):
            raise InvalidMetricError(f"prefix={prefix!r}: give letters, digits, '_', '-' and '.'")
        self._path = None if path is None else _path("path", path)
        if self._path is not None and len(os.fsencode(self._path)) > _LONGEST_PATH:
            raise InvalidMetricError(f"path={path!r}: a socket's path has at most {_LONGEST_PATH} bytes")
        self._address = (check_text("host", host), port)
        self._dialect = dialect
        self._prefix = prefix
        self._tags = tuple(sorted(check_texts("tags", tags).items()))
        self._buckets = check_flag("buckets", buckets)
        self._names = check_names(names)
        self._most = packet_bytes or (_UDP_BYTES if path is None else _UNIX_BYTES)
        self._state = None if state is None else os.path.abspath(_path("state", state))
        self._timeout = check_seconds("timeout", timeout)

    @property
    def where(self) -> str:
        """The address, for messages."""
        return self._path if self._path is not None else f"{self._address[0]} port {self._address[1]}"

    def state_path(self, backend: MetricsBackend) -> str:
        """Return the path of the state file: one for each receiver, prefix and dialect."""
        if self._state is not None:
            return self._state
        receiver = repr((self._path, self._address, self._dialect, self._prefix, self._tags)).encode()
        directory, name = os.path.split(backend.place.path)
        # Hidden: in /dev/shm a file with the prefix of segments looks like one, to people and to `dump`.
        return os.path.join(directory, f".{name}.statsd-{blake2b(receiver, digest_size=6).hexdigest()}")

    def export(self, backend: MetricsBackend) -> bytes:
        """Push now; return the datagrams that the socket took, joined by newlines.

        Raise ExportError. What was not taken is sent by the next push.
        """
        if backend.detached:
            # Each process has private totals then, and the next one would read the file as that of an earlier life.
            raise ExportError(f"{backend.place.path}: there is no segment, and so nothing that says what was sent")
        totals = PushedTotals(
            self.state_path(backend), self._timeout, segment=backend.place.path, shared=self._state is not None
        )
        incarnation, dropped = backend.instance_id, list[Dropped]()
        with self._connected() as connection, totals.locked(incarnation) as kept:
            # Scanned under the lock: an older scan than the one in the file would look like totals that fell.
            families, _ = resolve_conflicts(chosen(backend, self._names), dropped.append)
            shown = set[str]()
            ready = list(packets(self._all_lines(families, kept, shown, dropped), self._most))
            self._forget(backend, kept, shown)
            fit = [packet for packet in ready if len(packet[0]) <= self._most]
            sent = self._send(connection, fit, totals, incarnation, kept)
        if len(fit) < len(ready):
            longest = max((data for data, _ in ready), key=len)
            raise ExportError(
                f"{len(ready) - len(fit)} lines are longer than packet_bytes={self._most} and were not sent, such as "
                f"{longest[:100]!r}; the others were",
                partly=True,
            )
        if dropped:
            raise ExportError(f"{describe_dropped(dropped)}; the others were sent", partly=True)
        return sent

    def _all_lines(
        self, families: Iterable[Renderable], kept: dict[str, Kept], shown: set[str], dropped: list[Dropped]
    ) -> Iterator[tuple[str, Change | None]]:
        for item in one_by_one(families):
            try:
                found = [series for series in classify(as_samples(item, created=True)) if series.points]
                named = [self._named(series) for series in found]
            except (AttributeError, TypeError, ValueError, OverflowError) as error:  # of a custom collector
                dropped.append(
                    Dropped(
                        item.name if not isinstance(item, FamilySnapshot) else item.family.name,
                        f"it is not understood: {error!r}",
                    )
                )
                continue
            for series, names in zip(found, named, strict=True):
                shown.update(map("".join, names))
                own = isinstance(item, FamilySnapshot) and series.created is not None
                yield from self._lines(series, names, kept, own)

    def _named(self, series: Series) -> list[tuple[str, str]]:
        return [
            name_of(point.name, point.labels, dialect=self._dialect, prefix=self._prefix, tags=self._tags)
            for point in series.points
        ]

    def _lines(
        self, series: Series, named: list[tuple[str, str]], kept: dict[str, Kept], own: bool
    ) -> Iterator[tuple[str, Change | None]]:
        # With a bound below 0 there are observations below 0, and the sum is a level.
        level_sum = any(point.meaning == BUCKET and point.key.startswith("-") for point in series.points)
        for place, grown, change in growth(series, kept, ["".join(name) for name in named], own=own):
            meaning = series.points[place].meaning
            if (meaning != BUCKET or self._buckets) and (meaning != SUM or not level_sum):
                yield counter_line(named[place], grown), change
        for point, name in zip(series.points, named, strict=True):
            if isfinite(point.value) and (point.meaning == LEVEL or (point.meaning == SUM and level_sum)):
                yield gauge_line(name, point.value), None

    def _forget(self, backend: MetricsBackend, kept: dict[str, Kept], shown: set[str]) -> None:
        """Remove series from `kept` that are gone from the segment: if they return, they start from zero.

        Hidden series and those of collectors stay: they would return with their whole totals.
        """
        missing = {key for key, (_, _, own) in kept.items() if own and key not in shown}
        if not missing:
            return
        snapshot = backend.snapshot()
        if snapshot.shadowed_series or snapshot.damaged_records:
            return
        for item in one_by_one(snapshot.items):
            for series in classify(as_samples(item, created=True)):
                missing.difference_update(map("".join, self._named(series)))
        for key in missing:
            del kept[key]

    def _send(
        self,
        connection: socket.socket,
        ready: list[tuple[bytes, list[Change | None]]],
        totals: PushedTotals,
        incarnation: str,
        kept: dict[str, Kept],
    ) -> bytes:
        for _, along in ready:
            kept.update({change[0]: change[2] for change in along if change is not None})
        try:
            totals.write(incarnation, kept)
        except ExportError as error:
            raise ExportError(f"{error}; nothing was sent") from error
        sent = 0
        try:
            deadline = monotonic() + self._timeout
            for data, _ in ready:
                # Never 0, which would mean not to wait at all.
                connection.settimeout(max(_SHORTEST_WAIT, deadline - monotonic()))
                connection.send(data)
                sent += 1
            refused = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if refused:
                raise OSError(refused, os.strerror(refused))
        except OSError as error:
            for _, along in ready[sent:]:
                for key, before, _now in [change for change in along if change is not None]:
                    if before is None:
                        kept.pop(key, None)
                    else:
                        kept[key] = before
            why = "time-out" if isinstance(error, TimeoutError) else error.strerror
            outcome = f"{self.where}: {why}; {sent} of {len(ready)} datagrams were sent"
            try:
                totals.write(incarnation, kept)
            except ExportError as unwritten:
                raise ExportError(f"{outcome}, and what the others held is lost: {unwritten}") from error
            raise ExportError(outcome) from error
        return b"\n".join(data for data, _ in ready)

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        try:
            if self._path is not None:
                made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                address: str | tuple[str, int] = self._path
            else:
                kind, _, _, _, found = socket.getaddrinfo(*self._address, type=socket.SOCK_DGRAM)[0]
                made, address = socket.socket(kind, socket.SOCK_DGRAM), found[:2]  # type: ignore[assignment]
        except OSError as error:
            raise ExportError(f"{self.where}: {error}") from error
        with made:
            try:
                made.settimeout(self._timeout)
                made.connect(address)
            except OSError as error:
                raise ExportError(f"{self.where}: {error.strerror}; nothing was sent") from error
            yield made


def _whole_number(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _path(name: str, value: Any) -> str:
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    if not isinstance(path, str) or not path or "\0" in path:
        raise InvalidMetricError(f"{name}={value!r}: give the path of a file")
    return path
