"""One tick of the polling sensor: from a cursor to events and the cursor after them.

Events and cursor leave together at whatever run the tick has to stop. Dagster stores the events one
by one and the cursor after them, so a killed tick leaves events that no cursor knows: the next one
finds them in the event log and leaves them out. It triggers nothing, and stores no event itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from itertools import chain, groupby, islice

import dagster as dg

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import BrokenRun, Run, RunStatus
from dagster_dbtcloud.cursor import (
    MOST_DOUBTED,
    OVERLAP,
    Cursor,
    Doubt,
    Seal,
)
from dagster_dbtcloud.errors import (
    ApiConnectionError,
    ApiError,
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
)
from dagster_dbtcloud.harvest import Harvest
from dagster_dbtcloud.history import RUN_PARTS, Rules, Scope, fetch, is_awaited, tell
from dagster_dbtcloud.ownership import Ownership, claim, ownership
from dagster_dbtcloud.recorded import (
    RUNLESS,
    SLACK,
    AssetEvent,
    Recorded,
    Stored,
    already_recorded,
    confirmed,
    key_of,
    mark,
    mend,
    stored_since,
)
from dagster_dbtcloud.state import WorkspaceIds

PATIENCE = timedelta(minutes=30)
"""How long a run's results may be missing, damaged or refused before the run is given up."""
OUTAGE_PATIENCE = timedelta(hours=6)
"""The same, while dbt Cloud fails over this run alone (5xx, no answer)."""
DOUBT_LASTS = timedelta(hours=1)
"""How long runs of a killed tick are doubted that dbt Cloud does not list any more."""
MAX_EVENTS = 2_500
"""Events of one tick at most: at about 80 a second Dagster stores them in half a minute."""
_OFTEN = timedelta(minutes=2)
"""How long a run that is waited for is looked at in each tick; ``_RARER``: from then on, the next
look is after a quarter of the time that it has been waited for."""
_RARER = 1.25
AT_ONCE = 8
"""Runs whose artifacts are fetched side by side."""
_OUTAGE = 3
"""New runs in a row over which dbt Cloud fails, before it is taken for an outage. It may have lost
what they left, so those that ended long ago do not count: nobody is stuck at them."""
_FAR = timedelta(days=3650)
_FINISHED = (RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.CANCELLED)


@dataclass(frozen=True)
class RunReport:
    """What one dbt Cloud run adds to Dagster's history.

    ``skipped`` says why it adds nothing; ``waiting``, for what it is met again; ``quarantined``,
    why it is given up; ``of``, when its events come in parts, how many there are left in all.
    """

    run: Run
    events: tuple[AssetEvent, ...] = ()
    undeclared: tuple[str, ...] = ()
    skipped: str | None = None
    waiting: str | None = None
    quarantined: str | None = None
    problems: tuple[str, ...] = ()
    of: int | None = None


@dataclass(frozen=True)
class Tick:
    """What a tick came to. ``complete``: it met all there was to meet."""

    cursor: Cursor
    reports: tuple[RunReport, ...] = ()
    outage: ApiError | None = None
    complete: bool = False

    @property
    def events(self) -> list[AssetEvent]:
        return [event for report in self.reports for event in report.events]


@dataclass
class _Item:
    """A run under way from the list to its report."""

    run: Run
    since: datetime
    known: bool = False
    """Whether it was waited for, or doubted, before this tick."""
    verdict: RunReport | None = None
    owner: Ownership = field(default_factory=Ownership)
    found: Future[Harvest] | None = None


@dataclass
class Poll:
    """All that one tick needs to know, and what it remembers while it lasts."""

    client: DbtCloudClient
    ids: WorkspaceIds
    scope: Callable[[], Scope]
    clock: Clock
    instance: dg.DagsterInstance
    rules: Rules = field(default_factory=Rules)
    max_events: int = MAX_EVENTS
    woken: frozenset[int] = frozenset()
    _stored: list[Stored] | None = None
    _confirmed: dict[int, Recorded] | None = None
    _flying: list[Future[Harvest]] = field(default_factory=list)
    _left: dict[int, Ownership] = field(default_factory=dict)
    """The runs that Dagster runs have left unrecorded, by dbt Cloud's id."""
    _room: int = 0
    _size: int = 0

    def tick(self, cursor: Cursor, *, deadline: float) -> Tick:
        """Report the runs that are new since ``cursor``; oldest first.

        ``deadline`` is a time of the monotonic clock after which no further run is begun.

        Raises: AuthenticationError, PermissionDeniedError, when nothing could be read for them.
        """
        here = mark(self.instance)
        cursor = self._with_doubts(cursor)
        reports: list[RunReport] = []
        failed: list[tuple[_Item, ApiError]] = []
        outage: ApiError | None = None
        complete = False
        self._room = self.max_events
        pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="dbt-cloud")
        try:
            cursor, listed = self._new(cursor, deadline)
            for item in self._items(cursor, listed, pool, deadline):
                if item is None:
                    complete = True
                    break
                try:
                    report = self._report(item, cursor, deadline)
                except (ServerError, ApiConnectionError) as error:
                    failed.append((item, error))
                    if sum(self._is_new(each) for each, _ in failed) >= _OUTAGE:
                        raise
                    continue
                cursor = self._postpone(failed, reports, cursor)
                if report.waiting and not cursor.can_await(item.run.id):
                    break  # until others need not be waited for any more
                if len(report.events) > self._room:
                    if reports and self._room < self.max_events:
                        break  # the next tick begins with it
                    report = replace(
                        report, events=report.events[: self._room], of=len(report.events)
                    )
                    cursor = self._in_part(item.run, cursor, here)
                    reports.append(report)
                    break
                reports.append(report)
                cursor = self._after(item, report, cursor)
                self._room -= len(report.events)
                self._size = len(report.events) or self._size
                if self._room <= 0 or self.clock.monotonic() > deadline:
                    break
            cursor = self._postpone(failed, reports, cursor)
        except (AuthenticationError, PermissionDeniedError) as error:
            if not reports:
                raise  # the user has to act: let the tick fail visibly
            outage = error
        except ApiError as error:
            outage = error
        finally:
            self._land(pool, deadline)
        cursor = self._contested(reports, cursor)
        wrote = sum(len(report.events) for report in reports)
        if outage is None:
            cursor = replace(cursor, polled_at=self.clock.now())
        cursor = replace(self._settled(cursor, complete), mark=here, wrote=wrote)
        return Tick(cursor, tuple(reports), outage, complete)

    def _contested(self, reports: list[RunReport], cursor: Cursor) -> Cursor:
        """Leave to a Dagster run what it may record itself since this tick has begun."""
        now = self.clock.now()
        for number, report in enumerate(reports):
            run, owner = report.run, self._left.get(report.run.id)
            if owner is None or not report.events:
                continue
            owner = claim(self.instance, run, owner, now=now)
            if owner.recorded:
                reports[number] = RunReport(run, skipped=_RECORDED)
            elif owner.waiting:
                reports[number] = RunReport(run, waiting=_OWNED)
                cursor = replace(cursor, waiting={**cursor.waiting, run.id: now})
        return cursor

    def _land(self, pool: ThreadPoolExecutor, deadline: float) -> None:
        """Let requests that are under way end, so far as there is time: their client is closed."""
        for future in self._flying:
            future.cancel()
        wait(self._flying, timeout=max(0.1, deadline - self.clock.monotonic()))
        pool.shutdown(wait=False)

    # --- which runs

    def _items(
        self, cursor: Cursor, listed: Iterator[Run], pool: ThreadPoolExecutor, deadline: float
    ) -> Iterator[_Item | None]:
        """Yield what has to be dealt with, artifacts on their way; None when that was all."""
        now = self.clock.now()
        first = list(islice(listed, 1))  # is dbt Cloud there at all?
        new = (self._judged(_Item(run, now)) for run in chain(first, listed))
        window: list[_Item] = []
        for item in chain(self._waiting(cursor, pool), new):
            if item.verdict is None and item.found is None:
                item.found = pool.submit(fetch, self.client, item.run)
                self._flying.append(item.found)
            window.append(item)
            # no more artifacts are fetched ahead than this tick has room for
            while len(window) > AT_ONCE or (window and len(window) * self._size > self._room):
                yield window.pop(0)
                if self.clock.monotonic() > deadline:
                    return
        yield from window
        if self.clock.monotonic() <= deadline:
            yield None

    def _listed(self, since: datetime) -> Iterator[Run]:
        listed = self.client.runs(
            project_id=self.ids.project_id,
            environment_id=self.ids.environment_id,
            status_in=_FINISHED,
            finished_at=(since, self.clock.now() + _FAR),
            order_by="finished_at",
            include=("trigger", "job"),
            tolerant=True,
        )
        return (run for run in listed if self._is_ours(run))

    def _is_ours(self, run: Run) -> bool:
        """Whether a run is of our environment; one that cannot be read may be."""
        return run.project_id in (None, self.ids.project_id) and run.environment_id in (
            None,
            self.ids.environment_id,
        )

    def _waiting(self, cursor: Cursor, pool: ThreadPoolExecutor) -> Iterator[_Item]:
        asked: list[tuple[int, datetime, Future[Run]]] = []
        now = self.clock.now()
        for run_id, since in sorted(cursor.waiting.items(), key=lambda pair: (pair[1], pair[0])):
            run = Run(id=run_id)
            # with a time: a worker that vanished is not waited for for ever
            ended = Run(id=run_id, finished_at=since)
            owner = ownership(self.instance, ended, now=now)
            if owner.waiting:
                yield _Item(run, since, verdict=RunReport(run, waiting=_OWNED))
            elif not (owner.dagster_runs or _is_due(since, cursor.polled_at, now)):
                yield _Item(run, since, verdict=RunReport(run, waiting=_RESULTS))
            else:
                asked.append((run_id, since, pool.submit(self._whole, run_id)))
        for run_id, since, answer in asked:
            item = _Item(Run(id=run_id), since, known=True)
            try:
                item.run = answer.result()
            except ApiError as error:
                failed: Future[Harvest] = Future()
                failed.set_exception(error)
                item.found = failed
                yield item
                continue
            yield self._judged(item)

    def _whole(self, run_id: int) -> Run:
        return self.client.run(run_id, include=RUN_PARTS)

    def _new(self, cursor: Cursor, deadline: float) -> tuple[Cursor, Iterator[Run]]:
        """Return the runs that the cursor does not know, oldest first."""
        if not cursor.seals:
            return cursor, self._unknown(cursor, cursor.since, frozenset(), deadline)
        cursor, strangers = self._unsealed(cursor)
        since = cursor.since
        if strangers == frozenset() and cursor.seals:
            since = cursor.seals[-1].high[0]  # all before it was met
        return cursor, self._unknown(cursor, since, strangers or frozenset(), deadline)

    def _unknown(
        self, cursor: Cursor, since: datetime, strangers: frozenset[int], deadline: float
    ) -> Iterator[Run]:
        met: set[int] = set()
        for _, together in groupby(self._listed(since), key=lambda run: run.finished_at):
            # of one finish time; the order that dbt Cloud gives them is not always the same
            for run in sorted(together, key=lambda run: run.id):
                met.add(run.id)
                if run.id in strangers or not _is_known(run, cursor):
                    yield run
            if self.clock.monotonic() > deadline:
                return
        for run_id in sorted(self.woken - met):
            if cursor.knows(run_id):
                continue
            try:
                run = self._whole(run_id)
            except ApiError:
                continue  # the list will tell of it
            recent = run.finished_at is not None and (
                run.finished_at >= cursor.finished_at - OVERLAP
            )
            if run.is_complete and recent and self._is_ours(run) and not _is_known(run, cursor):
                yield run

    def _unsealed(self, cursor: Cursor) -> tuple[Cursor, frozenset[int] | None]:
        """Compare the seals with dbt Cloud's list.

        Returns the cursor without the seals that do not fit, and the runs up to the last seal that
        were not met; None when those cannot be told one by one.
        """
        listed: dict[Seal, set[int]] = {seal: set() for seal in cursor.seals}
        last, strangers = cursor.seals[-1].high[0], set[int]()
        for run in self._listed(cursor.since):
            if run.finished_at is None:
                continue  # it cannot be read, and is known by its id alone
            if run.finished_at > last:
                break
            seal = cursor.seal_over((run.finished_at, run.id))
            if seal is not None:
                listed[seal].add(run.id)
            elif not cursor.knows(run.id):
                strangers.add(run.id)
        broken = []
        for seal, run_ids in listed.items():
            found = seal.strangers(run_ids)
            if found is None:
                broken.append(seal)
            else:
                strangers |= found
        if not broken:
            return cursor, frozenset(strangers)
        # several runs were listed late, or deleted: the histories are asked about all of them
        before = broken[0].low[0] - SLACK
        doubt = cursor.doubt or Doubt("", until=self.clock.now() + DOUBT_LASTS)
        if cursor.doubt and (
            stored := stored_since(self.instance, self._sound(doubt.mark, cursor))
        ):
            oldest = datetime.fromtimestamp(stored[0].timestamp - 1, tz=timezone.utc)
            before = min(before, oldest)
        doubt = replace(doubt, mark=mark(self.instance, before=before), runs=None)
        return replace(cursor.without(broken), doubt=doubt), None

    def _judged(self, item: _Item) -> _Item:
        """Decide what needs no artifacts."""
        run = item.run
        if isinstance(run, BrokenRun):
            item.verdict = self._patient(item, run.fault)
            return item
        try:
            reason = self.rules.why_left_out(run)
        except Exception as error:  # noqa: BLE001 - the user's function: one run's matter
            item.verdict = self._patient(item, f"the run filter raised {error!r}")
            return item
        if reason is not None:
            item.verdict = RunReport(run, skipped=reason)
            return item
        item.owner = ownership(self.instance, run, now=self.clock.now())
        if item.owner.recorded:
            item.verdict = RunReport(run, skipped=_RECORDED)
        elif item.owner.waiting:
            item.verdict = RunReport(run, waiting=_OWNED)
        elif item.owner.dagster_runs:
            self._left[run.id] = item.owner
        return item

    # --- what they tell

    def _report(self, item: _Item, cursor: Cursor, deadline: float) -> RunReport:
        if item.verdict is not None:
            return item.verdict
        assert item.found is not None  # noqa: S101 - one of the two is there
        try:
            left = max(0.1, deadline - self.clock.monotonic())
            found = item.found.result(timeout=left)
        except (ServerError, ApiConnectionError, AuthenticationError, RateLimitedError):
            raise
        except NotFoundError:
            return RunReport(item.run, skipped="deleted in dbt Cloud")
        except ApiError as error:
            return self._patient(item, str(error))
        except FutureTimeout as slow:
            raise ApiConnectionError(
                f"dbt Cloud gave no answer about run {item.run.id} within this tick's time",
                method="GET",
                url=self.client.access_url,
                sent=True,
            ) from slow
        run = found.run
        age = self.clock.now() - item.since
        if is_awaited(found, age=age, patience=PATIENCE):
            return RunReport(run, waiting=_RESULTS)
        try:
            told = tell(
                found,
                self.scope(),
                self.rules,
                instance=self.instance,
                partition_range=item.owner.partition_range,
            )
        except Exception as error:  # noqa: BLE001 - the user's partition function: one run's matter
            return self._patient(item, f"its results could not be told: {error!r}")
        events = self._missing(item, run, told.events, cursor)
        return RunReport(
            run,
            tuple(events),
            told.undeclared,
            quarantined=str(found.damaged[0]) if found.damaged else None,
            problems=told.problems,
        )

    def _patient(self, item: _Item, fault: str) -> RunReport:
        """Wait for a run that cannot be read, or give it up when that has lasted."""
        if self.clock.now() - item.since < PATIENCE:
            return RunReport(item.run, waiting=_RESULTS, problems=(fault,))
        return RunReport(item.run, quarantined=fault, problems=(fault,))

    def _is_new(self, item: _Item) -> bool:
        ended = item.run.finished_at
        return not item.known and ended is not None and self.clock.now() - ended < PATIENCE

    def _postpone(
        self,
        failed: list[tuple[_Item, ApiError]],
        reports: list[RunReport],
        cursor: Cursor,
    ) -> Cursor:
        """Go past the runs over which dbt Cloud failed, while it answered about others."""
        for item, error in failed:
            if self.clock.now() - item.since < OUTAGE_PATIENCE:
                report = RunReport(item.run, waiting=_RESULTS, problems=(str(error),))
            else:
                report = RunReport(item.run, quarantined=str(error), problems=(str(error),))
            reports.append(report)
            cursor = self._after(item, report, cursor)
        failed.clear()
        return cursor

    def _after(self, item: _Item, report: RunReport, cursor: Cursor) -> Cursor:
        run, now = report.run, self.clock.now()
        finished_at = run.finished_at or item.run.finished_at
        if report.waiting:
            return cursor.awaiting(run.id, finished_at, item.since, now=now)
        cursor = cursor.after(run.id, finished_at, now=now)
        if cursor.doubt is not None:
            doubt = cursor.doubt
            runs = None if doubt.runs is None else doubt.runs - {run.id}
            cursor = replace(
                cursor, doubt=replace(doubt, runs=runs, in_part=doubt.in_part - {run.id})
            )
        return cursor.giving_up(run.id, report.quarantined) if report.quarantined else cursor

    # --- what is stored already

    def _with_doubts(self, cursor: Cursor) -> Cursor:
        """Return the cursor with the runs that were written behind its back."""
        now = self.clock.now()
        start, count = self._sound(cursor.mark, cursor), cursor.wrote
        if start != cursor.mark:
            count = 0
        stored = stored_since(self.instance, start)[count:]
        if stored:
            declared = self.scope().declared
            ours = {*declared.asset_keys.values(), *declared.check_keys.values()}
            ours |= {*declared.source_keys.values()}
            stored = [each for each in stored if each.key in ours]
        if not stored:
            return cursor
        mend(self.instance, (each.key for each in stored))
        fresh = frozenset(each.run_id for each in stored)
        old = cursor.doubt or Doubt(start, until=now + DOUBT_LASTS)
        runs = None if old.runs is None else old.runs | fresh
        if runs is not None and len(runs) > MOST_DOUBTED:
            runs = None
        return replace(cursor, doubt=replace(old, runs=runs))

    def _sound(self, start: str | None, cursor: Cursor) -> str:
        """Return a place in the event log; by time, if Dagster does not take the one given."""
        if start is not None:
            try:
                self.instance.get_records_for_run(RUNLESS, start or None, limit=1, ascending=True)
            except Exception:  # noqa: BLE001, S110 - of another storage, whatever error it makes
                pass
            else:
                return start
        return mark(self.instance, before=cursor.finished_at - OVERLAP - SLACK)

    def _settled(self, cursor: Cursor, complete: bool) -> Cursor:
        """Return the cursor without doubts that have been answered, or that nobody raises again."""
        doubt = cursor.doubt
        if doubt is None:
            return cursor
        if complete and self.clock.now() > doubt.until and not doubt.in_part:
            return replace(cursor, doubt=None)
        return (
            cursor
            if doubt.runs is None or doubt.runs or doubt.in_part
            else replace(cursor, doubt=None)
        )

    def _in_part(self, run: Run, cursor: Cursor, here: str) -> Cursor:
        doubt = cursor.doubt or Doubt(here, until=self.clock.now() + DOUBT_LASTS)
        return replace(cursor, doubt=replace(doubt, in_part=doubt.in_part | {run.id}))

    def _missing(
        self, item: _Item, run: Run, events: tuple[AssetEvent, ...], cursor: Cursor
    ) -> list[AssetEvent]:
        """Return the events that are not in the event log."""
        if not events:
            return []
        created = run.created_at or run.finished_at or self.clock.now()
        keys = {key_of(event) for event in events}
        if item.owner.dagster_runs:
            recorded = already_recorded(
                self.instance,
                run.id,
                since=created,
                dagster_run_ids=item.owner.dagster_run_ids,
            )
        elif cursor.doubt is not None and cursor.doubt.covers(run.id):
            recorded = self._doubted(run.id, cursor, cursor.doubt)
        elif item.known:  # somebody may have replayed it meanwhile
            since = (created - SLACK).timestamp()
            recorded = confirmed(self.instance, keys, since=since).get(run.id, Recorded())
        else:
            return list(events)
        return recorded.missing(events)

    def _doubted(self, run_id: int, cursor: Cursor, doubt: Doubt) -> Recorded:
        if self._stored is None:
            self._stored = stored_since(self.instance, self._sound(doubt.mark, cursor))
        if doubt.runs is not None and run_id not in doubt.runs:  # in parts, and no tick was killed
            recorded = Recorded()
            for each in self._stored:
                if each.run_id == run_id:
                    recorded.add(
                        each.key, invocation_id=each.invocation_id, partition=each.partition
                    )
            return recorded
        if self._confirmed is None:
            stored = [each for each in self._stored if doubt.covers(each.run_id)]
            since = min((each.timestamp for each in stored), default=0.0)
            self._confirmed = confirmed(self.instance, {each.key for each in stored}, since=since)
        return self._confirmed.get(run_id, Recorded())


def _is_due(since: datetime, polled_at: datetime | None, now: datetime) -> bool:
    """Whether a run that is waited for is looked at: the longer it has been, the more rarely, so
    that a hundred damaged ones leave time for the others.
    """
    if polled_at is None or now - since < _OFTEN:
        return True
    before, age = polled_at - since, now - since
    looks = [int(math.log(max(1.0, time.total_seconds()), _RARER)) for time in (before, age)]
    is_over = any(before < patience <= age for patience in (PATIENCE, OUTAGE_PATIENCE))
    return looks[0] != looks[1] or is_over


def _is_known(run: Run, cursor: Cursor) -> bool:
    if cursor.knows(run.id):
        return True
    return run.finished_at is not None and cursor.seal_over((run.finished_at, run.id)) is not None


_RECORDED = "recorded by the Dagster step that started it"
_OWNED = "the Dagster run that started it"
_RESULTS = "its results"
