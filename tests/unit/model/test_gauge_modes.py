"""The table of gauge modes is prometheus_client's, and one more."""

from __future__ import annotations

from typing import get_args

import prometheus_client
import pytest

from shm_metrics.errors import InvalidMetricError
from shm_metrics.model.families import GAUGE, Family
from shm_metrics.model.gauge_modes import DEFAULT_MODE, MODES, gauge_mode
from shm_metrics.segment import layout as L
from shm_metrics.segment.slots import slot_codes


def test_all_of_prometheus_clients_modes_are_there_and_shared_is_the_default():
    theirs = prometheus_client.Gauge._MULTIPROC_MODES
    assert set(MODES) == {*theirs, "shared"}
    assert DEFAULT_MODE == "shared"
    assert not get_args(theirs)


def test_inc_and_dec_make_sense_where_prometheus_client_says_so():
    refused = prometheus_client.Gauge._MOST_RECENT_MODES
    assert {mode.name for mode in MODES.values() if not mode.moves} == set(refused)


def test_only_the_live_modes_count_the_living_only():
    assert {mode.name for mode in MODES.values() if mode.live} == {name for name in MODES if name.startswith("live")}


@pytest.mark.parametrize("mode", MODES.values(), ids=str)
def test_what_a_new_owner_does_fits_what_a_reader_expects(mode):
    cleared = mode.dead == "cleared"
    inherited = mode.dead == "inherited"
    assert cleared == (mode.live or mode.combine == "each"), "what died must not pass for the new owner's"
    assert inherited == (mode.name == "sum"), "sums go on with the row"
    assert (mode.dead == "shared") == (mode.name == "shared"), "what all set is nobody's to clear"
    codes = slot_codes(Family("depth", GAUGE, mode=mode.name))
    assert len(codes) == mode.slots == (6 if mode.name == "shared" else 2)
    assert (codes[0] == L.SLOT_STAMP_CLEARED) == cleared


def test_an_unknown_mode_is_refused_with_the_known_ones():
    with pytest.raises(InvalidMetricError, match=r"'bogus': use one of shared, all, liveall"):
        gauge_mode("bogus")
