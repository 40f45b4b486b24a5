"""``projects``, ``environments``, ``jobs`` and ``runs``: what there is in dbt Cloud.

They only read.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dagster_dbtcloud.cli.commands import FAILED
from dagster_dbtcloud.cli.connection import Connection, connected
from dagster_dbtcloud.cli.output import (
    facts_of,
    json_option,
    run_facts,
    seconds_of,
    show_json,
    show_table,
    span,
    when,
)
from dagster_dbtcloud.cli.times import Since

if TYPE_CHECKING:
    from dagster_dbtcloud.cloud.models import Job

_STATUSES = {
    "queued": (1,),
    "starting": (2,),
    "running": (3,),
    "success": (10,),
    "error": (20,),
    "cancelled": (30,),
    "active": (1, 2, 3),
    "finished": (10, 20, 30),
}

_name_option = click.option("--name", metavar="TEXT", help="Only those with this in their name.")


@click.command()
@_name_option
@json_option
@connected
def projects(cloud: Connection, name: str | None, as_json: bool) -> None:
    """List the projects of the account.

    \b
    Example:
      dagster-dbtcloud projects --name shop
    """
    with cloud.get_client() as client:
        found = list(client.projects(name_contains=name))
    if as_json:
        names = ("id", "name", "description", "account_id", "dbt_project_subdirectory")
        show_json([facts_of(each, *names, "created_at") for each in found])
        return
    show_table(
        [">ID", "NAME", "DESCRIPTION"],
        [(each.id, each.name, each.description) for each in found],
        none="There is no such project that the token may see.",
    )


@click.command()
@_name_option
@json_option
@connected
def environments(cloud: Connection, name: str | None, as_json: bool) -> None:
    """List the environments of a project, or of all projects.

    \b
    Example:
      dagster-dbtcloud environments --project-id "Jaffle Shop"
    """
    with cloud.get_client() as client:
        project = cloud.project_id(client)
        wanted = [project] if project is not None else [each.id for each in client.projects()]
        found = [
            each
            for one in wanted
            for each in client.environments(one)
            if name is None or name.casefold() in each.name.casefold()
        ]
    if as_json:
        names = ("id", "name", "project_id", "type", "deployment_type", "dbt_version")
        show_json([facts_of(each, *names, "custom_branch", "created_at") for each in found])
        return
    show_table(
        [">ID", "NAME", ">PROJECT", "TYPE", "DBT"],
        [
            (
                each.id,
                each.name,
                each.project_id,
                each.deployment_type or each.type,
                each.dbt_version,
            )
            for each in found
        ],
        none="There is no such environment that the token may see.",
    )


@click.group(invoke_without_command=True)
@_name_option
@json_option
@connected
@click.pass_context
def jobs(ctx: click.Context, cloud: Connection, name: str | None, as_json: bool) -> None:
    """List jobs of the account, of a project or of an environment.

    \b
    Example:
      dagster-dbtcloud jobs --environment-id Production
    """
    if ctx.invoked_subcommand is not None:
        given = [
            parameter.opts[0]
            for parameter in ctx.command.params
            if ctx.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        ]
        if given:  # not heard, `jobs --environment-id Staging clean` would clean production
            raise click.UsageError(
                f"{given[0]} goes behind the sub-command: jobs {ctx.invoked_subcommand} "
                f"{given[0]} ..."
            )
        return
    with cloud.get_client() as client:
        project, environment = cloud.project_id(client), cloud.environment_id(client)
        found = list(
            client.jobs(project_id=project, environment_id=environment, name_contains=name)
        )
    if as_json:
        show_json([_job_facts(each) for each in found])
        return
    show_table(
        [">ID", "NAME", ">ENVIRONMENT", "TYPE", "STEPS"],
        [
            (each.id, each.name, each.environment_id, each.job_type, "; ".join(each.execute_steps))
            for each in found
        ],
        none="There is no such job that the token may see.",
    )


@jobs.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
@click.option("--whole-project", is_flag=True, help="In all environments of the project.")
@json_option
@connected
def clean(cloud: Connection, dry_run: bool, whole_project: bool, as_json: bool) -> int:
    """Delete the jobs that Dagster made for its own commands in the environment.

    They are known by their description, not by their name; one with an active run stays. They are
    made again when Dagster next needs them, and their runs stay in dbt Cloud's history. Exit code 1
    if one could not be deleted.

    \b
    Example:
      dagster-dbtcloud jobs clean --environment-id Staging --dry-run
    """
    from dagster_dbtcloud.jobs import clean_jobs

    ids = cloud.ids()
    with cloud.get_client() as client:
        done = clean_jobs(client, ids, whole_project=whole_project, dry_run=dry_run)
    if as_json:
        show_json(
            {
                "deleted": [_job_facts(job) for job in done.deleted],
                "kept": [{**_job_facts(job), "reason": reason} for job, reason in done.kept],
                "dry_run": dry_run,
            }
        )
        return FAILED if done.kept else 0
    for job in done.deleted:
        click.echo(f"{'would delete' if dry_run else 'deleted'}  {job.id}  {job.name}")
    for job, reason in done.kept:
        click.echo(f"kept  {job.id}  {job.name}: {reason}", err=True)
    if not done.deleted and not done.kept:
        click.echo("There are no jobs that Dagster made.", err=True)
    return FAILED if done.kept else 0


@click.command()
@click.option("--job", metavar="ID|NAME|URL", help="Only runs of this job.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(list(_STATUSES), case_sensitive=False),
    help="Only runs of this status; may be given again.",
)
@click.option(
    "--since", type=Since(), help="Only runs created since then: 2h, 1d, 2026-01-31T06:00 (UTC)."
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many runs, the newest first.",
)
@json_option
@connected
def runs(
    cloud: Connection,
    job: str | None,
    statuses: tuple[str, ...],
    since: float | datetime | None,
    limit: int,
    as_json: bool,
) -> None:
    """List runs, the newest first.

    \b
    Examples:
      dagster-dbtcloud runs --status active
      dagster-dbtcloud runs --job nightly --status error --since 7d --json
    """
    now = cloud.clock.now()
    start = now - timedelta(seconds=since) if isinstance(since, float) else since
    with cloud.get_client() as client:
        project, environment = cloud.project_id(client), cloud.environment_id(client)
        job_id = None if job is None else cloud.find_job(client, job).id
        listed = client.runs(
            project_id=project,
            environment_id=environment,
            job_id=job_id,
            status_in=tuple(sorted({one for word in statuses for one in _STATUSES[word]})),
            created_at=None if start is None else (start, now + timedelta(days=1)),
            order_by="-id",
            page_size=min(limit, 100),
        )
        found = list(islice(listed, limit))
    if as_json:
        show_json([run_facts(each) for each in found])
        return
    show_table(
        [">ID", "STATUS", "JOB", "CREATED (UTC)", ">TOOK", "CAUSE"],
        [
            (
                each.id,
                each.status_name,
                each.job.name if each.job else each.job_id,
                when(each.created_at),
                span(seconds_of(each, now)),
                each.trigger.cause if each.trigger else "",
            )
            for each in found
        ],
        none="There is no such run that the token may see.",
    )


def _job_facts(job: Job) -> dict[str, Any]:
    return facts_of(
        job,
        *("id", "name", "project_id", "environment_id", "description", "dbt_version"),
        "created_at",
        type=job.job_type,
        steps=job.execute_steps,
        cron=job.schedule.get("cron") if job.triggers.get("schedule") else None,
    )
