"""What the context of a Dagster step tells: which dbt nodes it selected, and what it is a part of.

It starts nothing and records nothing.
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import overload
from uuid import uuid4
from weakref import WeakKeyDictionary

import dagster as dg

from dagster_dbtcloud.errors import ConfigError
from dagster_dbtcloud.events import Declared
from dagster_dbtcloud.marker import Marker
from dagster_dbtcloud.specs import UNIQUE_ID, DbtSpecs, specs_of

Context = dg.AssetExecutionContext | dg.OpExecutionContext | dg.AssetCheckExecutionContext

DEFAULT_SELECT = "fqn:*"

SELECT_TAG = "dagster_dbtcloud/select"
EXCLUDE_TAG = "dagster_dbtcloud/exclude"
SELECTOR_TAG = "dagster_dbtcloud/selector"
JOB_TAG = "dagster_dbtcloud/job"
"""Op tag: the id of the dbt Cloud job that a definition's assets are of."""

_calls: WeakKeyDictionary[object, int] = WeakKeyDictionary()
_counting = threading.Lock()


@overload
def op_context(context: Context) -> dg.OpExecutionContext: ...
@overload
def op_context(context: None) -> None: ...
def op_context(context: Context | None) -> dg.OpExecutionContext | None:
    """Return the one kind of context that has all we need without deprecated names."""
    if context is None or isinstance(context, dg.OpExecutionContext):
        return context
    return context.op_execution_context


def running_step(context: Context | None) -> dg.OpExecutionContext | None:
    """Return the ``op_context`` of a step that Dagster runs.

    Raises: ConfigError, for the context of a function that is called directly, as in a unit test.
    """
    step = op_context(context)
    try:
        _ = step and step.node_handle
    except dg.DagsterError:
        raise ConfigError(
            "The function was called directly, so its context is of no Dagster run. Run its "
            "definition: dagster.materialize([...], resources={...})."
        ) from None
    return step


def runs_dbt_assets(context: dg.OpExecutionContext) -> bool:
    """Whether the step is of assets, or checks, that were built from a dbt manifest."""
    if not context.has_assets_def:
        return False
    assets = context.assets_def
    specs: list[dg.AssetSpec | dg.AssetCheckSpec] = [*assets.specs, *assets.check_specs]
    return any(UNIQUE_ID in spec.metadata for spec in specs)


def declared_specs(context: dg.OpExecutionContext) -> DbtSpecs:
    """Return the specs as the step's definition has them, whatever was mapped over them."""
    assets = context.assets_def
    declared = Declared.from_specs(assets.specs, assets.check_specs)
    return replace(
        specs_of(assets),
        asset_specs=tuple(assets.specs),
        check_specs=tuple(assets.check_specs),
        asset_keys=declared.asset_keys,
        check_keys=declared.check_keys,
    )


def wanted_nodes(context: dg.OpExecutionContext, specs: DbtSpecs) -> frozenset[str]:
    """Return the nodes of the assets and checks that the step selected."""
    assets, checks = context.selected_asset_keys, context.selected_asset_check_keys
    return frozenset(
        [node for node, key in specs.asset_keys.items() if key in assets]
        + [node for node, key in specs.check_keys.items() if key in checks]
    )


def own_selection(context: dg.OpExecutionContext) -> tuple[str, str, str]:
    """Return what the definition was given as ``select``, ``exclude`` and ``selector``."""
    tags = context.assets_def.op.tags
    return (
        tags.get(SELECT_TAG, DEFAULT_SELECT),
        tags.get(EXCLUDE_TAG, ""),
        tags.get(SELECTOR_TAG, ""),
    )


def job_of(context: dg.OpExecutionContext) -> int | None:
    """Return the id of the job that the step's definition is of."""
    text = context.assets_def.op.tags.get(JOB_TAG)
    return int(text) if text else None


def step_key(step: dg.OpExecutionContext) -> str:
    """Return the name under which Dagster plans the step, that of a mapped one with its index."""
    mapped = step.get_mapping_key()
    return f"{step.node_handle}[{mapped}]" if mapped else str(step.node_handle)


def cause_of(step: dg.OpExecutionContext | None) -> str:
    """Return the sentence that dbt Cloud shows as the reason of the run, with our marker in it."""
    if step is None:
        return f"Started from Python by dagster_dbtcloud [{uuid4().hex}]"
    with _counting:
        number = _calls[step] = _calls.get(step, -1) + 1
    marker = Marker(
        dagster_run_id=step.run_id,
        step_key=step_key(step),
        attempt=step.retry_number,
        number=number,
        deployment=os.environ.get("DAGSTER_CLOUD_DEPLOYMENT_NAME"),
    )
    return marker.cause()
