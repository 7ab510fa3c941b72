"""Real processes for tests: forked children that talk over a pipe, and scripts in a fresh interpreter.

Nothing here sleeps to synchronise. Time-outs guard against hangs only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)  # loaded here: a child forked among threads had better not
PATIENCE = 60.0  # seconds after which something that should have come counts as hung


class Child:
    """A forked child that runs `work(link, *args)`; `link` is a Connection to this object."""

    def __init__(self, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.link, theirs = Pipe()
        self.status: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self.link.close()
            _run(theirs, work, args)
        theirs.close()

    def say(self, message: Any = None) -> None:
        self.link.send(message)

    def hear(self) -> Any:
        """What the child sends next. Raises AssertionError with its traceback, or when it died or hangs."""
        if not self.link.poll(PATIENCE):
            self.kill()
            raise AssertionError(f"child {self.pid} hangs")
        try:
            what, value = self.link.recv()
        except (EOFError, ConnectionResetError):
            raise AssertionError(f"child {self.pid} died: {describe(self.wait())}") from None
        if what == "error":
            raise AssertionError(f"child {self.pid} failed:\n{value}")
        return value

    def result(self) -> Any:
        """What `work` returned, once the child is gone."""
        value = self.hear()
        assert self.wait() == 0
        return value

    def wait(self) -> int:
        """Wait for its end: the exit status, or minus the signal."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.link.close()
        return self.status

    def kill(self, signum: int = signal.SIGKILL) -> int:
        if self.status is None:
            os.kill(self.pid, signum)
        return self.wait()


class Link:
    """The child's end."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def say(self, value: Any = None) -> None:
        self.connection.send(("ok", value))

    def hear(self) -> Any:
        if not self.connection.poll(PATIENCE):
            raise AssertionError("the parent says nothing")
        return self.connection.recv()


def _run(connection: Connection, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    status = 1
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a test that fails leaves nobody behind
    try:
        link = Link(connection)
        link.say(work(link, *args))
        status = 0
    except BaseException:
        connection.send(("error", traceback.format_exc()))
    finally:
        os._exit(status)


def die() -> None:
    """End this process at once, with nothing run on the way."""
    os.kill(os.getpid(), signal.SIGKILL)


def describe(status: int) -> str:
    return f"exit status {status}" if status >= 0 else signal.Signals(-status).name


def interpreter(interpreted: bool | None = None, **variables: str) -> dict[str, str]:
    """The environment of a fresh interpreter; interpreted: which build it takes, None for the one of this run."""
    told = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    if interpreted is not None:
        told["SHM_METRICS_INTERPRETED"] = "1" if interpreted else "0"
    return told


def run(code: str, *args: str, interpreted: bool | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter, to its end."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        env=interpreter(interpreted, **variables),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def run_well(code: str, *args: str, interpreted: bool | None = None, **variables: str) -> str:
    """What `code` printed; fails when it does not end with status 0."""
    done = run(code, *args, interpreted=interpreted, **variables)
    assert done.returncode == 0, f"{describe(done.returncode)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def start_module(module: str, *args: str, interpreted: bool | None = None) -> subprocess.Popen[str]:
    """Start `python -m module` with its output in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *args],
        env=interpreter(interpreted),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
