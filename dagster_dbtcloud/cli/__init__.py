"""The command line, ``dagster-dbtcloud``: what commands there are, and where each is found.

A command's room is imported when the command runs, so that ``--help``, completion and a command
that needs no Dagster are fast. Nothing is done here.
"""

from __future__ import annotations

import io
import sys

import click

from dagster_dbtcloud.cli.commands import Commands, Entry, colour
from dagster_dbtcloud.version import __version__

SECTIONS: dict[str, dict[str, Entry]] = {
    "Set up": {
        "check": Entry("checking", "Say what works, and what to do about the rest."),
        "init": Entry("beginning", "Make a Dagster project that runs your dbt Cloud project."),
        "migrate": Entry(
            "migrating", "Change the imports of dagster-dbt to those of this package."
        ),
    },
    "Look": {
        "projects": Entry("listing", "List the projects of the account."),
        "environments": Entry("listing", "List environments."),
        "jobs": Entry("listing", "List jobs, or clean up those that Dagster made."),
        "runs": Entry("listing", "List runs, the newest first."),
        "logs": Entry("logs", "Show the logs of a run, also while it grows."),
        "artifacts": Entry("artifacts", "List or download what a run has left."),
    },
    "Run": {
        "run": Entry("running", "Run a job."),
        "retry": Entry("running", "Run what failed in a run, and what was skipped."),
        "cancel": Entry("running", "Cancel runs."),
    },
    "Ask the manifest": {
        "manifest": Entry("manifest", "Find the environment's manifest, or fetch it."),
        "select": Entry("manifest", "List the nodes that a selection means."),
        "assets": Entry("assets", "List the assets and checks that Dagster would show."),
    },
    "Dagster's history": {
        "replay": Entry("replaying", "Record in Dagster what its sensor has not seen."),
    },
    "Without an account": {
        "sandbox": Entry("local", "Serve a local dbt Cloud that runs real dbt on DuckDB."),
        "demo": Entry("local", "Show it all on this machine."),
    },
}


@click.group(
    cls=Commands,
    sections=SECTIONS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name="dagster-dbtcloud")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Work with dbt Cloud: from a terminal, cron, CI, or whatever else runs commands.

    Results go to stdout, all else to stderr. Exit codes: 0 success, 1 dbt failed, 2 usage,
    3 dbt Cloud or the network, 4 a time limit, 130 interrupted, 143 terminated.

    \b
    Examples:
      dagster-dbtcloud check
      dagster-dbtcloud run nightly --wait --timeout 2h
      dagster-dbtcloud runs --status error --since 1d --json
    """
    ctx.color = colour()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Run the command line; the entry point of ``dagster-dbtcloud``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of jobs and files hold any character
            stream.reconfigure(errors="replace")
    cli()
