"""The two ways that Dagster's documentation shows for dbt Cloud, call by call, from our package.

Source of the calls: docs.dagster.io, Integrations, dbt Cloud, "Observability" and "Orchestration".
Each runs as a file of a user's own, with its values from the environment.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import dagster as dg
import pytest

from dagster_dbtcloud.sandbox import Sandbox
from dagster_dbtcloud_tests.test_assets import ASSETS, CHECKS

WORKSPACE = """
import os

import dagster as dg
from dagster_dbtcloud import (
    DbtCloudCredentials,
    DbtCloudWorkspace,
    build_dbt_cloud_polling_sensor,
    dbt_cloud_assets,
    load_dbt_cloud_asset_specs,
)

workspace = DbtCloudWorkspace(
    credentials=DbtCloudCredentials(
        account_id=os.getenv("DBT_CLOUD_ACCOUNT_ID"),
        access_url=os.getenv("DBT_CLOUD_ACCESS_URL"),
        token=os.getenv("DBT_CLOUD_TOKEN"),
    ),
    project_id=os.getenv("DBT_CLOUD_PROJECT_ID"),
    environment_id=os.getenv("DBT_CLOUD_ENVIRONMENT_ID"),
)
polling_sensor = build_dbt_cloud_polling_sensor(workspace=workspace)
"""

OBSERVABILITY = """
specs = load_dbt_cloud_asset_specs(workspace=workspace)
defs = dg.Definitions(assets=specs, sensors=[polling_sensor])
"""

ORCHESTRATION = """
@dbt_cloud_assets(workspace=workspace)
def models(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace):
    yield from dbt_cloud.cli(args=["build"], context=context).wait()


eager_models = dg.map_asset_specs(
    lambda spec: spec.replace_attributes(automation_condition=dg.AutomationCondition.eager()),
    [models],
)
automation_sensor = dg.AutomationConditionSensorDefinition(
    name="automation_sensor",
    target="*",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=1,
)
defs = dg.Definitions(
    assets=[*eager_models],
    resources={"dbt_cloud": workspace},
    sensors=[automation_sensor, polling_sensor],
)
"""


Load = Callable[[str, str], ModuleType]


@pytest.fixture
def load(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Import a text as a file of a user's own, with the sandbox in the environment."""
    for name, value in sandbox.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))

    def load(name: str, text: str) -> ModuleType:
        path = tmp_path / f"{name}.py"
        path.write_text(WORKSPACE + text)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def tick(module: ModuleType, instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
    sensor = module.polling_sensor
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, repository_def=module.defs.get_repository_def()
    ) as context:
        result: dg.SensorResult = sensor.evaluate_tick(context)
        return result


def test_observability(
    load: Load, sandbox: Sandbox, nightly: int, instance: dg.DagsterInstance
) -> None:
    """Assets are seen, and a run that dbt Cloud made is recorded on them."""
    module = load("observability", OBSERVABILITY)
    keys = {key.to_user_string() for key in module.defs.resolve_all_asset_keys()}
    assert keys == ASSETS | {"raw/raw_orders"}  # the source is upstream
    cursor = tick(module, instance, None).cursor
    run = sandbox.wait(sandbox.trigger(nightly), timeout=120)
    events = tick(module, instance, cursor).asset_events
    of_this_run = [e for e in events if e.metadata["dbt_cloud_run_id"].value == str(run["id"])]
    materialized = [e for e in of_this_run if isinstance(e, dg.AssetMaterialization)]
    assert {e.asset_key.to_user_string() for e in materialized} == ASSETS


def test_orchestration(load: Load, instance: dg.DagsterInstance) -> None:
    """Assets are materialized with their checks; each carries the eager condition."""
    module = load("orchestration", ORCHESTRATION)
    specs = {s.key.to_user_string(): s for s in module.defs.resolve_all_asset_specs()}
    assert all(specs[key].automation_condition is not None for key in ASSETS)
    job = module.defs.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=instance)
    assert result.success
    materialized = {e.asset_key.to_user_string() for e in result.get_asset_materialization_events()}
    assert materialized == ASSETS
    assert len(result.get_asset_check_evaluations()) == len(CHECKS)
