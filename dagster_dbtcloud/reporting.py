"""How a step hands its results to Dagster: as outputs where steps wait for them, else as events.

Dagster's cost of an output grows with the outputs of its step: 3,000 of them take minutes. An event
costs the same each, and shows in the event log, the UI and automation like the event that Dagster
makes of an output, with what this module adds to it. What happened is said in ``events.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from weakref import WeakKeyDictionary

import dagster as dg

from dagster_dbtcloud.events import Outcome, OutcomeKind, as_log_event, as_step_result

Key = dg.AssetKey | dg.AssetCheckKey
StepEvent = (
    dg.MaterializeResult[Any]
    | dg.AssetCheckResult
    | dg.AssetMaterialization
    | dg.AssetCheckEvaluation
    | dg.AssetObservation
)

# The tags by which Dagster knows what an asset was made from (its docs: "Asset versioning").
_CODE_VERSION = "dagster/code_version"
_DATA_VERSION = "dagster/data_version"
_INPUT_VERSION = "dagster/input_data_version"
_INPUT_EVENT = "dagster/input_event_pointer"
_NO_EVENT = "NULL"
_NO_VERSION = "INITIAL"
"""The data version of what was never given one."""
_RECORDS = 100
"""How many assets are looked up in one query, as Dagster itself does."""

_given: WeakKeyDictionary[object, set[Key | None]] = WeakKeyDictionary()
"""What each attempt of a step has given Dagster as outputs: it takes one of a name."""


def consumed_outputs(context: dg.OpExecutionContext) -> frozenset[Key]:
    """Return the step's assets, and its blocking checks, that another step of this run needs, and
    what Dagster itself demands as an output: checks of a definition without ``can_subset``.

    Of a step inside a graph all are returned: who needs them is not told there.
    """
    assets = context.assets_def
    keys: dict[str, Key] = {
        **assets.keys_by_output_name,
        **{name: spec.key for name, spec in assets.check_specs_by_output_name.items()},
    }
    if context.node_handle.parent is not None:
        return frozenset(keys.values())
    running = context.run.step_keys_to_execute
    used = {
        source.output
        for node, inputs in context.job_def.graph.dependencies.items()
        if running is None or (node.alias or node.name) in running
        for dependency in inputs.values()
        for source in dependency.get_node_dependencies()
        if source.node == context.node_handle.name
    }
    # Dagster gives what has no value by itself
    used |= {
        o.name for o in context.op_def.output_defs if not (o.optional or o.dagster_type.is_nothing)
    }
    return frozenset(key for name, key in keys.items() if name in used)


class Handover:
    """Renders the outcomes of a step for it to yield, in the order in which dbt completed them."""

    def __init__(self, context: dg.OpExecutionContext) -> None:
        assets = context.assets_def
        self._context = context
        self.consumed = consumed_outputs(context)
        self._assets = {spec.key: spec for spec in assets.specs}
        self._checks = {spec.key: spec for spec in assets.check_specs}
        self._partition = context.partition_key if context.has_partition_key else None
        # One run for a range of partitions: Dagster knows which an output is of, we do not.
        self._is_range = context.has_partition_key_range and not context.has_partition_key
        self._versions = _Versions(context, self._assets)
        self._given = _given.setdefault(context, set())

    def render(self, outcome: Outcome) -> StepEvent | None:
        """Return what the step yields for an asset or check that it selected.

        None for failed, skipped and unchanged nodes: no result is theirs. None, too, where Dagster
        must place the result, and has one of this attempt: of another call, which built it before.
        """
        key: Key | None = outcome.check_key or outcome.asset_key
        if key not in self.consumed or key in self._given:
            asset = self._assets.get(key) if isinstance(key, dg.AssetKey) else None
            if asset is not None and not (asset.partitions_def and self._is_range):
                return self._materialization(outcome, asset)
            check = self._checks.get(key) if isinstance(key, dg.AssetCheckKey) else None
            # A check with partitions of its own: which one it was evaluated on is Dagster's to say.
            if check is not None and getattr(check, "partitions_def", None) is None:
                return as_log_event(outcome, blocking=check.blocking)
        result = None if key in self._given else as_step_result(outcome)
        if result is not None:
            self._given.add(key)
        return result

    def _materialization(self, outcome: Outcome, spec: dg.AssetSpec) -> StepEvent | None:
        if outcome.kind is not OutcomeKind.MATERIALIZED:
            return None
        partition = self._partition if spec.partitions_def is not None else None
        return as_log_event(outcome, partition=partition, tags=self._versions.tags(spec))


class _Versions:
    """The versions that Dagster would give an output: of its code, of its data, of its inputs.

    Only where partitions have no part in it: without them Dagster goes by the time of events.
    """

    def __init__(
        self, context: dg.OpExecutionContext, specs: Mapping[dg.AssetKey, dg.AssetSpec]
    ) -> None:
        self._context = context
        self._specs = specs
        self._parents = context.assets_def.asset_deps
        self._made: dict[dg.AssetKey, str] = {}
        self._known: dict[dg.AssetKey, tuple[str, str]] | None = None

    def tags(self, spec: dg.AssetSpec) -> dict[str, str]:
        """Return the tags for the materialization of ``spec``; parents are asked for before."""
        parents = sorted(self._parents.get(spec.key, ()), key=str)
        if any(self._is_partitioned(key) for key in (spec.key, *parents)):
            return {}
        code_version = spec.code_version or self._context.run_id
        tags = {_CODE_VERSION: code_version}
        versions = [code_version]
        for parent in parents:
            version, event = self._version(parent)
            versions.append(version)
            tags[f"{_INPUT_VERSION}/{parent.to_user_string()}"] = version
            tags[f"{_INPUT_EVENT}/{parent.to_user_string()}"] = event
        # Dagster's own formula, so that it stays the same where nothing has changed.
        tags[_DATA_VERSION] = sha256("".join(versions).encode()).hexdigest()
        self._made[spec.key] = tags[_DATA_VERSION]
        return tags

    def _is_partitioned(self, key: dg.AssetKey) -> bool:
        spec = self._specs.get(key)
        return spec is not None and spec.partitions_def is not None

    def _version(self, key: dg.AssetKey) -> tuple[str, str]:
        """Return the data version of an input, and the number of its event."""
        made = self._made.get(key)
        if made is not None:
            return made, _NO_EVENT
        if self._known is None:
            selected = self._context.selected_asset_keys
            wanted = {p for key in selected for p in self._parents.get(key, ())}
            self._known = self._look_up(sorted(wanted, key=str))
        return self._known.get(key, (_NO_VERSION, _NO_EVENT))

    def _look_up(self, keys: list[dg.AssetKey]) -> dict[dg.AssetKey, tuple[str, str]]:
        instance = self._context.instance
        last: dict[dg.AssetKey, dg.EventLogRecord] = {}
        for start in range(0, len(keys), _RECORDS):
            for record in instance.get_asset_records(keys[start : start + _RECORDS]):
                if record.asset_entry.last_materialization_record is not None:
                    last[record.asset_entry.asset_key] = (
                        record.asset_entry.last_materialization_record
                    )
        for key in keys:
            if key not in last and key not in self._specs:  # a source may be observed
                last.update((key, seen) for seen in instance.fetch_observations(key, 1).records)
        return {
            key: (
                (record.event_log_entry.tags or {}).get(_DATA_VERSION, _NO_VERSION),
                str(record.storage_id),
            )
            for key, record in last.items()
        }
