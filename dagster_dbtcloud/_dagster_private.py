"""The one place that imports what Dagster does not export.

`recall` and `remember`. A code server, its run workers and its step processes each load the user's
code. All must see the same manifest, so the code server leaves a pointer that Dagster carries to
the others as "reconstruction metadata". Writing it has a public way
(``with_reconstruction_metadata`` of ``Definitions``) that plain ``@dbt_cloud_assets`` definitions
never pass through; reading it back has none. Should the class move, `recall` finds nothing and each
process asks dbt Cloud itself: slower, and two processes may see two manifests while dbt Cloud gets
a newer one.

The ``..._resolver`` functions. A component's YAML has a vocabulary that all of Dagster's own
components share: ``translation``, partitions, backfill policies. Dagster exports no way to read
these, and a dialect of our own would help nobody. Should they move, only the component is lost.

`finish_storing`. PostgreSQL's storage writes an event first, and what the asset's page shows in a
second transaction; a daemon that is killed between the two leaves a page that does not know of the
asset's newest materialization. The storage's own methods for the second half are no part of
Dagster's API. Should they move, the page is right again with the asset's next materialization.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg


def _context() -> Any | None:
    try:
        from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext
    except ImportError:
        return None
    return DefinitionsLoadContext.get() if DefinitionsLoadContext.is_set() else None


def recall(key: str) -> str | None:
    """Return what the code server remembered under ``key``; None in the code server itself."""
    context = _context()
    if context is None or context.load_type.value != "RECONSTRUCTION":
        return None
    value = context.reconstruction_metadata.get(key)
    return value if isinstance(value, str) else None


def remember(key: str, value: str) -> None:
    """Hand ``value`` to every process that will load this code location again."""
    context = _context()
    if context is not None:
        context.add_to_pending_reconstruction_metadata(key, value)


def finish_storing(instance: dg.DagsterInstance, record: dg.EventLogRecord) -> bool:
    """Do again what follows the storing of an asset's event. False where that has no name."""
    storage: Any = instance.event_log_storage
    show = getattr(storage, "store_asset_event", None)
    tag = getattr(storage, "store_asset_event_tags", None)
    if show is None or tag is None:
        return False
    show(record.event_log_entry, record.storage_id)
    tag([record.event_log_entry], [record.storage_id])
    return True


def translation_resolver() -> dg.Resolver:
    """Return what reads ``translation``: attributes of assets, from ``node`` and ``spec``."""
    from dagster.components.utils.translation import TranslationFnResolver

    def names(node: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"node": node}

    return TranslationFnResolver(template_vars_for_translation_fn=names)


def partitions_resolver() -> dg.Resolver:
    """Return what reads a partitions definition, as ``{type: daily, start_date: ...}``."""
    from dagster import Resolver
    from dagster.components.resolved import core_models

    return Resolver(
        core_models.resolve_partitions_def,
        model_field_type=core_models.HourlyPartitionsDefinitionModel
        | core_models.DailyPartitionsDefinitionModel
        | core_models.WeeklyPartitionsDefinitionModel
        | core_models.TimeWindowPartitionsDefinitionModel
        | core_models.StaticPartitionsDefinitionModel,
        description="The partitions of every asset.",
        examples=[{"type": "daily", "start_date": "2026-01-01"}],
    )


def backfill_resolver() -> dg.Resolver:
    """Return what reads a backfill policy, as ``{type: single_run}``."""
    from dagster import Resolver
    from dagster.components.resolved import core_models

    return Resolver(
        core_models.resolve_backfill_policy,
        model_field_type=core_models.SingleRunBackfillPolicyModel
        | core_models.MultiRunBackfillPolicyModel,
        description="How a backfill's partitions become runs.",
        examples=[{"type": "single_run"}, {"type": "multi_run", "max_partitions_per_run": 10}],
    )
