"""Which results of dbt Cloud runs the event log holds already.

Dagster stores a tick's events one by one and its cursor after them, and a step's as they come: who
was killed in between has stored a part. This room finds that part, and mends what is torn within
an event; it writes no event, and knows nothing of who should write the rest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import dagster as dg

from dagster_dbtcloud._dagster_private import finish_storing
from dagster_dbtcloud.events import INVOCATION_ID_TAG, RUN_ID_TAG
from dagster_dbtcloud.marker import CLAIM_TAG_PREFIX

AssetEvent = dg.AssetMaterialization | dg.AssetObservation | dg.AssetCheckEvaluation
Key = dg.AssetKey | dg.AssetCheckKey

RUNLESS = ""
"""The run id under which Dagster keeps events that belong to no Dagster run."""
SLACK = timedelta(minutes=15)
"""How far the clocks of dbt Cloud and of this deployment may be apart."""
STORING = 60.0
"""Seconds within which Dagster has stored the events of a sensor's tick, after the tick's end."""
_PLANNED_BEFORE = timedelta(days=2)
"""How long before its evaluation a check's row may have been made: when its run was planned."""
_PAGE, _CHECK_PAGE = 1_000, 100
_BEFORE_ALL = ""
_TYPES = {
    dg.DagsterEventType.ASSET_MATERIALIZATION,
    dg.DagsterEventType.ASSET_OBSERVATION,
    dg.DagsterEventType.ASSET_CHECK_EVALUATION,
}


@dataclass(frozen=True)
class Stored:
    """One stored result of a dbt Cloud run."""

    run_id: int
    key: Key
    invocation_id: str | None
    partition: str | None
    timestamp: float


@dataclass
class Recorded:
    """The stored results of one dbt Cloud run. Each answers once: a node that was built twice in a
    run, of which one event is stored, lacks the other.
    """

    _exact: Counter[tuple[Key, str | None, str | None]] = field(default_factory=Counter)
    _by_place: Counter[tuple[Key, str | None]] = field(default_factory=Counter)

    @property
    def keys(self) -> frozenset[Key]:
        """The assets and checks that have a result of this run."""
        return frozenset(key for key, _ in self._by_place)

    def __len__(self) -> int:
        return sum(self._by_place.values())

    def add(self, key: Key, *, invocation_id: str | None, partition: str | None) -> None:
        self._exact[key, partition, invocation_id] += 1
        self._by_place[key, partition] += 1

    def take(
        self, key: Key, *, invocation_id: str | None = None, partition: str | None = None
    ) -> bool:
        """Tell whether a result is stored, and use it up.

        ``invocation_id`` tells the steps of a dbt Cloud run apart. An event without one (written
        from the log, while dbt was still running) answers for any, and who asks without one takes
        what there is.
        """
        exact, place = self._exact, (key, partition)
        if not self._by_place[place]:
            return False
        choices: Iterable[str | None] = (invocation_id, None)
        if invocation_id is None:
            choices = [inv for found, part, inv in exact if (found, part) == place]
        for choice in choices:
            if exact[key, partition, choice] > 0:
                exact[key, partition, choice] -= 1
                self._by_place[place] -= 1
                return True
        return False

    def missing(self, events: Iterable[AssetEvent]) -> list[AssetEvent]:
        """Return those of ``events`` that are not stored; what is stored is used up."""
        return [
            event
            for event in events
            if not self.take(
                key_of(event), invocation_id=_invocation_of(event), partition=_partition_of(event)
            )
        ]


def key_of(event: AssetEvent) -> Key:
    """Return what the event is about: an asset, or a check."""
    return event.asset_check_key if isinstance(event, dg.AssetCheckEvaluation) else event.asset_key


def already_recorded(
    instance: dg.DagsterInstance,
    run_id: int,
    asset_keys: Collection[dg.AssetKey] | None = None,
    check_keys: Collection[dg.AssetCheckKey] | None = None,
    *,
    since: datetime,
    dagster_run_ids: Iterable[str] = (),
) -> Recorded:
    """Return what the event log holds of dbt Cloud run ``run_id``, whoever wrote it.

    ``since`` (aware) is when the dbt Cloud run was created: nothing older is looked at.
    ``dagster_run_ids`` are the Dagster runs that may have written results; what
    belongs to no Dagster run, a sensor's events, is always looked at. ``asset_keys`` and
    ``check_keys`` limit the question; None asks about all.

    Cost: one pass over those runs' events and the sensor's since then, and two queries for each
    asset (one for each check) that has something there: not for usual ticks.
    """
    start = (since - SLACK).timestamp()
    found = [
        stored
        for dagster_run_id in dict.fromkeys([*dagster_run_ids, RUNLESS])
        for stored in _back_to(instance, dagster_run_id, start)
        if stored.run_id == run_id
    ]
    wanted: set[Key] = {stored.key for stored in found}
    if asset_keys is not None or check_keys is not None:
        wanted &= {*(asset_keys or ()), *(check_keys or ())}
    return confirmed(instance, wanted, since=start).get(run_id, Recorded())


def claimed(
    instance: dg.DagsterInstance, run_id: int, dagster_run_ids: Iterable[str], *, now: datetime
) -> float:
    """Return for how many seconds yet a sensor's events of ``run_id`` may be on their way."""
    tag = f"{CLAIM_TAG_PREFIX}{run_id}"
    runs = [instance.get_run_by_id(each) for each in dagster_run_ids]
    claims = [run.tags.get(tag, "0") for run in runs if run is not None]
    newest = max((int(each) for each in claims if each.isdigit()), default=0)
    return max(0.0, newest + STORING - now.timestamp())


# --- the sensor's own questions ------------------------------------------------------------------


def mark(instance: dg.DagsterInstance, before: datetime | None = None) -> str:
    """Return a place in the events that belong to no Dagster run: their present end, or the last
    one before a time (aware).
    """
    cursor: str | None = None
    while True:
        page = instance.get_records_for_run(
            RUNLESS, cursor, _TYPES, 1 if before is None else _PAGE, ascending=False
        )
        if before is None:
            return page.cursor
        for number, record in enumerate(page.records):
            if record.event_log_entry.timestamp < before.timestamp():
                # a cursor is only had from Dagster: ask for the page that ends with this event
                return instance.get_records_for_run(
                    RUNLESS, cursor, _TYPES, number + 1, ascending=False
                ).cursor
        if not page.has_more:
            return _BEFORE_ALL
        cursor = page.cursor


def stored_since(instance: dg.DagsterInstance, start: str) -> list[Stored]:
    """Return the results of dbt Cloud runs that were written outside of Dagster runs since a mark,
    oldest first. One pass over the events since then.
    """
    found: list[Stored] = []
    cursor: str | None = start or None
    while True:
        page = instance.get_records_for_run(RUNLESS, cursor, _TYPES, _PAGE, ascending=True)
        for record in page.records:
            stored = _read(record.event_log_entry)
            if stored is not None:
                found.append(stored)
        if not page.has_more:
            return found
        cursor = page.cursor


def settle(
    instance: dg.DagsterInstance,
    run_id: int,
    stored: Iterable[Stored],
    doubtful: Collection[Key],
) -> Recorded:
    """Return what is recorded of a run, of which ``stored`` was found in the log.

    ``doubtful`` are the assets and checks that a tick wrote which did not live to its end: their
    own histories are asked, the others are taken as found.
    """
    ours = [each for each in stored if each.run_id == run_id]
    if not ours:
        return Recorded()
    since = min(each.timestamp for each in ours)
    recorded = confirmed(instance, doubtful, since=since).get(run_id, Recorded())
    for each in ours:
        if each.key not in doubtful:
            recorded.add(each.key, invocation_id=each.invocation_id, partition=each.partition)
    return recorded


def confirmed(
    instance: dg.DagsterInstance, keys: Iterable[Key], *, since: float
) -> dict[int, Recorded]:
    """Return what the histories of ``keys`` themselves hold since a timestamp, by dbt Cloud run.

    An event is first written to its run's log and then to the history of its asset or check, which
    is what users see; who was killed between the two has left it out of the latter. So this asks
    each history: two queries for an asset, one for a check.
    """
    found: defaultdict[int, Recorded] = defaultdict(Recorded)
    for key in keys:
        for entry in _history(instance, key, since - 1.0):
            stored = _read(entry)
            if stored is not None:
                found[stored.run_id].add(
                    stored.key, invocation_id=stored.invocation_id, partition=stored.partition
                )
    return dict(found)


def mend(instance: dg.DagsterInstance, keys: Iterable[Key]) -> list[dg.AssetKey]:
    """Let each asset's page show its newest materialization; return those that did not.

    For the assets that a killed process wrote last: PostgreSQL stores an event before it notes on
    the asset that this is the newest one. Two queries for each.
    """
    torn = []
    for key in dict.fromkeys(keys):
        if isinstance(key, dg.AssetCheckKey):
            continue
        newest = instance.fetch_materializations(key, limit=1).records
        shown = instance.get_latest_materialization_event(key)
        if newest and (shown is None or shown.timestamp < newest[0].timestamp):
            finish_storing(instance, newest[0])
            torn.append(key)
    return torn


# --- reading the event log -----------------------------------------------------------------------


def _back_to(instance: dg.DagsterInstance, dagster_run_id: str, start: float) -> Iterator[Stored]:
    """Walk a log from its end back to the timestamp ``start``."""
    cursor: str | None = None
    while True:
        page = instance.get_records_for_run(dagster_run_id, cursor, _TYPES, _PAGE, ascending=False)
        for record in page.records:
            if record.event_log_entry.timestamp < start:
                return
            stored = _read(record.event_log_entry)
            if stored is not None:
                yield stored
        if not page.has_more:
            return
        cursor = page.cursor


def _history(instance: dg.DagsterInstance, key: Key, since: float) -> Iterator[dg.EventLogEntry]:
    if isinstance(key, dg.AssetCheckKey):
        storage, before = instance.event_log_storage, None
        while True:
            rows = storage.get_asset_check_execution_history(key, limit=_CHECK_PAGE, cursor=before)
            for row in rows:
                if row.create_timestamp < since - _PLANNED_BEFORE.total_seconds():
                    return
                if row.event is not None and row.event.timestamp >= since:
                    yield row.event
            if len(rows) < _CHECK_PAGE:
                return
            before = rows[-1].id
    for fetch in (instance.fetch_materializations, instance.fetch_observations):
        wanted = dg.AssetRecordsFilter(asset_key=key, after_timestamp=since)
        cursor = None
        while True:
            page = fetch(wanted, limit=_PAGE, cursor=cursor)
            for record in page.records:
                yield record.event_log_entry
            if not page.has_more:
                break
            cursor = page.cursor


def _read(entry: dg.EventLogEntry) -> Stored | None:
    """Return the event if it is a result of a dbt Cloud run."""
    event = _event_of(entry)
    run_id = None if event is None else _value(event, "dbt_cloud_run_id", RUN_ID_TAG)
    if event is None or run_id is None or not run_id.isdigit():
        return None
    return Stored(
        int(run_id), key_of(event), _invocation_of(event), _partition_of(event), entry.timestamp
    )


def _event_of(entry: dg.EventLogEntry) -> AssetEvent | None:
    event = entry.dagster_event
    if event is None:
        return None
    data = event.event_specific_data
    if isinstance(data, dg.AssetCheckEvaluation):
        return data
    for name in ("materialization", "asset_observation"):
        found = getattr(data, name, None)
        if isinstance(found, (dg.AssetMaterialization, dg.AssetObservation)):
            return found
    return None


def _partition_of(event: AssetEvent) -> str | None:
    partition = getattr(event, "partition", None)  # checks have none before Dagster 1.13
    return partition if isinstance(partition, str) else None


def _invocation_of(event: AssetEvent) -> str | None:
    return _value(event, "invocation_id", INVOCATION_ID_TAG)


def _value(event: AssetEvent, name: str, tag: str) -> str | None:
    """Return a word that ``events`` put on the event; check evaluations have no tags."""
    tags = None if isinstance(event, dg.AssetCheckEvaluation) else event.tags
    if tags and tag in tags:
        return tags[tag]
    held = event.metadata.get(name)
    return None if held is None or held.value is None else str(held.value)
