"""A made-up dbt project, a backlog of its runs in the sandbox, and what Dagster then holds of it.

No dbt runs: what is told about is played, so that a truth of thousands of results is at hand in
seconds, and known to the last one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_dbtcloud import (
    DbtCloudWorkspace,
    build_dbt_cloud_polling_sensor,
    load_dbt_cloud_asset_specs,
    load_dbt_cloud_check_specs,
)
from dagster_dbtcloud.sandbox import PastStep, Sandbox
from dagster_dbtcloud_tests.dbt.builders import node, raw_manifest

Told = Counter[tuple[str, str, str]]
"""How often (kind, asset or check, dbt Cloud run) is told."""

_TESTS = ("test", "unit_test")

TINY = Path(__file__).parent / "projects" / "tiny"


def project(models: int, tests: int) -> dict[str, Any]:
    """Return a manifest of ``models`` models in a line, the first ``tests`` with a test each."""
    ids = [f"model.shop.m{number}" for number in range(models)]
    entries = [
        node(unique_id, *ids[n - 1 : n] if n else (), config={"materialized": "table"})
        for n, unique_id in enumerate(ids)
    ]
    for number in range(tests):
        entries.append(
            node(
                f"test.shop.unique_m{number}.{number:010x}",
                ids[number],
                name=f"unique_m{number}",
                attached_node=ids[number],
                test_metadata={"name": "unique", "kwargs": {"column_name": "id"}},
            )
        )
    return raw_manifest(*entries)


def results(
    entries: Iterable[tuple[str, str]],
    *,
    which: str = "build",
    invocation: str = "inv",
    at: datetime | None = None,
    **args: Any,
) -> bytes:
    """Return what dbt writes; with ``at``, each node is done a second after the one before."""
    found = []
    for number, (unique_id, status) in enumerate(entries):
        done = None if at is None else (at + timedelta(seconds=number)).isoformat()
        timing = [] if done is None else [{"started_at": done, "completed_at": done}]
        found.append(
            {
                "unique_id": unique_id,
                "status": status,
                "timing": timing,
                "execution_time": 1.0,
                "message": f"dbt says {status}",
                "failures": 3 if status in ("fail", "warn") else None,
                "adapter_response": {},
            }
        )
    return json.dumps(
        {
            "metadata": {
                "dbt_schema_version": "https://schemas.getdbt.com/dbt/run-results/v6.json",
                "invocation_id": invocation,
            },
            "args": {"which": which, **args},
            "elapsed_time": 1.0,
            "results": found,
        }
    ).encode()


def nodes_of(manifest: Mapping[str, Any]) -> list[str]:
    return list(manifest["nodes"])


def truth(entries: Iterable[tuple[str, str]], run_id: int) -> Told:
    """Return what one run must be told as, in a project of ``project``."""
    told: Told = Counter()
    for unique_id, status in entries:
        kind, _, name = unique_id.split(".")[:3]
        if kind == "unit_test":
            name = unique_id.split(".")[-1]
        if kind in _TESTS:
            if status != "skipped":
                told["checked", name, str(run_id)] += 1
        else:
            built = status in ("success", "warn")
            told["materialized" if built else "observed", name, str(run_id)] += 1
    return told


def held(instance: dg.DagsterInstance, manifest: Mapping[str, Any]) -> Told:
    """Return what the histories of the project's assets and checks hold: what users see."""
    told: Told = Counter()
    for unique_id, entry in manifest["nodes"].items():
        name = entry["name"]
        if entry["resource_type"] in _TESTS:
            model = entry.get("attached_node") or entry["depends_on"]["nodes"][0]
            key = dg.AssetCheckKey(dg.AssetKey(model.split(".")[-1]), name)
            for row in instance.event_log_storage.get_asset_check_execution_history(key, 100_000):
                event = row.event.dagster_event if row.event else None
                if event is not None:
                    found = event.asset_check_evaluation_data.metadata["dbt_cloud_run_id"].value
                    told["checked", name, str(found)] += 1
            continue
        for kind, fetch in (
            ("materialized", instance.fetch_materializations),
            ("observed", instance.fetch_observations),
        ):
            cursor = None
            while True:
                page = fetch(dg.AssetKey(_path(unique_id)), limit=1_000, cursor=cursor)
                for record in page.records:
                    asset = record.asset_materialization or record.asset_observation
                    assert asset is not None
                    told[kind, name, str(asset.metadata["dbt_cloud_run_id"].value)] += 1
                if not page.has_more:
                    break
                cursor = page.cursor
    return told


def stale(instance: dg.DagsterInstance, manifest: Mapping[str, Any]) -> list[str]:
    """Return the assets whose page does not show their newest materialization."""
    behind = []
    for unique_id, entry in manifest["nodes"].items():
        if entry["resource_type"] == "test":
            continue
        key = dg.AssetKey(_path(unique_id))
        newest = instance.fetch_materializations(key, limit=1).records
        shown = instance.get_latest_materialization_event(key)
        if [each.timestamp for each in newest] != ([shown.timestamp] if shown else []):
            behind.append(entry["name"])
    return behind


def _path(unique_id: str) -> list[str]:
    """Return the asset key's path: of a source, with the source's name before the table's."""
    kind, *names = unique_id.split(".")
    return names[-2:] if kind == "source" else names[-1:]


def backlog(
    sandbox: Sandbox, manifest: Mapping[str, Any], runs: int, *, ends: datetime, apart: timedelta
) -> Told:
    """Put finished ``dbt build`` runs of all nodes into history; return the truth.

    Every seventh failed at its last model, every ninth was cancelled half-way.
    """
    job = sandbox.create_job("nightly", ["dbt build"])
    told: Told = Counter()
    for number in range(runs):
        at = ends - (runs - 1 - number) * apart
        entries = [
            (each, "pass" if each[:4] == "test" else "success") for each in nodes_of(manifest)
        ]
        status = 10
        if number % 7 == 3:
            entries[-1] = (entries[-1][0], "fail" if entries[-1][0][:4] == "test" else "error")
            status = 20
        elif number % 9 == 5:
            entries, status = entries[: len(entries) // 2], 30
        run_id = sandbox.insert_run(
            job,
            status=status,
            created_at=at,
            started_at=at,
            finished_at=at,
            steps=[
                PastStep(
                    "dbt build",
                    status=status,
                    artifacts={"run_results.json": results(entries, invocation=f"inv-{number}")},
                )
            ],
        )
        told += truth(entries, run_id)
    return told


def definitions(workspace: DbtCloudWorkspace, **sensor: Any) -> dg.Definitions:
    """Return the project's assets and checks, declared only, and the polling sensor."""
    assets = load_dbt_cloud_asset_specs(workspace)
    return dg.Definitions(
        assets=[*assets],
        asset_checks=[_never(spec) for spec in load_dbt_cloud_check_specs(workspace)],
        sensors=[
            build_dbt_cloud_polling_sensor(
                workspace=workspace,
                name="observer",
                minimum_interval_seconds=1,
                default_sensor_status=dg.DefaultSensorStatus.RUNNING,
                **sensor,
            )
        ],
    )


def _never(spec: dg.AssetCheckSpec) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(specs=[spec], name=f"never_{spec.name}")
    def never() -> Iterator[dg.AssetCheckResult]:
        yield dg.AssetCheckResult(passed=False)  # dbt Cloud runs it

    return never


def workspace_of(env: Mapping[str, str], manifest: Mapping[str, Any] | str, **values: Any) -> Any:
    return DbtCloudWorkspace(
        account_id=env["DBT_CLOUD_ACCOUNT_ID"],
        token=env["DBT_CLOUD_TOKEN"],
        access_url=env["DBT_CLOUD_ACCESS_URL"],
        project_id=env["DBT_CLOUD_PROJECT_ID"],
        environment_id=env["DBT_CLOUD_ENVIRONMENT_ID"],
        manifest=manifest,
        **values,
    )


def utc_now() -> datetime:
    return datetime.now(timezone.utc)
