"""Start one dbt Cloud run: trigger it, or adopt the one that a trigger without an answer has made.

It follows nothing, and knows no Dagster: the ``cause`` it is given is the only mark it looks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import Run, TriggerRun
from dagster_dbtcloud.errors import (
    ApiConnectionError,
    ApiError,
    ApiResponseError,
    ApiStatusError,
    DbtCloudError,
    ServerError,
)

_SETTLE_DELAYS = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between looks for a run whose trigger got no answer: 30 in total."""
_TRIES = 5
"""How often a run is triggered that gives no clear answer: two minutes, with the looks between."""
_LOOKED_AT = 50
"""How many of a job's newest runs are looked at for a cause."""

Log = Callable[[str], None]


def start_run(
    client: DbtCloudClient, job_id: int, trigger: TriggerRun, *, clock: Clock, log: Log
) -> Run:
    """Trigger ``job_id``, or adopt the run that a trigger with this very cause has made.

    A trigger without a clear answer (time-out, cut connection, 5xx, a proxy's page) may have made a
    run: it is looked for by its cause over half a minute before another is triggered.

    Raises: ApiError, when dbt Cloud refuses, or gives no clear answer five times.
    """
    return _start(
        client,
        job_id,
        lambda: client.trigger_run(job_id, trigger),
        lambda run: run.trigger is not None and run.trigger.cause == trigger.cause,
        clock=clock,
        log=log,
    )


def retry_run(client: DbtCloudClient, failed: Run, *, clock: Clock, log: Log) -> Run:
    """Let dbt Cloud retry a failed run, or adopt the retry that such a request has made.

    The new run does the failed step's failed and skipped nodes, then the steps after it, at the
    same commit (docs/dbt-cloud-api.md).

    Raises: ApiError, as ``start_run``.
    """
    return _start(
        client,
        failed.job_id,
        lambda: client.retry_run(failed.id),
        lambda run: run.retrying_run_id == failed.id,
        clock=clock,
        log=log,
    )


def abandon(
    client: DbtCloudClient, job_id: int | None, cause: str, *, retrying: int | None = None
) -> None:
    """Cancel the run with this cause, or the retry of run ``retrying``, if there is one.

    For a trigger that was interrupted: one look.
    """

    def is_ours(run: Run) -> bool:
        if retrying is not None:
            return run.retrying_run_id == retrying
        return run.trigger is not None and run.trigger.cause == cause

    with client, suppress(DbtCloudError):  # why the caller leaves is what counts
        run = _first(_newest(client, job_id), is_ours)
        if run is not None and not run.is_complete:
            client.cancel_run(run.id)


def _start(
    client: DbtCloudClient,
    job_id: int | None,
    send: Callable[[], Run],
    is_ours: Callable[[Run], bool],
    *,
    clock: Clock,
    log: Log,
) -> Run:
    for tries_left in reversed(range(_TRIES)):
        try:
            run = send()
            if tries_left == _TRIES - 1:
                return run
            return _first_of_twins(client, run, is_ours, log)
        except ApiError as error:
            if not _unclear(error):
                raise
            log(f"The trigger got no clear answer ({error}); looking for the run it may have made.")
            for delay in _SETTLE_DELAYS:
                clock.sleep(delay)
                if found := _first(_newest(client, job_id), is_ours):
                    log(f"Found it: dbt Cloud run {found.id}.")
                    return found
            if not tries_left:
                raise
    raise AssertionError("unreachable")


def _first_of_twins(
    client: DbtCloudClient, run: Run, is_ours: Callable[[Run], bool], log: Log
) -> Run:
    """Return the run to keep when an earlier trigger has worked after all, later than was waited.

    The older one is kept, and the other is cancelled.
    """
    try:
        twins = [
            each
            for each in _newest(client, run.job_id)
            if is_ours(each) and each.id != run.id and not each.is_cancelled
        ]
        if not twins:
            return run
        first = min([run, *twins], key=lambda each: each.id)
        for each in (run, *twins):
            if each.id != first.id:
                log(f"Two triggers worked: cancelling dbt Cloud run {each.id}, keeping {first.id}.")
                client.cancel_run(each.id)
    except ApiError as error:
        log(f"Whether there is a second run like {run.id} could not be seen: {error}")
        return run
    return first


def _unclear(error: ApiError) -> bool:
    """Whether the run may exist all the same; 408 is a time-out that somebody answered for."""
    if isinstance(error, ApiConnectionError):
        return error.sent
    if isinstance(error, ApiStatusError) and error.status_code == 408:
        return True
    return isinstance(error, (ServerError, ApiResponseError))


def _newest(client: DbtCloudClient, job_id: int | None) -> Iterable[Run]:
    listed = client.runs(job_id=job_id, order_by="-id", include=("trigger", "job"), page_size=25)
    return islice(listed, _LOOKED_AT)


def _first(runs: Iterable[Run], wanted: Callable[[Run], bool]) -> Run | None:
    return next((run for run in runs if wanted(run)), None)
