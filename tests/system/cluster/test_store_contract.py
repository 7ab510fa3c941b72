"""What every store promises, on real servers: leases, the fence, blobs, folds (see sync/stores/protocol.py)."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time

import pytest

from shm_metrics.cluster.stores.protocol import CLUSTER, Grant, LeaseRefused, OldSequenceError, segment_scope
from shm_metrics.errors import LockLostError, SyncError
from tests.support.cache_kinds import INSTANCE, KINDS, OTHER, SCOPE, TTL, Clock, Cluster, opened

pytestmark = pytest.mark.slow

SHORT = 0.2


@pytest.fixture(params=KINDS)
def cluster(request, namespace, own_server, make_writer, tmp_path):
    kind, clock = request.param, Clock()
    if kind == "local":
        from shm_metrics.cluster.stores.local_store import LocalStore

        path = tmp_path / "snapshot"
        made = Cluster(
            kind, lambda: LocalStore(str(path), make_writer().segment), lambda: path.unlink(missing_ok=True), clock
        )
    else:
        server = request.getfixturevalue(kind)

        def forget():
            # of this namespace only: the server is shared
            store = made.opened[0]
            if kind == "memcached":
                for scope in (SCOPE, CLUSTER):
                    store._ring.delete([store.key("lease", scope), store.key("fence", scope), store._guarded(scope)])
            else:
                keys = list(store._client.scan_iter(match=store.key("*")))
                store._client.delete(*keys)

        made = Cluster(kind, lambda: opened(server.url, namespace), forget, clock)
    yield made
    made.close()


def granted(store, owner, scope=SCOPE, ttl=TTL):
    grant = store.acquire(scope, owner, ttl)
    assert isinstance(grant, Grant), grant
    return grant


# -- the lease --------------------------------------------------------------------------------------------------------


def test_of_two_contenders_one_gets_the_lease(cluster):
    one, other = cluster.open(), cluster.open()
    grant = granted(one, "one")
    assert (grant.scope, grant.owner) == (SCOPE, "one")
    refused = other.acquire(SCOPE, "other", TTL)
    assert isinstance(refused, LeaseRefused)
    if cluster.kind != "local":
        assert 0 < refused.remaining <= TTL


def test_asking_again_gives_the_same_grant(cluster):
    store = cluster.open()
    assert granted(store, "one") == granted(store, "one")


def test_two_owners_in_one_process_are_two_contenders(cluster):
    store = cluster.open()
    granted(store, "one")
    assert isinstance(store.acquire(SCOPE, "other", TTL), LeaseRefused)


def test_a_released_lease_can_be_had_at_once_with_a_greater_token(cluster):
    one, other = cluster.open(), cluster.open()
    first = granted(one, "one")
    assert one.release(first)
    second = granted(other, "other")
    assert second.token > first.token
    assert not one.renew(first, TTL)
    assert not one.release(first)
    assert other.renew(second, TTL), "the release of a grant that is over left the new one alone"


def test_the_token_is_about_the_unix_time_in_microseconds(cluster):
    assert abs(granted(cluster.open(), "one").token / 1e6 - time.time()) < 60


def test_the_token_grows_also_after_everything_was_forgotten(cluster):
    one, other = cluster.open(), cluster.open()
    tokens = []
    for store, owner in ((one, "a"), (other, "b"), (one, "c")):
        grant = granted(store, owner)
        tokens.append(grant.token)
        store.release(grant)
        cluster.forget()
    assert tokens == sorted(set(tokens))


@pytest.mark.parametrize("cluster", KINDS[:-1], indirect=True)  # the kernel's lock needs no term
def test_a_lease_that_is_not_renewed_runs_out(cluster):
    one, other = cluster.open(), cluster.open()
    first = granted(one, "one", ttl=SHORT)
    cluster.pass_term(other, SCOPE, SHORT)
    second = granted(other, "other")
    assert second.token > first.token
    assert not one.renew(first, TTL)
    assert not one.release(first)
    assert other.renew(second, TTL)


def test_a_lease_that_is_renewed_does_not_run_out(cluster):
    one, other = cluster.open(), cluster.open()
    grant = granted(one, "one", ttl=SHORT)
    for _ in range(5):
        assert one.renew(grant, TTL)
        assert isinstance(other.acquire(SCOPE, "other", TTL), LeaseRefused)
        cluster._clock.now += TTL * 0.9


def test_a_publish_renews_the_lease(cluster):
    one, other = cluster.open(), cluster.open()
    grant = granted(one, "one", ttl=SHORT)
    one.publish(grant, INSTANCE, b"blob", 1, TTL)
    refused = other.acquire(SCOPE, "other", TTL)
    assert isinstance(refused, LeaseRefused)
    if cluster.kind != "local":
        assert refused.remaining > SHORT


def test_scopes_do_not_touch_each_other(cluster):
    one, other = cluster.open(), cluster.open()
    granted(one, "one")
    if cluster.kind == "local":
        granted(one, "one", CLUSTER)
        assert isinstance(other.acquire(CLUSTER, "other", TTL), LeaseRefused), "one host has one leader"
    else:
        granted(other, "other", CLUSTER)
        granted(other, "other", segment_scope(OTHER))


# -- the fence --------------------------------------------------------------------------------------------------------


def test_publishing_under_a_lost_lease_is_refused(cluster):
    one, other = cluster.open(), cluster.open()
    old = granted(one, "one")
    one.publish(old, INSTANCE, b"old", 1, TTL)
    one.release(old)
    with pytest.raises(LockLostError, match="one"):
        one.publish(old, INSTANCE, b"nobody's", 2, TTL)
    new = granted(other, "other")
    with pytest.raises(LockLostError):
        one.publish(old, INSTANCE, b"late", 3, TTL)
    other.publish(new, INSTANCE, b"new", 4, TTL)
    assert other.fetch([INSTANCE]) == {INSTANCE: b"new"}
    assert other.instances() == {INSTANCE: 4}


def test_an_older_token_is_refused_whoever_has_the_lease(cluster):
    store = cluster.open()
    store.release(granted(store, "new"))
    new = granted(store, "new")
    store.publish(new, INSTANCE, b"new", 5, TTL)
    older = Grant(SCOPE, "new", new.token - 1)
    with pytest.raises(LockLostError):
        store.publish(older, INSTANCE, b"old", 6, TTL)
    assert store.fetch([INSTANCE]) == {INSTANCE: b"new"}


def test_after_a_flush_the_old_holder_is_refused_until_it_has_a_new_grant(cluster):
    store = cluster.open()
    old = granted(store, "one")
    store.publish(old, INSTANCE, b"blob", 1, TTL)
    cluster.forget()
    if cluster.kind != "local":
        assert not store.renew(old, TTL)
        with pytest.raises(LockLostError):
            store.publish(old, INSTANCE, b"blob", 2, TTL)
    new = granted(store, "one")
    assert new.token > old.token or cluster.kind == "local"
    store.publish(new, INSTANCE, b"blob", 3, TTL)
    assert store.instances() == {INSTANCE: 3}


# -- blobs ------------------------------------------------------------------------------------------------------------


def test_the_same_sequence_twice_is_once(cluster):
    store = cluster.open()
    grant = granted(store, "one")
    store.publish(grant, INSTANCE, b"first", 7, TTL)
    store.publish(grant, INSTANCE, b"again", 7, TTL)
    assert store.fetch([INSTANCE]) == {INSTANCE: b"first"}
    assert store.instances() == {INSTANCE: 7}


def test_an_older_sequence_is_refused_and_the_newest_told(cluster):
    one, other = cluster.open(), cluster.open()
    grant = granted(one, "one")
    one.publish(grant, INSTANCE, b"newest", 1_800_000_000_000_000_001, TTL)
    one.release(grant)
    grant = granted(other, "other")
    with pytest.raises(OldSequenceError) as caught:
        other.publish(grant, INSTANCE, b"older", 1_800_000_000_000_000_000, TTL)
    assert caught.value.newest == 1_800_000_000_000_000_001
    other.publish(grant, INSTANCE, b"above", caught.value.newest + 1, TTL)
    assert other.fetch([INSTANCE]) == {INSTANCE: b"above"}


@pytest.mark.parametrize("blob", [b"", b"\0\r\n\xff" * 1000, b"x" * 3_000_000], ids=["empty", "binary", "3 MB"])
def test_any_bytes_come_back(cluster, blob):
    store = cluster.open()
    store.publish(granted(store, "one"), INSTANCE, blob, 1, TTL)
    assert cluster.open().fetch([INSTANCE, OTHER]) == {INSTANCE: blob}


def test_a_cache_that_holds_nothing_answers_with_nothing(cluster):
    store = cluster.open()
    assert store.instances() == {}
    assert store.fetch([INSTANCE]) == {}
    assert store.fetch([]) == {}
    assert store.retired() is None
    assert store.tombstones({INSTANCE: 1}) == {}


def test_a_grant_alone_publishes_nothing(cluster):
    store = cluster.open()
    granted(store, "one")
    granted(store, "one", CLUSTER)
    assert store.instances() == {}
    assert store.fetch([INSTANCE]) == {}
    assert store.retired() is None


def test_many_instances_are_fetched_at_once(cluster):
    store = cluster.open()
    blobs = {f"{n:032x}": b"%d" % n for n in range(250 if cluster.kind != "local" else 20)}
    for instance, blob in blobs.items():
        store.publish(granted(store, "one", segment_scope(instance)), instance, blob, 1, TTL)
    assert store.instances() == dict.fromkeys(blobs, 1)
    assert store.fetch(blobs) == blobs


# -- folds ------------------------------------------------------------------------------------------------------------


def published(store, instance, blob, sequence):
    grant = granted(store, "publisher", segment_scope(instance))
    store.publish(grant, instance, blob, sequence, TTL)
    return grant


def test_a_fold_replaces_the_record_keeps_the_tombstone_and_removes_the_blob(cluster):
    store = cluster.open()
    published(store, INSTANCE, b"last", 5)
    grant = granted(store, "leader", CLUSTER)
    assert store.commit_fold(grant, 0, b"record 1", 1, {INSTANCE: b"last"}, {INSTANCE: 5})
    assert store.retired() == b"record 1"
    assert store.tombstones({INSTANCE: 5}) == {INSTANCE: b"last"}
    assert store.tombstones({INSTANCE: 4, OTHER: 5}) == {}
    assert store.instances() == {}
    assert store.fetch([INSTANCE]) == {}


def test_a_blob_that_came_after_the_folded_one_stays(cluster):
    store = cluster.open()
    published(store, INSTANCE, b"newer", 6)
    published(store, OTHER, b"last", 3)
    grant = granted(store, "leader", CLUSTER)
    assert store.commit_fold(grant, 0, b"record", 1, {INSTANCE: b"folded", OTHER: b"last"}, {INSTANCE: 5, OTHER: 3})
    assert store.instances() == {INSTANCE: 6}
    assert store.fetch([INSTANCE, OTHER]) == {INSTANCE: b"newer"}


def test_an_instance_that_comes_back_publishes_again(cluster):
    store = cluster.open()
    publisher = published(store, INSTANCE, b"last", 5)
    grant = granted(store, "leader", CLUSTER)
    assert store.commit_fold(grant, 0, b"record", 1, {INSTANCE: b"last"}, {INSTANCE: 5})
    store.publish(publisher, INSTANCE, b"back", 6, TTL)
    assert store.fetch(store.instances()) == {INSTANCE: b"back"}
    assert store.tombstones({INSTANCE: 5}) == {INSTANCE: b"last"}
    assert store.commit_fold(grant, 1, b"record 2", 2, {INSTANCE: b"back"}, {INSTANCE: 6}, {INSTANCE: 5})
    assert store.tombstones({INSTANCE: 5}) == {}
    assert store.tombstones({INSTANCE: 6}) == {INSTANCE: b"back"}


def test_another_version_is_not_replaced(cluster):
    store = cluster.open()
    grant = granted(store, "leader", CLUSTER)
    assert not store.commit_fold(grant, 3, b"record", 4, {}, {})
    assert store.commit_fold(grant, 0, b"record 1", 1, {}, {})
    assert not store.commit_fold(grant, 0, b"other", 2, {}, {})
    assert store.commit_fold(grant, 1, b"record 2", 2, {}, {})
    assert store.retired() == b"record 2"


def test_the_same_commit_again_says_that_it_was_done(cluster):
    store = cluster.open()
    published(store, INSTANCE, b"last", 5)
    grant = granted(store, "leader", CLUSTER)
    for _ in range(2):
        assert store.commit_fold(grant, 0, b"record", 1, {INSTANCE: b"last"}, {INSTANCE: 5})
    assert store.retired() == b"record"


def test_a_fold_under_a_lost_lease_is_refused(cluster):
    one, other = cluster.open(), cluster.open()
    old = granted(one, "one", CLUSTER)
    one.release(old)
    with pytest.raises(LockLostError):
        one.commit_fold(old, 0, b"old", 1, {}, {})
    new = granted(other, "other", CLUSTER)
    with pytest.raises(LockLostError):
        one.commit_fold(old, 0, b"old", 1, {}, {})
    assert other.commit_fold(new, 0, b"new", 1, {}, {})
    assert other.retired() == b"new"


def test_a_tombstone_of_a_fold_that_lost_does_not_stand_for_the_committed_one(cluster):
    store = cluster.open()
    grant = granted(store, "leader", CLUSTER)
    assert store.commit_fold(grant, 0, b"record", 1, {INSTANCE: b"committed"}, {INSTANCE: 5})
    assert not store.commit_fold(grant, 0, b"lost", 2, {INSTANCE: b"stale"}, {INSTANCE: 4})
    assert store.tombstones({INSTANCE: 5}) == {INSTANCE: b"committed"}


def test_an_entry_without_a_blob_can_be_named_gone(cluster):
    store = cluster.open()
    grant = granted(store, "leader", CLUSTER)
    assert store.commit_fold(grant, 0, b"record", 1, {}, {INSTANCE: 9})
    assert store.instances() == {}


def test_of_commits_at_the_same_time_one_wins(cluster):
    """Threads with stores of their own, which share a grant: the compare-and-set alone decides."""
    stores = [cluster.open() for _ in range(1 if cluster.kind == "local" else 4)]
    grant = granted(stores[0], "leader", CLUSTER)
    base = 0
    for version in range(10, 110, 10):
        start, won = threading.Barrier(4), []

        def commit(n, version=version, base=base, start=start, won=won):
            start.wait(10)
            # versions differ, so that none takes another's commit for its own
            if stores[n % len(stores)].commit_fold(grant, base, b"%d" % n, version + n, {}, {}):
                won.append(version + n)

        threads = [threading.Thread(target=commit, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        (base,) = won
        assert stores[0].retired() == b"%d" % (base - version)


def test_after_a_flush_the_record_and_its_tombstones_are_put_back(cluster):
    store = cluster.open()
    grant = granted(store, "leader", CLUSTER)
    assert store.commit_fold(grant, 0, b"record 5", 5, {INSTANCE: b"last"}, {INSTANCE: 9})
    cluster.forget()
    assert store.retired() is None
    store.restore_retired(b"record 5", 5, {(INSTANCE, 9): b"last"})
    assert store.retired() == b"record 5"
    assert store.tombstones({INSTANCE: 9}) == {INSTANCE: b"last"}
    store.restore_retired(b"record 4", 4)
    assert store.retired() == b"record 5", "an older one does not replace it"
    store.restore_retired(b"record 7", 7)
    assert store.retired() == b"record 7"
    store.release(grant)
    grant = granted(store, "leader", CLUSTER)
    assert store.commit_fold(grant, 7, b"record 8", 8, {}, {})


def test_the_mark_of_the_record_is_another_one_whenever_the_record_is(cluster):
    store, other = cluster.open(), cluster.open()
    assert store.retired_mark() is None
    grant = granted(store, "leader", CLUSTER)
    assert store.retired_mark() is None, "a grant alone is no record"
    marks = []
    for version in (1, 2, 3):
        assert store.commit_fold(grant, version - 1, b"record", version, {}, {})
        marks.append(store.retired_mark())
        assert store.retired_mark() == other.retired_mark() == marks[-1]
    if cluster.kind != "local":
        store.release(grant)
        granted(other, "next", CLUSTER)
        assert store.retired_mark() == marks[-1], "the next grant changes nothing of it"
    cluster.forget()
    assert store.retired_mark() is None
    store.restore_retired(b"record", 3)
    marks.append(store.retired_mark())
    assert None not in marks
    assert len({*marks}) == 4 or cluster.kind in ("local", "memcached")


@pytest.mark.parametrize("cluster", KINDS[:-1], indirect=True)  # the local one has no connection
def test_a_store_that_is_closed_opens_no_connection_again(cluster):
    store = cluster.open()
    grant = granted(store, "one")
    store.close()
    for call in (store.instances, store.retired, lambda: store.renew(grant, TTL)):
        with pytest.raises(SyncError, match="closed"):
            call()


# -- processes --------------------------------------------------------------------------------------------------------


def _contend(url, namespace, number, rounds, results):
    store = opened(url, namespace)
    won, accepted = [], 0
    for turn in range(rounds):
        grant = store.acquire(SCOPE, f"{number}-{turn}", 10)
        if isinstance(grant, Grant):
            won.append(grant.token)
            store.publish(grant, INSTANCE, b"%d" % grant.token, grant.token * 1000, 10)
            accepted += 1
            store.release(grant)
    store.close()
    results.put((won, accepted))


@pytest.mark.parametrize("kind", ["valkey", "memcached"])
def test_processes_that_contend_never_get_the_same_token(kind, namespace, request):
    server = request.getfixturevalue(kind)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=_contend, args=(server.url, namespace, n, 60, results), daemon=True) for n in range(3)
    ]
    for process in processes:
        process.start()
    told = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    tokens = [token for won, _ in told for token in won]
    assert len(tokens) == len(set(tokens)) > 0
    store = opened(server.url, namespace)
    assert store.instances() == {INSTANCE: max(tokens) * 1000}
    assert store.fetch([INSTANCE]) == {INSTANCE: b"%d" % max(tokens)}
    store.close()


def _publish_in_child(store, grant, pipe):
    try:
        store.publish(grant, INSTANCE, b"child", 2, TTL)
        pipe.send("published")
    except LockLostError:
        pipe.send("refused")


def test_a_forked_child_has_connections_of_its_own(cluster):
    store = cluster.open()
    grant = granted(store, "one")
    store.publish(grant, INSTANCE, b"parent", 1, TTL)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_publish_in_child, args=(store, grant, there), daemon=True)
    child.start()
    assert here.poll(30)
    # The leader byte is the parent's; in a cache a grant is whoever's that knows it.
    assert here.recv() == ("refused" if cluster.kind == "local" else "published")
    child.join(30)
    store.publish(grant, INSTANCE, b"parent again", 3, TTL)
    assert store.fetch([INSTANCE]) == {INSTANCE: b"parent again"}


# -- under load -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["valkey", "memcached"])
def test_nothing_is_accepted_of_a_holder_after_the_next_one_has_its_grant(kind, namespace, request):
    """Contenders with terms much shorter than the pauses they make, also in the middle of a write."""
    server = request.getfixturevalue(kind)
    grants: list[tuple[float, int]] = []  # when it was had, token
    accepted: list[tuple[float, int]] = []  # when it was last resumed, token
    refused = []
    enough = threading.Event()

    def contend(n):
        chance = random.Random(n)
        store = opened(server.url, namespace)
        resumed = [0.0]

        def pause():
            if chance.random() < 0.4:
                time.sleep(chance.random() * 0.08)
            resumed[0] = time.monotonic()

        if kind == "memcached":
            write = store._write
            store._write = lambda *arguments: (write(*arguments), pause())
        while not enough.is_set():
            grant = store.acquire(SCOPE, f"{n}-{time.monotonic_ns()}", 0.03)
            if isinstance(grant, LeaseRefused):
                time.sleep(0.003)
                continue
            grants.append((time.monotonic(), grant.token))
            try:
                for _ in range(3):
                    pause()
                    store.publish(grant, INSTANCE, b"blob", time.time_ns(), 0.03)
                    accepted.append((resumed[0], grant.token))
            except LockLostError:
                refused.append(grant)
            if chance.random() < 0.3:
                store.release(grant)
            if len(grants) > 60 and len(refused) > 10:
                enough.set()
        store.close()

    threads = [threading.Thread(target=contend, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert enough.is_set()
    assert len({token for _, token in grants}) == len(grants)
    for resumed, token in accepted:
        assert not [later for had, later in grants if had < resumed and later > token]
