"""``manifest`` and ``select``: what an environment's manifest holds, without dbt.

They start no run: an environment in which no run has left a manifest has none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dagster_dbtcloud.cli.connection import Connection, connected, run_id_of
from dagster_dbtcloud.cli.output import facts_of, json_option, show_json
from dagster_dbtcloud.errors import ConfigError, ManifestError, NotFoundError, StateError

if TYPE_CHECKING:
    from dagster_dbtcloud.dbt.manifest import Manifest
    from dagster_dbtcloud.state import State

_Command = TypeVar("_Command", bound=Callable[..., object])


def selecting(command: _Command) -> _Command:
    """Give a command the options that choose nodes, as ``dbt ls`` has them."""

    @click.argument("expression", nargs=-1, metavar="[EXPR]...")
    @click.option("--exclude", multiple=True, metavar="EXPR", help="Leave these out.")
    @click.option("--selector", default="", metavar="NAME", help="A YAML selector of the project.")
    @click.option(
        "--manifest",
        "file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A manifest.json, instead of the environment's.",
    )
    @functools.wraps(command)
    def with_selection(*args: Any, **kwargs: Any) -> object:
        if kwargs["selector"] and (kwargs["expression"] or kwargs["exclude"]):
            raise click.UsageError("--selector stands alone: give it or EXPR and --exclude.")
        return command(*args, **kwargs)

    return with_selection  # type: ignore[return-value]  # the options are click's business


def load_manifest(cloud: Connection, file: Path | None) -> Manifest:
    """Return the manifest of a file, or the environment's. Raises: StateError, ManifestError."""
    return manifest_file(file) if file is not None else environment_state(cloud).manifest


def manifest_file(path: Path) -> Manifest:
    """Return the manifest of a file that a person has named. Raises: ConfigError."""
    from dagster_dbtcloud.dbt.manifest import Manifest

    try:
        return Manifest.from_path(path)
    except ManifestError as error:
        raise ConfigError(f"{error} Name a manifest.json as dbt writes it.") from error


def environment_state(cloud: Connection) -> State:
    """Return the environment's newest production manifest. Raises: StateError."""
    state = cloud.find_state()
    if state is None:
        raise StateError(
            f"No run of environment {cloud.ids().environment_id} has left a manifest: run a job "
            "with `dbt build` or `dbt parse` in it first."
        )
    return state


@click.command()
@click.option("--run", metavar="ID|URL", help="The manifest of this run, not the newest.")
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Write the manifest to this file; - writes it to standard output.",
)
@json_option
@connected
def manifest(cloud: Connection, run: str | None, output: Path | None, as_json: bool) -> None:
    """Say which manifest a code location would be built from, or fetch it.

    It is that of the environment's newest production run which has one: runs of pull requests, and
    with another schema, branch or target, do not count.

    \b
    Examples:
      dagster-dbtcloud manifest --environment-id Production
      dagster-dbtcloud manifest -o manifest.json
    """
    from dagster_dbtcloud.dbt.manifest import Manifest

    if as_json and str(output) == "-":
        raise click.UsageError("Standard output takes one of the two: -o - or --json.")
    content = b""
    if run is not None:
        run_id: int | None = run_id_of(cloud, run)
        with cloud.get_client() as client:
            try:
                content = client.artifact(run_id or 0, "manifest.json")
            except NotFoundError as error:
                raise ConfigError(
                    f"Run {run_id} has no manifest.json, or there is no such run that the token "
                    "may see; `dagster-dbtcloud runs` lists runs."
                ) from error
        found = Manifest.from_bytes(content, origin=f"manifest.json of dbt Cloud run {run_id}")
    else:
        state = environment_state(cloud)
        found = state.manifest
        run_id = state.pointer.run_id if state.pointer else None
        if output is not None and state.pointer is not None:
            with cloud.get_client() as client:
                content = client.artifact(
                    state.pointer.run_id, "manifest.json", step=state.pointer.step
                )
    if output is not None and str(output) == "-":
        click.echo(content, nl=False)
        return
    if output is not None:
        output.write_bytes(content)
    facts = {
        "run_id": run_id,
        "digest": found.digest,
        "project": found.metadata.project_name,
        "dbt_version": found.metadata.dbt_version,
        "generated_at": found.metadata.generated_at,
        "nodes": len(found.nodes),
        "file": None if output is None else str(output),
    }
    if as_json:
        show_json(facts)
        return
    for name, value in facts.items():
        if value is not None:
            click.echo(f"{name.replace('_', ' '):<13} {value}")


@click.command()
@selecting
@click.option(
    "--resource-type",
    "types",
    multiple=True,
    metavar="TYPE",
    help="Only nodes of this type (model, test, source, ...); may be given again.",
)
@click.option(
    "--exclude-resource-type",
    "other_types",
    multiple=True,
    metavar="TYPE",
    help="No nodes of this type; may be given again.",
)
@click.option(
    "--indirect-selection",
    type=click.Choice(["eager", "cautious", "buildable", "empty"]),
    default="eager",
    show_default=True,
    help="Which tests come with the nodes they test.",
)
@click.option(
    "--state",
    "previous",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The manifest.json that state: compares with.",
)
@json_option
@connected
def select(
    cloud: Connection,
    expression: tuple[str, ...],
    exclude: tuple[str, ...],
    selector: str,
    file: Path | None,
    types: tuple[str, ...],
    other_types: tuple[str, ...],
    indirect_selection: str,
    previous: Path | None,
    as_json: bool,
) -> None:
    """List the nodes that EXPR means in dbt's selection language, as `dbt ls` would.

    One unique id a line. Nothing is run and no dbt is needed: the environment's manifest answers,
    or the one given with --manifest. A word that matches nothing is said on stderr.

    \b
    Examples:
      dagster-dbtcloud select tag:daily+ --exclude config.materialized:view
      dagster-dbtcloud select --manifest target/manifest.json --selector nightly --json
    """
    from dagster_dbtcloud.dbt.selection import LIST_TYPES, parse, resource_types_of, unmatched
    from dagster_dbtcloud.dbt.selection import select as select_nodes

    known = LIST_TYPES | {"analysis"}
    if wrong := sorted({*types, *other_types} - known - {"all", "default"}):
        raise click.UsageError(
            f"{wrong[0]!r} is not a resource type; there are: {', '.join(sorted(known))}."
        )
    for text in (expression, exclude):
        if text:
            parse(text)  # what is no selection is said before anything is fetched
    manifest = load_manifest(cloud, file)
    found = select_nodes(
        manifest,
        select=expression,
        exclude=exclude,
        selector=selector,
        indirect_selection=indirect_selection,
        resource_types=resource_types_of("ls", include=types, exclude=other_types),
        previous=None if previous is None else manifest_file(previous),
    )
    if previous is None:  # a word with `state:` cannot be asked alone
        for sentence in unmatched(manifest, select=expression, exclude=exclude):
            click.echo(sentence, err=True)
    nodes = [manifest.nodes[unique_id] for unique_id in sorted(found)]
    if as_json:
        names = ("unique_id", "resource_type", "name", "package_name", "tags", "depends_on")
        show_json([facts_of(node, *names, path=node.original_file_path) for node in nodes])
        return
    for node in nodes:
        click.echo(node.unique_id)
    if not nodes:
        click.echo("Nothing is selected.", err=True)
