"""The public names as a user with a strict type checker writes them; mypy and pyright read it, and a test runs it."""

from __future__ import annotations

from collections.abc import Iterable

from shm_metrics import (
    Counter,
    Enum,
    EventMapping,
    EventRouter,
    EventRule,
    Gauge,
    Histogram,
    Info,
    MetricsBackend,
    Sample,
    SampleFamily,
    Snapshot,
    Summary,
    configure,
    generate_latest,
    get_backend,
    instrument,
    make_asgi_app,
    make_wsgi_app,
)
from shm_metrics.events import counts, observes


def declared(backend: MetricsBackend) -> float:
    jobs = Counter("jobs", "Jobs done.", ["shop"], namespace="app", registry=backend)
    of_one_shop: Counter = jobs.labels("a")
    jobs.labels(shop="b").inc(2)
    of_one_shop.inc()
    of_one_shop.inc(1, exemplar={"trace_id": "a"})
    kept = of_one_shop.exemplar()
    trace: str = "" if kept is None else kept.labels["trace_id"]
    assert trace == "a"
    of_one_shop.reset()
    total: float = of_one_shop.value
    with of_one_shop.count_exceptions(ValueError):
        pass

    depth = Gauge("depth", "Jobs waiting.", multiprocess_mode="livesum", registry=backend)
    depth.set(3)
    depth.inc()
    depth.dec(0.5)
    depth.set_to_current_time()
    depth.set_function(lambda: 1.5)

    seconds = Histogram("wait", "Seconds.", ("shop",), unit="seconds", buckets=[0.1, 1, 10], registry=backend)
    with seconds.labels("a").time():
        pass
    seconds.labels("a").observe(0.25)
    seconds.labels("a").observe(0.25, {"trace_id": "b"})
    with seconds.time() as timer:
        timer.labels("b")
    took: float | None = timer.duration
    assert took is not None
    size = Summary("size", "Bytes.", registry=backend)
    size.observe(10)
    total += size.sum + size.count

    @size.time()
    def work(n: int) -> str:
        return "x" * n

    @depth.track_inprogress()
    async def later(n: int) -> str:
        return work(n)

    text: str = work(3)
    total += len(text)
    for number, names in enumerate(({"shop"}, {"shop": 1}, frozenset(["shop"]))):
        Counter(f"of_{number}", "", names, registry=backend)
    Gauge("of_any", "", (name for name in ["shop"]), registry=backend)
    Info("build", "What runs.", registry=backend).info({"version": "1"})
    last = Gauge("last_seconds", "Seconds.", ["of"], registry=backend)
    with last.time() as timing:
        timing.labels(of="a")
    light = Enum("light", "Where we are.", states=["red", "green"], registry=backend)
    light.state("green")
    state: str = light.value
    jobs.remove("a")
    jobs.remove_by_labels({"shop": "b"})
    jobs.clear()
    return total + len(state)


def asked_for(backend: MetricsBackend) -> float:
    backend.counter("visits", "Visits.", shop="a", code=200).increment()
    backend.gauge("level", multiprocess_mode="max").set(7)
    backend.histogram("latency", buckets=(0.1, 1.0), unit="seconds", path="/a").observe(0.2)
    backend.summary("answer_bytes").observe(10)
    return backend.counter("visits", shop="a", code=200).value


def read(backend: MetricsBackend) -> float | None:
    snapshot: Snapshot = backend.snapshot()
    names: list[str] = [found.family.name for found in snapshot]
    page: bytes = generate_latest(backend, openmetrics=True)
    keys: list[str] = list(backend.all_metrics())
    assert len(names) + len(keys) <= len(page)
    return snapshot.value("visits", shop="a", code="200")


def queue_sizes() -> Iterable[SampleFamily]:
    yield SampleFamily("queue", "Jobs in it.", "gauge", [Sample("queue", {"name": "mail"}, 3.0)])


def served(backend: MetricsBackend) -> None:
    backend.register_collector(queue_sizes)
    make_wsgi_app(backend)
    make_asgi_app(backend)
    assert b"queue" in generate_latest(backend)


def published(backend: MetricsBackend) -> None:
    backend.event_rules.add(EventRule("order.*", [counts("orders_total"), observes("kg", "weight")], ["carrier"]))
    counted: bool = backend.handle_event("order.shipped", {"weight": 1.5, "carrier": "bike"})
    assert counted
    router = EventRouter(["metrics"])
    backend.register_event_router(router)
    router.map("task.*", ["metrics"], sampling_rate=1.0)
    router.configure([EventMapping("tick", priority=1)])
    took: list[str] = router.route("task.started")
    assert took == ["metrics"]

    @instrument("task", to=router, handler_class="Mailer")
    def halved(number: int) -> float:
        return number / 2

    half: float = halved(3)
    with instrument("task", to=router):
        assert half == 1.5


def default(name: str) -> bool:
    return configure(name, rows=16, slots=4096) is get_backend()


class Metered(Counter):
    def twice(self) -> None:
        self.inc()
        self.inc()
