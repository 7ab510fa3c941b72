"""Any history of a cluster: totals are exact, and never fall.

Instances count, publish, are folded (or the fold dies half-way), come back and begin anew, in any order, over a store
that is a dictionary. After each step a reader, who reads as fold.py says, must see the sum of what every instance that
ever was has published last, to the last bit.
"""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from shm_metrics.cluster.codec import wire
from shm_metrics.cluster.merge.fold import fold, forget
from shm_metrics.cluster.merge.merge import ClusterView, Merger
from shm_metrics.cluster.model.blob import Blob, Retired
from shm_metrics.cluster.publish_journal import PublishJournal
from tests.support.blobs import blob, counter, histogram

pytestmark = pytest.mark.slow

SHOPS = "ab"
AMOUNTS = (0.1, 1.0, 1 / 3, 1e9, 2.5e-3)


class Cluster(RuleBasedStateMachine):
    instances = Bundle("instances")

    @initialize(target=instances)
    def begin(self):
        self.counted: dict[str, dict[str, float]] = {}
        self.published: dict[str, dict[str, float]] = {}
        self.sequence = 0
        self.blobs: dict[str, bytes] = {}
        self.tombstones: dict[tuple[str, int], bytes] = {}
        self.record: bytes | None = None
        self.before: dict[str, float] = {}
        self.merger = Merger()
        return multiple(self.start(), self.start())

    # -- what happens ----------------------------------------------------------------------------------------------

    @rule(target=instances)
    def start(self) -> str:
        instance = f"{len(self.counted):032x}"
        self.counted[instance] = {}
        return instance

    @rule(
        instance=instances,
        shop=st.sampled_from(SHOPS),
        amounts=st.lists(st.sampled_from(AMOUNTS), min_size=1, max_size=3),
    )
    def count_and_publish(self, instance: str, shop: str, amounts: list[float]) -> None:
        told = self.counted[instance]
        for amount in amounts:
            told[shop] = told.get(shop, 0.0) + amount
        self.sequence += 1
        # A histogram's count and sum come along, so that several shapes of table meet.
        seconds = histogram([len(told), 0], math.fsum(told.values()))
        families = (counter(more=told), seconds) if told else ()
        whole = blob(*families, instance=instance, sequence=self.sequence)
        self.blobs[instance] = wire.encode(self.as_published(whole))
        self.published[instance] = dict(told)

    def as_published(self, whole: Blob) -> Blob:
        return whole

    def same(self, total: float | None, exact: float | None) -> bool:
        return total == exact

    def _fold(self, instance: str) -> tuple[Retired, Blob] | None:
        if instance not in self.blobs:
            return None
        gone, retired = wire.decode(self.blobs[instance]), self._retired()
        folded = fold(retired, gone, self._tombstones(retired).get(instance), float(self.sequence), token=self.sequence)
        self.tombstones[instance, folded.folded[instance].sequence] = self.blobs[instance]
        return folded, gone

    @rule(instance=instances, end=st.sampled_from(["killed before the record", "killed after it", "done"]))
    def retire(self, instance: str, end: str) -> None:
        """The instance may live on and publish again: being slow is not being dead."""
        done = self._fold(instance)
        if done is not None and end != "killed before the record":
            self.record = wire.encode_retired(done[0])
            if end == "done":
                del self.blobs[instance]

    # -- what a reader sees ----------------------------------------------------------------------------------------

    def _retired(self) -> Retired | None:
        return None if self.record is None else wire.decode_retired(self.record)

    def _tombstones(self, retired: Retired | None) -> dict[str, Blob]:
        names = () if retired is None else [(each, folded.sequence) for each, folded in retired.folded.items()]
        return {name[0]: wire.decode(self.tombstones[name]) for name in names if name in self.tombstones}

    def _view(self) -> ClusterView:
        blobs = [wire.decode(data) for data in self.blobs.values()]
        retired = self._retired()
        return self.merger.merge(blobs, retired, self._tombstones(retired))

    @invariant()
    def totals_are_exact_and_never_fall(self) -> None:
        found = self._view()
        for shop in SHOPS:
            told = [each[shop] for each in self.published.values() if shop in each]
            total = found.value("jobs", shop=shop)
            assert self.same(total, float(sum(map(Fraction, told), Fraction())) if told else None)
            before = self.before.get(shop, 0.0)
            assert (total or 0.0) >= before or self.same(total, before)
            self.before[shop] = total or 0.0
        observed = [math.fsum(each.values()) for each in self.published.values() if each]
        if observed:
            (total,) = found.family("seconds").sums.tolist()
            assert self.same(total, float(sum(map(Fraction, observed), Fraction())))
            assert found.value("seconds") == sum(len(each) for each in self.published.values())
        assert found.conflicts == []
        assert {each.state for each in found.instances} <= {"counted", "folded", "returned"}


class ForgetfulCluster(Cluster):
    """The record also forgets whoever is gone; whoever comes back all the same knows what it has sent.

    Differences are rounded, so the totals are right but for the last bits.
    """

    def begin(self):
        self.journals: dict[str, PublishJournal] = {}
        return super().begin()

    begin = initialize(target=Cluster.instances)(begin)

    def as_published(self, whole: Blob) -> Blob:
        journal, record = (
            self.journals.setdefault(whole.instance, PublishJournal(None, whole.instance)),
            self._retired(),
        )
        if journal.last is not None and journal.may_be_forgotten_by(record) and whole.instance not in self.blobs:
            journal.set_base(journal.last)
        journal.remember(whole)
        journal.accepted = whole.sequence
        if record is not None and whole.instance in record.folded:
            journal.accepted = record.folded[whole.instance].sequence
        return journal.beyond_base(whole)

    def same(self, total: float | None, exact: float | None) -> bool:
        return total == exact or math.isclose(total, exact, rel_tol=1e-9)

    @rule()
    def forget(self) -> None:
        retired = self._retired()
        if retired is not None:
            kept = forget(retired, math.inf, living=self.blobs)
            self.record = wire.encode_retired(kept)
            self.tombstones = {key: tombstone for key, tombstone in self.tombstones.items() if key[0] in kept.folded}


TestCluster = Cluster.TestCase
TestCluster.settings = settings(deadline=None, max_examples=300, stateful_step_count=30)
TestForgetfulCluster = ForgetfulCluster.TestCase
TestForgetfulCluster.settings = settings(deadline=None, max_examples=200, stateful_step_count=30)
