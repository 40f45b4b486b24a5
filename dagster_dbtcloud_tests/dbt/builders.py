"""Small and large manifests made by hand, for what needs no dbt to prove."""

from __future__ import annotations

from typing import Any

from dagster_dbtcloud.dbt.manifest import Manifest

MANIFEST_V12 = "https://schemas.getdbt.com/dbt/manifest/v12.json"


def raw_manifest(*entries: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the JSON of a manifest with these nodes; ``more`` adds or replaces top-level keys."""
    return {
        "metadata": {"dbt_schema_version": MANIFEST_V12, "project_name": "shop"},
        "nodes": {entry["unique_id"]: entry for entry in entries},
        **more,
    }


def node(
    unique_id: str,
    *parents: str,
    folder: str = "models",
    tags: list[str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    kind, package, name = unique_id.split(".", 2)
    return {
        "unique_id": unique_id,
        "resource_type": kind,
        "package_name": package,
        "name": name,
        "fqn": [package, *folder.split("/")[1:], name],
        "original_file_path": f"{folder}/{name}.sql",
        "tags": tags or [],
        "config": {"enabled": True, "materialized": "view", "meta": {}},
        "depends_on": {"nodes": list(parents)},
        **more,
    }


def manifest_of(*entries: dict[str, Any], **more: Any) -> Manifest:
    return Manifest.from_dict(raw_manifest(*entries, **more), origin="by hand")


def chain(length: int) -> Manifest:
    """Return models m0 <- m1 <- ... in one line."""
    ids = [f"model.shop.m{number}" for number in range(length)]
    return manifest_of(
        *(node(unique_id, *ids[n - 1 : n] if n else ()) for n, unique_id in enumerate(ids))
    )


def large(models: int) -> dict[str, Any]:
    """Return ``models`` models in 100 folders and three layers, with two tests each."""
    entries = []
    for number in range(models):
        unique_id = f"model.shop.model_with_a_name_{number:05}"
        layer = number % 3
        parents = [
            f"model.shop.model_with_a_name_{parent:05}"
            for parent in (number - 1, number - 4, number - 7)
            if layer and parent >= 0
        ]
        folder = f"models/layer_{layer}/domain_{number % 100:02}"
        tags = ["nightly"] if number % 2 else ["hourly", f"domain_{number % 100}"]
        entries.append(node(unique_id, *parents, folder=folder, tags=tags))
        for test in ("unique", "not_null"):
            name = f"{test}_model_with_a_name_{number:05}_id"
            entries.append(
                node(
                    f"test.shop.{name}.{number:010x}",
                    unique_id,
                    *parents[:1],
                    folder=folder,
                    name=name,
                    test_metadata={"name": test, "kwargs": {"column_name": "id"}},
                )
            )
    return raw_manifest(*entries)
