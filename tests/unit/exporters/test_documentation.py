"""docs/exporters.md: its examples run, one after another, against real receivers; its tables name every option."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import shm_metrics
from shm_metrics.exporters import otlp_environment
from shm_metrics.exporters.otlp import OtlpExporter
from shm_metrics.exporters.pushgateway import PushgatewayExporter
from shm_metrics.exporters.registry import exporters
from shm_metrics.exporters.statsd import StatsdExporter
from tests.support.receivers import Datagrams

TOLD = (Path(shm_metrics.__file__).parents[1] / "docs" / "exporters.md").read_text()
_BLOCKS = re.findall(r"^```python\n(.*?)^```", TOLD, re.M | re.S)
EXAMPLES = [block for block in _BLOCKS if "gunicorn.conf.py" not in block]
(GUNICORN,) = [block for block in _BLOCKS if "gunicorn.conf.py" in block]  # test_pushing_gunicorn.py runs it


def test_the_examples_run(pushgateway, receiver, udp, tmp_path, monkeypatch, capsys):
    # /dev/shm is not the test's: the segment, and what is kept beside it, is a file of its own
    local = Datagrams(tmp_path / "dsd.socket")
    real = {
        'MetricsBackend("shop")': f"MetricsBackend(path={str(tmp_path / 'segment')!r}, process_metrics=False)",
        "http://127.0.0.1:9091": pushgateway.url,
        "http://127.0.0.1:4318/v1/metrics": receiver.url,
        "port=8125": f"port={udp.port}",
        "/run/datadog/dsd.socket": str(local.path),
        "/var/log/shop/metrics.jsonl": str(tmp_path / "metrics.jsonl"),
    }
    monkeypatch.setattr("shm_metrics.exporters.registry._registered", {})
    text = "\n".join(EXAMPLES)
    for told, meant in real.items():
        assert told in text, f"no example has {told}"
        text = text.replace(told, meant)
    names: dict[str, object] = {}
    exec(compile(text, "docs/exporters.md", "exec"), names)
    names["schedule"].stop()
    names["backend"].close()
    assert capsys.readouterr().out == (
        '{"name": "orders", "type": "counter", "unit": "", "labels": {"shop": "berlin"}, "value": 3.0}\n'
        '{"name": "order_seconds", "type": "histogram", "unit": "", "labels": {}, '
        '"buckets": {"0.1": 0.0, "1.0": 1.0, "+Inf": 1.0}, "count": 1.0, "sum": 0.5}\n'
    )
    assert b'"orders"' in (tmp_path / "metrics.jsonl").read_bytes()
    assert len(receiver.requests) == 1
    assert "shop.orders_total:3|c|#shop:berlin,env:prod" in local.receive()
    assert "orders_total.shop.berlin:3|c" in udp.receive()
    local.close()


def test_every_exporter_and_every_option_is_named():
    for name in exporters():
        assert f"`{name}`" in TOLD
    for factory in (PushgatewayExporter, StatsdExporter, OtlpExporter):
        for option in inspect.signature(factory).parameters:
            assert re.search(rf"^\|[^|]*`{option}`", TOLD, re.M), f"{factory.__name__}: {option} is not in its table"


def test_every_variable_that_is_read_is_named_and_no_other():
    read = set(re.findall(r"OTEL_[A-Z_]+", Path(otlp_environment.__file__).read_text()))
    assert set(re.findall(r"OTEL_[A-Z_]+", TOLD)) == read
    assert len(read) == 6
