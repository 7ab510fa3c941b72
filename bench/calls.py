"""The hot path: what one call costs, in nanoseconds."""

from __future__ import annotations

import timeit
from dataclasses import dataclass, field
from typing import Any

from bench.peers import Peer

__all__ = ["BY_NAME", "CALLS", "FLOOR_CALL", "FLOOR_NO_ARGUMENTS", "Call", "CallTimer"]

# The statement stands this often in the loop's body, so that the loop is no part of the figure
# (a round of the bare loop takes up to 8 ns, half of what is measured).
UNROLL = 20


@dataclass(frozen=True)
class Call:
    """One statement, and the objects that it needs: name -> an expression of `peer`."""

    statement: str
    objects: dict[str, str] = field(default_factory=dict)


CALLS = {
    "inc": Call("counter.inc()", {"counter": "peer.Counter('bench_inc_total', 'Calls')"}),
    "labels": Call(
        "counter.labels('GET', '/checkout').inc()",
        {"counter": "peer.Counter('bench_labels_total', 'Calls', ['method', 'path'])"},
    ),
    "labels_keyword": Call(
        "counter.labels(method='GET', path='/checkout').inc()",
        {"counter": "peer.Counter('bench_labels_keyword_total', 'Calls', ['method', 'path'])"},
    ),
    "set": Call("gauge.set(3.5)", {"gauge": "peer.Gauge('bench_depth', 'Calls')"}),
    "observe": Call("histogram.observe(0.2)", {"histogram": "peer.Histogram('bench_seconds', 'Calls')"}),
    "time": Call("with histogram.time():\n    pass", {"histogram": "peer.Histogram('bench_time_seconds', 'Calls')"}),
}

BY_NAME = Call(
    "backend.counter('bench_by_name_total', method='GET', path='/checkout').inc()", {"backend": "peer.backend"}
)
_PAYLOAD = "{'duration': 0.2, 'status': 'success', 'handler_class': 'Mailer', 'namespace': 'shop'}"
EVENT = Call("handle('task.completed', payload)", {"handle": "peer.backend.handle_event", "payload": _PAYLOAD})
# What somebody writes who does without handle_event: the labels where they are present, and what is a number.
EVENT_BY_HAND = Call(
    "status, handler = payload.get('status', ''), payload.get('handler_class', '')\n"
    "namespace = payload.get('namespace', '')\n"
    "counter.labels(status, handler, namespace).inc()\n"
    "duration = payload.get('duration')\n"
    "if isinstance(duration, float):\n"
    "    histogram.labels(status, handler, namespace).observe(duration)",
    {
        "payload": _PAYLOAD,
        "counter": "peer.Counter('bench_event_total', 'Calls', ['status', 'handler', 'namespace'])",
        "histogram": "peer.Histogram('bench_event_seconds', 'Calls', ['status', 'handler', 'namespace'])",
    },
)
FLOOR_CALL = Call("text.expandtabs()", {"text": "''"})
FLOOR_NO_ARGUMENTS = Call("items.clear()", {"items": "[]"})

_ALL = CALLS | {
    "by_name": BY_NAME,
    "event": EVENT,
    "event_by_hand": EVENT_BY_HAND,
    "floor": FLOOR_CALL,
    "floor_no_arguments": FLOOR_NO_ARGUMENTS,
}


class CallTimer:
    """Times statements on one peer; a statement's objects are made once and kept."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._timers: dict[str, timeit.Timer] = {}

    def best(self, key: str, seconds: float, repeat: int) -> float:
        """Nanoseconds a call: the best of `repeat` measurements of about `seconds` each.

        The best, because whatever disturbs a loop makes it slower and nothing makes it faster.
        """
        if key not in self._timers:
            self._timers[key] = self._timer(_ALL[key])
        timer = self._timers[key]
        timer.timeit(10)  # caches and the specialising interpreter warm up
        number = max(1, int(seconds / (timer.timeit(50) / 50)))
        return min(timer.repeat(repeat, number)) / (number * UNROLL) * 1e9

    def _timer(self, call: Call) -> timeit.Timer:
        objects: dict[str, Any] = {
            name: eval(expression, {"peer": self._peer}) for name, expression in call.objects.items()
        }
        # the loop's function gets them as local variables, as the code that a person would write has them
        setup = "\n".join(f"{name} = objects[{name!r}]" for name in objects)
        return timeit.Timer("\n".join([call.statement] * UNROLL), setup, globals={"objects": objects})
