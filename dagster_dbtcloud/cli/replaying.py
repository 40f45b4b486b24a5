"""``replay``: dbt Cloud's history into Dagster's event log once more (``replay.py`` does the work).

It works on a code location and a Dagster instance, so it imports Dagster, and it takes credentials
from where the code location takes them.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime, timedelta
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click

from dagster_dbtcloud.cli.commands import FAILED
from dagster_dbtcloud.cli.connection import Tools
from dagster_dbtcloud.cli.output import json_option, show_json
from dagster_dbtcloud.cli.times import Since
from dagster_dbtcloud.errors import ConfigError

if TYPE_CHECKING:
    import dagster as dg

    from dagster_dbtcloud.polling import RunReport
    from dagster_dbtcloud.sensor import Observer


@click.command()
@click.option(
    "--module-name",
    "-m",
    metavar="NAME",
    help="The module that holds the definitions, such as my_project.definitions.",
)
@click.option(
    "--python-file",
    "-f",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The file that holds them.",
)
@click.option("--sensor", metavar="NAME", help="Which polling sensor, if there are several.")
@click.option(
    "--since", type=Since(), help="Runs that finished since then: 12h, 7d, 2026-01-31 (UTC)."
)
@click.option(
    "--run", "runs", multiple=True, metavar="ID|URL", help="This run; may be given again."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be recorded.")
@json_option
@click.pass_context
def replay(
    ctx: click.Context,
    module_name: str | None,
    python_file: Path | None,
    sensor: str | None,
    since: float | datetime | None,
    runs: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> int:
    """Record in Dagster what its polling sensor has not seen or could not read.

    What is recorded already is left alone, so it may be run again. The Dagster instance is that of
    DAGSTER_HOME. Exit code 1 if a run could not be read.

    \b
    Examples:
      dagster-dbtcloud replay -m my_project.definitions --since 7d --dry-run
      dagster-dbtcloud replay -f definitions.py --run 70403103919483
    """
    if (module_name is None) == (python_file is None):
        raise click.UsageError("Give either --module-name or --python-file.")
    if (since is None) == (not runs):
        raise click.UsageError("Give either --since or --run.")
    run_ids = [_run_id(text) for text in runs]
    now = (ctx.find_object(Tools) or Tools()).clock.now()
    start = now - timedelta(seconds=since) if isinstance(since, float) else since

    from dagster_dbtcloud.replay import replay as replay_runs

    _check_home()
    repository = _definitions(module_name, python_file).get_repository_def()
    observer = _observer(repository, sensor)
    reports: list[RunReport] = []
    with _instance() as instance:
        found = replay_runs(
            observer, repository, instance, since=start, run_ids=run_ids, dry_run=dry_run
        )
        for report in found:
            reports.append(report)
            if not as_json:
                click.echo(_line(report, dry_run))
    if as_json:
        show_json(
            [
                {
                    "run_id": report.run.id,
                    "events": len(report.events),
                    "skipped": report.skipped,
                    "waiting": report.waiting,
                    "unreadable": report.quarantined,
                }
                for report in reports
            ]
        )
    if not reports:
        click.echo("No run finished in that time.", err=True)
    return FAILED if any(report.quarantined for report in reports) else 0


def _run_id(text: str) -> int:
    from dagster_dbtcloud.cloud.urls import parse_url

    found = int(text) if text.isdecimal() else parse_url(text).run_id if "/" in text else None
    if found is None:
        raise ConfigError(f"{text!r} is not a run: give its id or its address in dbt Cloud.")
    return found


def _line(report: RunReport, dry_run: bool) -> str:
    if report.quarantined:
        text = f"cannot be read: {report.quarantined}"
    elif report.waiting:
        text = f"waits for {report.waiting}"
    elif report.skipped:
        text = f"left out: {report.skipped}"
    elif report.events:
        count = len(report.events)
        events = f"{count} event{'' if count == 1 else 's'}"
        text = f"{events} {'to record' if dry_run else 'recorded'}"
    else:
        text = "all recorded already"
    return f"{report.run.id}  {text}"


def _check_home() -> None:
    """Refuse what is no instance's home, before loading code makes a folder of that name."""
    home = os.environ.get("DAGSTER_HOME")
    if not home:
        raise ConfigError("DAGSTER_HOME is not set: it says which Dagster instance to write to.")
    if not (os.path.isabs(home) and os.path.isdir(home)):
        raise ConfigError(f"DAGSTER_HOME is {home!r}; it must be the whole path of a folder.")


def _instance() -> dg.DagsterInstance:
    import dagster as dg

    try:
        return dg.DagsterInstance.get()
    except Exception as error:  # its dagster.yaml may name any class, and a database that is away
        raise ConfigError(f"The instance of DAGSTER_HOME cannot be opened: {error}") from error


def _definitions(module_name: str | None, file: Path | None) -> dg.Definitions:
    """Load a code location as Dagster does: the ``Definitions`` of a module or a file."""
    import dagster as dg

    where = module_name or str(file)
    sys.path.insert(0, os.getcwd())
    try:
        module = import_module(module_name) if module_name else _module_of(file or Path())
        held = [
            value() if name == "defs" and callable(value) else value
            for name, value in vars(module).items()
            if isinstance(value, dg.Definitions) or name == "defs"
        ]
    except Exception as error:  # it is the user's code: it may raise anything
        raise ConfigError(f"{where} does not load: {type(error).__name__}: {error}") from error
    found = {id(value): value for value in held if isinstance(value, dg.Definitions)}
    if len(found) != 1:
        raise ConfigError(f"{where} holds {len(found)} dagster.Definitions, not one.")
    return found.popitem()[1]


def _module_of(file: Path) -> ModuleType:
    spec = spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is not a Python file.")
    module = module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def _observer(repository: dg.RepositoryDefinition, name: str | None) -> Observer:
    from dagster_dbtcloud.sensor import observer_of

    found = {
        sensor.name: observer
        for sensor in repository.sensor_defs
        if (observer := observer_of(sensor)) is not None
    }
    if name is not None and name in found:
        return found[name]
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    listed = ", ".join(sorted(found)) or "none; build_dbt_cloud_polling_sensor makes one"
    which = f"no polling sensor {name!r}" if name else f"{len(found)} polling sensors"
    raise ConfigError(
        f"The code location has {which}; name one with --sensor. There are: {listed}."
    )
