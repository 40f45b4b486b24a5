"""What a step hands over as events is, in the event log, what Dagster makes of its outputs."""

# No `from __future__ import annotations`: Dagster reads the annotations of the decorated functions.

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
import pytest

from dagster_dbtcloud.dbt.run_results import NodeResult
from dagster_dbtcloud.events import Outcome, OutcomeKind, RunRef, as_step_result
from dagster_dbtcloud.reporting import Handover

RUN = RunRef(900123, "https://cloud.getdbt.com/run", job_id=7, git_sha="abc", invocation_id="inv")
Render = Callable[[Outcome], Any]
Way = Callable[[dg.OpExecutionContext], Render]


def handed_over(context: dg.OpExecutionContext) -> Render:
    return Handover(context).render


def yielded(_context: dg.OpExecutionContext) -> Render:
    return as_step_result


def materialized(name: str) -> Outcome:
    result = node_result(f"model.shop.{name}", "success")
    return Outcome(OutcomeKind.MATERIALIZED, result, RUN, asset_key=dg.AssetKey([name]))


def checked(asset: str, name: str, status: str = "pass") -> Outcome:
    key = dg.AssetCheckKey(dg.AssetKey([asset]), name)
    result = node_result(f"test.shop.{name}", status)
    return Outcome(OutcomeKind.CHECKED, result, RUN, asset_key=key.asset_key, check_key=key)


def node_result(unique_id: str, status: str) -> NodeResult:
    return NodeResult(
        unique_id=unique_id, status=status, message="dbt says so", failures=0, execution_time=0.5
    )


def definition(
    way: Way,
    outcomes: Sequence[Outcome],
    *,
    partitions: dg.PartitionsDefinition[Any] | None = None,
    blocking: bool = True,
) -> dg.AssetsDefinition:
    """Define raw -> a -> b -> c, with a check on each, whose step gives ``outcomes``."""

    @dg.multi_asset(
        name="dbt",
        specs=[
            dg.AssetSpec("a", deps=["raw"], code_version="1", skippable=True),
            dg.AssetSpec("b", deps=["a"], code_version="2", skippable=True),
            dg.AssetSpec("c", deps=["b", "raw"], skippable=True),
        ],
        check_specs=[
            dg.AssetCheckSpec(f"{name}_is_fine", asset=name, blocking=blocking) for name in "abc"
        ],
        can_subset=True,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run() if partitions else None,
    )
    def dbt(context: dg.AssetExecutionContext) -> Iterator[Any]:
        render = way(context.op_execution_context)
        yield from filter(None, map(render, outcomes))

    return dbt


ALL = [
    *(materialized("a"), checked("a", "a_is_fine"), materialized("b"), checked("b", "b_is_fine")),
    *(materialized("c"), checked("c", "c_is_fine", "warn")),
]


def run(
    way: Way,
    outcomes: Sequence[Outcome] = ALL,
    *others: dg.AssetsDefinition | dg.AssetChecksDefinition,
    instance: dg.DagsterInstance,
    **options: Any,
) -> dg.ExecuteInProcessResult:
    partition = options.pop("partition", None)
    tags = options.pop("tags", None)
    job = dg.Definitions(
        assets=[
            dg.AssetSpec("raw"),
            definition(way, outcomes, **options),
            *(item for item in others if not isinstance(item, dg.AssetChecksDefinition)),
        ],
        asset_checks=[item for item in others if isinstance(item, dg.AssetChecksDefinition)],
        jobs=[dg.define_asset_job("all")],
    ).resolve_job_def("all")
    return job.execute_in_process(
        instance=instance, partition_key=partition, tags=tags, raise_on_error=False
    )


def shown(result: dg.ExecuteInProcessResult) -> list[Mapping[str, Any]]:
    """Return what the event log shows of assets and checks, but what differs from run to run."""
    events: list[Mapping[str, Any]] = []
    for event in result.all_events:
        if event.is_step_materialization:
            made = event.step_materialization_data.materialization
            tags = {k: v for k, v in (made.tags or {}).items() if "input_event_pointer" not in k}
            tags = {k: v.replace(result.run_id, "the run") for k, v in tags.items()}
            if tags.get("dagster/code_version") == "the run":  # and so does what is made of it
                del tags["dagster/data_version"]
            events.append({"made": made.asset_key, "metadata": made.metadata, "tags": tags,
                           "partition": made.partition, "description": made.description,
                           "step": event.step_key})  # fmt: skip
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            events.append({"checked": check.asset_check_key, "passed": check.passed,
                           "metadata": check.metadata, "severity": check.severity,
                           "blocking": check.blocking, "description": check.description,
                           "step": event.step_key})  # fmt: skip
    return events


def outputs(result: dg.ExecuteInProcessResult, step: str = "dbt") -> set[str]:
    found = (event for event in result.all_events if event.is_successful_output)
    return {event.step_output_data.output_name for event in found if event.step_key == step}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def test_events_and_outputs_look_alike(instance: dg.DagsterInstance) -> None:
    """Assets, checks, metadata, severity, tags, versions of code, data and inputs: the same."""
    theirs = run(yielded, instance=instance)
    with dg.DagsterInstance.ephemeral() as other:
        ours = run(handed_over, instance=other)
    assert shown(ours) == shown(theirs)
    assert len(shown(ours)) == 6
    assert outputs(theirs)
    assert not outputs(ours)


@pytest.mark.parametrize("ways", [(yielded, handed_over), (handed_over, yielded)])
def test_versions_stay_the_same_where_nothing_changed(
    instance: dg.DagsterInstance, ways: tuple[Way, Way]
) -> None:
    """One way after the other, upstream observed or built elsewhere: as if there were one way."""
    instance.report_runless_asset_event(
        dg.AssetObservation("raw", tags={"dagster/data_version": "2026-01-05"})
    )
    first, again = (shown(run(way, instance=instance)) for way in ways)
    assert first == again
    assert first[0]["tags"]["dagster/input_data_version/raw"] == "2026-01-05"
    alone = [shown(run(way, [materialized("b")], instance=instance)) for way in ways]
    assert alone[0] == alone[1]
    assert alone[0][0]["tags"]["dagster/data_version"] == first[2]["tags"]["dagster/data_version"]


def test_who_waits_in_the_same_run_is_served(instance: dg.DagsterInstance) -> None:
    """Downstream steps and checks of the run run; only what they wait for is an output."""

    @dg.asset(deps=["b"])
    def report() -> None: ...

    @dg.asset_check(asset="c")
    def looked_at() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    result = run(handed_over, ALL, report, looked_at, instance=instance)
    assert result.success
    assert outputs(result) == {"b", "b_b_is_fine", "c"}
    steps = {event.step_key for event in result.get_step_success_events()}
    assert steps == {"dbt", "report", "c_looked_at"}
    assert len([event for event in shown(result) if event["step"] == "dbt"]) == 6


def test_what_must_be_an_output_is_one(instance: dg.DagsterInstance) -> None:
    """Checks of a definition that is always run whole."""
    name = "a_is_fine"

    @dg.multi_asset_check(specs=[dg.AssetCheckSpec(name, asset="a")], name="dbt")
    def tests(context: dg.AssetCheckExecutionContext) -> Iterator[Any]:
        yield Handover(context.op_execution_context).render(checked("a", name))

    @dg.asset
    def a() -> None: ...

    definitions = dg.Definitions([a], asset_checks=[tests], jobs=[dg.define_asset_job("all")])
    job = definitions.resolve_job_def("all")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert result.success
    assert [each["checked"].name for each in shown(result) if "checked" in each] == [name]


@pytest.mark.parametrize("way", [yielded, handed_over])
def test_a_blocking_check_blocks(instance: dg.DagsterInstance, way: Way) -> None:
    """A failed blocking check fails the step, and what is downstream of it does not run."""

    @dg.asset(deps=["b"])
    def report() -> None: ...

    broken = [*ALL[:3], checked("b", "b_is_fine", "fail"), *ALL[4:]]
    result = run(way, broken, report, instance=instance)
    assert not result.success
    assert "1 blocking asset check failed" in str(result.failure_data_for_node("dbt"))
    assert "report" not in {event.step_key for event in result.get_step_success_events()}
    assert run(way, broken, report, instance=instance, blocking=False).success


def test_the_partition_is_that_of_the_step(instance: dg.DagsterInstance) -> None:
    """With one partition, each event has it."""
    days = dg.StaticPartitionsDefinition(["mon", "tue"])
    one = shown(run(handed_over, instance=instance, partitions=days, partition="mon"))
    theirs = shown(run(yielded, instance=instance, partitions=days, partition="mon"))
    assert [e.get("partition") for e in one] == [e.get("partition") for e in theirs]
    assert one[0]["partition"] == "mon"


def test_a_range_of_partitions_is_dagsters_to_tell(instance: dg.DagsterInstance) -> None:
    """A run of several partitions yields outputs, of which Dagster makes an event for each."""
    days = dg.StaticPartitionsDefinition(["mon", "tue"])
    tags = {
        "dagster/asset_partition_range_start": "mon",
        "dagster/asset_partition_range_end": "tue",
    }
    both = run(handed_over, instance=instance, partitions=days, tags=tags)
    partitions = [event["partition"] for event in shown(both) if "made" in event]
    assert sorted(partitions) == ["mon"] * 3 + ["tue"] * 3
    assert outputs(both) == {"a", "b", "c"}


def test_what_has_no_result_is_not_handed_over(instance: dg.DagsterInstance) -> None:
    """A failed or skipped node is neither output nor event, whichever way."""
    failed = Outcome(
        OutcomeKind.FAILED,
        node_result("model.shop.a", "error"),
        RUN,
        asset_key=dg.AssetKey(["a"]),
    )
    assert shown(run(handed_over, [failed], instance=instance)) == []
