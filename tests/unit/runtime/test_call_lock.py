"""A lock between threads that a call has: free as soon as that call has ended, however it ended."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from shm_metrics.runtime.call_lock import BusyCallError, CallLock, NestedCallError, ReentrantCallLock


def hold_without_release(lock):
    """A call that takes the lock, and ends without giving it back: an exception came between the two."""
    lock.acquire(sys._getframe())


@pytest.fixture
def in_thread():
    """in_thread(work): run it in another thread; all of them are joined at the end, and none may fail."""
    threads, failures = [], []

    def start(work):
        def run():
            try:
                work()
            except BaseException as error:
                failures.append(error)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return threads[-1]

    yield start
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failures == []


def test_work_gets_its_arguments_and_its_result_comes_back():
    lock = CallLock()
    assert lock.run(lambda one, other: (one, other, lock.holder is not None), 1, 2) == (1, 2, True)
    assert lock.holder is None


def test_threads_take_turns(in_thread):
    lock, inside, total = CallLock(), [], [0]
    start = threading.Barrier(6)

    def critical():
        inside.append(1)
        assert len(inside) == 1
        before = total[0]
        if before % 50 == 0:
            time.sleep(1e-4)
        total[0] = before + 1
        inside.pop()

    def work():
        start.wait(30)
        for _ in range(500):
            lock.run(critical)

    threads = [in_thread(work) for _ in range(6)]
    for thread in threads:
        thread.join(60)
    assert total == [3000]
    assert lock.holder is None


def test_a_call_on_top_of_the_one_that_holds_it_is_refused_and_takes_nothing():
    lock = CallLock()

    def inner():
        with pytest.raises(NestedCallError):
            lock.run(lambda: None)
        return lock.holder

    holder = lock.run(inner)
    assert holder is not None
    assert lock.holder is None


def test_a_deep_call_on_top_is_refused_too():
    lock = CallLock()

    def deep(n):
        return deep(n - 1) if n else lock.run(lambda: None)

    with pytest.raises(NestedCallError):
        lock.run(deep, 50)
    assert lock.holder is None


def test_an_exception_gives_it_back():
    lock = CallLock()
    for error in (ValueError, KeyboardInterrupt, SystemExit):

        def fail(error=error):
            raise error

        with pytest.raises(error):
            lock.run(fail)
        assert lock.holder is None
    assert lock.run(lambda: 7) == 7


def test_a_holder_that_ended_without_a_release_is_taken_over():
    lock = CallLock()
    hold_without_release(lock)
    assert lock.holder is not None
    assert lock.run(lambda: 7) == 7
    assert lock.holder is None


def test_a_holder_that_ended_in_another_thread_is_taken_over(in_thread):
    lock = CallLock()
    in_thread(lambda: hold_without_release(lock)).join(60)
    assert lock.holder is not None
    assert lock.run(lambda: 7) == 7


def test_a_holder_that_ended_is_taken_over_by_one_of_those_who_wait(in_thread):
    lock, start, seen = CallLock(), threading.Barrier(4), []
    hold_without_release(lock)

    def work():
        start.wait(30)
        lock.run(lambda: (seen.append(1), time.sleep(0.002), seen.append(-1)))

    for thread in [in_thread(work) for _ in range(4)]:
        thread.join(60)
    assert seen == [1, -1] * 4


def test_a_poison_goes_with_the_call_that_ended():
    lock = CallLock()
    hold_without_release(lock)
    lock.poisoned = True
    assert lock.run(lambda: lock.poisoned) is False


def test_a_release_of_a_call_that_does_not_hold_it_changes_nothing():
    lock = CallLock()

    def inner():
        holder = lock.holder
        lock.release(sys._getframe())
        assert lock.holder is holder

    lock.run(inner)
    assert lock.holder is None


def test_a_call_that_raises_between_its_end_and_its_release_leaves_the_lock_free(monkeypatch):
    """As a signal handler does, at any place; here it comes in at the first release."""
    lock, real, refused = CallLock(), CallLock.release, []

    def release(self, frame):
        if not refused:
            refused.append(1)
            raise KeyboardInterrupt
        real(self, frame)

    monkeypatch.setattr(CallLock, "release", release)
    with pytest.raises(KeyboardInterrupt):
        lock.run(lambda: None)
    assert lock.holder is None


def test_another_thread_waits_for_a_call_that_is_still_under_way(in_thread):
    lock, inside, go_on, order = CallLock(), threading.Event(), threading.Event(), []

    def hold():
        inside.set()
        assert go_on.wait(30)
        time.sleep(0.02)
        order.append("first")

    in_thread(lambda: lock.run(hold))
    assert inside.wait(30)
    waiting = in_thread(lambda: lock.run(order.append, "second"))
    time.sleep(0.02)
    assert order == []
    go_on.set()
    waiting.join(60)
    assert order == ["first", "second"]


# -- fork --------------------------------------------------------------------------------------------------------------


def in_child(work):
    """What `work` returns in a forked child: True or False."""
    pid = os.fork()
    if not pid:
        code = 2
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 1)
    return code == 0


def test_a_child_frees_a_lock_that_another_thread_of_its_parent_has(in_thread):
    lock, inside, go_on = CallLock(), threading.Event(), threading.Event()

    def hold():
        inside.set()
        assert go_on.wait(30)

    holding = in_thread(lambda: lock.run(hold))
    assert inside.wait(30)

    def child():
        lock.renew()
        return lock.holder is None and not lock.poisoned and lock.run(lambda: True)

    freed = in_child(child)
    go_on.set()
    holding.join(60)
    assert freed
    assert lock.run(lambda: True)


def test_a_child_on_top_of_the_call_is_poisoned_until_it_has_left_that_call():
    """The fork came in a signal handler or a __del__: the child returns into what its parent goes on with."""
    lock = CallLock()

    def work():
        pid = os.fork()
        if pid:
            return pid
        lock.renew()
        return 0 if lock.poisoned and lock.holder is not None else -1

    before = os.getpid()
    try:
        found = lock.run(work)
        if os.getpid() != before:
            left = lock.holder is None and not lock.poisoned
            os._exit(0 if found == 0 and left and lock.run(lambda: True) else 1)
    finally:
        if os.getpid() != before:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(found, 0)[1]) == 0
    assert not lock.poisoned


def test_renewing_a_lock_that_nobody_has_changes_nothing():
    lock = CallLock()
    lock.renew()
    assert lock.holder is None
    assert not lock.poisoned


def test_an_impatient_lock_refuses_while_another_thread_has_it():
    lock, inside, leave = CallLock(patient=False), threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        leave.wait(10)

    thread = threading.Thread(target=lock.run, args=(hold,))
    thread.start()
    inside.wait(10)
    with pytest.raises(BusyCallError):
        lock.run(lambda: None)
    leave.set()
    thread.join()
    assert lock.run(lambda: 7) == 7


def test_a_reentrant_lock_lets_calls_pass_on_top_of_the_one_that_holds_it():
    lock = ReentrantCallLock()
    assert lock.run(lambda: lock.run(lambda: 7)) == 7
    assert lock.holder is None
