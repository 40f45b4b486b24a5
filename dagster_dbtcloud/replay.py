"""dbt Cloud's history once more: fill what the sensor has not seen, or could not read.

It writes what the sensor would have written, and what is in the event log already it leaves alone;
so it may be killed, and run again. It moves no cursor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import dagster as dg

from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import BrokenRun, Run, RunStatus
from dagster_dbtcloud.errors import ApiResponseError, NotFoundError
from dagster_dbtcloud.history import RUN_PARTS, fetch, is_awaited, tell
from dagster_dbtcloud.ownership import ownership
from dagster_dbtcloud.polling import PATIENCE, RunReport
from dagster_dbtcloud.recorded import (
    SLACK,
    Stored,
    already_recorded,
    mark,
    settle,
    stored_since,
)
from dagster_dbtcloud.sensor import Observer

_FAR = timedelta(days=3650)


def replay(
    observer: Observer,
    repository: dg.RepositoryDefinition,
    instance: dg.DagsterInstance,
    *,
    since: datetime | None = None,
    run_ids: Sequence[int] = (),
    dry_run: bool = False,
) -> Iterator[RunReport]:
    """Record the runs that finished since a time (aware), or certain runs; oldest first.

    ``observer`` is what the sensor was built with (``observer_of``), ``repository`` its code
    location. Yields a report of each run after its events are stored; ``events`` are those that
    were missing. With ``dry_run`` nothing is stored.

    Raises: ApiError, when dbt Cloud gives no answer; what was yielded before stands.
    """
    with observer.workspace.get_client() as client:
        stored: _Stored | None = None
        if since is not None and not run_ids:
            stored = _Stored(instance, mark(instance, before=since - SLACK))
        for run in _runs(observer, client, since, run_ids):
            report = _report(observer, repository, instance, client, run, stored)
            if not dry_run:
                for event in report.events:
                    instance.report_runless_asset_event(event)
            yield report


class _Stored:
    """What is stored since a place in the event log, also while a sensor goes on storing."""

    def __init__(self, instance: dg.DagsterInstance, start: str) -> None:
        self._instance = instance
        self._place = start
        self._found: defaultdict[int, list[Stored]] = defaultdict(list)

    def of(self, run_id: int) -> list[Stored]:
        """Return the results of a run that are stored by now."""
        end = mark(self._instance)
        for each in stored_since(self._instance, self._place):
            self._found[each.run_id].append(each)
        self._place = end  # what comes after it is read again, which does no harm
        return self._found[run_id]


def _runs(
    observer: Observer, client: DbtCloudClient, since: datetime | None, run_ids: Sequence[int]
) -> Iterator[Run]:
    if run_ids:
        for run_id in sorted(set(run_ids)):
            yield client.run(run_id, include=RUN_PARTS)
        return
    ids, now = observer.workspace.ids(), observer.workspace.get_clock().now()
    yield from client.runs(
        project_id=ids.project_id,
        environment_id=ids.environment_id,
        status_in=(RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.CANCELLED),
        finished_at=(since or now, now + _FAR),
        order_by="finished_at",
        include=("trigger", "job"),
        tolerant=True,
    )


def _report(
    observer: Observer,
    repository: dg.RepositoryDefinition,
    instance: dg.DagsterInstance,
    client: DbtCloudClient,
    run: Run,
    stored: _Stored | None,
) -> RunReport:
    now = observer.workspace.get_clock().now()
    if isinstance(run, BrokenRun):
        return RunReport(run, quarantined=run.fault, problems=(run.fault,))
    if not run.is_complete:
        return RunReport(run, waiting="its end")
    if reason := observer.rules.why_left_out(run):
        return RunReport(run, skipped=reason)
    ids = observer.workspace.ids()
    if (run.project_id, run.environment_id) != (ids.project_id, ids.environment_id):
        return RunReport(run, skipped="of another environment")
    owner = ownership(instance, run, now=now)
    if owner.recorded:
        return RunReport(run, skipped="recorded by the Dagster step that started it")
    if owner.waiting:
        return RunReport(run, waiting="the Dagster run that started it")
    try:
        found = fetch(client, run)
    except NotFoundError:
        return RunReport(run, skipped="deleted in dbt Cloud")
    except ApiResponseError as error:
        return RunReport(run, quarantined=str(error), problems=(str(error),))
    age = now - (run.finished_at or now)
    if is_awaited(replace(found, damaged=()), age=age, patience=PATIENCE):
        return RunReport(run, waiting="its results")
    told = tell(
        found,
        observer.scope(repository),
        observer.rules,
        instance=instance,
        partition_range=owner.partition_range,
    )
    if stored is None or owner.dagster_runs:
        created = run.created_at or run.finished_at or now
        recorded = already_recorded(
            instance, run.id, since=created, dagster_run_ids=owner.dagster_run_ids
        )
    else:
        # whoever was killed at it has left its last event unsure, so histories are asked
        ours = stored.of(run.id)
        recorded = settle(instance, run.id, ours, {each.key for each in ours})
    return RunReport(
        run,
        tuple(recorded.missing(told.events)),
        told.undeclared,
        quarantined=str(found.damaged[0]) if found.damaged else None,
        problems=told.problems,
    )
