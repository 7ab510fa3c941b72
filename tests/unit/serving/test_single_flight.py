"""Who runs, who waits, and what nobody waits for in vain."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from shm_metrics.serving.single_flight import InterruptedFlightError, SingleFlight


class Work:
    """Work that is held until `gate` is set, and counts its runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.began = threading.Event()
        self.gate = threading.Event()

    def __call__(self) -> int:
        self.runs += 1
        run = self.runs
        self.began.set()
        assert self.gate.wait(30)
        return run


def test_callers_that_come_while_the_work_runs_share_its_one_run(watch_boarding, patience):
    flights, work = SingleFlight(), Work()
    all_aboard = watch_boarding(flights, 50)
    with ThreadPoolExecutor(50) as pool:
        results = [pool.submit(flights.do, "key", work) for _ in range(50)]
        assert all_aboard.wait(patience)
        work.gate.set()
        assert [result.result(patience) for result in results] == [1] * 50
    assert work.runs == 1


def test_a_caller_that_comes_after_the_result_starts_a_run_of_its_own():
    flights, work = SingleFlight(), Work()
    work.gate.set()
    assert [flights.do("key", work) for _ in range(3)] == [1, 2, 3]


def test_who_calls_once_a_result_is_out_is_not_given_that_result(patience):
    flights, again = SingleFlight(), []

    with ThreadPoolExecutor(1) as pool:

        def call_again(outcome: object) -> None:
            again.append(pool.submit(flights.do, "key", lambda: "new").result(patience))

        def work() -> str:
            flights._flights["key"].outcome.add_done_callback(call_again)
            return "old"

        assert flights.do("key", work) == "old"
    assert again == ["new"]


def test_callers_of_different_keys_do_not_wait_for_each_other(patience):
    flights, work = SingleFlight(), Work()
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(flights.do, "one", work)
        assert work.began.wait(patience)
        assert flights.do("other", lambda: "at once") == "at once"
        work.gate.set()
        assert held.result(patience) == 1


def test_an_exception_goes_to_everybody_on_board_and_to_nobody_after(watch_boarding, patience):
    flights = SingleFlight()
    all_aboard = watch_boarding(flights, 8)

    def fail() -> None:
        assert all_aboard.wait(patience)
        raise LookupError("no such table")

    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(flights.do, "key", fail) for _ in range(8)]
        for result in results:
            with pytest.raises(LookupError, match="no such table"):
                result.result(patience)
    assert flights.do("key", lambda: "well again") == "well again"


def test_an_exit_meant_for_the_running_thread_does_not_end_the_waiting_ones(watch_boarding, patience):
    flights = SingleFlight()
    all_aboard = watch_boarding(flights, 2)
    began = threading.Event()

    def interrupted() -> None:
        began.set()
        assert all_aboard.wait(patience)
        raise SystemExit(3)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(flights.do, "key", interrupted)
        assert began.wait(patience)
        second = pool.submit(flights.do, "key", interrupted)
        with pytest.raises(SystemExit):
            first.result(patience)
        with pytest.raises(InterruptedFlightError, match=r"SystemExit\(3\)"):
            second.result(patience)


def test_work_that_asks_for_its_own_key_does_not_wait_for_itself():
    flights = SingleFlight()
    assert flights.do("key", lambda: [flights.do("key", lambda: "inner")]) == ["inner"]


def test_async_work_that_asks_for_its_own_key_does_not_wait_for_itself(patience):
    flights = SingleFlight()

    async def main() -> list[str]:
        call = flights.do_async("key", lambda: [flights.do("key", lambda: "inner")])
        return await asyncio.wait_for(call, patience)

    assert asyncio.run(main()) == ["inner"]


def test_tasks_and_threads_share_one_run_and_the_loop_goes_on_meanwhile(watch_boarding, patience):
    flights, work = SingleFlight(), Work()
    all_aboard = watch_boarding(flights, 21)

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(flights.do_async("key", work)) for _ in range(20)]
        thread = loop.run_in_executor(None, flights.do, "key", work)
        # The loop itself opens the gate: were it held by the work, this would never end.
        await loop.run_in_executor(None, all_aboard.wait, patience)
        work.gate.set()
        return await asyncio.wait_for(asyncio.gather(*tasks, thread), patience)

    assert asyncio.run(main()) == [1] * 21


def test_a_cancelled_task_does_not_take_the_result_from_the_others(watch_boarding, patience):
    flights, work = SingleFlight(), Work()
    all_aboard = watch_boarding(flights, 3)

    async def main() -> list[object]:
        tasks = [asyncio.create_task(flights.do_async("key", work)) for _ in range(3)]
        await asyncio.get_running_loop().run_in_executor(None, all_aboard.wait, patience)
        tasks[0].cancel()
        tasks[1].cancel()
        await asyncio.wait(tasks[:2])
        work.gate.set()
        return [tasks[0].cancelled(), tasks[1].cancelled(), await asyncio.wait_for(tasks[2], patience)]

    assert asyncio.run(main()) == [True, True, 1]


def test_no_thread_to_be_had_is_an_error_and_not_a_flight_that_never_lands(monkeypatch):
    flights = SingleFlight()

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            asyncio.run(flights.do_async("key", lambda: 1))
    assert flights.do("key", lambda: 2) == 2


def test_a_child_forked_during_a_run_does_not_wait_for_the_parents_thread(patience):
    flights, work = SingleFlight(), Work()
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(flights.do, "key", work)
        assert work.began.wait(patience)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, flights.do("key", lambda: b"the child's own"))
            os._exit(0)
        os.close(writing)
        try:
            ready, _, _ = select.select([reading], [], [], patience)
            assert ready
            assert os.read(reading, 100) == b"the child's own"
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
            os.close(reading)
            work.gate.set()
        assert held.result(patience) == 1


def test_a_child_forked_by_the_work_itself_lands_only_its_own_flight(patience):
    flights = SingleFlight()
    reading, writing = os.pipe()

    def fork_inside() -> str:
        child = os.fork()
        if child == 0:
            return "child"
        os.waitpid(child, 0)
        return "parent"

    result = flights.do("key", fork_inside)
    if result == "child":
        os.write(writing, flights.do("key", lambda: b"alive"))
        os._exit(0)
    os.close(writing)
    assert os.read(reading, 100) == b"alive"
    os.close(reading)
    assert result == "parent"


@pytest.mark.parametrize("order", ["patched first", "imported first"])
def test_greenlets_share_one_run_whenever_gevent_patches(order, patience):
    patch = "from gevent import monkey; monkey.patch_all()"
    imports = "from shm_metrics.serving.single_flight import SingleFlight; flights = SingleFlight()"
    first, second = (patch, imports) if order == "patched first" else (imports, patch)
    script = f"""
        {first}
        {second}
        import gevent, gevent.event
        gate, runs = gevent.event.Event(), []
        def work():
            runs.append(1)
            gate.wait()
            return len(runs)
        greenlets = [gevent.spawn(flights.do, "key", work) for _ in range(50)]
        gevent.idle()          # every greenlet has run until it waits
        gate.set()
        gevent.joinall(greenlets, raise_error=True)
        print(sum(g.value for g in greenlets), len(runs))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=patience
    )
    assert done.stdout.split() == ["50", "1"], done.stderr
