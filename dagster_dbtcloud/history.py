"""A finished dbt Cloud run as events for Dagster's event log.

It decides which runs count, fetches what they left, and renders it over what a code location
declares. It remembers nothing and writes nothing: who reads history in time is ``polling.py``, who
reads it again is ``replay.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.cloud.filters import why_not_production
from dagster_dbtcloud.cloud.models import Run, RunStatus, RunStep
from dagster_dbtcloud.dbt.run_results import Batch, RunResults
from dagster_dbtcloud.dbt.sources import FreshnessResults
from dagster_dbtcloud.events import (
    UNCHANGED,
    Declared,
    Outcome,
    OutcomeKind,
    as_log_event,
    interpret,
    interpret_freshness,
)
from dagster_dbtcloud.harvest import Harvest, harvest, harvest_lone, run_ref
from dagster_dbtcloud.partitions import of_partition
from dagster_dbtcloud.recorded import AssetEvent
from dagster_dbtcloud.specs import ENVIRONMENT, MANIFEST, UNIQUE_ID, specs_of

RunFilter = Callable[[Run], bool]
PartitionKeyFn = Callable[[Run, Mapping[str, Any]], "str | Sequence[str] | None"]

RUN_PARTS = ("trigger", "job", "run_steps")
_MOST_PARTITIONS = 1_000
"""Partitions that one run's vars may span, before they are taken for something else."""
_PARTITION_VARS = ("partition_key", "partition")
_WINDOW_VARS = (("min_date", "max_date"), ("start_date", "end_date"))

# --- which runs count ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Rules:
    """What a user decides about the history of dbt Cloud.

    ``run_filter`` keeps the runs for which it returns True. ``jobs`` and ``exclude_jobs`` hold ids
    or names. ``partition_key_fn`` gets a run and dbt's arguments of a step, and returns the
    partition (or partitions) that it built. ``count_reused`` makes materializations of what dbt
    reported as ``no-op`` or ``reused``.
    """

    run_filter: RunFilter | None = None
    jobs: tuple[int | str, ...] = ()
    exclude_jobs: tuple[int | str, ...] = ()
    partition_key_fn: PartitionKeyFn | None = None
    count_reused: bool = False

    def why_left_out(self, run: Run) -> str | None:
        """Say why a run (with its ``trigger`` and ``job``) is no part of history; None if it is."""
        if reason := why_not_production(run):
            return reason
        if self.jobs and not _is_of(run, self.jobs):
            return "not one of the jobs"
        if self.exclude_jobs and _is_of(run, self.exclude_jobs):
            return "an excluded job"
        if self.run_filter is not None and not self.run_filter(run):
            return "left out by the run filter"
        return None


def _is_of(run: Run, jobs: Collection[int | str]) -> bool:
    wanted = {str(job) for job in jobs}
    names = {str(run.job_id)} | ({run.job.name} if run.job is not None and run.job.name else set())
    return not wanted.isdisjoint(names)


# --- what a code location declares ---------------------------------------------------------------


@dataclass(frozen=True)
class Scope:
    """The assets and checks that a code location declares of one workspace."""

    declared: Declared
    parents: Mapping[dg.AssetKey, tuple[dg.AssetKey, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, repository: dg.RepositoryDefinition, digest: str, environment_id: int) -> Scope:
        """Read the specs that were built for an environment from the manifest with this digest (its
        first digits).

        None is, when the file that was given as manifest has been written anew since the code
        location was loaded: then all that were built for the environment.
        """
        assets = {id(each): each for each in repository.assets_defs_by_key.values()}
        checks = {id(each): each for each in repository.asset_checks_defs_by_key.values()}
        environment = str(environment_id)
        loaded = {
            spec.metadata[MANIFEST]
            for each in assets.values()
            for spec in each.specs
            if MANIFEST in spec.metadata and spec.metadata.get(ENVIRONMENT) == environment
        }
        digests = {digest} if digest in loaded else {digest, *loaded}

        def is_ours(metadata: Mapping[str, Any]) -> bool:
            # without an environment: dbt Cloud was not to be asked at load
            of_environment = metadata.get(ENVIRONMENT, environment) == environment
            return of_environment and metadata.get(MANIFEST) in digests

        asset_specs = [
            spec for each in assets.values() for spec in each.specs if is_ours(spec.metadata)
        ]
        named = dict(specs_of(asset_specs[0]).source_keys) if asset_specs else {}
        check_specs = [
            spec
            for each in {**assets, **checks}.values()
            for spec in each.check_specs
            if is_ours(spec.metadata) or _is_of_source(spec, named)
        ]
        upstream = {dep.asset_key for spec in asset_specs for dep in spec.deps}
        declared = Declared.from_specs(asset_specs, check_specs)
        sources = {
            unique_id: key
            for unique_id, key in named.items()
            if key in upstream or key in repository.assets_defs_by_key
        }
        return cls(
            replace(declared, source_keys=sources),
            {spec.key: tuple(dep.asset_key for dep in spec.deps) for spec in asset_specs},
        )


def _is_of_source(spec: dg.AssetCheckSpec, sources: Mapping[str, dg.AssetKey]) -> bool:
    """Whether a check that users wrote is for a source's freshness (docs/observer.md)."""
    unique_id = (spec.metadata or {}).get(UNIQUE_ID)
    return isinstance(unique_id, str) and sources.get(unique_id) == spec.asset_key


# --- from a run to events ------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What one run adds to Dagster's history.

    ``undeclared``: the nodes that ran and are not of this code location. ``problems``: sentences
    about what could not be read.
    """

    run: Run
    events: tuple[AssetEvent, ...] = ()
    undeclared: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def fetch(client: DbtCloudClient, run: Run) -> Harvest:
    """Fetch what a listed run left: one request where it ran one command, as a rule.

    Safe in threads. Raises: ApiError.
    """
    if not run.run_steps:
        found = harvest_lone(client, run)
        if found is not None:
            return found
        run = client.run(run.id, include=RUN_PARTS)
    return harvest(client, run, freshness=True)


def is_awaited(found: Harvest, *, age: timedelta, patience: timedelta) -> bool:
    """Tell whether more of a run may come: ``age`` is how long it has been waited for.

    A step that failed may have left nothing (it could not parse the project): it is waited for a
    third of the time.
    """
    if found.damaged and age < patience:
        return True
    return any(
        age < (patience if step.status == RunStatus.SUCCESS else patience / 3)
        for step in found.late
    )


def tell(
    found: Harvest,
    scope: Scope,
    rules: Rules,
    *,
    instance: dg.DagsterInstance,
    partition_range: tuple[str, str] | None = None,
) -> Told:
    """Render a run's results over what is declared, in the order in which dbt finished them.

    ``partition_range``: the first and last partition of the Dagster run that started it; without,
    partitions are found in dbt's arguments. A partitioned asset whose partition is not known gets
    an observation: a materialization would be a lie about all of its partitions.
    """
    events: list[AssetEvent] = []
    undeclared: dict[str, None] = {}
    problems = [str(error) for error in found.damaged]
    problems += [
        f"step {step.index} ({step.name}) of dbt Cloud run {found.run.id} left no results"
        for step in found.late
        if step.status == RunStatus.SUCCESS
    ]
    steps: list[tuple[RunStep, RunResults | FreshnessResults]] = [
        *((item.step, item.results) for item in found.steps),
        *((item.step, item.results) for item in found.freshness),
    ]
    for step, results in sorted(steps, key=lambda pair: pair[0].index):
        ref = run_ref(found.run, step.index, results.invocation_id)
        problems.extend(results.malformed)
        args: Mapping[str, Any] = {}
        if isinstance(results, FreshnessResults):
            said = interpret_freshness(results, scope.declared, ref)
        else:
            said = interpret(results, scope.declared, ref)
            args = results.args
        undeclared.update(dict.fromkeys(said.undeclared))
        partitions = _Partitions(found.run, args, scope, rules, partition_range)
        with dg.partition_loading_context(dynamic_partitions_store=instance):
            for outcome in _parents_first(said.outcomes, scope.parents):
                events.extend(_render(outcome, scope.declared, partitions, rules))
        problems.extend(partitions.problems)
    return Told(found.run, tuple(events), tuple(undeclared), tuple(dict.fromkeys(problems)))


def _render(
    outcome: Outcome, declared: Declared, partitions: _Partitions, rules: Rules
) -> Iterable[AssetEvent]:
    if rules.count_reused and outcome.result.status in UNCHANGED and outcome.check_key is None:
        outcome = replace(outcome, kind=OutcomeKind.MATERIALIZED)
    keys: Sequence[str | None] = (None,)
    if outcome.check_key is None and outcome.asset_key is not None:
        found = partitions.of(outcome.asset_key, outcome.result.batches)
        if found:
            keys = found
        elif found is not None and outcome.kind is OutcomeKind.MATERIALIZED:
            outcome = replace(outcome, kind=OutcomeKind.OBSERVED)
    for key in keys:
        event = as_log_event(of_partition(outcome, declared, key), partition=key)
        if event is not None:
            yield event


def _parents_first(
    outcomes: Sequence[Outcome], parents: Mapping[dg.AssetKey, tuple[dg.AssetKey, ...]]
) -> list[Outcome]:
    """Keep dbt's order, but no asset before one that it reads: clocks of warehouses differ."""
    assets = {o.asset_key: o for o in outcomes if o.check_key is None and o.asset_key is not None}
    ordered: list[Outcome] = []
    placed: set[dg.AssetKey] = set()
    for outcome in outcomes:
        if outcome.check_key is not None or outcome.asset_key is None:
            ordered.append(outcome)
            continue
        waiting = [outcome.asset_key]
        while waiting:
            key = waiting[-1]
            if key in placed:
                waiting.pop()
                continue
            before = [p for p in parents.get(key, ()) if p in assets and p not in placed]
            before = [p for p in before if p not in waiting]  # a circle is nobody's parent
            if before:
                waiting.extend(before)
            else:
                placed.add(key)
                ordered.append(assets[key])
                waiting.pop()
    return ordered


# --- partitions ----------------------------------------------------------------------------------


class _Partitions:
    """Which partitions one step built, of each asset; Dagster's dynamic partitions are loaded."""

    def __init__(
        self,
        run: Run,
        args: Mapping[str, Any],
        scope: Scope,
        rules: Rules,
        partition_range: tuple[str, str] | None,
    ) -> None:
        self._run = run
        self._args = args
        self._scope = scope
        self._rules = rules
        self._range = partition_range
        self._given: tuple[str, ...] | None = None
        self._known: dict[dg.PartitionsDefinition, tuple[str, ...]] = {}
        self.problems: list[str] = []

    def of(self, key: dg.AssetKey, batches: Sequence[Batch] = ()) -> tuple[str, ...] | None:
        """Return the partitions; none when they are not known; None when there are none to be.

        Where nobody names them, those that the batches of a microbatch model have built.
        """
        definition = self._scope.declared.partitions.get(key)
        if definition is None:
            return None
        if definition not in self._known:
            wanted = self._wanted(definition)
            known = tuple(each for each in wanted if self._has(definition, each))
            if len(known) < len(wanted):
                strange = ", ".join(repr(each) for each in wanted if each not in known)
                self.problems.append(
                    f"dbt Cloud run {self._run.id}: no partition {strange[:200]} of "
                    f"{key.to_user_string()}"
                )
            self._known[definition] = known
        return self._known[definition] or _in_batches(definition, batches)

    def _wanted(self, definition: dg.PartitionsDefinition) -> tuple[str, ...]:
        if self._range is not None:
            return self._between(definition, *self._range)
        function = self._rules.partition_key_fn
        if function is None:
            return self._from_vars(definition)
        if self._given is None:
            found = function(self._run, self._args)
            self._given = () if found is None else (found,) if isinstance(found, str) else (*found,)
        return self._given

    def _between(
        self, definition: dg.PartitionsDefinition, start: str, end: str
    ) -> tuple[str, ...]:
        if start == end or not (self._has(definition, start) and self._has(definition, end)):
            return (start,)
        return tuple(definition.get_partition_keys_in_range(dg.PartitionKeyRange(start, end)))

    def _from_vars(self, definition: dg.PartitionsDefinition) -> tuple[str, ...]:
        values = self._args.get("vars")
        values = values if isinstance(values, Mapping) else {}
        words = {str(name): str(value) for name, value in values.items() if value is not None}
        for name in _PARTITION_VARS:
            if name in words:
                return (words[name],)
        if isinstance(definition, dg.TimeWindowPartitionsDefinition):
            for first, last in _WINDOW_VARS:
                if first in words and last in words:
                    return _in_window(definition, words[first], words[last])
        known = {word for word in words.values() if self._has(definition, word)}
        return tuple(known) if len(known) == 1 else ()

    def _has(self, definition: dg.PartitionsDefinition, key: str) -> bool:
        try:
            return definition.has_partition_key(key)
        except (ValueError, dg.DagsterError):
            return False  # not even of the partitions' form


def _in_batches(definition: dg.PartitionsDefinition, batches: Sequence[Batch]) -> tuple[str, ...]:
    """Return the partitions that lie wholly in batches, oldest first: built, or failed there."""
    if not isinstance(definition, dg.TimeWindowPartitionsDefinition):
        return ()
    keys: dict[str, None] = {}
    for span in _joined(batches):
        for key in _keys_in(definition, span):
            window = definition.time_window_for_partition_key(key)
            if span.start <= window.start and window.end <= span.end:
                keys[key] = None
    return tuple(keys) if len(keys) <= _MOST_PARTITIONS else ()


def _joined(batches: Sequence[Batch]) -> list[dg.TimeWindow]:
    """Return the spans that batches cover together: an hour's batches may make a day."""
    spans: list[dg.TimeWindow] = []
    for batch in sorted(batches, key=lambda each: each.start):
        if spans and batch.start <= spans[-1].end:
            last = spans.pop()
            spans.append(dg.TimeWindow(start=last.start, end=max(last.end, batch.end)))
        else:
            spans.append(dg.TimeWindow(start=batch.start, end=batch.end))
    return spans


def _in_window(
    definition: dg.TimeWindowPartitionsDefinition, first: str, last: str
) -> tuple[str, ...]:
    """Return the partitions from ``first`` (inclusive) to ``last`` (exclusive)."""
    try:
        zone = definition.get_first_partition_window()
        tz = zone.start.tzinfo if zone is not None else None
        words = (word.replace("Z", "+00:00") for word in (first, last))  # for Python 3.10
        start, end = map(datetime.fromisoformat, words)
        start, end = (t if t.tzinfo else t.replace(tzinfo=tz) for t in (start, end))
        keys = _keys_in(definition, dg.TimeWindow(start=start, end=end))
    except (ValueError, dg.DagsterError):
        return ()
    return tuple(keys) if len(keys) <= _MOST_PARTITIONS else ()


def _keys_in(definition: dg.TimeWindowPartitionsDefinition, span: dg.TimeWindow) -> Sequence[str]:
    """Return the partitions that begin in a span, which may reach to the year 9999: Dagster would
    walk there.
    """
    first, last = definition.get_first_partition_window(), definition.get_last_partition_window()
    if first is None or last is None:
        return ()
    start, end = max(span.start, first.start), min(span.end, last.end)
    if start >= end:
        return ()
    return definition.get_partition_keys_in_time_window(dg.TimeWindow(start=start, end=end))
