"""Build the specs of a definition, and say a part of it back to dbt as a selection.

Pure: it fetches and runs nothing. How one node looks in Dagster is the translator's to say.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import dagster as dg

from dagster_dbtcloud.dbt.expression import Criterion
from dagster_dbtcloud.dbt.manifest import Manifest, Node, collector_at_rest
from dagster_dbtcloud.dbt.methods import METHODS
from dagster_dbtcloud.dbt.selection import select as select_nodes
from dagster_dbtcloud.errors import ConfigError, ManifestError, SelectionError
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
    "EXPLORE_URL",
    "MANIFEST",
    "UNIQUE_ID",
    "DbtSpecs",
    "ProjectLinks",
    "build_specs",
    "manifest_of",
    "node_args",
    "node_args_in_parts",
    "selection_args",
    "specs_of",
    "unit_tests_alone",
]

MANIFEST = "dagster_dbtcloud/manifest"
"""Metadata key of every asset spec and check spec: 12 hex digits of the manifest's digest."""

SHORT_ENOUGH = 1_000
"""Characters up to which a selection names its nodes one by one, for people to read."""

LONGEST = 30_000
"""Characters up to which a selection goes into one command (docs/dbt-cloud-api.md, fact 38)."""

_ENDS = 30
"""How many nodes a graph operator is written for, at most."""

_EFFECTIVE_TYPES = TEST_TYPES | {"function", "saved_query"}
"""Types besides those of assets for which ``dbt build`` does something."""


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
    reading = Reading(
        translator,
        manifest.raw,
        stamp={MANIFEST: manifest.digest[:12]},
        links=links,
        origin=manifest.origin,
        nodes=manifest.nodes,
    )
    remember(reading)
    assets = {i: node for i, node in manifest.nodes.items() if i in held and _is_asset(node)}
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


def _is_asset(node: Node) -> bool:
    return (
        node.resource_type in ASSET_TYPES
        and node.materialized != EPHEMERAL
        and not node.facts.is_external
    )


def _effective(manifest: Manifest) -> frozenset[str]:
    return frozenset(i for i, node in manifest.nodes.items() if _is_effective(node))


def _is_effective(node: Node) -> bool:
    """Tell whether ``dbt build`` does something for the node."""
    return _is_asset(node) or node.resource_type in _EFFECTIVE_TYPES


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
            check = reading.translator.get_asset_check_spec(
                spec, manifest.raw, test_id, reading.project
            )
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
    if check.get_python_identifier() in taken:
        test_id = check.metadata[UNIQUE_ID]
        digest = hashlib.sha1(test_id.encode(), usedforsecurity=False).hexdigest()
        # dbt ends the id of a generic test in such a hash itself.
        found = re.search(r"\.([0-9a-f]{10})$", test_id)
        check = check._replace(name=f"{check.name}_{found[1] if found else digest[:10]}")
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


def selection_args(
    specs: DbtSpecs,
    *,
    asset_keys: Collection[dg.AssetKey],
    check_keys: Collection[dg.AssetCheckKey],
    select: str = "fqn:*",
    exclude: str = "",
    selector: str = "",
) -> tuple[str, ...]:
    """Return the arguments with which a dbt command takes exactly these assets and checks.

    ``select``, ``exclude`` and ``selector`` are the definition's own; see ``node_args``.

    Raises: ConfigError for a key that the definition does not have; SelectionError.
    """
    wanted: set[str] = set()
    known: list[tuple[Collection[Any], Mapping[str, Any]]] = [
        (asset_keys, specs.asset_keys),
        (check_keys, specs.check_keys),
    ]
    for keys, by_id in known:
        ids = {key: unique_id for unique_id, key in by_id.items()}
        for key in keys:
            if key not in ids:
                raise ConfigError(f"{key.to_user_string()} is not made from this dbt project.")
            wanted.add(ids[key])
    return node_args(specs, wanted, select=select, exclude=exclude, selector=selector)


def node_args(
    specs: DbtSpecs,
    unique_ids: Collection[str],
    *,
    select: str = "fqn:*",
    exclude: str = "",
    selector: str = "",
    exact: bool = False,
) -> tuple[str, ...]:
    """Return the arguments with which a dbt command takes exactly the nodes ``unique_ids``.

    For all that the definition holds these are its own ``--select``, ``--exclude`` or
    ``--selector``, whether or not the checks of sources are named. For a part they are the nodes'
    names while that is short, else whatever is shortest of whole folders, names, and the
    definition's own selection without the rest. Every form but the first was found exact by our
    own selection engine, and fixes the mode of indirect selection; with ``exact`` the first, too.
    Where the translator makes no checks, tests run with their assets, as in the whole. Of a unit
    test without its model ``dbt build`` makes nothing (see ``unit_tests_alone``).

    Raises: SelectionError if ``unique_ids`` is empty, or dbt's selection cannot tell them apart.
    """
    wanted = frozenset(unique_ids)
    if not wanted:
        raise SelectionError(
            "Nothing is selected, so there is nothing for dbt to do.",
            text="",
            hint="Select at least one asset or check of the definition.",
        )
    whole = specs.whole
    if whole is None:
        whole = frozenset((*specs.asset_keys, *specs.check_keys))
    if wanted >= whole and not exact:
        return _own_args(select, exclude, selector)
    return _Part(specs, wanted, select.split(), exclude.split(), selector).args()


def node_args_in_parts(
    specs: DbtSpecs,
    unique_ids: Collection[str],
    *,
    select: str = "fqn:*",
    exclude: str = "",
    selector: str = "",
    exact: bool = False,
    longest: int = LONGEST,
) -> list[tuple[str, ...]]:
    """Return what ``node_args`` does, in several parts where one is longer than ``longest``.

    No node of a part depends on one of a later part. A test is in the part of its last parent, or
    in a later one; a unit test is in that of its model. Each part but a single node's is at most
    ``longest`` characters.

    Raises: SelectionError, as ``node_args``.
    """
    own = {"select": select, "exclude": exclude, "selector": selector}
    args = node_args(specs, unique_ids, **own, exact=exact)
    if len(" ".join(args)) <= longest:
        return [args]
    wanted = frozenset(unique_ids)
    return [
        _Part(specs, part, select.split(), exclude.split(), selector, mode="buildable").args()
        for part in _in_parts(specs, wanted, longest)
    ]


def _in_parts(specs: DbtSpecs, wanted: frozenset[str], longest: int) -> Iterator[frozenset[str]]:
    """Cut the nodes, in the order in which dbt would build them, where their names get too long."""
    manifest = specs.manifest
    place = {unique_id: number for number, unique_id in enumerate(manifest.topological())}
    with_model: dict[str, list[str]] = {}
    order: list[tuple[int, int, str]] = []
    for unique_id in wanted:
        node = manifest.nodes[unique_id]
        above = [parent for parent in node.depends_on if parent in place]
        models = [parent for parent in above if parent in wanted]
        if node.resource_type == "unit_test" and models:
            with_model.setdefault(models[0], []).append(unique_id)
        elif node.resource_type in TEST_TYPES:
            order.append((max((place[parent] for parent in above), default=0), 1, unique_id))
        else:
            order.append((place[unique_id], 0, unique_id))
    names = _Names(manifest, others=_effective(manifest) - wanted)
    room = longest - len("--select --indirect-selection buildable")
    part: list[str] = []
    length = 0
    for _, _, unique_id in sorted(order):
        block = [unique_id, *with_model.get(unique_id, ())]
        more = sum(len(names.word(each, compact=False) or "") + 1 for each in block)
        if part and length + more > room:
            yield frozenset(part)
            part, length = [], 0
        part += block
        length += more
    if part:
        yield frozenset(part)


def unit_tests_alone(manifest: Manifest, unique_ids: Collection[str]) -> frozenset[str]:
    """Return those of ``unique_ids`` that ``dbt build`` would pass over without a word.

    It runs a unit test only together with its model; ``dbt test`` runs it alone.
    Source: BuildTask of dbt-core 1.11.
    """
    chosen = frozenset(unique_ids)
    return frozenset(
        unique_id
        for unique_id in chosen
        if manifest.nodes[unique_id].resource_type == "unit_test"
        and chosen.isdisjoint(manifest.nodes[unique_id].depends_on)
    )


def _own_args(select: str, exclude: str, selector: str) -> tuple[str, ...]:
    if selector:
        return ("--selector", selector)
    # Even when it is everything: without a --select, dbt takes the project's default selector.
    words = select.split() or ["fqn:*"]
    return ("--select", *words, *(("--exclude", *exclude.split()) if exclude.split() else ()))


@dataclass(frozen=True)
class _Form:
    """One way to say a selection. An empty ``mode`` leaves indirect selection as it is."""

    select: Sequence[str]
    exclude: Sequence[str] = ()
    mode: str = "empty"
    cost: int = 1
    """How many characters one of its characters counts for: names are easier to read than ends."""

    def args(self) -> tuple[str, ...]:
        args = ["--select", *self.select]
        if self.exclude:
            args += ["--exclude", *self.exclude]
        if self.mode:
            args += ["--indirect-selection", self.mode]
        return tuple(args)

    def length(self) -> int:
        return len(" ".join(self.args()))


class _Part:
    """A part of a definition on its way to arguments."""

    def __init__(
        self,
        specs: DbtSpecs,
        wanted: frozenset[str],
        select: Sequence[str],
        exclude: Sequence[str],
        selector: str,
        *,
        mode: str = "",
    ) -> None:
        self.specs = specs
        self.manifest = specs.manifest
        self.wanted = wanted
        self.own = None if selector else (select or ["fqn:*"], exclude)
        self.assets = wanted & specs.asset_keys.keys()
        self.checks = wanted - self.assets
        self.tests_come_along = not specs.translator.settings.enable_asset_checks
        self.mode = mode if self.tests_come_along else "empty"
        self.effective = _effective(self.manifest)

    def args(self) -> tuple[str, ...]:
        if len(self.assets) <= SHORT_ENOUGH / 2:  # a name and a blank take two characters or more
            named = self._shortest(self._by_names(compact=False))
            if named is not None and named.length() <= SHORT_ENOUGH:
                return named.args()
        forms = [
            *self._by_names(compact=True),
            *self._by_names(compact=False),
            *self._without_the_rest(),
            *self._by_kind(),
        ]
        form = self._shortest(forms)
        if form is None:
            self._refuse()
        return form.args()

    def _shortest(self, forms: Iterable[_Form]) -> _Form | None:
        by_cost = sorted(forms, key=lambda form: form.length() * form.cost)
        return next(filter(self._is_exact, by_cost), None)

    def _is_exact(self, form: _Form) -> bool:
        found = self.effective & select_nodes(
            self.manifest,
            select=form.select,
            exclude=form.exclude,
            indirect_selection=form.mode or "eager",
        )
        if self.tests_come_along:
            return found & self.specs.asset_keys.keys() == self.assets
        return found == self.wanted

    def _by_names(self, *, compact: bool) -> Iterator[_Form]:
        others = self.effective - self.wanted
        if self.tests_come_along:
            others = frozenset(i for i in others if not self._is_test(i))
        names = _Names(self.manifest, others=others)
        words = names.words(self.wanted, compact=compact)
        if words is not None:
            yield _Form(words, mode=self.mode)
        if self.tests_come_along:
            return
        # Shorter where the checks are those that dbt runs with the assets anyway, or nearly so.
        reached = {
            child
            for unique_id in self.assets
            for child in self.manifest.children(unique_id)
            if self._is_test(child)
        }
        extra, missing = reached - self.checks, self.checks - reached
        if len(extra) + len(missing) < len(self.checks):
            words = names.words(self.assets | missing, compact=compact)
            unwanted = _Names(self.manifest, others=self.wanted).words(extra, compact=compact)
            if words is not None and unwanted is not None:
                yield _Form(words, unwanted, mode="eager")

    def _without_the_rest(self) -> Iterator[_Form]:
        if self.own is None or self.tests_come_along:  # dbt ignores --exclude beside --selector
            return
        select, exclude = self.own
        rest = (self.specs.selected & self.effective) - self.wanted
        if len(rest) > len(self.wanted):
            return
        types = {self.manifest.nodes[unique_id].resource_type for unique_id in rest}
        words: list[str] | None
        if types <= TEST_TYPES and not any(map(self._is_test, self.wanted)):
            words = [f"resource_type:{name}" for name in sorted(types)]
        else:
            words = _Names(self.manifest, others=self.wanted).words(rest, compact=True)
        if words is not None:
            yield _Form(select, [*exclude, *words], mode="empty")
            yield _Form(select, [*exclude, *words], mode="eager")

    def _by_kind(self) -> Iterator[_Form]:
        """Begin with what many of the nodes have in common, and mend it by names."""
        modes = (self.mode,) if self.tests_come_along else ("empty", "eager")
        for words in self._in_common():
            for mode in modes:
                form = self._mended(words, mode)
                if form is not None:
                    yield form

    def _in_common(self) -> Iterator[list[str]]:
        own, _ = self.own or (["fqn:*"], ())
        within = [word for word in own if word not in ("fqn:*", "*")]
        names = _Names(self.manifest, others=self.effective - self.wanted)
        parents, children = self.manifest.parents, self.manifest.children
        for sign, near in (("{}+", parents), ("+{}", children)):
            ends = [i for i in sorted(self.assets) if self.assets.isdisjoint(near(i))]
            if len(ends) > _ENDS:
                continue
            words = [names.word(unique_id, compact=False) or "," for unique_id in ends]
            if not any("," in word for word in words):
                signed = [sign.format(word) for word in words]
                yield [f"{a},{b}" for a in signed for b in within] if within else signed
        tagged: dict[str, set[str]] = {}
        for unique_id in self.effective:
            for tag in self.manifest.nodes[unique_id].tags:
                tagged.setdefault(tag, set()).add(unique_id)
        whole = [tag for tag, ids in tagged.items() if ids <= self.wanted and len(ids) > 1]
        # Of tags for the same nodes one is enough: the widest come first, each must add something.
        words, known = [], set[str]()
        for tag in sorted(whole, key=lambda tag: (-len(tagged[tag]), tag)):
            if not tagged[tag] <= known and _safe(tag) == tag:
                words.append(f"tag:{tag}")
                known |= tagged[tag]
        if words:
            yield words
        if len(within) > 1:  # some words of the definition's own selection, whole
            kept = [word for word in within if self._found([word], (), "empty") <= self.wanted]
            if kept:
                yield kept

    def _mended(self, words: Sequence[str], mode: str) -> _Form | None:
        """Add what the words lack, and exclude what they take too much, if that is little."""
        exclude = self.own[1] if self.own else ()
        found = self._found(words, exclude, mode)
        wanted = self.assets if self.tests_come_along else self.wanted
        missing, extra = wanted - found, found - wanted
        tests = {i for i in extra if self._is_test(i)}
        kinds = sorted({self.manifest.nodes[i].resource_type for i in tests})
        without: list[str] = []
        if tests and not self.checks:
            without, extra = [f"resource_type:{kind}" for kind in kinds], extra - tests
        if len(missing) + len(extra) > len(wanted) / 2:
            return None
        added = _Names(self.manifest, others=self.effective - wanted).words(missing, compact=True)
        unwanted = _Names(self.manifest, others=wanted).words(extra, compact=True)
        if added is None or unwanted is None:
            return None
        return _Form([*words, *added], [*exclude, *without, *unwanted], mode, cost=2)

    def _found(self, select: Sequence[str], exclude: Sequence[str], mode: str) -> frozenset[str]:
        try:
            found = self.effective & select_nodes(
                self.manifest, select=select, exclude=exclude, indirect_selection=mode or "eager"
            )
        except SelectionError:
            return self.effective  # of an earlier manifest, for example: nobody here can tell
        return found & self.specs.asset_keys.keys() if self.tests_come_along else found

    def _is_test(self, unique_id: str) -> bool:
        return self.manifest.nodes[unique_id].resource_type in TEST_TYPES

    def _refuse(self) -> NoReturn:
        names = _Names(self.manifest, others=self.effective - self.wanted)
        twins = [i for i in sorted(self.wanted) if names.word(i, compact=False) is None]
        raise SelectionError(
            "dbt's selection cannot tell these from other nodes of the same name:"
            f" {', '.join(twins or sorted(self.wanted))}.",
            text=" ".join(twins),
            hint="Give them another name in dbt, or select the others as well.",
        )


class _Names:
    """Finds for nodes the words that match no node of ``others``; what else exists is no matter."""

    def __init__(self, manifest: Manifest, *, others: frozenset[str]) -> None:
        self.manifest = manifest
        self.others = others
        self._clashes: dict[str, frozenset[str]] = {}

    def words(self, unique_ids: Collection[str], *, compact: bool) -> list[str] | None:
        """Return words that match all of ``unique_ids``, None where one of them has none."""
        words = {self.word(unique_id, compact=compact): None for unique_id in sorted(unique_ids)}
        return None if None in words else [word for word in words if word is not None]

    def word(self, unique_id: str, *, compact: bool) -> str | None:
        """Return a word for a node: its name, or if ``compact`` the largest folder it lies in."""
        node = self.manifest.nodes[unique_id]
        for value in _values(node, compact=compact):
            clashes = self._clash(value)
            if not clashes:
                return _word(value)
            if node.resource_type not in clashes:
                return f"{_word(value)},resource_type:{node.resource_type}"
        return self._by_parent(node)

    def _clash(self, value: str) -> frozenset[str]:
        """Return the types of the others that the value matches."""
        found = self._clashes.get(value)
        if found is None:
            nodes = self.manifest.nodes
            matched = METHODS["fqn"](self.manifest, Criterion("fqn", (), value))
            found = frozenset(nodes[i].resource_type for i in matched if i in self.others)
            self._clashes[value] = found
        return found

    def _by_parent(self, node: Node) -> str | None:
        """Tell twins (one name, folder and type) apart by what they depend on."""
        for parent_id in node.depends_on:
            parent = self.manifest.nodes.get(parent_id)
            if parent is None:
                continue
            for value in _values(node, compact=False):
                for above in _criteria(parent):
                    word = f"{_word(value)},{above}+1"
                    found = select_nodes(self.manifest, select=word, indirect_selection="empty")
                    if node.unique_id in found and found.isdisjoint(self.others):
                        return word
        return None


def _criteria(node: Node) -> Iterator[str]:
    if node.resource_type == "source":
        yield f"source:{_safe(f'{node.package_name}.{node.source_name}.{node.name}')}"
    else:
        yield from map(_word, _values(node, compact=False))


def _values(node: Node, *, compact: bool) -> Iterator[str]:
    """Yield what dbt's fqn method matches a node by: folders from the top if ``compact``, names."""
    fqn = node.fqn
    if compact:
        for depth in range(1, len(fqn)):
            yield _safe(".".join(fqn[:depth]))
    yield _safe(".".join(fqn[-2:]) if node.is_versioned else fqn[-1])
    if len(fqn) > 1:
        yield _safe(".".join(fqn[1:]))
    yield _safe(".".join(fqn))


def _safe(value: str) -> str:
    """Put dbt's wildcard in place of what a word on the command line cannot hold."""
    return re.sub(r"[^\w.:/-]", "?", value)


def _word(value: str) -> str:
    """Return the value as a criterion; alone, where dbt takes it for a name."""
    plain = re.fullmatch(r"[\w?][\w.?-]*", value)
    if plain and not value.lower().endswith((".sql", ".py", ".csv")):
        return value
    return f"fqn:{value}"


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
