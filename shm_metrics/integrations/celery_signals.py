"""Events from Celery's signals: tasks, out of the box.

    from shm_metrics.integrations import celery_signals
    celery_signals.connect()          # where the Celery application is made; every pool

The events are task.started; task.completed and task.failed with the duration in seconds; task.cancelled for a task that
was revoked or ignored; task.retried and task.rejected, which the default rules ignore. handler_class is the task's
name; `queue` is available for rules of your own.

Which process reports the end of a run:

    it returned, failed, retried, was ignored or rejected     the process that ran it, with the duration
    its child was killed, or left by SystemExit; revoked      the worker, without; the child may get as far as postrun,
                                                              with no state, and must not report it too
    a hard time limit                                         the worker; of prefork, twice
    a child that was killed, and the message requeued         none; the task runs again
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

from shm_metrics.events.emitter import connect_all, emitter, guarded

__all__ = ["connect"]

_ENDS = {"RETRY": "retried", "REJECTED": "rejected", "IGNORED": "cancelled"}
_MOST_TIMED_OUT = 1_000


def connect(*, entity: str = "task", to: Any = None) -> Callable[[], None]:
    """Turn Celery's tasks into events; return a function that disconnects again.

    entity: the first part of the events' names. to: a router, a backend or a callable, as for instrument().
    """
    from celery import signals
    from celery.exceptions import Retry, TimeLimitExceeded, WorkerLostError

    emit = emitter(to)
    began: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
    """When each run under way in this process began. By its request: a task that is retried has one id for its runs."""
    timed_out: dict[Any, None] = {}
    """Ids of tasks whose failure at a hard time limit was reported once, and will be reported again."""

    def fields(task: Any, request: Any = None, **more: Any) -> dict[str, Any]:
        request = getattr(task, "request", None) if request is None else request
        delivery = getattr(request, "delivery_info", None) or {}
        return {"handler_class": getattr(task, "name", None), "queue": delivery.get("routing_key"), **more}

    def since(task: Any) -> float | None:
        start = began.pop(task.request, None)
        return None if start is None else perf_counter() - start

    @guarded
    def started(sender: Any = None, task_id: Any = None, task: Any = None, **_: Any) -> None:
        began[task.request] = perf_counter()
        timed_out.pop(task_id, None)  # of an earlier run in a pool of one process, which is reported only once
        emit(f"{entity}.started", fields(task))

    @guarded
    def succeeded(sender: Any = None, **_: Any) -> None:
        emit(f"{entity}.completed", fields(sender, duration=since(sender), status="success"))

    @guarded
    def failed(sender: Any = None, task_id: Any = None, exception: Any = None, **_: Any) -> None:
        duration = since(sender)
        if isinstance(exception, TimeLimitExceeded | WorkerLostError) and timed_out.pop(task_id, 0) is None:
            return
        if isinstance(exception, TimeLimitExceeded):
            if len(timed_out) >= _MOST_TIMED_OUT:
                timed_out.clear()
            timed_out[task_id] = None
        emit(f"{entity}.failed", fields(sender, duration=duration, status="error"))

    @guarded
    def ended(sender: Any = None, task: Any = None, state: Any = None, **_: Any) -> None:
        duration = since(task)
        if duration is None:
            return  # it succeeded or failed
        how, error = _ENDS.get(str(state)), sys.exc_info()[1]
        if how is None and isinstance(error, Retry):  # of a task that is run where it was called, and raises there
            how, state = "retried", "RETRY"
        elif how is None and (task.request.is_eager or (isinstance(error, SystemExit) and not _in_a_child())):
            how, state = "failed", "error"
        if how is not None:
            emit(f"{entity}.{how}", fields(task, duration=duration, status=str(state).lower()))

    @guarded
    def revoked(sender: Any = None, request: Any = None, **_: Any) -> None:
        emit(f"{entity}.cancelled", fields(sender, request, status="revoked"))

    pairs = (
        (signals.task_prerun, started),
        (signals.task_success, succeeded),
        (signals.task_failure, failed),
        (signals.task_postrun, ended),
        (signals.task_revoked, revoked),
    )
    return connect_all(pairs)


def _in_a_child() -> bool:
    """Whether this is a child of the pool `prefork`, whose worker reports its loss."""
    billiard: Any = sys.modules.get("billiard")
    return billiard is not None and billiard.current_process().name != "MainProcess"
