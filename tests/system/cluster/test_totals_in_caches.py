"""Real segments, published in real caches, folded and merged from there: the totals of a cluster."""

from __future__ import annotations

import random
import time

import pytest

from shm_metrics.cluster.codec import wire
from shm_metrics.cluster.merge.fold import fold
from shm_metrics.cluster.merge.merge import ClusterView, Merger
from shm_metrics.cluster.model.capture import Capture
from shm_metrics.cluster.stores.protocol import CLUSTER, Grant, segment_scope
from tests.support.blobs import A, blob, counter, plain
from tests.support.cache_kinds import TTL, opened

pytestmark = pytest.mark.slow


class Host:
    """One segment with its publisher."""

    def __init__(self, backend, store) -> None:
        self.backend, self.store, self.capture, self.sequence = backend, store, Capture(), 0
        granted = store.acquire(segment_scope(backend.instance_id), f"{backend.instance_id}:1:x", TTL)
        assert isinstance(granted, Grant)
        self.grant = granted

    @property
    def instance(self) -> str:
        return self.backend.instance_id

    def publish(self, *, again: bool = False) -> None:
        self.sequence = self.sequence if again else max(self.sequence + 1, time.time_ns())
        blob = self.capture.blob(
            self.backend.snapshot(stamps=True),
            host="web-1",
            pid=7,
            created_at=self.backend.created_at,
            sequence=self.sequence,
            token=self.grant.token,
        )
        self.store.publish(self.grant, self.instance, wire.encode(blob), self.sequence, TTL)


@pytest.fixture(params=["valkey", "redis", "memcached"])
def cache(request, namespace):
    server, stores = request.getfixturevalue(request.param), []

    def open_():
        stores.append(opened(server.url, namespace, timeout=10.0))
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


@pytest.fixture
def start(cache, make_backend, segment_name):
    """start("a"): a host with a segment of its own; once more: the same host begins anew."""
    running = {}

    def begin(name: str) -> Host:
        if name in running:
            running.pop(name).backend.close()
        running[name] = Host(make_backend(f"{segment_name}-{name}"), cache())
        return running[name]

    yield begin
    for host in running.values():
        host.backend.unlink()


def everything(store):
    """Blobs, then the record, then the tombstones that it names: see fold.py."""
    blobs = {name: wire.decode(data) for name, data in store.fetch(store.instances()).items()}
    record = store.retired()
    retired = None if record is None else wire.decode_retired(record)
    folded = {} if retired is None else {name: told.sequence for name, told in retired.folded.items()}
    wanted = {name: folded[name] for name in blobs if name in folded}
    return blobs, retired, {name: wire.decode(data) for name, data in store.tombstones(wanted).items()}


def look(store) -> ClusterView:
    blobs, retired, tombstones = everything(store)
    return Merger().merge(blobs.values(), retired, tombstones)


def retire(store, instance: str) -> bool:
    """Fold the instance; False: it is in the totals."""
    grant = store.acquire(CLUSTER, "folder", TTL)
    blobs, retired, tombstones = everything(store)
    if instance not in blobs:
        return False
    folded = fold(retired, blobs[instance], tombstones.get(instance), time.time(), token=grant.token)
    if folded is retired:
        return False
    return store.commit_fold(
        grant,
        0 if retired is None else retired.version,
        wire.encode_retired(folded),
        folded.version,
        {instance: wire.encode(blobs[instance])},
        {instance: folded.folded[instance].sequence},
    )


def test_totals_stay_right_as_hosts_publish_begin_anew_go_and_come_back(cache, start):
    reader = cache()
    a, b = start("a"), start("b")
    a.backend.counter("jobs", shop="x").inc(5)
    for _ in range(3):
        a.publish()
    assert look(reader).value("jobs", shop="x") == 5.0
    a.publish(again=True)  # the reply was lost
    a.backend.counter("jobs", shop="x").inc(2)
    a.publish()
    b.backend.counter("jobs", shop="x").inc(5)
    b.backend.histogram("seconds", buckets=[1]).observe(0.1)
    b.publish()
    assert look(reader).value("jobs", shop="x") == 12.0

    old = b.instance
    anew = start("b")
    assert anew.instance != old
    anew.backend.counter("jobs", shop="x").inc(2)
    anew.publish()
    assert look(reader).value("jobs", shop="x") == 14.0

    assert retire(reader, old)
    assert not retire(cache(), old)
    found = look(reader)
    assert found.value("jobs", shop="x") == 14.0
    assert found.family("seconds").sums.tolist() == [0.1]
    assert old not in {each.instance for each in found.instances}

    # One that was only slow is folded, too, and counts on.
    assert retire(reader, a.instance)
    assert look(reader).value("jobs", shop="x") == 14.0
    a.backend.counter("jobs", shop="x").inc(10)
    a.publish()
    found = look(reader)
    assert found.value("jobs", shop="x") == 24.0
    assert {each.instance: each.state for each in found.instances} == {a.instance: "returned", anew.instance: "counted"}
    assert retire(reader, a.instance)
    assert look(reader).value("jobs", shop="x") == 24.0


def test_a_blob_of_more_than_memcacheds_limit_arrives(cache):
    rng = random.Random(1)
    large = blob(counter(more={rng.randbytes(12).hex(): rng.random() for _ in range(60_000)}))
    data, store = wire.encode(large), cache()
    assert len(data) > 1 << 20
    grant = store.acquire(segment_scope(A), "one", TTL)
    store.publish(grant, A, data, 1, TTL)
    blobs, _, _ = everything(cache())
    assert plain(blobs[A].families()) == plain(large.families())
