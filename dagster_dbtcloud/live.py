"""What a run tells while it goes on: new log lines, nodes that have ended, and how far it is.

It reads the logs of a run that somebody else has fetched; it talks to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from dagster_dbtcloud.cloud.models import Run, RunStep
from dagster_dbtcloud.dbt.logs import NodeEvent, StepLog
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.progress import Progress
from dagster_dbtcloud.dbt.run_results import NodeResult, RunResults
from dagster_dbtcloud.dbt.tail import LogTail
from dagster_dbtcloud.events import Declared, Outcome, RunRef, interpret
from dagster_dbtcloud.harvest import BUILDING, CHECKING, dbt_command

_CHUNK_LINES = 200
"""Lines of one entry in Dagster's log."""


@dataclass(frozen=True)
class News:
    """What one look at a run has brought: text for people, and the nodes that have ended."""

    step: RunStep
    texts: tuple[str, ...]
    ended: tuple[NodeEvent, ...]


class RunLog:
    """The logs of a run's steps, read again and again while they grow.

    ``manifest`` knows the nodes that the log may speak of; without one, only text is told.
    ``other_schemas`` says that the run writes to other schemas than the manifest's. ``timings``
    gives the seconds that nodes took in an earlier run, asked for at most once.
    """

    def __init__(
        self,
        manifest: Manifest | None,
        *,
        other_schemas: bool = False,
        timings: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._manifest = manifest
        self._other_schemas = other_schemas
        self._timings = timings
        self._known_timings: Mapping[str, float] | None = None
        self._steps: dict[int, _Step] = {}

    def read(self, run: Run, *, at: float) -> Iterator[News]:
        """Yield what is new in each step; ``at`` is the time of this look, in seconds."""
        for step in run.run_steps:
            known = self._steps.get(step.index)
            if known is None:
                known = self._steps[step.index] = _Step(self._reader(step))
            news = known.read(step, final=run.is_complete, at=at, timings=self._seconds)
            if news.texts or news.ended:
                yield news

    def _reader(self, step: RunStep) -> StepLog | None:
        if self._manifest is None or dbt_command(step.command) not in BUILDING | CHECKING:
            return None
        return StepLog(self._manifest, schema_override=self._other_schemas)

    def _seconds(self) -> Mapping[str, float]:
        if self._known_timings is None:
            self._known_timings = self._timings()
        return self._known_timings


class _Step:
    """One step's log."""

    def __init__(self, reader: StepLog | None) -> None:
        self._reader = reader
        self._tail = LogTail()
        self._progress: Progress | None = None
        self._complete = False
        self._length = -1

    def read(
        self,
        step: RunStep,
        *,
        final: bool,
        at: float,
        timings: Callable[[], Mapping[str, float]],
    ) -> News:
        if self._complete and len(step.logs) == self._length:
            return News(step, (), ())  # its log comes whole with each look at the run
        self._length = len(step.logs)
        lines = self._tail.feed(step.logs, final=final or step.is_complete)
        texts = [
            f"{step.name}\n" + "\n".join(lines[start : start + _CHUNK_LINES])
            for start in range(0, len(lines), _CHUNK_LINES)
        ]
        events: list[NodeEvent] = []
        if self._reader is not None:
            events = self._reader.feed(lines)
            if step.is_complete:
                # The whole text is there now; the window may have slid past some of it before.
                events += self._reader.feed(step.logs.splitlines())
        self._complete = step.is_complete
        if events:
            if self._progress is None:
                self._progress = Progress(began=at, timings=timings())
            finished = self._progress.feed(events, at=at)
            texts += ["\n".join(map(str, finished))] if finished else []
        return News(step, tuple(texts), tuple(event for event in events if event.finished))


def outcomes_of(news: News, declared: Declared, ref: RunRef) -> tuple[Outcome, ...]:
    """Translate what a log tells into outcomes; what it leaves open waits for the artifact."""
    results = tuple(
        NodeResult(
            event.unique_id,
            event.status,
            failures=event.failures,
            execution_time=event.seconds or 0.0,
        )
        for event in news.ended
        if event.unique_id is not None and event.status is not None
    )
    told = RunResults(
        origin=f"the log of dbt Cloud run {ref.run_id}, step {news.step.index}",
        generated_at=None,
        invocation_id=None,
        dbt_version=None,
        env={},
        command=dbt_command(news.step.command),
        args={},
        results=results,
        elapsed_time=0.0,
    )
    return interpret(told, declared, ref).outcomes
