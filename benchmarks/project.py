"""A dbt project of any size as dbt 1.11 would describe it in manifest.json, without dbt.

Entries have every field that dbt writes, code and columns of an ordinary length. Each part is a
function of its number alone, so that the floor can make the same specs without a manifest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = "shop"
LEVELS = 25
"""How many models the longest chain has; three parents each, from the level above."""
COLUMNS = 10
TESTS = 2
"""Tests per model: one of the model alone, one that refers to a parent as well."""
MACROS = 600
"""About what dbt, an adapter and dbt_utils bring."""
SOURCE_EVERY = 20  # models

_SQL = """\
with source_rows as (
    select * from {{{{ ref('{parent}') }}}}
),
renamed as (
    select
        id as {name}_id,
        cast(created_at as timestamp) as created_at,
        cast(amount as decimal(18, 2)) as amount,
        coalesce(status, 'unknown') as status,
        row_number() over (partition by customer_id order by created_at desc) as recency
    from source_rows
    where created_at >= '2024-01-01' and not is_deleted
),
aggregated as (
    select
        status,
        date_trunc('day', created_at) as day,
        sum(amount) as amount,
        count(*) as number_of_rows,
        count(distinct customer_id) as number_of_customers
    from renamed
    where recency = 1
    group by 1, 2
)
select * from aggregated
"""


def model_name(number: int) -> str:
    return f"model_{number:05}"


def model_id(number: int) -> str:
    return f"model.{PACKAGE}.{model_name(number)}"


def source_name(number: int) -> str:
    return f"table_{number:04}"


def source_id(number: int) -> str:
    return f"source.{PACKAGE}.raw.{source_name(number)}"


def level(number: int, models: int) -> int:
    return number * LEVELS // models


def parents(number: int, models: int) -> list[int]:
    """Return the numbers of the models that a model depends on; none on the lowest level."""
    above = level(number, models) - 1
    if above < 0:
        return []
    first = -(-above * models // LEVELS)
    width = max(1, -(-(above + 1) * models // LEVELS) - first)
    found = {first + (number * step) % width for step in (1, 7, 13)}
    return sorted(parent for parent in found if parent < number)  # fewer models than levels


def folder(number: int, models: int) -> str:
    return f"models/level_{level(number, models):02}/domain_{number % 40:02}"


def tags(number: int) -> list[str]:
    return ["nightly"] if number % 2 else ["hourly", f"domain_{number % 40:02}"]


def description(number: int) -> str:
    return f"What became of the orders of domain {number % 40}, a row a day; number {number}."


def raw_code(number: int) -> str:
    return _SQL.format(parent=model_name(max(0, number - 1)), name=model_name(number))


def columns(number: int) -> Iterator[tuple[str, str, str]]:
    """Yield (name, type, description) of each column."""
    for column in range(COLUMNS):
        yield (
            f"column_{column}",
            ("integer", "text", "timestamp")[column % 3],
            f"Column {column} of {model_name(number)}, as the source system delivers it.",
        )


def test_name(number: int, test: int) -> str:
    return f"{('unique', 'relationships')[test]}_{model_name(number)}_column_{test}"


def test_id(number: int, test: int) -> str:
    name = test_name(number, test)
    digest = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[:10]
    return f"test.{PACKAGE}.{name}.{digest}"


def test_parents(number: int, test: int, models: int) -> list[str]:
    others = [model_id(parent) for parent in parents(number, models)[:1]] if test else []
    return [*others, model_id(number)]


def manifest(models: int) -> dict[str, Any]:
    """Return manifest.json of a project with so many models, and ``TESTS`` tests for each."""
    return {
        name: dict(part) if isinstance(part, Iterator) else part for name, part in _parts(models)
    }


def write(path: Path, models: int) -> int:
    """Write the same to a file, entry by entry, however large; return its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for place, (name, part) in enumerate(_parts(models)):
            file.write(f"{', ' if place else '{'}{json.dumps(name)}: ")
            if not isinstance(part, Iterator):
                file.write(json.dumps(part))
                continue
            file.write("{")
            for number, (unique_id, entry) in enumerate(part):
                file.write(f"{', ' if number else ''}{json.dumps(unique_id)}: {json.dumps(entry)}")
            file.write("}")
        file.write("}")
    return path.stat().st_size


def _parts(models: int) -> Iterator[tuple[str, Any]]:
    """Yield the top-level parts; the entries of large collections one by one."""
    yield (
        "metadata",
        {
            "dbt_schema_version": "https://schemas.getdbt.com/dbt/manifest/v12.json",
            "dbt_version": "1.11.16",
            "generated_at": "2026-11-20T04:00:00.000000Z",
            "invocation_id": "0c9e4f0e-0000-4000-8000-000000000000",
            "env": {},
            "project_name": PACKAGE,
            "project_id": "06e5b98c2db46f8a72cc4f66410e9b3b",
            "user_id": None,
            "send_anonymous_usage_stats": False,
            "adapter_type": "snowflake",
        },
    )
    sources = -(-models // SOURCE_EVERY)
    yield "nodes", _nodes(models)
    yield "sources", ((source_id(n), _source(n)) for n in range(sources))
    yield "macros", ((entry["unique_id"], entry) for entry in map(_macro, range(MACROS)))
    for name in ("docs", "exposures", "metrics", "groups", "selectors", "disabled"):
        yield name, {}
    parent_map = {i: entry["depends_on"]["nodes"] for i, entry in _nodes(models)}
    parent_map.update((source_id(n), []) for n in range(sources))
    yield "parent_map", parent_map
    child_map: dict[str, list[str]] = {unique_id: [] for unique_id in parent_map}
    for unique_id, above in parent_map.items():
        for parent in above:
            child_map[parent].append(unique_id)
    yield "child_map", child_map
    for name in ("group_map", "saved_queries", "semantic_models", "unit_tests", "functions"):
        yield name, {}


def _nodes(models: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for number in range(models):
        yield model_id(number), _model(number, models)
    for number in range(models):
        for test in range(TESTS):
            yield test_id(number, test), _test(number, test, models)


def _config(kind: str, **own: Any) -> dict[str, Any]:
    """Return the config that dbt writes for every node, and what is ``own`` to this one."""
    config: dict[str, Any] = {
        "enabled": True,
        "alias": None,
        "schema": None,
        "database": None,
        "tags": [],
        "meta": {},
        "group": None,
        "static_analysis": None,
        "materialized": kind,
    }
    if kind == "test":
        config |= {"severity": "ERROR", "store_failures": None, "store_failures_as": None}
        config |= {"where": None, "limit": None, "fail_calc": "count(*)"}
        config |= {"warn_if": "!= 0", "error_if": "!= 0"}
    else:
        config |= {"incremental_strategy": None, "batch_size": None, "lookback": 1, "begin": None}
        config |= {"persist_docs": {}, "post-hook": [], "pre-hook": [], "quoting": {}}
        config |= {"column_types": {}, "full_refresh": None, "unique_key": None}
        config |= {"on_schema_change": "ignore", "on_configuration_change": "apply"}
        config |= {"grants": {}, "packages": [], "docs": {"show": True, "node_color": None}}
        config |= {"contract": {"enforced": False, "alias_types": True}, "event_time": None}
        config |= {"concurrent_batches": None, "access": "protected", "freshness": None}
    return {**config, **own}


def _node(unique_id: str, name: str, path: str, code: str, above: list[str]) -> dict[str, Any]:
    kind = unique_id.partition(".")[0]
    return {
        "database": "analytics",
        "schema": "prod",
        "name": name,
        "resource_type": kind,
        "package_name": PACKAGE,
        "path": path.removeprefix("models/"),
        "original_file_path": path,
        "unique_id": unique_id,
        "fqn": [PACKAGE, *path.split("/")[1:-1], name],
        "alias": name,
        "checksum": {"name": "sha256", "checksum": hashlib.sha256(name.encode()).hexdigest()},
        "config": {},
        "tags": [],
        "description": "",
        "columns": {},
        "meta": {},
        "group": None,
        "docs": {"show": True, "node_color": None},
        "patch_path": None,
        "build_path": None,
        "unrendered_config": {},
        "created_at": 1795269029.2223644,
        "relation_name": f"analytics.prod.{name}" if kind == "model" else None,
        "raw_code": code,
        "doc_blocks": [],
        "language": "sql",
        "refs": [{"name": i.split(".")[2], "package": None, "version": None} for i in above],
        "sources": [],
        "metrics": [],
        "functions": [],
        "depends_on": {"macros": [], "nodes": above},
        "compiled_path": f"target/compiled/{PACKAGE}/{path}",
        "compiled": True,
        "compiled_code": code.replace("{{", "").replace("}}", ""),
        "extra_ctes_injected": True,
        "extra_ctes": [],
        "contract": {"enforced": False, "alias_types": True, "checksum": None},
    }


def _model(number: int, models: int) -> dict[str, Any]:
    name, where = model_name(number), folder(number, models)
    above = [model_id(parent) for parent in parents(number, models)]
    if not above:
        above = [source_id(number // SOURCE_EVERY)]
    return {
        **_node(model_id(number), name, f"{where}/{name}.sql", raw_code(number), above),
        "config": _config("table", tags=tags(number)),
        "tags": tags(number),
        "description": description(number),
        "columns": {column[0]: _column(*column) for column in columns(number)},
        "patch_path": f"{PACKAGE}://{where}/_models.yml",
        "unrendered_config": {"materialized": "table", "tags": tags(number)},
        "access": "protected",
        "constraints": [],
        "version": None,
        "latest_version": None,
        "deprecation_date": None,
        "primary_key": ["column_0"],
        "time_spine": None,
    }


def _column(name: str, data_type: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "description": description,
        "meta": {},
        "data_type": data_type,
        "constraints": [],
        "quote": None,
        "config": {"meta": {}, "tags": []},
        "tags": [],
        "granularity": None,
        "doc_blocks": [],
    }


def _test(number: int, test: int, models: int) -> dict[str, Any]:
    kind = ("unique", "relationships")[test]
    above = test_parents(number, test, models)
    code = f"{{{{ test_{kind}(**_dbt_generic_test_kwargs) }}}}"
    path = f"{folder(number, models)}/_models.yml"
    return {
        "test_metadata": {
            "name": kind,
            "kwargs": {
                "column_name": f"column_{test}",
                "model": f"{{{{ get_where_subquery(ref('{model_name(number)}')) }}}}",
            },
            "namespace": None,
        },
        **_node(test_id(number, test), test_name(number, test), path, code, above),
        "path": f"{test_name(number, test)}.sql",
        "schema": "prod_dbt_test__audit",
        "config": _config("test", schema="dbt_test__audit"),
        "column_name": f"column_{test}",
        "file_key_name": f"models.{model_name(number)}",
        "attached_node": model_id(number),
    }


def _source(number: int) -> dict[str, Any]:
    name = source_name(number)
    return {
        "database": "raw",
        "schema": "shop",
        "name": name,
        "resource_type": "source",
        "package_name": PACKAGE,
        "path": "models/sources.yml",
        "original_file_path": "models/sources.yml",
        "unique_id": source_id(number),
        "fqn": [PACKAGE, "raw", name],
        "source_name": "raw",
        "source_description": "",
        "loader": "",
        "identifier": name,
        "loaded_at_field": None,
        "loaded_at_query": None,
        "quoting": {},
        "freshness": None,
        "external": None,
        "description": "",
        "columns": {},
        "meta": {},
        "source_meta": {},
        "tags": [],
        "config": {"enabled": True},
        "patch_path": None,
        "unrendered_config": {},
        "relation_name": f"raw.shop.{name}",
        "created_at": 1795269027.2,
        "unrendered_database": None,
        "unrendered_schema": None,
        "doc_blocks": [],
    }


def _macro(number: int) -> dict[str, Any]:
    name = f"macro_{number:03}"
    path = f"macros/group_{number % 20:02}/{name}.sql"
    return {
        "name": name,
        "resource_type": "macro",
        "package_name": "dbt",
        "path": path,
        "original_file_path": path,
        "unique_id": f"macro.dbt.{name}",
        "macro_sql": f"{{% macro {name}(relation) %}}\n" + "  select 1 as one,\n" * 40,
        "depends_on": {"macros": []},
        "description": "",
        "meta": {},
        "docs": {"show": True},
        "patch_path": None,
        "arguments": [],
        "created_at": 1795269027.2,
        "supported_languages": None,
    }
