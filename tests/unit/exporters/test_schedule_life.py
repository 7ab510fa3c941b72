"""The thread that pushes, when its process forks, ends, or closes things under it; in processes of their own."""

from __future__ import annotations

import threading

import pytest

from shm_metrics import MetricsBackend
from shm_metrics.errors import ExportError
from shm_metrics.exporters import PushSchedule, schedule
from tests.support.processes import run_well


class Waiting:
    """An exporter that waits in the middle of a push until it is let go on, and may fail then."""

    def __init__(self):
        self.began = threading.Event()
        self.may_end = threading.Event()
        self.error = None
        self.sent = 0

    def export(self, backend):
        self.began.set()
        assert self.may_end.wait(60)
        if self.error is not None:
            raise self.error
        self.sent += 1
        return b""


# -- in this process ---------------------------------------------------------------------------------------------------


def test_a_push_that_hangs_is_not_waited_for_and_gives_the_lead_up_when_it_comes_back(make, monkeypatch):
    monkeypatch.setattr(schedule, "_STOP_SECONDS", 0.05)
    other = PushSchedule(make(), Waiting())
    hanging = PushSchedule(make(), Waiting()).start()
    thread = hanging._thread
    assert hanging.exporter.began.wait(60)
    hanging.stop()
    assert thread.is_alive()
    assert not other.leads()
    hanging.exporter.may_end.set()
    thread.join(60)
    assert other.leads()


def test_a_backend_that_is_closed_in_the_middle_of_a_push_is_no_failure(make, caplog):
    backend = make()
    one = PushSchedule(backend, Waiting(), 0.01).start()
    assert one.exporter.began.wait(60)
    one.exporter.error = ExportError("closed by this process")
    backend.close()
    one.exporter.may_end.set()
    one.stop()
    assert (one.failed, one.last_error, caplog.records) == (0, None, [])


# -- fork --------------------------------------------------------------------------------------------------------------

FORKED_WHILE_IT_LOADS = """
import os, signal, sys
from shm_metrics import MetricsBackend
from shm_metrics.exporters import PushSchedule

class Scraped:
    def export(self, backend):
        backend.collect()
        return b""

backend = MetricsBackend(path=sys.argv[1])
backend.counter("orders").inc()
schedule = PushSchedule(backend, Scraped(), 0.01).start()
children = []
while not schedule.pushed and len(children) < 5:
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        backend.collect()
        os._exit(0)
    children.append(pid)
print(len(children), {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children})
"""


@pytest.mark.slow
def test_children_forked_while_the_thread_imports_what_it_needs_can_scrape(tmp_path):
    number, codes = run_well(FORKED_WHILE_IT_LOADS, str(tmp_path / "segment")).split(" ", 1)
    assert int(number) > 0
    assert codes == "{0}\n"


FIRST_STEP = """
import sys
from shm_metrics import MetricsBackend
from shm_metrics.exporters import PushSchedule, exporter
path, *told = sys.argv[1:]
backend = MetricsBackend(path=path)
backend.counter("orders").inc()
backend.histogram("seconds").observe(1)
schedule = PushSchedule(backend, exporter(told[0], **dict(each.split("=") for each in told[1:])))
schedule._load_once()
before = set(sys.modules)
schedule.step()
print(schedule.failed, sorted(set(sys.modules) - before))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "told", [["statsd"], ["pushgateway", "url=http://127.0.0.1:1", "job=x"], ["otlp", "endpoint=http://127.0.0.1:1/"]]
)
def test_a_push_imports_nothing_that_was_not_imported_before(tmp_path, told):
    assert run_well(FIRST_STEP, str(tmp_path / "segment"), *told) == "1 []\n"


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import os, sys, gevent
from shm_metrics import MetricsBackend
from shm_metrics.exporters import PushSchedule

may_end, let_go = os.pipe()
os.set_blocking(may_end, False)
sent, sending = os.pipe()

class Waiting:
    began = False
    def export(self, backend):
        self.began = True
        gevent.os.nb_read(may_end, 1)   # as a socket that is not ready: the others go on
        os.write(sending, b"%d " % os.getpid())
        return b""

backend = MetricsBackend(path=sys.argv[1])
schedule = PushSchedule(backend, Waiting(), 1000).start()
while not schedule.exporter.began:
    gevent.sleep(0.001)
pid = os.fork()
if pid == 0:
    os.write(let_go, b"xx")             # for both, if the child has the parent's greenlet
    gevent.sleep(0.2)
    os.write(sending, b"child " if schedule.running and not schedule.leads() and not schedule.failed else b"wrong ")
    os._exit(0)
os.waitpid(pid, 0)
while not schedule.pushed:
    gevent.sleep(0.001)
os.close(sending)
print(set(os.read(sent, 100).decode().split()) == {"child", str(os.getpid())}, flush=True)
schedule.stop()
"""


@pytest.mark.slow
def test_under_gevent_a_push_that_waits_at_the_fork_goes_on_in_the_parent_only(tmp_path):
    assert run_well(GREENLETS, str(tmp_path / "segment")) == "True\n"


# -- the end of the process --------------------------------------------------------------------------------------------

ENDING = """
import sys, time
from shm_metrics import MetricsBackend
from shm_metrics.exporters import PushSchedule, exporter
path, port = sys.argv[1:]
backend = MetricsBackend(path=path, process_metrics=False)
schedule = PushSchedule(backend, exporter("statsd", port=int(port), names=["orders"]), 1000).start()
while not schedule.pushed:
    time.sleep(0.001)
backend.counter("orders").inc(7)
"""


@pytest.mark.slow
def test_a_process_that_ends_in_good_order_pushes_once_more(tmp_path, udp):
    run_well(ENDING, str(tmp_path / "segment"), str(udp.port))
    udp.receive()
    assert udp.counters["orders_total"] == 7


@pytest.mark.slow
def test_so_does_one_whose_last_push_was_taken_but_for_a_part(tmp_path, udp):
    odd = """
from shm_metrics import Sample, SampleFamily
backend.register_collector(lambda: [SampleFamily("odd", "", "gauge", [Sample("odd", {}, "many")])])
schedule ="""
    code = ENDING.replace("schedule =", odd).replace('"orders"]', '"orders", "odd"]').replace(".pushed", ".failed")
    run_well(code, str(tmp_path / "segment"), str(udp.port))
    udp.receive()
    assert udp.counters["orders_total"] == 7


@pytest.mark.slow
def test_one_that_is_no_leader_leaves_it_to_whoever_is(tmp_path, udp, make):
    leader = PushSchedule(make(), Waiting())
    assert leader.leads()
    run_well(ENDING.replace("not schedule.pushed", "not schedule.running"), str(tmp_path / "segment"), str(udp.port))
    udp.receive()
    assert not udp.counters


HANGING = """
import sys, threading, time
from shm_metrics import MetricsBackend
from shm_metrics.runtime import periodic_task
from shm_metrics.exporters import PushSchedule
periodic_task._EXIT_SECONDS = 0.2

class Hanging:
    began = threading.Event()
    def export(self, backend):
        self.began.set()
        threading.Event().wait()

schedule = PushSchedule(MetricsBackend(path=sys.argv[1]), Hanging()).start()
assert schedule.exporter.began.wait(60)
"""


@pytest.mark.slow
def test_a_push_that_hangs_does_not_keep_the_process_from_ending(tmp_path):
    assert run_well(HANGING, str(tmp_path / "segment")) == ""
    MetricsBackend(path=tmp_path / "segment").close()
