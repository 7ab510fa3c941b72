"""Children that CPython does not see: no count may go unseen into the parent's row.

Forked by a call of libc's fork() with the interpreter's lock held, which is what uWSGI does. The real uWSGI is in
tests/system/jobs.
"""

from __future__ import annotations

import ast

from tests.test_layers import MODULES

PROGRAM = """
import ctypes, logging, os, sys
logging.basicConfig(format="%(message)s", stream=sys.stdout)
from shm_metrics import Counter, generate_latest, get_backend
jobs = Counter("jobs", "", ["queue"])
jobs.labels("a").inc()
get_backend().snapshot()
sys.stdout.flush()
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    {child}
    jobs.labels("a").inc(10)
    print("child's row", get_backend().row, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
jobs.labels("a").inc(100)
print("parent's row", get_backend().row)
print("total", get_backend().snapshot().value("jobs", queue="a"))
"""


def run(python, segment_name, child):
    return python(PROGRAM.format(child=child), SHM_METRICS_SEGMENT=segment_name)


def test_it_is_noticed_when_the_child_makes_a_series(python, segment_name):
    said = run(python, segment_name, 'jobs.labels("b").inc()')
    assert "was forked without CPython's hooks" in said
    assert "child's row 2\nparent's row 1\ntotal 111.0\n" in said


def test_it_is_noticed_when_the_child_is_scraped(python, segment_name):
    said = run(python, segment_name, "generate_latest()")
    assert "was forked without CPython's hooks" in said
    assert "child's row 2\nparent's row 1\ntotal 111.0\n" in said


def test_nothing_is_said_of_a_fork_that_cpython_knows_of(python, segment_name):
    program = PROGRAM.replace("ctypes.PyDLL(None).fork()", "os.fork()").format(child='jobs.labels("b").inc()')
    said = python(program, SHM_METRICS_SEGMENT=segment_name)
    assert said == "child's row 2\nparent's row 1\ntotal 111.0\n"


def test_one_that_fails_does_not_cost_the_others_their_turn(python):
    program = """
import os, logging, sys
logging.basicConfig(format="%(message)s", stream=sys.stdout)
from shm_metrics.runtime import forks
forks.in_child(forks.STATE)(lambda: 1 / 0)
forks.in_child(forks.STATE)(lambda: print("the next one"))
pid = os.fork()
if pid == 0:
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)
"""
    said = python(program)
    assert said.startswith("shm_metrics: at a fork\nTraceback")
    assert said.endswith("the next one\n")


def test_hooks_that_start_threads_run_after_all_others(python):
    program = """
import os, sys
from shm_metrics.runtime import forks
forks.in_child(forks.THREADS)(lambda: print("a thread begins"))
forks.in_child(forks.LOCKS)(lambda: print("a lock is renewed"))
pid = os.fork()
if pid == 0:
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)
"""
    assert python(program) == "a lock is renewed\na thread begins\n"


def test_a_fork_waits_while_it_is_held_back_and_not_for_ever(python):
    program = """
import os, threading
from shm_metrics.runtime import forks
held, may_end, order = threading.Event(), threading.Event(), []

def hold():
    with forks.block_forks():
        held.set()
        may_end.wait()
        order.append("held back")

def fork(what):
    pid = os.fork()
    if pid == 0:
        with forks.block_forks():         # the child's own
            os._exit(0)
    order.append((what, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))

threading.Thread(target=hold, daemon=True).start()
held.wait()
threading.Timer(0.1, may_end.set).start()
fork("in time")
held.clear()
may_end.clear()
threading.Thread(target=hold, daemon=True).start()
held.wait()
forks._MOST_SECONDS = 0.01
fork("not waited for")
with_its_own = forks.block_forks()
may_end.set()
with with_its_own:
    fork("from within")
print(order)
"""
    assert python(program) == (
        "['held back', ('in time', 0), ('not waited for', 0), 'held back', ('from within', 0)]\n"
    )


def test_a_stand_in_for_uwsgi_does_no_harm(python, segment_name):
    program = """
import sys
from types import ModuleType
from unittest.mock import MagicMock
sys.modules["uwsgi"] = {stand_in}
from shm_metrics import Counter, get_backend
Counter("jobs", "").inc()
print(get_backend().snapshot().value("jobs"))
"""
    for stand_in in ("MagicMock()", "None", "ModuleType('uwsgi')"):
        assert python(program.format(stand_in=stand_in), SHM_METRICS_SEGMENT=segment_name) == "1.0\n"


def test_a_hook_of_uwsgi_reads_as_it_was_assigned(python):
    program = """
import sys
from types import ModuleType
uwsgi = sys.modules["uwsgi"] = ModuleType("uwsgi")
ran = []
uwsgi.post_fork_hook = first = lambda: ran.append("first")
from shm_metrics.runtime import forks
assert uwsgi.post_fork_hook is first
called = uwsgi.__dict__["post_fork_hook"]  # as uWSGI looks it up
called()
uwsgi.post_fork_hook = lambda: ran.append("second")
assert uwsgi.__dict__["post_fork_hook"] is called
called()
del uwsgi.post_fork_hook
assert not hasattr(uwsgi, "post_fork_hook")
called()
print(*ran)
"""
    assert python(program) == "first second\n"


def test_every_module_hears_of_a_fork_through_this_one():
    """CPython's own hooks do not run in a worker of uWSGI."""
    telling = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "register_at_fork"
    }
    assert telling == {"runtime.forks"}


SLOW_CHILD = """
import os
from shm_metrics import Counter, configure, get_backend
from shm_metrics.runtime import forks
jobs = Counter("jobs", "")
jobs.inc()
before = get_backend()
wake, waker = os.pipe()
# The child has got no further than this when the parent goes on.
forks._in_child.insert(0, (forks.LOCKS, lambda: os.read(wake, 1)))
files = len(os.listdir("/proc/self/fd"))
pid = os.fork()
if pid == 0:
    jobs.inc(10)
    print("child", get_backend().place.path == before.place.path, get_backend().snapshot().value("jobs"), flush=True)
    os._exit(0)
print("descriptors", len(os.listdir("/proc/self/fd")) - files)
configure("{name}-other")
os.write(waker, b".")
os.waitpid(pid, 0)
print("left alone", os.path.exists(before.place.path))
get_backend().unlink()
"""


def test_a_segment_is_in_use_from_the_moment_of_a_fork(python, segment_name):
    """configure() takes the counts along and removes the segment if nobody else uses it; a child does, at once."""
    output = python(SLOW_CHILD.format(name=segment_name), SHM_METRICS_SEGMENT=segment_name)
    assert "child True 11.0" in output
    assert "left alone True" in output
    assert "descriptors 0" in output, "the parent keeps none of what it made for the child"
