"""``init``: a Dagster project that runs a dbt Cloud project, written in one go.

It reads dbt Cloud to find what is meant, and changes nothing there. No file that exists is touched.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dagster_dbtcloud.cli.connection import DEFAULT_ACCESS_URL, Connection, connected
from dagster_dbtcloud.errors import ConfigError

if TYPE_CHECKING:
    from dagster_dbtcloud.cloud.client import DbtCloudClient
    from dagster_dbtcloud.cloud.models import Environment


@dataclass(frozen=True)
class _Answers:
    """What the files are written from."""

    module: str
    access_url: str
    account_id: int
    project_id: int
    project_name: str
    environment_id: int
    environment_name: str
    token: str | None
    """None: the token stays in the environment."""


@click.command()
@click.argument("directory", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", metavar="NAME", help="The name of the Python package.")
@click.option(
    "--watch-only", is_flag=True, help="dbt Cloud goes on running dbt; Dagster only records it."
)
@click.option(
    "--write-token/--no-write-token",
    default=None,
    help="Whether the token is kept in .env (mode 0600, and git ignores it).",
)
@connected
def init(
    cloud: Connection,
    directory: Path | None,
    name: str | None,
    watch_only: bool,
    write_token: bool | None,
) -> None:
    """Write a Dagster project into DIRECTORY, for one environment of dbt Cloud.

    What no option or variable says is looked up with the token: where there is one account,
    project or production environment, it is taken; where there are several, a terminal is asked,
    and without a terminal they are listed. A terminal is also asked for the directory, for the
    address of your dbt Cloud and for the token.

    \b
    Examples:
      dagster-dbtcloud init my_project
      dagster-dbtcloud init my_project --project-id "Jaffle Shop" --environment-id Production
      cd my_project && pip install -e . && dagster dev
    """
    asks = sys.stdin.isatty() and sys.stderr.isatty()
    if directory is None:
        directory = _asked_directory(asks)
    module = _module(name or directory.resolve().name)
    if asks and not cloud.knows_host():
        cloud.access_url = click.prompt(
            "The address of your dbt Cloud (Account settings > Access URLs)",
            default=DEFAULT_ACCESS_URL,
            err=True,
        )
    cloud.account = cloud.account or _asked_account(cloud, asks)
    with cloud.get_client() as client:
        project_id, project_name = _project(cloud, client, asks)
        environment = _environment(cloud, client, project_id, asks)
        url, account_id = client.access_url, client.account_id
    if write_token is None:
        write_token = asks and click.confirm(
            "Keep the token in .env, which only you can read and git ignores?", err=True
        )
    answers = _Answers(
        module=module,
        access_url=url,
        account_id=account_id,
        project_id=project_id,
        project_name=project_name,
        environment_id=environment.id,
        environment_name=environment.name,
        token=cloud.get_token() if write_token else None,
    )
    files = _files(answers, watch_only=watch_only)
    _write(directory, files)
    for path in files:
        click.echo(str(directory / path))
    export = "" if answers.token else "  export DBT_CLOUD_TOKEN=...\n"
    click.echo(
        f"\nWritten for project {project_name!r}, environment {environment.name!r}. Next:\n"
        f"  cd {directory}\n{export}  pip install -e .\n  dagster dev",
        err=True,
    )


def _module(name: str) -> str:
    module = re.sub(r"\W", "_", name.lower())
    if not module.isidentifier() or iskeyword(module) or module.strip("_") == "":
        raise ConfigError(
            f"{name!r} does not make a Python package's name; give one with --name, such as "
            "my_project."
        )
    found = find_spec(module)
    if found is not None and found.origin is not None:  # no origin: a folder that happens to lie by
        raise ConfigError(
            f"There is a Python package {module!r} here already, and the project's would take its "
            f"place; give another name with --name, such as my_{module}."
        )
    return module


# --- what is asked for ---------------------------------------------------------------------------


def _asked_directory(asks: bool) -> Path:
    if not asks:
        raise click.UsageError("Missing argument 'DIRECTORY'.")
    return Path(click.prompt("The project's directory", default="my_project", err=True))


def _asked_account(cloud: Connection, asks: bool) -> str | None:
    """Return the account that a person picks, if it is a question at all."""
    if not asks or cloud.knows_account():
        return None  # the connection finds it, or says what there is
    listed = cloud.accounts()
    return str(_choice("account", listed)) if len(listed) > 1 else None


def _project(cloud: Connection, client: DbtCloudClient, asks: bool) -> tuple[int, str]:
    given = cloud.project_id(client)
    if given is not None:
        return given, client.project(given).name
    listed = [(each.id, each.name) for each in client.projects()]
    if len(listed) > 1 and asks:
        chosen = _choice("project", listed)
        return chosen, dict(listed)[chosen]
    if len(listed) != 1:
        raise cloud.which_project(listed)
    return listed[0]


def _environment(
    cloud: Connection, client: DbtCloudClient, project_id: int, asks: bool
) -> Environment:
    cloud.project = str(project_id)
    given = cloud.environment_id(client)
    if given is not None:
        return client.environment(project_id, given)
    listed = [each for each in client.environments(project_id) if each.is_deployment]
    production = [each for each in listed if each.is_production]
    for choice in (production, listed):
        if len(choice) == 1:
            return choice[0]
    names = [(each.id, each.name) for each in listed]
    if asks and names:
        chosen = _choice("environment", names)
        return next(each for each in listed if each.id == chosen)
    shown = ", ".join(f"{text} ({number})" for number, text in names) or "none that runs jobs"
    raise ConfigError(
        f"Which environment? Give --environment-id, or set DBT_CLOUD_ENVIRONMENT_ID. There are: "
        f"{shown}."
    )


def _choice(what: str, listed: Sequence[tuple[int, str]]) -> int:
    """Ask which one; return its id."""
    click.echo(f"Which {what}?", err=True)
    for number, (_, text) in enumerate(listed, 1):
        click.echo(f"  {number}  {text}", err=True)
    answer: int = click.prompt("Number", type=click.IntRange(1, len(listed)), err=True)
    return listed[answer - 1][0]


# --- what is written -----------------------------------------------------------------------------


def _files(answers: _Answers, *, watch_only: bool) -> dict[str, str]:
    definitions = _WATCHING if watch_only else _RUNNING
    return {
        "pyproject.toml": _PYPROJECT.format(
            module=answers.module, dist=answers.module.replace("_", "-")
        ),
        ".gitignore": ".env\n__pycache__/\n*.egg-info/\n",
        ".env": _env(answers),
        f"{answers.module}/__init__.py": "",
        f"{answers.module}/definitions.py": definitions.format(
            project=answers.project_name.replace("\\", "/").replace('"', "'"),
            environment=answers.environment_name.replace("\\", "/").replace('"', "'"),
        ),
    }


def _env(answers: _Answers) -> str:
    token = (
        f"DBT_CLOUD_TOKEN={answers.token}\n"
        if answers.token
        else "# DBT_CLOUD_TOKEN: set it in the environment, or here; git ignores this file.\n"
    )
    return (
        "# Read by `dagster dev` and `dg`.\n"
        f"DBT_CLOUD_ACCESS_URL={answers.access_url}\n"
        f"DBT_CLOUD_ACCOUNT_ID={answers.account_id}\n"
        f"DBT_CLOUD_PROJECT_ID={answers.project_id}\n"
        f"DBT_CLOUD_ENVIRONMENT_ID={answers.environment_id}\n"
        f"{token}"
    )


def _write(directory: Path, files: dict[str, str]) -> None:
    """Write all files or, when one of them exists, none. Raises: ConfigError."""
    for name in files:
        if (directory / name).exists():
            raise ConfigError(
                f"{directory / name} exists already, and nothing was written; name another "
                "directory."
            )
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = 0o600 if name == ".env" else 0o666
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)


_PYPROJECT = """\
[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"

[project]
name = "{dist}"
version = "0.1.0"
requires-python = ">=3.10"
dependencies = ["dagster-dbtcloud", "dagster-webserver"]

[tool.setuptools]
packages = ["{module}"]

# What `dagster dev` loads.
[tool.dagster]
module_name = "{module}.definitions"
code_location_name = "{module}"

# The same for `dg`.
[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "{module}"
code_location_target_module = "{module}.definitions"
"""

_WORKSPACE = """\
workspace = DbtCloudWorkspace(
    credentials=DbtCloudCredentials(
        account_id=os.getenv("DBT_CLOUD_ACCOUNT_ID"),
        token=os.getenv("DBT_CLOUD_TOKEN"),
        access_url=os.getenv("DBT_CLOUD_ACCESS_URL"),
    ),
    project_id=os.getenv("DBT_CLOUD_PROJECT_ID"),
    environment_id=os.getenv("DBT_CLOUD_ENVIRONMENT_ID"),
)
"""

_RUNNING = (
    '''\
"""dbt Cloud's project "{project}", environment "{environment}", in Dagster."""

import os

import dagster as dg
from dagster_dbtcloud import (
    DbtCloudCredentials,
    DbtCloudWorkspace,
    build_dbt_cloud_polling_sensor,
    dbt_cloud_assets,
)

'''
    + _WORKSPACE
    + '''

@dbt_cloud_assets(workspace=workspace)
def dbt_project(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace):
    """What is picked in Dagster, no more and no less, is built by dbt Cloud."""
    yield from dbt_cloud.cli(args=["build"], context=context).wait()


defs = dg.Definitions(
    assets=[dbt_project],
    # What dbt Cloud runs by itself is recorded as well.
    sensors=[build_dbt_cloud_polling_sensor(workspace=workspace)],
    resources={{"dbt_cloud": workspace}},
)
'''
)

_WATCHING = (
    '''\
"""dbt Cloud's project "{project}", environment "{environment}", watched by Dagster."""

import os

import dagster as dg
from dagster_dbtcloud import (
    DbtCloudCredentials,
    DbtCloudWorkspace,
    build_dbt_cloud_polling_sensor,
    load_dbt_cloud_asset_specs,
    load_dbt_cloud_check_specs,
)

'''
    + _WORKSPACE
    + '''

@dg.multi_asset_check(specs=load_dbt_cloud_check_specs(workspace))
def dbt_tests():
    """What dbt Cloud tests; Dagster records the results, and does not run them."""
    raise NotImplementedError("These checks run in dbt Cloud.")


defs = dg.Definitions(
    assets=load_dbt_cloud_asset_specs(workspace),
    asset_checks=[dbt_tests],
    sensors=[build_dbt_cloud_polling_sensor(workspace=workspace)],
)
'''
)
