"""Run dbt Cloud from Dagster: assets, runs, and dbt Cloud's own history.

The names of ``__all__`` are the public API; everything else may change between minor versions.
They are imported when first used, so that the pure floors (``dagster_dbtcloud.dbt``,
``dagster_dbtcloud.cloud``) and the command line do not pay for Dagster.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from dagster_dbtcloud.version import __version__

if TYPE_CHECKING:
    from dagster_dbtcloud.assets import (
        dbt_cloud_assets,
        load_dbt_cloud_asset_specs,
        load_dbt_cloud_check_specs,
    )
    from dagster_dbtcloud.component import DbtCloudComponent
    from dagster_dbtcloud.errors import DbtCloudError
    from dagster_dbtcloud.following import RunLimits
    from dagster_dbtcloud.invocation import DbtCloudCliInvocation
    from dagster_dbtcloud.options import RunOptions, RunOptionsConfig
    from dagster_dbtcloud.partitions import time_window_vars
    from dagster_dbtcloud.selections import (
        build_dbt_asset_selection,
        build_schedule_from_dbt_selection,
        get_asset_key_for_model,
        get_asset_key_for_source,
        get_asset_keys_by_output_name_for_source,
    )
    from dagster_dbtcloud.sensor import build_dbt_cloud_polling_sensor
    from dagster_dbtcloud.translator import (
        DagsterDbtTranslator,
        DagsterDbtTranslatorSettings,
        default_group_from_dbt_resource_props,
        default_metadata_from_dbt_resource_props,
        group_from_dbt_resource_props_fallback_to_directory,
    )
    from dagster_dbtcloud.workspace import DbtCloudCredentials, DbtCloudWorkspace

__all__ = [
    "DagsterDbtTranslator",
    "DagsterDbtTranslatorSettings",
    "DbtCloudCliInvocation",
    "DbtCloudComponent",
    "DbtCloudCredentials",
    "DbtCloudError",
    "DbtCloudWorkspace",
    "RunLimits",
    "RunOptions",
    "RunOptionsConfig",
    "__version__",
    "build_dbt_asset_selection",
    "build_dbt_cloud_polling_sensor",
    "build_schedule_from_dbt_selection",
    "dbt_cloud_assets",
    "default_group_from_dbt_resource_props",
    "default_metadata_from_dbt_resource_props",
    "get_asset_key_for_model",
    "get_asset_key_for_source",
    "get_asset_keys_by_output_name_for_source",
    "group_from_dbt_resource_props_fallback_to_directory",
    "load_dbt_cloud_asset_specs",
    "load_dbt_cloud_check_specs",
    "time_window_vars",
]

_ROOMS = {
    "assets": ("dbt_cloud_assets", "load_dbt_cloud_asset_specs", "load_dbt_cloud_check_specs"),
    "component": ("DbtCloudComponent",),
    "errors": ("DbtCloudError",),
    "following": ("RunLimits",),
    "invocation": ("DbtCloudCliInvocation",),
    "options": ("RunOptions", "RunOptionsConfig"),
    "partitions": ("time_window_vars",),
    "selections": (
        "build_dbt_asset_selection",
        "build_schedule_from_dbt_selection",
        "get_asset_key_for_model",
        "get_asset_key_for_source",
        "get_asset_keys_by_output_name_for_source",
    ),
    "sensor": ("build_dbt_cloud_polling_sensor",),
    "translator": (
        "DagsterDbtTranslator",
        "DagsterDbtTranslatorSettings",
        "default_group_from_dbt_resource_props",
        "default_metadata_from_dbt_resource_props",
        "group_from_dbt_resource_props_fallback_to_directory",
    ),
    "workspace": ("DbtCloudCredentials", "DbtCloudWorkspace"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> object:
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{room}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
