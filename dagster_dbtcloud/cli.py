"""The command line: ``dagster-dbtcloud check | sandbox | demo``.

Thin: each command reads its options, calls a room, and turns errors into one line and an exit code
(0 success, 1 it failed, 2 usage, 3 dbt Cloud or the network).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import click

from dagster_dbtcloud.errors import ApiError, ConfigError, DbtCloudError, StateError
from dagster_dbtcloud.version import __version__

_FAILED, _USAGE, _SERVICE = 1, 2, 3


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dagster-dbtcloud")
def cli() -> None:
    """Run dbt Cloud from Dagster."""


_Command = TypeVar("_Command", bound=Callable[..., object])


def _option(
    name: str, variable: str, text: str, default: str | None = None
) -> Callable[[_Command], _Command]:
    return click.option(
        name, envvar=variable, default=default, show_envvar=True, show_default=True, help=text
    )


@cli.command()
@_option("--account-id", "DBT_CLOUD_ACCOUNT_ID", "Account id or name.")
@_option("--project-id", "DBT_CLOUD_PROJECT_ID", "Project id or name, or a URL of dbt Cloud.")
@_option(
    "--environment-id",
    "DBT_CLOUD_ENVIRONMENT_ID",
    "Environment id or name; left out: the production environment.",
)
@_option(
    "--access-url",
    "DBT_CLOUD_ACCESS_URL",
    "The address of your dbt Cloud.",
    "https://cloud.getdbt.com",
)
def check(
    account_id: str | None,
    project_id: str | None,
    environment_id: str | None,
    access_url: str,
) -> None:
    """Say what works, and for each thing that does not, what to do.

    The token is read from the environment variable DBT_CLOUD_TOKEN, so that it stands in no
    process list.

    \b
    Example:
      export DBT_CLOUD_TOKEN=... DBT_CLOUD_ACCESS_URL=https://ab123.us1.dbt.com
      dagster-dbtcloud check --account-id 4242 --project-id 11
    """
    import dagster as dg

    from dagster_dbtcloud.workspace import DbtCloudWorkspace

    result = DbtCloudWorkspace(
        account_id=account_id,
        token=dg.EnvVar("DBT_CLOUD_TOKEN"),
        access_url=access_url,
        project_id=project_id,
        environment_id=environment_id,
    ).verify()
    click.echo(str(result))
    if not result.ok:
        sys.exit(_FAILED)


@cli.command()
@click.option(
    "--project-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="The dbt project to serve.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8580, show_default=True, help="The port; 0 takes a free one.")
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
        raise ConfigError(f"The sandbox does not start: {error}") from error


@cli.command()
@click.option("--once", is_flag=True, help="Play the story headless, tell what happened, and end.")
@click.option(
    "--port", default=None, type=int, help="The UI's port (default: 3000, or a free one)."
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
    """Show it all on this machine: a local dbt Cloud, the example project, the Dagster UI."""
    _extra_sandbox()
    from rich.console import Console

    from dagster_dbtcloud.demo import find_example, run_demo

    run_demo(
        example=(example or find_example()).resolve(),
        home=home,
        port=port if port is not None else (0 if once else 3000),
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


def main() -> None:
    """Run the command line; the entry point of ``dagster-dbtcloud``."""
    try:
        cli()
    except (ConfigError, StateError) as error:
        _give_up(error, _USAGE)
    except ApiError as error:
        _give_up(error, _SERVICE)
    except DbtCloudError as error:
        _give_up(error, _FAILED)


def _give_up(error: DbtCloudError, code: int) -> None:
    click.echo(f"dagster-dbtcloud: {error}", err=True)
    sys.exit(code)
