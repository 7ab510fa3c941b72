"""CacheStrategy: the four sources, their order, and what comes of them."""

from __future__ import annotations

import json
import logging

import pytest
import redis
import valkey
from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient

import shm_metrics
from shm_metrics.cluster.strategy import CacheStrategy, clear_detectors, declare_cache_capabilities, register_detector
from shm_metrics.errors import InvalidMetricError

NAMES = [
    "distributed",
    "atomic_increment",
    "locking",
    "ttl_inspection",
    "namespace_support",
    "compression_support",
    "key_transformation",
]


@pytest.fixture(autouse=True)
def _no_detectors():
    clear_detectors()
    yield
    clear_detectors()


def having(strategy):
    return {name for name in NAMES if strategy.supports(name)}


class Plain:
    """A class that nobody knows."""


class Counting:
    def incr(self, key):
        raise AssertionError("nothing is called")

    def ttl(self, key):
        raise AssertionError("nothing is called")

    @property
    def lock(self):
        raise AssertionError("nothing is asked for")

    def make_key(self, key):
        raise AssertionError("nothing is called")


class Anything:
    def __getattr__(self, name):
        return lambda *arguments: None


def test_it_is_a_public_name():
    assert shm_metrics.CacheStrategy is CacheStrategy


REDIS = {"distributed", "atomic_increment", "locking", "ttl_inspection"}
MEMCACHED = {"distributed", "atomic_increment", "namespace_support"}


@pytest.mark.parametrize(
    ("client", "mode", "can", "store_class"),
    [
        (redis.Redis(), "distributed_atomic", REDIS, "redis.client.Redis"),
        (valkey.Valkey(), "distributed_atomic", REDIS, "valkey.client.Valkey"),
        (Client(("h", 1)), "distributed_basic", MEMCACHED, "pymemcache.client.base.Client"),
        (PooledClient(("h", 1)), "distributed_basic", MEMCACHED, "pymemcache.client.base.PooledClient"),
        (HashClient([("h", 1)]), "distributed_basic", MEMCACHED, "pymemcache.client.hash.HashClient"),
        ("redis://h", "distributed_atomic", REDIS, "redis"),
        ("valkeys://h", "distributed_atomic", REDIS, "valkeys"),
        ("memcached://h", "distributed_basic", MEMCACHED, "memcached"),
        ("http://h", "local_only", set(), "http"),
        ("/run/shop.snapshot", "local_only", set(), "file"),
        (None, "local_only", set(), ""),
        (Plain(), "local_only", set(), f"{__name__}.Plain"),
        (object(), "local_only", set(), "builtins.object"),
        (Anything(), "local_only", set(), f"{__name__}.Anything"),
        (
            Counting(),
            "local_only",
            {"atomic_increment", "ttl_inspection", "locking", "namespace_support", "key_transformation"},
            f"{__name__}.Counting",
        ),
    ],
)
def test_what_is_known_without_being_told(client, mode, can, store_class):
    strategy = CacheStrategy.detect(client)
    assert strategy.coordination_mode == mode
    assert having(strategy) == can
    assert strategy.store_class == store_class


def test_a_subclass_of_a_known_client_is_known():
    class Ours(redis.Redis):
        pass

    strategy = CacheStrategy.detect(Ours())
    assert strategy.coordination_mode == "distributed_atomic"
    assert strategy.store_class.endswith("Ours")


def test_a_class_declares_what_it_can():
    @declare_cache_capabilities(distributed=True, atomic_increment=True, locking=True, store_class="ours")
    class Ours:
        pass

    strategy = CacheStrategy.detect(Ours())
    assert strategy.coordination_mode == "distributed_atomic"
    assert having(strategy) == {"distributed", "atomic_increment", "locking"}
    assert strategy.store_class == "ours"


def test_a_declaration_is_believed_before_a_detector_and_that_before_what_we_know():
    @declare_cache_capabilities(locking=False)
    class Ours(redis.Redis):
        pass

    register_detector("Ours", lambda client: {"locking": True, "ttl_inspection": False, "compression_support": True})
    assert having(CacheStrategy.detect(Ours())) == {"distributed", "atomic_increment", "compression_support"}
    assert CacheStrategy.detect(Ours()).coordination_mode == "distributed_basic"


def test_an_explicit_false_stands_against_every_true_after_it():
    @declare_cache_capabilities(**dict.fromkeys(NAMES, False))
    class Ours(redis.Redis):
        pass

    register_detector(".", lambda client: dict.fromkeys(NAMES, True))
    assert having(CacheStrategy.detect(Ours())) == set()
    assert CacheStrategy.detect(Ours()).coordination_mode == "local_only"


def test_a_subclass_can_declare_otherwise_than_its_base():
    @declare_cache_capabilities(distributed=False, locking=True)
    class Base:
        pass

    @declare_cache_capabilities(distributed=True)
    class Derived(Base):
        pass

    assert having(CacheStrategy.detect(Base())) == {"locking"}
    assert having(CacheStrategy.detect(Derived())) == {"distributed", "locking"}


@pytest.mark.parametrize("answers", [(True, False), (False, True)])
def test_of_two_detectors_a_false_wins(answers):
    for answer in answers:
        register_detector("Plain", lambda client, answer=answer: {"distributed": answer, "locking": True})
    assert having(CacheStrategy.detect(Plain())) == {"locking"}


@pytest.mark.parametrize("answers", [(True, False), (False, True)])
def test_of_two_decorators_of_one_class_a_false_wins(answers):
    first, second = answers
    decorated = declare_cache_capabilities(distributed=first)(
        declare_cache_capabilities(distributed=second)(type("Ours", (), {}))
    )
    assert having(CacheStrategy.detect(decorated())) == set()


def test_a_detector_is_asked_for_classes_that_its_pattern_is_found_in():
    asked = []

    def detector(client):
        asked.append(type(client).__name__)

    register_detector(r"test_strategy\.Plain$", detector)
    register_detector(r"^redis\.client\.", detector)

    class Ours(redis.Redis):
        pass

    for client in (Plain(), Anything(), Ours(), None, "redis://h"):
        CacheStrategy.detect(client)
    assert asked == ["Plain", "Ours"]


def test_a_detector_that_cannot_tell_leaves_it_to_the_next_source():
    register_detector("redis", lambda client: None)
    assert CacheStrategy.detect(redis.Redis()).coordination_mode == "distributed_atomic"


def fails(client):
    raise RuntimeError("no idea")


@pytest.mark.parametrize(
    "detector", [fails, lambda client: {"distributd": True}, lambda client: {"locking": 1}, lambda client: 7]
)
def test_a_detector_that_fails_makes_it_local_only_with_one_warning(detector, caplog):
    register_detector("redis", detector)
    with caplog.at_level(logging.WARNING, "shm_metrics"):
        for _ in range(3):
            strategy = CacheStrategy.detect(redis.Redis())
            assert strategy.coordination_mode == "local_only"
            assert having(strategy) == set()
            assert strategy.store_class == "redis.client.Redis"
    (record,) = caplog.records
    assert "redis.client.Redis" in record.getMessage()


def test_detectors_can_be_cleared():
    register_detector("Plain", lambda client: {"distributed": True})
    assert CacheStrategy.detect(Plain()).distributed
    clear_detectors()
    assert not CacheStrategy.detect(Plain()).distributed


def test_they_can_be_reached_from_the_class():
    CacheStrategy.register_detector("Plain", lambda client: {"distributed": True})
    assert CacheStrategy.detect(Plain()).distributed
    CacheStrategy.clear_detectors()
    assert not CacheStrategy.detect(Plain()).distributed
    assert CacheStrategy.declare_cache_capabilities is declare_cache_capabilities


def test_a_name_that_is_no_capability_is_an_error_that_lists_them():
    with pytest.raises(InvalidMetricError, match="no capability 'lock'; there are distributed, atomic_increment"):
        CacheStrategy.detect(None).supports("lock")
    with pytest.raises(InvalidMetricError, match="no capability 'lock'"):
        declare_cache_capabilities(lock=True)
    with pytest.raises(InvalidMetricError, match="locking is 'yes'"):
        declare_cache_capabilities(locking="yes")
    with pytest.raises(InvalidMetricError, match="store_class 7"):
        declare_cache_capabilities(store_class=7)
    with pytest.raises(InvalidMetricError, match="not a regular expression"):
        register_detector("(", fails)


def test_it_exports_all_that_it_knows():
    strategy = CacheStrategy.detect("memcached://h", instance_id="ab" * 16)
    exported = strategy.export_capabilities()
    assert exported == {
        **{name: name in MEMCACHED for name in NAMES},
        "store_class": "memcached",
        "coordination_mode": "distributed_basic",
        "instance_id": "ab" * 16,
    }
    assert json.loads(json.dumps(exported)) == exported
    for name in NAMES:
        assert getattr(strategy, name) is exported[name]


def test_each_has_an_id_of_its_own_unless_it_is_told_one():
    ids = {CacheStrategy.detect(None).instance_id for _ in range(10)}
    assert len(ids) == 10
    assert all(len(one) == 32 and int(one, 16) >= 0 for one in ids)


def test_its_repr_says_what_it_is():
    assert repr(CacheStrategy.detect(None)) == "<CacheStrategy local_only of no cache: nothing>"
    assert "distributed_basic of memcached: distributed, " in repr(CacheStrategy.detect("memcached://h"))
