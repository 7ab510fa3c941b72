"""What is removed counts from exactly 0, whatever was counted before; totals are exact as far as floats can be."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shm_metrics import Counter, MetricsBackend
from tests.support.processes import Child, Link

SEED = 7


def page(backend: MetricsBackend, name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Label pairs -> value, of all samples of this name on the page."""
    families = text_string_to_metric_families(backend.export_as("text").decode())
    samples = [sample for family in families for sample in family.samples]
    return {tuple(sorted(sample.labels.items())): sample.value for sample in samples if sample.name == name}


def count_fractions(link: Link, path: str, seed: int) -> None:
    backend = MetricsBackend(path=path, process_metrics=False)
    money = Counter("money", "", ["shop"], registry=backend)
    chance = random.Random(seed)
    for _ in range(200):
        money.labels("berlin").inc(chance.random())
        money.labels("rome").inc(0.1)
    link.say("counted")
    link.hear()
    money.labels("berlin").inc(0.25)
    backend.close()


@pytest.mark.parametrize("how", ["remove", "clear", "reset"])
def test_fractions_of_many_workers_leave_exactly_0_when_they_are_removed(
    how: str, attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    money = Counter("money", "", ["shop"], registry=backend)
    children = [fork(count_fractions, backend.place.path, SEED + n) for n in range(6)]
    assert [child.hear() for child in children] == ["counted"] * 6
    assert money.labels("berlin").value == page(backend, "money_total")[("shop", "berlin"),]
    if how == "clear":
        money.clear()
    else:
        for shop in ("berlin", "rome"):
            money.remove(shop) if how == "remove" else money.labels(shop).reset()
    zeros = {(("shop", "berlin"),): 0.0, (("shop", "rome"),): 0.0}
    assert page(backend, "money_total") == (zeros if how == "reset" else {})
    assert money.labels("berlin").value == money.labels("rome").value == 0.0
    assert page(backend, "money_total") == zeros
    for number, child in enumerate(children, 1):
        child.say("go on")
        assert child.result() is None
        assert money.labels("berlin").value == page(backend, "money_total")[("shop", "berlin"),] == 0.25 * number
    assert money.labels("rome").value == 0.0


def test_a_value_and_the_page_agree_to_the_last_bit_over_many_rows(attach: Callable[..., MetricsBackend]) -> None:
    chance = random.Random(SEED)
    first = attach()
    workers = [first, *(first.another_worker() for _ in range(11))]
    money = [Counter("money", "", ["n"], registry=worker) for worker in workers]
    for n in range(60):
        for each in money:
            each.labels(str(n)).inc(chance.random() * 10.0 ** chance.randrange(-12, 17))
    for n in range(0, 60, 3):
        money[0].labels(str(n)).reset()
        for each in chance.sample(money, 7):
            each.labels(str(n)).inc(chance.random() * 10.0 ** chance.randrange(-12, 17))
    shown = page(first, "money_total")
    assert {pairs: money[5].labels(pairs[0][1]).value for pairs in shown} == shown
    assert len(shown) == 60
    for worker in workers[1:]:
        worker.close()


@pytest.mark.parametrize("how", ["remove", "clear", "reset"])
def test_after_a_large_total_a_removed_series_sees_small_amounts(
    how: str, attach: Callable[..., MetricsBackend], fork: Callable[..., Child]
) -> None:
    backend = attach()
    total = Counter("total", "", ["of"], registry=backend)
    held = total.labels("a")

    def count(link: Link) -> None:
        worker = MetricsBackend(path=backend.place.path, process_metrics=False)
        theirs = Counter("total", "", ["of"], registry=worker).labels("a")
        theirs.inc(1e17)
        link.say()
        link.hear()
        theirs.inc(1)
        worker.close()

    child = fork(count)
    child.hear()
    held.inc(1e17)
    assert held.value == 2e17
    {"remove": lambda: total.remove("a"), "clear": total.clear, "reset": held.reset}[how]()
    held.inc(1)
    assert page(backend, "total_total") == {(("of", "a"),): 1.0}
    child.say()
    assert child.result() is None
    assert held.value == 2.0
    assert page(backend, "total_total") == {(("of", "a"),): 2.0}


def test_totals_beyond_2_to_the_53_over_several_rows_are_exact(attach: Callable[..., MetricsBackend]) -> None:
    first = attach()
    workers = [first, first.another_worker(), first.another_worker()]
    for worker, amount in zip(workers, (2.0**53, 1, 1), strict=True):
        worker.counter("large_total").inc(amount)
        worker.counter("small_total").inc(amount % 2)
    assert first.counter("large_total").value == 2.0**53 + 2
    assert page(first, "large_total") == {(): 2.0**53 + 2}
    assert page(first, "small_total") == {(): 2.0}
    for worker in workers[1:]:
        worker.close()


def test_counters_near_the_limit_are_counted_and_a_reset_takes_them_out(attach: Callable[..., MetricsBackend]) -> None:
    backend = attach()
    near = "shm_metrics_counters_near_limit"
    under, over = backend.counter("under_total"), backend.counter("over_total")
    under.inc(2.0**52 - 1)
    assert page(backend, near) == {(): 0.0}
    over.inc(2.0**52)
    assert page(backend, near) == {(): 1.0}
    under.inc(1)
    assert page(backend, near) == {(): 2.0}
    over.reset()
    assert page(backend, near) == {(): 1.0}
    other = backend.another_worker()
    other.counter("sum_total").inc(2.0**52 - 1)
    backend.counter("sum_total").inc(2.0**52 - 1)
    assert page(backend, near) == {(): 1.0}, "what counts is the part of one worker"
    other.close()
