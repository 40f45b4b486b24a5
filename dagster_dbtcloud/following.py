"""Follow one dbt Cloud run: how often it is read, what is ridden out, and when we stop watching.

It reads the run and nothing else; what is made of its logs and results is in ``invocation.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TypeVar

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import Run, RunStatus
from dagster_dbtcloud.errors import (
    ApiResponseError,
    AuthenticationError,
    ConfigError,
    NotFoundError,
    RunTimedOut,
)

INCLUDED = ("trigger", "job", "run_steps")

FIRST_INTERVAL, LAST_INTERVAL = 1.0, 10.0
"""Seconds between two looks at a run: just after its start, and at most."""
BUSY_INTERVAL = 2.0
"""Seconds between two looks at a run whose log grows."""
_GROWTH = 1.25
_GRACE_AFTER_TRIGGER = 60.0
"""Seconds in which a 404 for a run just created is taken for a replica that lags."""
_AUTHENTICATION_TRIES = 4

Duration = float | timedelta
T = TypeVar("T")


@dataclass(frozen=True)
class RunLimits:
    """How long a dbt Cloud run may take before Dagster stops watching. None: as long as it takes.

    All are seconds or a ``timedelta``, counted while Dagster watches. ``queued`` is the time until
    dbt Cloud has started the run, ``running`` the time from then on, ``without_progress`` the time
    since its status, a step or a log last changed while it runs. Past a limit the step fails and
    the run is cancelled, unless ``on_leave="detach"``.

    ``outage`` is how long dbt Cloud may give no usable answer (5xx, 429, cut or HTML answers, no
    connection) while a run is followed: ten minutes.

    Raises: ConfigError, for a limit that is not positive.
    """

    queued: Duration | None = None
    running: Duration | None = None
    without_progress: Duration | None = None
    outage: Duration = 600.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name != "outage":
                continue
            seconds = seconds_of(value)
            if seconds is None or not seconds > 0:
                raise ConfigError(
                    f"The limit {field.name}={value!r} is not a positive number of seconds or a "
                    "timedelta."
                )


def seconds_of(value: object) -> float | None:
    """Return a duration in seconds; None for what is none."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return None


NO_LIMITS = RunLimits()


def follow(
    client: DbtCloudClient,
    run_id: int,
    *,
    clock: Clock,
    timeout: float | None = None,
    limits: RunLimits = NO_LIMITS,
) -> Iterator[Run]:
    """Yield the run, with its steps, each time it is read, the last time when it is complete.

    It is read after 1 s, then ever less often down to every 10 s, and every 2 s while its log
    grows: on average at most once in 2 s. ``timeout`` is in seconds and covers all of it. The
    client rides out 429, 5xx and connection faults for its own budget; a refused token is tried
    a few times over half a minute, since dbt Cloud's gateways refuse good ones at times.

    Raises: RunTimedOut; ApiError when the budget is spent.
    """
    watch = _Watch(run_id, clock, timeout, limits)
    odd_since: float | None = None
    while True:
        asked_at = watch.elapsed
        try:
            run = patiently(lambda: client.run(run_id, include=INCLUDED), clock=clock)
        except ApiResponseError:  # JSON, but no run: as much an outage as a page of HTML
            odd_since = asked_at if odd_since is None else odd_since
            if watch.elapsed - odd_since >= (seconds_of(limits.outage) or 0.0):
                raise
            moved = False
        except NotFoundError:
            if watch.elapsed > _GRACE_AFTER_TRIGGER:
                raise
            moved = False
        else:
            odd_since = None
            moved = watch.see(run)
            yield run
            if run.is_complete:
                return
        watch.check()
        clock.sleep(watch.next_interval(moved=moved))


def patiently(ask: Callable[[], T], *, clock: Clock) -> T:
    """Ask dbt Cloud; a refused token is tried again a few times before it is believed.

    Raises: AuthenticationError, after half a minute; whatever else ``ask`` raises.
    """
    for _ in range(_AUTHENTICATION_TRIES - 1):
        try:
            return ask()
        except AuthenticationError:
            clock.sleep(LAST_INTERVAL)
    return ask()


class _Watch:
    """The clocks that run while a run is followed."""

    def __init__(self, run_id: int, clock: Clock, timeout: float | None, limits: RunLimits) -> None:
        self._run_id = run_id
        self._clock = clock
        self._started = clock.monotonic()
        self._running_since: float | None = None
        self._moved_at = self._started
        self._seen: object = None
        self._last: Run | None = None
        self._interval = FIRST_INTERVAL
        self._ends: list[tuple[str, Duration | None, Callable[[], float | None]]] = [
            ("the time limit that was given to wait()", timeout, lambda: self._started),
            ("the limit for its time in the queue", limits.queued, self._queued_since),
            ("the limit for its running time", limits.running, lambda: self._running_since),
            (
                "the limit for running without progress",
                limits.without_progress,
                lambda: self._moved_at if self._running_since is not None else None,
            ),
        ]

    @property
    def elapsed(self) -> float:
        return self._clock.monotonic() - self._started

    def _queued_since(self) -> float | None:
        return self._started if self._running_since is None else None

    def see(self, run: Run) -> bool:
        """Take note of the run; return whether it runs and anything changed since the last look."""
        now = self._clock.monotonic()
        self._last = run
        if self._running_since is None and run.status not in (RunStatus.QUEUED, RunStatus.STARTING):
            self._running_since = now
        # a window that slides keeps its length
        state = (
            run.status,
            [(s.index, s.status, len(s.logs), s.logs[-200:]) for s in run.run_steps],
        )
        moved = state != self._seen
        if moved:
            self._seen, self._moved_at = state, now
        return moved and self._running_since is not None

    def check(self) -> None:
        """Raise RunTimedOut when a limit is passed, also while nothing can be seen of the run."""
        now, run = self._clock.monotonic(), self._last
        was = "not to be seen" if run is None else run.status_name.lower()
        for name, limit, since in self._ends:
            seconds, start = seconds_of(limit), since()
            if seconds is not None and start is not None and now - start >= seconds:
                raise RunTimedOut(
                    f"dbt Cloud run {self._run_id} was {was} for "
                    f"{now - start:.0f} s; {name} is {seconds:g} s.",
                    run_id=self._run_id,
                    run_url=None if run is None else run.href,
                )

    def next_interval(self, *, moved: bool) -> float:
        """Return the seconds to the next look: no later than the next limit."""
        if moved:
            self._interval = BUSY_INTERVAL
        interval, self._interval = self._interval, min(self._interval * _GROWTH, LAST_INTERVAL)
        now = self._clock.monotonic()
        for _, limit, since in self._ends:
            seconds, start = seconds_of(limit), since()
            if seconds is not None and start is not None:
                interval = min(interval, max(0.0, start + seconds - now))
        return interval
