"""The older, job-based API: its documented code with the imports changed, and its safety.

Source of the calls: docs.dagster.io, Integrations, "dbt Cloud (Legacy)", and the docstrings of
dagster-dbt 0.22 to 0.29.
"""

import json
import pickle
import shutil
import warnings
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.definitions_load_context import (
    DefinitionsLoadContext,
    DefinitionsLoadType,
)
from dagster._core.definitions.repository_definition import RepositoryLoadData

from dagster_dbtcloud.errors import ConfigError
from dagster_dbtcloud.legacy import (
    DbtCloudClientResource,
    DbtCloudOutput,
    DbtCloudResource,
    DbtCloudRunStatus,
    dbt_cloud_resource,
    dbt_cloud_run_op,
    load_assets_from_dbt_cloud_job,
    notice,
)
from dagster_dbtcloud.sandbox import Fault, PastStep
from dagster_dbtcloud_tests.stage import Stage, run_results, until

ORDERS = dg.AssetKey("orders")
BUILT = (
    ("seed.tiny.raw_orders", "success"),
    ("model.tiny.orders", "success"),
    ("test.tiny.unique_orders_id.fed79b3a6e", "pass"),
)


@pytest.fixture
def nightly(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> int:
    """A job that builds a part of the project; its runs are played."""
    stage.built()
    stage.play(*BUILT)
    monkeypatch.setenv("DBT_CLOUD_API_TOKEN", stage.sandbox.token)
    monkeypatch.setenv("DBT_CLOUD_ACCOUNT_ID", str(stage.sandbox.account_id))
    monkeypatch.setenv("DBT_CLOUD_HOST", stage.sandbox.url)
    monkeypatch.setenv("DAGSTER_DBTCLOUD_CACHE_DIR", str(stage.cache_dir))
    return stage.sandbox.create_job("Nightly", ["dbt build --select raw_orders orders"])


CONFIG = {
    "auth_token": {"env": "DBT_CLOUD_API_TOKEN"},
    "account_id": {"env": "DBT_CLOUD_ACCOUNT_ID"},
    "dbt_cloud_host": {"env": "DBT_CLOUD_HOST"},
}


@pytest.fixture
def client(stage: Stage, nightly: int) -> DbtCloudResource:
    del nightly
    return DbtCloudResource(
        auth_token=stage.sandbox.token,
        account_id=stage.sandbox.account_id,
        dbt_cloud_host=stage.sandbox.url,
        clock=stage.clock,
    )


def keys_of(result: dg.ExecuteInProcessResult) -> set[str]:
    events = result.get_asset_materialization_events()
    return {event.materialization.asset_key.to_user_string() for event in events}


# --- the documented code -------------------------------------------------------------------------


def test_a_job_with_the_op(nightly: int, instance: dg.DagsterInstance) -> None:
    """The op runs the job, materializes what it built, and hands the output on."""
    my_dbt_cloud_resource = dbt_cloud_resource.configured(CONFIG)
    run_dbt_nightly_sync = dbt_cloud_run_op.configured(
        {"job_id": nightly}, name="run_dbt_nightly_sync"
    )
    seen: list[DbtCloudOutput] = []

    @dg.op
    def look(dbt_output: DbtCloudOutput) -> None:
        seen.append(dbt_output)

    @dg.job(resource_defs={"dbt_cloud": my_dbt_cloud_resource})
    def my_dbt_cloud_job() -> None:
        look(run_dbt_nightly_sync())

    result = my_dbt_cloud_job.execute_in_process(instance=instance)
    assert keys_of(result) == {"dbt/model/tiny/orders", "dbt/seed/tiny/raw_orders"}
    (output,) = seen
    assert output.is_successful
    assert output.run_status is DbtCloudRunStatus.SUCCESS
    assert output.job_id == nightly
    assert output.job_name == "Nightly"
    assert output.finished_at is not None
    assert len(output.result["results"]) == len(BUILT)


@pytest.mark.parametrize("form", ["configured", "called", "class"])
def test_assets_of_a_job(
    stage: Stage, nightly: int, instance: dg.DagsterInstance, form: str
) -> None:
    """The job's nodes are assets, by each of the documented ways to name the account."""
    dbt_cloud: Any
    if form == "configured":
        dbt_cloud = dbt_cloud_resource.configured(CONFIG)
    elif form == "called":
        dbt_cloud = dbt_cloud_resource(
            api_token=stage.sandbox.token,
            account_id=stage.sandbox.account_id,
            dbt_cloud_host=stage.sandbox.url,
        )
    else:
        dbt_cloud = DbtCloudClientResource(
            auth_token=dg.EnvVar("DBT_CLOUD_API_TOKEN"),
            account_id=dg.EnvVar.int("DBT_CLOUD_ACCOUNT_ID"),
            dbt_cloud_host=dg.EnvVar("DBT_CLOUD_HOST"),
        )
    dbt_cloud_assets = load_assets_from_dbt_cloud_job(dbt_cloud=dbt_cloud, job_id=nightly)
    run_dbt_cloud_assets = dg.define_asset_job(
        name="run_dbt_cloud_assets", selection=dg.AssetSelection.all()
    )
    defs = dg.Definitions(
        assets=[dbt_cloud_assets],
        schedules=[dg.ScheduleDefinition(job=run_dbt_cloud_assets, cron_schedule="@daily")],
    )
    assert dbt_cloud_assets.keys == {ORDERS, dg.AssetKey("raw_orders")}
    if form != "called":
        job = defs.resolve_job_def("run_dbt_cloud_assets")
        assert keys_of(job.execute_in_process(instance=instance)) == {"orders", "raw_orders"}
        (run,) = (run for run in stage.sandbox.runs() if run["job_definition_id"] == nightly)
        assert run["is_success"]


def test_keys_groups_policies_and_partitions_of_ones_own(
    stage: Stage, nightly: int, instance: dg.DagsterInstance
) -> None:
    """The functions of the old call do what they did; the vars reach dbt."""

    def node_info_to_asset_key(node_info: Mapping[str, Any]) -> dg.AssetKey:
        return dg.AssetKey(["dbt_cloud", node_info["resource_type"], node_info["name"]])

    class Lag:
        maximum_lag_minutes = 90
        cron_schedule = None

    assets = load_assets_from_dbt_cloud_job(
        dbt_cloud=dbt_cloud_resource.configured(CONFIG),
        job_id=nightly,
        node_info_to_asset_key=node_info_to_asset_key,
        node_info_to_group_fn=lambda node_info: node_info["fqn"][0],
        node_info_to_freshness_policy_fn=lambda _: Lag(),
        node_info_to_auto_materialize_policy_fn=lambda _: dg.AutomationCondition.eager(),
        partitions_def=dg.StaticPartitionsDefinition(["a", "b"]),
        partition_key_to_vars_fn=lambda key: {"part": key},
        op_tags={"team": "data"},
    )
    orders = dg.AssetKey(["dbt_cloud", "model", "orders"])
    spec = assets.get_asset_spec(orders)
    assert [dep.asset_key.path[0] for dep in spec.deps] == ["dbt_cloud"] * len(list(spec.deps))
    assert spec.group_name == "tiny"
    assert spec.freshness_policy == dg.FreshnessPolicy.time_window(timedelta(minutes=90))
    assert spec.automation_condition == dg.AutomationCondition.eager()
    assert assets.op.tags["team"] == "data"
    assert assets.backfill_policy == dg.BackfillPolicy.multi_run(1)
    assert dg.materialize([assets], instance=instance, partition_key="b").success
    (run,) = (run for run in stage.sandbox.runs() if run["job_definition_id"] == nightly)
    assert json.dumps({"part": "b"}) in run["trigger"]["steps_override"][0]


def test_a_later_load_works_offline(
    stage: Stage, nightly: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What the first one learned of the job, and its manifest, serve with a warning."""

    def load() -> dg.AssetsDefinition:
        client = DbtCloudClientResource(
            auth_token=stage.sandbox.token,
            account_id=stage.sandbox.account_id,
            dbt_cloud_host=stage.sandbox.url,
            clock=stage.clock,
        )
        return load_assets_from_dbt_cloud_job(dbt_cloud=client, job_id=nightly)

    before = load()
    stage.sandbox.faults.add(Fault("status", status=503, count=None))
    assert load().keys == before.keys
    assert "the job as it was serves instead" in caplog.text
    shutil.rmtree(stage.cache_dir)
    with pytest.raises(dg.Failure, match="503"):
        load()


def test_a_run_worker_asks_nothing_when_it_loads(
    stage: Stage, nightly: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code server hands on where the job is, what it does, and which manifest counts."""

    def load(kind: DefinitionsLoadType, metadata: dict[str, Any]) -> DefinitionsLoadContext:
        context = DefinitionsLoadContext(
            kind,
            repository_load_data=RepositoryLoadData(
                cacheable_asset_data={}, reconstruction_metadata=metadata
            ),
        )
        monkeypatch.setattr(DefinitionsLoadContext, "_instance", context)
        dbt_cloud = dbt_cloud_resource.configured(CONFIG)
        assert load_assets_from_dbt_cloud_job(dbt_cloud=dbt_cloud, job_id=nightly).keys
        return context

    server = load(DefinitionsLoadType.INITIALIZATION, {})
    learned = dict(server.get_pending_reconstruction_metadata())
    stage.sandbox.clear_requests()
    load(DefinitionsLoadType.RECONSTRUCTION, learned)
    assert not stage.sandbox.requests


def test_vars_need_partitions(nightly: int) -> None:
    """As before."""
    with pytest.raises(ConfigError, match="needs a partitions_def"):
        load_assets_from_dbt_cloud_job(
            dbt_cloud=dbt_cloud_resource.configured(CONFIG),
            job_id=nightly,
            partition_key_to_vars_fn=lambda key: {"part": key},
        )


def test_two_jobs_keep_their_own_vars(stage: Stage, nightly: int) -> None:
    """Each definition's function is asked for its own steps only."""
    other = stage.sandbox.create_job("Other", ["dbt build --select customers"])

    def assets(job_id: int, word: str) -> dg.AssetsDefinition:
        return load_assets_from_dbt_cloud_job(
            dbt_cloud=dbt_cloud_resource.configured(CONFIG),
            job_id=job_id,
            partitions_def=dg.StaticPartitionsDefinition(["a"]),
            partition_key_to_vars_fn=lambda _: {"word": word},
        )

    one, two = assets(nightly, "one"), assets(other, "two")
    stage.play(("model.tiny.customers", "success"))
    dg.materialize([one], partition_key="a", raise_on_error=False)
    dg.materialize([two], partition_key="a", raise_on_error=False)
    said = {
        run["job_definition_id"]: run["trigger"]["steps_override"][0]
        for run in stage.sandbox.runs()
        if run["job_definition_id"] in (nightly, other)
    }
    assert '"one"' in said[nightly]
    assert '"two"' in said[other]


# --- the client's methods ------------------------------------------------------------------------


def test_run_job_and_poll_takes_overrides(
    stage: Stage, nightly: int, client: DbtCloudResource
) -> None:
    """The cause is read in dbt Cloud, the steps and the schema are those given."""
    output = client.run_job_and_poll(
        job_id=nightly,
        cause="because",
        steps_override=["dbt run"],
        schema_override="scratch",
        poll_interval=1,
        poll_timeout=600,
    )
    assert output.is_successful
    run = next(run for run in stage.sandbox.runs() if run["id"] == output.run_id)
    assert run["trigger"]["cause"].startswith("because ")
    assert run["trigger"]["steps_override"] == ["dbt run"]
    assert run["trigger"]["schema_override"] == "scratch"
    assert json.loads(output.get_artifact("run_results.json"))["args"]["which"] == "run"


def test_results_of_every_step_count(stage: Stage, client: DbtCloudResource) -> None:
    """The last step's, which dbt Cloud gives by default, may be of docs, or of tests alone."""
    many = stage.sandbox.create_job("Many", ["dbt seed", "dbt run", "dbt docs generate"])

    def script(_: Mapping[str, Any], command: str) -> PastStep:
        which = command.split()[1]
        node = {"seed": "seed.tiny.raw_orders", "run": "model.tiny.orders"}.get(which)
        artifacts: dict[str, Any] = {"manifest.json": stage.manifest}
        if node:
            artifacts["run_results.json"] = run_results((node, "success"), which=which)
        return PastStep(command, logs="", artifacts=artifacts)

    stage.sandbox.play(script)
    output = client.run_job_and_poll(many)
    built = [result["unique_id"] for result in output.result["results"]]
    assert built == ["seed.tiny.raw_orders", "model.tiny.orders"]


def test_the_lists_and_the_rest(stage: Stage, nightly: int, client: DbtCloudResource) -> None:
    """Each method gives what the API does, as mappings."""
    project = stage.sandbox.project_id
    jobs = client.list_jobs(project)
    assert {job["name"] for job in jobs} >= {"Nightly", "nightly"}
    assert [job["id"] for job in jobs] == sorted((job["id"] for job in jobs), reverse=True)
    assert client.get_job(nightly)["execute_steps"] == ["dbt build --select raw_orders orders"]
    output = client.run_job_and_poll(nightly)
    run = output.run_id
    assert client.get_runs(job_id=nightly, limit=5, include_related=["job"])[0]["id"] == run
    assert client.get_run(run, ["trigger"])["trigger"]["cause"].startswith("Triggered via Dagster")
    assert client.get_run_steps(run) == ["dbt build --select raw_orders orders"]
    assert client.build_url_for_job(project, nightly) == stage.sandbox.url + (
        f"/deploy/{stage.sandbox.account_id}/projects/{project}/jobs/{nightly}/"
    )
    assert "/docs/#!/model/model.tiny.orders" in client.build_url_for_cloud_docs(
        nightly, "model", "model.tiny.orders"
    )
    assert "run_results.json" in client.list_run_artifacts(run)
    assert client.get_run_results(run)["results"]
    assert client.get_manifest(run)["nodes"]
    assert client.cancel_run(run)["status_humanized"] == "Success"
    assert client.update_job(nightly, settings={"threads": 7})["settings"]["threads"] == 7
    raw = client.make_request("GET", f"{stage.sandbox.account_id}/runs/{run}/?include_related=job")
    assert raw["job"]["name"] == "Nightly"
    assert client.workspace(nightly).project_id == project


def test_environment_variables_of_a_job(
    stage: Stage, nightly: int, client: DbtCloudResource
) -> None:
    """They are read by name, and set by id."""
    project = stage.sandbox.project_id
    made = client.make_request(
        "POST",
        f"{stage.sandbox.account_id}/projects/{project}/environment-variables/",
        data={"name": "DBT_WORD", "raw_value": "a", "type": "job", "job_definition_id": nightly},
        base_url=client.api_v3_base_url,
    )
    client.set_job_environment_variable(project, nightly, made["id"], "DBT_WORD", "b")
    variables = client.get_job_environment_variables(project, nightly)
    assert variables["DBT_WORD"]["job"] == {"id": made["id"], "value": "b"}


# --- safety --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["error", "skipped"])
def test_a_failed_run_fails_the_step(
    stage: Stage, nightly: int, client: DbtCloudResource, status: str
) -> None:
    """As a dagster.Failure with the run's page; nothing is materialized."""
    stage.play(("model.tiny.orders", status), status=20)
    with pytest.raises(dg.Failure, match="did not succeed: Error") as raised:
        client.run_job_and_poll(nightly)
    assert "run_page_url" in raised.value.metadata


def test_a_lost_answer_starts_no_second_run(
    stage: Stage, nightly: int, client: DbtCloudResource
) -> None:
    """The run that the trigger has made is found and followed."""
    stage.sandbox.faults.add(Fault("lost", place="trigger", after_effect=True))
    output = client.run_job_and_poll(nightly)
    runs = [run for run in stage.sandbox.runs() if run["job_definition_id"] == nightly]
    assert [run["id"] for run in runs] == [output.run_id]


def test_a_limit_cancels_the_run(stage: Stage, nightly: int, client: DbtCloudResource) -> None:
    """A run that nobody waits for any more is not left alone."""
    stage.play(*BUILT, seconds=10_000)
    with pytest.raises(dg.Failure, match="time limit"):
        client.run_job_and_poll(nightly, poll_timeout=60)
    (run,) = (run for run in stage.sandbox.runs() if run["job_definition_id"] == nightly)
    until(lambda: stage.sandbox.run(run["id"])["status_humanized"] == "Cancelled")


def test_triggering_takes_the_schedule_off(stage: Stage, client: DbtCloudResource) -> None:
    """As before, unless told otherwise; the job would run twice."""
    triggers = {"schedule": True, "github_webhook": False, "git_provider_webhook": False}
    job = stage.sandbox.create_job("Scheduled", ["dbt build"], triggers=triggers)
    client.run_job(job)
    assert client.get_job(job)["triggers"]["schedule"] is False


def test_an_interrupt_while_the_schedule_is_taken_off_cancels_the_run(
    stage: Stage, client: DbtCloudResource
) -> None:
    """The run goes on already then, and nobody would follow it."""
    triggers = {"schedule": True, "github_webhook": False, "git_provider_webhook": False}
    job = stage.sandbox.create_job("Scheduled", ["dbt build"], triggers=triggers)
    stage.play(*BUILT, hold=True)
    stage.sandbox.faults.add(Fault("status", method="GET", path="*/jobs/*", status=503, count=2))

    def interrupt() -> None:
        stage.clock.hooks.clear()
        raise KeyboardInterrupt

    stage.clock.hooks.append(interrupt)
    with pytest.raises(KeyboardInterrupt):
        client.run_job_and_poll(job)
    (run,) = (run for run in stage.sandbox.runs() if run["job_definition_id"] == job)
    until(lambda: stage.sandbox.run(run["id"])["is_cancelled"], seconds=10)


def test_a_request_of_ones_own_takes_what_its_path_asks(
    stage: Stage, nightly: int, client: DbtCloudResource
) -> None:
    """A query in the path, encoded as it has to be, is that query."""
    client.run_job_and_poll(nightly)
    path = f"{stage.sandbox.account_id}/runs/?include_related=%5B%22job%22%5D&job_definition_id="
    (run,) = client.make_request("GET", f"{path}{nightly}&limit=1")
    assert run["job"]["name"] == "Nightly"


def test_null_is_an_empty_list(stage: Stage, nightly: int, client: DbtCloudResource) -> None:
    """dbt Cloud gives one for the other at times, and so may a file of results."""
    null = json.dumps({"status": {"is_success": True}, "data": None})
    for path in ("*/jobs/", "*/runs/"):
        stage.sandbox.faults.add(Fault("status", path=path, method="GET", status=200, body=null))
    assert client.list_jobs(stage.sandbox.project_id) == []
    assert client.get_runs() == []
    whole = json.loads(run_results(which="build"))
    left = {"run_results.json": json.dumps({**whole, "results": None}).encode()}
    stage.sandbox.play(lambda _, command: PastStep(command, artifacts=left))
    assert client.run_job_and_poll(nightly).result["results"] == []


def test_refusals_are_failures(stage: Stage, client: DbtCloudResource) -> None:
    """Code that caught dagster.Failure still does; the advice is that of the client."""
    with pytest.raises(dg.Failure, match="404"):
        client.get_job(1)
    with pytest.raises(ConfigError, match="no 'git_brunch' to override"):
        client.run_job(stage.job, git_brunch="x")


def test_the_token_shows_up_nowhere(stage: Stage, client: DbtCloudResource) -> None:
    """Not in a repr, not in what an IO manager keeps, not in a definition's snapshot."""
    token = stage.sandbox.token
    output = DbtCloudOutput({"id": 1, "status": 10}, {}, client=client)
    assert token.encode() not in pickle.dumps(output)
    with pytest.raises(ConfigError, match="get_run_artifact"):
        pickle.loads(pickle.dumps(output)).get_artifact("x")  # noqa: S301 - our own
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(client)
    resource = DbtCloudClientResource(auth_token=token, account_id=1)
    assert token not in f"{client!r} {resource!r} {resource}"


def test_each_name_says_once_that_there_is_a_better_way(
    nightly: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the place of the caller, and the page that shows how."""
    monkeypatch.setattr(notice, "told", set())
    dbt_cloud = dbt_cloud_resource.configured(CONFIG)

    def told() -> Iterator[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load_assets_from_dbt_cloud_job(dbt_cloud=dbt_cloud, job_id=nightly)
        for warning in caught:
            if issubclass(warning.category, DeprecationWarning) and "legacy" in str(warning):
                yield str(warning.message)

    first = list(told())
    assert any("load_assets_from_dbt_cloud_job" in text for text in first)
    assert any("@dbt_cloud_assets(workspace=..., job=...)" in text for text in first)
    assert all("docs/migration.md" in text for text in first)
    assert not list(told())
