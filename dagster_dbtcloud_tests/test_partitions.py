"""Partitions: what dbt is told of them, and that every event of a step carries its own."""

import json
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_dbtcloud import (
    DagsterDbtTranslator,
    DbtCloudWorkspace,
    dbt_cloud_assets,
    time_window_vars,
)
from dagster_dbtcloud.errors import ConfigError
from dagster_dbtcloud.partitions import register, with_event_time
from dagster_dbtcloud.sandbox import PastStep
from dagster_dbtcloud_tests.stage import Stage, run_results

DAILY = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-10")
RANGE = {
    "dagster/asset_partition_range_start": "2026-01-02",
    "dagster/asset_partition_range_end": "2026-01-04",
}
DAYS = ["2026-01-02", "2026-01-03", "2026-01-04"]
BY_DAY = "model.tiny.orders_by_day"


@pytest.fixture
def ready(stage: Stage) -> Stage:
    """A stage with a manifest, on which every run builds two models and checks one."""
    stage.built()
    stage.play((BY_DAY, "success"), ("model.tiny.slow", "success"))
    return stage


def define(
    workspace: DbtCloudWorkspace, words: tuple[str, ...] = ("build",), **arguments: Any
) -> dg.AssetsDefinition:
    @dbt_cloud_assets(**{"workspace": workspace, "partitions_def": DAILY, **arguments})
    def dbt_project(
        context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace
    ) -> Iterator[Any]:
        yield from dbt_cloud.cli([*words], context=context).wait()

    return dbt_project


def materialize(
    assets: dg.AssetsDefinition,
    workspace: DbtCloudWorkspace,
    instance: dg.DagsterInstance,
    **arguments: Any,
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [assets], resources={"dbt_cloud": workspace}, instance=instance, **arguments
    )


def told(stage: Stage) -> tuple[list[str], dict[str, Any]]:
    """The words of the newest run's only command, without its vars, and these."""
    (line,) = stage.sandbox.runs()[-1]["trigger"]["steps_override"]
    words = shlex.split(line)
    if "--vars" not in words:
        return words, {}
    place = words.index("--vars")
    return words[:place] + words[place + 2 :], json.loads(words[place + 1])


# --- vars ----------------------------------------------------------------------------------------


def test_a_day_is_told_by_two_dates(ready: Stage, instance: dg.DagsterInstance) -> None:
    """The second is the day after, as the end of a time window is."""
    workspace = ready.workspace()
    result = materialize(define(workspace), workspace, instance, partition_key="2026-01-02")
    assert told(ready)[1] == {"min_date": "2026-01-02", "max_date": "2026-01-03"}
    events = result.get_asset_materialization_events()
    assert {event.partition for event in events} == {"2026-01-02"}


def test_a_range_is_one_run_and_recorded_on_each_day(
    ready: Stage, instance: dg.DagsterInstance
) -> None:
    """Also what dbt built beyond the step's selection."""
    workspace = ready.workspace()
    assets = define(workspace)
    selection = dg.AssetSelection.assets("slow")
    before = len(ready.sandbox.runs())
    materialize(assets, workspace, instance, selection=selection, tags=RANGE)
    assert len(ready.sandbox.runs()) == before + 1
    assert told(ready)[1] == {"min_date": "2026-01-02", "max_date": "2026-01-05"}
    for key in (dg.AssetKey("slow"), dg.AssetKey("orders_by_day")):
        stored = instance.fetch_materializations(key, limit=10).records
        assert sorted(str(each.partition_key) for each in stored) == DAYS


def test_observations_carry_their_partitions_too(
    stage: Stage, instance: dg.DagsterInstance
) -> None:
    """A model that did not have to be built says so for each day."""
    stage.built()
    stage.play((BY_DAY, "no-op"), ("model.tiny.slow", "success"))
    workspace = stage.workspace()
    assets = define(workspace)
    selection = dg.AssetSelection.assets("slow")
    materialize(assets, workspace, instance, selection=selection, tags=RANGE)
    stored = instance.fetch_observations(dg.AssetKey("orders_by_day"), limit=10).records
    assert sorted(str(each.partition_key) for each in stored) == DAYS


def test_hours_have_times_in_the_zone_of_the_partitions(
    ready: Stage, instance: dg.DagsterInstance
) -> None:
    """A date alone would be another hour's as well."""
    workspace = ready.workspace()
    hourly = dg.HourlyPartitionsDefinition("2026-01-01-00:00", timezone="Europe/Oslo")
    assets = define(workspace, partitions_def=hourly)
    materialize(assets, workspace, instance, partition_key="2026-01-02-05:00")
    assert told(ready)[1] == {
        "min_date": "2026-01-02 05:00:00",
        "max_date": "2026-01-02 06:00:00",
    }


def test_time_among_other_dimensions_counts(ready: Stage, instance: dg.DagsterInstance) -> None:
    """And partitions without any time give no vars."""
    workspace = ready.workspace()
    regions = dg.StaticPartitionsDefinition(["north", "south"])
    both = dg.MultiPartitionsDefinition({"day": DAILY, "region": regions})
    key = dg.MultiPartitionKey({"day": "2026-01-02", "region": "north"})
    materialize(define(workspace, partitions_def=both), workspace, instance, partition_key=key)
    assert told(ready)[1] == {"min_date": "2026-01-02", "max_date": "2026-01-03"}
    assets = define(workspace, partitions_def=regions)
    materialize(assets, workspace, instance, partition_key="north")
    assert told(ready)[1] == {}


def test_a_function_gives_other_vars(ready: Stage, instance: dg.DagsterInstance) -> None:
    """It is called with the context that the user's function has; words of the code still win."""
    seen: list[object] = []

    def days(context: dg.AssetExecutionContext) -> Mapping[str, Any]:
        seen.append(context)
        return {
            "day": list(context.partition_keys),
            "kind": "backfill",
            **time_window_vars(context),
        }

    workspace = ready.workspace()
    words = ("build", "--vars", "{kind: mine}")
    assets = define(workspace, words, partition_vars=days)
    materialize(assets, workspace, instance, tags=RANGE)
    assert told(ready)[1] == {
        "day": DAYS,
        "kind": "mine",
        "min_date": "2026-01-02",
        "max_date": "2026-01-05",
    }
    assert isinstance(seen[0], dg.AssetExecutionContext)


def test_no_function_gives_no_vars(ready: Stage, instance: dg.DagsterInstance) -> None:
    """For those who write the whole command themselves."""
    workspace = ready.workspace()
    assets = define(workspace, partition_vars=None)
    materialize(assets, workspace, instance, partition_key="2026-01-02")
    assert told(ready)[1] == {}


def test_assets_without_partitions_ask_nobody(ready: Stage, instance: dg.DagsterInstance) -> None:
    """Nor does a run of partitioned assets that was started without a partition."""

    def never(context: object) -> Mapping[str, Any]:
        raise AssertionError(context)

    workspace = ready.workspace()
    plain = define(workspace, partitions_def=None, partition_vars=never)
    for tags in ({}, {"dagster/partition": "2026-01-02"}):
        materialize(plain, workspace, instance, tags=tags)
        assert told(ready)[1] == {}


class ByDay(DagsterDbtTranslator):
    """Models have partitions, other nodes have none."""

    def get_partitions_def(
        self, dbt_resource_props: Mapping[str, Any]
    ) -> dg.PartitionsDefinition[Any] | None:
        return DAILY if dbt_resource_props["resource_type"] == "model" else None


def by_day(spec: dg.AssetSpec) -> dg.AssetSpec:
    return spec.replace_attributes(partitions_def=DAILY)


@pytest.mark.parametrize("given_by", ["the translator", "a map over the specs"])
def test_partitions_that_are_given_elsewhere_are_told_too(
    ready: Stage, instance: dg.DagsterInstance, given_by: str
) -> None:
    """Else dbt would build all of time for the partition of one day."""
    workspace = ready.workspace()
    if given_by == "the translator":
        assets = define(workspace, partitions_def=None, dagster_dbt_translator=ByDay())
    else:
        assets = define(workspace, partitions_def=None).map_asset_specs(by_day)
    slow = dg.AssetSelection.assets("slow")
    materialize(assets, workspace, instance, partition_key="2026-01-02", selection=slow)
    assert told(ready)[1] == {"min_date": "2026-01-02", "max_date": "2026-01-03"}


def test_a_function_that_gives_no_mapping_is_told(
    ready: Stage, instance: dg.DagsterInstance
) -> None:
    """Before anything is triggered; what is no function at all, when the assets are defined."""
    workspace = ready.workspace()
    with pytest.raises(ConfigError, match="takes a function"):
        define(workspace, partition_vars={"day": 1})
    assets = define(workspace, partition_vars=lambda context: [context.partition_key])
    before = len(ready.sandbox.runs())
    with pytest.raises(ConfigError, match=r"partition_vars gave \['2026-01-02'\]"):
        materialize(assets, workspace, instance, partition_key="2026-01-02")
    assert len(ready.sandbox.runs()) == before


# --- microbatches --------------------------------------------------------------------------------


def microbatched(stage: Stage) -> DbtCloudWorkspace:
    """A workspace whose model orders_by_day is built in batches."""
    raw = json.loads(stage.manifest)
    raw["nodes"][BY_DAY]["config"]["incremental_strategy"] = "microbatch"
    return stage.workspace(manifest=raw)


def test_microbatches_get_the_span_in_utc(ready: Stage, instance: dg.DagsterInstance) -> None:
    """Only where such a model is selected: an older dbt does not know the flags."""
    workspace = microbatched(ready)
    zone = dg.DailyPartitionsDefinition("2026-01-01", timezone="Europe/Oslo")
    assets = define(workspace, partitions_def=zone)
    materialize(assets, workspace, instance, partition_key="2026-01-02")
    words, variables = told(ready)
    assert words[-4:] == [
        *("--event-time-start", "2026-01-01T23:00:00"),
        *("--event-time-end", "2026-01-02T23:00:00"),
    ]
    assert variables["min_date"] == "2026-01-02"
    slow = dg.AssetSelection.assets("slow")
    materialize(assets, workspace, instance, partition_key="2026-01-02", selection=slow)
    assert "--event-time-start" not in told(ready)[0]


@pytest.mark.parametrize(
    "words",
    [
        ["test"],
        ["seed"],
        ["docs", "generate"],
        ["build", "--event-time-start", "2026-01-01"],
        ["run", "--event-time-end=2026-01-01"],
    ],
)
def test_other_commands_stay(words: list[str]) -> None:
    """Those that do not take a span, and those that have one."""
    window = (datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 2, tzinfo=timezone.utc))
    assert with_event_time(words, window, True) == words
    assert with_event_time(["run"], window, False) == ["run"]
    assert with_event_time(["run"], None, True) == ["run"]


def test_flags_may_stand_before_the_command() -> None:
    """A partition that is built with ``--debug`` is the same partition."""
    window = (datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 2, tzinfo=timezone.utc))
    for flags in (["--debug"], ["--log-level", "debug"], ["--no-partial-parse"]):
        words = with_event_time([*flags, "build"], window, True)
        assert words[-4:] == with_event_time(["build"], window, True)[-4:]
    assert with_event_time(["--debug", "test"], window, True) == ["--debug", "test"]


@settings(max_examples=50, deadline=None)
@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)),
    st.integers(-12 * 60, 14 * 60),
    st.integers(1, 10**6),
)
def test_the_span_is_the_same_moments(begin: datetime, offset: int, seconds: int) -> None:
    """Whatever the zone: dbt reads the flags as UTC."""
    zone = timezone(timedelta(minutes=offset))
    begin = begin.replace(microsecond=0, tzinfo=zone)
    window = (begin, begin + timedelta(seconds=seconds))
    _, _, start, _, end = with_event_time(["build"], window, True)
    read = [datetime.fromisoformat(text).replace(tzinfo=timezone.utc) for text in (start, end)]
    assert tuple(read) == window


def batched(stage: Stage, *failed: str, status: str = "success") -> None:
    """Let coming runs build orders_by_day in batches of a day, over ``DAYS``."""

    def span(day: str) -> list[str]:
        start = datetime.fromisoformat(f"{day}T00:00:00+00:00")
        return [start.isoformat(), (start + timedelta(days=1)).isoformat()]

    batches = {
        "failed": [span(day) for day in failed],
        "successful": [span(day) for day in DAYS if day not in failed],
    }
    content = run_results((BY_DAY, status), batches={BY_DAY: batches})
    artifacts = {"manifest.json": stage.manifest, "run_results.json": content}
    ended = 20 if failed else 10
    stage.sandbox.play(
        lambda _, command: PastStep(command, artifacts=artifacts, logs="done\n", status=ended)
    )


def stored_on(instance: dg.DagsterInstance, name: str = "orders_by_day") -> list[str]:
    stored = instance.fetch_materializations(dg.AssetKey(name), limit=10).records
    return sorted(str(each.partition_key) for each in stored)


def test_batches_are_shown(stage: Stage, instance: dg.DagsterInstance) -> None:
    """Each with its span and how it ended."""
    stage.built()
    batched(stage)
    workspace = stage.workspace()
    result = materialize(define(workspace, partitions_def=None), workspace, instance)
    (event,) = result.get_asset_materialization_events()
    table = event.materialization.metadata["microbatches"]
    assert isinstance(table, dg.TableMetadataValue)
    assert list(table.records[0].data.values()) == [
        "2026-01-02T00:00:00+00:00",
        "2026-01-03T00:00:00+00:00",
        "successful",
    ]
    assert len(table.records) == 3


@pytest.mark.parametrize(
    ("partitions", "tags", "built"),
    [
        (DAILY, RANGE, ["2026-01-02", "2026-01-04"]),
        (DAILY, {"dagster/partition": "2026-01-02"}, ["2026-01-02"]),
        (DAILY, {"dagster/partition": "2026-01-03"}, []),
        (dg.StaticPartitionsDefinition(["eu"]), {"dagster/partition": "eu"}, []),
        (None, {}, []),
    ],
)
def test_a_partition_is_built_if_its_own_batches_are(
    stage: Stage,
    instance: dg.DagsterInstance,
    partitions: dg.PartitionsDefinition | None,
    tags: Mapping[str, str],
    built: list[str],
) -> None:
    """The step fails by the others, as dbt does, and names the model."""
    stage.built()
    batched(stage, "2026-01-03", status="partial success")
    workspace = stage.workspace()
    assets = define(workspace, partitions_def=partitions)
    result = materialize(assets, workspace, instance, tags=tags, raise_on_error=False)
    assert not result.success
    assert stored_on(instance) == built
    (failure,) = (event for event in result.all_events if event.is_step_failure)
    assert f"first {BY_DAY}: dbt says partial success" in str(failure.step_failure_data.error)


def test_functions_of_one_name_stay_apart() -> None:
    """Two lambdas of a module have one name; each definition gets its own."""
    one, two = (lambda _: {"word": "one"}), (lambda _: {"word": "two"})
    assert register(one) == register(one)
    assert register(one) != register(two)
