"""``logs``: the text of a run's steps, whole or as it grows.

It watches only: leaving it leaves the run alone.
"""

from __future__ import annotations

import click

from dagster_dbtcloud.cli.connection import Connection, connected, run_id_of
from dagster_dbtcloud.cli.signals import signals_end
from dagster_dbtcloud.cli.steplogs import StepLines
from dagster_dbtcloud.errors import ConfigError, NotFoundError

_FOLLOW_SECONDS = 600.0
"""How long dbt Cloud may give no answer while a run is followed."""


@click.command()
@click.argument("run")
@click.option("--follow", "-f", is_flag=True, help="Go on while the run does.")
@click.option("--step", type=click.IntRange(min=1), help="Only this step.")
@connected
def logs(cloud: Connection, run: str, follow: bool, step: int | None) -> None:
    """Show the logs of RUN, which is an id or a URL.

    The exit code tells whether the logs could be shown, not how the run ended. Leaving with Ctrl-C
    leaves the run alone.

    \b
    Examples:
      dagster-dbtcloud logs 70403103919483 --follow
      dagster-dbtcloud logs 70403103919483 --step 4
    """
    run_id = run_id_of(cloud, run)
    lines = StepLines()
    shown = False
    with signals_end(), cloud.get_client(retry_for=_FOLLOW_SECONDS) as client:
        try:
            found = client.run(run_id, include=("trigger", "job", "run_steps"))
        except NotFoundError as error:
            raise ConfigError(
                f"There is no run {run_id} in account {client.account_id} that the token may see; "
                "`dagster-dbtcloud runs` lists them."
            ) from error
        if step is not None and found.is_complete:
            numbers = [each.index for each in found.run_steps]
            if step not in numbers:
                raise ConfigError(
                    f"Run {run_id} has no step {step}; it has: {', '.join(map(str, numbers))}."
                )
        if follow and not found.is_complete:
            from dagster_dbtcloud.following import follow as follow_run

            looks = follow_run(client, run_id, clock=cloud.clock)
        else:
            looks = iter([found])
        for look in looks:
            for each, first, new in lines.new(look):
                if step is not None and each.index != step:
                    continue
                if first and step is None:
                    title = f"--- step {each.index}: {each.name}"
                    click.echo(click.style(title, bold=True))
                for line in new:
                    click.echo(line)
                shown = shown or bool(new)
            found = look
    if not shown:
        click.echo(f"Run {run_id} ({found.status_name}) has no logs.", err=True)
