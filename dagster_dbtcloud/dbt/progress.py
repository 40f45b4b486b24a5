"""How far one dbt step is: what has ended and how, what runs, and how long the rest may take.

Pure: it is fed with the events that ``logs.StepLog`` reads, and with the time at which they were
read. It reads no log, asks no clock and draws nothing. A run of several dbt steps has one
``Progress`` for each, as it has one ``StepLog`` for each; dbt counts by step, too.

::

    seconds = timings(results_of_the_previous_run)  # once per run
    progress = Progress(began=clock.monotonic(), timings=seconds)  # for each step
    while ...:  # at each look at the step's log
        for done in progress.feed(step_log.feed(new_lines), at=clock.monotonic()):
            log.info(str(done))  # 37 of 412  ok  model main.orders  1.20 s  (about 4 min left)
        log.debug(progress.summary(at=clock.monotonic()))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from dagster_dbtcloud.dbt.logs import NodeEvent
from dagster_dbtcloud.dbt.run_results import RunResults

State = Literal["ok", "warned", "failed", "skipped"]
STATES: tuple[State, ...] = ("ok", "warned", "failed", "skipped")

_STATE_OF: dict[str | None, State] = {
    "success": "ok",
    "pass": "ok",
    "no-op": "ok",
    "reused": "ok",
    "warn": "warned",
    "skipped": "skipped",
}
"""Of every other status, "failed": an error, a failed test, a microbatch built in part."""

_SETTLED_SECONDS = 5.0
"""From when on a step's own pace is believed; before that, the number of nodes that run."""
_SHOWN_RUNNING = 3


@dataclass(frozen=True, slots=True)
class RunningNode:
    """A node that has started and not ended.

    ``unique_id`` is None where the log does not tell which node it is; ``since`` is when the start
    was read; ``expected`` is what it took last time, in seconds, if that is known.
    """

    unique_id: str | None
    description: str
    since: float
    expected: float | None


@dataclass(frozen=True, slots=True)
class FinishedNode:
    """A node that has ended, and how far the step was then; ``str()`` is a line for a log.

    ``finished`` counts this node too. ``total`` is None while nothing tells it. ``remaining`` is in
    seconds, None without an estimate.
    """

    event: NodeEvent
    state: State
    finished: int
    total: int | None
    remaining: float | None

    def __str__(self) -> str:
        parts = [count(self.finished, self.total), self.state, self.event.description]
        if self.event.seconds is not None and self.state != "skipped":
            parts.append(f"{self.event.seconds:.2f} s")
        if self.remaining is not None and self.finished != self.total:
            parts.append(f"({about(self.remaining)} left)")
        return "  ".join(parts)


class Progress:
    """One dbt step in time.

    Times (``began``, ``at``) are seconds of any one clock. ``timings`` are the seconds that nodes
    took in an earlier run, by unique id (``timings()`` makes them); without any there is no
    estimate. ``expected`` are the unique ids that the step is to run, where that is known: dbt v2
    writes no total into its log, and an estimate is better for it.
    """

    def __init__(
        self,
        *,
        began: float,
        timings: Mapping[str, float] | None = None,
        expected: Collection[str] = (),
    ) -> None:
        self.finished = 0
        self.counts: Counter[State] = Counter()
        self._began = began
        self._timings = timings or {}
        self._expected = frozenset(expected)
        self._told: int | None = None
        self._running: dict[int | str, RunningNode] = {}
        self._done = 0.0
        """Seconds that the nodes that ended took last time."""
        known = self._timings.values()
        self._usual = sum(known) / len(known) if known else 0.0
        # What no event has spoken of yet, and the sum of it: kept, so that each event costs little.
        self._ahead = set(self._expected or self._timings)
        self._ahead_seconds = sum(map(self._seconds_of, self._ahead))

    @property
    def total(self) -> int | None:
        """How many nodes the step has: as dbt says, else as expected, else None."""
        return self._told if self._told is not None else len(self._expected) or None

    @property
    def running(self) -> tuple[RunningNode, ...]:
        """What has started and not ended, the earliest first."""
        return tuple(self._running.values())

    def feed(self, events: Iterable[NodeEvent], *, at: float) -> list[FinishedNode]:
        """Take in what was read at the time ``at``; return the nodes that ended, in order."""
        finished = []
        for event in events:
            self._told = event.total if event.total is not None else self._told
            if event.finished:
                finished.append(self._end(event, at))
            else:
                self._start(event, at)
        return finished

    def remaining(self, *, at: float) -> float | None:
        """Estimate the seconds to the end of the step; None when there is nothing to go by.

        The seconds that the open nodes took last time, divided by the pace so far: how many such
        seconds this step does in one of its own, so that threads and a slow warehouse both count.
        It is never less than what the longest of the running nodes still has to go.
        """
        total = self.total
        if not self._timings or (total is not None and self.finished >= total):
            return None
        open_seconds = [self._left(node, at) for node in self._running.values()]
        left = sum(open_seconds) + self._seconds_ahead()
        return max(left / self._pace(at), *open_seconds, 0.0)

    def summary(self, *, at: float) -> str:
        """Return one line: ``37 of 412: 35 ok, 2 failed; running: a, b; about 4 min left``."""
        text = count(self.finished, self.total)
        if self.finished:
            text += f": {tally(self.counts)}"
        if self._running:
            names = [node.description for node in self.running]
            more = f" and {len(names) - _SHOWN_RUNNING} more" * (len(names) > _SHOWN_RUNNING)
            text += f"; running: {', '.join(names[:_SHOWN_RUNNING])}{more}"
        remaining = self.remaining(at=at)
        return text if remaining is None else f"{text}; {about(remaining)} left"

    def _start(self, event: NodeEvent, at: float) -> None:
        node = RunningNode(
            event.unique_id, event.description, at, self._timings.get(event.unique_id or "")
        )
        self._running.setdefault(_key(event), node)
        self._forget_ahead(event.unique_id)

    def _end(self, event: NodeEvent, at: float) -> FinishedNode:
        self._running.pop(_key(event), None)
        state = state_of(event.status)
        self.finished += 1
        self.counts[state] += 1
        self._forget_ahead(event.unique_id)
        if state != "skipped":  # it took no time, so it tells nothing of the pace
            self._done += self._seconds_of(event.unique_id)
        return FinishedNode(event, state, self.finished, self.total, self.remaining(at=at))

    def _forget_ahead(self, unique_id: str | None) -> None:
        if unique_id in self._ahead:
            self._ahead.discard(unique_id)
            self._ahead_seconds -= self._seconds_of(unique_id)

    def _seconds_of(self, unique_id: str | None) -> float:
        return self._timings.get(unique_id or "", self._usual)

    def _left(self, node: RunningNode, at: float) -> float:
        return max(self._seconds_of(node.unique_id) - (at - node.since), 0.0)

    def _seconds_ahead(self) -> float:
        """Return what the nodes that have not started took last time.

        When dbt's total says that not all of last time's nodes run, they count by their mean.
        """
        total = self.total
        number = len(self._ahead)
        if total is None:
            return max(self._ahead_seconds, 0.0)
        waiting = max(total - self.finished - len(self._running), 0)
        mean = max(self._ahead_seconds, 0.0) / number if number else self._usual
        return waiting * mean

    def _pace(self, at: float) -> float:
        elapsed = at - self._began
        under_way = sum(
            min(at - node.since, self._seconds_of(node.unique_id)) for node in self.running
        )
        done = self._done + under_way
        if elapsed < _SETTLED_SECONDS or done <= 0:
            return float(max(len(self._running), 1))
        return done / elapsed


def state_of(status: str | None) -> State:
    """Return which of the four states one of dbt's words is; None is Fusion's "Failed"."""
    return _STATE_OF.get(status, "failed")


def timings(results: Iterable[RunResults]) -> dict[str, float]:
    """Return the seconds each node took, by unique id; the last time counts, skipped ones do not.

    ``results`` are those of an earlier run, of each of its steps.
    """
    return {
        result.unique_id: result.execution_time
        for step in results
        for result in step.results
        if result.status not in ("skipped", "no-op", "reused")
    }


def count(finished: int, total: int | None) -> str:
    """Return ``37 of 412``, both numbers of one width, or ``37`` when no total is known."""
    if total is None:
        return str(finished)
    return f"{finished:>{len(str(total))}} of {total}"


def tally(counts: Mapping[State, int]) -> str:
    """Return ``35 ok, 2 failed``: what there is, in a fixed order."""
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts.get(state))


def about(seconds: float) -> str:
    """Return a duration as people say it: ``about 20 s``, ``about 4 min``, ``about 2 h 10 min``."""
    if seconds < 60:
        return f"about {max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"about {minutes} min"
    return f"about {minutes // 60} h {minutes % 60} min"


def _key(event: NodeEvent) -> int | str:
    """Name a node the same at its start and its end: dbt v1 numbers them."""
    return event.index if event.index is not None else event.unique_id or event.description
