"""A worker of a segment as a process of its own: its agent runs by itself, and it says through pipes what happened.

Worker is the test's side. The process' side is main(): it reads commands, a line each, and writes events, a line of
JSON each, every one with `at`, the monotonic clock that all processes of a machine share.

    held        token                           the segment's lease is ours
    published   token, sequence                 the cache has accepted a blob
    refused     token, sequence, error          the cache has refused one
    lost                                        a renewal was denied
    done        result                          a command has been carried out
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Event", "Worker"]

Event = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30.0  # nothing takes so long: a guard


class Worker:
    """One process on the segment at `path`. options: SyncConfig's. Ready when made."""

    def __init__(self, path: Path, cache: str, **options: Any) -> None:
        told = json.dumps({"path": str(path), "cache": cache, "options": options})
        places = [str(ROOT), *filter(None, sys.path)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.cluster_worker", told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
            cwd=ROOT,
        )
        self.pid = self._process.pid
        self._new: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self.events: list[Event] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    # -- what it says ---------------------------------------------------------------------------------------------

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):  # a last line may be cut by SIGKILL
                self._new.put(json.loads(line))
        self._new.put(None)

    def drain(self) -> list[Event]:
        """All events so far."""
        while not self._new.empty():
            event = self._new.get()
            if event is not None:
                self.events.append(event)
        return self.events

    def wait(self, name: str, seconds: float = SECONDS, **like: Any) -> Event:
        """The next event of this name from now on."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                event = self._new.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {name} within {seconds} s; {self.events[-5:]}") from None
            assert event is not None, f"the worker has ended; it said {self.events[-5:]}"
            self.events.append(event)
            if event["event"] == name and like.items() <= event.items():
                return event

    def since(self, at: float, name: str) -> list[Event]:
        return [event for event in self.drain() if event["event"] == name and event["at"] >= at]

    # -- what it is told ------------------------------------------------------------------------------------------

    def ask(self, command: str, *arguments: Any) -> Any:
        """Carry out a command; its result."""
        self.tell(command, *arguments)
        return self.wait("done", command=command)["result"]

    def tell(self, command: str, *arguments: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, *arguments]).encode() + b"\n")
        self._process.stdin.flush()

    # -- what is done to it ---------------------------------------------------------------------------------------

    def kill(self) -> float:
        """SIGKILL; when it was sure to be dead."""
        self._process.kill()
        self._process.wait(SECONDS)
        at = time.monotonic()
        self._reader.join(SECONDS)
        return at

    def pause(self) -> float:
        """SIGSTOP; when it stood still."""
        os.kill(self.pid, signal.SIGSTOP)
        return self.wait_stopped()

    def wait_stopped(self) -> float:
        """When it stopped itself."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), status
        return time.monotonic()

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def exit(self) -> int:
        """It returns from main(), as a program that ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(SECONDS)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(SECONDS)
        self._reader.join(SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass


# -- the process' side ------------------------------------------------------------------------------------------------


class _Side:
    def __init__(self, path: str, cache: str, options: dict[str, Any]) -> None:
        from shm_metrics import MetricsBackend

        self._saying = threading.Lock()
        ours = {name: options.pop(name) for name in ("interval", "namespace") if name in options}
        self.backend = MetricsBackend(
            path=path,
            rows=64,
            slots=2048,
            process_metrics=False,
            cache=cache,
            sync_interval=ours["interval"],
            namespace=ours["namespace"],
            sync_options=options,
        )
        self.counter = self.backend.counter("orders")
        self.agent = self.backend.sync_agent
        self.stop_before_publish = False
        self.last_grant: Any = None
        self._watch()

    def say(self, event: str, **told: Any) -> None:
        line = json.dumps({"event": event, "at": time.monotonic(), "pid": os.getpid(), **told}) + "\n"
        with self._saying:
            os.write(1, line.encode())

    def _watch(self) -> None:
        """Tell of every answer of the cache; nothing else about the store changes."""
        from shm_metrics.cluster.stores.protocol import CLUSTER, Grant
        from shm_metrics.errors import LockLostError

        store: Any = self.agent.store
        acquire, publish, renew = store.acquire, store.publish, store.renew

        def watched_acquire(scope: str, owner: str, ttl: float) -> Any:
            answer = acquire(scope, owner, ttl)
            if isinstance(answer, Grant) and scope != CLUSTER:
                self.last_grant = answer
                self.say("held", token=answer.token)
            return answer

        def watched_publish(grant: Any, instance: str, blob: bytes, sequence: int, ttl: float) -> None:
            if self.stop_before_publish:
                self.stop_before_publish = False
                # To this thread: sent to the process another thread may take it, and this one goes on for a moment.
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            try:
                publish(grant, instance, blob, sequence, ttl)
            except LockLostError as error:
                self.say("refused", token=grant.token, sequence=sequence, error=str(error))
                raise
            self.say("published", token=grant.token, sequence=sequence)

        def watched_renew(grant: Any, ttl: float) -> bool:
            renewed: bool = renew(grant, ttl)
            if not renewed and grant.scope != CLUSTER:
                self.say("lost", token=grant.token)
            return renewed

        store.acquire, store.publish, store.renew = watched_acquire, watched_publish, watched_renew

    # -- commands -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.backend.start_sync()

    def inc(self, amount: float) -> None:
        self.counter.inc(amount)

    def sync(self) -> Any:
        return self.backend.sync_to_cache()

    def total(self) -> Any:
        return self.agent.view().value("orders")

    def stop_at_next_publish(self) -> None:
        self.stop_before_publish = True

    def release_last_grant(self) -> bool:
        """Not through the lease, which knows better: what a leader that has missed everything would send."""
        return self.agent.store.release(self.last_grant)

    def publish_with_last_grant(self) -> str:
        """Likewise."""
        from shm_metrics.errors import LockLostError

        try:
            blob = self.agent.store.fetch([self.backend.instance_id])[self.backend.instance_id]
            self.agent.store.publish(self.last_grant, self.backend.instance_id, blob, time.time_ns() + 10**12, 5.0)
        except LockLostError as error:
            return f"refused: {error}"
        return "accepted"

    def port(self) -> int | None:
        return self.agent.endpoint.port

    def stop(self) -> float:
        began = time.monotonic()
        self.backend.close()
        return time.monotonic() - began

    def told(self) -> Any:
        return {"failed": self.agent.failed, "error": self.agent.last_error}


def main() -> None:
    told = json.loads(sys.argv[1])
    side = _Side(**told)
    pending = b""
    while True:
        select.select([0], [], [])
        data = os.read(0, 1 << 16)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            command, *arguments = json.loads(line)
            call: Callable[..., Any] = getattr(side, command)
            side.say("done", command=command, result=call(*arguments))


if __name__ == "__main__":
    main()
