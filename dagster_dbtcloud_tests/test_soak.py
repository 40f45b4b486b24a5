"""The sensor for a long time: nothing grows. `make observer-soak` takes it through 20,000 runs."""

import pytest

from dagster_dbtcloud_tests.soak import soak


@pytest.mark.parametrize("runs", [80, pytest.param(2_000, marks=pytest.mark.nightly)])
def test_nothing_is_left_behind(runs: int) -> None:
    """Each run is told once, the cursor stays short, no object outlives its tick."""
    found = soak(runs)
    assert (found.lost, found.twice) == (0, 0)
    assert found.longest_cursor < 1_500
    assert found.grown[0] < 2_000
