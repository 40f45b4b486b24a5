"""What changed between two manifests, as dbt's ``state:`` method understands change.

It compares what the manifests hold; it neither finds the other manifest nor selects by the rest of
the language. The rules are dbt-core 1.11's, their oddities included.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dagster_dbtcloud.dbt.expression import Criterion, did_you_mean
from dagster_dbtcloud.dbt.manifest import Manifest, Node

_PARSED = frozenset(
    {"model", "seed", "snapshot", "test", "analysis", "operation", "sql_operation", "function"}
)
"""Types with code and relations of their own, for which dbt has all the finer comparisons."""

_TEST_CONFIG = (
    *("severity", "where", "limit", "fail_calc", "warn_if", "error_if"),
    *("store_failures", "store_failures_as"),
)
_UNCOMPARED_CONFIG = {
    "metric": frozenset({"group"}),
    "source": frozenset[str](),
    "exposure": frozenset[str](),
}
_UNCOMPARED_NODE_CONFIG = frozenset({"alias", "schema", "database", "tags", "group"})


def state(manifest: Manifest, previous: Manifest, criterion: Criterion) -> Iterable[str]:
    """Return the nodes of ``manifest`` for which ``state:value`` holds against ``previous``."""
    check = _CHECKS.get(str(criterion.value))
    if check is None:
        criterion.refuse(
            f"{criterion.value!r} is not a kind of change.",
            hint=did_you_mean(str(criterion.value), _CHECKS)
            or f"The kinds are {', '.join(_CHECKS)}.",
        )
    comparison = _Comparison(manifest, previous)
    return [
        unique_id
        for unique_id, node in manifest.nodes.items()
        if check(comparison, previous.nodes.get(unique_id), node)
    ]


class _Comparison:
    """Two manifests, and the macros that differ between them."""

    def __init__(self, manifest: Manifest, previous: Manifest) -> None:
        self.changed_macros = _changed_macros(
            manifest.raw.get("macros") or {}, previous.raw.get("macros") or {}
        )

    def is_modified(self, old: Node | None, new: Node) -> bool:
        same = _SAME_CONTENTS.get(new.resource_type, _same_node)
        if old is None:
            # dbt calls a new node of these types unchanged.
            unlike = new.resource_type not in _UNCHANGED_WHEN_NEW
        else:
            unlike = not same(old, new) or not _same_contract(old, new)
        return unlike or self.has_changed_macros(old, new)

    def has_changed_macros(self, _old: Node | None, new: Node) -> bool:
        used = (new.properties.get("depends_on") or {}).get("macros") or ()
        return not self.changed_macros.isdisjoint(used)


def _changed_macros(new: Mapping[str, Any], old: Mapping[str, Any]) -> frozenset[str]:
    """Return the macros whose text differs or is on one side only, and all that call those."""
    callers: dict[str, list[str]] = {}
    for unique_id, macro in new.items():
        for called in (macro.get("depends_on") or {}).get("macros") or ():
            callers.setdefault(called, []).append(unique_id)
    changed = {i for i in new if i not in old or new[i].get("macro_sql") != old[i].get("macro_sql")}
    changed |= old.keys() - new.keys()
    waiting = deque(changed)
    while waiting:
        for caller in callers.get(waiting.popleft(), ()):
            if caller not in changed:
                changed.add(caller)
                waiting.append(caller)
    return frozenset(changed)


def _same(*names: str) -> Callable[[Node, Node], bool]:
    def same(old: Node, new: Node) -> bool:
        return all(old.properties.get(name) == new.properties.get(name) for name in names)

    return same


def _same_body(old: Node, new: Node) -> bool:
    if new.resource_type == "seed":
        return bool(old.properties.get("checksum") == new.properties.get("checksum"))
    return old.raw_code == new.raw_code


def _same_config(old: Node, new: Node) -> bool:
    """Compare what was configured, before it was rendered."""
    if new.resource_type in ("semantic_model", "saved_query"):
        return old.config == new.config
    ours, theirs = (node.properties.get("unrendered_config") or {} for node in (new, old))
    if new.resource_type == "test":
        keys: Iterable[str] = _TEST_CONFIG
    else:
        uncompared = _UNCOMPARED_CONFIG.get(new.resource_type, _UNCOMPARED_NODE_CONFIG)
        keys = (ours.keys() | theirs.keys()) - uncompared
    return all(ours.get(key, _ABSENT) == theirs.get(key, _ABSENT) for key in keys)


_ABSENT = object()


def _same_persisted_description(old: Node, new: Node) -> bool:
    persisted = new.config.get("persist_docs") or {}
    if persisted.get("relation") and old.description != new.description:
        return False
    return not persisted.get("columns") or _descriptions(old) == _descriptions(new)


def _descriptions(node: Node) -> dict[str, Any]:
    return {name: column.get("description") for name, column in node.columns.items()}


def _same_relation(old: Node, new: Node) -> bool:
    if new.resource_type == "source":
        return _same("database", "schema", "identifier")(old, new)
    ours, theirs = (node.properties.get("unrendered_config") or {} for node in (new, old))
    return all(ours.get(key) == theirs.get(key) for key in ("database", "schema", "alias"))


def _same_contract(old: Node, new: Node) -> bool:
    """Compare enforced contracts by their checksum.

    Where a change breaks the contract of a versioned model, dbt ends with an error; here it is a
    change like another.
    """
    if new.resource_type != "model":
        return True
    ours, theirs = (node.properties.get("contract") or {} for node in (new, old))
    if not ours.get("enforced") and not theirs.get("enforced"):
        return True
    return bool(
        ours.get("enforced")
        and theirs.get("enforced")
        and ours.get("checksum") == theirs.get("checksum")
    )


def _same_fqn(old: Node, new: Node) -> bool:
    return old.fqn == new.fqn


def _same_node(old: Node, new: Node) -> bool:
    return (
        _same_body(old, new)
        and _same_config(old, new)
        and _same_persisted_description(old, new)
        and _same_fqn(old, new)
        and _same_relation(old, new)
    )


def _same_model(old: Node, new: Node) -> bool:
    reference = _same("latest_version", "deprecation_date")
    return _same_node(old, new) and old.access == new.access and reference(old, new)


def _same_test(old: Node, new: Node) -> bool:
    if not new.is_generic_test:
        return _same_node(old, new)
    return _same_config(old, new) and _same_fqn(old, new)


def _same_function(old: Node, new: Node) -> bool:
    return _same_node(old, new) and _same("arguments", "returns")(old, new)


def _same_source(old: Node, new: Node) -> bool:
    rest = _same("quoting", "freshness", "loaded_at_field", "external")
    return (
        _same_relation(old, new)
        and _same_fqn(old, new)
        and _same_config(old, new)
        and rest(old, new)
    )


def _same_exposure(old: Node, new: Node) -> bool:
    rest = _same("type", "owner", "maturity", "url", "description", "label")
    return (
        _same_fqn(old, new)
        and rest(old, new)
        and set(old.depends_on) == set(new.depends_on)
        and _same_config(old, new)
    )


def _same_metric(old: Node, new: Node) -> bool:
    return _same("type", "description", "label")(old, new) and _same_config(old, new)


def _same_semantic_model(old: Node, new: Node) -> bool:
    rest = _same(
        *("model", "description", "defaults", "entities", "dimensions", "measures"),
        *("primary_entity", "group"),
    )
    return rest(old, new) and _same_config(old, new)


def _same_saved_query(old: Node, new: Node) -> bool:
    ours, theirs = (node.properties.get("query_params") or {} for node in (new, old))
    return (
        all(ours.get(key) == theirs.get(key) for key in ("metrics", "group_by", "where"))
        and _same("description", "label", "group", "tags")(old, new)
        and _same_config(old, new)
        and _exports(old) == _exports(new)
    )


def _exports(node: Node) -> list[tuple[Any, ...]]:
    """Return of each export its name and the configuration that dbt compares."""
    keys = ("export_as", "schema", "alias")
    return [
        (export.get("name"), *((export.get("unrendered_config") or {}).get(key) for key in keys))
        for export in node.properties.get("exports") or ()
    ]


_SAME_CONTENTS: Mapping[str, Callable[[Node, Node], bool]] = {
    "model": _same_model,
    "test": _same_test,
    "function": _same_function,
    "source": _same_source,
    "exposure": _same_exposure,
    "metric": _same_metric,
    "semantic_model": _same_semantic_model,
    "saved_query": _same_saved_query,
    "unit_test": _same("checksum"),
}

_UNCHANGED_WHEN_NEW = frozenset({"source", "exposure", "metric", "semantic_model", "saved_query"})

Check = Callable[[_Comparison, "Node | None", Node], bool]


def _unlike(same: Callable[[Node, Node], bool], kinds: frozenset[str]) -> Check:
    """Check one aspect, which only these kinds of nodes have; a new node has changed in it."""

    def unlike(_comparison: _Comparison, old: Node | None, new: Node) -> bool:
        return new.resource_type in kinds and (old is None or not same(old, new))

    return unlike


_CHECKS: Mapping[str, Check] = {
    "new": lambda _comparison, old, _new: old is None,
    "old": lambda _comparison, old, _new: old is not None,
    "modified": _Comparison.is_modified,
    "unmodified": lambda comparison, old, new: not comparison.is_modified(old, new),
    "modified.body": _unlike(_same_body, _PARSED),
    "modified.configs": _unlike(_same_config, _PARSED | _UNCHANGED_WHEN_NEW),
    "modified.persisted_descriptions": _unlike(_same_persisted_description, _PARSED),
    "modified.relation": _unlike(_same_relation, _PARSED | {"source"}),
    "modified.macros": _Comparison.has_changed_macros,
    "modified.contract": _unlike(_same_contract, _PARSED),
}
