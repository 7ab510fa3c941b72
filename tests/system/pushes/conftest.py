"""The receivers and backends of the exporters' unit tests."""

from __future__ import annotations

from tests.unit.exporters.conftest import backend, datagrams, fork, make, namespace, pushgateway, receiver, udp, valkey

__all__ = ["backend", "datagrams", "fork", "make", "namespace", "pushgateway", "receiver", "udp", "valkey"]
