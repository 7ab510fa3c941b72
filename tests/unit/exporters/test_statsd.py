"""Deltas to real sockets: every increment arrives once, however often it is pushed, refused and pushed again."""

from __future__ import annotations

import json
import math
import os
import socket
import threading

import pytest

from shm_metrics import ExportError, InvalidMetricError, Sample, SampleFamily
from shm_metrics.exporters import exporter
from tests.support.cache_servers import free_port
from tests.support.receivers import Datagrams


def push(backend, datagrams, **options):
    """The lines of one push, of the application's own metrics."""
    options = {"names": ["orders", "seconds", "depth", "temperature", "size"], **options}
    backend.export_as("statsd", **datagrams.options, **options)
    return datagrams.receive()


def test_counters_are_sent_as_what_they_grew_by(backend, datagrams):
    orders = backend.counter("orders_total", shop="berlin")
    orders.inc(3)
    assert push(backend, datagrams) == ["orders_total:3|c|#shop:berlin"]
    assert push(backend, datagrams) == []
    orders.inc(0.5)
    assert push(backend, datagrams) == ["orders_total:0.5|c|#shop:berlin"]


def test_gauges_are_sent_as_they_are_every_time(backend, datagrams):
    backend.gauge("depth").set(0)
    for _ in range(2):
        assert push(backend, datagrams) == ["depth:0|g"]


def test_a_gauge_below_zero_is_not_taken_for_a_decrement(backend, udp):
    backend.gauge("depth", shop="a").set(-2.5)
    assert push(backend, udp) == ["depth:0|g|#shop:a", "depth:-2.5|g|#shop:a"]
    assert push(backend, udp, dialect="statsd") == ["depth.shop.a:0|g", "depth.shop.a:-2.5|g"]


def test_what_is_no_number_is_not_sent(backend, udp):
    backend.gauge("depth").set(math.nan)
    backend.gauge("temperature").set(math.inf)
    backend.histogram("seconds", buckets=[1]).observe(math.inf)
    assert push(backend, udp) == ["seconds_bucket:1|c|#le:+Inf", "seconds_count:1|c"]


def test_a_histogram_is_a_counter_a_bucket_count_and_sum(backend, udp):
    seconds = backend.histogram("seconds", buckets=[0.1, 1], path="/a")
    seconds.observe(0.5)
    seconds.observe(5)
    assert push(backend, udp) == [
        "seconds_bucket:1|c|#le:1.0,path:/a",
        "seconds_bucket:2|c|#le:+Inf,path:/a",
        "seconds_count:2|c|#path:/a",
        "seconds_sum:5.5|c|#path:/a",
    ]
    seconds.observe(0.0625)
    assert push(backend, udp, buckets=False) == ["seconds_count:1|c|#path:/a", "seconds_sum:0.0625|c|#path:/a"]
    # Those that were left out are still due.
    assert push(backend, udp) == [
        "seconds_bucket:1|c|#le:0.1,path:/a",
        "seconds_bucket:1|c|#le:1.0,path:/a",
        "seconds_bucket:1|c|#le:+Inf,path:/a",
    ]


def test_a_sum_that_may_fall_is_a_gauge(backend, udp):
    temperature = backend.histogram("temperature", buckets=[-10, 0, 10])
    temperature.observe(-20)
    assert "temperature_sum:-20|g" in push(backend, udp)
    temperature.observe(5)
    assert "temperature_sum:-15|g" in push(backend, udp)
    assert min(udp.deltas) > 0


def test_a_sum_that_falls_all_the_same_gives_no_negative_delta(backend, udp):
    size = backend.summary("size")
    size.observe(10)
    assert push(backend, udp) == ["size_count:1|c", "size_sum:10|c"]
    size.observe(-4)
    assert push(backend, udp) == ["size_count:1|c"]
    size.observe(9)
    assert push(backend, udp) == ["size_count:1|c", "size_sum:5|c"]


def test_tags_prefix_and_what_has_a_meaning_in_a_line(backend, udp):
    backend.counter("orders_total", shop="a,b|c#d\ne f:g").inc()
    lines = push(backend, udp, prefix="shop.", tags={"env": "prod"})
    assert lines == ["shop.orders_total:1|c|#shop:a_b_c_d_e_f:g,env:prod"]


def test_without_tags_labels_are_parts_of_the_name(backend, udp):
    backend.counter("orders_total", path="/a.b", shop="").inc()
    lines = push(backend, udp, dialect="statsd", prefix="shop.", tags={"env": "prod"})
    assert lines == ["shop.orders_total.path._a_b.shop._.env.prod:1|c"]


def test_no_datagram_is_longer_than_was_said(backend, datagrams):
    for number in range(500):
        backend.counter("orders_total", shop=f"shop-{number}").inc()
    receiving = threading.Thread(target=datagrams.until, args=(lambda: len(datagrams.counters) == 500,))
    receiving.start()
    backend.export_as("statsd", packet_bytes=512, names="orders", timeout=60.0, **datagrams.options)
    receiving.join()
    assert 400 < datagrams.longest <= 512
    assert set(datagrams.counters.values()) == {1.0}


def test_the_default_datagram_fits_an_ethernet_frame(backend, udp):
    for number in range(500):
        backend.counter("orders_total", shop=f"shop-{number}").inc()
    push(backend, udp)
    assert 1300 < udp.longest <= 1432


def test_a_line_that_fits_no_datagram_is_an_error_and_the_others_are_sent_once(backend, udp):
    backend.counter("orders_total", shop="x" * 2000).inc()
    backend.counter("orders_total", shop="y").inc()
    for _ in range(2):
        with pytest.raises(ExportError, match="1 lines are longer than packet_bytes=1432"):
            push(backend, udp)
    udp.receive()
    assert dict(udp.counters) == {"orders_total#shop:y": 1.0}
    assert len(push(backend, udp, packet_bytes=4000)) == 1


def test_after_a_reset_it_goes_on_from_zero(backend, udp):
    orders = backend.counter("orders_total")
    orders.inc(3)
    push(backend, udp)
    backend.clear()
    backend.counter("orders_total").inc(5)  # more than before: only `created` tells
    push(backend, udp)
    assert udp.counters["orders_total"] == 8
    assert min(udp.deltas) > 0


def test_a_new_incarnation_goes_on_from_zero(make, udp):
    first = make()
    first.counter("orders_total").inc(3)
    push(first, udp)
    first.close()
    second = make()
    assert second.instance_id != first._arguments.get("instance_id")
    second.counter("orders_total").inc(4)
    push(second, udp)
    assert udp.counters["orders_total"] == 7


def test_a_total_of_a_collector_that_fell_began_anew(backend, udp):
    value = [5.0]
    backend.register_collector(lambda: [SampleFamily("orders", "", "counter", [Sample("orders_total", {}, value[0])])])
    for value[0] in (5.0, 7.0, 2.0, 3.0):
        push(backend, udp)
    assert udp.deltas == [5, 2, 2, 1]


def test_two_workers_that_push_send_nothing_twice(make, udp):
    a, b = make(), make()
    for _ in range(3):
        a.counter("orders_total").inc()
        b.counter("orders_total").inc()
        push(a, udp)
        push(b, udp)
    assert udp.counters["orders_total"] == 6


def test_threads_that_push_at_once_send_nothing_twice(make, datagrams):
    workers = [make() for _ in range(4)]
    for worker in workers:
        worker.counter("orders_total").inc(10)
    receiving = threading.Thread(target=datagrams.until, args=(lambda: datagrams.counters["orders_total"] >= 440,))
    receiving.start()

    def work(worker):
        for _ in range(10):
            worker.counter("orders_total").inc(10)
            worker.export_as("statsd", names="orders", timeout=60.0, **datagrams.options)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    receiving.join()
    assert datagrams.counters["orders_total"] == 440


def test_receivers_each_get_all_of_it(backend, udp):
    other = Datagrams()
    backend.counter("orders_total").inc(3)
    assert push(backend, udp) == push(backend, other) == ["orders_total:3|c"]
    other.close()


def test_where_there_is_no_socket_it_is_an_error_and_nothing_is_lost(backend, tmp_path):
    path = tmp_path / "statsd.sock"
    backend.counter("orders_total").inc(3)
    with pytest.raises(ExportError, match=r"statsd\.sock: No such file or directory; nothing was sent"):
        backend.export_as("statsd", path=path)
    made = Datagrams(path)
    made.close()
    with pytest.raises(ExportError, match="nothing was sent"):
        backend.export_as("statsd", path=path)
    made = Datagrams(path)
    assert push(backend, made) == ["orders_total:3|c"]
    made.close()


def test_a_receiver_that_does_not_read_gets_the_rest_later(backend, tmp_path):
    """A Unix socket's queue is bounded: what was in it counts as sent, and what did not fit does not."""
    made = Datagrams(tmp_path / "statsd.sock")
    for number in range(100):
        backend.counter("orders_total", shop=f"shop-{number}").inc()
    with pytest.raises(ExportError, match=r"time-out; \d+ of \d+ datagrams were sent"):
        push(backend, made, packet_bytes=64, timeout=0.05)
    some = len(made.receive())
    assert 0 < some < 100
    for _ in range(100):
        if len(made.counters) == 100:
            break
        try:
            push(backend, made, packet_bytes=64, timeout=0.05)
        except ExportError:
            made.receive()
    assert len(made.counters) == 100
    assert set(made.counters.values()) == {1.0}
    made.close()


def test_a_refused_datagram_is_an_error(backend):
    backend.counter("orders_total").inc()
    with pytest.raises(ExportError, match="Connection refused"):
        backend.export_as("statsd", host="127.0.0.1", port=free_port())


def test_a_host_that_there_is_not_is_an_error(backend):
    with pytest.raises(ExportError, match=r"host\.invalid port 8125"):
        backend.export_as("statsd", host="host.invalid")


def test_a_push_waits_for_another_processs_only_so_long(backend, udp, fork):
    to = exporter("statsd", **udp.options)
    backend.counter("orders_total").inc()
    to.export(backend)

    def hold(link):
        from shm_metrics.exporters.pushed_totals import PushedTotals

        totals = PushedTotals(to.state_path(backend), 5.0, segment="", shared=False)
        with totals.locked(backend.instance_id):
            link.say()
            link.hear()

    child = fork(hold)
    child.hear()
    with pytest.raises(ExportError, match=r"another process has been sending for more than 0\.1 s"):
        backend.export_as("statsd", timeout=0.1, **udp.options)
    child.kill()  # and the kernel drops its lock
    backend.export_as("statsd", timeout=0.1, **udp.options)


def test_what_was_sent_is_said_before_it_is_sent(backend, udp, monkeypatch):
    """A leader that dies between the two loses the push, and the next one does not send it twice."""
    backend.counter("orders_total").inc(3)
    to = exporter("statsd", names="orders", **udp.options)

    class Died(BaseException):
        pass

    class Socket(socket.socket):
        def send(self, data, *rest):
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr("shm_metrics.exporters.statsd.socket.socket", Socket)
        with pytest.raises(Died):
            to.export(backend)
    to.export(backend)
    assert udp.receive() == []
    backend.counter("orders_total").inc(2)
    to.export(backend)
    assert udp.receive() == ["orders_total:2|c"]


def test_a_file_that_cannot_be_read_is_an_error_and_nothing_is_sent_twice(backend, udp, tmp_path):
    state = tmp_path / "state"
    backend.counter("orders_total").inc(3)
    push(backend, udp, state=state)
    assert json.loads(state.read_text())["totals"]["orders_total:"][1] == 3
    state.write_text("{")
    with pytest.raises(ExportError, match="what was sent cannot be known"):
        push(backend, udp, state=state)
    assert udp.receive() == []


def test_a_file_that_cannot_be_written_is_an_error_and_nothing_is_sent(backend, udp, tmp_path):
    backend.counter("orders_total").inc(3)
    with pytest.raises(ExportError, match="cannot be opened: No such file"):
        push(backend, udp, state=tmp_path / "missing" / "state")
    assert udp.receive() == []


def test_what_is_kept_is_for_its_owner_alone(backend, udp, tmp_path):
    push(backend, udp, state=tmp_path / "state")
    assert {os.stat(tmp_path / name).st_mode & 0o777 for name in ("state", "state.lock")} == {0o600}


@pytest.mark.parametrize(
    "options", [{"dialect": "graphite"}, {"packet_bytes": 10}, {"packet_bytes": 1 << 20}, {"timeout": -1}], ids=str
)
def test_what_cannot_be_meant_is_refused_when_it_is_made(options):
    with pytest.raises(InvalidMetricError):
        exporter("statsd", **options)


def test_a_process_without_a_segment_sends_no_deltas(make, udp):
    backend = make(_private=True)
    backend.counter("orders_total").inc()
    with pytest.raises(ExportError, match="there is no segment"):
        push(backend, udp)
    assert udp.receive() == []
