"""The local store: a file beside the segment, replaced as a whole, and the segment's leader byte."""

from __future__ import annotations

import logging
import os
import signal
import stat
import subprocess
import sys
import threading

import pytest

from shm_metrics.cluster.store_factory import open_store
from shm_metrics.cluster.stores.local_store import LocalStore
from shm_metrics.cluster.stores.protocol import CLUSTER, Grant, LeaseRefused, segment_scope
from shm_metrics.cluster.stores.snapshot_file import Content, Kept
from shm_metrics.errors import LockLostError, SyncError
from shm_metrics.segment.file_locks import FileLocks
from tests.support.cache_kinds import INSTANCE, OTHER, SCOPE, TTL


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shop.snapshot"


def test_with_no_cache_the_file_is_beside_the_segment(make_writer, place):
    store = open_store(None, namespace="shop", segment=make_writer().segment)
    store.publish(store.acquire(SCOPE, "one", TTL), INSTANCE, b"blob", 1, TTL)
    beside = place.path + ".snapshot"
    try:
        assert stat.S_IMODE(os.stat(beside).st_mode) == 0o600
        other = open_store(None, namespace="shop", segment=make_writer().segment)
        assert other.fetch([INSTANCE]) == {INSTANCE: b"blob"}
    finally:
        os.unlink(beside)
        os.unlink(beside + ".lock")


def test_a_private_segment_keeps_it_in_memory(make_writer, tmp_path, monkeypatch):
    from shm_metrics.segment.layout import Layout
    from shm_metrics.segment.segment import Segment

    monkeypatch.chdir(tmp_path)
    store = open_store(None, namespace="shop", segment=Segment.private(Layout(2, 64)))
    store.publish(store.acquire(SCOPE, "one", TTL), INSTANCE, b"blob", 1, TTL)
    assert store.fetch([INSTANCE]) == {INSTANCE: b"blob"}
    assert os.listdir(tmp_path) == []


def test_what_was_published_is_there_after_everybody_ended(make_writer, path):
    writer = make_writer()
    store = LocalStore(str(path), writer.segment)
    store.publish(store.acquire(SCOPE, "one", TTL), INSTANCE, b"blob", 1, TTL)
    fold = store.acquire(CLUSTER, "one", TTL)
    assert store.commit_fold(fold, 0, b"record", 1, {OTHER: b"tomb"}, {OTHER: 1})
    store.close()
    writer.close()
    again = LocalStore(str(path), make_writer().segment)
    assert again.fetch(again.instances()) == {INSTANCE: b"blob"}
    assert again.retired() == b"record"
    assert again.tombstones({OTHER: 1}) == {OTHER: b"tomb"}
    assert again.acquire(CLUSTER, "two", TTL).token > fold.token


def test_the_lease_goes_with_its_holder(make_writer, path):
    first, second = make_writer(), make_writer()
    one, other = LocalStore(str(path), first.segment), LocalStore(str(path), second.segment)
    grant = one.acquire(SCOPE, "one", TTL)
    assert other.acquire(SCOPE, "other", TTL) == LeaseRefused()
    first.close()
    assert isinstance(other.acquire(SCOPE, "other", TTL), Grant)
    assert not one.renew(grant, TTL)
    with pytest.raises(LockLostError):
        one.publish(grant, INSTANCE, b"late", 1, TTL)


HOLDER = """
import os, signal, sys
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.location import SegmentLocation
from shm_metrics.cluster.stores.local_store import LocalStore
from shm_metrics.writer.writer import Writer
path, shm, snapshot, scope, instance = sys.argv[1:]
writer = Writer(SegmentLocation(path, shm), Layout(8, 2048))
store = LocalStore(snapshot, writer.segment)
store.publish(store.acquire(scope, "dead", 3600), instance, b"blob", 1, 3600)
if os.fork() == 0:
    print("ready", flush=True)
    sys.stdin.read()  # lives on, until the test has ended
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_holder_is_followed_at_once_though_a_child_of_it_lives(make_writer, path, place):
    writer = make_writer()
    arguments = [place.path, place.shm, str(path), SCOPE, INSTANCE]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    with holder:
        assert holder.stdout.readline() == b"ready\n"
        assert holder.wait(30) == -signal.SIGKILL
        store = LocalStore(str(path), writer.segment)
        store.publish(store.acquire(SCOPE, "one", TTL), INSTANCE, b"new", 2, TTL)
        assert store.fetch([INSTANCE]) == {INSTANCE: b"new"}


def test_one_release_of_two_scopes_keeps_the_other(make_writer, path):
    one, other = LocalStore(str(path), make_writer().segment), LocalStore(str(path), make_writer().segment)
    grants = [one.acquire(scope, "one", TTL) for scope in (SCOPE, CLUSTER)]
    assert one.release(grants[0])
    assert other.acquire(SCOPE, "other", TTL) == LeaseRefused()
    assert one.renew(grants[1], TTL)
    assert one.release(grants[1])
    assert isinstance(other.acquire(SCOPE, "other", TTL), Grant)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:5],
        lambda data: b"",
        lambda data: b"X" + data[1:],
        lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:],
    ],
    ids=["shorter", "cut", "empty", "other magic", "one bit"],
)
def test_a_damaged_file_counts_as_none_and_is_told_once(damage, make_writer, path, caplog):
    store = LocalStore(str(path), make_writer().segment)
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"blob", 1, TTL)
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING, "shm_metrics"):
        assert store.instances() == {}
        assert store.fetch([INSTANCE]) == {}
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    store.publish(grant, INSTANCE, b"blob", 2, TTL)
    assert store.fetch([INSTANCE]) == {INSTANCE: b"blob"}


def test_whatever_the_file_holds_comes_back():
    content = Content(
        {"cluster": 3}, {INSTANCE: Kept(1, 2, 3.5, b"\0\xff"), OTHER: Kept(2**63, 2**50, 0.0, b"")}, {}, None
    )
    assert Content.decode(content.encode()) == content
    content.retired, content.tombstones = Kept(7, 8, 9.0, b"record"), {"a:1": Kept(1, 0, 1.0, b"tomb")}
    assert Content.decode(content.encode()) == content


def test_a_directory_that_is_not_there_is_a_sync_error(make_writer, tmp_path):
    store = LocalStore(str(tmp_path / "none" / "file"), make_writer().segment)
    with pytest.raises(SyncError, match="none/file"):
        store.acquire(SCOPE, "one", TTL)
    other = LocalStore(str(tmp_path / "file"), make_writer().segment)
    assert isinstance(other.acquire(SCOPE, "other", TTL), Grant), "the byte was not kept"


def test_a_file_that_is_locked_by_another_process_is_a_sync_error_within_the_time_out(make_writer, path):
    store = LocalStore(str(path), make_writer().segment, timeout=0.05)
    grant = store.acquire(SCOPE, "one", TTL)
    locks = FileLocks(os.open(f"{path}.lock", os.O_RDWR))
    assert locks.try_exclusive(0)
    with pytest.raises(SyncError, match="locked"):
        store.publish(grant, INSTANCE, b"blob", 1, TTL)
    locks.close()
    store.publish(grant, INSTANCE, b"blob", 1, TTL)


def test_a_link_in_place_of_the_lock_is_not_followed(make_writer, path, tmp_path):
    target = tmp_path / "precious"
    target.write_text("kept")
    os.symlink(target, f"{path}.lock")
    store = LocalStore(str(path), make_writer().segment)
    with pytest.raises(SyncError):
        store.acquire(SCOPE, "one", TTL)
    assert target.read_text() == "kept"


def test_blobs_that_nobody_publishes_any_more_go_in_the_end(make_writer, path):
    store = LocalStore(str(path), make_writer().segment, blob_ttl=-1.0)
    grant = store.acquire(SCOPE, "one", TTL)
    store.publish(grant, INSTANCE, b"blob", 1, TTL)
    assert store.instances() == {}


def test_two_incarnations_that_write_one_file_lose_nothing_of_each_other(make_writer, path):
    from shm_metrics.segment.layout import Layout
    from shm_metrics.segment.segment import Segment

    stores = [LocalStore(str(path), Segment.private(Layout(2, 64)), timeout=30) for _ in range(2)]

    def publish(n):
        for number in range(50):
            instance = f"{n}-{number}"
            grant = stores[n].acquire(segment_scope(instance), str(n), TTL)
            stores[n].publish(grant, instance, b"blob", 1, TTL)

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(stores[0].instances()) == 100
