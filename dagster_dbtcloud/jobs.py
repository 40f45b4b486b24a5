"""The ad hoc jobs through which Dagster runs commands in dbt Cloud: found again, never made twice.

dbt Cloud runs commands only as runs of a job. This module finds or makes the jobs and picks one
that is free; it triggers nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import Job, RunStatus
from dagster_dbtcloud.errors import (
    ApiConnectionError,
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


def adhoc_job_names(ids: WorkspaceIds, name: str | None, size: int) -> tuple[str, ...]:
    """Return the names of the pool's jobs; the first is the one dagster-dbt uses, too."""
    first = name or f"DAGSTER_ADHOC_JOB__{ids.project_id}__{ids.environment_id}"
    return tuple(first if index == 0 else f"{first}__{index}" for index in range(size))


def get_or_create_job(client: DbtCloudClient, ids: WorkspaceIds, name: str) -> Job:
    """Return the job with this name in the environment, made if there is none.

    dbt Cloud allows equal names. Two processes that make the job at the same moment agree on the
    one with the lowest id, and the other is deleted again.

    Raises: ApiError; PermissionDeniedError when the token may not make jobs.
    """
    found = _named(client, ids, name)
    if found:
        return found[0]
    own: Job | None = None
    try:
        own = client.create_job(
            project_id=ids.project_id,
            environment_id=ids.environment_id,
            name=name,
            execute_steps=["dbt parse"],
            description=_DESCRIPTION,
        )
    except (ApiConnectionError, ServerError, ApiResponseError):
        if not _named(client, ids, name):
            raise
    found = _named(client, ids, name) or ([own] if own else [])
    if own is not None and found[0].id != own.id:
        client.delete_job(own.id)
    return found[0]


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
) -> Job:
    """Return a job of the pool with no active run, since dbt Cloud runs one run of a job at a time.

    When all are busy: ``overflow`` takes the first (dbt Cloud queues the run), ``wait`` polls
    until one is free, ``fail`` raises. A pool of one in ``overflow`` asks for no runs.

    Raises: DbtCloudError in mode ``fail``; ConfigError for an unknown mode; ApiError.
    """
    if mode not in ("overflow", "wait", "fail"):
        raise ConfigError(f"adhoc_job_pool_mode {mode!r} is not one of overflow, wait, fail.")
    jobs = [get_or_create_job(client, ids, name) for name in names]
    if len(jobs) == 1 and mode == "overflow":
        return jobs[0]
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
        clock.sleep(_WAIT_POLL)
