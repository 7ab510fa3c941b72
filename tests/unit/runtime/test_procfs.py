"""Real processes, and trees of files where the kernel cannot be asked to misbehave."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time

import pytest

from shm_metrics.runtime import procfs
from shm_metrics.runtime.procfs import own_start_ticks, read_process, read_worker

STAT = b"1 (a worker) S 0 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 3 0 200 4096000 10 0\n"


@pytest.fixture
def fake_proc(tmp_path):
    """A /proc with one process, pid 1, that has two descriptors and started two seconds after boot."""
    (tmp_path / "stat").write_bytes(b"cpu 1\nbtime 1000\n")
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "stat").write_bytes(STAT.replace(b" 200 ", b" %d " % (2 * procfs.TICKS_PER_SECOND)))
    (tmp_path / "1" / "limits").write_bytes(b"Max open files            64    128   files\n")
    (tmp_path / "1" / "fd").mkdir()
    for descriptor in "01":
        (tmp_path / "1" / "fd" / descriptor).touch()
    return tmp_path


@pytest.fixture
def child():
    """A process that says it has started and then waits for its input to end."""
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    yield process
    process.communicate()


def test_this_process_is_read_as_it_knows_itself():
    usage = read_process(os.getpid())
    assert usage.pid == os.getpid()
    assert usage.start_ticks == own_start_ticks() > 0
    assert usage.cpu_seconds == pytest.approx(time.process_time(), abs=0.5)
    assert 1 << 20 < usage.resident_bytes < usage.virtual_bytes
    assert usage.max_fds == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert usage.threads >= threading.active_count()
    assert 0 < time.time() - usage.start_time < 24 * 3600


def test_descriptors_are_counted_as_they_open_and_close():
    before = read_process(os.getpid()).open_fds
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    assert read_process(os.getpid()).open_fds == before + 20
    for descriptor in opened:
        os.close(descriptor)
    assert read_process(os.getpid()).open_fds == before


def test_the_directory_size_and_the_listing_agree(child, monkeypatch):
    quick = read_process(child.pid).open_fds
    monkeypatch.setattr(procfs, "_size_is_count", lambda: False)
    assert read_process(child.pid).open_fds == quick == len(os.listdir(f"/proc/{child.pid}/fd"))


def test_a_directory_without_size_is_listed(child, monkeypatch):
    class Empty:
        st_size = 0

    expected = len(os.listdir(f"/proc/{child.pid}/fd"))
    monkeypatch.setattr(procfs, "_size_is_count", lambda: True)
    monkeypatch.setattr(os, "stat", lambda path: Empty)
    assert read_process(child.pid).open_fds == expected


@pytest.mark.parametrize(
    ("release", "counts"),
    [
        ("6.2.0", True),
        ("6.18.44-fc", True),
        ("7.0-rc1", True),
        ("6.1.99", False),
        ("5.15.0-91-lts", False),
        ("x", False),
    ],
)
def test_the_directory_size_is_trusted_since_linux_6_2(release, counts, monkeypatch):
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "vm", release, "#1", "x86_64")))
    procfs._size_is_count.cache_clear()
    try:
        assert procfs._size_is_count() is counts
    finally:
        procfs._size_is_count.cache_clear()


def test_every_figure_has_its_unit(fake_proc):
    usage = read_process(1, proc=str(fake_proc))
    assert usage.cpu_seconds == 200 / procfs.TICKS_PER_SECOND
    assert usage.resident_bytes == 10 * procfs.PAGE_BYTES
    assert usage.virtual_bytes == 4096000
    assert usage.threads == 3
    assert (usage.open_fds, usage.max_fds) == (2, 64)
    assert usage.start_time == 1002


def test_a_process_that_is_not_there_is_none():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert read_process(process.pid) is None


def test_a_process_that_dies_between_the_reads_keeps_what_was_read(fake_proc):
    (fake_proc / "1" / "limits").unlink()
    for descriptor in "01":
        (fake_proc / "1" / "fd" / descriptor).unlink()
    (fake_proc / "1" / "fd").rmdir()
    usage = read_process(1, proc=str(fake_proc))
    assert usage.cpu_seconds > 0
    assert (usage.open_fds, usage.max_fds) == (None, None)


def test_a_stat_that_ends_in_the_middle_is_a_process_that_is_gone(fake_proc):
    (fake_proc / "1" / "stat").write_bytes(b"")
    assert read_process(1, proc=str(fake_proc)) is None


def test_descriptors_closed_to_us_leave_the_other_figures(child, monkeypatch):
    real_listing = os.listdir

    def refuse(path):
        if str(path).endswith("/fd"):
            raise PermissionError(13, "Permission denied", path)
        return real_listing(path)

    monkeypatch.setattr(procfs, "_size_is_count", lambda: False)
    monkeypatch.setattr(os, "listdir", refuse)
    usage = read_process(child.pid)
    assert usage.open_fds is None
    assert usage.resident_bytes > 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_another_users_process_is_read_all_the_same(child):
    reader = f"""
import os
from shm_metrics.runtime.procfs import read_process
os.setgroups([]), os.setgid(65534), os.setuid(65534)
usage = read_process({child.pid})
assert usage.resident_bytes > 0 and usage.max_fds > 0
assert usage.open_fds is None or usage.open_fds > 0  # whether it is known depends on the kernel
print("read")
"""
    done = subprocess.run([sys.executable, "-c", reader], capture_output=True, text=True, timeout=60)
    assert done.stdout == "read\n", done.stderr


def test_an_unwaited_dead_process_still_has_its_cpu_seconds():
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    process = subprocess.Popen([sys.executable, "-c", burn])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    usage = read_process(process.pid)
    assert usage.cpu_seconds >= 0.15
    assert usage.resident_bytes == 0
    process.wait()


def test_no_boot_time_leaves_the_start_time_open(fake_proc):
    (fake_proc / "stat").unlink()
    assert read_process(1, proc=str(fake_proc)).start_time is None


def test_a_worker_is_known_by_its_pid_and_start_together(child):
    start = read_process(child.pid).start_ticks
    assert read_worker(3, child.pid, "web", start).usage.start_ticks == start
    assert read_worker(3, child.pid, "web").usage is not None
    revived = read_worker(3, child.pid, "web", start - 1)
    assert (revived.row, revived.pid, revived.role, revived.usage) == (3, child.pid, "web", None)


def test_a_child_of_fork_has_a_start_of_its_own(child):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, str(own_start_ticks()).encode())
        os.read(0, 0)
        os._exit(0)
    os.close(writing)
    ticks = int(os.read(reading, 100))
    usage = read_process(pid)  # alive, or dead and not yet waited for: both have it
    os.waitpid(pid, 0)
    os.close(reading)
    assert usage.start_ticks == ticks >= own_start_ticks()


def test_where_there_is_no_proc_the_own_start_is_unknown(tmp_path):
    assert own_start_ticks(proc=str(tmp_path)) == 0
