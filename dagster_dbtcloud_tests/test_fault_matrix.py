"""Whatever goes wrong on the way: one dbt Cloud run, every result once, and none left running."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dagster_dbtcloud.sandbox import Fault
from dagster_dbtcloud_tests.conftest import SkippingClock
from dagster_dbtcloud_tests.fault_table import CASES, RESULTS, Case, World, line, play, world


@pytest.fixture(scope="module")
def stand() -> Iterator[World]:
    with world() as made:
        yield made


def marked(case: Case) -> object:
    return pytest.param(case, marks=[pytest.mark.nightly] if case.nightly else [], id=case.name)


@pytest.mark.parametrize("case", [marked(case) for case in CASES])
def test_one_run_and_every_result_once(stand: World, case: Case) -> None:
    """Each fault at each place, once, three times, for a minute; two runs where one is retried."""
    row = play(stand, case)
    assert row.holds, f"{line(row)}\n{row.said}"
    assert all(rule["met"] for rule in row.rules), "the fault was not met: the case shows nothing"


def test_the_table_is_as_long_as_it_should_be() -> None:
    """At least thirty cases every day, each once, at each of the five places."""
    daily = [case.name for case in CASES if not case.nightly]
    assert len(daily) >= 30
    assert len({case.name for case in CASES}) == len(CASES)
    places = {name.split(":")[0] for name in daily}
    assert places >= {"trigger", "polling", "logs", "artifacts", "cancel"}


def test_the_table_would_show_what_is_wrong(stand: World) -> None:
    """A run that nobody can cancel is an orphan; a result that cannot be had is lost."""
    refused = Fault("status", place="cancel", status=403, count=None)
    left = stand.play(Case("cancel: never allowed", (refused,), leaves=True))
    assert (left.orphans, left.holds) == (1, False)
    gone = Fault("late_artifacts", place="artifacts", count=None)
    lost = stand.play(Case("artifacts: never", (gone,)))
    assert (lost.lost, lost.holds, lost.succeeded) == (len(RESULTS), False, False)


class Hasty(SkippingClock):
    """Waits hardly at all."""

    MOMENT = 0.002


def test_a_build_of_half_an_hour_passes() -> None:
    """No time limit by default; a look every ten seconds, and an outage of minutes in between."""
    outage = Fault("status", place="polling", status=503, skip=90, count=None, for_seconds=1200)
    with world(Hasty()) as made:
        row = made.play(Case("half an hour", (outage,), build_seconds=1800))
        (run,) = made.sandbox.runs()
        looks = [one for one in made.sandbox.requests if one.path.endswith(f"/runs/{run['id']}/")]
    assert row.holds, f"{line(row)}\n{row.said}"
    assert run["run_duration"] >= "00:30:00"
    assert len(looks) < 300
