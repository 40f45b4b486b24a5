"""Who records a dbt Cloud run: a Dagster step of this deployment, or the sensor.

It reads Dagster's runs and decides; what is stored of the run already is in ``recorded.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from dagster_dbtcloud.cloud.models import Run
from dagster_dbtcloud.marker import (
    CLAIM_TAG_PREFIX,
    RECORDED,
    RUN_TAG_PREFIX,
    STARTED,
    dagster_run_of,
)

OWNER_PATIENCE = timedelta(hours=24)
"""How long after a dbt Cloud run's end a Dagster run that is not over may still record it. A worker
that was killed without run monitoring stays "started" for ever."""
RETRY_PATIENCE = timedelta(minutes=30)
"""How long after the end of a Dagster run the retry that it announced may take to appear."""

PARTITION_TAG = "dagster/partition"
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
_PARENT_TAG = "dagster/parent_run_id"
_WILL_RETRY_TAG = "dagster/will_retry"
_RETRIED_BY_TAG = "dagster/auto_retry_run_id"
_GENERATIONS = 20


@dataclass(frozen=True)
class Ownership:
    """The Dagster runs that started or adopted a dbt Cloud run, oldest first.

    ``recorded``: one of them has all its results. ``waiting``: one of them may still record it.
    With neither, what is not in the event log already is the sensor's to record.
    """

    dagster_runs: tuple[dg.DagsterRun, ...] = ()
    recorded: bool = False
    waiting: bool = False

    @property
    def dagster_run_ids(self) -> tuple[str, ...]:
        return tuple(run.run_id for run in self.dagster_runs)

    @property
    def partition_range(self) -> tuple[str, str] | None:
        """The first and last partition that the Dagster run was started for; the same, for one."""
        for run in self.dagster_runs:
            start, end = (run.tags.get(tag) for tag in RANGE_TAGS)
            if start is not None and end is not None:
                return start, end
            if (key := run.tags.get(PARTITION_TAG)) is not None:
                return key, key
        return None


def ownership(instance: dg.DagsterInstance, run: Run, *, now: datetime) -> Ownership:
    """Find the Dagster runs that watch or watched ``run`` (with its ``trigger``).

    They are the one that its cause names, those that bear its tag, and the retries of either.
    Two small queries for a run that Dagster did not start.
    """
    tag = f"{RUN_TAG_PREFIX}{run.id}"
    found = {
        each.run_id: each
        for each in instance.get_runs(filters=dg.RunsFilter(tags={tag: [STARTED, RECORDED]}))
    }
    named = dagster_run_of(run.trigger.cause if run.trigger else None)
    if named is not None and named not in found:
        started_by = instance.get_run_by_id(named)
        if started_by is not None:
            found[named] = started_by
    if not found:
        return Ownership()
    runs = tuple(found.values())
    if any(each.tags.get(tag) == RECORDED for each in runs):
        return Ownership(runs, recorded=True)
    ended = run.finished_at or now
    patient = now - ended < OWNER_PATIENCE
    return Ownership(runs, waiting=patient and _may_still_record(instance, runs, now))


def claim(instance: dg.DagsterInstance, run: Run, owner: Ownership, *, now: datetime) -> Ownership:
    """Tell the Dagster runs that the sensor records ``run``, then look again who may.

    Either a retry that has come meanwhile is seen here, or it sees the claim and waits until what
    the sensor gave away is stored (``recorded.claimed``).
    """
    tag = f"{CLAIM_TAG_PREFIX}{run.id}"
    for each in owner.dagster_runs:
        instance.add_run_tags(each.run_id, {tag: f"{now.timestamp():.0f}"})
    found = ownership(instance, run, now=now)
    if found.waiting or found.recorded:
        for each in owner.dagster_runs:
            instance.add_run_tags(each.run_id, {tag: "0"})
    return found


def _may_still_record(
    instance: dg.DagsterInstance, runs: Iterable[dg.DagsterRun], now: datetime
) -> bool:
    generation = list(runs)
    seen = {each.run_id for each in generation}
    for _ in range(_GENERATIONS):
        if any(not each.is_finished for each in generation):
            return True
        children: list[dg.DagsterRun] = []
        for each in generation:
            born = instance.get_runs(filters=dg.RunsFilter(tags={_PARENT_TAG: each.run_id}))
            if not born and _announces_a_retry(instance, each, now):
                return True
            children += [child for child in born if child.run_id not in seen]
        seen |= {each.run_id for each in children}
        if not children:
            return False
        generation = children
    return False


def _announces_a_retry(instance: dg.DagsterInstance, run: dg.DagsterRun, now: datetime) -> bool:
    if run.tags.get(_WILL_RETRY_TAG, "").lower() != "true" or _RETRIED_BY_TAG in run.tags:
        return False
    record = instance.get_run_record_by_id(run.run_id)
    ended = record.end_time if record is not None else None
    return ended is None or now.timestamp() - ended < RETRY_PATIENCE.total_seconds()
