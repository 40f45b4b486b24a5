"""``assets``: what a dbt project looks like in Dagster, before there is a code location.

The one command for dbt Cloud that imports Dagster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dagster_dbtcloud.cli.connection import Connection, connected
from dagster_dbtcloud.cli.manifest import load_manifest, selecting
from dagster_dbtcloud.cli.output import json_option, show_json, show_table


@click.command()
@selecting
@json_option
@connected
def assets(
    cloud: Connection,
    expression: tuple[str, ...],
    exclude: tuple[str, ...],
    selector: str,
    file: Path | None,
    as_json: bool,
) -> None:
    """List the assets that Dagster would show, with the number of their checks.

    As `@dbt_cloud_assets(select=EXPR)` declares them, with the default translator.

    \b
    Examples:
      dagster-dbtcloud assets
      dagster-dbtcloud assets tag:daily --json
    """
    from dagster_dbtcloud.dbt.selection import parse

    for text in (expression, exclude):
        if text:
            parse(text)
    manifest = load_manifest(cloud, file)
    from dagster_dbtcloud.specs import build_specs
    from dagster_dbtcloud.translator import DagsterDbtTranslator

    specs = build_specs(
        manifest,
        select=" ".join(expression) or ("" if selector else "fqn:*"),
        exclude=" ".join(exclude),
        selector=selector,
        translator=DagsterDbtTranslator(),
    )
    nodes = {key: unique_id for unique_id, key in specs.asset_keys.items()}
    checks: dict[object, list[str]] = {}
    for check in specs.check_specs:
        checks.setdefault(check.asset_key, []).append(check.name)
    found: list[dict[str, Any]] = [
        {
            "key": spec.key.to_user_string(),
            "group": spec.group_name,
            "kinds": sorted(spec.kinds),
            "unique_id": nodes.get(spec.key),
            "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
            "checks": sorted(checks.get(spec.key, [])),
        }
        for spec in sorted(specs.asset_specs, key=lambda spec: spec.key)
    ]
    if as_json:
        show_json(found)
        return
    show_table(
        ["ASSET", "GROUP", "KINDS", ">CHECKS", "DBT NODE"],
        [
            (
                each["key"],
                each["group"],
                " ".join(each["kinds"]),
                len(each["checks"]),
                each["unique_id"],
            )
            for each in found
        ],
        none="Nothing is selected.",
    )
