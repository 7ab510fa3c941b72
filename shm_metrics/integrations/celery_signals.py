"""Events from Celery's signals: tasks, out of the box.

    from shm_metrics.integrations import celery_signals
    celery_signals.connect()          # where the Celery application is made; every pool

task.started; task.completed and task.failed with the duration; task.cancelled for one that was revoked or ignored;
task.retried and task.rejected, which the default rules leave alone. handler_class is the task's name; `queue` is there
for rules of your own.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from shm_metrics.events.publishing import emitter, guarded

__all__ = ["connect"]


def connect(*, entity: str = "task", to: Any = None) -> Callable[[], None]:
    """Have tasks be events; gives a function that disconnects again. to: as instrument() has it."""
    from celery import signals

    emit = emitter(to)
    began: dict[str, float] = {}
    """When each task under way in this process began."""

    def fields(task: Any, **more: Any) -> dict[str, Any]:
        told = getattr(getattr(task, "request", None), "delivery_info", None) or {}
        return {"handler_class": getattr(task, "name", None), "queue": told.get("routing_key"), **more}

    def since(task_id: Any) -> float | None:
        start = began.pop(task_id, None)
        return None if start is None else perf_counter() - start

    @guarded
    def started(sender: Any = None, task_id: Any = None, task: Any = None, **_: Any) -> None:
        began[task_id] = perf_counter()
        emit(f"{entity}.started", fields(task))

    @guarded
    def succeeded(sender: Any = None, **_: Any) -> None:
        duration = since(sender.request.id)
        emit(f"{entity}.completed", fields(sender, duration=duration, status="success"))

    @guarded
    def failed(sender: Any = None, task_id: Any = None, **_: Any) -> None:
        # Also sent by the worker itself for a child that was killed; when it began is not known there.
        emit(f"{entity}.failed", fields(sender, duration=since(task_id), status="error"))

    @guarded
    def ended(sender: Any = None, task_id: Any = None, task: Any = None, state: Any = None, **_: Any) -> None:
        duration = since(task_id)
        if duration is not None:  # it neither succeeded nor failed
            how = {"RETRY": "retried", "REJECTED": "rejected"}.get(str(state), "cancelled")
            emit(f"{entity}.{how}", fields(task, duration=duration, status=str(state).lower()))

    @guarded
    def revoked(sender: Any = None, **_: Any) -> None:
        emit(f"{entity}.cancelled", fields(sender, status="revoked"))

    pairs = (
        (signals.task_prerun, started),
        (signals.task_success, succeeded),
        (signals.task_failure, failed),
        (signals.task_postrun, ended),
        (signals.task_revoked, revoked),
    )
    for signal, receive in pairs:
        signal.connect(receive, weak=False)

    def disconnect() -> None:
        for signal, receive in pairs:
            signal.disconnect(receive)

    return disconnect
