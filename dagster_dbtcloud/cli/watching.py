"""What a person sees of a run while it goes on: a live display on a terminal, lines elsewhere.

It is told of each look at a run; it asks dbt Cloud nothing. All of it goes to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

import click

from dagster_dbtcloud.cli.output import COLOURS, coloured, span
from dagster_dbtcloud.cli.steplogs import StepLines
from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.dbt.logs import StepLog
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.progress import FinishedNode, Progress, about, count, tally
from dagster_dbtcloud.harvest import BUILDING, CHECKING, dbt_command

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import RenderableType
    from rich.live import Live
    from rich.text import Text

    from dagster_dbtcloud.cloud.models import Run, RunStep

_SHOWN_RUNNING = 8
_REFRESHES = 4.0
"""A second: times pass and bars move between two looks."""


class Display(Protocol):
    """Shows a run; a context manager, since a terminal has to be given back."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def show(self, run: Run) -> None:
        """Take in one look at the run."""
        ...


def display_for(story: Story) -> Display:
    """Return the live display where stderr is a terminal that can move its cursor."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        return LiveDisplay(story)
    return LineDisplay(story)


class Story:
    """What is known of a run so far.

    ``manifest`` and ``timings`` are of an earlier run, for the estimate; without them the nodes are
    counted all the same.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        manifest: Manifest | None = None,
        timings: Mapping[str, float] | None = None,
        other_schemas: bool = False,
    ) -> None:
        self.clock = clock
        self.run: Run | None = None
        self.step: RunStep | None = None
        self.progress: Progress | None = None
        self._manifest = manifest or _NOTHING
        self._timings = timings or {}
        self._other_schemas = other_schemas
        self._lines = StepLines()
        self._logs: dict[int, tuple[StepLog, Progress]] = {}

    def read(self, run: Run) -> Iterable[RunStep | FinishedNode]:
        """Yield each step that has begun since the last look, and each node that has ended."""
        at = self.clock.monotonic()
        self.run = run
        for step, first, lines in self._lines.new(run):
            if first:
                self.step, self.progress = step, None
                yield step
            if dbt_command(step.command) not in BUILDING | CHECKING:
                continue
            if step.index not in self._logs:
                self._logs[step.index] = (
                    StepLog(self._manifest, schema_override=self._other_schemas),
                    Progress(began=at, timings=self._timings),
                )
            log, progress = self._logs[step.index]
            if self.step is not None and self.step.index == step.index:
                self.step, self.progress = step, progress
            yield from progress.feed(log.feed(lines), at=at)

    @property
    def counts(self) -> dict[str, int]:
        """How many nodes of all steps ended in which state, as the logs say."""
        found: dict[str, int] = {}
        for _, progress in self._logs.values():
            for state, number in progress.counts.items():
                found[state] = found.get(state, 0) + number
        return found


class LineDisplay:
    """One line for each change of status, step, and node: for pipes, files and CI."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._status = ""

    def __enter__(self) -> LineDisplay:
        return self

    def __exit__(self, *_: object) -> None: ...

    def show(self, run: Run) -> None:
        status = _status(run)
        if status != self._status and not run.is_complete:
            self._status = status
            click.echo(f"Run {run.id}: {status}", err=True)
        for news in self._story.read(run):
            if isinstance(news, FinishedNode):
                click.echo(_coloured_line(news), err=True)
            else:
                click.echo(f"Step {news.index}: {news.command or news.name}", err=True)


class LiveDisplay:
    """A picture at the foot of the terminal; failures and warnings scroll away above it."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._live: Live | None = None

    def __enter__(self) -> LiveDisplay:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            console=Console(stderr=True, highlight=False),
            refresh_per_second=_REFRESHES,
            transient=True,
            get_renderable=self._picture,
        )
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, run: Run) -> None:
        if self._live is None:
            raise RuntimeError("the display is not entered")
        for news in self._story.read(run):
            if isinstance(news, FinishedNode) and news.state in ("failed", "warned"):
                from rich.text import Text

                style = COLOURS[news.state]
                self._live.console.print(Text(str(news), style=style), soft_wrap=True)
        self._live.refresh()

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        run, step, progress = self._story.run, self._story.step, self._story.progress
        if run is None:
            return Text("")
        now = self._story.clock.now()
        parts: list[RenderableType] = [_head(run, now.timestamp())]
        if step is not None and not run.is_complete:
            parts.append(Text(f"  {step.command or step.name}", style="bold", no_wrap=True))
        if progress is not None:
            at = self._story.clock.monotonic()
            parts.append(_bar(progress, at))
            running = progress.running
            for node in running[:_SHOWN_RUNNING]:
                line = Text("    ", no_wrap=True, overflow="ellipsis")
                line.append(node.description, style="cyan")
                line.append(f"  {span(at - node.since)}", style="dim")
                if node.expected is not None:
                    line.append(f"  of {about(node.expected)}", style="dim")
                parts.append(line)
            if len(running) > _SHOWN_RUNNING:
                parts.append(Text(f"    and {len(running) - _SHOWN_RUNNING} more", style="dim"))
        return Group(*parts)


def _head(run: Run, now: float) -> Text:
    from rich.text import Text

    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"Run {run.id}  ")
    line.append(_status(run), style=COLOURS.get(run.status_name.lower(), ""))
    began = run.started_at or run.created_at
    if began is not None:
        line.append(f"  {span(max(now - began.timestamp(), 0.0))}", style="dim")
    if run.href:
        line.append(f"  {run.href}", style="dim")
    return line


def _bar(progress: Progress, at: float) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    words = Text(count(progress.finished, progress.total), no_wrap=True)
    if progress.finished:
        words.append(f"  {tally(progress.counts)}", style="dim")
    if (remaining := progress.remaining(at=at)) is not None:
        words.append(f"  {about(remaining)} left", style="dim")
    bar = ProgressBar(
        total=progress.total, completed=progress.finished, width=30, pulse=progress.total is None
    )
    row = Table.grid(padding=(0, 2))
    row.add_row(Text(" "), bar, words)
    return row


def _status(run: Run) -> str:
    text = run.status_name
    if run.blocked_by and not run.is_complete:
        text += f", waiting for run {', '.join(map(str, run.blocked_by))}"
    return text


def _coloured_line(node: FinishedNode) -> str:
    return str(node).replace(f"  {node.state}  ", f"  {coloured(node.state)}  ", 1)


_NOTHING = Manifest.from_dict(
    {
        "metadata": {
            "dbt_schema_version": "https://schemas.getdbt.com/dbt/manifest/v12.json",
        },
        "nodes": {},
        "sources": {},
    },
    origin="no manifest",
)
"""Without a manifest the log names no node that we know; it counts them all the same."""
