"""Children that may not open their segment: of another user, or in a tree where there is no path to it.

They count through the descriptor that they inherited. Their locks are their own: of the process, not the description.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.processes import run_well
from tests.system.processes.test_closed_descriptors import APPLICATION

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user or root directory")

FORKS = """
import ctypes, threading
backend = attach(rows=32)
known = backend.counter("known_total")
known.inc()
backend.snapshot()  # loads what could not be loaded later
FORKS = 20


def without_access():
    {lose_access}


def forked(fork, work):
    pid = fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            if status:
                sys.excepthook(*sys.exc_info())
            os._exit(status)
    return pid


def wave(fork, more=lambda: None):
    "FORKS children, all alive at the same time: their rows"
    ready, rows_of, go, went = *os.pipe(), *os.pipe()

    def work():
        backend.counter("new_total").inc()
        known.inc()
        more()
        os.write(rows_of, b"%3d" % (backend.row or 0))
        os.close(went)
        os.read(go, 1)

    pids = [forked(fork, work) for _ in range(FORKS)]
    rows = [int(os.read(ready, 3)) for _ in pids]
    os.close(went)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * FORKS
    for fd in (ready, rows_of, go):
        os.close(fd)
    return rows


def noticed():
    return ctypes.PyDLL(None).fork()
"""

SETUID = "os.setgroups([]); os.setgid(65534); os.setuid(65534)"
CHROOT = 'os.mkdir(directory + "/root"); os.chroot(directory + "/root"); os.chdir("/")'


def forks(code: str, lose_access: str, path: str, directory: Path) -> str:
    return run_well(APPLICATION + FORKS.replace("{lose_access}", lose_access) + code, path, str(directory))


lost_access = pytest.mark.parametrize("lose_access", [SETUID, CHROOT], ids=["setuid", "chroot"])


@lost_access
@pytest.mark.parametrize("fork", ["os.fork", "noticed"])
def test_every_child_counts_in_a_row_of_its_own(path: str, tmp_path: Path, lose_access: str, fork: str) -> None:
    forks(
        f"""
def work():
    without_access()
    first = wave({fork})
    second = wave({fork})
    return backend.row, first, second


row, first, second = in_child(work)
for rows in (first, second):
    assert len(set(rows)) == FORKS and 0 not in rows and not {{row, backend.row}} & set(rows), rows
assert set(first) == set(second), "rows of the dead are used again"
snapshot = backend.snapshot()
counted = snapshot.value("known_total"), snapshot.value("new_total")
assert counted == (1 + 2 * FORKS, 2 * FORKS), counted
assert list(snapshot.live_rows) == [backend.row]
assert os.stat(path).st_mode & 0o777 == 0o600
""",
        lose_access,
        path,
        tmp_path,
    )


@lost_access
def test_grandchildren_and_scrapes(path: str, tmp_path: Path, lose_access: str) -> None:
    forks(
        """
def grandchild():
    known.inc(1000)
    backend.counter("newer_total").inc()
    return backend.row, list(backend.snapshot().live_rows), backend.snapshot().value("known_total")


def child():
    known.inc(100)
    return backend.row, in_child(grandchild), list(backend.snapshot().live_rows)


def work():
    without_access()
    known.inc(10)
    return backend.row, in_child(child), list(backend.snapshot().live_rows)


one, (two, (three, in_three, value), in_two), in_one = in_child(work)
assert len({backend.row, one, two, three}) == 4 and three
assert in_three == sorted({backend.row, one, two, three})
assert in_two == sorted({backend.row, one, two})
assert in_one == sorted({backend.row, one})
assert value == 1111
snapshot = backend.snapshot()
assert (snapshot.value("known_total"), snapshot.value("newer_total")) == (1111, 1)
assert list(snapshot.live_rows) == [backend.row]
""",
        lose_access,
        path,
        tmp_path,
    )


@lost_access
def test_two_backends_of_one_process_keep_their_rows_apart(path: str, tmp_path: Path, lose_access: str) -> None:
    """For the kernel one process has the locks of both; and closing one must not drop those of the other."""
    forks(
        """
second = attach()
third = attach()
of_second = second.counter("known_total")


def child():
    rows = [backend.row, second.row, third.row]
    known.inc(10)
    of_second.inc(100)
    third.close()
    rows += [other_row()]
    second.close()
    rows += [other_row()]
    return rows


def other_row():
    os.write(ask[1], b"?")
    return int(os.read(answer[0], 3))


ask, answer = os.pipe(), os.pipe()


def work():
    without_access()
    rows = in_child(child)
    os.close(ask[1])
    return rows


def helping():
    while os.read(ask[0], 1):
        os.write(answer[1], b"%3d" % other_process()[0])


thread = threading.Thread(target=helping)
thread.start()
rows = in_child(work)
os.close(ask[1])
thread.join()
own, others = rows[:3], rows[3:]
assert len({*own, backend.row, second.row, third.row}) == 6, rows
assert others[0] not in own[:2] and others[1] != own[0], rows
assert backend.snapshot().value("known_total") == 1 + 10 + 100 + 2
""",
        lose_access,
        path,
        tmp_path,
    )


@lost_access
def test_a_child_whose_locks_are_closed_leaves_its_row(path: str, tmp_path: Path, lose_access: str) -> None:
    """Nothing keeps a lock by process when its descriptor is closed: the next worker has the row."""
    forks(
        """


def child():
    row = backend.row
    known.inc(10)
    os.closerange(3, 1024)
    files = [os.memfd_create("application") for _ in range(40)]
    known.inc(0)
    backend.counter("new_total").inc(100)
    known.inc(1000)
    assert all(os.fstat(file).st_size == 0 for file in files)
    return row, backend.row


def work():
    without_access()
    return in_child(child)


row, later = in_child(work)
assert row not in (None, backend.row) and later is None
assert other_process()[0] == 2
assert backend.snapshot().value("known_total") == 12
""",
        lose_access,
        path,
        tmp_path,
    )


@lost_access
def test_nobody_is_the_sole_user_while_such_a_child_lives(path: str, tmp_path: Path, lose_access: str) -> None:
    forks(
        """
def child():
    return backend._writer.segment.sole_user()


def work():
    without_access()
    assert backend._writer.segment.in_place
    return in_child(child), backend._writer.segment.sole_user()


assert in_child(work) == (False, False)
assert backend._writer.segment.sole_user()
""",
        lose_access,
        path,
        tmp_path,
    )
