"""How long after dbt has ended a node its event is in Dagster's log, while the run goes on.

`python -m benchmarks.live` builds a project with real dbt in the sandbox, streams it in a step, and
prints the delays: from dbt's own time of completion to Dagster's time of storing.
"""

# No `from __future__ import annotations`: Dagster reads those of the decorated function.

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import dagster as dg

from dagster_dbtcloud import DbtCloudWorkspace, dbt_cloud_assets
from dagster_dbtcloud.dbt.run_results import RunResults
from dagster_dbtcloud.following import BUSY_INTERVAL, LAST_INTERVAL
from dagster_dbtcloud.sandbox import Sandbox

_LEVELS = 10
_ROWS = 20_000_000
"""What one model counts: some tenths of a second for DuckDB."""


@dataclass(frozen=True)
class Delays:
    """Seconds, one for each node; ``after_end`` is how long after the run's end the last came."""

    nodes: tuple[float, ...]
    after_end: float
    run_seconds: float
    requests: int

    def __str__(self) -> str:
        return (
            f"{len(self.nodes)} nodes in {self.run_seconds:.0f} s: event after the node's end by "
            f"{median(self.nodes):.1f} s (median), {max(self.nodes):.1f} s (worst); the last event "
            f"{self.after_end:.1f} s after the run's end; a look at the run each "
            f"{self.run_seconds / max(self.requests, 1):.1f} s"
        )


def write_project(folder: Path, models: int) -> None:
    """Write a dbt project whose models count rows, in levels."""
    (folder / "models").mkdir(parents=True)
    (folder / "dbt_project.yml").write_text(
        "name: live\nversion: '1.0'\nprofile: live\nmodels:\n  +materialized: table\n"
    )
    width = max(models // _LEVELS, 1)
    for number in range(models):
        parent = f"\n-- {{{{ ref('m{number - width:03}') }}}}" if number >= width else ""
        (folder / "models" / f"m{number:03}.sql").write_text(
            f"select count(*) as n from range({_ROWS}) where range % 7 = 3{parent}\n"  # noqa: S608 - our own numbers
        )


def measure(models: int, folder: Path) -> Delays:
    """Build the project once to have a manifest, then once more, streamed."""
    write_project(folder / "project", models)
    with Sandbox(project_dir=folder / "project") as sandbox:
        job = sandbox.create_job("first", ["dbt parse"])
        sandbox.wait(sandbox.trigger(job, cause="a manifest"), timeout=300)
        workspace = DbtCloudWorkspace(
            account_id=sandbox.account_id,
            token=sandbox.token,
            access_url=sandbox.url,
            project_id=sandbox.project_id,
            cache_dir=folder / "cache",
        )

        @dbt_cloud_assets(workspace=workspace)
        def live(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
            yield from dbt_cloud.cli(["build"], context=context).stream()

        (folder / "storage").mkdir()
        with dg.DagsterInstance.local_temp(str(folder / "storage")) as instance:
            sandbox.clear_requests()
            result = dg.materialize([live], resources={"dbt_cloud": workspace}, instance=instance)
            stored = {
                str(entry.dagster_event.asset_key.path[-1]): entry.timestamp
                for entry in instance.all_logs(
                    result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
                )
                if entry.dagster_event and entry.dagster_event.asset_key
            }
        run = sandbox.runs()[-1]
        run_id = int(run["id"])
        looks = sum(request.path.endswith(f"/runs/{run_id}/") for request in sandbox.requests)
        with workspace.get_client() as client:
            (step,) = [
                each.index
                for each in client.run(run_id, include=("run_steps",)).run_steps
                if (each.command or "").startswith("dbt build")
            ]
            seen = client.run(run_id)
            data = client.artifact(run_id, "run_results.json", step=step)
    if seen.started_at is None or seen.finished_at is None:
        raise click.ClickException("the run has no times")
    ended = {
        each.unique_id.rpartition(".")[2]: each.completed_at.timestamp()
        for each in RunResults.from_bytes(data, origin="the run").results
        if each.completed_at is not None
    }
    return Delays(
        nodes=tuple(stored[name] - ended[name] for name in ended),
        after_end=max(stored.values()) - seen.finished_at.timestamp(),
        run_seconds=(seen.finished_at - seen.started_at).total_seconds(),
        requests=looks,
    )


def main() -> None:
    """Measure, and say what was to be reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        delays = measure(arguments.models, Path(folder))
    click.echo(str(delays))
    click.echo(
        f"to reach: a median of {BUSY_INTERVAL + 0.5:.1f} s; no event later than "
        f"{LAST_INTERVAL:.0f} s after the end of the run; a look each 2 s at most"
    )


if __name__ == "__main__":
    main()
