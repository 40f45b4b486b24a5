"""One dbt Cloud run in time: follow it, tell what it does, and hand its results to Dagster.

Which job runs, with which credentials, and what earlier attempts have left is decided above
(``workspace.py``); the run exists already when an invocation does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, cast
from weakref import finalize

import dagster as dg

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import Run, RunStatus, RunStep
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.progress import timings
from dagster_dbtcloud.errors import (
    ApiError,
    ApiResponseError,
    ConfigError,
    DbtCloudError,
    ManifestError,
    RunCancelled,
    RunError,
    RunFailed,
    RunTimedOut,
)
from dagster_dbtcloud.events import (
    Declared,
    Outcome,
    OutcomeKind,
    adds_metadata,
    as_log_event,
    failed,
    failure_table,
    is_failed,
)
from dagster_dbtcloud.following import INCLUDED, NO_LIMITS, RunLimits, follow, patiently
from dagster_dbtcloud.harvest import Harvest, dbt_command, harvest, last_outcomes, run_ref
from dagster_dbtcloud.live import RunLog, outcomes_of
from dagster_dbtcloud.marker import RECORDED, RUN_TAG_PREFIX, STARTED
from dagster_dbtcloud.partitions import of_partition, partition_keys
from dagster_dbtcloud.recorded import Recorded, already_recorded, claimed
from dagster_dbtcloud.reporting import Handover, StepEvent

OnLeave = Literal["cancel", "detach"]


def check_on_leave(word: str) -> None:
    """Raise ConfigError for a word that is no OnLeave."""
    if word not in ("cancel", "detach"):
        raise ConfigError(f"on_leave={word!r} is not one of 'cancel', 'detach'.")


_LATE_ARTIFACT_GRACE = {True: 120.0, False: 20.0}
"""Seconds to wait for a step's results, by whether the step succeeded. A step that failed to parse
its project leaves none, so little is spent on it."""
_LATE_LOGS_SECONDS = 10.0
"""How long the logs of a finished run may be missing (docs/dbt-cloud-api.md)."""


# --- the invocation ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Past:
    """What earlier attempts of the same step have left.

    ``settled`` are results of theirs that stand beside those of the run. ``taken_over``: one of
    them has started the run, and may have recorded a part of it. ``dagster_run_ids`` are the
    Dagster runs that may have; ``since`` is when the first of their dbt Cloud runs was created.
    """

    settled: tuple[Outcome, ...] = ()
    taken_over: bool = False
    dagster_run_ids: tuple[str, ...] = ()
    since: datetime | None = None


class DbtCloudCliInvocation:
    """A dbt command in dbt Cloud, started by ``DbtCloudWorkspace.cli``.

    The run is triggered already when this object exists; ``wait`` or ``stream`` follows it. Leaving
    in any way before the run is complete cancels the run, unless ``on_leave="detach"``; so does a
    step that ends without having waited for it.
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
        manifest: Manifest | None = None,
        expected: frozenset[str] = frozenset(),
        on_leave: OnLeave = "cancel",
        limits: RunLimits = NO_LIMITS,
        past: Past | None = None,
    ) -> None:
        """Take over a run that exists; ``expected`` are the nodes that must have a result."""
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
        self._limits = limits
        self._past = past or Past()
        self._log = _logger(context)
        self._run_log = RunLog(
            manifest, other_schemas=_writes_elsewhere(run), timings=self._earlier_timings
        )
        self._told: dict[str, Outcome] = {}
        self._reported: set[str] = set()
        self._followed = False
        self._left = False
        self._unwatched: finalize[..., DbtCloudCliInvocation] | None = None
        self._stored: dict[int, Recorded] = {}
        self._was_stored: dict[tuple[int, str], frozenset[str | None]] = {}
        self._selected: tuple[Set[dg.AssetKey], Set[dg.AssetCheckKey]] | None = None
        self._handover: Handover | None = None

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
        are ``AssetMaterialization`` and ``AssetCheckEvaluation`` for what the step selected, but
        ``MaterializeResult`` and ``AssetCheckResult`` for what other steps of the same Dagster run
        wait for (see ``reporting.py``); what dbt built beyond that is written to the event log.
        Without a context they are ``AssetMaterialization``, ``AssetCheckEvaluation`` and
        ``AssetObservation``.

        ``timeout`` is in seconds; None (the default) waits as long as the run takes.

        Raises: ``dagster.Failure`` inside a step, else RunFailed, RunCancelled, RunTimedOut, when
        the run did not succeed, after everything that it did build was yielded; ApiError.
        """
        return self._events(timeout, at_once=False)

    def stream(self, timeout: float | None = None) -> Iterator[StepEvent]:
        """Follow the run, and yield each node's event as soon as its log says how it ended.

        The events are those of ``wait``, each node once; what the log does not tell comes at the
        end, from the run's results. An event that comes early has no metadata that only the
        results have; where they tell rows or a query id, an ``AssetObservation`` adds them.

        Raises: as ``wait``.
        """
        return self._events(timeout, at_once=True)

    def _events(self, timeout: float | None, *, at_once: bool) -> Iterator[StepEvent]:
        with self._client:
            try:
                for outcome in self._follow(timeout):
                    # leaving at this point, for whatever reason, leaves the run
                    with self._leaving():
                        if at_once and (event := self._tell(outcome)) is not None:
                            yield event
            except RunError as error:
                raise self._as_failure(error, ())  # noqa: B904 - outside a step it is the same one
            yield from self._results()

    def is_successful(self) -> bool:
        """Whether the run has ended well; follows it to its end if need be.

        It takes nothing from ``wait``, which still yields all events.

        Raises: ApiError.
        """
        with self._client:
            for _ in self._follow(None):
                pass
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

    def announce(self, *, started: bool = True) -> None:
        """Write the run's link to the log, and its id on the Dagster run.

        ``started``: this call has started it, so that nobody else knows of it.
        """
        with self._leaving():
            if started and self._context is not None and self.on_leave == "cancel":
                self._unwatched = finalize(
                    self, _cancel_unwatched, self._short_client, self.run.id, self.run.href
                )
            self._log.info(
                f"{'Started' if started else 'Following'} dbt Cloud run {self.run.id}: "
                f"{'; '.join(self.commands)}\n"
                f"{self.run.href or ''}"
            )
            self._tag(STARTED)

    # --- following

    def _follow(self, timeout: float | None) -> Iterator[Outcome]:
        """Follow the run to its end; yield what the logs tell before that, each node once."""
        if self._followed:
            return
        if self._unwatched is not None:
            self._unwatched.detach()
        status: tuple[int, tuple[int, ...]] | None = None
        runs = follow(
            self._client, self.run.id, clock=self._clock, timeout=timeout, limits=self._limits
        )
        while True:
            outcomes: list[Outcome] = []
            with self._leaving():
                run = next(runs, None)
                if run is None:
                    break
                self.run = run
                if (now := (run.status, tuple(run.blocked_by or ()))) != status:
                    status = now
                    self._log.info(_status_line(run))
                if run.is_complete:
                    self.run = run = self._with_late_logs(run)
                for news in self._run_log.read(run, at=self._clock.monotonic()):
                    for text in news.texts:
                        self._log.info(text)
                    outcomes += outcomes_of(
                        news, self._declared, run_ref(run, news.step.index, None)
                    )
            if not run.is_complete:  # else the results are there, which tell more
                yield from outcomes
        self._followed = True

    def _earlier_timings(self) -> Mapping[str, float]:
        """Return the seconds that nodes took when the job's newest good run did them."""
        try:
            with self._short_client() as client:  # an estimate is an extra: no outage is waited out
                listed = client.runs(
                    job_id=self.run.job_id,
                    status_in=(RunStatus.SUCCESS,),
                    order_by="-id",
                    include=(),
                    page_size=1,
                )
                before = next(listed, None)
                if before is None:
                    return {}
                before = client.run(before.id, include=("run_steps",))  # lists have no steps
                return timings([each.results for each in harvest(client, before).steps])
        except DbtCloudError:
            return {}

    def _with_late_logs(self, run: Run) -> Run:
        """Return the finished run with its logs, which dbt Cloud may store a little later."""
        waited, run_id = 0.0, run.id
        while waited < _LATE_LOGS_SECONDS and any(_lacks_log(step) for step in run.run_steps):
            self._clock.sleep(2.0)
            waited += 2.0
            with suppress(ApiResponseError):  # JSON, but no run: as ``follow`` has it
                run = patiently(
                    lambda: self._client.run(run_id, include=INCLUDED), clock=self._clock
                )
        return run

    @contextmanager
    def _leaving(self) -> Iterator[None]:
        """Cancel the run that nobody will watch any more; never hide why we leave."""
        try:
            yield
        except BaseException as error:
            with suppress(BaseException):  # a second signal, a log that is closed already
                self._leave(error)
            raise

    def _leave(self, error: BaseException) -> None:
        reason = _why(error)
        if self.run.is_complete or self._left:
            return
        self._left = True
        if self.on_leave == "detach":
            self._log.warning(f"Leaving dbt Cloud run {self.run.id} running ({reason}).")
            return
        # Who is terminated has seconds to live, and an outage that ended the following may last;
        # any other end has the time to see an outage through.
        patient = isinstance(error, Exception) and not isinstance(error, ApiError)
        try:
            with self._client if patient else self._short_client() as client:
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
        ours = {outcome.unique_id for outcome in outcomes}
        before = [outcome for outcome in self._past.settled if outcome.unique_id not in ours]
        for outcome in (*before, *outcomes):
            if outcome.unique_id in self._reported:
                continue  # who waits again gets the rest
            self._reported.add(outcome.unique_id)
            told = self._told.get(outcome.unique_id)
            if told is not None:
                event = self._reconcile(told, outcome)
            elif self._is_stored(outcome) and not self._is_needed(outcome):
                event = None
            else:
                event = self._report(outcome)
            if event is not None:
                yield event
        outcomes = [*before, *outcomes]
        removed = self._removed(outcomes) if self.run.is_success else ()
        if found.is_whole:
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
        found = self._fetch(None)
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
            found = self._fetch(found)
        for error in found.damaged:
            self._log.error(str(error))
        for item in found.steps:
            for sentence in item.results.malformed:
                self._log.error(sentence)
        return found

    def _fetch(self, known: Harvest | None) -> Harvest:
        return patiently(lambda: harvest(self._client, self.run, known=known), clock=self._clock)

    def _outcomes(self, found: Harvest) -> list[Outcome]:
        """Return the last outcome of each node: a later step's word counts, if it did run."""
        outcomes, undeclared = last_outcomes(found, self._declared)
        if undeclared:
            names = ", ".join(undeclared[:5])
            self._log.info(
                f"{len(undeclared)} nodes that this code location does not declare also ran: "
                f"{names}{' …' if len(undeclared) > 5 else ''}"
            )
        return outcomes

    def _tell(self, outcome: Outcome) -> StepEvent | None:
        """Report a node that the log says has ended, the first time that it does."""
        known = outcome.unique_id in self._told
        if known or outcome.kind not in (OutcomeKind.MATERIALIZED, OutcomeKind.CHECKED):
            return None
        if self._past.taken_over and self._is_stored(outcome):
            return None  # looked at again with the results
        self._told[outcome.unique_id] = outcome
        return self._report(outcome)

    def _reconcile(self, told: Outcome, outcome: Outcome) -> StepEvent | None:
        """Add what only the results tell of a node whose end was told from the log."""
        if told.kind is not outcome.kind or is_failed(told) != is_failed(outcome):
            if told.run.step_index == outcome.run.step_index:  # else a later step ran it again
                self._log.error(
                    f"The log of dbt Cloud run {self.run.id} said {told.result.status!r} of "
                    f"{outcome.unique_id}, and that was recorded; its results say "
                    f"{outcome.result.status!r}. Please report it, with the run's log."
                )
            return self._record(outcome)
        if outcome.check_key is None and adds_metadata(outcome):
            return self._record(replace(outcome, kind=OutcomeKind.OBSERVED))
        return None

    def _is_stored(self, outcome: Outcome) -> bool:
        """Whether an earlier attempt, or the sensor, has recorded the outcome."""
        stored = self._stored_partitions(outcome)
        return bool(stored) and stored.issuperset(self._partitions(outcome))

    def _stored_partitions(self, outcome: Outcome) -> frozenset[str | None]:
        """Return where an earlier attempt, or the sensor, has recorded the outcome."""
        past, context = self._past, self._context
        run_id = outcome.run.run_id
        if context is None or past.since is None:
            return frozenset()
        if run_id == self.run.id and not past.taken_over:
            return frozenset()
        if run_id not in self._stored:
            ids, now = past.dagster_run_ids, self._clock.now()
            if wait := claimed(context.instance, run_id, ids, now=now):
                self._log.info(
                    f"A sensor has just recorded dbt Cloud run {run_id}: waiting {wait:.0f} s "
                    "until Dagster has stored that."
                )
                self._clock.sleep(wait)
            self._stored[run_id] = already_recorded(
                context.instance,
                run_id,
                since=past.since,
                dagster_run_ids=past.dagster_run_ids,
            )
        asked = (run_id, outcome.unique_id)
        if asked not in self._was_stored:  # what is stored answers once; the log may have asked
            key = outcome.check_key or outcome.asset_key
            stored, invocation_id = self._stored[run_id], outcome.run.invocation_id
            self._was_stored[asked] = frozenset(
                each
                for each in self._partitions(outcome)
                if key is not None and stored.take(key, invocation_id=invocation_id, partition=each)
            )
        return self._was_stored[asked]

    def _report(self, outcome: Outcome) -> StepEvent | None:
        context = self._context
        if context is None:
            return as_log_event(outcome)
        if not self._is_selected(outcome):
            return self._record(outcome)
        result = self._handing(context).render(outcome)
        in_part = self._stored_partitions(outcome) and not self._is_needed(outcome)
        if result is not None and not in_part:
            return result
        # Of what failed or was skipped, the step's failure tells.
        broken = outcome.kind in (OutcomeKind.FAILED, OutcomeKind.SKIPPED)
        return self._record(outcome, built_only=broken)

    def _record(self, outcome: Outcome, *, built_only: bool = False) -> StepEvent | None:
        """Write an outcome to the event log; without a step, return the event."""
        context = self._context
        if context is None:
            return as_log_event(outcome)
        stored = self._stored_partitions(outcome)
        for partition in self._partitions(outcome):
            part = of_partition(outcome, self._declared, partition)
            event = as_log_event(part, partition=partition)
            if event is None or partition in stored:
                continue
            if part.kind is OutcomeKind.MATERIALIZED or not built_only:
                # OpExecutionContext's annotation forgets check evaluations; Dagster stores them
                context.log_event(cast("dg.AssetMaterialization", event))
        return None

    def _partitions(self, outcome: Outcome) -> tuple[str | None, ...]:
        """Return where an outcome is recorded: each partition of the step; once, if it has none.

        A check is recorded once: its spec has no partitions.
        """
        partitioned = outcome.check_key is None and outcome.asset_key in self._declared.partitions
        keys = partition_keys(self._context) if partitioned and self._context is not None else ()
        return keys or (None,)

    def _is_needed(self, outcome: Outcome) -> bool:
        """Whether another step of this Dagster run waits for it, and no attempt in it gave it."""
        if self._context is None:
            return False
        if len(self._past.dagster_run_ids) < 2 and self._context.retry_number > 0:
            return False
        return (outcome.check_key or outcome.asset_key) in self._handing(self._context).consumed

    def _handing(self, context: dg.OpExecutionContext) -> Handover:
        if self._handover is None:
            self._handover = Handover(context)
        return self._handover

    def _is_selected(self, outcome: Outcome) -> bool:
        if self._selected is None:
            context = cast("dg.OpExecutionContext", self._context)
            # Dagster makes these sets anew each time that it is asked
            self._selected = (context.selected_asset_keys, context.selected_asset_check_keys)
        assets, checks = self._selected
        if outcome.check_key is not None:
            return outcome.check_key in checks
        return outcome.asset_key in assets

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
        if passed_over := sorted(missing & manifest.nodes.keys()):
            self._log.warning(
                f"dbt Cloud run {self.run.id} has no result of {len(passed_over)} selected nodes, "
                f"though the dbt project has them: {', '.join(passed_over[:10])}"
                f"{' …' if len(passed_over) > 10 else ''}"
            )
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


def tag_run(context: dg.OpExecutionContext | None, run_id: int, word: str) -> None:
    """Write on the Dagster run which dbt Cloud run it started, and whether it has its results.

    The polling sensor reads it: results that a step recorded are not recorded again, results that
    no step lived to record are.
    """
    if context is not None:
        context.instance.add_run_tags(context.run_id, {f"{RUN_TAG_PREFIX}{run_id}": word})


def _logger(context: dg.OpExecutionContext | None) -> logging.Logger:
    return logging.getLogger("dagster_dbtcloud") if context is None else context.log


def _status_line(run: Run) -> str:
    line = f"dbt Cloud run {run.id}: {run.status_name}"
    if run.blocked_by and not run.is_complete:
        line += f", waiting for run {', '.join(map(str, run.blocked_by))}"
    if run.status_message:
        line += f" ({run.status_message})"
    return f"{line}. {run.href or ''}".rstrip()


def _cancel_unwatched(
    short_client: Callable[[], DbtCloudClient], run_id: int, url: str | None
) -> None:
    """Cancel a run whose step has ended before it looked at it, for example by an error."""
    logger = _logger(None)
    try:
        with short_client() as client:
            run = client.run(run_id)
            if not run.is_complete:
                client.cancel_run(run_id)
                logger.warning(
                    f"Cancelled dbt Cloud run {run_id}: its step has ended without waiting for it. "
                    'To let it run, give on_leave="detach", or start it with trigger().'
                )
    except DbtCloudError as trouble:
        logger.error(
            f"dbt Cloud run {run_id} is watched by nobody and could not be cancelled: {trouble} "
            f"Look at {url}."
        )


def _why(error: BaseException) -> str:
    if isinstance(error, GeneratorExit):
        return "the step stopped reading its events"
    if isinstance(error, (dg.DagsterExecutionInterruptedError, KeyboardInterrupt)):
        return "the step was terminated"
    return type(error).__name__


def _writes_elsewhere(run: Run) -> bool:
    trigger = run.trigger
    return trigger is not None and bool(trigger.schema_override or trigger.target_name_override)


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
