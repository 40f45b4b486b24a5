"""The polling sensor: what dbt Cloud ran by itself becomes part of Dagster's history.

Here it is defined and speaks to people; what a tick does is in ``polling.py``, what a run tells in
``history.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from weakref import WeakKeyDictionary

import dagster as dg

from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cursor import OVERLAP, Cursor
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.drift import Drift, compare
from dagster_dbtcloud.errors import ApiError, ConfigError, ManifestError
from dagster_dbtcloud.history import PartitionKeyFn, Rules, RunFilter, Scope
from dagster_dbtcloud.identity import safe_name
from dagster_dbtcloud.polling import MAX_EVENTS, PATIENCE, Poll, Tick
from dagster_dbtcloud.recorded import AssetEvent
from dagster_dbtcloud.translator import DagsterDbtTranslator
from dagster_dbtcloud.wake import notes
from dagster_dbtcloud.workspace import DbtCloudWorkspace

__all__ = [
    "OVERLAP",
    "PATIENCE",
    "Cursor",
    "PartitionKeyFn",
    "RunFilter",
    "build_dbt_cloud_polling_sensor",
    "observer_of",
]

OnDrift = Callable[[Drift], None]

_TICK_SHARE = 0.5
"""The share of Dagster's time limit for a tick that is spent before no further run is begun."""
_RETRY_SECONDS = 8.0
_WAKE_INTERVAL = 5
"""Seconds between looks for a webhook's note; Dagster's daemon looks no oftener."""
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Observer:
    """What a polling sensor of ours was built with."""

    workspace: DbtCloudWorkspace
    rules: Rules = field(default_factory=Rules)
    on_drift: OnDrift | None = None
    compared: set[int] = field(default_factory=set, compare=False)
    """The runs whose manifest was asked for: a tick that this made too long for Dagster stores
    nothing, and the next one must not be as long."""
    _scopes: WeakKeyDictionary[dg.RepositoryDefinition, tuple[str, Scope]] = field(
        default_factory=WeakKeyDictionary, compare=False, repr=False
    )

    def scope(self, repository: dg.RepositoryDefinition) -> Scope:
        """Return what the code location declares of the workspace; read once."""
        state = self.workspace.load_state()
        digest = state.manifest.digest[:12]
        known = self._scopes.get(repository)
        if known is None or known[0] != digest:
            # the same ids as the specs have
            ids = self.workspace.ids() if state.pointer is None else state.pointer.ids
            scope = Scope.of(repository, digest, ids.environment_id)
            known = self._scopes[repository] = (digest, scope)
        return known[1]


_observers: WeakKeyDictionary[dg.SensorDefinition, Observer] = WeakKeyDictionary()


def observer_of(sensor: dg.SensorDefinition) -> Observer | None:
    """Return what a sensor was built with; None when it is not one of ours."""
    return _observers.get(sensor)


def build_dbt_cloud_polling_sensor(
    *,
    workspace: DbtCloudWorkspace,
    dagster_dbt_translator: DagsterDbtTranslator | None = None,
    minimum_interval_seconds: int = 30,
    default_sensor_status: dg.DefaultSensorStatus | None = None,
    name: str | None = None,
    start_at: datetime | timedelta | None = None,
    run_filter: RunFilter | None = None,
    jobs: Sequence[int | str] = (),
    exclude_jobs: Sequence[int | str] = (),
    partition_key_fn: PartitionKeyFn | None = None,
    count_reused: bool = False,
    on_drift: OnDrift | None = None,
    webhooks: bool = False,
    max_events_per_tick: int = MAX_EVENTS,
    tags: Mapping[str, str] | None = None,
) -> dg.SensorDefinition:
    """Build a sensor that records the dbt Cloud runs that Dagster did not start.

    Materializations, check evaluations, source freshness, and observations of failed or skipped
    nodes are recorded on the assets and checks that this code location declares, each once. Runs of
    pull requests and runs with a schema, branch or target override are left out: they do not
    describe production.

    ``name`` defaults to one made from the project and environment. ``start_at`` is where history
    starts when the sensor first runs: a time (aware), or how long before; ten minutes by default.
    ``run_filter`` keeps the runs for which it returns True; ``jobs`` and ``exclude_jobs`` take ids
    or names. ``partition_key_fn`` gets the run and dbt's arguments of a step and returns the
    partition that it built, or several; without it they are looked for in dbt's vars, and where
    there are none, runs of partitioned assets become observations. ``count_reused`` makes
    materializations of what dbt reported as ``no-op`` or ``reused``; else they are observations.
    ``on_drift`` is called once for each change of the dbt project's assets against the loaded
    ones; it may ask for a reload (docs/observer.md). With ``webhooks`` the sensor looks every five
    seconds for what ``dagster_dbtcloud.webhooks`` noted, and asks dbt Cloud then, or as often as
    ``minimum_interval_seconds`` says. A tick stores ``max_events_per_tick`` events at most.
    ``dagster_dbt_translator`` is accepted for dagster-dbt's sake: keys come from the specs that are
    declared.

    Raises: ConfigError.
    """
    del dagster_dbt_translator
    if isinstance(start_at, datetime) and start_at.tzinfo is None:
        raise ConfigError("start_at needs a time zone, e.g. datetime(2026, 1, 1, tzinfo=utc).")
    if max_events_per_tick < 1:
        raise ConfigError("max_events_per_tick must be at least 1.")
    observer = Observer(
        workspace,
        Rules(run_filter, tuple(jobs), tuple(exclude_jobs), partition_key_fn, count_reused),
        on_drift,
    )
    interval = timedelta(seconds=minimum_interval_seconds)

    @dg.sensor(
        name=name or f"dbt_cloud_{safe_name(workspace.unique_id)}_polling_sensor",
        description="Records what dbt Cloud ran by itself: materializations, checks, failures.",
        minimum_interval_seconds=_WAKE_INTERVAL if webhooks else minimum_interval_seconds,
        default_status=default_sensor_status or dg.DefaultSensorStatus.STOPPED,
        tags=tags,
    )
    def dbt_cloud_polling_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        clock = workspace.get_clock()
        now = clock.now()
        deadline = clock.monotonic() + _TICK_SHARE * _tick_limit()
        cursor, anew = Cursor.from_json(context.cursor), ""
        if cursor is None:
            cursor = Cursor(_start(start_at, now))
            if context.cursor:
                anew = (
                    "the cursor could not be read, so history begins anew at "
                    f"{cursor.finished_at - OVERLAP:%Y-%m-%d %H:%M:%S} UTC: for what is older run "
                    "`dagster-dbtcloud replay --since ...`"
                )
                context.log.warning(anew)
        ids = workspace.ids()
        woken: frozenset[int] = frozenset()
        if webhooks:
            found = notes(
                context.instance,
                account_id=ids.account_id,
                environment_id=ids.environment_id,
                now=now,
            )
            woken = frozenset(run for run in found if not cursor.knows(run))
            if not woken and cursor.polled_at and abs(now - cursor.polled_at) < interval:
                return dg.SensorResult(
                    cursor=context.cursor, skip_reason=dg.SkipReason("no webhook came")
                )
        repository = context.repository_def
        if repository is None:
            raise dg.DagsterInvariantViolationError("The polling sensor needs its code location.")
        with workspace.get_client(retry_for=_RETRY_SECONDS) as client:
            poll = Poll(
                client=client,
                ids=ids,
                scope=lambda: observer.scope(repository),
                clock=clock,
                instance=context.instance,
                rules=observer.rules,
                max_events=max_events_per_tick,
                woken=woken,
            )
            tick = poll.tick(cursor, deadline=deadline)
            drift, after = "", tick.cursor
            if tick.complete and clock.monotonic() < deadline:
                drift, after = _look_for_drift(observer, client, tick)
        for report in tick.reports:
            if report.quarantined:
                context.log.warning(
                    f"dbt Cloud run {report.run.id} is given up and stays unrecorded, in whole or "
                    f"in part: {report.quarantined} Replay it with `dagster-dbtcloud replay --run "
                    f"{report.run.id}` once it can be read."
                )
        return dg.SensorResult(
            asset_events=tick.events,
            cursor=after.to_json(),
            skip_reason=dg.SkipReason("; ".join(filter(None, (summary(tick), drift, anew)))),
        )

    _observers[dbt_cloud_polling_sensor] = observer
    return dbt_cloud_polling_sensor


def _start(start_at: datetime | timedelta | None, now: datetime) -> datetime:
    if start_at is None:
        return now
    # the first tick looks an overlap further back; what was asked for is exact
    return (now - start_at if isinstance(start_at, timedelta) else start_at) + OVERLAP


def _tick_limit() -> float:
    """Return Dagster's time limit for a tick in seconds; of a tick above it nothing is stored."""
    for variable in ("DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS", "DAGSTER_GRPC_TIMEOUT_SECONDS"):
        if os.environ.get(variable, "").isdigit():
            return float(os.environ[variable])
    return 60.0


# --- drift ---------------------------------------------------------------------------------------


def _look_for_drift(observer: Observer, client: DbtCloudClient, tick: Tick) -> tuple[str, Cursor]:
    """Compare the newest run's manifest with the loaded one, once for each commit.

    Returns what to tell people (empty for nothing new), and the cursor that remembers it.
    """
    cursor = tick.cursor
    looked_at, _, told = cursor.project.partition("/")
    state = observer.workspace.load_state()
    newest = next(
        (
            report.run
            for report in reversed(tick.reports)
            if report.run.git_sha and not (report.skipped or report.waiting or report.quarantined)
        ),
        None,
    )
    if newest is None or newest.git_sha is None or newest.git_sha == looked_at:
        return "", cursor
    if state.pointer is not None and newest.id <= state.pointer.run_id:
        return "", cursor
    if newest.id in observer.compared:
        return "", cursor
    observer.compared.add(newest.id)
    try:
        data = client.artifact(newest.id, _MANIFEST)
    except ApiError:
        return "", cursor  # the last step left none, or not yet: the next run is looked at
    drift = Drift(newest.id)
    if sha256(data).hexdigest() != state.manifest.digest:
        try:
            manifest = Manifest.from_bytes(data, origin=f"{_MANIFEST} of run {newest.id}")
        except ManifestError:
            return "", cursor
        drift = compare(state.manifest, manifest, run_id=newest.id)
    after = replace(cursor, project=f"{newest.git_sha}/{drift.digest}")
    if not drift or drift.digest == told:
        return "", after
    text = str(drift)
    if observer.on_drift is not None:
        try:
            observer.on_drift(drift)
        except Exception as error:  # noqa: BLE001 - the user's function must not stop history
            text += f" (on_drift raised {error!r})"
    return text, after


# --- for people ----------------------------------------------------------------------------------


def summary(tick: Tick) -> str:
    """Return the tick's message."""
    reports, events = tick.reports, tick.events
    recorded = [r for r in reports if not (r.skipped or r.waiting or r.quarantined)]
    counts = [
        (len(recorded), "run", "runs"),
        (_count(events, dg.AssetMaterialization), "materialization", "materializations"),
        (_count(events, dg.AssetCheckEvaluation), "check", "checks"),
        (_count(events, dg.AssetObservation), "observation", "observations"),
    ]
    text = ", ".join(_number(*count) for count in counts if count[0]) or "nothing new in dbt Cloud"
    for report in reports:
        if report.of is not None:
            text += f"; run {report.run.id} in parts, {report.of - len(report.events)} to come"
    for what in dict.fromkeys(report.waiting for report in reports if report.waiting):
        waiting = [report.run.id for report in reports if report.waiting == what]
        text += f"; {_number(len(waiting), 'run', 'runs')} waiting for {what}: {_listed(waiting)}"
    skipped = [f"{report.run.id} ({report.skipped})" for report in reports if report.skipped]
    if skipped:
        text += f"; left out: run {_listed(skipped)}"
    given_up = [report.run.id for report in reports if report.quarantined]
    if given_up:
        text += f"; given up: run {_listed(given_up)}"
    undeclared = sorted({node for report in reports for node in report.undeclared})
    if undeclared:
        nodes = _number(len(undeclared), "node", "nodes")
        text += f"; {nodes} not declared here: {_listed(undeclared)}"
    problems = [problem for report in reports for problem in report.problems]
    if problems:
        text += f"; not readable: {_listed(problems)}"
    if tick.cursor.quarantined and not given_up:
        text += f"; given up earlier: run {_listed(list(tick.cursor.quarantined))}"
    if tick.outage is not None:
        text += f"; stopped early, the cursor keeps what is left: {tick.outage}"
    elif not tick.complete:
        text += "; more to come"
    return text


def _number(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _count(events: Sequence[AssetEvent], kind: type[AssetEvent]) -> int:
    return sum(1 for event in events if type(event) is kind)


def _listed(items: Sequence[object], most: int = 5) -> str:
    text = ", ".join(str(item) for item in items[:most])
    return text if len(items) <= most else f"{text} and {len(items) - most} more"
