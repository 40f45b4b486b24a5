"""What earlier attempts of a step have left in dbt Cloud, and what is still to be done.

A retried step, or a re-executed Dagster run, finds the dbt Cloud runs of the attempts before it by
their marks. One that still goes on is followed, one that ended unseen is harvested, and of one that
failed only the failed and skipped nodes are run again. Nothing is started here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Literal

import dagster as dg

from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.models import Run
from dagster_dbtcloud.commands import for_test, read, words_of
from dagster_dbtcloud.commands import nodes_of as nodes_of_command
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.errors import ConfigError, SelectionError
from dagster_dbtcloud.events import (
    Outcome,
    OutcomeKind,
    is_failed,
)
from dagster_dbtcloud.marker import RECORDED, RUN_TAG_PREFIX, Mark, read_mark
from dagster_dbtcloud.state import WorkspaceIds

OutcomesOf = Callable[[Run], Sequence[Outcome]]
RetryMode = Literal["auto", "on", "off"]

HARVEST_WINDOW = timedelta(hours=6)
"""A success that no step has recorded is taken over by a retry if it is not older than this."""

_CLOCK_SKEW = timedelta(minutes=10)
_FAR = timedelta(days=3650)
_LOOKED_AT = 500
"""How many runs of the environment, since the first attempt, are looked at for a mark."""
_GENERATIONS = 20
"""How many re-executions of re-executions are followed back."""

_FROM_FAILURE = {
    "dagster/is_resume_retry": ("true",),
    "dagster/is_asset_resume_retry": ("true",),
    "dagster/retry_strategy": ("FROM_FAILURE", "FROM_ASSET_FAILURE"),
}
_AUTOMATIC = "dagster/retry_number"


# --- who came before -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Lineage:
    """The Dagster runs in which this step was tried, this one first, and how it is tried now.

    ``began_at`` is when the oldest of them was created. ``from_failure``: Dagster was asked to go
    on where it failed; ``automatic``: by a policy, not by a person. ``recorded`` are the dbt Cloud
    runs of which the Dagster runs before this one have all results.
    """

    dagster_run_ids: tuple[str, ...]
    began_at: datetime
    from_failure: bool
    automatic: bool
    recorded: frozenset[str] = frozenset()


def lineage(context: dg.OpExecutionContext, step_key: str, *, now: datetime) -> Lineage:
    """Return the runs of which the context's run is a re-execution, as far as the step failed.

    A run in which the step succeeded ends it: who re-executes that one wants new results.
    """
    instance, run = context.instance, context.run
    ids = [run.run_id]
    recorded: set[str] = set()
    parent_id = run.parent_run_id
    while parent_id and len(ids) <= _GENERATIONS:
        parent = instance.get_run_by_id(parent_id)
        if parent is None or not parent.is_finished or _succeeded(instance, parent_id, step_key):
            break
        ids.append(parent_id)
        recorded |= {
            tag.removeprefix(RUN_TAG_PREFIX)
            for tag, word in parent.tags.items()
            if word == RECORDED
        }
        parent_id = parent.parent_run_id
    record = instance.get_run_record_by_id(ids[-1])
    retried = context.retry_number > 0
    return Lineage(
        tuple(ids),
        record.create_timestamp if record else now - timedelta(days=1),
        from_failure=retried
        or any(run.tags.get(tag) in values for tag, values in _FROM_FAILURE.items()),
        automatic=retried or _AUTOMATIC in run.tags,
        recorded=frozenset(recorded),
    )


def _succeeded(instance: dg.DagsterInstance, run_id: str, step_key: str) -> bool:
    stats = instance.get_run_step_stats(run_id, [step_key])
    return any(each.status is not None and each.status.value == "SUCCESS" for each in stats)


def earlier_runs(
    client: DbtCloudClient, ids: WorkspaceIds, mark: Mark, line: Lineage
) -> tuple[Run, ...]:
    """Return the dbt Cloud runs that attempts of this call have started, the newest first.

    dbt Cloud's own retries of such a run belong to it, though they carry no mark.

    Raises: ApiError.
    """
    listed = client.runs(
        project_id=ids.project_id,
        environment_id=ids.environment_id,
        created_at=(line.began_at - _CLOCK_SKEW, line.began_at + _FAR),
        order_by="-id",
        include=("trigger", "job"),
    )
    found: list[Run] = []
    ours: set[int] = set()
    for run in sorted(islice(listed, _LOOKED_AT), key=lambda each: each.id):
        theirs = read_mark(run.trigger.cause if run.trigger else None)
        if run.retrying_run_id in ours or (
            theirs is not None
            and theirs.call == mark.call
            and theirs.dagster_run_id in line.dagster_run_ids
        ):
            ours.add(run.id)
            found.append(run)
    return tuple(reversed(found))


# --- what they did -------------------------------------------------------------------------------


def commands_of(run: Run) -> tuple[str, ...]:
    """Return the command lines that a listed run was triggered with."""
    steps = run.trigger.steps_override if run.trigger else None
    if steps is not None:
        return steps
    return run.job.execute_steps if run.job else ()


def shape(command: str) -> tuple[str, ...]:
    """Return what a command does, whatever it selects: its words without the selection, sorted."""
    words = words_of(command)
    return tuple(sorted(read(words).rest)) if words else (command,)


def same_work(run: Run, commands: Sequence[str]) -> bool:
    """Whether a run was told to do what ``commands`` do, whatever nodes it selected.

    A ``dbt test`` may stand beside a ``dbt build``: unit tests are run by one of their own.
    """
    theirs = {shape(command) for command in commands_of(run)}
    ours = {shape(command) for command in commands}
    return bool(theirs) and theirs <= ours | {tuple(sorted(for_test(each))) for each in ours}


def nodes_of(manifest: Manifest, run: Run) -> frozenset[str]:
    """Return the nodes that the commands of a run select, as far as the manifest can tell."""
    found: set[str] = set()
    for command in commands_of(run):
        with suppress(SelectionError):  # of another project, or with state: nobody here can tell
            found |= nodes_of_command(manifest, command) or frozenset()
    return frozenset(found)


# --- what is left --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a call does about the attempts before it.

    ``adopt``: follow or harvest this run, and start none. ``retry_of``: dbt Cloud itself can retry
    this failed run. ``remaining``: the nodes still to be run; None means all. ``settled`` are the
    results of earlier runs that stand.
    """

    adopt: Run | None = None
    retry_of: Run | None = None
    remaining: frozenset[str] | None = None
    settled: tuple[Outcome, ...] = ()
    reason: str = ""


FRESH = Plan()


def check_mode(mode: str) -> None:
    """Raise ConfigError for a word that is no RetryMode."""
    if mode not in ("auto", "on", "off"):
        raise ConfigError(f"retry={mode!r} is not one of 'auto', 'on', 'off'.")


def plan(
    *,
    earlier: Sequence[Run],
    mark: Mark,
    line: Lineage,
    mode: RetryMode,
    commands: Sequence[str],
    wanted: frozenset[str],
    can_narrow: bool,
    now: datetime,
    outcomes_of: OutcomesOf,
    covers: Callable[[Run, frozenset[str]], bool],
    log: Callable[[str], None],
) -> Plan:
    """Decide what to do after ``earlier`` runs, the newest first. Pure but for its callables.

    ``wanted`` are the nodes that the commands must run, empty when that is not known;
    ``can_narrow`` tells whether there are commands for a part of them.
    ``outcomes_of`` fetches what a finished run did; ``covers`` tells whether the commands of a run
    select all of these nodes.
    """
    compatible: list[Run] = []
    for run in reversed(earlier):
        retries = run.retrying_run_id in {each.id for each in compatible}
        if retries or same_work(run, commands):
            compatible.append(run)
        elif not run.is_complete:
            log(
                f"dbt Cloud run {run.id} of an earlier attempt still goes on, with other commands "
                f"({'; '.join(commands_of(run))}); it is left alone. {run.href or ''}"
            )
    ran = [run for run in compatible if not (run.is_cancelled and run.started_at is None)]
    for place in range(len(ran) - 1, -1, -1):
        run, before = ran[place], ran[:place]
        this_attempt = run.trigger is not None and read_mark(run.trigger.cause) == mark
        if run.is_complete and not run.is_success and not this_attempt:
            continue
        old = run.finished_at is not None and now - run.finished_at > HARVEST_WINDOW
        known = str(run.id) in line.recorded and not (line.from_failure or mode == "on")
        if run.is_complete and (old or known):
            return FRESH
        settled = _union(before, outcomes_of)[0] if wanted else {}
        same = commands_of(run) == tuple(commands)
        if same or run.retrying_run_id is not None or covers(run, wanted - settled.keys()):
            fate = "has ended meanwhile: taking its results"
            if not run.is_complete:
                fate = "still goes on: following it"
            return Plan(
                adopt=run,
                settled=tuple(settled.values()),
                reason=f"dbt Cloud run {run.id} of an earlier attempt {fate}. {run.href or ''}",
            )
        if run.is_complete:
            return FRESH
        log(
            f"dbt Cloud run {run.id} of an earlier attempt still goes on with another selection; "
            f"it is left alone. {run.href or ''}"
        )
    failures = [run for run in ran if run.is_complete]
    # Only what failed is run again where somebody has asked for it, never on a run without a past.
    if failures and (mode == "on" or (mode == "auto" and line.from_failure)):
        retriable = mode == "on" or line.automatic
        found = _after_failures(failures, commands, wanted, outcomes_of, retriable)
        if found.retry_of is not None or can_narrow:
            return found
    return FRESH


def _after_failures(
    failures: Sequence[Run],
    commands: Sequence[str],
    wanted: frozenset[str],
    outcomes_of: OutcomesOf,
    retriable: bool,
) -> Plan:
    newest = failures[-1]
    good, bad = _union(failures, outcomes_of)
    if not good:
        return FRESH  # nothing to go on from
    if wanted:
        remaining = wanted - good.keys()
    elif newest.is_error:
        remaining = bad  # dbt got to the end of what it was told
    else:
        return FRESH
    by_dbt_cloud = (
        newest.can_retry
        and retriable
        and commands_of(newest) == tuple(commands)
        and remaining == bad
    )
    if not remaining and not by_dbt_cloud:
        return FRESH  # what failed was no node
    return Plan(
        retry_of=newest if by_dbt_cloud else None,
        remaining=remaining,
        settled=tuple(good.values()),
        reason=(
            f"dbt Cloud run {newest.id} of an earlier attempt did not succeed: running again "
            f"{len(remaining)} nodes of {len(remaining | good.keys())}, those that failed or "
            "were skipped."
        ),
    )


def _union(
    runs: Iterable[Run], outcomes_of: OutcomesOf
) -> tuple[dict[str, Outcome], frozenset[str]]:
    """Return the last good outcome of each node over ``runs``, oldest first, and the bad nodes."""
    last: dict[str, Outcome] = {}
    for run in runs:
        for outcome in outcomes_of(run):
            known = last.get(outcome.unique_id)
            if known is None or outcome.kind is not OutcomeKind.SKIPPED:
                last[outcome.unique_id] = outcome
    bad = frozenset(
        node
        for node, outcome in last.items()
        if outcome.kind is OutcomeKind.SKIPPED or is_failed(outcome)
    )
    return {node: outcome for node, outcome in last.items() if node not in bad}, bad
