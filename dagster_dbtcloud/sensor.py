"""The polling sensor: what dbt Cloud ran by itself becomes part of Dagster's history.

A tick walks finished runs from the cursor and gives pairs of (report of a run, cursor after it), so
that events and cursor leave together at any point where the tick has to stop. It triggers nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone

import dagster as dg

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.filters import why_not_production
from dagster_dbtcloud.cloud.models import Run, RunStatus
from dagster_dbtcloud.errors import (
    ApiError,
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
)
from dagster_dbtcloud.events import Declared, OutcomeKind, as_log_event, interpret
from dagster_dbtcloud.harvest import Harvest, harvest, run_ref
from dagster_dbtcloud.identity import safe_name
from dagster_dbtcloud.marker import RECORDED, RUN_TAG_PREFIX, dagster_run_of
from dagster_dbtcloud.specs import MANIFEST
from dagster_dbtcloud.state import WorkspaceIds
from dagster_dbtcloud.translator import DagsterDbtTranslator
from dagster_dbtcloud.workspace import DbtCloudWorkspace

AssetEvent = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation
RunFilter = Callable[[Run], bool]
PartitionKeyFn = Callable[[Run, Mapping[str, object]], "str | None"]

OVERLAP = timedelta(minutes=10)
"""How far behind the newest finished run each tick looks again, for runs that are listed late."""
PATIENCE = timedelta(minutes=30)
"""How long a run's results may be missing or damaged before it is left without them."""
MAX_EVENTS = 1_000
"""Events of one tick, above which no further run is begun. Dagster stores about 80 a second."""
_TICK_SHARE = 0.5
"""The share of Dagster's time limit for a tick that is spent before no further run is begun."""
_RETRY_SECONDS = 8.0
_FAR = timedelta(days=3650)

# --- cursor --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cursor:
    """How far dbt Cloud's history has been recorded.

    ``finished_at`` is the newest finish time met (the server's clock). ``done`` holds the runs met
    within the overlap before it, by finish time; ``waiting`` the runs whose results were not to be
    had yet, by the time they were first met.
    """

    finished_at: datetime
    done: Mapping[int, datetime] = field(default_factory=dict)
    waiting: Mapping[int, datetime] = field(default_factory=dict)

    def after(self, run: Run) -> Cursor:
        """Return the cursor once ``run`` is dealt with."""
        finished_at = max(self.finished_at, run.finished_at or self.finished_at)
        done = {**self.done, run.id: run.finished_at or self.finished_at}
        return Cursor(
            finished_at,
            {key: time for key, time in done.items() if time >= finished_at - OVERLAP},
            {key: time for key, time in self.waiting.items() if key != run.id},
        )

    def awaiting(self, run: Run, since: datetime) -> Cursor:
        """Return the cursor that goes past ``run`` but comes back to it."""
        past = self.after(run)
        return replace(past, waiting={**past.waiting, run.id: since})

    def to_json(self) -> str:
        return json.dumps(
            {
                "version": 1,
                "finished_at": self.finished_at.isoformat(),
                "done": {str(key): time.isoformat() for key, time in self.done.items()},
                "waiting": {str(key): time.isoformat() for key, time in self.waiting.items()},
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str | None) -> Cursor | None:
        """Return the cursor; None when there is none, or the text is not one of ours."""
        try:
            raw = json.loads(text or "")
            return cls(
                _time(raw["finished_at"]),
                {int(key): _time(time) for key, time in raw["done"].items()},
                {int(key): _time(time) for key, time in raw["waiting"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


# --- one tick ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunReport:
    """What one dbt Cloud run adds to Dagster's history; ``skipped`` says why it adds nothing."""

    run: Run
    events: tuple[AssetEvent, ...] = ()
    undeclared: tuple[str, ...] = ()
    skipped: str | None = None
    waiting: bool = False
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Poll:
    """All that one tick needs to know; it holds no state of its own."""

    client: DbtCloudClient
    ids: WorkspaceIds
    declared: Callable[[], Declared]
    clock: Clock
    is_recorded: Callable[[Run], bool | None]
    """True: a Dagster step of this deployment has recorded the run. None: it may still do so."""
    run_filter: RunFilter | None = None
    partition_key_fn: PartitionKeyFn | None = None

    def walk(self, cursor: Cursor) -> Iterator[tuple[RunReport, Cursor]]:
        """Yield each run that is new since ``cursor``, and the cursor after it; oldest first.

        Raises: ApiError, when dbt Cloud gives no answer; what was yielded before stands.
        """
        for run_id, since in sorted(cursor.waiting.items()):
            try:
                run = self.client.run(run_id, include=("trigger", "job", "run_steps"))
            except NotFoundError:
                run = Run(id=run_id)
                yield RunReport(run, skipped="deleted in dbt Cloud"), cursor.after(run)
                cursor = cursor.after(run)
                continue
            report = self._report(run, since)
            cursor = cursor.awaiting(run, since) if report.waiting else cursor.after(run)
            yield report, cursor
        for run in self._new_runs(cursor):
            report = self._consider(run)
            now = self.clock.now()
            cursor = cursor.awaiting(run, now) if report.waiting else cursor.after(run)
            yield report, cursor

    def _new_runs(self, cursor: Cursor) -> Iterator[Run]:
        listed = self.client.runs(
            project_id=self.ids.project_id,
            environment_id=self.ids.environment_id,
            status_in=(RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.CANCELLED),
            finished_at=(cursor.finished_at - OVERLAP, self.clock.now() + _FAR),
            order_by="finished_at",
            include=("trigger", "job"),
        )
        return (run for run in listed if run.id not in cursor.done)

    def _consider(self, run: Run) -> RunReport:
        reason = why_not_production(run)
        if reason is None and self.run_filter is not None and not self.run_filter(run):
            reason = "left out by the run filter"
        if reason is not None:
            return RunReport(run, skipped=reason)
        full = self.client.run(run.id, include=("trigger", "job", "run_steps"))
        return self._report(full, self.clock.now())

    def _report(self, run: Run, since: datetime) -> RunReport:
        recorded = self.is_recorded(run)
        if recorded:
            return RunReport(run, skipped="recorded by the Dagster step that started it")
        patient = self.clock.now() - since < PATIENCE
        if recorded is None:
            return RunReport(run, waiting=True)  # its step is alive, however long that takes
        found = harvest(self.client, run)
        if patient and (found.damaged or any(s.status == RunStatus.SUCCESS for s in found.late)):
            return RunReport(run, waiting=True)
        return self._from_harvest(found)

    def _from_harvest(self, found: Harvest) -> RunReport:
        declared = self.declared()
        events: list[AssetEvent] = []
        undeclared: list[str] = []
        problems = [str(error) for error in found.damaged]
        for item in found.steps:
            problems.extend(item.results.malformed)
            ref = run_ref(found.run, item.step.index, item.results.invocation_id)
            said = interpret(item.results, declared, ref)
            undeclared.extend(said.undeclared)
            partition = (
                self.partition_key_fn(found.run, item.results.args)
                if self.partition_key_fn
                else None
            )
            for outcome in said.outcomes:
                if outcome.asset_key in declared.partitioned and partition is None:
                    # without a partition a materialization would be a lie about all of them
                    outcome = replace(outcome, kind=OutcomeKind.OBSERVED)
                event = as_log_event(
                    outcome,
                    partition=partition if outcome.asset_key in declared.partitioned else None,
                )
                if event is not None:
                    events.append(event)
        return RunReport(
            found.run,
            tuple(events),
            tuple(dict.fromkeys(undeclared)),
            problems=tuple(problems),
        )


# --- the sensor ----------------------------------------------------------------------------------


def build_dbt_cloud_polling_sensor(
    *,
    workspace: DbtCloudWorkspace,
    dagster_dbt_translator: DagsterDbtTranslator | None = None,
    minimum_interval_seconds: int = 30,
    default_sensor_status: dg.DefaultSensorStatus | None = None,
    name: str | None = None,
    start_at: datetime | None = None,
    run_filter: RunFilter | None = None,
    partition_key_fn: PartitionKeyFn | None = None,
    tags: Mapping[str, str] | None = None,
) -> dg.SensorDefinition:
    """Build a sensor that records the dbt Cloud runs that Dagster did not start.

    Materializations, check evaluations, and observations of failed or skipped nodes are recorded
    on the assets and checks that this code location declares. Runs of pull requests and runs with
    a schema, branch or target override are left out: they do not describe production.

    ``name`` defaults to one made from the project and environment. ``start_at`` (aware) is where
    history starts when the sensor first runs; by default ten minutes before. ``run_filter`` keeps
    the runs for which it returns True. ``partition_key_fn`` gets the run and dbt's arguments of a
    step and returns the partition that it built; without it, runs of partitioned assets become
    observations. ``dagster_dbt_translator`` is accepted for dagster-dbt's sake: keys come from the
    specs that are declared.
    """
    del dagster_dbt_translator

    @dg.sensor(
        name=name or f"dbt_cloud_{safe_name(workspace.unique_id)}_polling_sensor",
        description="Records what dbt Cloud ran by itself: materializations, checks, failures.",
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_sensor_status or dg.DefaultSensorStatus.STOPPED,
        tags=tags,
    )
    def dbt_cloud_polling_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        clock = workspace.get_clock()
        cursor = Cursor.from_json(context.cursor) or Cursor(start_at or clock.now())
        ids = workspace.ids()
        with workspace.get_client(retry_for=_RETRY_SECONDS) as client:
            poll = Poll(
                client=client,
                ids=ids,
                declared=lambda: _declared(context, workspace),
                clock=clock,
                is_recorded=lambda run: _is_recorded(context.instance, run),
                run_filter=run_filter,
                partition_key_fn=partition_key_fn,
            )
            return _tick(poll, cursor, clock)

    return dbt_cloud_polling_sensor


def _tick(poll: Poll, cursor: Cursor, clock: Clock) -> dg.SensorResult:
    deadline = clock.monotonic() + _TICK_SHARE * _tick_limit()
    reports: list[RunReport] = []
    outage: ApiError | None = None
    try:
        for report, after in poll.walk(cursor):
            reports.append(report)
            cursor = after
            if sum(len(each.events) for each in reports) >= MAX_EVENTS:
                break
            if clock.monotonic() > deadline:
                break
    except (AuthenticationError, PermissionDeniedError):
        if not reports:
            raise  # the user has to act: let the tick fail visibly
    except ApiError as error:
        outage = error
    return dg.SensorResult(
        asset_events=[event for report in reports for event in report.events],
        cursor=cursor.to_json(),
        skip_reason=dg.SkipReason(summary(reports, outage)),
    )


def summary(reports: Sequence[RunReport], outage: ApiError | None = None) -> str:
    """Return the tick's message for people."""
    events = [event for report in reports for event in report.events]
    recorded = [report for report in reports if not report.skipped and not report.waiting]
    counts = [
        (len(recorded), "run", "runs"),
        (_count(events, dg.AssetMaterialization), "materialization", "materializations"),
        (_count(events, dg.AssetCheckEvaluation), "check", "checks"),
        (_count(events, dg.AssetObservation), "observation", "observations"),
    ]
    parts = [f"{n} {one if n == 1 else many}" for n, one, many in counts if n]
    text = ", ".join(parts) if parts else "nothing new in dbt Cloud"
    waiting = [report.run.id for report in reports if report.waiting]
    if waiting:
        text += f"; waiting for the results of run {_listed(waiting)}"
    skipped = [f"{report.run.id} ({report.skipped})" for report in reports if report.skipped]
    if skipped:
        text += f"; left out: run {_listed(skipped)}"
    undeclared = sorted({node for report in reports for node in report.undeclared})
    if undeclared:
        text += f"; {len(undeclared)} nodes not declared here: {_listed(undeclared)}"
    problems = [problem for report in reports for problem in report.problems]
    if problems:
        text += f"; not readable: {_listed(problems)}"
    if outage is not None:
        text += f"; stopped early, the cursor keeps what is left: {outage}"
    return text


def _count(events: Sequence[AssetEvent], kind: type[AssetEvent]) -> int:
    return sum(1 for event in events if type(event) is kind)


def _listed(items: Sequence[object], most: int = 5) -> str:
    text = ", ".join(str(item) for item in items[:most])
    return text if len(items) <= most else f"{text} and {len(items) - most} more"


def _tick_limit() -> float:
    """Return Dagster's time limit for a tick in seconds; of a tick above it nothing is stored."""
    for variable in ("DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS", "DAGSTER_GRPC_TIMEOUT_SECONDS"):
        if os.environ.get(variable, "").isdigit():
            return float(os.environ[variable])
    return 60.0


def _declared(context: dg.SensorEvaluationContext, workspace: DbtCloudWorkspace) -> Declared:
    """Return the assets and checks of this workspace that the code location declares."""
    repository = context.repository_def
    if repository is None:
        raise dg.DagsterInvariantViolationError("The polling sensor needs its code location.")
    digest = workspace.load_state().manifest.digest[:12]
    assets = {id(each): each for each in repository.assets_defs_by_key.values()}
    checks = {id(each): each for each in repository.asset_checks_defs_by_key.values()}
    asset_specs = [
        spec
        for each in assets.values()
        for spec in each.specs
        if spec.metadata.get(MANIFEST) == digest
    ]
    check_specs = [
        spec
        for each in {**assets, **checks}.values()
        for spec in each.check_specs
        if (spec.metadata or {}).get(MANIFEST) == digest
    ]
    return Declared.from_specs(asset_specs, check_specs)


def _is_recorded(instance: dg.DagsterInstance, run: Run) -> bool | None:
    """Tell whether a step of this deployment has recorded ``run``; None while it still may."""
    dagster_run_id = dagster_run_of(run.trigger.cause if run.trigger else None)
    dagster_run = instance.get_run_by_id(dagster_run_id) if dagster_run_id else None
    if dagster_run is None:
        return False
    if dagster_run.tags.get(f"{RUN_TAG_PREFIX}{run.id}") == RECORDED:
        return True
    return False if dagster_run.is_finished else None
