"""`@dbt_cloud_assets` on real dbt: what Dagster selects is what dbt runs, and it is told."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg
import pytest

from dagster_dbtcloud import DagsterDbtTranslator, DbtCloudWorkspace, dbt_cloud_assets
from dagster_dbtcloud.errors import ConfigError
from dagster_dbtcloud.sandbox import Fault, Sandbox
from dagster_dbtcloud_tests.conftest import MakeWorkspace
from dagster_dbtcloud_tests.stage import Stage

ASSETS = {"raw_orders", "orders", "customers", "orders_by_day", "orders_history", "slow"}
CHECKS = {
    ("raw_orders", "unique_raw_orders_id"),
    ("raw_orders", "not_null_raw_orders_id"),
    ("orders", "unique_orders_id"),
    ("orders", "not_null_orders_amount"),
    ("orders", "amounts_are_large_enough"),
    ("customers", "unique_customers_customer"),
    ("customers", "customers_are_summed"),
}


class Done:
    """One materialization in Dagster, and what its event log holds afterwards."""

    def __init__(self, result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> None:
        self.result = result
        self.success = result.success
        self.events = [entry.dagster_event for entry in instance.all_logs(result.run_id)]
        self.run = instance.get_run_by_id(result.run_id)
        self.log = [entry.user_message for entry in instance.all_logs(result.run_id)]

    @property
    def materialized(self) -> list[dg.AssetMaterialization]:
        events = self.result.get_asset_materialization_events()
        return [event.materialization for event in events]

    @property
    def assets(self) -> list[str]:
        return [each.asset_key.to_user_string() for each in self.materialized]

    @property
    def checks(self) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
        evaluations = self.result.get_asset_check_evaluations()
        return {(each.asset_key.to_user_string(), each.check_name): each for each in evaluations}

    @property
    def failure(self) -> Any:
        (event,) = self.result.get_step_failure_events()
        return event.step_failure_data


class Project:
    """The decorated assets of a workspace, run in process with dbt words of a test's choice."""

    def __init__(self, workspace: DbtCloudWorkspace, instance: dg.DagsterInstance) -> None:
        self.workspace = workspace
        self.instance = instance

    def define(self, words: Sequence[str] = ("build",), **arguments: Any) -> dg.AssetsDefinition:
        @dbt_cloud_assets(workspace=self.workspace, **arguments)
        def dbt_project(
            context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace
        ) -> Iterator[Any]:
            yield from dbt_cloud.cli([*words], context=context).wait()

        return dbt_project

    def run(
        self,
        *words: str,
        selection: dg.AssetSelection | None = None,
        partition_key: str | None = None,
        **arguments: Any,
    ) -> Done:
        result = dg.materialize(
            [self.define(words or ("build",), **arguments)],
            resources={"dbt_cloud": self.workspace},
            instance=self.instance,
            selection=selection,
            partition_key=partition_key,
            raise_on_error=False,
        )
        return Done(result, self.instance)


@pytest.fixture
def project(workspace: DbtCloudWorkspace, instance: dg.DagsterInstance) -> Project:
    return Project(workspace, instance)


def commands(sandbox: Sandbox) -> list[str]:
    """What dbt was really told in the newest run."""
    return list(sandbox.runs()[-1]["trigger"]["steps_override"])


def ran(sandbox: Sandbox) -> int:
    return len(sandbox.runs())


# --- what is selected is what runs ---------------------------------------------------------------


def test_everything(project: Project, sandbox: Sandbox) -> None:
    """All assets and checks come from one dbt Cloud run, in the order of dbt's completion."""
    before = ran(sandbox)
    done = project.run()
    assert done.success
    assert ran(sandbox) == before + 1
    assert set(done.assets) == ASSETS
    assert len(done.assets) == len(ASSETS)
    assert done.checks.keys() == CHECKS
    assert all(check.passed for check in done.checks.values())
    assert done.assets.index("raw_orders") < done.assets.index("orders")
    assert done.assets.index("orders") < done.assets.index("customers")
    assert commands(sandbox) == ["dbt build --select 'fqn:*'"]


@pytest.mark.parametrize(
    ("selection", "assets", "checks"),
    [
        (
            dg.AssetSelection.assets("orders"),
            {"orders"},
            {check for check in CHECKS if check[0] == "orders"},
        ),
        (dg.AssetSelection.assets("orders").without_checks(), {"orders"}, set()),
        (
            dg.AssetSelection.checks_for_assets(dg.AssetKey("orders")),
            set(),
            {check for check in CHECKS if check[0] == "orders"},
        ),
        (
            dg.AssetSelection.checks(
                dg.AssetCheckKey(dg.AssetKey("customers"), "customers_are_summed")
            ),
            set(),
            {("customers", "customers_are_summed")},
        ),
        (
            dg.AssetSelection.assets("slow")
            | dg.AssetSelection.checks(
                dg.AssetCheckKey(dg.AssetKey("customers"), "customers_are_summed")
            ),
            {"slow"},
            {("customers", "customers_are_summed")},
        ),
        (
            dg.AssetSelection.assets("raw_orders", "slow").without_checks(),
            {"raw_orders", "slow"},
            set(),
        ),
    ],
    ids=[
        "an asset",
        "an asset without checks",
        "its checks",
        "a unit test",
        "an asset and another's unit test",
        "two assets",
    ],
)
def test_a_subset_runs_exactly_that(
    project: Project,
    sandbox: Sandbox,
    selection: dg.AssetSelection,
    assets: set[str],
    checks: set[tuple[str, str]],
) -> None:
    """Dagster's selection and dbt's own record of what it ran agree."""
    done = project.run(selection=selection)
    assert done.success
    assert set(done.assets) == assets
    assert done.checks.keys() == checks
    run = sandbox.runs()[-1]
    with project.workspace.get_client() as client:
        artifacts = [
            client.artifact(run["id"], "run_results.json", step=step["index"])
            for step in run["run_steps"][3:]
        ]
    ran = [result for artifact in artifacts for result in json.loads(artifact)["results"]]
    assert len(ran) == len(assets) + len(checks)


def test_a_selection_of_the_definition_is_kept(project: Project, sandbox: Sandbox) -> None:
    """A definition over a part of the project gives dbt its own words."""
    done = project.run(select="tag:core", exclude="orders")
    assert done.success
    assert done.assets == ["customers"]
    assert commands(sandbox) == ["dbt build --select tag:core --exclude orders"]


def test_words_with_a_selection_of_their_own_are_left_alone(
    project: Project, sandbox: Sandbox
) -> None:
    """Who writes ``--select`` means it; what it builds beyond the step's assets is history, too."""
    done = project.run("build", "--select", "raw_orders", select="slow")
    assert commands(sandbox) == ["dbt build --select raw_orders"]
    assert done.success
    assert done.assets == []


def test_parents_whose_joined_names_are_equal_are_all_waited_for(
    stage: Stage, instance: dg.DagsterInstance
) -> None:
    """Dagster would call both inputs ``raw_b_c``, and forget one and the order of the steps."""
    stage.built()
    stage.play(("model.tiny.orders", "success"))
    keys = {"seed": dg.AssetKey(["raw", "b_c"]), "source": dg.AssetKey(["raw_b", "c"])}

    class Translator(DagsterDbtTranslator):
        def get_asset_key(self, props: Any) -> dg.AssetKey:
            return keys.get(props["resource_type"]) or super().get_asset_key(props)

    order: list[str] = []
    workspace = stage.workspace()

    @dbt_cloud_assets(
        workspace=workspace, select="orders", dagster_dbt_translator=Translator(), name="dbt"
    )
    def dbt(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        order.append("dbt")
        yield from dbt_cloud.cli(["build"], context=context).wait()

    @dg.multi_asset(specs=[dg.AssetSpec(keys["seed"])], name="seed")
    def seed() -> None:
        order.append("seed")

    @dg.multi_asset(specs=[dg.AssetSpec(keys["source"])], name="source")
    def source() -> None:
        order.append("source")

    assert set(dbt.keys_by_input_name.values()) >= {*keys.values()}
    assert dbt.asset_deps[dg.AssetKey("orders")] == {*keys.values()}
    assert dg.materialize(
        [dbt, seed, source], resources={"dbt_cloud": workspace}, instance=instance
    ).success
    assert order[-1] == "dbt"
    assert sorted(order) == ["dbt", "seed", "source"]


def test_an_empty_selection_is_refused(workspace: DbtCloudWorkspace) -> None:
    """The message names the selection."""
    with pytest.raises(ConfigError, match="tag:nothing_has_this"):
        dbt_cloud_assets(workspace=workspace, select="tag:nothing_has_this")


@pytest.mark.parametrize("words", [["compile"], ["docs", "generate"]])
def test_commands_that_build_nothing_materialize_nothing(
    project: Project, words: list[str]
) -> None:
    """``dbt compile`` reports success for each model; no table was touched."""
    done = project.run(*words, select="slow")
    assert done.success
    assert done.assets == []


# --- what is told --------------------------------------------------------------------------------


def test_metadata_and_tags_of_a_materialization(project: Project, sandbox: Sandbox) -> None:
    """Each event says which run built it; the Dagster run and dbt Cloud's run name each other."""
    done = project.run(selection=dg.AssetSelection.assets("raw_orders").without_checks())
    run = sandbox.runs()[-1]
    (event,) = done.materialized
    metadata = {key: value.value for key, value in event.metadata.items()}
    assert metadata["dbt_cloud_run_id"] == str(run["id"])
    assert metadata["dbt_cloud_run"] == run["href"]
    assert metadata["unique_id"] == "seed.tiny.raw_orders"
    assert metadata["status"] == "success"
    assert metadata["rows_affected"] == 3
    assert {"invocation_id", "execution_duration", "completed_at"} <= metadata.keys()
    assert event.tags is not None
    assert event.tags["dagster_dbtcloud/run_id"] == str(run["id"])
    assert done.run is not None
    assert done.run.tags[f"dagster_dbtcloud/run/{run['id']}"] == "recorded"
    assert done.run.run_id in run["trigger"]["cause"]
    assert "step dbt_project" in run["trigger"]["cause"]


def test_the_log_has_the_link_and_dbts_own_lines(project: Project, sandbox: Sandbox) -> None:
    """The link comes before anything else; each line of the step's log stands there once."""
    done = project.run(selection=dg.AssetSelection.assets("raw_orders").without_checks())
    href = sandbox.runs()[-1]["href"]
    link = next(number for number, text in enumerate(done.log) if href in text)
    lines = "\n".join(done.log)
    assert link < next(number for number, text in enumerate(done.log) if "Running with dbt" in text)
    assert lines.count("OK loaded seed file") == 1
    assert lines.count("Done. PASS=1") == 1


def test_a_failed_model(project: Project, sandbox: Sandbox) -> None:
    """What was built is recorded; the failure carries dbt's message, a table and the link."""
    done = project.run("build", "--vars", "{break_orders: true}")
    assert not done.success
    assert set(done.assets) == {"raw_orders", "slow"}
    failure = done.failure.user_failure_data
    assert "model.tiny.orders" in failure.description
    assert "no_such_column" in failure.description
    table = failure.metadata["failed_nodes"].records
    assert [record.data["node"] for record in table] == ["model.tiny.orders"]
    assert failure.metadata["dbt_cloud_run"].value == sandbox.runs()[-1]["href"]
    assert not any(asset == "customers" for asset, _ in done.checks)


@pytest.mark.parametrize("severity", ["error", "warn"])
def test_a_failed_test(project: Project, severity: str) -> None:
    """A failed test is a failed check with its rows; as an error it fails the step, too."""
    words = json.dumps({"min_amount": 15, "amount_severity": severity})
    done = project.run("build", "--vars", words, selection=dg.AssetSelection.assets("orders"))
    check = done.checks[("orders", "amounts_are_large_enough")]
    assert not check.passed
    assert check.severity.value == severity.upper()
    assert check.metadata["failed_row_count"].value == 1
    assert done.success == (severity == "warn")
    assert done.assets == ["orders"]


def test_a_project_that_does_not_parse(project: Project) -> None:
    """No node tells of it: the failure shows the end of the step's log."""
    done = project.run("build", "--vars", "{day: [not, a, date}", select="slow")
    assert not done.success
    description = done.failure.user_failure_data.description
    assert "dbt build" in description


def test_a_model_removed_since_the_manifest(
    make_workspace: MakeWorkspace, instance: dg.DagsterInstance
) -> None:
    """dbt selects nothing and is content; the step says which node is gone, and what to do."""
    raw = json.loads(json.dumps(make_workspace().load_state().manifest.raw, default=dict))
    ghost = json.loads(json.dumps(raw["nodes"]["model.tiny.slow"]))
    ghost.update(unique_id="model.tiny.ghost", name="ghost", fqn=["tiny", "ghost"], alias="ghost")
    raw["nodes"]["model.tiny.ghost"] = ghost
    raw["parent_map"]["model.tiny.ghost"] = raw["child_map"]["model.tiny.ghost"] = []
    project = Project(make_workspace(manifest=raw), instance)
    done = project.run(selection=dg.AssetSelection.assets("ghost", "slow"))
    assert not done.success
    assert done.assets == ["slow"]
    assert "model.tiny.ghost" in done.failure.user_failure_data.description
    assert "Reload the code location" in done.failure.user_failure_data.description


def test_partitions(project: Project) -> None:
    """A partition reaches dbt as a variable, and the materialization says which it was."""
    daily = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-05")

    @dbt_cloud_assets(workspace=project.workspace, select="tag:daily", partitions_def=daily)
    def by_day(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        variables = json.dumps({"day": context.partition_key})
        yield from dbt_cloud.cli(["build", "--vars", variables], context=context).wait()

    assert isinstance(by_day.backfill_policy, dg.BackfillPolicy)
    result = dg.materialize(
        [by_day],
        resources={"dbt_cloud": project.workspace},
        instance=project.instance,
        partition_key="2026-01-02",
    )
    (event,) = result.get_asset_materialization_events()
    assert event.partition == "2026-01-02"


# --- faults on the way ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault("lost", method="POST", path="*/run*", after_effect=True),
        Fault("status", method="POST", path="*/run*", status=502, after_effect=True),
        Fault("status", method="POST", path="*/run*", status=503),
        Fault("html", method="POST", path="*/run*", after_effect=True),
        Fault("cut", method="POST", path="*/run*"),
        Fault("status", method="POST", path="*/run*", status=429, count=3),
        Fault("status", method="GET", path="*/runs/*", status=500, count=5),
        Fault("html", method="GET", path="*/artifacts/*", count=2),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}-{fault.method}-{fault.after_effect}",
)
def test_a_fault_on_the_way_neither_loses_nor_repeats_anything(
    project: Project, sandbox: Sandbox, fault: Fault
) -> None:
    """One dbt Cloud run, all its results."""
    definition = project.define(select="slow")  # loads before the fault
    before = ran(sandbox)
    sandbox.faults.add(fault)
    result = dg.materialize(
        [definition],
        resources={"dbt_cloud": project.workspace},
        instance=project.instance,
        raise_on_error=False,
    )
    assert result.success
    assert ran(sandbox) == before + 1
    assert len(result.get_asset_materialization_events()) == 1


def test_results_that_come_late_are_waited_for(project: Project, sandbox: Sandbox) -> None:
    """Artifacts answer 404 for a while after a run is complete."""
    definition = project.define(select="slow")
    sandbox.behaviour.artifacts_seconds = 45.0
    result = dg.materialize(
        [definition], resources={"dbt_cloud": project.workspace}, instance=project.instance
    )
    assert len(result.get_asset_materialization_events()) == 1


def test_a_time_limit_cancels_the_run(
    workspace: DbtCloudWorkspace, instance: dg.DagsterInstance, sandbox: Sandbox
) -> None:
    """A limit that the user sets ends the step, and the dbt Cloud run with it."""

    @dbt_cloud_assets(workspace=workspace, select="slow")
    def slow(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        words = ["build", "--vars", "{slow_rows: 2000000000}"]
        yield from dbt_cloud.cli(words, context=context).wait(timeout=30)

    result = dg.materialize(
        [slow], resources={"dbt_cloud": workspace}, instance=instance, raise_on_error=False
    )
    done = Done(result, instance)
    assert not done.success
    assert "30 s" in done.failure.user_failure_data.description
    run = sandbox.wait(sandbox.runs()[-1]["id"], timeout=30)
    assert run["status_humanized"] == "Cancelled"
