"""The public names and how they are called: a change here is a change for users, and belongs into the changelog."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import shm_metrics

NAMES = {
    "DEFAULT_BUCKETS",
    "CacheStrategy",
    "Counter",
    "Enum",
    "EventMapping",
    "EventRouter",
    "EventRule",
    "ExportError",
    "Gauge",
    "Histogram",
    "Info",
    "InvalidMetricError",
    "LockLostError",
    "MetricConflictError",
    "MetricsBackend",
    "MetricsError",
    "Sample",
    "SampleFamily",
    "SegmentError",
    "SegmentFormatError",
    "SegmentFullError",
    "Snapshot",
    "Summary",
    "SyncAgent",
    "SyncConfig",
    "SyncError",
    "WireFormatError",
    "__version__",
    "configure",
    "generate_latest",
    "get_backend",
    "instrument",
    "make_asgi_app",
    "make_wsgi_app",
    "start_http_server",
}

ERRORS = {
    "MetricsError": (Exception,),
    "InvalidMetricError": (shm_metrics.MetricsError, ValueError),
    "MetricConflictError": (shm_metrics.MetricsError, ValueError),
    "SegmentError": (shm_metrics.MetricsError,),
    "SegmentFormatError": (shm_metrics.SegmentError,),
    "SegmentFullError": (shm_metrics.SegmentError,),
    "ExportError": (shm_metrics.MetricsError,),
    "SyncError": (shm_metrics.MetricsError,),
    "LockLostError": (shm_metrics.SyncError,),
    "WireFormatError": (shm_metrics.SyncError,),
}

COMMON = {"attach", "clear", "collect", "describe", "documentation", "labels", "name", "remove", "remove_by_labels"}
METHODS = {
    "Counter": {"count_exceptions", "exemplar", "inc", "increment", "keep_exemplar", "reset", "value"},
    "Gauge": {
        "dec",
        "decrement",
        "inc",
        "increment",
        "set",
        "set_function",
        "set_to_current_time",
        "time",
        "track_inprogress",
        "value",
    },
    "Histogram": {"count", "exemplar", "keep_exemplar", "observe", "sum", "time"},
    "Summary": {"count", "observe", "sum", "time"},
    "Info": {"info"},
    "Enum": {"state", "value"},
}

BACKEND = {
    "all_metrics": "(self)",
    "clear": "(self)",
    "close": "(self)",
    "collect": "(self)",
    "export": "(self)",
    "export_as": "(self, name, **options)",
    "export_distributed_metrics": "(self, *, include_instances=False)",
    "handle_event": "(self, event_name, payload=None)",
    "handle_sampled_event": "(self, event_name, payload, sampling_rate)",
    "register_event_router": "(self, router, name='metrics')",
    "register_collector": "(self, collector)",
    "set_role": "(self, role)",
    "snapshot": "(self, *, stamps=False)",
    "start_sync": "(self)",
    "stats": "(self)",
    "sync_to_cache": "(self)",
    "unlink": "(self)",
    "unregister_collector": "(self, collector)",
}

FUNCTIONS = {
    "configure": "(name=None, **options)",
    "generate_latest": "(backend=None, openmetrics=False)",
    "get_backend": "()",
    "make_asgi_app": "(backend=None)",
    "make_wsgi_app": "(backend=None)",
    "start_http_server": "(port, addr='127.0.0.1', backend=None, **tls)",
    "MetricsBackend": "(name=None, *, path=None, rows=256, slots=131072, keep=False, read_only=False, role='', "
    "process_metrics=True, per_worker=False, cache=None, sync_interval=15.0, namespace='shm_metrics', "
    "sync_options=None, _private=False, _pid=None)",
    "SyncAgent": "(backend, cache=None, config=None, *, now=<built-in function monotonic>, "
    "wall=<built-in function time>)",
    "SyncConfig": "(namespace='shm_metrics', interval=15.0, lease_ttl=15.0, stale_after=60.0, retention=600.0, "
    "return_within=604800.0, timeout=2.0, export_port=None, export_addr='127.0.0.1')",
}


def signature(function):
    """Without annotations: those are the type checker's business."""
    found = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in found.parameters.values()]
    return str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def test_the_package_has_these_names_and_no_others():
    assert set(shm_metrics.__all__) == NAMES
    for name in NAMES:
        assert getattr(shm_metrics, name) is not None
    assert set(dir(shm_metrics)) >= NAMES


def test_a_name_that_is_not_there_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="module 'shm_metrics' has no attribute 'Countr'"):
        shm_metrics.Countr


def test_all_names_can_be_imported_at_once(python):
    assert (
        python("from shm_metrics import *\nprint(Counter.__name__, generate_latest.__name__)")
        == "Counter generate_latest\n"
    )


def test_the_errors_are_one_tree():
    for name, bases in ERRORS.items():
        assert getattr(shm_metrics, name).__bases__ == bases
    assert {name for name in NAMES if name.endswith("Error")} == set(ERRORS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_called_like_this(name):
    assert signature(getattr(shm_metrics, name)) == FUNCTIONS[name]


@pytest.mark.parametrize("name", BACKEND)
def test_the_backends_methods_are_called_like_this(name):
    assert signature(getattr(shm_metrics.MetricsBackend, name)) == BACKEND[name]


@pytest.mark.parametrize("name", METHODS)
def test_each_type_has_these_methods_with_and_without_labels(name, make_backend):
    type_ = getattr(shm_metrics, name)
    options = {"states": ["a"]} if name == "Enum" else {}
    plain = type_("a", "", registry=make_backend(), **options)
    family = type_("b", "", ["x"], registry=make_backend(), **options)
    for method in METHODS[name]:
        assert hasattr(plain, method)
        assert hasattr(family.labels("1"), method)
    for method in COMMON:
        assert hasattr(plain, method)
        assert hasattr(family, method)


PARAMETERS = "(self, name, documentation='', labelnames=(), namespace='', subsystem='', unit='', registry=None"
OPTIONS = {
    "Gauge": ", *, multiprocess_mode='shared'",
    "Histogram": f", *, buckets={shm_metrics.DEFAULT_BUCKETS}",
    "Enum": ", *, states=()",
}


@pytest.mark.parametrize("name", METHODS)
def test_each_type_is_made_like_this(name):
    assert signature(getattr(shm_metrics, name).__init__) == f"{PARAMETERS}{OPTIONS.get(name, '')})"


def test_the_version_is_the_packages():
    told = (Path(shm_metrics.__file__).parents[1] / "pyproject.toml").read_text()
    assert f'\nversion = "{shm_metrics.__version__}"\n' in told
