"""Code of others closes every descriptor it finds, and the application's files get the numbers.

Counting goes on, nobody gets the row, and no file of the application is locked, grown or closed. Each test is a fresh
interpreter: closing all numbers would take away those of the tests.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.processes import run_well

APPLICATION = """
import fcntl, gc, os, resource, struct, subprocess, sys
from shm_metrics import MetricsBackend

path, directory = sys.argv[1:3]
CONTENT = b"belongs to the application"
files = []


def attach(**options):
    return MetricsBackend(**{"path": path, "rows": 8, "slots": 4096, "process_metrics": False, **options})


def close_all():
    os.closerange(3, 1024)
    files[:] = [os.open(f"{directory}/{n}", os.O_RDWR | os.O_CREAT | os.O_TRUNC) for n in range(40)]
    assert files == list(range(3, 43))
    for file in files:
        os.write(file, CONTENT)


def locked(name):
    probe = os.open(f"{directory}/{name}", os.O_RDWR)
    asked = struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    answer = fcntl.fcntl(probe, fcntl.F_OFD_GETLK, asked)
    os.close(probe)
    return struct.unpack("@hhqqi4x", answer)[0] != fcntl.F_UNLCK


def unharmed():
    for name, file in enumerate(files):
        assert os.path.samestat(os.fstat(file), os.stat(f"{directory}/{name}")), f"{file} was closed"
        assert os.pread(file, 1000, 0) == CONTENT, f"{file} was written"
        assert os.fstat(file).st_blocks <= 8, f"{file} has grown"
        assert not locked(name), f"{file} was locked"


hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
answers = os.memfd_create("answers")
os.dup2(answers, 2000)  # out of reach of what closes all numbers
os.close(answers)


def in_child(work):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            answer = repr(work()).encode()
            os.ftruncate(2000, 0)
            os.pwrite(2000, answer, 0)
            status = 0
        finally:
            if status:
                sys.excepthook(*sys.exc_info())
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    return eval(os.pread(2000, 10_000, 0))


OTHER = '''
import sys
from shm_metrics import MetricsBackend
backend = MetricsBackend(path=sys.argv[1], process_metrics=False)
backend.counter("known_total").inc()
values = {name: backend.snapshot().value(name) for name in ("known_total", "new_total")}
print((backend.row, list(backend.snapshot().live_rows), values))
'''


def other_process():
    done = subprocess.run([sys.executable, "-c", OTHER, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return eval(done.stdout)
"""


def application(code: str, path: str, directory: Path, **variables: str) -> str:
    return run_well(APPLICATION + code, path, str(directory), **variables)


def test_counting_goes_on_and_the_row_is_nobody_elses(path: str, tmp_path: Path) -> None:
    application(
        """
backend = attach()
known = backend.counter("known_total")
known.inc()
close_all()
known.inc(10)
row, live, values = other_process()
assert row != backend.row and backend.row in live, (row, live, backend.row)
assert values["known_total"] == 12
backend.counter("new_total").inc(5)            # the catalog's lock, and memory
unharmed()
row, live, values = other_process()
assert row != backend.row and backend.row in live
assert values == {"known_total": 13, "new_total": 5}
snapshot = backend.snapshot()
assert snapshot.value("known_total") == 13 and list(snapshot.live_rows) == [backend.row]
unharmed()
""",
        path,
        tmp_path,
    )


def test_no_step_harms_a_file_of_the_application(path: str, tmp_path: Path) -> None:
    application(
        """
backend = attach()
known = backend.counter("known_total")
known.inc()
close_all()
second = attach()
second.counter("known_total").inc()
unharmed()
for n in range(2000):
    backend.counter("many_total", of=n).inc()
unharmed()
backend.snapshot()
unharmed()


def work():
    known.inc(100)
    backend.counter("new_total").inc()
    unharmed()
    return backend.row


row = in_child(work)
assert row not in (None, backend.row, second.row), row
unharmed()
second.close()
unharmed()
del second
gc.collect()
unharmed()
assert backend.snapshot().value("known_total") == 102
assert backend.snapshot().value("new_total") == 1
mine = backend.row
backend.close()
unharmed()
del backend, known
gc.collect()
unharmed()
assert other_process()[0] == 1, "closed, it has given the row up"
""",
        path,
        tmp_path,
    )


def test_a_forgotten_backend_closes_nothing_and_gives_its_row_up(path: str, tmp_path: Path) -> None:
    application(
        """
stays, goes = attach(), attach()
goes.counter("known_total").inc()
close_all()
del goes
gc.collect()
unharmed()
assert other_process()[0] == 2
""",
        path,
        tmp_path,
    )


def test_closed_again_and_again(path: str, tmp_path: Path) -> None:
    """What was locked through the second description is kept, too."""
    application(
        """
backend = attach()
for n in range(5):
    close_all()
    backend.counter("new_total", of=n).inc()
    attached = attach()
    assert attached.row not in (None, backend.row)
    attached.close()
    unharmed()
assert other_process()[:2] == (2, [1, 2])
assert sum(backend.snapshot().family("new_total").values) == 5
backend.close()
unharmed()
assert other_process()[0] == 1
""",
        path,
        tmp_path,
    )


def test_a_number_that_another_segment_of_this_process_got(path: str, tmp_path: Path) -> None:
    application(
        """
first = attach()
os.closerange(3, 1024)
second = attach()                              # of the same file, and with the first one's numbers
first.counter("known_total").inc()
assert first.row != second.row
second.counter("known_total").inc()
first.close()
second.counter("new_total").inc()
row, live, values = other_process()
assert row != second.row and second.row in live, (row, live)
assert values == {"known_total": 3, "new_total": 1}
""",
        path,
        tmp_path,
    )


def test_a_daemon_that_forks_twice_and_closes_everything(path: str, tmp_path: Path) -> None:
    application(
        """
backend = attach()
known = backend.counter("known_total")
known.inc()


def daemon():
    known.inc(10)
    close_all()
    backend.counter("new_total").inc()
    unharmed()
    return backend.row, in_child(lambda: (known.inc(100), backend.row)[1]), list(backend.snapshot().live_rows)


def middle():
    os.setsid()
    os.closerange(100, 1024)
    return in_child(daemon)


row, grandchild, live = in_child(middle)
assert len({backend.row, row, grandchild}) == 3
assert row in live and backend.row in live
snapshot = backend.snapshot()
assert (snapshot.value("known_total"), snapshot.value("new_total")) == (111, 1)
""",
        path,
        tmp_path,
    )


def test_closed_between_two_forks(path: str, tmp_path: Path) -> None:
    application(
        """
backend = attach()
known = backend.counter("known_total")


def first():
    close_all()
    rows = [in_child(second) for _ in range(3)]
    unharmed()
    return rows, backend.row


def second():
    known.inc()
    unharmed()
    return backend.row


rows, row = in_child(first)
assert backend.row not in rows and row not in rows and None not in rows and row != backend.row
assert backend.snapshot().value("known_total") == 3
""",
        path,
        tmp_path,
    )


PRIVATE = """
from shm_metrics import Counter, get_backend
known = Counter("known", "")
known.inc()
backend = get_backend()
assert backend._writer.segment.status.st_nlink == 0
backend.snapshot()
os.chmod(directory, 0o777)
{before}
close_all()
known.inc(10)
Counter("new", "").inc(5)
unharmed()
snapshot = backend.snapshot()
assert snapshot.value("known") == 11
assert snapshot.value("new") == {new}
unharmed()


def work():
    known.inc(100)
    Counter("newer", "").inc()
    unharmed()
    return backend.row


row = in_child(work)
assert row != backend.row
unharmed()
known.inc(1000)
assert backend.snapshot().value("known") == 1011 + (100 if row else 0)
backend.close()
del backend
gc.collect()
unharmed()
print(row)
"""


def test_private_memory(path: str, open_directory: Path) -> None:
    """No path leads to it, and it may not be opened again. What was known counts on, what is new waits."""
    before = "if os.geteuid() == 0: os.setuid(65534)"
    code = PRIVATE.format(before=before, new=None)
    assert application(code, path, open_directory, SHM_METRICS_SEGMENT="/nowhere/at/all") == "None\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel opens a mapping for root alone")
def test_private_memory_of_root(path: str, open_directory: Path) -> None:
    answer = application(PRIVATE.format(before="", new=5), path, open_directory, SHM_METRICS_SEGMENT="/nowhere/at/all")
    assert answer in ("2\n", "None\n")


@pytest.mark.parametrize("of", ["named", "private"])
def test_a_mapping_keeps_no_hidden_descriptor(path: str, tmp_path: Path, of: str) -> None:
    answer = application(
        """
before = len(os.listdir("/proc/self/fd"))
from shm_metrics.segment.layout import Layout
from shm_metrics.segment.location import SegmentLocation
from shm_metrics.segment.segment import Segment
layout = Layout(2, 512)
segment = Segment.attach(SegmentLocation.at(path), layout) if sys.argv[3:] == ["named"] else Segment.private(layout)
print(len(os.listdir("/proc/self/fd")) - before)
segment.close()
print(len(os.listdir("/proc/self/fd")) - before)
""".replace('sys.argv[3:] == ["named"]', str(of == "named")),
        path,
        tmp_path,
    )
    assert answer.split() == ["1", "0"]


def test_the_library_of_a_leader_keeps_and_gives_back_the_lead(path: str, tmp_path: Path) -> None:
    application(
        """
from shm_metrics.segment.shared_lock import LockHandle
backend, other = attach(), attach()
hold, theirs = LockHandle(), LockHandle()
segment = backend._writer.segment
assert hold.acquire(segment.leader)
close_all()
assert hold.holds(segment.leader) and hold.acquire(segment.leader)
assert not theirs.acquire(other._writer.segment.leader)
hold.release()
assert not hold.holds(segment.leader) and hold.acquire(segment.leader), "it may take it again"
hold.release()
unharmed()
backend.close()
assert theirs.acquire(other._writer.segment.leader), "it went with the row"
unharmed()
""",
        path,
        tmp_path,
    )
