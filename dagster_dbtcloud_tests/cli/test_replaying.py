"""``replay``: from a shell to the event log."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest

from dagster_dbtcloud.sandbox import PastStep
from dagster_dbtcloud_tests.cli.console import Console
from dagster_dbtcloud_tests.stage import Stage, run_results

ORDERS = dg.AssetKey(["orders"])

DEFINITIONS = """
import os

import dagster as dg
from dagster_dbtcloud import (
    DbtCloudWorkspace,
    build_dbt_cloud_polling_sensor,
    load_dbt_cloud_asset_specs,
)

workspace = DbtCloudWorkspace(
    account_id=os.environ["DBT_CLOUD_ACCOUNT_ID"],
    token=os.environ["DBT_CLOUD_TOKEN"],
    access_url=os.environ["DBT_CLOUD_ACCESS_URL"],
    project_id=os.environ["DBT_CLOUD_PROJECT_ID"],
)
defs = dg.Definitions(
    assets=load_dbt_cloud_asset_specs(workspace),
    sensors=[build_dbt_cloud_polling_sensor(workspace=workspace)],
)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A Dagster home, and definitions in the current folder."""
    folder = tmp_path / "dagster_home"
    folder.mkdir()
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return folder


def recorded(home: Path) -> int:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        found = instance.fetch_materializations(dg.AssetKey(["orders"]), limit=10).records
        return len(found)


def test_replay_records_once(
    stage: Stage, console: Console, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing with --dry-run, all that is missing without, and nothing again after that."""
    left = {
        "manifest.json": stage.manifest,
        "run_results.json": run_results(("model.tiny.orders", "success")),
    }
    run = stage.put(PastStep("dbt build", artifacts=left))
    (tmp_path / "my_definitions.py").write_text(DEFINITIONS)
    monkeypatch.chdir(tmp_path)
    words = ["replay", "-f", "my_definitions.py", "--since", "1d"]
    where = {"DAGSTER_HOME": str(home)}
    ended = console(*words, "--dry-run", **where)
    assert (ended.code, ended.out) == (0, f"{run}  1 event to record\n"), ended.err
    assert recorded(home) == 0
    assert json.loads(console(*words, "--json", **where).out)[0]["events"] == 1
    assert recorded(home) == 1
    again = console("replay", "-f", "my_definitions.py", "--run", run, **where)
    assert again.out == f"{run}  all recorded already\n"
    assert recorded(home) == 1
    ended = console(*words, "--sensor", "nope", **where)
    assert ended.code == 2
    assert "There are: " in ended.err


@pytest.mark.parametrize("given", ["", "relative", "{}/nowhere", "{}/broken"])
def test_an_instance_that_cannot_be_opened_is_said(
    alone: Console, tmp_path: Path, given: str
) -> None:
    """And no folder is made of a mistyped name."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "dagster.yaml").write_text("nonsense: 1")
    (tmp_path / "mine.py").write_text(
        "import dagster as dg\n"
        "from dagster_dbtcloud import DbtCloudWorkspace, build_dbt_cloud_polling_sensor\n"
        'workspace = DbtCloudWorkspace(account_id=1, token="x", project_id=1, environment_id=1)\n'
        "defs = dg.Definitions(sensors=[build_dbt_cloud_polling_sensor(workspace=workspace)])\n"
    )
    home = given.format(tmp_path)
    ended = alone("replay", "-f", tmp_path / "mine.py", "--since", "1d", DAGSTER_HOME=home)
    assert ended.code == 2
    assert "DAGSTER_HOME" in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "nowhere").exists()


def test_code_that_does_not_load_is_said(alone: Console, home: Path, tmp_path: Path) -> None:
    """In one line, without a traceback."""
    file = tmp_path / "broken_definitions.py"
    for text, words in (
        ("1 / 0", "ZeroDivisionError"),
        ("nothing = 1", "holds 0 dagster.Definitions"),
    ):
        file.write_text(text)
        ended = alone("replay", "-f", file, "--since", "1d", DAGSTER_HOME=str(home))
        assert ended.code == 2
        assert words in ended.err
        assert ended.err.count("\n") == 1
