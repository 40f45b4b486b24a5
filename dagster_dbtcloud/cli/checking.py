"""``check``: what works, and what to do about the rest (``verify.py`` does the work)."""

from __future__ import annotations

import click

from dagster_dbtcloud.cli.commands import FAILED
from dagster_dbtcloud.cli.connection import Connection, connected
from dagster_dbtcloud.cli.output import json_option, show_json


@click.command()
@json_option
@connected
def check(cloud: Connection, as_json: bool) -> int:
    """Say what works, and for each thing that does not, what to do.

    Makes the job that Dagster runs its commands in, if it is missing, and leaves no run behind.
    Exit code 1 if anything does not work.

    \b
    Example:
      export DBT_CLOUD_TOKEN=... DBT_CLOUD_ACCESS_URL=https://ab123.us1.dbt.com
      dagster-dbtcloud check --account-id 4242 --project-id 11
    """
    from dagster_dbtcloud.verify import verify

    result = verify(cloud)
    if as_json:
        show_json(
            {
                "ok": result.ok,
                "checks": [
                    {"name": c.name, "ok": c.ok, "detail": c.detail, "advice": c.advice}
                    for c in result.checks
                ],
            }
        )
    else:
        for line in str(result).splitlines():
            mark, rest = line[:4], line[4:]
            colour = {"ok  ": "green", "FAIL": "red"}.get(mark)
            click.echo(click.style(mark, fg=colour) + rest if colour else line)
    return 0 if result.ok else FAILED
