"""Jobs that people made in dbt Cloud: found, refused, run whole and in part, muted, remembered."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_dbtcloud import DbtCloudWorkspace, RunOptionsConfig, dbt_cloud_assets
from dagster_dbtcloud.commands import nodes_of_job
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.errors import ApiError, ConfigError
from dagster_dbtcloud.sandbox import Fault, PastStep
from dagster_dbtcloud_tests.stage import Stage, run_results

STEPS = ("dbt seed", "dbt run --select orders customers", "dbt test --select orders")
BUILT = {"raw_orders", "orders", "customers"}
EVERY = ("orders", "customers", "orders_by_day", "slow")


@pytest.fixture
def job(stage: Stage) -> int:
    """A job of three steps, in an environment that has a manifest; dbt's part is played."""
    stage.built()
    play(stage)
    return stage.sandbox.create_job("three steps", STEPS)


def play(stage: Stage) -> None:
    """Let each command do what its name says, for the nodes that it selects."""
    manifest = Manifest.from_bytes(stage.manifest, origin="the test")

    def script(_: Mapping[str, Any], command: str) -> PastStep:
        nodes = nodes_of_job(manifest, [command], job="the test")
        status = {"test": "pass", "unit_test": "pass"}
        results = [
            (node, status.get(node.split(".")[0], "success"))
            for node in manifest.topological()
            if node in nodes
        ]
        which = command.split()[1]
        artifacts: dict[str, Any] = {"manifest.json": stage.manifest}
        if which in ("build", "run", "seed", "snapshot", "test"):
            artifacts["run_results.json"] = run_results(*results, which=which)
        return PastStep(command, logs=f"played {command}\n", artifacts=artifacts)

    stage.sandbox.play(script)


def triggered(stage: Stage) -> list[dict[str, Any]]:
    """The runs that Dagster started, oldest first."""
    return [run for run in stage.sandbox.runs() if run["trigger"]["cause_category"] == "api"]


def materialize(
    assets: dg.AssetsDefinition,
    workspace: DbtCloudWorkspace,
    instance: dg.DagsterInstance,
    *,
    raise_on_error: bool = True,
    **arguments: Any,
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [assets],
        resources={"dbt_cloud": workspace},
        instance=instance,
        raise_on_error=raise_on_error,
        **arguments,
    )


def built(result: dg.ExecuteInProcessResult) -> set[str]:
    events = result.get_asset_materialization_events()
    return {each.materialization.asset_key.to_user_string() for each in events}


def checked(result: dg.ExecuteInProcessResult) -> set[str]:
    return {each.check_name for each in result.get_asset_check_evaluations()}


def of_job(workspace: DbtCloudWorkspace, job: Any, **arguments: Any) -> dg.AssetsDefinition:
    @dbt_cloud_assets(workspace=workspace, job=job, **arguments)
    def the_job(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        yield from dbt_cloud.run_job(context=context).wait()

    return the_job


# --- found and refused ---------------------------------------------------------------------------


def ways(stage: Stage, job: int) -> list[Any]:
    path = f"deploy/{stage.sandbox.account_id}/projects/{stage.sandbox.project_id}/jobs/{job}"
    return [job, str(job), "three steps", "Three Steps", f"{stage.sandbox.url}/{path}"]


def test_a_job_is_found_by_id_name_and_url(
    stage: Stage, job: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by what an environment variable holds of these."""
    workspace = stage.workspace()
    monkeypatch.setenv("NIGHTLY_JOB", str(job))
    for way in [*ways(stage, job), dg.EnvVar("NIGHTLY_JOB")]:
        assert workspace.load_job(way).id == job
        assert workspace.run_job(way).run.job_id == job


@pytest.mark.parametrize("name", ["Build / nightly", "ci/nightly"])
def test_a_jobs_name_may_hold_slashes(stage: Stage, name: str) -> None:
    """It is a name all the same, and no address."""
    number = stage.sandbox.create_job(name, ["dbt build"])
    assert stage.workspace().load_job(name).id == number


def refused(stage: Stage, workspace: DbtCloudWorkspace, job: Any, said: str) -> None:
    before = len(stage.sandbox.runs())
    for call in (workspace.run_job, workspace.trigger, workspace.load_job):
        with pytest.raises(ConfigError, match=said):
            call(job)
    assert len(stage.sandbox.runs()) == before


def test_a_job_that_is_not_there_is_refused(stage: Stage, job: int) -> None:
    """Before anything is triggered, with what there is."""
    stage.sandbox.delete_job(job)
    workspace = stage.workspace()
    refused(stage, workspace, job, rf"no job {job} that the token may see")
    refused(stage, workspace, "three steps", r"There are: 'nightly'")
    refused(stage, workspace, "", "job is missing")
    refused(stage, workspace, f"{stage.sandbox.url}/deploy/1/projects/2", "account 1, and this")
    path = f"deploy/{stage.sandbox.account_id}/projects/2/runs/3"
    refused(stage, workspace, f"{stage.sandbox.url}/{path}", "not the address of a dbt Cloud job")


def test_a_job_of_another_place_is_refused(stage: Stage, job: int) -> None:
    """Its run would build other tables than those of the assets."""
    other = stage.sandbox.create_environment("Staging")
    staging = stage.sandbox.create_job("staging job", environment_id=other)
    project = stage.sandbox.create_project("Another")
    elsewhere = stage.sandbox.create_job(
        "other project's", environment_id=stage.sandbox.create_environment("P", project_id=project)
    )
    workspace = stage.workspace()
    refused(stage, workspace, staging, f"belongs to environment {other}")
    refused(stage, workspace, "staging job", f"belongs to environment {other}")
    refused(stage, workspace, elsewhere, f"belongs to project {project}")
    assert workspace.load_job(job).id == job


def test_two_jobs_of_one_name_are_refused(stage: Stage, job: int) -> None:
    """dbt Cloud allows it; which one is meant, only the user knows."""
    twin = stage.sandbox.create_job("three steps")
    refused(stage, stage.workspace(), "three steps", rf"2 jobs .*\({job}\).*\({twin}\)")


def test_a_deactivated_job_is_refused(stage: Stage, job: int) -> None:
    """dbt Cloud stopped it for failing; whether it would run is not known."""
    stage.sandbox.update_job(job, deactivated=True)
    refused(stage, stage.workspace(), job, "is deactivated")


# --- run -----------------------------------------------------------------------------------------


def test_the_assets_of_a_job_are_those_its_steps_build(
    stage: Stage, job: int, instance: dg.DagsterInstance
) -> None:
    """All of them: the job runs its own steps, and each step's results are recorded."""
    workspace = stage.workspace()
    assets = of_job(workspace, "three steps")
    assert {key.to_user_string() for key in assets.keys} == BUILT
    result = materialize(assets, workspace, instance)
    assert built(result) == BUILT
    assert checked(result) == {
        "unique_orders_id",
        "not_null_orders_amount",
        "amounts_are_large_enough",
    }
    (run,) = triggered(stage)
    assert run["job_definition_id"] == job
    assert run["trigger"]["steps_override"] is None


def test_a_part_of_a_job_runs_its_steps_for_that(
    stage: Stage, job: int, instance: dg.DagsterInstance
) -> None:
    """What is left of each step; steps with nothing left to do are left out."""
    workspace = stage.workspace()
    orders = dg.AssetSelection.assets("orders")
    assets = of_job(workspace, job)
    result = materialize(assets, workspace, instance, selection=orders)
    assert built(result) == {"orders"}
    alone = materialize(assets, workspace, instance, selection=orders.without_checks())
    assert checked(alone) == set()
    first, second = triggered(stage)
    assert first["job_definition_id"] == job
    run, test = first["trigger"]["steps_override"]
    assert run == "dbt run --select orders --indirect-selection empty"
    assert test.startswith("dbt test --select ")
    assert second["trigger"]["steps_override"] == [run]


def test_steps_that_build_nothing_stay(
    stage: Stage, job: int, instance: dg.DagsterInstance
) -> None:
    """A part of a job still needs its permissions granted."""
    grants = stage.sandbox.create_job("grants", ("dbt run", "dbt run-operation grant"))
    assert grants != job
    workspace = stage.workspace()
    slow = dg.AssetSelection.assets("slow")
    materialize(of_job(workspace, grants), workspace, instance, selection=slow)
    (run,) = triggered(stage)
    assert run["trigger"]["steps_override"] == [
        "dbt run --select slow --indirect-selection empty",
        "dbt run-operation grant",
    ]


def test_a_definition_may_select_among_what_a_job_builds(stage: Stage, job: int) -> None:
    """Two definitions may share a job."""
    assets = of_job(stage.workspace(), job, select="tag:core", exclude="customers")
    assert {key.to_user_string() for key in assets.keys} == {"orders"}
    with pytest.raises(ConfigError, match=r"selects nothing.*'three steps'"):
        of_job(stage.workspace(), job, select="slow")


def test_a_job_whose_nodes_cannot_be_told_is_refused(stage: Stage, job: int) -> None:
    """``state:`` is known to dbt Cloud alone."""
    slim = stage.sandbox.create_job("slim", ("dbt build -s state:modified+",))
    with pytest.raises(ConfigError, match=r"'slim' \(.*`dbt build -s state:modified\+`"):
        of_job(stage.workspace(), slim)
    assert slim != job


def test_cli_runs_in_the_job_of_the_definition(
    stage: Stage, job: int, instance: dg.DagsterInstance
) -> None:
    """With commands of the function's choice, for exactly the job's assets."""
    workspace = stage.workspace()

    @dbt_cloud_assets(workspace=workspace, job=job)
    def the_job(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        yield from dbt_cloud.cli(["build"], context=context).wait()

    result = materialize(the_job, workspace, instance)
    assert built(result) == BUILT
    (run,) = triggered(stage)
    assert run["job_definition_id"] == job
    (step,) = run["trigger"]["steps_override"]
    manifest = Manifest.from_bytes(stage.manifest, origin="the test")
    told = nodes_of_job(manifest, [step], job="it")
    wanted = nodes_of_job(manifest, STEPS, job="it")
    effective = {node for node in told if not node.startswith("exposure.")}
    assert effective == wanted


def test_a_job_may_run_for_any_definition(
    stage: Stage, job: int, instance: dg.DagsterInstance
) -> None:
    """A part that it does not build is refused before anything is triggered."""
    workspace = stage.workspace()

    @dbt_cloud_assets(workspace=workspace)
    def everything(
        context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace
    ) -> Iterator[Any]:
        yield from dbt_cloud.run_job(job, context=context).wait()

    orders = dg.AssetSelection.assets("orders").without_checks()
    assert built(materialize(everything, workspace, instance, selection=orders)) == {"orders"}
    slow = dg.AssetSelection.assets("slow")
    failed = materialize(everything, workspace, instance, selection=slow, raise_on_error=False)
    (failure,) = failed.get_step_failure_events()
    error = failure.step_failure_data.error
    assert error is not None
    assert "does not build model.tiny.slow" in str(error.cause or error)
    assert len(triggered(stage)) == 1


def test_a_retry_runs_what_is_left_of_the_job(
    stage: Stage, job: int, instance: dg.DagsterInstance
) -> None:
    """Its commands for the nodes that failed or were never reached, in the same job."""
    workspace = stage.workspace()
    failures = iter([True])

    def script(_: Mapping[str, Any], command: str) -> PastStep:
        nodes = nodes_of_job(manifest, [command], job="the test")
        fails = "dbt run" in command and next(failures, False)
        status = {"test": "pass", "unit_test": "pass", "model": "success", "seed": "success"}
        results = [
            (node, "error" if fails and "customers" in node else status[node.split(".")[0]])
            for node in sorted(nodes)
        ]
        artifacts = {"run_results.json": run_results(*results, which=command.split()[1])}
        return PastStep(command, status=20 if fails else 10, logs="done\n", artifacts=artifacts)

    manifest = Manifest.from_bytes(stage.manifest, origin="the test")
    stage.sandbox.play(script)

    @dbt_cloud_assets(workspace=workspace, job=job, retry_policy=dg.RetryPolicy(max_retries=1))
    def the_job(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        # dbt Cloud cannot retry a run of so old a dbt by itself
        yield from dbt_cloud.run_job(context=context, dbt_version_override="1.5.0").wait()

    result = materialize(the_job, workspace, instance)
    assert built(result) == BUILT
    assert len(result.get_asset_materialization_events()) == len(BUILT)
    first, second = triggered(stage)
    assert first["job_definition_id"] == second["job_definition_id"] == job
    assert first["trigger"]["steps_override"] is None
    run, test = second["trigger"]["steps_override"]
    assert nodes_of_job(manifest, [run], job="it") == {"model.tiny.customers"}
    assert nodes_of_job(manifest, [test], job="it") == nodes_of_job(manifest, STEPS[2:], job="it")


def test_run_job_without_a_job_says_what_to_do(stage: Stage, job: int) -> None:
    """Outside of a definition of a job there is none to be meant."""
    assert job
    with pytest.raises(ConfigError, match="Give its id, name or URL"):
        stage.workspace().run_job()


# --- options -------------------------------------------------------------------------------------


def test_options_reach_dbt_cloud(stage: Stage, job: int) -> None:
    """Overrides in the trigger, flags on each command that takes them."""
    workspace = stage.workspace()
    overrides: dict[str, Any] = {
        "git_branch": "feature",
        "schema_override": "scratch",
        "target_name_override": "ci",
        "threads_override": 2,
        "dbt_version_override": "1.9.0",
        "generate_docs_override": False,
        "timeout_seconds_override": 600,
    }
    workspace.run_job(job, **overrides)
    workspace.run_job(job, vars={"day": "2026-01-02"}, full_refresh=True)
    workspace.run_job(job, steps_override=["dbt seed"], full_refresh=True)
    workspace.cli(["build", "-s", "orders"], git_sha="abcdef1", full_refresh=True)
    plain, flags, steps, adhoc = (run["trigger"] for run in triggered(stage))
    assert {name: plain[name] for name in overrides} == overrides
    assert plain["steps_override"] is None
    said = """--vars '{"day": "2026-01-02"}'"""
    assert flags["steps_override"] == [
        f"dbt seed {said} --full-refresh",
        f"dbt run --select orders customers {said} --full-refresh",
        f"dbt test --select orders {said}",
    ]
    assert steps["steps_override"] == ["dbt seed --full-refresh"]
    assert adhoc["steps_override"] == ["dbt build -s orders --full-refresh"]
    assert adhoc["git_sha"] == "abcdef1"


def test_bad_options_trigger_nothing(stage: Stage, job: int) -> None:
    """Nor does the ad hoc job come to be."""
    workspace = stage.workspace()
    for call in (
        lambda: workspace.run_job(job, threads_override=0),
        lambda: workspace.trigger(job, git_sha="main"),
        lambda: workspace.cli(["build"], steps_override=["dbt seed"]),
        lambda: workspace.cli(["build"], thread_override=2),  # type: ignore[call-arg]
        lambda: stage.workspace(adhoc_job_pool_mode="later"),
        lambda: stage.workspace(adhoc_job_pool_wait_seconds=-1).cli(["build"]),
    ):
        with pytest.raises(ConfigError):
            call()
    assert triggered(stage) == []
    assert stage.asked("POST", "/jobs/") == []


def test_options_come_from_config_and_tags(
    stage: Stage, job: int, instance: dg.DagsterInstance
) -> None:
    """From the launchpad without a word in the code; a bad tag fails the step before a trigger."""
    workspace = stage.workspace()

    @dbt_cloud_assets(workspace=workspace, job=job)
    def the_job(
        context: dg.AssetExecutionContext,
        dbt_cloud: DbtCloudWorkspace,
        config: RunOptionsConfig,  # noqa: ARG001 - that it is there is enough
    ) -> Iterator[Any]:
        yield from dbt_cloud.run_job(context=context, git_branch="main").wait()

    materialize(
        the_job,
        workspace,
        instance,
        run_config={"ops": {"the_job": {"config": {"threads_override": 3, "git_branch": "x"}}}},
        tags={"dagster_dbtcloud/threads_override": "9", "dagster_dbtcloud/schema_override": "s"},
    )
    trigger = triggered(stage)[0]["trigger"]
    names = ("threads_override", "git_branch", "schema_override")
    assert [trigger[name] for name in names] == [3, "main", "s"]
    bad = {"dagster_dbtcloud/threads_override": "many"}
    assert not materialize(the_job, workspace, instance, raise_on_error=False, tags=bad).success
    assert len(triggered(stage)) == 1


def test_steps_of_a_person_replace_those_of_the_code(
    stage: Stage, job: int, instance: dg.DagsterInstance
) -> None:
    """As they stand: no selection is added, and what they build is recorded."""
    workspace = stage.workspace()
    tags = {"dagster_dbtcloud/steps_override": json.dumps(["dbt seed", "dbt run -s orders"])}
    result = materialize(of_job(workspace, job), workspace, instance, tags=tags)
    assert built(result) == {"raw_orders", "orders"}
    assert triggered(stage)[0]["trigger"]["steps_override"] == ["dbt seed", "dbt run -s orders"]


# --- its own schedule ----------------------------------------------------------------------------


def scheduled(stage: Stage, **fields: Any) -> int:
    triggers = {"schedule": True, "on_merge": True, "github_webhook": False}
    return stage.sandbox.create_job("scheduled", STEPS, triggers=triggers, **fields)


def test_a_job_with_a_schedule_of_its_own_is_named(
    stage: Stage, job: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Who runs it from Dagster as well runs it twice."""
    assert job
    workspace = stage.workspace()
    scheduled(stage)
    workspace.run_job("scheduled")
    (record,) = [each for each in caplog.records if "may run twice" in each.message]
    assert record.levelno == logging.WARNING
    assert "'scheduled'" in record.message
    assert "its schedule and merges" in record.message
    caplog.clear()
    of_job(workspace, "scheduled")
    assert "its schedule and merges" in caplog.text
    caplog.clear()
    workspace.run_job(job)
    assert "twice" not in caplog.text


def test_a_schedule_is_muted_once_the_run_is_triggered(stage: Stage, job: int) -> None:
    """Nothing else of the job changes, whatever else it has."""
    assert job
    mine = scheduled(
        stage,
        description="by hand",
        generate_docs=True,
        execution={"timeout_seconds": 77},
        job_completion_trigger_condition={"condition": {"job_id": 1, "statuses": [10]}},
        some_new_field={"a": [1]},
    )
    before = next(each for each in stage.sandbox.jobs() if each["id"] == mine)
    stage.workspace().run_job(mine, disable_schedule_on_trigger=True)
    after = next(each for each in stage.sandbox.jobs() if each["id"] == mine)
    assert after["triggers"] == {**before["triggers"], "schedule": False}
    told = {"triggers", "updated_at", "cron_humanized", "next_run", "next_run_humanized"}
    assert before.keys() == after.keys()
    assert {key: after[key] for key in before.keys() - told} == {
        key: before[key] for key in before.keys() - told
    }
    posts = [each.path for each in stage.sandbox.requests if each.method == "POST"]
    assert [path.rsplit("/jobs/", 1)[1] for path in posts] == [f"{mine}/run/", f"{mine}/"]


def test_a_schedule_that_stays_is_a_warning(
    stage: Stage, job: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on; a token that runs jobs need not be allowed to change them."""
    assert job
    mine = scheduled(stage)
    workspace = stage.workspace(token=stage.sandbox.create_token("job_runner"))
    invocation = workspace.run_job(mine, disable_schedule_on_trigger=True)
    assert "could not be taken off" in caplog.text
    assert invocation.is_successful()


def test_a_trigger_that_is_refused_mutes_nothing(stage: Stage, job: int) -> None:
    """Else nobody would run the job any more."""
    assert job
    mine = scheduled(stage)
    stage.sandbox.update_account(locked=True)
    with pytest.raises(ApiError):
        stage.workspace().run_job(mine, disable_schedule_on_trigger=True)
    assert stage.sandbox.jobs()[-1]["triggers"]["schedule"] is True


# --- trigger and follow --------------------------------------------------------------------------


def test_trigger_waits_for_nothing(stage: Stage, job: int) -> None:
    """The run is returned; anybody may follow it later, by id or URL."""
    workspace = stage.workspace()
    run = workspace.trigger(job, vars={"a": 1})
    assert not run.is_complete
    for name in (run.id, str(run.id), run.href or ""):
        events = list(workspace.follow(name).wait())
        keys = {each.asset_key.to_user_string() for each in events if each.asset_key}
        assert keys >= BUILT
    assert len(triggered(stage)) == 1


def test_follow_records_a_run_in_a_step(
    stage: Stage, job: int, instance: dg.DagsterInstance
) -> None:
    """Of a run that somebody else started, and that is over."""
    run_id = stage.sandbox.trigger(job, cause="by hand", cause_category="ui")
    stage.sandbox.wait(run_id)
    workspace = stage.workspace()

    @dbt_cloud_assets(workspace=workspace, job=job)
    def the_job(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        yield from dbt_cloud.follow(run_id, context=context).wait()

    assert built(materialize(the_job, workspace, instance)) == BUILT
    assert triggered(stage) == []


def test_follow_records_what_is_not_recorded_yet(
    stage: Stage, job: int, instance: dg.DagsterInstance
) -> None:
    """A sensor may have been quicker, or an earlier attempt; who waits downstream is served."""
    run_id = stage.sandbox.trigger(job, cause="by hand", cause_category="ui")
    stage.sandbox.wait(run_id)
    workspace = stage.workspace()
    first, *_ = (
        event
        for event in workspace.follow(run_id).wait()
        if isinstance(event, dg.AssetMaterialization) and event.asset_key == dg.AssetKey("orders")
    )
    instance.report_runless_asset_event(first)

    @dbt_cloud_assets(workspace=workspace, job=job, retry_policy=dg.RetryPolicy(1))
    def the_job(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        yield from dbt_cloud.follow(run_id, context=context).wait()
        if not context.op_execution_context.retry_number:
            raise ValueError

    @dg.asset(deps=["customers"])
    def report() -> None: ...

    resources = {"dbt_cloud": workspace}
    assert dg.materialize([the_job, report], resources=resources, instance=instance).success
    for name in (*BUILT, "report"):
        assert len(instance.fetch_materializations(dg.AssetKey(name), limit=9).records) == 1, name

    @dg.asset(deps=["orders"])
    def other() -> None: ...

    assert dg.materialize([the_job, other], resources=resources, instance=instance).success
    assert instance.fetch_materializations(dg.AssetKey("other"), limit=9).records


def test_a_run_of_another_place_is_not_followed(stage: Stage, job: int) -> None:
    """Nor one that does not exist, nor what is no run."""
    project = stage.sandbox.create_project("Another")
    environment = stage.sandbox.create_environment("P", project_id=project)
    other = stage.sandbox.insert_run(stage.sandbox.create_job("x", environment_id=environment))
    workspace = stage.workspace()
    job_url = ways(stage, job)[-1]
    for name, said in (
        (other, f"belongs to project {project}"),
        (10**9, "no run 1000000000"),
        (job_url, "neither the id nor the address"),
        ("nightly", "neither the id nor the address"),
    ):
        with pytest.raises(ConfigError, match=said):
            workspace.follow(name)


# --- remembered ----------------------------------------------------------------------------------


def test_a_definition_loads_while_dbt_cloud_is_down(
    stage: Stage, job: int, caplog: pytest.LogCaptureFixture
) -> None:
    """From what the cache holds of the job and its manifest, with a warning."""
    first = of_job(stage.workspace(), "three steps")
    stage.sandbox.faults.add(Fault("status", status=503, count=None))
    assert of_job(stage.workspace(), "three steps").keys == first.keys
    assert "the job as it was serves instead" in caplog.text
    with pytest.raises(ApiError):
        stage.workspace().load_job(job)  # under this name it was never seen


FORKED = """
import os, sys, warnings
from pathlib import Path
from dagster_dbtcloud.cloud.models import Job
from dagster_dbtcloud.existing_jobs import known_job

job = Job(id=7, name="nightly", execute_steps=("dbt build",) * 50)
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        for _ in range(300):
            known_job(7, key="key", cache_dir=Path(sys.argv[1]), fetch=lambda _: job)
        os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
def test_forked_processes_write_files_of_their_own(tmp_path: Path) -> None:
    """Else one moves away what another is writing, and warns, or leaves a half."""
    words = [sys.executable, "-c", FORKED, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".json"]
