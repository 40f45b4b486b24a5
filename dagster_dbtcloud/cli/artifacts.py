"""``artifacts list`` and ``artifacts download``: what a run has left in dbt Cloud."""

from __future__ import annotations

from pathlib import Path

import click

from dagster_dbtcloud.cli.connection import Connection, connected, run_id_of
from dagster_dbtcloud.cli.output import json_option, show_json
from dagster_dbtcloud.errors import ConfigError, NotFoundError

_step_option = click.option(
    "--step",
    type=click.IntRange(min=1),
    help="Those of this step (its number in dbt Cloud), not of the last one.",
)


@click.group(no_args_is_help=False)
def artifacts() -> None:
    """List or download what a run has left: manifest.json, run_results.json, compiled code.

    \b
    Example:
      dagster-dbtcloud artifacts list 70403103919483
    """


@artifacts.command("list")
@click.argument("run")
@_step_option
@json_option
@connected
def list_(cloud: Connection, run: str, step: int | None, as_json: bool) -> None:
    """List the artifacts of RUN, which is an id or a URL.

    \b
    Example:
      dagster-dbtcloud artifacts list 70403103919483 --step 4
    """
    paths = _paths(cloud, run_id_of(cloud, run), step)
    if as_json:
        show_json(list(paths))
        return
    for path in paths:
        click.echo(path)
    if not paths:
        click.echo(f"Run {run} has no artifacts.", err=True)


@artifacts.command()
@click.argument("run")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@_step_option
@click.option(
    "--output",
    "-o",
    type=click.Path(allow_dash=True, path_type=Path),
    default=Path("target"),
    show_default=True,
    help="The folder to write to; - writes the only PATH to standard output.",
)
@connected
def download(
    cloud: Connection, run: str, paths: tuple[str, ...], step: int | None, output: Path
) -> None:
    """Download artifacts of RUN, which is an id or a URL: each PATH, or all there are.

    \b
    Examples:
      dagster-dbtcloud artifacts download 70403103919483 manifest.json run_results.json
      dagster-dbtcloud artifacts download 70403103919483 catalog.json -o - | jq .nodes
    """
    to_stdout = str(output) == "-"
    if to_stdout and len(paths) != 1:
        raise click.UsageError("Standard output takes one artifact: name one PATH.")
    run_id = run_id_of(cloud, run)
    wanted = paths or _paths(cloud, run_id, step)
    if not wanted:
        raise ConfigError(f"Run {run_id} has no artifacts.")
    with cloud.get_client() as client:
        for path in wanted:
            try:
                content = client.artifact(run_id, path, step=step)
            except NotFoundError as error:
                raise ConfigError(
                    f"Run {run_id} has no artifact {path}"
                    f"{'' if step is None else f' of step {step}'}; "
                    f"`dagster-dbtcloud artifacts list {run_id}` lists what there is."
                ) from error
            if to_stdout:
                click.echo(content, nl=False)
                continue
            # the client refuses a path that is absolute or climbs
            target = output / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            click.echo(str(target))


def _paths(cloud: Connection, run_id: int, step: int | None) -> tuple[str, ...]:
    with cloud.get_client() as client:
        try:
            return client.artifact_paths(run_id, step=step)
        except NotFoundError as error:
            raise ConfigError(
                f"There is no run {run_id} in account {client.account_id} that the token may see, "
                "or it has left nothing yet."
            ) from error
