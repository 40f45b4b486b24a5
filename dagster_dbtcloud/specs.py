"""Build the specs of a definition, and find them again from what was made of them.

Pure: it fetches and runs nothing. How one node looks in Dagster is the translator's to say.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from dagster_dbtcloud.dbt.manifest import Manifest, Node, collector_at_rest
from dagster_dbtcloud.dbt.selection import select as select_nodes
from dagster_dbtcloud.errors import ConfigError, ManifestError
from dagster_dbtcloud.translator import (
    ASSET_TYPES,
    EPHEMERAL,
    EXPLORE_URL,
    TEST_TYPES,
    UNIQUE_ID,
    DagsterDbtTranslator,
    ProjectLinks,
    Reading,
    remember,
    validate_translator,
)

__all__ = [
    "ENVIRONMENT",
    "EXPLORE_URL",
    "MANIFEST",
    "UNIQUE_ID",
    "DbtSpecs",
    "ProjectLinks",
    "build_specs",
    "manifest_of",
    "specs_of",
]

MANIFEST = "dagster_dbtcloud/manifest"
"""Metadata key of every asset spec and check spec: 12 hex digits of the manifest's digest."""
ENVIRONMENT = "dagster_dbtcloud/environment"
"""The same: dbt Cloud's id of the environment that builds it, where it was known at load."""


@dataclass(frozen=True)
class DbtSpecs:
    """What one definition holds of a manifest.

    ``asset_keys`` and ``check_keys`` are by unique id, for what has a spec here; ``source_keys``
    are those of all sources. ``selected`` is all that dbt's selection took, of any type. ``whole``
    is what Dagster takes when asked for all of it: the assets and their checks, but not the checks
    of sources, because those are checks of assets that are not the definition's.
    """

    manifest: Manifest
    asset_specs: tuple[dg.AssetSpec, ...]
    check_specs: tuple[dg.AssetCheckSpec, ...]
    asset_keys: Mapping[str, dg.AssetKey]
    check_keys: Mapping[str, dg.AssetCheckKey]
    source_keys: Mapping[str, dg.AssetKey] = field(default_factory=dict, repr=False)
    selected: frozenset[str] = field(default=frozenset(), repr=False)
    whole: frozenset[str] | None = field(default=None, repr=False)
    translator: DagsterDbtTranslator = field(
        default_factory=DagsterDbtTranslator, repr=False, compare=False
    )


@collector_at_rest()
def build_specs(
    manifest: Manifest,
    *,
    select: str = "fqn:*",
    exclude: str = "",
    selector: str = "",
    translator: DagsterDbtTranslator,
    links: ProjectLinks | None = None,
    only: Collection[str] | None = None,
) -> DbtSpecs:
    """Build a spec for each model, seed and snapshot that dbt would select, and for their tests.

    With ``only``, for those of these nodes that are selected.

    Ephemeral models and other projects' models make no asset. A test is a check where its own asset
    is in the selection, or its source is read by an asset that is. When two tests would give one
    asset two checks of one name, the first by unique id keeps it (a data test before a unit test)
    and the other's is lengthened by its hash.

    Raises: SelectionError; ConfigError for a translator or meta that cannot be used; ManifestError
    when two nodes have the same asset key.
    """
    translator = validate_translator(translator)
    selected = select_nodes(manifest, select=select, exclude=exclude, selector=selector)
    held = selected if only is None else selected & frozenset(only)
    stamp = {MANIFEST: manifest.digest[:12]}
    if links is not None and links.environment_id is not None:
        stamp[ENVIRONMENT] = str(links.environment_id)
    reading = Reading(
        translator,
        manifest.raw,
        stamp=stamp,
        links=links,
        origin=manifest.origin,
        nodes=manifest.nodes,
    )
    remember(reading)
    assets = {i: node for i, node in manifest.nodes.items() if i in held and is_asset(node)}
    for unique_id in manifest.in_reading_order():
        if unique_id in assets:
            reading.spec(unique_id)
    asset_specs = {i: _stamped(reading.spec(i), reading, i) for i in assets}
    upstream = {parent: None for i in assets for parent in reading.upstream(i)}
    _refuse_shared_keys(manifest, reading, asset_specs, upstream)
    checks = _checks(manifest, reading, held, asset_specs, upstream)
    asset_keys = {unique_id: spec.key for unique_id, spec in asset_specs.items()}
    own_keys = frozenset(asset_keys.values())
    specs = DbtSpecs(
        manifest=manifest,
        asset_specs=tuple(asset_specs.values()),
        check_specs=tuple(checks.values()),
        asset_keys=asset_keys,
        check_keys={unique_id: spec.key for unique_id, spec in checks.items()},
        source_keys={unique_id: reading.key(unique_id) for unique_id in reading.sources()},
        selected=selected,
        whole=frozenset(asset_keys).union(i for i, c in checks.items() if c.asset_key in own_keys),
        translator=translator,
    )
    _register(specs)
    return specs


def is_asset(node: Node) -> bool:
    """Whether dbt builds something for the node that Dagster takes for an asset."""
    return (
        node.resource_type in ASSET_TYPES
        and node.materialized != EPHEMERAL
        and not node.facts.is_external
    )


def _stamped(spec: dg.AssetSpec, reading: Reading, unique_id: str) -> dg.AssetSpec:
    """Put back what ties a spec to its node, where an override took it out."""
    if spec.metadata.get(UNIQUE_ID) == unique_id and reading.stamp.items() <= spec.metadata.items():
        return spec
    return spec.merge_attributes(metadata={UNIQUE_ID: unique_id, **reading.stamp})


def _refuse_shared_keys(
    manifest: Manifest, reading: Reading, assets: Iterable[str], upstream: Iterable[str]
) -> None:
    by_key: dict[dg.AssetKey, list[str]] = {}
    by_output: dict[str, list[str]] = {}
    for unique_id in {**dict.fromkeys(assets), **dict.fromkeys(upstream)}:
        by_key.setdefault(reading.key(unique_id), []).append(unique_id)
    for unique_id in assets:
        # Dagster names an asset's output so: keys that differ by "/" against "__" clash as well.
        output = reading.key(unique_id).to_python_identifier()
        by_output.setdefault(output, []).append(unique_id)
    shared = {tuple(sorted(ids)): None for ids in by_key.values() if len(ids) > 1}
    if reading.translator.settings.enable_duplicate_source_asset_keys:
        shared = {ids: None for ids in shared if not all(i.startswith("source.") for i in ids)}
    shared.update((tuple(sorted(ids)), None) for ids in by_output.values() if len(ids) > 1)
    if shared:
        raise ManifestError(
            f"{manifest.origin}: these nodes have the same asset key:\n"
            + "\n\n".join("\n".join(_located(reading, i) for i in ids) for ids in shared)
            + "\nGive one of each another: by meta.dagster.asset_key in dbt, or by get_asset_key of"
            " a DagsterDbtTranslator. Sources may share one if its settings say"
            " enable_duplicate_source_asset_keys=True.",
            origin=manifest.origin,
        )


def _located(reading: Reading, unique_id: str) -> str:
    path = reading.props(unique_id).get("original_file_path") or "in another project"
    return f"  {reading.key(unique_id).to_user_string()}: {unique_id} ({path})"


def refuse_names(specs: DbtSpecs, refusal: dg.DagsterInvalidDefinitionError) -> None:
    """Say which nodes have the name that Dagster does not take for an output or input of a step.

    Raises: ConfigError, when ``refusal`` is about that.
    """
    found = re.match(
        r'"(?:__subset_input__)?(.*)" is not a valid name in Dagster', str(refusal), re.S
    )
    if found is None:
        return
    keys: dict[str, dg.AssetKey | dg.AssetCheckKey] = {
        **specs.source_keys,
        **specs.asset_keys,
        **specs.check_keys,
    }
    refused = [i for i, key in keys.items() if _plain("_".join(_parts(key))) == _plain(found[1])]
    if not refused:
        return
    nodes = specs.manifest.nodes
    places = [f"{keys[i].to_user_string()}: {i} ({nodes[i].original_file_path})" for i in refused]
    raise ConfigError(
        f"{specs.manifest.origin}: Dagster does not take this key for what a step makes or reads:"
        f"\n  {', '.join(places)}\n{refusal}\nGive it another: an asset by meta.dagster.asset_key"
        " in dbt, or by get_asset_key of a DagsterDbtTranslator; a check by get_asset_check_spec."
    ) from refusal


def _parts(key: dg.AssetKey | dg.AssetCheckKey) -> list[str]:
    return [*key.path] if isinstance(key, dg.AssetKey) else [*key.asset_key.path, key.name]


def _plain(name: str) -> str:
    """Dagster joins the parts of a key by one underscore or two, and writes them for these."""
    return re.sub(r"[-._]+", "_", name)


def _checks(
    manifest: Manifest,
    reading: Reading,
    selected: frozenset[str],
    asset_specs: Mapping[str, dg.AssetSpec],
    upstream: Collection[str],
) -> dict[str, dg.AssetCheckSpec]:
    nodes = manifest.nodes
    tests = (i for i in selected if nodes[i].resource_type in TEST_TYPES)
    taken = {spec.key.to_python_identifier() for spec in asset_specs.values()}
    checks: dict[str, dg.AssetCheckSpec] = {}
    # Sorted, "test." goes before "unit_test.", and the same manifest always gives the same names.
    for test_id in sorted(tests):
        home = reading.home(test_id)
        # An override may want a test as the check of another asset that it touches.
        places = dict.fromkeys((*([home] if home else ()), *reading.upstream(test_id)))
        for place in places:
            if place not in asset_specs and not (place.startswith("source.") and place in upstream):
                continue
            spec = reading.spec(place)
            check = reading.check(spec, test_id)
            if check is not None:
                checks[test_id] = _named_apart(_checked(check, spec, reading, test_id), taken)
                break
    return checks


def _checked(
    check: object, asset_spec: dg.AssetSpec, reading: Reading, test_id: str
) -> dg.AssetCheckSpec:
    """Refuse what an override must not give, and put back what ties a check to its test."""
    name = f"{type(reading.translator).__name__}.get_asset_check_spec"
    if not isinstance(check, dg.AssetCheckSpec):
        raise ConfigError(f"{name} gave {check!r} for {test_id}, not an AssetCheckSpec.")
    if check.asset_key != asset_spec.key:
        raise ConfigError(
            f"{name} gave {test_id} to {check.asset_key.to_user_string()}, but was asked for a"
            f" check of {asset_spec.key.to_user_string()}; return None for those that are not."
        )
    metadata = {UNIQUE_ID: test_id, **reading.stamp}
    if metadata.items() <= check.metadata.items():
        return check
    return check.with_metadata({**check.metadata, **metadata})


def _named_apart(check: dg.AssetCheckSpec, taken: set[str]) -> dg.AssetCheckSpec:
    test_id = check.metadata[UNIQUE_ID]
    # dbt ends the id of a generic test in such a hash itself.
    found = re.search(r"\.([0-9a-f]{10})$", test_id)
    text = test_id.encode(errors="surrogatepass")
    hashed = found[1] if found else hashlib.sha1(text, usedforsecurity=False).hexdigest()[:10]
    while check.get_python_identifier() in taken:  # another test's own name may end in the hash
        check = check._replace(name=f"{check.name}_{hashed}")
    taken.add(check.get_python_identifier())
    return check


_registry: dict[str, tuple[DbtSpecs, ...]] = {}
"""What was built in this process, newest last, by the manifest's digest (its first 12 digits)."""


def _register(specs: DbtSpecs) -> None:
    digest = specs.manifest.digest[:12]
    others = (known for known in _registry.get(digest, ()) if not _same_keys(known, specs))
    _registry[digest] = (*others, specs)


def _same_keys(one: DbtSpecs, other: DbtSpecs) -> bool:
    return (
        one.asset_keys == other.asset_keys
        and one.check_keys == other.check_keys
        and one.source_keys == other.source_keys
        and type(one.translator) is type(other.translator)
    )


def manifest_of(assets: dg.AssetsDefinition | dg.AssetSpec | dg.AssetCheckSpec) -> Manifest:
    """Return the manifest that a definition or spec of ours was built from, in this process.

    Raises: ConfigError if it is not one of ours.
    """
    return specs_of(assets).manifest


def specs_of(assets: dg.AssetsDefinition | dg.AssetSpec | dg.AssetCheckSpec) -> DbtSpecs:
    """Return the ``DbtSpecs`` that a definition or spec of ours comes from.

    Keys that were changed after ``build_specs`` are not those in it; the unique ids are.

    Raises: ConfigError if it is not one of ours.
    """
    ours = [s for s in _specs_in(assets) if UNIQUE_ID in s.metadata and MANIFEST in s.metadata]
    known = _registry.get(_text(ours[0].metadata[MANIFEST]), ()) if ours else ()
    if not known:
        raise ConfigError(
            f"{_name(assets)} was not made from a dbt Cloud workspace in this process: pass what"
            " @dbt_cloud_assets or load_dbt_cloud_asset_specs gave."
        )

    def agreement(specs: DbtSpecs) -> int:
        keys: Mapping[str, Any] = {**specs.asset_keys, **specs.check_keys}
        return sum(keys.get(_text(spec.metadata[UNIQUE_ID])) == spec.key for spec in ours)

    return max(reversed(known), key=agreement)


def _specs_in(
    assets: dg.AssetsDefinition | dg.AssetSpec | dg.AssetCheckSpec,
) -> list[dg.AssetSpec | dg.AssetCheckSpec]:
    if isinstance(assets, (dg.AssetSpec, dg.AssetCheckSpec)):
        return [assets]
    if isinstance(assets, dg.AssetsDefinition):
        return [*assets.specs, *assets.check_specs]
    raise ConfigError(
        f"Expected an AssetsDefinition or an AssetSpec of dbt Cloud assets, not {assets!r}."
    )


def _name(assets: dg.AssetsDefinition | dg.AssetSpec | dg.AssetCheckSpec) -> str:
    if isinstance(assets, dg.AssetsDefinition):
        keys = sorted(key.to_user_string() for key in assets.keys)
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        return f"The definition of {', '.join(keys[:3]) or 'checks'}{more}"
    return f"The spec of {assets.key.to_user_string()}"


def _text(value: object) -> str:
    """Take a metadata entry as text; Dagster may have wrapped it."""
    return value.text or "" if isinstance(value, dg.TextMetadataValue) else str(value)


def compiled_paths(manifest: Manifest) -> dict[str, str]:
    """Return where the compiled code of models and snapshots is, among the artifacts of a run.

    dbt writes it below ``compiled/``, package and source file (docs: Artifacts, "target path").
    """
    return {
        unique_id: f"compiled/{node.package_name}/{node.original_file_path}"
        for unique_id, node in manifest.nodes.items()
        if node.resource_type in ("model", "snapshot")
        and node.original_file_path.endswith((".sql", ".py"))
    }
