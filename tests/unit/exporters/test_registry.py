"""Exporters by name: ours, the application's, those of installed packages, and what is broken among them."""

from __future__ import annotations

import pytest

from shm_metrics import InvalidMetricError
from shm_metrics.exporters import exporter, exporters, register_exporter, registry

OURS = ("csv", "json", "jsonl", "openmetrics", "otlp", "pushgateway", "statsd", "text")


class Constant:
    def __init__(self, *, told: str = "") -> None:
        self.told = told

    def export(self, backend):
        return self.told.encode()


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


def test_ours_are_there():
    assert exporters() == OURS


def test_a_name_that_there_is_not_is_refused_with_those_there_are(backend):
    with pytest.raises(InvalidMetricError, match=f"'carbon': there is none; those there are: {', '.join(OURS)}"):
        backend.export_as("carbon")


def test_an_option_that_there_is_not_is_refused(backend):
    with pytest.raises(InvalidMetricError, match=r"'json': there is no option 'indent'; there are names, partial$"):
        backend.export_as("json", indent=2)


@pytest.mark.parametrize("name", OURS)
def test_a_wrong_option_is_refused_with_all_there_are(name):
    with pytest.raises(InvalidMetricError, match=f"exporter '{name}': there is no option 'nmaes'; there are .*names"):
        exporter(name, nmaes=["x"])


def test_an_option_that_must_be_said_is_named():
    with pytest.raises(InvalidMetricError, match="'pushgateway': give the option 'job'; there are url, job, grouping"):
        exporter("pushgateway", url="http://gateway:9091")


def test_a_factory_that_takes_anything_is_given_anything_and_one_that_takes_nothing_says_so():
    register_exporter("any", lambda **options: Constant(told=str(options)))
    assert exporter("any", a=1).told == "{'a': 1}"
    register_exporter("none", lambda: Constant())
    with pytest.raises(InvalidMetricError, match="'none': there is no option 'a'; it has none"):
        exporter("none", a=1)
    register_exporter("native", type("Own", (dict,), {"export": None}))  # a class whose signature is not told
    assert exporter("native", a=1) == {"a": 1}


def test_an_application_adds_its_own_and_is_asked_before_it_replaces_one(backend):
    register_exporter("constant", Constant)
    register_exporter("constant", Constant)
    assert backend.export_as("constant", told="x") == b"x"
    assert exporters() == tuple(sorted((*OURS, "constant")))
    for taken in ("constant", "json"):
        with pytest.raises(InvalidMetricError, match=f"'{taken}' is there already"):
            register_exporter(taken, lambda: Constant())
    register_exporter("json", Constant, replace=True)
    assert backend.export_as("json", told="mine") == b"mine"


@pytest.mark.parametrize(("name", "factory"), [("", Constant), (1, Constant), ("x", None)])
def test_what_is_no_name_or_no_factory_is_refused(name, factory):
    with pytest.raises(InvalidMetricError, match="give a name, and a callable"):
        register_exporter(name, factory)


def test_a_package_offers_one_by_an_entry_point_and_a_broken_one_harms_nobody_else(tmp_path, python):
    """Two real distributions on the path, one of which cannot be imported."""
    for name, code in {
        "carbon": "class Exporter:\n    def export(self, backend):\n        return b'carbon'\n",
        "rotten": "raise RuntimeError('it is rotten')\n",
    }.items():
        (tmp_path / f"{name}_exporter.py").write_text(code)
        information = tmp_path / f"{name}_exporter-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-exporter\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(f"[shm_metrics.exporters]\n{name} = {name}_exporter:Exporter\n")
    code = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
sys.path.insert(0, sys.argv[1])
from shm_metrics import InvalidMetricError, MetricsBackend
from shm_metrics.exporters import exporters
backend = MetricsBackend(path=sys.argv[1] + "/segment")
print(backend.export_as("carbon").decode(), "rotten_exporter" in sys.modules)
print(*exporters())
print(*exporters())
for name in ("rotten", "missing"):
    try:
        backend.export_as(name)
    except InvalidMetricError as error:
        print(error)
"""
    assert python(code, str(tmp_path)).splitlines() == [
        "carbon False",
        "shm_metrics: exporter rotten of rotten_exporter:Exporter cannot be loaded: RuntimeError('it is rotten')",
        " ".join(sorted((*OURS, "carbon"))),
        " ".join(sorted((*OURS, "carbon"))),
        "exporter 'rotten' cannot be loaded: RuntimeError('it is rotten')",
        f"exporter 'missing': there is none; those there are: {', '.join(sorted((*OURS, 'carbon', 'rotten')))}",
    ]


def test_what_is_not_used_is_not_loaded(tmp_path, python):
    code = """
import sys
from shm_metrics import MetricsBackend
from shm_metrics.exporters import PushSchedule, exporter
backend = MetricsBackend(path=sys.argv[1])
backend.counter("x").inc()
schedule = PushSchedule(backend, exporter("statsd"))
print([name for name in ("numpy", "http.client", "opentelemetry", "ssl") if name in sys.modules])
"""
    assert "opentelemetry" not in python(code, str(tmp_path / "segment"))


def test_an_exporter_is_made_without_a_backend():
    assert callable(exporter("statsd", port=1).export)
