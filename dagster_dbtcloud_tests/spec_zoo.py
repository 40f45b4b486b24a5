"""The project spec_zoo as dbt parses it, and changed copies of its manifest; no test is here."""

from __future__ import annotations

import atexit
import copy
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.specs import DbtSpecs, build_specs
from dagster_dbtcloud.translator import DagsterDbtTranslator
from dagster_dbtcloud_tests.dbt.oracle import Oracle

PROJECT = Path(__file__).parent / "projects" / "spec_zoo"

STG_ORDERS = "model.spec_zoo.stg_orders"
ORDERS = "model.spec_zoo.orders"
LEDGER = "model.spec_zoo.ledger"
UNIQUE_ORDER = "test.spec_zoo.unique_orders_order_id.fed79b3a6e"
SOURCE_TEST = "test.spec_zoo.source_unique_raw_raw_orders_id.0de38b1856"
UNIT_TEST = "unit_test.spec_zoo.stg_orders.status_is_lowercased"
ORDER_OF_LEDGER = "test.spec_zoo.has_an_order.6d82a7f613"
ORDER_OF_SUMMARY = "test.spec_zoo.has_an_order.bfc2f2131c"


@cache
def oracle() -> Oracle:
    """Return real dbt on the project; one process for all tests, ended with them."""
    directory = tempfile.TemporaryDirectory()
    atexit.register(directory.cleanup)
    process = Oracle("spec_zoo", Path(directory.name))
    atexit.register(process.__exit__, None, None, None)
    return process


@cache
def manifest() -> Manifest:
    """Return the manifest that dbt wrote."""
    return Manifest.from_path(oracle().manifest)


@cache
def _text() -> str:
    # Macros are nine tenths of it, and nothing here reads them.
    return json.dumps({**manifest().raw, "macros": {}, "docs": {}}, default=dict)


def changed(change: Callable[[dict[str, Any]], object]) -> Manifest:
    """Return the manifest after ``change`` has edited its JSON."""
    raw: dict[str, Any] = json.loads(_text())
    change(raw)
    return Manifest.from_dict(raw, origin="changed zoo")


def built(manifest: Manifest, **selection: Any) -> DbtSpecs:
    """Return the specs that the default translator makes."""
    return build_specs(manifest, translator=DagsterDbtTranslator(), **selection)


def put(raw: dict[str, Any], like: str, unique_id: str, **properties: Any) -> dict[str, Any]:
    """Add a node like another one; ``upon`` are the ids it depends on."""
    package, *rest = unique_id.split(".")[1:]
    name = rest[1] if unique_id.startswith("source.") else rest[0]
    upon = properties.pop("upon", None)
    collection = "sources" if unique_id.startswith("source.") else "nodes"
    entry: dict[str, Any] = copy.deepcopy(raw[collection][like])
    entry.update(
        unique_id=unique_id,
        package_name=package,
        name=name,
        alias=name,
        fqn=[package, *entry["fqn"][1:-1], name],
        original_file_path=f"models/{name}.sql",
    )
    if upon is not None:
        entry["depends_on"] = {"macros": [], "nodes": list(upon)}
    entry.update(properties)
    raw[collection][unique_id] = entry
    return entry


def meta(raw: dict[str, Any], unique_id: str, dagster: Any) -> None:
    """Set a node's ``meta.dagster``, where dbt writes it."""
    entry = next(raw[c][unique_id] for c in ("nodes", "sources") if unique_id in raw[c])
    entry["meta"] = {"dagster": dagster}
    entry["config"]["meta"] = {"dagster": dagster}


def chain(length: int, *, materialized: str = "table") -> Callable[[dict[str, Any]], None]:
    """Return a change that leaves nothing but models m0 to mN, each upon the one before."""

    def change(raw: dict[str, Any]) -> None:
        model = raw["nodes"][ORDERS]
        raw.update({c: {} for c in ("nodes", "sources", "unit_tests", "exposures")})
        for number in range(length):
            name = f"m{number}"
            inlined = 0 < number < length - 1
            raw["nodes"][f"model.big.{name}"] = {
                **model,
                "unique_id": f"model.big.{name}",
                "package_name": "big",
                "name": name,
                "alias": name,
                "fqn": ["big", f"folder{number % 5}", name],
                "depends_on": {"nodes": [f"model.big.m{number - 1}"] if number else []},
                "config": {"materialized": materialized if inlined else "table"},
            }

    return change


def expected_of_dagster_dbt() -> Mapping[str, Mapping[str, Any]]:
    """Return what dagster-dbt makes of the project; see the project's README."""
    found: Mapping[str, Mapping[str, Any]] = json.loads(
        (PROJECT / "dagster_dbt.json").read_text(encoding="utf-8")
    )
    return found
