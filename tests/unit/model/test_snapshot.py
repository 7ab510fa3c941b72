"""What a snapshot says of itself."""

from __future__ import annotations

import numpy as np

from shm_metrics.model.families import COUNTER, Family, FamilySnapshot
from shm_metrics.model.family_run import FamilyRun, RunFamilies
from shm_metrics.model.snapshot import Snapshot


def test_a_repr_is_one_short_line_however_much_it_holds():
    labels = tuple((("number", str(number)),) for number in range(1000))
    found = [FamilySnapshot(Family(f"c{n}", COUNTER), labels, np.zeros(1000), None, None) for n in range(2)]
    run = FamilyRun(RunFamilies([(Family(f"r{n}", COUNTER), labels) for n in range(3)]), np.zeros(3000))
    snapshot = Snapshot((*found, run), 1.0, "ab" * 16, (0, 2), (0, 1, 2))
    assert repr(snapshot) == f"<Snapshot of {'ab' * 16}: 5 families, 5000 series, 2 of 3 workers live>"
