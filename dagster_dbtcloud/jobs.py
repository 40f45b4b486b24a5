"""The ad hoc jobs through which Dagster runs commands in dbt Cloud: found again, never made twice.

dbt Cloud runs commands only as runs of a job. This module finds or makes the jobs and claims one
that is free; how a run is triggered and what it runs, the caller says.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import ACTIVE_STATUSES, Job, Run, RunStatus
from dagster_dbtcloud.errors import (
    ApiConnectionError,
    ApiError,
    ApiResponseError,
    ConfigError,
    NotFoundError,
    PoolBusy,
    ServerError,
)
from dagster_dbtcloud.state import WorkspaceIds

PoolMode = Literal["overflow", "wait", "fail"]

_DESCRIPTION = "Dagster runs dbt commands through this job. Its own steps are not used."
_WAIT_POLL = 5.0
"""Seconds, give or take half of it, between looks for a free job."""
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
    return [job for job in _listed(client, ids, name) if job.name == name]


def _listed(client: DbtCloudClient, ids: WorkspaceIds, part_of_name: str) -> list[Job]:
    """Return the environment's jobs with these letters in their name, lowest id first."""
    jobs = client.jobs(
        project_id=ids.project_id, environment_id=ids.environment_id, name_contains=part_of_name
    )
    here = [job for job in jobs if job.environment_id == ids.environment_id]
    return sorted(here, key=lambda job: job.id)


def claim_job(
    client: DbtCloudClient,
    ids: WorkspaceIds,
    names: Sequence[str],
    start: Callable[[int], Run],
    *,
    mode: PoolMode,
    clock: Clock,
    log: Callable[[str], None],
    wait_seconds: float | None = None,
    leave: Callable[[int], None] | None = None,
) -> Run:
    """Start a run on a job of the pool that nothing else runs on, and return that run.

    dbt Cloud runs one run of a job at a time, and has no lock that two processes could take. So a
    job is claimed by triggering it: if an older run of it is active, another process was quicker;
    the claim is cancelled, still in the queue, and the next free job is tried.

    When all are busy: ``overflow`` starts on the job with the fewest active runs (dbt Cloud queues
    the run), ``wait`` polls until one is free, at most ``wait_seconds`` (None: no limit), ``fail``
    raises. A pool of one in ``overflow`` asks nothing. ``start`` triggers a job by its id;
    ``leave`` is told of a claim when this is interrupted.

    Raises: PoolBusy in modes ``fail`` and ``wait``; ConfigError for an unknown mode; ApiError.
    Source: docs/dbt-cloud-api.md, fact 26.
    """
    pool = _Pool(client, ids, names, clock)
    check_pool(mode, wait_seconds)
    given_up: set[int] = set()

    def begin(name: str) -> Run:
        try:
            run = start(pool.job(name).id)
        except NotFoundError:  # deleted since it was looked up
            pool.found.pop(name, None)
            run = start(pool.job(name).id)
        if run.id in given_up:  # a trigger without an answer was looked for, and this was found
            run = start(pool.job(name).id)
        return run

    if len(names) == 1 and mode == "overflow":
        return begin(names[0])
    began = clock.monotonic()
    told = False
    while True:
        active = pool.active()
        for name in sorted(names, key=lambda name: name not in pool.found):
            if active.get(pool.job(name).id):
                continue
            run, is_ours = _claim(client, partial(begin, name), log, leave)
            if is_ours:
                return run
            given_up.add(run.id)
        if mode == "overflow":
            active = pool.active()
            return begin(min(names, key=lambda name: active.get(pool.job(name).id, 0)))
        if mode == "fail":
            raise PoolBusy(
                f"All {len(names)} ad hoc jobs of the pool have an active run "
                "(adhoc_job_pool_mode is 'fail'). Raise adhoc_job_pool_size, or use 'wait'."
            )
        waited = clock.monotonic() - began
        if wait_seconds is not None and waited >= wait_seconds:
            raise PoolBusy(
                f"All {len(names)} ad hoc jobs of the pool had an active run for "
                f"{wait_seconds:g} s (adhoc_job_pool_wait_seconds). Nothing was started. Raise "
                "adhoc_job_pool_size or the limit."
            )
        if not told:
            log(f"All {len(names)} ad hoc jobs have an active run; waiting until one is free.")
            told = True
        # Those who wait together should not all try for the same job at the same moment.
        pause = _WAIT_POLL * (0.5 + random.random())  # noqa: S311 - no secret
        clock.sleep(pause if wait_seconds is None else min(pause, wait_seconds - waited))


def check_pool(mode: str, wait_seconds: float | None) -> None:
    """Raise ConfigError for settings that mean nothing."""
    if mode not in ("overflow", "wait", "fail"):
        raise ConfigError(f"adhoc_job_pool_mode {mode!r} is not one of overflow, wait, fail.")
    if wait_seconds is not None and not wait_seconds >= 0:
        raise ConfigError(f"adhoc_job_pool_wait_seconds is {wait_seconds!r}, not 0 or more.")


class _Pool:
    """The jobs of a pool, looked up together; one that is missing is made when it is needed."""

    def __init__(
        self, client: DbtCloudClient, ids: WorkspaceIds, names: Sequence[str], clock: Clock
    ) -> None:
        self._client = client
        self._ids = ids
        self._clock = clock
        self.found: dict[str, Job] = {}
        if len(names) > 1:
            for job in reversed(_listed(client, ids, names[0])):  # the lowest id comes last
                if job.name in names:
                    self.found[job.name] = job

    def job(self, name: str) -> Job:
        if name not in self.found:
            self.found[name] = get_or_create_job(self._client, self._ids, name, clock=self._clock)
        return self.found[name]

    def active(self) -> Counter[int | None]:
        """Count the active runs of each job."""
        return Counter(
            run.job_id
            for run in self._client.runs(
                project_id=self._ids.project_id,
                environment_id=self._ids.environment_id,
                status_in=ACTIVE_STATUSES,
                include=(),
            )
        )


def _claim(
    client: DbtCloudClient,
    start: Callable[[], Run],
    log: Callable[[str], None],
    leave: Callable[[int], None] | None,
) -> tuple[Run, bool]:
    """Start a run; False when somebody else was quicker and the claim is cancelled."""
    run = start()
    try:
        if not _is_blocked(client, run):
            return run, True
        run = client.cancel_run(run.id)
        if run.is_complete and not run.is_cancelled:
            return run, True  # the other ended, and this one too, before it could be cancelled
    except ApiError as error:
        log(f"dbt Cloud run {run.id} stays in the queue of its job: {error}")
        return run, True  # whatever else is started now might be a second one
    except BaseException:
        if leave is not None:
            leave(run.id)
        raise
    log(f"Job {run.job_id} was taken by another run; dbt Cloud run {run.id} is cancelled for that.")
    return run, False


def _is_blocked(client: DbtCloudClient, run: Run) -> bool:
    """Tell whether the run waits for an older one of its job."""
    if run.is_complete or run.status != RunStatus.QUEUED:
        return False
    if run.blocked_by:
        return True
    # The answer to a trigger may be older than the queue; ids are in the order of creation.
    active = client.runs(job_id=run.job_id, status_in=ACTIVE_STATUSES, include=())
    return any(other.id < run.id for other in active)


# --- tidying up ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cleaned:
    """What ``clean_jobs`` did: the jobs that are gone, and those that stay, with the reason."""

    deleted: tuple[Job, ...] = ()
    kept: tuple[tuple[Job, str], ...] = ()


def clean_jobs(
    client: DbtCloudClient,
    ids: WorkspaceIds,
    *,
    whole_project: bool = False,
    dry_run: bool = False,
) -> Cleaned:
    """Delete the ad hoc jobs that this package made in the environment (or the whole project).

    A job is ours by its description, not by its name. One with an active run stays. With
    ``dry_run`` nothing is deleted, and the answer says what would be. They are made again when they
    are next needed; their runs stay in dbt Cloud's history.

    Raises: ApiError, when the jobs cannot be listed.
    """
    environment = None if whole_project else ids.environment_id
    deleted: list[Job] = []
    kept: list[tuple[Job, str]] = []
    for job in list(client.jobs(project_id=ids.project_id, environment_id=environment)):
        if job.description != _DESCRIPTION:
            continue
        try:
            active = client.runs(job_id=job.id, status_in=ACTIVE_STATUSES, include=(), page_size=1)
            run = next(iter(active), None)
            if run is not None:
                kept.append((job, f"dbt Cloud run {run.id} of it is {run.status_name.lower()}"))
                continue
            if not dry_run:
                client.delete_job(job.id)
        except ApiError as error:
            kept.append((job, str(error)))
            continue
        deleted.append(job)
    return Cleaned(tuple(deleted), tuple(kept))
