"""What the environment says about the cluster, and who listens to it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

import shm_metrics.default
from shm_metrics import InvalidMetricError, configure, get_backend
from shm_metrics.environment import _FIELDS, CACHE_VARIABLE, cluster_options, tell_workers
from shm_metrics.integrations import gunicorn, uwsgi

CACHE = "redis://127.0.0.1:1/0"


@pytest.fixture
def alone(monkeypatch, segment_name):
    """No default backend yet, and an environment that says which segment it would be."""
    for variable in (CACHE_VARIABLE, *(variable for variable, _ in _FIELDS.values())):
        monkeypatch.setenv(variable, "")  # so that it is put back
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
        ("SHM_METRICS_CACHE", "redi://127.0.0.1:1/0"),
        ("SHM_METRICS_CACHE", "127.0.0.1:6379"),
    ],
)
def test_a_value_that_cannot_be_meant_is_named_and_the_application_counts_on(
    alone, segment_name, caplog, variable, text
):
    alone.setenv("SHM_METRICS_CACHE", CACHE)
    alone.setenv(variable, text)
    with pytest.raises(InvalidMetricError, match=f"{variable}(='?|: cache='){text}"):
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
    with pytest.raises(InvalidMetricError, match="interval=-1"):
        tell_workers(CACHE, -1, None, None)
    with pytest.raises(InvalidMetricError, match=r"redis://127\.0\.0\.1:6379"):
        tell_workers("127.0.0.1:6379", None, None, None)
    assert cluster_options() == {}, "what was refused was not said"


@pytest.mark.parametrize("server", ["gunicorn", "uwsgi"])
@pytest.mark.parametrize(
    ("variable", "text"), [("SHM_METRICS_CACHE", "redi://h"), ("SHM_METRICS_SYNC_INTERVAL", "often")]
)
def test_a_cluster_that_the_environment_says_wrongly_stops_no_server(
    alone, segment_name, caplog, server, variable, text
):
    alone.setenv("SHM_METRICS_CACHE", CACHE)
    alone.setenv(variable, text)
    if server == "gunicorn":
        gunicorn.setup({}, segment_name, sync_options={"lease_ttl": 5})
    else:
        alone.setitem(sys.modules, "uwsgi", SimpleNamespace(i_am_the_spooler=int, mule_id=int, worker_id=int))
        alone.setattr(uwsgi, "set_process_role", print)
        uwsgi.setup(segment_name, sync_options={"lease_ttl": 5})
        uwsgi._held.close()
    assert get_backend().start_sync() is None
    get_backend().counter("orders").inc()
    assert sum(text in record.getMessage() for record in caplog.records) == 1


def test_a_segment_that_the_environment_says_wrongly_stops_no_uwsgi(alone, caplog):
    alone.setenv("SHM_METRICS_SEGMENT", "not a name")
    alone.setitem(sys.modules, "uwsgi", SimpleNamespace(i_am_the_spooler=int, mule_id=int, worker_id=int))
    alone.setattr(uwsgi, "set_process_role", print)
    uwsgi.setup()
    assert "the uWSGI master cannot be present" in caplog.text


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
