"""What can be given as `cache`, and what is said of anything else."""

from __future__ import annotations

import json
import pathlib
import re

import pytest
import redis
import redis.asyncio
import valkey
from pymemcache.client.base import Client

from shm_metrics import MetricsBackend
from shm_metrics.cluster.store_factory import check_cache, open_store
from shm_metrics.cluster.stores.local_store import LocalStore
from shm_metrics.cluster.stores.memcached_store import MemcachedStore
from shm_metrics.cluster.stores.redis_store import RedisStore
from shm_metrics.cluster.strategy import declare_cache_capabilities
from shm_metrics.errors import InvalidMetricError


@pytest.fixture
def segment(make_writer):
    return make_writer().segment


@pytest.fixture
def opened(segment):
    made = []

    def open_(cache, namespace="shop", **options):
        made.append(open_store(cache, namespace=namespace, segment=segment, **options))
        return made[-1]

    yield open_
    for store in made:
        store.close()


def redis_settings(store):
    """How the client that would be made connects."""
    pool = store._connector.connect().connection_pool
    return pool.connection_class, pool.connection_kwargs


# -- Redis URLs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["redis", "valkey", "REDIS", "Valkey"])
def test_a_redis_url_with_everything(scheme, opened):
    store = opened(f"{scheme}://ann:p%40ss%2Fw@cache.example:6380/7?client_name=shop")
    kind, settings = redis_settings(store)
    assert isinstance(store, RedisStore)
    assert kind is redis.Connection
    told = {name: settings[name] for name in ("host", "port", "db", "username", "password", "client_name")}
    assert told == {
        "host": "cache.example",
        "port": 6380,
        "db": 7,
        "username": "ann",
        "password": "p@ss/w",
        "client_name": "shop",
    }
    assert settings["socket_timeout"] == 2.0


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_an_encrypted_redis_url(scheme, opened):
    kind, settings = redis_settings(opened(f"{scheme}://cache.example/?ssl_ca_certs=/etc/ca.pem"))
    assert kind is redis.SSLConnection
    assert settings["ssl_ca_certs"] == "/etc/ca.pem"


def test_a_password_alone_and_no_database(opened):
    _, settings = redis_settings(opened("redis://:secret@[::1]"))
    assert settings["password"] == "secret"
    assert settings["host"] == "::1"
    assert settings.get("db", 0) == 0


def test_a_redis_socket(opened):
    kind, settings = redis_settings(opened("unix:///run/redis.sock?db=2"))
    assert kind is redis.UnixDomainSocketConnection
    assert settings["path"] == "/run/redis.sock"
    assert settings["db"] == 2


def test_options_of_the_url_cannot_make_us_wait_or_read_text(opened):
    _, settings = redis_settings(
        opened("redis://h?decode_responses=true&retry_on_timeout=yes&health_check_interval=3", timeout=1.0)
    )
    assert settings["decode_responses"] is False
    assert settings["health_check_interval"] == 0
    assert settings["socket_timeout"] == settings["socket_connect_timeout"] == 1.0


def test_a_time_out_in_the_url_is_taken(opened):
    _, settings = redis_settings(opened("redis://h?socket_timeout=0.5"))
    assert settings["socket_timeout"] == 0.5
    assert settings["socket_connect_timeout"] == 2.0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h:port", "[Pp]ort"),
        ("redis://h:99999", "[Pp]ort"),
        ("redis://u:topsecret@h/name", "database 'name' is not a number"),
        ("redis://[::1", "Invalid IPv6"),
    ],
)
def test_a_redis_url_that_is_wrong_says_what_and_how_to_write_it(url, said, opened):
    with pytest.raises(InvalidMetricError, match=said) as caught:
        opened(url)
    assert "redis://[user:password@]host[:port][/database]" in str(caught.value)
    assert "topsecret" not in str(caught.value)


# -- Memcached URLs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("memcached://a", [("a", 11211)]),
        ("memcached://a:1/", [("a", 1)]),
        ("memcached://a:1,b,c:3", [("a", 1), ("b", 11211), ("c", 3)]),
        ("Memcached://[::1]:5,[::2]", [("::1", 5), ("::2", 11211)]),
        ("memcached:///run/memcached.sock", ["/run/memcached.sock"]),
    ],
)
def test_memcached_urls(url, addresses, opened):
    store = opened(url)
    assert isinstance(store, MemcachedStore)
    assert list(store._ring._servers.addresses) == addresses


@pytest.mark.parametrize(
    "url",
    [
        "memcached://",
        "memcached://a,,b",
        "memcached://a:",
        "memcached://a:x",
        "memcached://a:0",
        "memcached://a:99999",
        "memcached://a/1",
        "memcached://user:topsecret@a",
    ],
)
def test_a_memcached_url_that_is_wrong_says_how_to_write_it(url, opened):
    with pytest.raises(InvalidMetricError, match=r"memcached://host\[:port\]") as caught:
        opened(url)
    assert "topsecret" not in str(caught.value)


# -- anything else ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cache",
    ["http://h", "amqp://user:topsecret@h?topsecret", "memcache://h", "://", "", "shop", object(), 7, {}, b"/a"],
)
def test_what_cannot_be_used_says_what_can(cache, opened):
    for refuse in (check_cache, opened):
        with pytest.raises(InvalidMetricError) as caught:
            refuse(cache)
        for possible in ("redis://", "memcached://", "pymemcache", "Django", "file path", "None"):
            assert possible in str(caught.value)
        assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("cache", "meant"),
    [
        ("redi://localhost", "redis://"),
        ("memcache://h:1,g:2", "memcached://"),
        ("localhost:6379", "redis://localhost:6379"),
        ("[::1]:6379", "redis://[::1]:6379"),
        ("cache.internal", "redis://cache.internal"),
        ("10.0.0.1:11211", "memcached://10.0.0.1:11211"),
    ],
)
def test_what_is_nearly_a_url_is_no_file_and_the_url_is_said(cache, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidMetricError, match=re.escape(f"do you mean {meant}?")) as caught:
        MetricsBackend(path=tmp_path / "segment", cache=cache)
    assert repr(cache) in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "it was refused before anything was made"


@pytest.mark.parametrize("cache", ["redis://h:port", "memcached://a:0", 7, redis.asyncio.Redis()])
def test_a_cache_that_cannot_be_meant_is_refused_before_a_backend_is_made(cache, tmp_path):
    with pytest.raises(InvalidMetricError):
        MetricsBackend(path=tmp_path / "segment", cache=cache)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("as_path", [str, pathlib.Path])
def test_a_path_is_a_file(as_path, tmp_path, opened):
    store = opened(as_path(tmp_path / "shop.snapshot"))
    assert isinstance(store, LocalStore)
    store.acquire("cluster", "one", 1)
    assert (tmp_path / "shop.snapshot").exists()


def test_an_asynchronous_client_is_refused(opened):
    with pytest.raises(InvalidMetricError, match="asynchronous"):
        opened(redis.asyncio.Redis())


@pytest.mark.parametrize("cache", ["redis://h", "memcached://h"])
def test_an_empty_namespace_is_refused(cache, opened):
    with pytest.raises(InvalidMetricError, match="namespace ''"):
        opened(cache, namespace="")


def test_a_client_that_is_declared_local_is_not_used(opened):
    @declare_cache_capabilities(distributed=False)
    class OursAlone(redis.Redis):
        pass

    assert isinstance(opened(OursAlone()), LocalStore)


def test_opening_asks_no_server(opened):
    for cache in ("redis://127.0.0.1:1", "memcached://127.0.0.1:1", redis.Redis(port=1), valkey.Valkey(port=1)):
        opened(cache)
    opened(Client(("127.0.0.1", 1)))


# -- Django -----------------------------------------------------------------------------------------------------------

DJANGO = """
import sys
from django.conf import settings
settings.configure(CACHES={
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    "used": {"BACKEND": sys.argv[1], "LOCATION": sys.argv[2], "KEY_PREFIX": "app"},
})
from django.core.cache import cache, caches
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.segment import Segment
from shm_metrics.cluster.store_factory import check_cache, open_store
from shm_metrics.cluster.strategy import CacheStrategy
from tests.support.cache_kinds import exercise
segment = Segment.private(Layout(2, 64))
print(type(open_store(cache, namespace="django", segment=segment)).__name__, CacheStrategy.detect(cache).store_class)
store = open_store(caches["used"], namespace="django", segment=segment)
exercise(store)
strategy = CacheStrategy.detect(caches["used"])
print(type(store).__name__, strategy.store_class, strategy.coordination_mode, strategy.key_transformation)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "backend", "said"),
    [
        ("redis", "redis.RedisCache", "RedisStore {} distributed_atomic True"),
        ("memcached", "memcached.PyMemcacheCache", "MemcachedStore {} distributed_basic True"),
    ],
)
def test_a_cache_of_django_that_uses_a_server(server, backend, said, request, python):
    address = request.getfixturevalue(server)
    path = f"django.core.cache.backends.{backend}"
    location = address.url if server == "redis" else f"127.0.0.1:{address.port}"
    local, used = python(DJANGO, path, location).splitlines()
    assert local == "LocalStore django.core.cache.backends.locmem.LocMemCache"
    assert used == said.format(path)


# -- what is not installed --------------------------------------------------------------------------------------------

BARE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
sys.meta_path.insert(0, Missing())
"""
CONNECTS = """
from shm_metrics.cluster.store_factory import check_cache, open_store
print(type(open_store(sys.argv[1], namespace="shop", segment=None)._connector.connect()).__module__)
"""
ROUND = """
import json
from shm_metrics import MetricsBackend
backend = MetricsBackend(path=sys.argv[3], cache=sys.argv[1])
backend.counter("orders").inc(3)
report, told = backend.sync_to_cache(), backend.export_distributed_metrics()
print(json.dumps([report, told["warning"], told["metrics"]["orders_total"]["value"], told["strategy"]]))
try:
    backend.start_sync()
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("url", "extra", "strategy"),
    [
        ("redis://h", "shm_metrics[redis]", "distributed_atomic"),
        ("valkey://h", "shm_metrics[redis]", "distributed_atomic"),
        ("memcached://h", "shm_metrics[memcached]", "distributed_basic"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_its_extra_and_stops_nothing(
    url, extra, strategy, python, tmp_path
):
    told, raised = python(BARE + ROUND, url, "redis,valkey,pymemcache", str(tmp_path / "segment")).splitlines()
    report, warning, orders, exported_as = json.loads(told)
    assert (report["success"], report["synced_metrics"], report["performance"]["failed"]) == (False, 0, 1)
    for said in (report["error"], warning):
        assert f"pip install '{extra}'" in said
    assert len(report["instance_id"]) == 32
    assert report["strategy"] == exported_as == strategy
    assert orders == 3
    assert raised == "SyncError"


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "valkey://h", "valkeys://h"])
def test_where_only_valkey_py_is_installed_it_is_used(url, python):
    assert python(BARE + CONNECTS, url, "redis") == "valkey.client\n"


def test_no_library_of_a_cache_is_loaded_before_it_is_asked_for(python):
    code = """
import sys
import shm_metrics
from shm_metrics.cluster import store_factory
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.segment import Segment
shm_metrics.CacheStrategy.detect("redis://h")
store_factory.open_store(None, namespace="shop", segment=Segment.private(Layout(2, 64)))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"redis", "valkey", "pymemcache", "numpy"}))
"""
    assert python(code) == "[]\n"
