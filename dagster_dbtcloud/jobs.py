"""The ad hoc jobs through which Dagster runs commands in dbt Cloud: found again, never made twice.

dbt Cloud runs commands only as runs of a job. This module finds or makes the jobs and picks one
that is free; it triggers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import Job, RunStatus
from dagster_dbtcloud.errors import (
    ApiConnectionError,
    ApiError,
    ApiResponseError,
    ConfigError,
    DbtCloudError,
    ServerError,
)
from dagster_dbtcloud.state import WorkspaceIds

PoolMode = Literal["overflow", "wait", "fail"]

_DESCRIPTION = "Dagster runs dbt commands through this job. Its own steps are not used."
_ACTIVE = (RunStatus.QUEUED, RunStatus.STARTING, RunStatus.RUNNING)
_WAIT_POLL = 5.0
_SETTLE_DELAYS = (0.0, 1.0, 2.0, 4.0)
"""Seconds between looks for a job whose creation got no answer."""


def adhoc_job_names(ids: WorkspaceIds, name: str | None, size: int) -> tuple[str, ...]:
    """Return the names of the pool's jobs; the first is the one dagster-dbt uses, too."""
    first = name or f"DAGSTER_ADHOC_JOB__{ids.project_id}__{ids.environment_id}"
    return tuple(first if index == 0 else f"{first}__{index}" for index in range(size))


def get_or_create_job(client: DbtCloudClient, ids: WorkspaceIds, name: str, *, clock: Clock) -> Job:
    """Return the job with this name in the environment, made if there is none.

    dbt Cloud allows equal names. Processes that make the job at the same moment, and tries whose
    answer was lost, agree on the job with the lowest id; the others are deleted again.

    Raises: ApiError; PermissionDeniedError or NotFoundError when the token may not make jobs.
    """
    found = _named(client, ids, name)
    if found:
        return found[0]
    for tries_left in (2, 1, 0):
        try:
            made = client.create_job(
                project_id=ids.project_id,
                environment_id=ids.environment_id,
                name=name,
                execute_steps=["dbt parse"],
                description=_DESCRIPTION,
            )
        except (ApiConnectionError, ServerError, ApiResponseError) as error:
            if isinstance(error, ApiConnectionError) and not error.sent:
                raise
            found = _settled(client, ids, name, clock)
            if not found and not tries_left:
                raise
        else:
            found = _named(client, ids, name) or [made]
        if found:
            break
    for surplus in found[1:]:
        if surplus.description == _DESCRIPTION:
            with suppress(ApiError):  # another process was quicker, or it may stay: untidy only
                client.delete_job(surplus.id)
    return found[0]


def _settled(client: DbtCloudClient, ids: WorkspaceIds, name: str, clock: Clock) -> list[Job]:
    """Look for the job that a request without an answer may have made."""
    for delay in _SETTLE_DELAYS:
        clock.sleep(delay)
        if found := _named(client, ids, name):
            return found
    return []


def _named(client: DbtCloudClient, ids: WorkspaceIds, name: str) -> list[Job]:
    jobs = client.jobs(
        project_id=ids.project_id, environment_id=ids.environment_id, name_contains=name
    )
    same = [job for job in jobs if job.name == name and job.environment_id == ids.environment_id]
    return sorted(same, key=lambda job: job.id)


def pick_job(
    client: DbtCloudClient,
    ids: WorkspaceIds,
    names: Sequence[str],
    *,
    mode: PoolMode,
    clock: Clock,
    log: Callable[[str], None],
) -> Job:
    """Return a job of the pool with no active run, since dbt Cloud runs one run of a job at a time.

    When all are busy: ``overflow`` takes the first (dbt Cloud queues the run), ``wait`` polls
    until one is free, ``fail`` raises. A pool of one in ``overflow`` asks for no runs.

    Raises: DbtCloudError in mode ``fail``; ConfigError for an unknown mode; ApiError.
    """
    if mode not in ("overflow", "wait", "fail"):
        raise ConfigError(f"adhoc_job_pool_mode {mode!r} is not one of overflow, wait, fail.")
    jobs = [get_or_create_job(client, ids, name, clock=clock) for name in names]
    if len(jobs) == 1 and mode == "overflow":
        return jobs[0]
    told = False
    while True:
        busy = {
            run.job_id
            for run in client.runs(
                project_id=ids.project_id, environment_id=ids.environment_id, status_in=_ACTIVE
            )
        }
        free = [job for job in jobs if job.id not in busy]
        if free:
            return free[0]
        if mode == "overflow":
            return jobs[0]
        if mode == "fail":
            raise DbtCloudError(
                f"All {len(jobs)} ad hoc jobs of the pool have an active run "
                "(adhoc_job_pool_mode is 'fail'). Raise adhoc_job_pool_size, or use 'wait'."
            )
        if not told:
            log(f"All {len(jobs)} ad hoc jobs have an active run; waiting until one is free.")
            told = True
        clock.sleep(_WAIT_POLL)
