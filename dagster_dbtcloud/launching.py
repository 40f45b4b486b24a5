"""From a call to the run that answers it: taken over from an earlier attempt, retried, or started.

What the call means in dbt's words is decided above (``workspace.py``); the run is followed by
``invocation.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, cast

import dagster as dg

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import Job, Run, TriggerRun
from dagster_dbtcloud.context import step_key
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.errors import (
    ApiError,
    ApiStatusError,
    ConfigError,
    DbtCloudError,
    NotFoundError,
)
from dagster_dbtcloud.events import Declared, Outcome
from dagster_dbtcloud.existing_jobs import checked_url, find_job, mute, own_starts
from dagster_dbtcloud.following import INCLUDED, RunLimits, seconds_of
from dagster_dbtcloud.harvest import harvest, last_outcomes
from dagster_dbtcloud.invocation import DbtCloudCliInvocation, OnLeave, Past
from dagster_dbtcloud.jobs import PoolMode, claim_job
from dagster_dbtcloud.marker import read_mark
from dagster_dbtcloud.recovery import FRESH, RetryMode, earlier_runs, lineage, nodes_of, plan
from dagster_dbtcloud.starting import abandon, retry_run, start_run
from dagster_dbtcloud.state import WorkspaceIds

FOLLOW_RETRY_SECONDS = 600.0
"""How long a run is followed blindly while dbt Cloud gives no answer."""
_LEAVE_SECONDS = 4.0
"""How long a step that is being terminated tries to cancel its run."""

Start = Callable[[int], Run]
"""Trigger the job with this id, or adopt the run that a trigger without an answer has made."""
Claim = Callable[[DbtCloudClient, Start], Run]
"""Choose a job, start it, and return the run that is ours."""
Narrow = Callable[[frozenset[str]], tuple[str, ...]]
"""From nodes to the commands that run them and no others."""

logger = logging.getLogger("dagster_dbtcloud")


class NewClient(Protocol):
    """Make a client of the workspace's account; seconds for the retries and time of a request."""

    def __call__(
        self,
        retry_for: float,
        *,
        timeout: float | None = None,
        log: logging.Logger | None = None,
    ) -> DbtCloudClient: ...


@dataclass(frozen=True)
class Service:
    """The dbt Cloud of a workspace, for one call."""

    ids: WorkspaceIds
    clock: Clock
    new_client: NewClient

    def short_client(self) -> DbtCloudClient:
        """Return a client for whoever has seconds to live."""
        return self.new_client(_LEAVE_SECONDS, timeout=_LEAVE_SECONDS)

    def leave(self, run_id: int, on_leave: OnLeave) -> None:
        """Cancel a run that has no invocation yet; why we leave is what counts."""
        if on_leave == "cancel":
            with suppress(DbtCloudError), self.short_client() as client:
                client.cancel_run(run_id)


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a call of the workspace asks for, whichever job runs it.

    ``commands`` are those of the run, ``args`` what the user's invocation shows as its own.
    ``expected`` are the nodes that must have a result, empty where that is not known. ``narrow``
    gives the commands that run only the given nodes, for a retry; None where there are none.
    """

    step: dg.OpExecutionContext | None
    commands: Sequence[str]
    declared: Declared
    manifest: Manifest
    on_leave: OnLeave
    limits: RunLimits
    args: Sequence[str] = ()
    expected: frozenset[str] = frozenset()
    retry: RetryMode = "auto"
    narrow: Narrow | None = field(default=None, repr=False)

    @property
    def log(self) -> logging.Logger:
        return logger if self.step is None else self.step.log

    def client(self, service: Service) -> DbtCloudClient:
        """Make a client that sees an outage through for as long as the call's limits say."""
        return service.new_client(
            seconds_of(self.limits.outage) or FOLLOW_RETRY_SECONDS, log=self.log
        )


def launch(
    service: Service, call: Call, trigger: TriggerRun, claim: Claim
) -> DbtCloudCliInvocation:
    """Find or start the run that answers a call, tie it to the step, and return its invocation.

    Raises: whatever ``claim`` raises; ApiError.
    """
    step, clock, log = call.step, service.clock, call.log
    client = call.client(service)

    @contextmanager
    def abandoning(job_id: int | None, retrying: int | None = None) -> Iterator[None]:
        try:
            yield
        except Exception:
            raise
        except BaseException:  # terminated while the trigger was on its way
            if call.on_leave == "cancel":
                abandon(service.short_client(), job_id, trigger.cause, retrying=retrying)
            raise

    def start(job_id: int) -> Run:
        with abandoning(job_id):
            return start_run(client, job_id, trigger, clock=clock, log=log.warning)

    with client:
        line = None if step is None else lineage(step, step_key(step), now=clock.now())
        todo = FRESH
        mark = read_mark(trigger.cause)
        earlier: tuple[Run, ...] = ()
        if line is not None and mark is not None:
            earlier = earlier_runs(client, service.ids, mark, line)
            todo = plan(
                earlier=earlier,
                mark=mark,
                line=line,
                mode=call.retry,
                commands=call.commands,
                wanted=call.expected,
                can_narrow=call.narrow is not None,
                now=clock.now(),
                outcomes_of=lambda run: _outcomes_of(client, run, call.declared, log.warning),
                covers=lambda run, nodes: bool(nodes) and nodes <= nodes_of(call.manifest, run),
                log=log.warning,
            )
        if todo.reason:
            log.info(todo.reason)
        run = todo.adopt
        if run is None and todo.retry_of is not None:
            with abandoning(todo.retry_of.job_id, todo.retry_of.id):
                run = _retried(client, todo.retry_of, clock, log.warning)
        if run is None:
            if todo.remaining is not None and call.narrow is not None:
                narrowed = call.narrow(todo.remaining)
                trigger = trigger.model_copy(update={"steps_override": narrowed})
            run = claim(client, start)
    past = Past(
        settled=todo.settled,
        taken_over=todo.adopt is not None,
        dagster_run_ids=line.dagster_run_ids if line else (),
        since=min((each.created_at for each in earlier if each.created_at), default=None),
    )
    commands = trigger.steps_override or call.commands
    return take(
        service, call, run, commands=commands, past=past, started=todo.adopt is None, client=client
    )


def take(
    service: Service,
    call: Call,
    run: Run,
    *,
    client: DbtCloudClient,
    commands: Sequence[str],
    past: Past | None = None,
    started: bool = False,
) -> DbtCloudCliInvocation:
    """Return the invocation of a run that exists; ``started``: by this call."""
    invocation = DbtCloudCliInvocation(
        args=call.args,
        commands=commands,
        run=run,
        client=client,
        short_client=service.short_client,
        clock=service.clock,
        declared=call.declared,
        context=call.step,
        manifest=call.manifest,
        expected=call.expected,
        on_leave=call.on_leave,
        limits=call.limits,
        past=past,
    )
    invocation.announce(started=started)
    return invocation


def _retried(
    client: DbtCloudClient, run: Run, clock: Clock, log: Callable[[str], None]
) -> Run | None:
    """Let dbt Cloud retry a run; None when it refuses, though it had said that it could."""
    try:
        return retry_run(client, run, clock=clock, log=log)
    except ApiStatusError as error:
        if error.status_code >= 500 or error.status_code in (401, 429):
            raise
        log(f"dbt Cloud did not retry run {run.id} ({error}); running its failed nodes anew.")
        return None


def _outcomes_of(
    client: DbtCloudClient, run: Run, declared: Declared, log: Callable[[str], None]
) -> Sequence[Outcome]:
    """Return what an earlier attempt's run did; nothing when it cannot be had."""
    try:
        found = harvest(client, client.run(run.id, include=INCLUDED))
    except DbtCloudError as error:
        log(f"The results of dbt Cloud run {run.id} cannot be had: {error}")
        return ()
    return last_outcomes(found, declared)[0]


# --- which job, which run ------------------------------------------------------------------------


def from_pool(
    service: Service, call: Call, names: Sequence[str], mode: str, wait_seconds: float | None
) -> Claim:
    """Claim an ad hoc job of the pool. The claim raises PoolBusy where the mode is not to queue."""

    def claim(client: DbtCloudClient, start: Start) -> Run:
        return claim_job(
            client,
            service.ids,
            names,
            start,
            mode=cast("PoolMode", mode),  # checked there
            wait_seconds=wait_seconds,
            clock=service.clock,
            log=call.log.info,
            leave=lambda run_id: service.leave(run_id, call.on_leave),
        )

    return claim


def from_job(service: Service, call: Call, job: int) -> Claim:
    """Claim a job that exists, if it still can be used."""

    def claim(client: DbtCloudClient, start: Start) -> Run:
        found = find_job(client, service.ids, job)
        warn_of(found, call.log)
        return start(found.id)

    return claim


def warn_of(job: Job, log: logging.Logger, *, muted: bool = False) -> None:
    """Name what else starts a job; its schedule does not count where it is ``muted``."""
    starts = [said for said in own_starts(job) if not (muted and said == "its schedule")]
    if starts:
        log.warning(
            f"The dbt Cloud job {job.name!r} ({job.id}) is also started by "
            f"{' and '.join(starts)}: it may run twice."
        )


def mute_schedule(service: Service, job: Job, log: logging.Logger, retry_for: float) -> None:
    """Take a job's schedule off, or say that it could not be done."""
    try:
        with service.new_client(retry_for) as client:
            muted = mute(client, job.id)
        if muted:
            log.info(f"The schedule of the dbt Cloud job {job.name!r} ({job.id}) is off now.")
    except ApiError as error:
        log.warning(
            f"The schedule of the dbt Cloud job {job.name!r} ({job.id}) could not be taken "
            f"off: {error} Take it off in dbt Cloud, or the job may run twice."
        )


def past_of(step: dg.OpExecutionContext, run: Run, *, now: datetime) -> Past:
    """Return what may be recorded of a run that somebody else has started: any part of it."""
    line = lineage(step, step_key(step), now=now)
    return Past(taken_over=True, dagster_run_ids=line.dagster_run_ids, since=run.created_at)


def run_to_follow(client: DbtCloudClient, ids: WorkspaceIds, text: str) -> Run:
    """Return a run by its id, digits or URL.

    Raises: ConfigError, for one that does not exist or is of another account or project; ApiError.
    """
    number = text.strip()
    if not (number.isascii() and number.isdigit()):
        run_id = checked_url(number, client, "run").run_id if "/" in number else None
        if run_id is None:
            raise ConfigError(f"{text!r} is neither the id nor the address of a dbt Cloud run.")
        number = str(run_id)
    try:
        run = client.run(int(number), include=("trigger", "job", "run_steps"))
    except NotFoundError as error:
        raise ConfigError(
            f"Account {client.account_id} has no run {number} that the token may see: {error}"
        ) from error
    if run.project_id != ids.project_id:
        raise ConfigError(
            f"The dbt Cloud run {run.id} belongs to project {run.project_id}, and this workspace "
            f"is of project {ids.project_id}."
        )
    return run
