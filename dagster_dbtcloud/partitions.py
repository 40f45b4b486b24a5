"""What dbt is told of the partitions of a Dagster step: vars, and the time span of microbatches.

And what dbt's batches tell of a partition. It records nothing; which partition an event carries is
the invocation's to say, or the sensor's.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, TypeGuard

import dagster as dg

from dagster_dbtcloud.context import Context, op_context
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.errors import ConfigError
from dagster_dbtcloud.events import Declared, Outcome, OutcomeKind
from dagster_dbtcloud.harvest import dbt_command

PartitionVars = Callable[[Any], Mapping[str, Any]]
"""From the step's context to dbt's vars; asked only in a step that has partitions."""

PARTITION_VARS_TAG = "dagster_dbtcloud/partition_vars"
_EVENT_TIME_COMMANDS = frozenset({"build", "run"})

_functions: dict[str, PartitionVars] = {}
"""The functions of this process's definitions, by what stands in their op tag."""


def time_window_vars(context: Context) -> dict[str, Any]:
    """Return ``min_date`` (inclusive) and ``max_date`` (exclusive) of the step's time partitions.

    They are in the time zone of the partitions: ``2026-01-31`` where the span begins and ends at
    midnight, else ``2026-01-31 18:00:00``. Empty for partitions without time.
    """
    window = time_window(context)
    if window is None:
        return {}
    whole_days = all(_is_midnight(moment) for moment in window)
    form = "%Y-%m-%d" if whole_days else "%Y-%m-%d %H:%M:%S"
    return {"min_date": window[0].strftime(form), "max_date": window[1].strftime(form)}


def time_window(context: Context) -> tuple[datetime, datetime] | None:
    """Return start and end (exclusive) of what the step's partitions span; None without time."""
    step = op_context(context)
    if not is_partitioned(step):
        return None
    definition = step.assets_def.partitions_def if step.has_assets_def else None
    parts: list[object] = [definition]
    if isinstance(definition, dg.MultiPartitionsDefinition):
        parts = [each.partitions_def for each in definition.partitions_defs]
    if not any(isinstance(part, dg.TimeWindowPartitionsDefinition) for part in parts):
        return None
    window = step.partition_time_window
    return window.start, window.end


def is_partitioned(step: dg.OpExecutionContext) -> bool:
    """Whether the step was started for a partition, or for a range of them."""
    return step.has_partition_key or step.has_partition_key_range


def partition_keys(step: dg.OpExecutionContext) -> tuple[str, ...]:
    """Return the partitions that the step was started for, all of a range; none without."""
    return tuple(step.partition_keys) if is_partitioned(step) else ()


def register(function: PartitionVars | None) -> dict[str, str]:
    """Return the op tag that leads a step of the definition to ``function`` in its own process."""
    if function is None:
        return {}
    if not callable(function):
        raise ConfigError(f"partition_vars takes a function of the context, not {function!r}.")
    named = f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"
    name, number = named, 1
    while _functions.setdefault(name, function) is not function:  # two lambdas have one name
        number += 1
        name = f"{named}#{number}"
    return {PARTITION_VARS_TAG: name}


def vars_of(context: Context, tags: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the vars for the partitions of a step, by the function that its op's tags name.

    Raises: ConfigError, when the function gives no mapping.
    """
    function, step = _functions.get(tags.get(PARTITION_VARS_TAG, "")), op_context(context)
    # a run for a partition may hold assets that have none
    if function is None or not is_partitioned(step) or step.assets_def.partitions_def is None:
        return {}
    found = function(context)
    if not isinstance(found, Mapping):
        raise ConfigError(f"partition_vars gave {found!r}, not a mapping from names to values.")
    return found


def with_event_time(
    words: Sequence[str], window: tuple[datetime, datetime] | None, microbatches: bool
) -> list[str]:
    """Return a dbt command with the span of time for which microbatch models run, in UTC.

    Only ``dbt build`` and ``dbt run`` take it (dbt 1.9 and later), so it is given only where there
    are such models; a span that the command has already stays.
    """
    command = dbt_command(shlex.join(["dbt", *words]))
    if (
        window is None
        or not microbatches
        or command not in _EVENT_TIME_COMMANDS
        or any(word.startswith(("--event-time-start", "--event-time-end")) for word in words)
    ):
        return [*words]
    start, end = (
        moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S") for moment in window
    )
    return [*words, "--event-time-start", start, "--event-time-end", end]


def has_microbatches(manifest: Manifest, unique_ids: Iterable[str]) -> bool:
    """Whether one of the nodes is an incremental model with dbt's microbatch strategy."""
    nodes = (manifest.nodes[unique_id] for unique_id in unique_ids if unique_id in manifest.nodes)
    return any(node.config.get("incremental_strategy") == "microbatch" for node in nodes)


def of_partition(outcome: Outcome, declared: Declared, partition: str | None) -> Outcome:
    """Return what became of one partition of a node: of a microbatch model that failed, a partition
    is built all the same if its own batches are.
    """
    batches = outcome.result.batches
    if outcome.kind is not OutcomeKind.FAILED or outcome.asset_key is None or partition is None:
        return outcome
    definition = declared.partitions.get(outcome.asset_key)
    if not any(batch.succeeded for batch in batches) or not _has_time(definition):
        return outcome
    window = definition.time_window_for_partition_key(partition)
    own = [each for each in batches if each.start < window.end and window.start < each.end]
    built = bool(own) and all(batch.succeeded for batch in own)
    return replace(outcome, kind=OutcomeKind.MATERIALIZED) if built else outcome


def _has_time(
    definition: dg.PartitionsDefinition | None,
) -> TypeGuard[dg.TimeWindowPartitionsDefinition | dg.MultiPartitionsDefinition]:
    if isinstance(definition, dg.MultiPartitionsDefinition):
        return definition.has_time_window_dimension
    return isinstance(definition, dg.TimeWindowPartitionsDefinition)


def _is_midnight(moment: datetime) -> bool:
    return (moment.hour, moment.minute, moment.second, moment.microsecond) == (0, 0, 0, 0)
