"""A real `dagster dev` on the sandbox: what a person and the daemon do while dbt still builds."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from dagster_dbtcloud.clock import SystemClock
from dagster_dbtcloud.demo import Dagster, dagster_dev, free_port
from dagster_dbtcloud_tests.stage import Stage, until
from dagster_dbtcloud_tests.test_stream import CUSTOMERS, ENDED, SLOW, Live, key

PROJECT = '''
import os

import dagster as dg
from dagster_dbtcloud import DbtCloudWorkspace, dbt_cloud_assets

workspace = DbtCloudWorkspace(
    account_id=os.environ["DBT_CLOUD_ACCOUNT_ID"],
    token=os.environ["DBT_CLOUD_TOKEN"],
    access_url=os.environ["DBT_CLOUD_ACCESS_URL"],
    project_id=os.environ["DBT_CLOUD_PROJECT_ID"],
)


@dbt_cloud_assets(workspace=workspace, select="slow orders customers")
def dbt_project(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace):
    yield from dbt_cloud.cli(["build"], context=context).stream()


@dg.asset(deps=["slow"], automation_condition=dg.AutomationCondition.eager())
def early_report():
    """Depends on the first model only."""


defs = dg.Definitions(
    assets=[dbt_project, early_report],
    resources={"dbt_cloud": workspace},
    sensors=[
        dg.AutomationConditionSensorDefinition(
            "automation",
            target="*",
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=1,
        )
    ],
)
'''


@dataclass(frozen=True)
class Dev:
    """`dagster dev`, its storage, and the dbt Cloud that it talks to."""

    dagster: Dagster
    instance: dg.DagsterInstance
    live: Live


@pytest.fixture
def dev(stage: Stage, tmp_path: Path) -> Iterator[Dev]:
    live = Live(stage)
    (tmp_path / "live_project.py").write_text(PROJECT)
    home = tmp_path / "home"
    home.mkdir()
    log, port = tmp_path / "dagster.log", free_port()
    with (
        dagster_dev(
            tmp_path, home, dict(stage.sandbox.env), port, log, module="live_project"
        ) as process,
        Dagster(f"http://127.0.0.1:{port}", SystemClock(), process, log) as dagster,
        dg.DagsterInstance.from_config(str(home)) as instance,
    ):
        dagster.wait_for("the assets", dagster.has_assets)
        yield Dev(dagster, instance, live)


def test_live_events_start_what_is_downstream_and_a_termination_cancels(dev: Dev) -> None:
    """First a build whose first model is used before its last is built; then one that is stopped.

    One test for both: ``dagster dev`` takes a while to start.
    """
    live, sandbox = dev.live, dev.live.stage.sandbox
    models = [["slow"], ["orders"], ["customers"]]
    built = dev.dagster.launch(models)
    until(lambda: len(sandbox.runs()) == 2, seconds=120)
    live.begin()
    live.say(ENDED[SLOW])
    dev.dagster.wait_for(
        "the report on the first model",
        lambda: dev.instance.get_latest_materialization_event(key("early_report")) is not None,
    )
    assert sandbox.run(live.run_id)["status_humanized"] == "Running"
    assert dev.instance.get_latest_materialization_event(key("customers")) is None
    (automated,) = dev.dagster.automated_runs().values()
    assert automated == ["early_report"]
    live.say(ENDED[CUSTOMERS])
    live.end()
    assert dev.dagster.wait_for_run(built) == "SUCCESS"

    stopped = dev.dagster.launch(models)
    until(lambda: len(sandbox.runs()) == 3, seconds=120)
    live.begin()
    began = SystemClock().monotonic()
    dev.dagster.terminate(stopped)
    assert sandbox.wait(live.run_id)["is_cancelled"]
    assert SystemClock().monotonic() - began < 5
    assert dev.dagster.wait_for_run(stopped) == "CANCELED"
