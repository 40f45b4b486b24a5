"""The cases of the observer's table, each as a test; ``make observer-table`` prints them all."""

from collections.abc import Iterator

import pytest

from dagster_dbtcloud.sandbox import Sandbox
from dagster_dbtcloud_tests.conftest import SkippingClock
from dagster_dbtcloud_tests.observer_table import CASES, play, stage

EVERY_DAY = {
    "three building steps",
    "one node built by two steps",
    "source freshness",
    "only one job",
    "our run whose step is alive and then killed",
    "our run recorded in part by a killed step",
    "our run adopted and recorded by a later one",
    "our run that the daemon will retry",
    "our run whose worker vanished",
    "killed between two events",
    "killed again and again",
    "killed at the very first tick",
    "killed then two reloads with other assets",
    "the cursor is reset",
    "killed within a part",
    "pages that shift while read",
    "artifacts of a failed run late",
    "a finish time in the future",
    "a malformed run in the list",
    "an artifact refused for good",
    "an error 500 over four runs in a row",
    "an outage of artifacts",
    "answers cut",
    "a webhook before the list knows the run",
    "replayed before during and after the sensor",
    "replayed while the sensor ticks",
    "a replay that was killed",
    "partitions from dbts vars",
}


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Sandbox, SkippingClock]]:
    with stage() as made:
        yield made


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in EVERY_DAY else pytest.mark.nightly) for name in CASES],
)
def test_nothing_is_lost_twice_wrong_or_stuck(
    name: str, shared: tuple[Sandbox, SkippingClock]
) -> None:
    """Dagster holds what dbt Cloud did, each result once, and goes on."""
    row = play(name, *shared)
    assert row.is_good, row
    assert row.expected == row.recorded


def test_every_case_of_every_day_exists() -> None:
    """A case that is renamed does not drop out of the usual tests."""
    assert set(CASES) >= EVERY_DAY
    assert len(CASES) >= 40
