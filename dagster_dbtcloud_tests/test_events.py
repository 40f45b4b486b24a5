"""From dbt's results to what Dagster is told: a table of statuses, rendered both ways."""

from __future__ import annotations

import json
from typing import Any

import dagster as dg
import pytest

from dagster_dbtcloud.dbt.run_results import RunResults
from dagster_dbtcloud.events import (
    Declared,
    Outcome,
    OutcomeKind,
    RunRef,
    as_log_event,
    as_step_result,
    failed,
    failure_table,
    interpret,
)
from dagster_dbtcloud.specs import UNIQUE_ID

ORDERS = dg.AssetKey(["marts", "orders"])
CHECK = dg.AssetCheckKey(ORDERS, "not_null_orders_id")
DECLARED = Declared({"model.shop.orders": ORDERS}, {"test.shop.not_null_orders_id.1": CHECK})
RUN = RunRef(900123, url="https://dbt.example/runs/900123", job_id=77, git_sha="abc")


def results(*entries: dict[str, Any], which: str = "build") -> RunResults:
    body = {
        "metadata": {
            "dbt_schema_version": "https://schemas.getdbt.com/dbt/run-results/v6.json",
            "invocation_id": "inv-1",
        },
        "args": {"which": which},
        "elapsed_time": 1.0,
        "results": entries,
    }
    return RunResults.from_bytes(json.dumps(body).encode(), origin="run_results.json of a test")


def entry(unique_id: str, status: str, **more: Any) -> dict[str, Any]:
    return {"unique_id": unique_id, "status": status, "timing": [], "execution_time": 1.5, **more}


def plain(rendered: Any) -> dict[str, Any]:
    return {key: value.value for key, value in rendered.metadata.items()}


def only(status: str, unique_id: str = "model.shop.orders", **more: Any) -> Outcome:
    (outcome,) = interpret(results(entry(unique_id, status, **more)), DECLARED, RUN).outcomes
    return outcome


@pytest.mark.parametrize(
    ("status", "kind", "in_step", "in_log"),
    [
        ("success", OutcomeKind.MATERIALIZED, dg.MaterializeResult, dg.AssetMaterialization),
        ("partial success", OutcomeKind.FAILED, None, dg.AssetObservation),
        ("warn", OutcomeKind.MATERIALIZED, dg.MaterializeResult, dg.AssetMaterialization),
        ("error", OutcomeKind.FAILED, None, dg.AssetObservation),
        ("a word of a later dbt", OutcomeKind.FAILED, None, dg.AssetObservation),
        ("skipped", OutcomeKind.SKIPPED, None, dg.AssetObservation),
        ("no-op", OutcomeKind.OBSERVED, None, dg.AssetObservation),
        ("reused", OutcomeKind.OBSERVED, None, dg.AssetObservation),
    ],
)
def test_what_became_of_a_model(
    status: str, kind: OutcomeKind, in_step: type | None, in_log: type
) -> None:
    """Each status of a model has one meaning, and one rendering for a step and one for the log."""
    outcome = only(status)
    result = as_step_result(outcome)
    event = as_log_event(outcome)
    assert outcome.kind is kind
    assert result is None if in_step is None else type(result) is in_step
    assert type(event) is in_log


@pytest.mark.parametrize(
    ("status", "passed", "severity"),
    [
        ("pass", True, dg.AssetCheckSeverity.ERROR),
        ("warn", False, dg.AssetCheckSeverity.WARN),
        ("fail", False, dg.AssetCheckSeverity.ERROR),
        ("error", False, dg.AssetCheckSeverity.ERROR),
    ],
)
def test_what_became_of_a_test(status: str, passed: bool, severity: dg.AssetCheckSeverity) -> None:
    """A test is a check evaluation with severity, failed-row count and dbt's message."""
    outcome = only(status, "test.shop.not_null_orders_id.1", failures=3, message="Got 3 results")
    for rendered in (as_step_result(outcome), as_log_event(outcome)):
        assert isinstance(rendered, dg.AssetCheckResult | dg.AssetCheckEvaluation)
        assert (rendered.passed, rendered.severity) == (passed, severity)
        assert plain(rendered)["failed_row_count"] == 3
        assert rendered.description == "Got 3 results"


def test_a_skipped_test_is_not_a_failed_check() -> None:
    """A test that dbt skipped says nothing about the asset."""
    outcome = only("skipped", "test.shop.not_null_orders_id.1")
    assert as_step_result(outcome) is None
    assert as_log_event(outcome) is None
    assert not list(failed([outcome]))


@pytest.mark.parametrize("which", ["compile", "generate", "parse", "list", "run-operation", "show"])
def test_commands_that_build_nothing_give_no_outcome(which: str) -> None:
    """``dbt compile`` writes "success" for every model, and has built none."""
    said = interpret(results(entry("model.shop.orders", "success"), which=which), DECLARED, RUN)
    assert said.outcomes == ()


def test_metadata_tells_what_people_look_for() -> None:
    """Ids, duration, dbt's own completion time, rows, and the link to the run."""
    timing = [
        {
            "name": "execute",
            "started_at": "2026-01-05T10:00:00Z",
            "completed_at": "2026-01-05T10:00:02Z",
        }
    ]
    outcome = only(
        "success", timing=timing, adapter_response={"rows_affected": 12, "query_id": "q-1"}
    )
    result = as_step_result(outcome)
    assert isinstance(result, dg.MaterializeResult)
    assert plain(result) == {
        "unique_id": "model.shop.orders",
        "status": "success",
        "dbt_cloud_run": "https://dbt.example/runs/900123",
        "dbt_cloud_run_id": "900123",
        "execution_duration": 1.5,
        "completed_at": 1767607202.0,
        "query_id": "q-1",
        "rows_affected": 12,
    }
    assert result.tags == {
        "dagster_dbtcloud/run_id": "900123",
        "dagster_dbtcloud/job_id": "77",
        "dagster_dbtcloud/git_sha": "abc",
    }


def test_outcomes_come_in_the_order_of_dbts_completion() -> None:
    """The file's order is dbt's scheduling; what has no time comes last."""

    def at(second: int) -> list[dict[str, str]]:
        return [
            {
                "name": "execute",
                "started_at": "2026-01-05T10:00:00Z",
                "completed_at": f"2026-01-05T10:00:{second:02}Z",
            }
        ]

    names = ("model.shop.late", "model.shop.never", "model.shop.early")
    declared = Declared({name: dg.AssetKey(name) for name in names})
    said = interpret(
        results(
            entry("model.shop.late", "success", timing=at(9)),
            entry("model.shop.never", "skipped"),
            entry("model.shop.early", "success", timing=at(1)),
        ),
        declared,
        RUN,
    )
    assert [each.unique_id.rsplit(".", 1)[1] for each in said.outcomes] == [
        "early",
        "late",
        "never",
    ]


def test_nodes_that_nobody_declared_are_named_and_change_nothing() -> None:
    """Exposures and hooks are no nodes that somebody could have declared."""
    said = interpret(
        results(
            entry("model.shop.other", "success"),
            entry("test.shop.other.2", "fail"),
            entry("exposure.shop.dashboard", "no-op"),
            entry("operation.shop.shop-on-run-end-0", "success"),
        ),
        DECLARED,
        RUN,
    )
    assert said.outcomes == ()
    assert said.undeclared == ("model.shop.other", "test.shop.other.2")


def test_a_long_message_is_cut_where_it_is_shown() -> None:
    """dbt can print whole query plans; the event log is not the place for them."""
    outcome = only("error", message="x" * 100_000)
    event = as_log_event(outcome)
    assert isinstance(event, dg.AssetObservation)
    assert len(str(event.metadata["message"].value)) < 5_000
    assert "shortened" in str(event.metadata["message"].value)
    table = failure_table([outcome])
    assert len(str(table.value)) < 10_000


def test_declared_keys_come_from_metadata() -> None:
    """A spec whose key was mapped is still found by its unique_id; foreign specs are not dbt's."""
    daily = dg.DailyPartitionsDefinition("2026-01-01")
    declared = Declared.from_specs(
        [
            dg.AssetSpec(
                "renamed", metadata={UNIQUE_ID: "model.shop.orders"}, partitions_def=daily
            ),
            dg.AssetSpec("python_asset"),
        ],
        [
            dg.AssetCheckSpec("c", asset="renamed", metadata={UNIQUE_ID: "test.shop.c.1"}),
            dg.AssetCheckSpec("own", asset="renamed"),
        ],
    )
    assert declared.asset_keys == {"model.shop.orders": dg.AssetKey("renamed")}
    assert declared.check_keys == {"test.shop.c.1": dg.AssetCheckKey(dg.AssetKey("renamed"), "c")}
    assert declared.partitions.keys() == {dg.AssetKey("renamed")}
