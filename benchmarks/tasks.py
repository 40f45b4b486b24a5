"""What is measured, each in a process of its own: `python -m benchmarks.tasks NAME ...`.

A task prints one line of JSON: CPU seconds, peak memory, and what else it counts. How often it is
run, and what its figures are compared with, is not its business (`__main__.py`).
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

Figures = dict[str, float]
RUN_TWO = 2
"""How many assets a run that starts is to materialize."""


@contextmanager
def measured(figures: Figures, name: str = "cpu") -> Iterator[None]:
    """Count the CPU seconds of this process: other users of the machine are not in them.

    ``clock`` are the seconds that have passed.
    """
    start, clock = time.process_time(), time.perf_counter()
    yield
    figures[name] = time.process_time() - start
    figures["clock"] = time.perf_counter() - clock


def peak() -> float:
    """Return the most memory that this process has had, in MB.

    Where /proc is, from there: ``ru_maxrss`` begins with what the process that started us had.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def floor_definitions(models: int) -> Any:
    from benchmarks import floor

    return floor.definitions(models)


def our_definitions(_models: int) -> Any:
    import dagster as dg

    from dagster_dbtcloud import DbtCloudCredentials, DbtCloudWorkspace, dbt_cloud_assets

    workspace = DbtCloudWorkspace(
        credentials=DbtCloudCredentials(
            account_id=dg.EnvVar("DBT_CLOUD_ACCOUNT_ID"),
            token=dg.EnvVar("DBT_CLOUD_TOKEN"),
            access_url=dg.EnvVar("DBT_CLOUD_ACCESS_URL"),
        ),
        project_id=dg.EnvVar("DBT_CLOUD_PROJECT_ID"),
        environment_id=dg.EnvVar("DBT_CLOUD_ENVIRONMENT_ID"),
    )

    @dbt_cloud_assets(workspace=workspace, name="dbt")
    def assets():  # type: ignore[no-untyped-def]  # to Dagster, None is one output
        ...

    return dg.Definitions(assets=[assets])


def peer_definitions(_models: int) -> Any:
    import dagster as dg
    from dagster_dbt.cloud_v2.asset_decorator import dbt_cloud_assets
    from dagster_dbt.cloud_v2.resources import DbtCloudCredentials, DbtCloudWorkspace

    workspace = DbtCloudWorkspace(
        credentials=DbtCloudCredentials(
            account_id=int(os.environ["DBT_CLOUD_ACCOUNT_ID"]),
            token=os.environ["DBT_CLOUD_TOKEN"],
            access_url=os.environ["DBT_CLOUD_ACCESS_URL"],
        ),
        project_id=int(os.environ["DBT_CLOUD_PROJECT_ID"]),
        environment_id=int(os.environ["DBT_CLOUD_ENVIRONMENT_ID"]),
    )

    @dbt_cloud_assets(workspace=workspace, name="dbt")
    def assets():  # type: ignore[no-untyped-def]  # to Dagster, None is one output
        ...

    return dg.Definitions(assets=[assets])


DEFINITIONS: dict[str, Callable[[int], Any]] = {
    "floor": floor_definitions,
    "ours": our_definitions,
    "peer": peer_definitions,
}


def load(who: str, models: str) -> Figures:
    """From the start of Python to Definitions: imports, manifest, selection, specs, definition."""
    figures: Figures = {}
    with measured(figures):
        DEFINITIONS[who](int(models))
    figures["peak"] = peak()
    return figures


def start(who: str, models: str) -> Figures:
    """What a run worker and a step process do before the first line of a step.

    It loads the code location as such a process does, with what the code server left for it, makes
    the repository, and plans a run of two of the assets.
    """
    figures: Figures = {}
    left = _what_the_code_server_leaves(who)
    with measured(figures):
        from dagster._core.definitions.definitions_load_context import (
            DefinitionsLoadContext,
            DefinitionsLoadType,
        )
        from dagster._core.definitions.repository_definition import RepositoryLoadData

        data = RepositoryLoadData(cacheable_asset_data={}, reconstruction_metadata=left)
        DefinitionsLoadContext.set(DefinitionsLoadContext(DefinitionsLoadType.RECONSTRUCTION, data))
        definitions = DEFINITIONS[who](int(models))
        repository = definitions.get_repository_def()
        job = repository.get_job("__ASSET_JOB")
        keys = sorted(repository.asset_graph.executable_asset_keys, key=str)[:RUN_TWO]
        part = job.get_subset(asset_selection=set(keys))
        from dagster._core.execution.api import create_execution_plan

        create_execution_plan(part)
    figures["peak"] = peak()
    return figures


def _what_the_code_server_leaves(who: str) -> dict[str, Any]:
    text = os.environ.get("BENCHMARK_POINTER")
    return json.loads(text) if text and who == "ours" else {}


def pointer() -> dict[str, Any]:
    """Print what the code server leaves for run workers, instead of figures."""
    from dagster._core.definitions.definitions_load_context import (
        DefinitionsLoadContext,
        DefinitionsLoadType,
    )

    context = DefinitionsLoadContext(DefinitionsLoadType.INITIALIZATION)
    DefinitionsLoadContext.set(context)
    our_definitions(0)
    return dict(context.get_pending_reconstruction_metadata())


def select(path: str) -> Figures:
    """Ask several things of a packed manifest; each of one that was never asked before."""
    from dagster_dbtcloud.dbt.manifest import Manifest
    from dagster_dbtcloud.dbt.selection import select as selected

    data = Path(path).read_bytes()
    figures: Figures = {}
    for text in (
        *("fqn:*", "tag:nightly", "+model_00042+", "@model_00007", "path:models/level_03"),
        *("config.materialized:table,tag:hourly", "*_model_*7", "config.severity:error"),
    ):
        manifest = Manifest.from_packed(data, origin="the benchmark")
        if manifest is None:
            raise ValueError(f"{path} is no packed manifest")
        gc.collect()
        with measured(figures, text):
            selected(manifest, select=text)
    return {"cpu": max(took for text, took in figures.items() if text != "clock")}


def read(path: str) -> Figures:
    """Read manifest.json, as the first process that ever sees it does."""
    from dagster_dbtcloud.dbt.manifest import Manifest

    figures: Figures = {"before": peak()}
    with measured(figures):
        manifest = Manifest.from_path(path)
    figures["peak"] = peak()
    figures["packed"] = len(manifest.packed)
    return figures


def report(way: str, models: str, storage: str = "memory") -> Figures:
    """Hand over the results of so many models, and two tests each, from one step to Dagster.

    ``storage``: "memory", "sqlite" for files, or the address of a PostgreSQL server.
    """
    import dagster as dg

    from benchmarks import floor, project
    from dagster_dbtcloud.dbt.run_results import NodeResult
    from dagster_dbtcloud.events import Outcome, OutcomeKind, RunRef, as_step_result
    from dagster_dbtcloud.reporting import Handover

    count = int(models)
    assets, checks = floor.specs(count)
    run = RunRef(1, "https://cloud.getdbt.com/run", invocation_id="0c9e4f0e")
    outcomes = [
        Outcome(
            OutcomeKind.MATERIALIZED,
            NodeResult(project.model_id(n), "success", "SUCCESS 1"),
            run,
            asset_key=spec.key,
        )
        for n, spec in enumerate(assets)
    ]
    outcomes += [
        Outcome(
            OutcomeKind.CHECKED,
            NodeResult(str(spec.metadata["dagster_dbtcloud/unique_id"]), "pass", failures=0),
            run,
            asset_key=spec.asset_key,
            check_key=spec.key,
        )
        for spec in checks
    ]
    figures: Figures = {}
    ways = {"outputs": as_step_result, "bare": _bare}

    @dg.multi_asset(
        name="dbt",
        specs=assets,
        check_specs=checks,
        can_subset=True,
        allow_arbitrary_check_specs=True,
    )
    def dbt(context):  # type: ignore[no-untyped-def]  # Dagster is imported only here
        with measured(figures):
            step = context.op_execution_context
            render = Handover(step).render if way == "ours" else ways[way]
            yield from map(render, outcomes)

    with instance_in(storage) as instance:
        result = dg.materialize([dbt], instance=instance)
        figures["events"] = sum(
            event.event_type
            in (
                dg.DagsterEventType.ASSET_MATERIALIZATION,
                dg.DagsterEventType.ASSET_CHECK_EVALUATION,
            )
            for event in result.all_events
        )
    return figures


@contextmanager
def instance_in(storage: str) -> Iterator[Any]:
    """Open a Dagster instance that keeps its events there."""
    import dagster as dg

    if storage == "memory":
        with dg.DagsterInstance.ephemeral() as instance:
            yield instance
        return
    with TemporaryDirectory() as home:
        if storage != "sqlite":
            settings = {"storage": {"postgres": {"postgres_url": storage}}}
            (Path(home) / "dagster.yaml").write_text(json.dumps(settings))  # JSON is YAML
        with dg.DagsterInstance.from_config(home) as instance:
            yield instance


def _bare(outcome: Any) -> Any:
    """Make the least event that Dagster can be given: what remains is its own storing of it."""
    import dagster as dg

    if outcome.check_key is None:
        return dg.AssetMaterialization(outcome.asset_key)
    key = outcome.check_key
    return dg.AssetCheckEvaluation(asset_key=key.asset_key, check_name=key.name, passed=True)


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    task.__name__: task for task in (*(load, start, pointer, select, read, report),)
}


def main(name: str, *arguments: str) -> None:
    sys.stdout.write(json.dumps(TASKS[name](*arguments)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
