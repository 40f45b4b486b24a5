"""One dbt Cloud run in time: trigger it or adopt it, follow it, and hand its results to Dagster.

The run is tied to the Dagster attempt by a marker in its ``cause``, so that a trigger whose answer
was lost never becomes a second run. Which job runs, and with which credentials, is decided above
(``workspace.py``).
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any, Literal, cast

import dagster as dg

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import Run, RunStatus, RunStep, TriggerRun
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.tail import LogTail
from dagster_dbtcloud.errors import (
    ApiConnectionError,
    ApiError,
    ApiResponseError,
    AuthenticationError,
    DbtCloudError,
    ManifestError,
    NotFoundError,
    RunCancelled,
    RunError,
    RunFailed,
    RunTimedOut,
    ServerError,
)
from dagster_dbtcloud.events import (
    Declared,
    Outcome,
    OutcomeKind,
    RunRef,
    as_log_event,
    as_step_result,
    failed,
    failure_table,
    interpret,
)
from dagster_dbtcloud.harvest import Harvest, dbt_command, harvest

Context = dg.AssetExecutionContext | dg.OpExecutionContext | dg.AssetCheckExecutionContext
StepEvent = (
    dg.MaterializeResult[Any]
    | dg.AssetCheckResult
    | dg.AssetMaterialization
    | dg.AssetCheckEvaluation
    | dg.AssetObservation
)
OnLeave = Literal["cancel", "detach"]

CAUSE_LIMIT = 255
"""Characters; dbt Cloud's clients cut the cause there (docs/dbt-cloud-api.md)."""

RUN_TAG_PREFIX = "dagster_dbtcloud/run/"
STARTED, RECORDED = "started", "recorded"

_SETTLE_DELAYS = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between looks for a run whose trigger got no answer: 30 in total."""
_LOOKED_AT = 50
"""How many of a job's newest runs are looked at for a cause."""
_FIRST_POLL, _POLL_GROWTH, _LAST_POLL = 1.0, 1.15, 10.0
"""Seconds: the poll interval of a fresh run, its factor, and its maximum."""
_GRACE_AFTER_TRIGGER = 60.0
"""Seconds in which a 404 for a run just created is taken for a replica that lags."""
_AUTHENTICATION_TRIES = 4
_LATE_ARTIFACT_GRACE = {True: 120.0, False: 20.0}
"""Seconds to wait for a step's results, by whether the step succeeded. A step that failed to parse
its project leaves none, so little is spent on it."""
_LATE_LOGS_SECONDS = 10.0
"""How long the logs of a finished run may be missing (docs/dbt-cloud-api.md)."""
_LOG_CHUNK_LINES = 200


# --- marker --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Marker:
    """What ties one attempt of a Dagster step to one dbt Cloud run."""

    dagster_run_id: str
    step_key: str
    attempt: int
    number: int
    deployment: str | None = None

    @property
    def token(self) -> str:
        """Return the part of the cause that finds the run again: stable, and never cut."""
        text = f"{self.step_key}/{self.number}"
        digest = sha256(text.encode()).hexdigest()[:10]
        return f"[dagster:{self.dagster_run_id}/{digest}/{self.attempt}]"

    def cause(self) -> str:
        """Return a sentence for dbt Cloud's users with the token at its end, at most 255 long."""
        place = f" in {self.deployment}" if self.deployment else ""
        text = f"Dagster run {self.dagster_run_id[:8]}{place}, step {self.step_key}"
        room = CAUSE_LIMIT - len(self.token) - 1
        return f"{text[:room]} {self.token}"


def dagster_run_of(cause: str | None) -> str | None:
    """Return the Dagster run id in a dbt Cloud run's cause; None when Dagster did not start it."""
    if not cause or not cause.endswith("]"):
        return None
    start = cause.rfind("[dagster:")
    if start < 0:
        return None
    parts = cause[start + len("[dagster:") : -1].split("/")
    return parts[0] if len(parts) == 3 and parts[0] else None


# --- trigger or adopt ----------------------------------------------------------------------------


def start_run(
    client: DbtCloudClient,
    job_id: int,
    trigger: TriggerRun,
    *,
    clock: Clock,
    log: Callable[[str], None],
) -> Run:
    """Trigger ``job_id``, or adopt the run that a trigger with this very cause has made.

    A trigger without a clear answer (time-out, cut connection, 5xx, a proxy's page) may have made a
    run: it is looked for by its cause over half a minute before another is triggered.

    Raises: ApiError, when dbt Cloud refuses, or gives no clear answer three times.
    """
    for tries_left in (2, 1, 0):
        try:
            return client.trigger_run(job_id, trigger)
        except (ApiConnectionError, ServerError, ApiResponseError) as error:
            if isinstance(error, ApiConnectionError) and not error.sent:
                raise
            log(f"The trigger got no clear answer ({error}); looking for the run it may have made.")
            run = _find_by_cause(client, job_id, trigger.cause, clock)
            if run is not None:
                log(f"Found it: dbt Cloud run {run.id}.")
                return run
            if not tries_left:
                raise
    raise AssertionError("unreachable")


def abandon(client: DbtCloudClient, job_id: int, cause: str) -> None:
    """Cancel the run with this cause, if there is one: its trigger was interrupted. One look."""
    with client, suppress(DbtCloudError):  # why the caller leaves is what counts
        run = _with_cause(client, job_id, cause)
        if run is not None and not run.is_complete:
            client.cancel_run(run.id)


def _find_by_cause(client: DbtCloudClient, job_id: int, cause: str, clock: Clock) -> Run | None:
    for delay in _SETTLE_DELAYS:
        clock.sleep(delay)
        if run := _with_cause(client, job_id, cause):
            return run
    return None


def _with_cause(client: DbtCloudClient, job_id: int, cause: str) -> Run | None:
    listed = client.runs(job_id=job_id, order_by="-id", include=("trigger", "job"), page_size=25)
    newest = islice(listed, _LOOKED_AT)
    return next((run for run in newest if run.trigger and run.trigger.cause == cause), None)


# --- follow --------------------------------------------------------------------------------------


def follow(
    client: DbtCloudClient, run_id: int, *, clock: Clock, timeout: float | None = None
) -> Iterator[Run]:
    """Yield the run, with its steps, each time it is read, the last time when it is complete.

    There is no time limit unless ``timeout`` (seconds) is given. The client rides out 429, 5xx and
    connection faults for its own budget.

    Raises: RunTimedOut; ApiError when the budget is spent.
    """
    started = clock.monotonic()
    interval = _FIRST_POLL
    refused = 0
    while True:
        try:
            run = client.run(run_id, include=("trigger", "job", "run_steps"))
            refused = 0
        except NotFoundError:
            if clock.monotonic() - started > _GRACE_AFTER_TRIGGER:
                raise
            clock.sleep(interval)
            continue
        except AuthenticationError:
            refused += 1
            if refused >= _AUTHENTICATION_TRIES:
                raise
            clock.sleep(_LAST_POLL)
            continue
        yield run
        if run.is_complete:
            return
        elapsed = clock.monotonic() - started
        if timeout is not None and elapsed >= timeout:
            raise RunTimedOut(
                f"dbt Cloud run {run_id} was not complete after {timeout:g} s, the time limit that "
                "was given to wait().",
                run_id=run_id,
                run_url=run.href,
            )
        clock.sleep(interval if timeout is None else min(interval, timeout - elapsed))
        interval = min(interval * _POLL_GROWTH, _LAST_POLL)


class _StepLogs:
    """Write the text of each step to a log as it grows."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._tails: dict[int, LogTail] = {}

    def show(self, run: Run) -> None:
        for step in run.run_steps:
            tail = self._tails.get(step.index)
            if tail is None:
                tail = self._tails[step.index] = LogTail()
            lines = tail.feed(step.logs or "", final=run.is_complete)
            for start in range(0, len(lines), _LOG_CHUNK_LINES):
                text = "\n".join(lines[start : start + _LOG_CHUNK_LINES])
                self._write(f"{step.name}\n{text}")


# --- the invocation ------------------------------------------------------------------------------


class DbtCloudCliInvocation:
    """A dbt command in dbt Cloud, started by ``DbtCloudWorkspace.cli``.

    The run is triggered already when this object exists; ``wait`` follows it. Leaving ``wait`` in
    any way before the run is complete cancels the run, unless ``on_leave="detach"``.
    """

    def __init__(
        self,
        *,
        args: Sequence[str],
        commands: Sequence[str],
        run: Run,
        client: DbtCloudClient,
        short_client: Callable[[], DbtCloudClient],
        clock: Clock,
        declared: Declared,
        context: dg.OpExecutionContext | None,
        expected: frozenset[str] = frozenset(),
        on_leave: OnLeave = "cancel",
    ) -> None:
        self.args = tuple(args)
        self.commands = tuple(commands)
        self.run = run
        self.on_leave = on_leave
        self._client = client
        self._short_client = short_client
        self._clock = clock
        self._declared = declared
        self._context = context
        self._expected = expected
        self._log = _logger(context)
        self._step_logs = _StepLogs(self._log.info)
        self._followed = False

    def __repr__(self) -> str:
        return f"DbtCloudCliInvocation(run_id={self.run.id}, args={list(self.args)!r})"

    @property
    def run_id(self) -> int:
        """The dbt Cloud run's id."""
        return self.run.id

    @property
    def run_url(self) -> str | None:
        """The run's page in dbt Cloud."""
        return self.run.href

    def wait(self, timeout: float | None = None) -> Iterator[StepEvent]:
        """Follow the run to its end, then yield what it did, in the order of dbt's completion.

        Step logs are written to the Dagster log while they grow. Inside a Dagster step the events
        are ``MaterializeResult`` and ``AssetCheckResult`` for what the step selected; what dbt
        built beyond that is written to the event log. Without a context they are
        ``AssetMaterialization``, ``AssetCheckEvaluation`` and ``AssetObservation``.

        ``timeout`` is in seconds; None (the default) waits as long as the run takes.

        Raises: ``dagster.Failure`` inside a step, else RunFailed, RunCancelled, RunTimedOut, when
        the run did not succeed, after everything that it did build was yielded; ApiError.
        """
        with self._client:
            try:
                self._follow(timeout)
            except RunError as error:
                raise self._as_failure(error, ())  # noqa: B904 - outside a step it is the same one
            yield from self._results()

    def is_successful(self) -> bool:
        """Whether the run has ended well; follows it to its end if need be.

        It takes nothing from ``wait``, which still yields all events.

        Raises: ApiError.
        """
        with self._client:
            self._follow(None)
        return self.run.is_success

    def get_artifact(self, path: str, *, step: int | None = None) -> bytes:
        """Return an artifact of the run, for example ``catalog.json``; of the last step by default.

        Raises: NotFoundError and other ApiError.
        """
        with self._client:
            return self._client.artifact(self.run.id, path, step=step)

    def cancel(self) -> None:
        """Cancel the run in dbt Cloud.

        Raises: ApiError.
        """
        with self._client:
            self.run = self._client.cancel_run(self.run.id)

    def announce(self) -> None:
        """Write the run's link to the log, and its id on the Dagster run."""
        with self._leaving():
            self._log.info(
                f"Started dbt Cloud run {self.run.id}: {'; '.join(self.commands)}\n"
                f"{self.run.href or ''}"
            )
            self._tag(STARTED)

    # --- following

    def _follow(self, timeout: float | None) -> None:
        if self._followed:
            return
        status: tuple[int, tuple[int, ...]] | None = None
        with self._leaving():
            for run in follow(self._client, self.run.id, clock=self._clock, timeout=timeout):
                self.run = run
                if (now := (run.status, tuple(run.blocked_by or ()))) != status:
                    status = now
                    self._log.info(_status_line(run))
                if run.is_complete:
                    self.run = run = self._with_late_logs(run)
                self._step_logs.show(run)
        self._followed = True

    def _with_late_logs(self, run: Run) -> Run:
        """Return the finished run with its logs, which dbt Cloud may store a little later."""
        waited = 0.0
        while waited < _LATE_LOGS_SECONDS and any(_lacks_log(step) for step in run.run_steps):
            self._clock.sleep(2.0)
            waited += 2.0
            run = self._client.run(run.id, include=("trigger", "job", "run_steps"))
        return run

    @contextmanager
    def _leaving(self) -> Iterator[None]:
        """Cancel the run that nobody will watch any more; never hide why we leave."""
        try:
            yield
        except BaseException as error:
            with suppress(BaseException):  # a second signal, a log that is closed already
                self._leave(type(error).__name__)
            raise

    def _leave(self, reason: str) -> None:
        if self.run.is_complete:
            return
        if self.on_leave == "detach":
            self._log.warning(f"Leaving dbt Cloud run {self.run.id} running ({reason}).")
            return
        try:
            with self._short_client() as client:
                client.cancel_run(self.run.id)
            self._log.warning(f"Cancelled dbt Cloud run {self.run.id} ({reason}).")
        except DbtCloudError as trouble:
            self._log.error(
                f"dbt Cloud run {self.run.id} could not be cancelled and may go on: {trouble} "
                f"Cancel it at {self.run.href}."
            )

    # --- results

    def _results(self) -> Iterator[StepEvent]:
        found = self._harvest()
        outcomes = self._outcomes(found)
        for outcome in outcomes:
            event = self._report(outcome)
            if event is not None:
                yield event
        removed = self._removed(outcomes) if self.run.is_success else ()
        self._tag(RECORDED)
        if not self.run.is_success:
            error = self._run_error(outcomes)
            raise self._as_failure(error, tuple(failed(outcomes)))
        if found.damaged or found.late:
            reasons = [str(error) for error in found.damaged]
            reasons += [f"step {step.index} ({step.name}) left no results" for step in found.late]
            raise self._as_failure(
                RunFailed(
                    f"dbt Cloud run {self.run.id} succeeded, but not all of its results could be "
                    f"read, so some assets may be missing here: {'; '.join(reasons)}.",
                    run_id=self.run.id,
                    run_url=self.run.href,
                ),
                (),
            )
        if removed:
            raise self._as_failure(
                RunFailed(
                    f"dbt Cloud run {self.run.id} did not build {', '.join(removed)}: no longer in "
                    "the dbt project. Reload the code location to read its present manifest.",
                    run_id=self.run.id,
                    run_url=self.run.href,
                    failed_nodes=removed,
                ),
                (),
            )

    def _harvest(self) -> Harvest:
        found = harvest(self._client, self.run)
        waited = 0.0
        delay = 1.0
        while any(
            waited < _LATE_ARTIFACT_GRACE[step.status == RunStatus.SUCCESS] for step in found.late
        ):
            if not waited:
                self._log.info("Waiting for dbt Cloud to store the run's results.")
            self._clock.sleep(delay)
            waited += delay
            delay = min(delay * 2, 10.0)
            found = harvest(self._client, self.run, known=found)
        for error in found.damaged:
            self._log.error(str(error))
        for item in found.steps:
            for sentence in item.results.malformed:
                self._log.error(sentence)
        return found

    def _outcomes(self, found: Harvest) -> list[Outcome]:
        """Return the last outcome of each node: a later step's word counts, if it did run."""
        last: dict[str, Outcome] = {}
        undeclared: dict[str, None] = {}
        for item in found.steps:
            ref = run_ref(self.run, item.step.index, item.results.invocation_id)
            said = interpret(item.results, self._declared, ref)
            undeclared.update(dict.fromkeys(said.undeclared))
            for outcome in said.outcomes:
                earlier = last.get(outcome.unique_id)
                if earlier is None or outcome.kind is not OutcomeKind.SKIPPED:
                    last.pop(outcome.unique_id, None)
                    last[outcome.unique_id] = outcome
        if undeclared:
            names = ", ".join(list(undeclared)[:5])
            self._log.info(
                f"{len(undeclared)} nodes that this code location does not declare also ran: "
                f"{names}{' …' if len(undeclared) > 5 else ''}"
            )
        return list(last.values())

    def _report(self, outcome: Outcome) -> StepEvent | None:
        context = self._context
        if context is None:
            return as_log_event(outcome)
        if self._is_selected(context, outcome):
            result = as_step_result(outcome)
            if result is not None:
                return result
            if outcome.kind is not OutcomeKind.OBSERVED:
                return None  # failed or skipped: the step's failure tells
        event = as_log_event(outcome, partition=_partition(context, outcome, self._declared))
        if event is not None:
            # OpExecutionContext's annotation forgets check evaluations; Dagster stores them
            context.log_event(cast("dg.AssetMaterialization", event))
        return None

    def _is_selected(self, context: dg.OpExecutionContext, outcome: Outcome) -> bool:
        if outcome.check_key is not None:
            return outcome.check_key in context.selected_asset_check_keys
        return outcome.asset_key in context.selected_asset_keys

    def _removed(self, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
        """Return the expected nodes that did not run because the dbt project has them no longer."""
        missing = self._expected - {outcome.unique_id for outcome in outcomes}
        if not missing:
            return ()
        try:
            manifest = Manifest.from_bytes(
                self._client.artifact(self.run.id, "manifest.json"),
                origin=f"manifest.json of dbt Cloud run {self.run.id}",
            )
        except (ApiError, ManifestError) as error:
            self._log.warning(
                f"{len(missing)} selected nodes have no result, and the run's manifest cannot tell "
                f"why ({error}): {', '.join(sorted(missing)[:10])}"
            )
            return ()
        return tuple(sorted(missing - manifest.nodes.keys()))

    # --- endings

    def _run_error(self, outcomes: Sequence[Outcome]) -> RunError:
        run = self.run
        broken = list(failed(outcomes))
        nodes = tuple(outcome.unique_id for outcome in broken)
        if run.status == RunStatus.CANCELLED:
            reason = run.status_message or "no reason given; look at the run for who cancelled it"
            kind = RunTimedOut if "timed out" in reason else RunCancelled
            return kind(
                f"dbt Cloud run {run.id} was cancelled in dbt Cloud: {reason}",
                run_id=run.id,
                run_url=run.href,
                failed_nodes=nodes,
            )
        if broken:
            first = broken[0]
            message = (
                f"dbt Cloud run {run.id} failed: {len(broken)} of {len(outcomes)} nodes failed, "
                f"first {first.unique_id}: {first.result.message or first.result.status}"
            )
        else:
            message = f"dbt Cloud run {run.id} failed: {_last_words(run)}"
        return RunFailed(message, run_id=run.id, run_url=run.href, failed_nodes=nodes)

    def _as_failure(self, error: RunError, broken: Sequence[Outcome]) -> Exception:
        """Turn a RunError into a ``dagster.Failure`` inside a step; leave it as it is outside."""
        if self._context is None:
            return error
        metadata: dict[str, dg.MetadataValue] = {
            "dbt_cloud_run_id": dg.MetadataValue.text(str(error.run_id)),
        }
        if error.run_url:
            metadata["dbt_cloud_run"] = dg.MetadataValue.url(error.run_url)
        if broken:
            metadata["failed_nodes"] = failure_table(broken)
        return dg.Failure(description=str(error), metadata=metadata)

    def _tag(self, word: str) -> None:
        tag_run(self._context, self.run.id, word)


def op_context(context: Context | None) -> dg.OpExecutionContext | None:
    """Return the one kind of context that has all we need without deprecated names."""
    if context is None or isinstance(context, dg.OpExecutionContext):
        return context
    return context.op_execution_context


def run_ref(run: Run, step_index: int | None, invocation_id: str | None) -> RunRef:
    """Return the reference that outcomes of one step of ``run`` carry."""
    return RunRef(
        run_id=run.id,
        url=run.href,
        job_id=run.job_id,
        git_sha=run.git_sha,
        step_index=step_index,
        invocation_id=invocation_id,
    )


def tag_run(context: dg.OpExecutionContext | None, run_id: int, word: str) -> None:
    """Write on the Dagster run which dbt Cloud run it started, and whether it has its results.

    The polling sensor reads it: results that a step recorded are not recorded again, results that
    no step lived to record are.
    """
    if context is not None:
        context.instance.add_run_tags(context.run_id, {f"{RUN_TAG_PREFIX}{run_id}": word})


def command_line(args: Sequence[str]) -> str:
    """Return the step for dbt Cloud: one shell line, quoted once."""
    return shlex.join(["dbt", *args])


def _partition(context: dg.OpExecutionContext, outcome: Outcome, declared: Declared) -> str | None:
    if outcome.asset_key in declared.partitioned and context.has_partition_key:
        return context.partition_key
    return None


def _logger(context: dg.OpExecutionContext | None) -> logging.Logger:
    return logging.getLogger("dagster_dbtcloud") if context is None else context.log


def _status_line(run: Run) -> str:
    line = f"dbt Cloud run {run.id}: {run.status_name}"
    if run.blocked_by and not run.is_complete:
        line += f", waiting for run {', '.join(map(str, run.blocked_by))}"
    if run.status_message:
        line += f" ({run.status_message})"
    return f"{line}. {run.href or ''}".rstrip()


def _lacks_log(step: RunStep) -> bool:
    """Whether a dbt step ran and shows no word of it; the built-in ``dbt deps`` may be silent."""
    ran = step.started_at is not None and step.status in (RunStatus.SUCCESS, RunStatus.ERROR)
    return ran and not step.logs and dbt_command(step.command) not in (None, "deps")


def _last_words(run: Run) -> str:
    """Return what is known of a failure that no node tells of."""
    if run.status_message:
        return run.status_message
    with suppress(StopIteration):
        step = next(step for step in run.run_steps if step.status == RunStatus.ERROR)
        lines = [line for line in (step.logs or "").splitlines() if line.strip()]
        return f"step {step.index} ({step.name}) ended with an error.\n" + "\n".join(lines[-20:])
    return "dbt Cloud gives no reason; look at the run."
