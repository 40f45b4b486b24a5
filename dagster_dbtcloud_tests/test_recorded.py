"""What the event log holds of a dbt Cloud run: all of it, once, whoever wrote it."""

import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import dagster as dg
import pytest

from dagster_dbtcloud.dbt.run_results import NodeResult
from dagster_dbtcloud.events import Outcome, OutcomeKind, RunRef, as_log_event, as_step_result
from dagster_dbtcloud.recorded import already_recorded, mark, mend, settle, stored_since

ORDERS = dg.AssetKey("orders")
CHECK = dg.AssetCheckKey(ORDERS, "unique")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """In memory: what is asked here is the same in all of Dagster's storages."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def long_ago() -> datetime:
    return datetime.now(timezone.utc) - timedelta(hours=1)


def outcome(run_id: int, *, check: bool = False, invocation: str | None = "inv-1") -> Outcome:
    unique_id = "test.tiny.unique" if check else "model.tiny.orders"
    return Outcome(
        OutcomeKind.CHECKED if check else OutcomeKind.MATERIALIZED,
        NodeResult(unique_id, "pass" if check else "success"),
        RunRef(run_id, invocation_id=invocation),
        asset_key=ORDERS,
        check_key=CHECK if check else None,
    )


def write(instance: dg.DagsterInstance, *outcomes: Outcome, partition: str | None = None) -> None:
    for each in outcomes:
        event = as_log_event(each, partition=partition)
        assert event is not None
        instance.report_runless_asset_event(event)


def test_nothing_is_recorded_of_a_run_that_nobody_wrote(instance: dg.DagsterInstance) -> None:
    """Events of other runs and of other libraries are not ours."""
    write(instance, outcome(7))
    instance.report_runless_asset_event(dg.AssetMaterialization("orders", metadata={"x": 1}))
    found = already_recorded(instance, 8, since=long_ago())
    assert len(found) == 0
    assert not found.take(ORDERS)


def test_each_stored_event_answers_once(instance: dg.DagsterInstance) -> None:
    """A node that two steps built has two results; one that is stored does not hide the other."""
    write(instance, outcome(7), outcome(7, check=True))
    found = already_recorded(instance, 7, since=long_ago())
    assert found.keys == {ORDERS, CHECK}
    assert not found.take(ORDERS, invocation_id="inv-2")
    assert found.take(ORDERS, invocation_id="inv-1")
    assert not found.take(ORDERS, invocation_id="inv-1")
    assert found.take(CHECK)


@pytest.mark.parametrize(("stored", "asked"), [(None, "inv-1"), ("inv-1", None), (None, None)])
def test_an_event_that_does_not_know_its_invocation_answers_for_any(
    instance: dg.DagsterInstance, stored: str | None, asked: str | None
) -> None:
    """It was written from the log while dbt was running; its results came later."""
    write(instance, outcome(7, invocation=stored))
    found = already_recorded(instance, 7, since=long_ago())
    assert found.take(ORDERS, invocation_id=asked)
    assert not found.take(ORDERS, invocation_id=asked)


def test_partitions_are_told_apart(instance: dg.DagsterInstance) -> None:
    """Three of five partitions stored: two are missing."""
    for day in "123":
        write(instance, outcome(7), partition=f"2026-01-0{day}")
    events = [as_log_event(outcome(7), partition=f"2026-01-0{day}") for day in "12345"]
    found = already_recorded(instance, 7, since=long_ago())
    missing = found.missing([event for event in events if event is not None])
    assert [event.partition for event in missing] == ["2026-01-04", "2026-01-05"]


def test_what_a_step_yielded_before_it_died_is_found(instance: dg.DagsterInstance) -> None:
    """Its events lie under its Dagster run, check evaluations too."""

    @dg.asset(key=ORDERS, check_specs=[dg.AssetCheckSpec("unique", asset=ORDERS)])
    def orders() -> Iterator[object]:
        yield as_step_result(outcome(7))
        yield as_step_result(outcome(7, check=True))
        raise RuntimeError("killed")

    result = dg.materialize([orders], instance=instance, raise_on_error=False)
    assert not already_recorded(instance, 7, since=long_ago())
    found = already_recorded(
        instance, 7, since=long_ago(), dagster_run_ids=[result.run_id], asset_keys=[ORDERS]
    )
    assert found.keys == {ORDERS}
    found = already_recorded(instance, 7, since=long_ago(), dagster_run_ids=[result.run_id])
    assert found.take(ORDERS, invocation_id="inv-1")
    assert found.take(CHECK, invocation_id="inv-1")


def test_events_before_the_run_are_not_looked_at(instance: dg.DagsterInstance) -> None:
    """``since`` bounds the cost."""
    write(instance, outcome(7))
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    assert not already_recorded(instance, 7, since=later)


def test_a_mark_divides_what_a_tick_wrote_from_what_was_before(
    instance: dg.DagsterInstance,
) -> None:
    """Only the runs that got events after it are in doubt."""
    start = mark(instance)
    assert stored_since(instance, start) == []
    write(instance, outcome(7))
    later = mark(instance)
    assert [each.run_id for each in stored_since(instance, start)] == [7]
    assert stored_since(instance, later) == []
    write(instance, *[outcome(8, check=True)] * 3)
    stored = stored_since(instance, later)
    assert {(each.run_id, each.key) for each in stored} == {(8, CHECK)}
    for doubtful in ([], [CHECK]):
        assert len(settle(instance, 8, stored, doubtful)) == 3
    assert len(settle(instance, 7, stored, [])) == 0


def test_a_mark_is_found_by_time(instance: dg.DagsterInstance) -> None:
    """Where history begins again, what is there already lies after the mark."""
    write(instance, outcome(7), outcome(8))
    assert len(stored_since(instance, mark(instance, before=long_ago()))) == 2
    soon = datetime.now(timezone.utc) + timedelta(hours=1)
    assert stored_since(instance, mark(instance, before=soon)) == []


def test_an_event_that_users_cannot_see_counts_as_missing(tmp_path: Path) -> None:
    """Killed between the log and the asset's history: in the one, not in the other (SQLite)."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        _check_torn_event(instance)


def _check_torn_event(instance: dg.DagsterInstance) -> None:
    start = mark(instance)
    write(instance, outcome(7))
    instance.wipe_assets([ORDERS])  # takes it from the history, as if it had never come there
    stored = stored_since(instance, start)
    assert [each.key for each in stored] == [ORDERS]
    assert not settle(instance, 7, stored, doubtful=[ORDERS])


def test_a_page_that_missed_the_newest_materialization_is_mended(tmp_path: Path) -> None:
    """Killed between the event and what the asset's page shows (two transactions, PostgreSQL)."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        write(instance, outcome(7), outcome(8), outcome(8, check=True))
        assert mend(instance, [ORDERS, CHECK]) == []
        with sqlite3.connect(tmp_path / "history" / "runs" / "index.db") as database:
            database.execute("DELETE FROM asset_keys")
        assert instance.get_latest_materialization_event(ORDERS) is None
        assert mend(instance, [ORDERS, CHECK]) == [ORDERS]
        shown = instance.get_latest_materialization_event(ORDERS)
        assert shown is not None
        assert shown.asset_materialization is not None
        assert shown.asset_materialization.metadata["dbt_cloud_run_id"].value == "8"
        assert len(instance.fetch_materializations(ORDERS, limit=10).records) == 2
