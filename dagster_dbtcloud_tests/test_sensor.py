"""The polling sensor on a sandbox with history: what dbt Cloud did is told, and told once."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_dbtcloud import (
    DbtCloudWorkspace,
    build_dbt_cloud_polling_sensor,
    dbt_cloud_assets,
    load_dbt_cloud_asset_specs,
)
from dagster_dbtcloud.errors import AuthenticationError
from dagster_dbtcloud.marker import Marker
from dagster_dbtcloud.recorded import key_of
from dagster_dbtcloud.sandbox import Fault, PastStep, Sandbox
from dagster_dbtcloud.sensor import OVERLAP, PATIENCE, Cursor, observer_of
from dagster_dbtcloud_tests.conftest import SkippingClock
from dagster_dbtcloud_tests.observing import results
from dagster_dbtcloud_tests.stage import Stage, run_results

CUSTOMERS = "model.tiny.customers"
ORDERS = "model.tiny.orders"


def step(command: str, *entries: tuple[str, str], **more: Any) -> PastStep:
    """A step of the past and the results it left."""
    which = command.split()[1]
    return PastStep(
        command, artifacts={"run_results.json": run_results(*entries, which=which)}, **more
    )


class Observer:
    """A code location with a polling sensor, ticked by hand."""

    def __init__(self, workspace: DbtCloudWorkspace, instance: dg.DagsterInstance) -> None:
        @dbt_cloud_assets(workspace=workspace)
        def dbt_project(
            context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace
        ) -> Iterator[Any]:
            yield from dbt_cloud.cli(["build"], context=context).wait()

        self.workspace = workspace
        self.instance = instance
        self.assets = dbt_project
        self.sensor = build_dbt_cloud_polling_sensor(workspace=workspace)
        self.use(assets=[dbt_project])

    def use(self, **definitions: Any) -> None:
        defs = dg.Definitions(
            sensors=[self.sensor], resources={"dbt_cloud": self.workspace}, **definitions
        )
        self.repository = defs.get_repository_def()
        self.cursor: str | None = None
        self.message = ""

    def tick(self) -> list[Any]:
        """Evaluate the sensor once; return its events, and store all as the daemon does."""
        with dg.build_sensor_context(
            instance=self.instance, cursor=self.cursor, repository_def=self.repository
        ) as context:
            data = self.sensor.evaluate_tick(context)
        for event in data.asset_events:
            self.instance.report_runless_asset_event(event)
        self.cursor = data.cursor
        self.message = data.skip_message or ""
        return list(data.asset_events)


def told(events: list[Any]) -> list[tuple[str, str]]:
    """Each event as (kind, key), for comparing."""
    words = {
        dg.AssetMaterialization: "materialized",
        dg.AssetObservation: "observed",
        dg.AssetCheckEvaluation: "checked",
    }
    return [
        (
            words[type(event)],
            event.check_name
            if isinstance(event, dg.AssetCheckEvaluation)
            else event.asset_key.to_user_string(),
        )
        for event in events
    ]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """In memory: Dagster's own storage on disk is tested with a daemon that is killed."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def observer(
    workspace: DbtCloudWorkspace, instance: dg.DagsterInstance, clock: SkippingClock
) -> Observer:
    """Its first tick is done: what comes now is new. Older runs lie outside the overlap."""
    clock.skip(3 * OVERLAP.total_seconds())
    observer = Observer(workspace, instance)
    assert observer.tick() == []
    return observer


def test_a_real_run_is_recorded_once(observer: Observer, sandbox: Sandbox, nightly: int) -> None:
    """What dbt built and tested in dbt Cloud becomes materializations and check evaluations."""
    run = sandbox.wait(sandbox.trigger(nightly, cause_category="scheduled"), timeout=120)
    events = observer.tick()
    kinds = told(events)
    assert len([kind for kind, _ in kinds if kind == "materialized"]) == 6
    assert len([kind for kind, _ in kinds if kind == "checked"]) == 7
    assert len(kinds) == 13
    assert {event.metadata["dbt_cloud_run_id"].value for event in events} == {str(run["id"])}
    assert observer.message.startswith("1 run, 6 materializations, 7 checks")
    assert observer.tick() == []
    assert "nothing new" in observer.message


def test_a_tick_without_news_costs_one_request(observer: Observer, sandbox: Sandbox) -> None:
    """No manifest is loaded, no run is read again."""
    sandbox.clear_requests()
    observer.tick()
    assert [request.path.rstrip("/").rsplit("/", 1)[1] for request in sandbox.requests] == ["runs"]


def test_specs_without_an_executable_definition_are_enough(
    observer: Observer, sandbox: Sandbox, nightly: int
) -> None:
    """Who only observes declares specs; checks that are not declared are named, not recorded."""
    observer.use(assets=load_dbt_cloud_asset_specs(observer.workspace))
    observer.tick()
    sandbox.insert_run(
        nightly, steps=[step("dbt build", (ORDERS, "success"), ("test.tiny.x.1", "pass"))]
    )
    assert told(observer.tick()) == [("materialized", "orders")]
    assert "1 node not declared here: test.tiny.x.1" in observer.message


def test_every_building_step_counts(observer: Observer, sandbox: Sandbox, nightly: int) -> None:
    """A job of several commands, the last of which is docs, loses none of its steps."""
    sandbox.insert_run(
        nightly,
        steps=[
            step("dbt seed", ("seed.tiny.raw_orders", "success")),
            step("dbt run", (ORDERS, "success"), (CUSTOMERS, "success")),
            step("dbt compile", ("model.tiny.slow", "success")),
            step("dbt docs generate", ("model.tiny.slow", "success")),
        ],
    )
    assert told(observer.tick()) == [
        ("materialized", "raw_orders"),
        ("materialized", "orders"),
        ("materialized", "customers"),
    ]


def test_what_an_earlier_step_left_is_told_once(
    observer: Observer, sandbox: Sandbox, nightly: int, clock: SkippingClock
) -> None:
    """Where steps share a folder of artifacts, one that wrote none shows those before it."""
    sandbox.behaviour.shared_target = True
    try:
        sandbox.insert_run(
            nightly,
            status=20,
            steps=[
                step("dbt run", (ORDERS, "success")),
                PastStep("dbt test", status=20, logs="Parsing Error"),
            ],
        )
    finally:
        sandbox.behaviour.shared_target = False
    events = observer.tick()
    clock.skip(PATIENCE.total_seconds())
    assert told([*events, *observer.tick()]) == [("materialized", "orders")]


@pytest.mark.parametrize("command", ["dbt compile", "dbt parse", "dbt docs generate"])
def test_a_run_that_builds_nothing_moves_the_cursor(
    observer: Observer, sandbox: Sandbox, nightly: int, command: str
) -> None:
    """It is met once, and what finishes after it is not lost."""
    sandbox.insert_run(nightly, steps=[step(command, (ORDERS, "success"))])
    assert observer.tick() == []
    sandbox.insert_run(nightly, steps=[step("dbt run", (ORDERS, "success"))])
    assert told(observer.tick()) == [("materialized", "orders")]


def test_a_failed_run_tells_what_it_built_and_what_failed(
    observer: Observer, sandbox: Sandbox, nightly: int
) -> None:
    """Failed and skipped nodes are observations with dbt's message and the run's link."""
    run_id = sandbox.insert_run(
        nightly,
        status=20,
        steps=[
            step(
                "dbt build",
                ("seed.tiny.raw_orders", "success"),
                (ORDERS, "error"),
                (CUSTOMERS, "skipped"),
                status=20,
            )
        ],
    )
    events = observer.tick()
    assert told(events) == [
        ("materialized", "raw_orders"),
        ("observed", "orders"),
        ("observed", "customers"),
    ]
    assert events[1].metadata["message"].value == "dbt says error"
    assert str(run_id) in events[1].metadata["dbt_cloud_run"].value


@pytest.mark.parametrize(
    "override",
    [
        {"cause_category": "ci"},
        {"github_pull_request_id": 7},
        {"gitlab_merge_request_id": 7},
        {"schema_override": "dbt_cloud_pr_7"},
        {"target_name_override": "dev"},
    ],
    ids=lambda override: next(iter(override)),
)
def test_runs_that_are_not_production_are_left_out(
    observer: Observer, sandbox: Sandbox, nightly: int, override: dict[str, Any]
) -> None:
    """A pull request's tables are not the tables that Dagster shows."""
    sandbox.insert_run(nightly, steps=[step("dbt run", (ORDERS, "success"))], **override)
    assert observer.tick() == []
    assert "left out" in observer.message


def test_our_own_run_is_not_recorded_twice(observer: Observer) -> None:
    """A step that recorded its results has told it all."""
    result = dg.materialize(
        [observer.assets],
        resources={"dbt_cloud": observer.workspace},
        instance=observer.instance,
        selection="slow",
    )
    assert result.success
    assert observer.tick() == []
    assert "recorded by the Dagster step" in observer.message


@pytest.mark.parametrize(
    ("status", "recorded"),
    [(dg.DagsterRunStatus.STARTED, False), (dg.DagsterRunStatus.FAILURE, True)],
    ids=["alive", "killed"],
)
def test_a_run_whose_step_died_is_recorded_here(
    observer: Observer,
    sandbox: Sandbox,
    nightly: int,
    status: dg.DagsterRunStatus,
    recorded: bool,
) -> None:
    """While the step lives it will tell; when it was killed, the sensor does."""
    dagster_run = observer.instance.create_run_for_job(
        dg.define_asset_job("job").resolve(asset_graph=observer.repository.asset_graph),
        status=status,
    )
    cause = Marker(dagster_run.run_id, "dbt_project", 0, 0).cause()
    sandbox.insert_run(
        nightly, cause=cause, cause_category="api", steps=[step("dbt run", (ORDERS, "success"))]
    )
    assert told(observer.tick()) == ([("materialized", "orders")] if recorded else [])
    if not recorded:
        observer.instance.report_run_failed(dagster_run)
    assert told(observer.tick()) == ([] if recorded else [("materialized", "orders")])
    assert observer.tick() == []


def test_a_run_of_another_deployment_is_recorded(
    observer: Observer, sandbox: Sandbox, nightly: int
) -> None:
    """Its Dagster run is unknown here."""
    cause = Marker("11111111-2222-3333-4444-555555555555", "dbt_project", 0, 0).cause()
    sandbox.insert_run(nightly, cause=cause, steps=[step("dbt run", (ORDERS, "success"))])
    assert told(observer.tick()) == [("materialized", "orders")]


def test_late_results_are_waited_for_and_nobody_waits_for_them(
    observer: Observer, sandbox: Sandbox, nightly: int, clock: SkippingClock
) -> None:
    """A run without its artifacts is met again; the others go on; nothing is told twice."""
    now = clock.now()
    late = sandbox.insert_run(
        nightly,
        finished_at=now,
        artifacts_at=now + timedelta(minutes=5),
        steps=[step("dbt run", (ORDERS, "success"))],
    )
    sandbox.insert_run(
        nightly,
        finished_at=now + timedelta(seconds=1),
        steps=[step("dbt run", (CUSTOMERS, "success"))],
    )
    assert told(observer.tick()) == [("materialized", "customers")]
    assert f"1 run waiting for its results: {late}" in observer.message
    assert observer.tick() == []
    clock.skip(301)
    assert told(observer.tick()) == [("materialized", "orders")]
    assert observer.tick() == []


def test_a_run_that_is_listed_late_is_not_lost(
    observer: Observer, sandbox: Sandbox, nightly: int, clock: SkippingClock
) -> None:
    """It appears in the list after a run that finished later."""
    now = clock.now()
    sandbox.insert_run(
        nightly,
        finished_at=now,
        listed_at=now + timedelta(minutes=2),
        steps=[step("dbt run", (ORDERS, "success"))],
    )
    sandbox.insert_run(
        nightly,
        finished_at=now + timedelta(seconds=30),
        steps=[step("dbt run", (CUSTOMERS, "success"))],
    )
    assert told(observer.tick()) == [("materialized", "customers")]
    clock.skip(121)
    assert told(observer.tick()) == [("materialized", "orders")]


@pytest.mark.parametrize("content", [b"{", b"<html>", b"[]", b'{"metadata": {}}'])
def test_a_damaged_result_stops_nobody(
    observer: Observer,
    sandbox: Sandbox,
    nightly: int,
    clock: SkippingClock,
    content: bytes,
) -> None:
    """It is tried again for a while, then left, and named; the other runs go on meanwhile."""
    bad = sandbox.insert_run(
        nightly, steps=[PastStep("dbt run", artifacts={"run_results.json": content})]
    )
    sandbox.insert_run(nightly, steps=[step("dbt run", (ORDERS, "success"))])
    assert told(observer.tick()) == [("materialized", "orders")]
    assert observer.tick() == []
    assert str(bad) in observer.message
    clock.skip(PATIENCE.total_seconds() + 5)
    assert observer.tick() == []
    assert f"given up: run {bad}" in observer.message
    assert observer.tick() == []
    assert f"nothing new in dbt Cloud; given up earlier: run {bad}" in observer.message


def test_an_outage_ends_the_tick_and_loses_nothing(
    observer: Observer, sandbox: Sandbox, nightly: int
) -> None:
    """What was read before it is told; the rest comes with a later tick."""
    first = sandbox.insert_run(nightly, steps=[step("dbt run", (ORDERS, "success"))])
    later = [
        sandbox.insert_run(nightly, steps=[step("dbt run", (CUSTOMERS, "success"))])
        for _ in range(3)
    ]
    for run_id in later:
        path = f"*/runs/{run_id}/*"
        sandbox.faults.add(Fault("status", status=503, path=path, count=None))
    events = observer.tick()
    assert told(events) == [("materialized", "orders")]
    assert events[0].metadata["dbt_cloud_run_id"].value == str(first)
    assert "stopped early" in observer.message
    sandbox.faults.clear()
    assert told(observer.tick()) == [("materialized", "customers")] * 3


def test_a_dbt_cloud_that_is_down_keeps_the_cursor(observer: Observer, sandbox: Sandbox) -> None:
    """The tick says so, and changes nothing."""
    before = Cursor.from_json(observer.cursor)
    sandbox.faults.add(Fault("lost", count=None))
    assert observer.tick() == []
    after = Cursor.from_json(observer.cursor)
    assert before is not None
    assert after is not None
    assert (after.finished_at, after.done) == (before.finished_at, before.done)
    assert "stopped early" in observer.message


def test_a_refused_token_fails_the_tick(observer: Observer, sandbox: Sandbox) -> None:
    """The user has to act, so the tick is red and says what to do."""
    sandbox.faults.add(Fault("status", status=401, path="*/runs*", count=None))
    with pytest.raises(AuthenticationError, match="401"):
        observer.tick()


def test_many_runs_with_one_finish_time(
    observer: Observer, sandbox: Sandbox, nightly: int, clock: SkippingClock
) -> None:
    """More runs than a page holds, all finished in the same second: each is told once."""
    now = clock.now()
    runs = [
        sandbox.insert_run(nightly, finished_at=now, steps=[step("dbt run", (ORDERS, "success"))])
        for _ in range(130)
    ]
    events = observer.tick() + observer.tick() + observer.tick()
    assert sorted(int(event.metadata["dbt_cloud_run_id"].value) for event in events) == runs


def test_partitioned_assets_get_the_partition_that_a_function_finds(
    observer: Observer, sandbox: Sandbox, nightly: int
) -> None:
    """Without one, a run of a partitioned asset is an observation, not a lie about a partition."""
    daily = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-02-01")
    specs = [
        spec.replace_attributes(partitions_def=daily)
        for spec in load_dbt_cloud_asset_specs(observer.workspace)
    ]
    built = [step("dbt run", (ORDERS, "success"))]
    observer.use(assets=specs)
    observer.tick()
    sandbox.insert_run(nightly, steps=built)
    assert told(observer.tick()) == [("observed", "orders")]
    observer.sensor = build_dbt_cloud_polling_sensor(
        workspace=observer.workspace,
        partition_key_fn=lambda _run, args: str(args["which"] == "run" and "2026-01-02"),
    )
    sandbox.insert_run(nightly, steps=built)
    (event,) = observer.tick()
    assert event.partition == "2026-01-02"


@pytest.mark.parametrize(
    ("status", "failed", "expected"),
    [
        ("success", [], [("materialized", "2026-01-02"), ("materialized", "2026-01-03")]),
        (
            "partial success",
            [["2026-01-03T00:00:00+00:00", "2026-01-03T12:00:00+00:00"]],
            [("materialized", "2026-01-02"), ("observed", "2026-01-03")],
        ),
    ],
)
def test_microbatches_tell_their_partitions(
    observer: Observer,
    sandbox: Sandbox,
    nightly: int,
    status: str,
    failed: list[list[str]],
    expected: list[tuple[str, str]],
) -> None:
    """A job of dbt Cloud's own names no partition; the batches do. Half a day is none."""
    daily = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-02-01")
    specs = load_dbt_cloud_asset_specs(observer.workspace)
    observer.use(assets=[spec.replace_attributes(partitions_def=daily) for spec in specs])
    observer.tick()
    halves = [
        *(("2026-01-02T00:00:00+00:00", "2026-01-02T12:00:00+00:00"),),
        *(("2026-01-02T12:00:00+00:00", "2026-01-03T00:00:00+00:00"),),
        *(("2026-01-03T00:00:00+00:00", "2026-01-03T12:00:00+00:00"),),
        *(("2026-01-03T12:00:00+00:00", "2026-01-04T00:00:00+00:00"),),
        *(("2026-01-04T00:00:00+00:00", "2026-01-04T12:00:00+00:00"),),
    ]
    good = [[*half] for half in halves if [*half] not in failed]
    content = run_results(
        (ORDERS, status), batches={ORDERS: {"successful": good, "failed": failed}}
    )
    built = PastStep("dbt build", artifacts={"run_results.json": content})
    sandbox.insert_run(nightly, steps=[built])
    events = observer.tick()
    assert [(told([event])[0][0], event.partition) for event in events] == expected


_DAILY = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-04")
_OF_TENANTS = dg.DynamicPartitionsDefinition(name="tenants")


@pytest.mark.parametrize(
    ("partitions", "variables", "expected"),
    [
        (
            _DAILY,
            {"start_date": "1900-01-01", "end_date": "9999-12-31"},
            ["2026-01-01", "2026-01-02", "2026-01-03"],
        ),
        (dg.DailyPartitionsDefinition("2100-01-01"), {"min_date": "x", "max_date": "y"}, [None]),
        (_OF_TENANTS, {"tenant": "acme"}, ["acme"]),
        (
            dg.MultiPartitionsDefinition({"day": _DAILY, "tenant": _OF_TENANTS}),
            {"partition_key": "2026-01-02|acme"},
            ["2026-01-02|acme"],
        ),
        (
            dg.MultiPartitionsDefinition({"day": _DAILY, "tenant": _OF_TENANTS}),
            {"partition_key": "2026-01-02|nobody"},
            [None],
        ),
    ],
    ids=["all of time", "none yet", "dynamic", "dynamic and daily", "of nobody"],
)
def test_dbts_vars_tell_the_partitions(
    observer: Observer,
    sandbox: Sandbox,
    nightly: int,
    partitions: dg.PartitionsDefinition[Any],
    variables: dict[str, str],
    expected: list[str | None],
) -> None:
    """Of any kind of partitions, and at once: Dagster itself walks to the year 9999 for a minute,
    in which the tick dies.
    """
    observer.instance.add_dynamic_partitions("tenants", ["acme"])
    specs = load_dbt_cloud_asset_specs(observer.workspace)
    observer.use(assets=[spec.replace_attributes(partitions_def=partitions) for spec in specs])
    observer.tick()
    content = results([(ORDERS, "success")], vars=variables)
    sandbox.insert_run(
        nightly, steps=[PastStep("dbt build", artifacts={"run_results.json": content})]
    )
    begun = time.process_time()
    events = observer.tick()
    assert time.process_time() - begun < 10
    assert [event.partition for event in events] == expected


@pytest.mark.parametrize("text", ["", "{", "null", '{"version": 1}', "[]", '{"last": 3}'])
def test_a_cursor_that_is_not_ours_starts_anew(text: str) -> None:
    """Another library's cursor, or a broken one, does not stop the sensor for ever."""
    assert Cursor.from_json(text) is None


def test_the_name_is_safe_and_needs_no_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A definition's name is made without resolving anything."""
    monkeypatch.delenv("DBT_CLOUD_PROJECT_ID", raising=False)
    workspace = DbtCloudWorkspace(
        account_id=1, token="t", project_id=dg.EnvVar("DBT_CLOUD_PROJECT_ID")
    )
    sensor = build_dbt_cloud_polling_sensor(workspace=workspace)
    assert sensor.name == "dbt_cloud_DBT_CLOUD_PROJECT_ID_polling_sensor"


def test_environments_that_share_a_manifest_keep_their_assets_apart(stage: Stage) -> None:
    """Staging and production from one file: a run of the one is not told of the other's assets."""
    raw = json.loads(stage.manifest)
    environments = {
        "staging": stage.sandbox.create_environment("staging"),
        "production": stage.sandbox.environment_id,
    }
    sensors, assets = {}, []
    for prefix, environment_id in environments.items():
        workspace = stage.workspace(manifest=raw, environment_id=environment_id)

        @dbt_cloud_assets(workspace=workspace, name=prefix)
        def dbt_project() -> Iterator[Any]:
            yield from ()  # only dbt Cloud runs it

        keys = {key: key.with_prefix(prefix) for key in dbt_project.keys}
        assets.append(dbt_project.with_attributes(asset_key_replacements=keys))
        sensors[prefix] = build_dbt_cloud_polling_sensor(workspace=workspace, name=prefix)
    repository = dg.Definitions(assets=assets, sensors=[*sensors.values()]).get_repository_def()
    test = next(each for each in raw["nodes"] if each.startswith("test.tiny.unique_orders"))
    for prefix, environment_id in environments.items():
        job = stage.sandbox.create_job(prefix, ["dbt build"], environment_id=environment_id)
        stage.sandbox.insert_run(
            job, steps=[step("dbt build", (ORDERS, "success"), (test, "pass"))]
        )
    for prefix, sensor in sensors.items():
        with (
            dg.DagsterInstance.ephemeral() as instance,
            dg.build_sensor_context(instance=instance, repository_def=repository) as context,
        ):
            events = sensor.evaluate_tick(context).asset_events
        assert [key_of(event) for event in events] == [
            dg.AssetKey([prefix, "orders"]),
            dg.AssetCheckKey(dg.AssetKey([prefix, "orders"]), "unique_orders_id"),
        ]


def test_a_manifest_that_is_written_anew_keeps_what_is_loaded(
    stage: Stage, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """A checkout is updated under a running code location: its assets are told until a reload."""
    path = tmp_path / "manifest.json"
    path.write_bytes(stage.manifest)
    observer = Observer(stage.workspace(manifest=path), instance)
    observer.tick()
    path.write_bytes(stage.another_manifest())
    stage.put(step("dbt run", (ORDERS, "success")))
    assert told(observer.tick()) == [("materialized", "orders")]


def test_a_state_of_an_environment_that_was_production_still_serves(
    workspace: DbtCloudWorkspace,
) -> None:
    """A component's state keeps the ids that it was written with; its assets are still told."""
    state = workspace.load_state()
    assert state.pointer is not None
    pointer = replace(state.pointer, ids=replace(state.pointer.ids, environment_id=7))
    held = workspace.at_state(replace(state, pointer=pointer))
    sensor = build_dbt_cloud_polling_sensor(workspace=held)
    defs = dg.Definitions(assets=load_dbt_cloud_asset_specs(held), sensors=[sensor])
    observer = observer_of(sensor)
    assert observer is not None
    assert ORDERS in observer.scope(defs.get_repository_def()).declared.asset_keys


def test_two_sensors_read_their_code_location_once_each(stage: Stage) -> None:
    """Not at every tick because the other one's tick came in between."""
    stage.built()
    prefixes = ("one", "two")
    raws = [json.loads(stage.another_manifest(prefix)) for prefix in prefixes]
    workspaces = [stage.workspace(manifest=raw) for raw in raws]
    sensors = [
        build_dbt_cloud_polling_sensor(workspace=workspace, name=prefix)
        for prefix, workspace in zip(prefixes, workspaces, strict=True)
    ]
    specs = [
        spec.replace_attributes(key=spec.key.with_prefix(prefix))
        for prefix, workspace in zip(prefixes, workspaces, strict=True)
        for spec in load_dbt_cloud_asset_specs(workspace)
    ]
    repository = dg.Definitions(assets=specs, sensors=sensors).get_repository_def()
    one, two = (observer_of(sensor) for sensor in sensors)
    assert one is not None
    assert two is not None
    scope = one.scope(repository)
    assert {key.path[0] for key in scope.declared.asset_keys.values()} == {"one"}
    assert {key.path[0] for key in two.scope(repository).declared.asset_keys.values()} == {"two"}
    assert one.scope(repository) is scope
