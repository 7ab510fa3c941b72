"""Numbers: equal to prometheus_client's, one by one and in bulk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.utils import floatToGoString

from shm_metrics.exposition.floats import go_text, number_lines
from tests.support.families import anything, unhurried


@unhurried
@given(anything | st.integers(-(2**60), 2**60).map(float))
def test_a_number_is_written_as_prometheus_client_writes_it(value):
    assert go_text(value) == floatToGoString(value)


@unhurried
@given(st.lists(anything | st.integers(-(2**60), 2**60).map(float), max_size=50))
def test_an_array_is_written_as_its_numbers_are(values):
    lines = number_lines(np.array(values, dtype=float))
    assert lines.tolist() == [f"{floatToGoString(value)}\n".encode() for value in values]


def test_every_boundary_of_the_tables_is_written_exactly():
    edges = [0, 1, 9, 10, 99, 100, 999, 1000, 1001, 1010, 1100, 9999, 10_000, 100_000, 999_000, 999_999, 1_000_000]
    edges += [10**power + step for power in range(6, 17) for step in (-1, 0, 1)]
    values = np.array(
        [*edges, -0.0, -1.0, -1e6, 0.5, 1234567.5, np.nan, np.inf, -np.inf, 5e-324, 1.7976931348623157e308]
    )
    assert number_lines(values).tolist() == [f"{floatToGoString(value)}\n".encode() for value in values.tolist()]


@unhurried
@given(st.floats(allow_nan=False))
def test_the_text_reads_back_as_the_same_number(value):
    assert float(go_text(value)) == value


@pytest.mark.parametrize("wrong", [None, "many", object()])
def test_what_is_no_number_is_refused(wrong):
    with pytest.raises((TypeError, ValueError)):
        go_text(wrong)
