"""The README's code, run as it stands there, against the sandbox.

Whether its words about other packages are true, nobody can test here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_dbtcloud.sandbox import Sandbox

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
RUN_DBT, ONLY_WATCH = BLOCKS


@pytest.fixture(autouse=True)
def _variables(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user would export; the environment is left out, as the README does."""
    for name, value in sandbox.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DBT_CLOUD_ENVIRONMENT_ID")
    monkeypatch.setenv("DAGSTER_DBTCLOUD_CACHE_DIR", str(tmp_path))


def definitions(block: str) -> dg.Definitions:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(block, str(README), "exec", dont_inherit=True), names)  # noqa: S102 - our own
    defs: dg.Definitions = names["defs"]
    return defs


@pytest.mark.parametrize("block", [RUN_DBT, ONLY_WATCH], ids=["run dbt", "only watch"])
def test_the_definitions_load(block: str) -> None:
    """Assets, checks, sensors and resources fit together."""
    defs = definitions(block)
    dg.Definitions.validate_loadable(defs)
    assert dg.AssetKey("orders") in defs.resolve_asset_graph().get_all_asset_keys()


def test_running_dbt_materializes_what_was_picked(instance: dg.DagsterInstance) -> None:
    """One model of the graph, in a real step."""
    job = definitions(RUN_DBT).resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(instance=instance, asset_selection=[dg.AssetKey("orders")])
    keys = [event.asset_key for event in done.get_asset_materialization_events()]
    assert keys == [dg.AssetKey("orders")]


def test_watching_records_models_and_tests(
    sandbox: Sandbox, nightly: int, instance: dg.DagsterInstance
) -> None:
    """A run that dbt Cloud started gives materializations and check evaluations."""
    defs = definitions(ONLY_WATCH)
    (sensor,) = defs.sensors or ()
    assert isinstance(sensor, dg.SensorDefinition)
    run = sandbox.wait(sandbox.trigger(nightly, cause="by dbt Cloud"), timeout=120)
    with dg.build_sensor_context(definitions=defs, instance=instance) as context:
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    of_run = [
        event
        for event in result.asset_events
        if event.metadata["dbt_cloud_run_id"].value == str(run["id"])
    ]
    assert any(isinstance(event, dg.AssetMaterialization) for event in of_run)
    assert any(isinstance(event, dg.AssetCheckEvaluation) for event in of_run)
