"""What is printed: tables for people, JSON for machines, one state in one colour.

Tables are the same on a terminal and in a pipe, but for colours: aligned, and never cut.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dagster_dbtcloud.cloud.models import Run

COLOURS = {
    "success": "green",
    "ok": "green",
    "error": "red",
    "failed": "red",
    "fail": "red",
    "cancelled": "yellow",
    "warned": "yellow",
    "warn": "yellow",
    "running": "cyan",
    "starting": "cyan",
    "queued": "blue",
    "skipped": "bright_black",
}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")


def show_json(value: object) -> None:
    """Print a value; times are ISO 8601 in UTC. It is ASCII, so that no code page spoils it."""
    click.echo(json.dumps(value, indent=2, default=_plain))


def show_table(titles: Sequence[str], rows: Sequence[Sequence[object]], *, none: str) -> None:
    """Print rows below their titles; ``none`` is what to say, on stderr, when there are none.

    A title that begins with ``>`` is that of a column of numbers, which stand to the right.
    """
    if not rows:
        click.echo(none, err=True)
        return
    right = [title.startswith(">") for title in titles]
    head = [title.removeprefix(">") for title in titles]
    texts = [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in (head, *texts)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        placed = [
            coloured(cell.rjust(width) if is_right else cell.ljust(width))
            for cell, width, is_right in zip(cells, widths, right, strict=True)
        ]
        return "  ".join(placed).rstrip()

    click.echo(click.style(line(head), bold=True))
    for text in texts:
        click.echo(line(text))


def coloured(text: str) -> str:
    """Return a text in the colour of its state, if it is one."""
    colour = COLOURS.get(text.strip().lower())
    return click.style(text, fg=colour) if colour else text


def when(moment: datetime | None) -> str:
    """Return a time as people read it, in UTC."""
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def span(seconds: float | None) -> str:
    """Return a duration: ``4.2 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def seconds_of(run: Run, now: datetime | None = None) -> float | None:
    """Return how long a run has taken, or takes so far, from its start."""
    end = run.finished_at or (None if run.is_complete else now)
    return None if run.started_at is None or end is None else (end - run.started_at).total_seconds()


def facts_of(thing: object, *names: str, **others: object) -> dict[str, Any]:
    """Return attributes by their names, and others that are called otherwise, for ``--json``."""
    return {**{name: getattr(thing, name) for name in names}, **others}


def run_facts(run: Run) -> dict[str, Any]:
    """Return a run in the shape that ``--json`` has everywhere (docs/cli.md)."""
    return {
        "id": run.id,
        "status": run.status_name.lower(),
        "is_complete": run.is_complete,
        "is_success": run.is_success,
        "job_id": run.job_id,
        "job_name": run.job.name if run.job else None,
        "project_id": run.project_id,
        "environment_id": run.environment_id,
        "cause": run.trigger.cause if run.trigger else None,
        "git_branch": run.git_branch,
        "git_sha": run.git_sha,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "seconds": seconds_of(run),
        "status_message": run.status_message,
        "url": run.href,
    }


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)
