"""``sandbox`` and ``demo``: what needs no dbt Cloud account.

The sandbox is an extra, so it is imported when it is asked for.
"""

from __future__ import annotations

import errno
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from dagster_dbtcloud.cli.signals import signals_end
from dagster_dbtcloud.errors import ConfigError


@click.command()
@click.option(
    "--project-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="The dbt project to serve.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8580,
    show_default=True,
    help="The port; 0 takes a free one.",
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where runs and artifacts are kept; without it they are gone at the end.",
)
@click.option(
    "--env-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the variables to export to this file, too.",
)
def sandbox(
    project_dir: Path, host: str, port: int, state_dir: Path | None, env_file: Path | None
) -> None:
    """Serve a local dbt Cloud that runs real dbt on DuckDB.

    Prints the variables to export, and serves until Ctrl-C.

    \b
    Example:
      dagster-dbtcloud sandbox --project-dir my_dbt_project --env-file sandbox.env
      set -a; . ./sandbox.env; set +a
      dagster-dbtcloud check
    """
    room = _extra_sandbox()

    def on_ready(ready: Any) -> None:
        for name, value in ready.env.items():
            click.echo(f"export {name}={value}")
        click.echo(f"Serving {project_dir}. Ctrl-C stops.", err=True)

    try:
        room.serve(
            project_dir=project_dir,
            host=host,
            port=port,
            state_dir=state_dir,
            env_file=env_file,
            on_ready=on_ready,
        )
    except (room.ProjectError, OSError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        hint = ". Give another --port; 0 takes a free one." if taken else ""
        raise ConfigError(f"The sandbox does not start: {error}{hint}") from error


@click.command()
@click.option("--once", is_flag=True, help="Play the story headless, tell what happened, and end.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="The UI's port; 0 takes a free one.  [default: 3000 if it is free]",
)
@click.option(
    "--example",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The example project's folder, if it is not the one that came along.",
)
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    default=".demo",
    show_default=True,
    help="Where the demo keeps what it writes.",
)
def demo(once: bool, port: int | None, example: Path | None, home: Path) -> None:
    """Show it all on this machine: a local dbt Cloud, the example project, the Dagster UI.

    \b
    Example:
      dagster-dbtcloud demo --once
    """
    _extra_sandbox()
    from rich.console import Console

    from dagster_dbtcloud.demo import find_example, run_demo

    with signals_end():
        run_demo(
            example=(example or find_example()).resolve(),
            home=home,
            port=port,
            once=once,
            console=Console(),
        )


def _extra_sandbox() -> ModuleType:
    try:
        from dagster_dbtcloud import sandbox as room
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed. The sandbox is an extra: "
            'pip install "dagster-dbtcloud[sandbox]"'
        ) from error
    return room
