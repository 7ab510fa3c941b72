"""A real gunicorn as a child process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

__all__ = ["Gunicorn"]

CONF = Path(__file__).with_name("gunicorn_conf.py")
STOP_SECONDS = 20.0
BACKLOG = 512
_BOOTED = re.compile(rb"Booting worker with pid: (\d+)")


class Gunicorn:
    """gunicorn on a free port of 127.0.0.1, until close().

    The socket listens before gunicorn has it, so a client may connect at once: nobody needs to ask when it is ready.

    app: module:name. segment: what SHM_METRICS_SEGMENT says to it. directory: for its log; the log is `gunicorn.log`.
    conf: its configuration file. environ: variables on top of this process' own.
    """

    def __init__(
        self,
        app: str,
        segment: str,
        directory: Path,
        *,
        conf: Path = CONF,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.log = directory / "gunicorn.log"
        with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listening, open(self.log, "wb") as log:
            self.port: int = listening.getsockname()[1]
            self.process = subprocess.Popen(
                self.command(listening.fileno(), app, conf),
                env={**os.environ, **(environ or {}), "SHM_METRICS_SEGMENT": segment},
                pass_fds=[listening.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is ours to handle: gunicorn is told to stop when we know what we want of it.
                start_new_session=True,
            )

    def command(self, listening: int, app: str, conf: Path) -> list[str]:
        """What to run. listening: the descriptor of the socket."""
        # Not `python -m gunicorn` where there is a choice: at USR2 that runs gunicorn/__main__.py as a script, with
        # gunicorn's own `http` in front of the standard library's.
        script = Path(sys.executable).with_name("gunicorn")
        program = [str(script)] if script.exists() else [sys.executable, "-m", "gunicorn"]
        return [*program, "--config", str(conf), "--bind", f"fd://{listening}", app]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log_end(self, lines: int = 20) -> str:
        """The last lines of gunicorn's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def booted(self) -> list[int]:
        """The pids of all workers that were ever started."""
        return [int(pid) for pid in _BOOTED.findall(self.log.read_bytes())]

    def workers(self) -> list[int]:
        """The pids of the workers that live now."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in children]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        """Stop it and wait. One that does not end is killed, and its workers with it."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End it at once, and its workers with it."""
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()

    def __enter__(self) -> Gunicorn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
