"""What the environment says about the cluster, and who listens to it."""

from __future__ import annotations

import pytest

import shm_metrics.default
from shm_metrics import InvalidMetricError, configure, get_backend
from shm_metrics.environment import cluster_options, tell_workers

CACHE = "redis://127.0.0.1:1/0"


@pytest.fixture
def alone(monkeypatch, segment_name):
    """No default backend yet, and an environment that says which segment it would be."""
    for name in ("SHM_METRICS_CACHE", "SHM_METRICS_NAMESPACE", "SHM_METRICS_SYNC_INTERVAL", "SHM_METRICS_EXPORT_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SHM_METRICS_SEGMENT", segment_name)
    monkeypatch.setattr(shm_metrics.default, "_default", None)
    yield monkeypatch
    if shm_metrics.default._default is not None:
        shm_metrics.default._default.close()


def test_without_a_cache_the_environment_says_nothing(alone):
    alone.setenv("SHM_METRICS_NAMESPACE", "shop")
    assert cluster_options() == {}
    assert get_backend().start_sync() is None


def test_the_default_backend_is_in_the_cluster_that_the_environment_names(alone):
    alone.setenv("SHM_METRICS_CACHE", CACHE)
    alone.setenv("SHM_METRICS_NAMESPACE", "shop")
    alone.setenv("SHM_METRICS_SYNC_INTERVAL", "2.5")
    alone.setenv("SHM_METRICS_EXPORT_PORT", "9464")
    config = get_backend().sync_config
    assert (config.namespace, config.interval, config.export_port) == ("shop", 2.5, 9464)
    assert get_backend().cache_capabilities["distributed"] is True


def test_configure_is_in_it_too_and_what_it_is_told_goes_first(alone, segment_name):
    alone.setenv("SHM_METRICS_CACHE", CACHE)
    alone.setenv("SHM_METRICS_NAMESPACE", "shop")
    alone.setenv("SHM_METRICS_EXPORT_PORT", "9464")
    config = configure(segment_name, namespace="depot", sync_options={"lease_ttl": 5}).sync_config
    assert (config.namespace, config.export_port, config.lease_ttl) == ("depot", 9464, 5)


def test_configure_that_is_told_a_cache_or_none_does_not_listen(alone, segment_name):
    alone.setenv("SHM_METRICS_CACHE", CACHE)
    alone.setenv("SHM_METRICS_EXPORT_PORT", "9464")
    backend = configure(segment_name, cache=None)
    assert backend.start_sync() is None
    assert backend.sync_config.export_port is None


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("SHM_METRICS_SYNC_INTERVAL", "often"),
        ("SHM_METRICS_SYNC_INTERVAL", "0"),
        ("SHM_METRICS_SYNC_INTERVAL", "nan"),
        ("SHM_METRICS_SYNC_INTERVAL", "400"),  # the retention is 600
        ("SHM_METRICS_EXPORT_PORT", "http"),
        ("SHM_METRICS_EXPORT_PORT", "70000"),
    ],
)
def test_a_value_that_cannot_be_meant_is_named_and_the_application_counts_on(
    alone, segment_name, caplog, variable, text
):
    alone.setenv("SHM_METRICS_CACHE", CACHE)
    alone.setenv(variable, text)
    with pytest.raises(InvalidMetricError, match=f"{variable}='?{text}"):
        configure(segment_name)
    get_backend().counter("orders").inc()
    assert variable in caplog.text
    assert get_backend().start_sync() is None


def test_what_workers_are_told_must_be_possible(alone):
    with pytest.raises(InvalidMetricError, match="give a URL"):
        tell_workers(object(), None, None, None)
    with pytest.raises(InvalidMetricError, match="no 'port'; there are namespace, interval"):
        tell_workers(None, None, None, {"port": 1})
    alone.setenv("SHM_METRICS_CACHE", "")  # so that it is put back
    alone.setenv("SHM_METRICS_SYNC_INTERVAL", "")
    with pytest.raises(InvalidMetricError, match="SHM_METRICS_SYNC_INTERVAL=-1"):
        tell_workers(CACHE, -1, None, None)


def test_a_sync_option_that_there_is_not_is_named_beside_those_there_are(make_backend):
    with pytest.raises(InvalidMetricError, match="no 'exportport'; there are namespace, interval"):
        make_backend(cache=CACHE, sync_options={"exportport": 1})


def test_a_backend_that_takes_the_place_of_one_that_was_syncing_syncs(alone, tmp_path, segment_name):
    first = get_backend()
    assert not first.syncing
    alone.setenv("SHM_METRICS_CACHE", str(tmp_path / "cache"))
    first = configure(path=tmp_path / "first")
    first.start_sync()
    assert first.syncing
    second = configure(segment_name)
    assert (first.syncing, second.syncing) == (False, True)
