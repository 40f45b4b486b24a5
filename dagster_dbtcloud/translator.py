"""Turn the nodes of a dbt manifest into Dagster's words; subclass it to choose your own.

It neither selects nodes nor decides which of them make a definition: ``specs.py`` does.
"""

# No `from __future__ import annotations`: Dagster reads those of the settings as objects.

import hashlib
import inspect
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote

import dagster as dg

from dagster_dbtcloud.dbt.manifest import Node
from dagster_dbtcloud.errors import ConfigError, DbtCloudError, ManifestError

UNIQUE_ID = "dagster_dbtcloud/unique_id"
"""Metadata key of every asset spec and check spec: the node's unique id in dbt."""
EXPLORE_URL = "dagster_dbtcloud/explore_url"
"""Metadata key of an asset spec: its page in dbt Cloud."""
NAMESPACE = "dagster_dbtcloud/"
"""Prefix of the metadata keys that describe a node rather than the table it makes."""

ASSET_TYPES = frozenset({"model", "seed", "snapshot"})
TEST_TYPES = frozenset({"test", "unit_test"})
EPHEMERAL = "ephemeral"
"""The materialization of a model that is inlined into others rather than built."""

MAX_SQL_LENGTH = 8_000  # characters of raw code shown in a description
_MAX_READINGS = 4  # manifests that one translator remembers

_THROUGH_TYPES = frozenset({"function", "metric", "semantic_model", "saved_query"})
"""Types that are no assets themselves; what depends on them depends on their parents."""
_COLLECTIONS = (
    *("nodes", "sources", "unit_tests", "functions", "exposures"),
    *("metrics", "semantic_models", "saved_queries"),
)
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_NOTHING_KNOWN: Mapping[str, Any] = {
    **dict.fromkeys(("original_file_path", "path", "description", "raw_code"), ""),
    **dict.fromkeys(("meta", "config", "columns"), _NOTHING),
    "tags": (),
    "depends_on": MappingProxyType({"nodes": ()}),
}
_NAMES = ("unique_id", "resource_type", "package_name", "name")
"""What every node has in dbt, and its id tells."""
_NAMES_OF_SOURCES = (*_NAMES, "source_name")
_VERSIONED = re.compile(r"model\.[^.]+\.(?P<name>[^.]+)\.v(?P<version>.+)")
_LENIENT = "surrogatepass"
"""Texts of dbt may hold half a character: names of files that are no UTF-8 do."""
_DEPS_HOLD_METADATA = "metadata" in inspect.signature(dg.AssetDep.__new__).parameters
"""The first releases of Dagster 1.12 have no metadata on dependencies."""
_TAG_KEY = re.compile(r"(?:(?:[\w.-]{1,63}|dagster/kind)/)?[\w.-]{1,63}", re.ASCII)
_NOT_IN_CHECK_NAME = re.compile(r"[^\w.]", re.ASCII)

Props = Mapping[str, Any]
"""A node's whole entry in manifest.json."""

_logger = logging.getLogger("dagster_dbtcloud")
_T = TypeVar("_T")


@dataclass(frozen=True)
class DagsterDbtTranslatorSettings(dg.Resolvable):
    """What the default translation does; the fields are those that dagster-dbt's users know.

    - ``enable_asset_checks``: dbt's tests and unit tests are asset checks.
    - ``enable_source_tests_as_checks``: so are the tests of sources, on the source's asset key.
    - ``enable_duplicate_source_asset_keys``: several sources may share an asset key.
    - ``enable_source_metadata``: a dependency on a source tells the source's table and columns.
    - ``enable_dbt_views_as_virtual_assets``: views are virtual assets of the kind ``view``.
    - ``enable_code_references``: refused: there is no dbt project on this machine to refer to.
    - ``enable_dbt_selection_by_name``: without effect; the shortest exact form is always taken.
    """

    enable_asset_checks: bool = True
    enable_duplicate_source_asset_keys: bool = False
    enable_code_references: bool = False
    enable_dbt_selection_by_name: bool = False
    enable_source_tests_as_checks: bool = True
    enable_source_metadata: bool = True
    enable_dbt_views_as_virtual_assets: bool = False


@dataclass(frozen=True)
class ProjectLinks:
    """Where a project's pages in dbt Cloud are; ``access_url`` has no trailing slash."""

    access_url: str
    account_id: int
    project_id: int
    environment_id: int | None = None

    def explore_url(self, unique_id: str) -> str:
        """Return the address of a node's page in dbt Cloud's catalog.

        Source: observed in a browser, documented nowhere; ``production`` is a word, not an id.
        """
        return (
            f"{self.access_url}/explore/{self.account_id}/projects/{self.project_id}"
            f"/environments/production/details/{quote(unique_id, errors=_LENIENT)}"
        )


class DagsterDbtTranslator:
    """Derives specs from nodes. Override a method to change one thing, for instance::

        class OurTranslator(DagsterDbtTranslator):
            def get_group_name(self, dbt_resource_props):
                return dbt_resource_props["fqn"][1]

    The methods that take ``dbt_resource_props`` get the node's whole entry in manifest.json.
    ``get_asset_spec`` and ``get_asset_check_spec`` see the result as a whole, and other nodes; a
    key changed there is the one that dependencies and checks of other nodes use. Each is asked once
    per node. A subclass need not call ``__init__``.
    """

    _settings: DagsterDbtTranslatorSettings | None = None
    _readings: "dict[int, Reading] | None" = None

    def __init__(self, settings: DagsterDbtTranslatorSettings | None = None) -> None:
        self._settings = settings

    @property
    def settings(self) -> DagsterDbtTranslatorSettings:
        if self._settings is None:
            self._settings = DagsterDbtTranslatorSettings()
        return self._settings

    def get_resource_props(self, manifest: Mapping[str, Any], unique_id: str) -> Props:
        """Return the entry of ``unique_id`` in the manifest.

        For a model of another project that this manifest only refers to, it is a stand-in made
        from its unique id. Raises: ConfigError if no node has this id.
        """
        return reading_of(self, manifest).props(unique_id)

    def get_asset_spec(
        self, manifest: Mapping[str, Any], unique_id: str, project: Any
    ) -> dg.AssetSpec:
        """Return the asset spec of a model, seed, snapshot or source.

        ``manifest`` is manifest.json as parsed. ``project`` is always None; it is there so that
        overrides written for dagster-dbt fit.
        """
        reading = reading_of(self, manifest, project)
        props = self.get_resource_props(manifest, unique_id)
        settings = self.settings
        if settings.enable_code_references:
            raise ConfigError(
                "enable_code_references needs the dbt project on disk, which dbt Cloud keeps;"
                " link to its repository in get_metadata instead."
            )
        is_virtual = settings.enable_dbt_views_as_virtual_assets and _materialized(props) == "view"
        adapter_type = reading.adapter_type
        kinds = {"dbtcloud", *([adapter_type] if adapter_type else []), *["view"] * is_virtual}
        # dagster-dbt takes None for no metadata, so overrides may return it
        metadata = {**(self.get_metadata(props) or {}), UNIQUE_ID: unique_id, **reading.stamp}
        if adapter_type:
            metadata["dagster/storage_kind"] = adapter_type
        if reading.links is not None:
            metadata[EXPLORE_URL] = dg.MetadataValue.url(reading.links.explore_url(unique_id))
        key = self.get_asset_key(props)
        extra: dict[str, Any] = {"is_virtual": True} if is_virtual else {}
        return dg.AssetSpec(
            key=key,
            deps=self._deps(reading, unique_id, props, key),
            description=self.get_description(props),
            metadata=metadata,
            skippable=True,
            group_name=self.get_group_name(props),
            code_version=self.get_code_version(props),
            automation_condition=self.get_automation_condition(props),
            owners=self.get_owners(reading.with_group(props)),
            tags=self.get_tags(props),
            kinds=kinds,
            partitions_def=self.get_partitions_def(props),
            **extra,
        )

    def _deps(
        self, reading: "Reading", unique_id: str, props: Props, key: dg.AssetKey
    ) -> list[dg.AssetDep]:
        deps: dict[dg.AssetKey, dg.AssetDep] = {}
        base = DagsterDbtTranslator.get_partition_mapping
        maps_partitions = getattr(self.get_partition_mapping, "__func__", None) is not base
        for parent in reading.upstream(unique_id):
            dep = reading.dep(parent)
            if dep.asset_key in deps:  # several sources may share one key
                continue
            if maps_partitions:  # else no parent's entry need be read
                mapping = self.get_partition_mapping(props, reading.props(parent))
                if mapping is not None:
                    dep = _asset_dep(dep.asset_key, mapping, getattr(dep, "metadata", None))
            deps[dep.asset_key] = dep
        if dagster_meta(props).get("has_self_dependency"):
            mapping = self.get_partition_mapping(props, props)
            if mapping is not None:
                deps[key] = _asset_dep(key, mapping)
        return list(deps.values())

    def get_asset_check_spec(
        self,
        asset_spec: dg.AssetSpec,
        manifest: Mapping[str, Any],
        unique_id: str,
        project: Any,
    ) -> dg.AssetCheckSpec | None:
        """Return the check spec of a test or unit test, None if it is no check of ``asset_spec``.

        A failed check blocks what is downstream, as the test does in ``dbt build``, unless its
        severity is ``warn`` or its ``meta.dagster.blocking`` says otherwise.
        """
        settings = self.settings
        if not settings.enable_asset_checks:
            return None
        reading = reading_of(self, manifest, project)
        home = reading.home(unique_id)
        if home is None or reading.key(home) != asset_spec.key:
            return None
        if home.startswith("source.") and not settings.enable_source_tests_as_checks:
            return None
        props = self.get_resource_props(manifest, unique_id)
        deps = map(reading.dep, reading.upstream(unique_id))
        others = {dep.asset_key: dep for dep in deps if dep.asset_key != asset_spec.key}
        blocking = dagster_meta(props).get("blocking")
        if blocking is None:
            blocking = str(_config(props).get("severity") or "error").lower() == "error"
        return dg.AssetCheckSpec(
            name=_NOT_IN_CHECK_NAME.sub("_", props["name"]),
            asset=asset_spec.key,
            description=props.get("description") or _meta(props).get("description"),
            additional_deps=list(others.values()),
            blocking=bool(blocking),
            metadata={UNIQUE_ID: unique_id, **reading.stamp},
        )

    def get_asset_key(self, dbt_resource_props: Props) -> dg.AssetKey:
        """Return ``meta.dagster.asset_key``, else the key that dagster-dbt gives.

        That is ``[source, table]`` for a source, ``[alias]`` for a versioned model, and
        ``[name]``, or ``[schema, name]`` where a schema is configured, for all others.
        """
        return default_asset_key(dbt_resource_props)

    def get_description(self, dbt_resource_props: Props) -> str:
        """Return the node's description and its raw code, shortened to ``MAX_SQL_LENGTH``."""
        return default_description(dbt_resource_props)

    def get_metadata(self, dbt_resource_props: Props) -> Mapping[str, Any]:
        """Return columns, table name and materialization."""
        return default_metadata_from_dbt_resource_props(dbt_resource_props)

    def get_tags(self, dbt_resource_props: Props) -> Mapping[str, str]:
        """Return the node's tags as keys without a value, but for those Dagster cannot hold."""
        return _tags(dbt_resource_props.get("tags") or ())

    def get_group_name(self, dbt_resource_props: Props) -> str | None:
        """Return ``meta.dagster.group``, else dbt's group."""
        return default_group_from_dbt_resource_props(dbt_resource_props)

    def get_code_version(self, dbt_resource_props: Props) -> str | None:
        """Return the SHA-1 of the raw code, or for a seed dbt's checksum of the file."""
        code = dbt_resource_props.get("raw_sql") or dbt_resource_props.get("raw_code")
        if code:
            return hashlib.sha1(code.encode(errors=_LENIENT), usedforsecurity=False).hexdigest()
        checksum = dbt_resource_props.get("checksum")
        return checksum.get("checksum") if isinstance(checksum, Mapping) else None

    def get_owners(self, dbt_resource_props: Props) -> Sequence[str] | None:
        """Return ``meta.dagster.owners``, else the addresses of the owner of the node's group.

        Here, and only here, ``group`` is the group's whole entry rather than its name.
        """
        owners = dagster_meta(dbt_resource_props).get("owners")
        if not owners:
            group = dbt_resource_props.get("group")
            owner = group.get("owner") if isinstance(group, Mapping) else None
            owners = owner.get("email") if isinstance(owner, Mapping) else None
        return [owners] if isinstance(owners, str) else owners or None

    def get_automation_condition(
        self, dbt_resource_props: Props
    ) -> dg.AutomationCondition[Any] | None:
        """Return what ``meta.dagster.automation_condition`` names, or the older policy's like.

        That is ``eager``, ``on_missing`` or a mapping of ``type: on_cron``, ``cron_schedule`` and
        perhaps ``cron_timezone``. The older ``auto_materialize_policy``, a mapping of
        ``type: eager`` or ``type: lazy``, is read too.
        """
        policy = self.get_auto_materialize_policy(dbt_resource_props)
        if policy is not None:
            condition: dg.AutomationCondition[Any] = policy.to_automation_condition()
            return condition
        return _automation_condition(dbt_resource_props)

    def get_auto_materialize_policy(self, dbt_resource_props: Props) -> Any:  # noqa: ARG002
        """Deprecated with Dagster's AutoMaterializePolicy: honoured where overridden."""
        return None

    def get_partitions_def(
        self,
        dbt_resource_props: Props,  # noqa: ARG002
    ) -> dg.PartitionsDefinition[Any] | None:
        """Return the partitions of the node's asset; by default there are none."""
        return None

    def get_partition_mapping(
        self,
        dbt_resource_props: Props,  # noqa: ARG002
        dbt_parent_resource_props: Props,  # noqa: ARG002
    ) -> dg.PartitionMapping | None:
        """Return how the node's partitions depend on those of a parent; None is Dagster's default.

        A node with ``meta.dagster.has_self_dependency`` is asked with itself as the parent, and
        depends on itself if that gives a mapping.
        """
        return None


def validate_translator(translator: object) -> DagsterDbtTranslator:
    """Return ``translator`` if it is one. Raises: ConfigError, telling what to pass instead."""
    if isinstance(translator, DagsterDbtTranslator):
        return translator
    if isinstance(translator, type) and issubclass(translator, DagsterDbtTranslator):
        raise ConfigError(
            f"dagster_dbt_translator is the class {translator.__name__}, not an instance:"
            f" pass {translator.__name__}()."
        )
    kind = type(translator)
    hint = (
        " Let its class inherit from dagster_dbtcloud.DagsterDbtTranslator instead."
        if kind.__module__.partition(".")[0] == "dagster_dbt"
        or any(base.__module__.startswith("dagster_dbt.") for base in kind.__mro__)
        else ""
    )
    raise ConfigError(
        "dagster_dbt_translator must be an instance of dagster_dbtcloud.DagsterDbtTranslator,"
        f" not {kind.__module__}.{kind.__qualname__}.{hint}"
    )


def default_asset_key(dbt_resource_props: Props) -> dg.AssetKey:
    """Return a node's asset key as ``DagsterDbtTranslator.get_asset_key`` tells."""
    props = dbt_resource_props
    configured = dagster_meta(props).get("asset_key")
    if configured:
        if isinstance(configured, str) or (
            isinstance(configured, list) and all(isinstance(part, str) for part in configured)
        ):
            return dg.AssetKey(configured)
        raise ConfigError(
            f"{_place(props)}: meta.dagster.asset_key must be a list of texts, not {configured!r}."
        )
    if props["resource_type"] == "source":
        return dg.AssetKey([props["source_name"], props["name"]])
    if props.get("version"):
        return dg.AssetKey([props.get("alias") or _versioned(props["name"], props["version"])])
    schema = _config(props).get("schema")
    return dg.AssetKey([schema, props["name"]] if schema is not None else [props["name"]])


def default_description(dbt_resource_props: Props, display_raw_sql: bool = True) -> str:
    """Return the node's description and, unless told not to, its raw code up to the limit."""
    props = dbt_resource_props
    text = props.get("description") or f"dbt {props['resource_type']} {props['name']}"
    code = props.get("raw_sql") or props.get("raw_code")
    if not (display_raw_sql and code):
        return str(text)
    language = props.get("language") or "sql"
    if len(code) > MAX_SQL_LENGTH:
        mark = "#" if language == "python" else "--"
        left = len(code) - MAX_SQL_LENGTH
        code = f"{code[:MAX_SQL_LENGTH]}\n{mark} ... and {left:,} more characters"
    fence = "````" if "```" in code else "```"
    title = "Python" if language == "python" else "SQL"
    return f"{text}\n\n#### Raw {title}:\n{fence}{language}\n{code}\n{fence}"


def default_metadata_from_dbt_resource_props(dbt_resource_props: Props) -> Mapping[str, Any]:
    """Return a node's columns, table name and materialization, under the keys Dagster knows."""
    props = dbt_resource_props
    metadata: dict[str, Any] = {}
    materialized = _materialized(props)
    if materialized:
        metadata["dagster-dbt/materialization_type"] = materialized
    columns = props.get("columns")
    if columns:
        metadata["dagster/column_schema"] = dg.TableSchema(
            columns=[
                dg.TableColumn(
                    name=name,
                    type=column.get("data_type") or "?",
                    description=column.get("description"),
                    constraints=_column_constraints(column.get("constraints")),
                    tags=_tags(column["tags"]) if column.get("tags") else None,
                )
                for name, column in columns.items()
            ]
        )
    if relation := _table_name(props):
        metadata["dagster/table_name"] = relation
    return metadata


def _table_name(props: Props) -> str:
    """Return the relation as Dagster's ``table_name`` wants it: unquoted, as far as it is known."""
    table = (
        props.get("identifier") or props.get("name")
        if props.get("resource_type") == "source"
        else props.get("alias")
    )
    return _dotted(props.get("database"), props.get("schema"), table)


def _dotted(*parts: str | None) -> str:
    return ".".join(part for part in parts if part)


def default_group_from_dbt_resource_props(dbt_resource_props: Props) -> str | None:
    """Return ``meta.dagster.group``, else the dbt group that the node's config names."""
    return (
        dagster_meta(dbt_resource_props).get("group")
        or _config(dbt_resource_props).get("group")
        or None
    )


def group_from_dbt_resource_props_fallback_to_directory(dbt_resource_props: Props) -> str | None:
    """Return the node's group, else the top folder below the models directory that it lies in."""
    group = default_group_from_dbt_resource_props(dbt_resource_props)
    fqn: Sequence[str] = dbt_resource_props.get("fqn") or []
    return group if group is not None or len(fqn) < 3 else fqn[1]


def dagster_meta(dbt_resource_props: Props) -> Mapping[str, Any]:
    """Return ``meta.dagster`` of a node; what its ``config.meta`` says goes first.

    Raises: ConfigError if it is not a mapping.
    """
    own = (dbt_resource_props.get("meta") or _NOTHING).get("dagster")
    configured = (_config(dbt_resource_props).get("meta") or _NOTHING).get("dagster")
    if not own and not configured:
        return _NOTHING
    for found in (own, configured):
        if found and not isinstance(found, Mapping):
            raise ConfigError(
                f"{_place(dbt_resource_props)}: meta.dagster must be a mapping, not {found!r}."
            )
    return {**own, **configured} if own and configured else configured or own or _NOTHING


class Reading:
    """One manifest as one translator reads it: each node translated once, parents before children.

    ``stamp`` is metadata for every spec. ``nodes`` are those of the manifest, where it was read as
    one: what they have at hand is not looked for in their entries. Nothing here recurses: chains
    may be thousands long.
    """

    def __init__(
        self,
        translator: DagsterDbtTranslator,
        manifest: Mapping[str, Any],
        project: Any = None,
        *,
        stamp: Mapping[str, Any] | None = None,
        links: ProjectLinks | None = None,
        origin: str = "the manifest",
        nodes: Mapping[str, Node] | None = None,
    ) -> None:
        self.translator = translator
        self.manifest = manifest
        self.nodes = nodes or {}
        self.project = project
        self.stamp = stamp or {}
        self.links = links
        self.origin = origin
        self.adapter_type: str | None = (manifest.get("metadata") or {}).get("adapter_type")
        self._collections = [manifest[name] for name in _COLLECTIONS if manifest.get(name)]
        self._stand_ins: dict[str, Props] = {}
        self._roles: dict[str, str] = {}
        self._upstream: dict[str, tuple[str, ...]] = {}
        self._specs: dict[str, dg.AssetSpec] = {}
        self._deps: dict[str, dg.AssetDep] = {}
        self._homes: dict[str, str | None] = {}

    def props(self, unique_id: str) -> Props:
        """Return a node's entry. Raises: ConfigError if there is none."""
        found = self._find(unique_id)
        if found is None:
            raise ConfigError(f"There is no {unique_id} in this manifest.")
        is_source = unique_id.startswith("source.")
        if not all(map(found.get, _NAMES_OF_SOURCES if is_source else _NAMES)):
            told = _names_in(unique_id)
            found = {**found, **{name: told[name] for name in told if not found.get(name)}}
        if unique_id.startswith("unit_test."):
            # dbt gives a unit test these in its config only; overrides look where tests have them.
            config = _config(found)
            return {"tags": config.get("tags", []), "meta": config.get("meta", {}), **found}
        return found

    def _find(self, unique_id: str) -> Props | None:
        for entries in self._collections:
            found: Props | None = entries.get(unique_id)
            if found is not None:
                return found
        return self._stand_ins.get(unique_id)

    def spec(self, unique_id: str) -> dg.AssetSpec:
        """Return the spec of a model, seed, snapshot or source as the translator has it."""
        spec = self._specs.get(unique_id)
        if spec is None:
            spec = self._settle(unique_id, self._specs, self.upstream, self._translate)
        return spec

    def key(self, unique_id: str) -> dg.AssetKey:
        """Return the key of a model, seed, snapshot or source as the translator has it."""
        return self.spec(unique_id).key

    def _translate(self, unique_id: str) -> dg.AssetSpec:
        try:
            spec = self.translator.get_asset_spec(self.manifest, unique_id, self.project)
        except DbtCloudError:
            raise
        except Exception as error:  # an override may raise anything, and Dagster's own checks do
            raise self._named(error, unique_id) from error
        if isinstance(spec, dg.AssetSpec):
            return spec
        raise ConfigError(
            f"{type(self.translator).__name__}.get_asset_spec gave {spec!r} for {unique_id},"
            " not an AssetSpec."
        )

    def check(self, asset_spec: dg.AssetSpec, test_id: str) -> dg.AssetCheckSpec | None:
        """Return the check spec of a test as the translator has it; None if it is none of these."""
        try:
            return self.translator.get_asset_check_spec(
                asset_spec, self.manifest, test_id, self.project
            )
        except DbtCloudError:
            raise
        except Exception as error:  # an override may raise anything, and Dagster's own checks do
            raise self._named(error, test_id) from error

    def _named(self, error: Exception, unique_id: str) -> Exception:
        """Name the node in what stops it from being translated."""
        place = _place(self.props(unique_id))
        if isinstance(error, dg.DagsterInvalidDefinitionError):
            return dg.DagsterInvalidDefinitionError(f"{place}: {error}")
        return ConfigError(
            f"{place}: {type(self.translator).__name__} cannot make it an asset or a check:"
            f" {type(error).__name__}: {error}"
        )

    def dep(self, unique_id: str) -> dg.AssetDep:
        """Return the dependency on a node, told about by metadata if it is a source."""
        dep = self._deps.get(unique_id)
        if dep is None:
            spec = self.spec(unique_id)
            metadata = None
            if (
                unique_id.startswith("source.")
                and self.translator.settings.enable_source_metadata
                and spec.key not in self._shared_source_keys
            ):
                metadata = {
                    name: value
                    for name, value in spec.metadata.items()
                    if not name.startswith(NAMESPACE)
                }
                if metadata.get("dagster/table_name") in self._own_tables:
                    # Dagster would take the source for the node of ours with this relation, which
                    # may be a dependency already, or lie downstream
                    del metadata["dagster/table_name"]
            dep = self._deps[unique_id] = _asset_dep(spec.key, metadata=metadata)
        return dep

    @cached_property
    def _own_tables(self) -> frozenset[str]:
        """The relations that this project builds itself, as ``dagster/table_name`` writes them."""
        if self.nodes:
            tables = (
                _dotted(node.database, node.schema_, node.alias)
                for node in self.nodes.values()
                if node.resource_type in ASSET_TYPES
            )
        else:
            tables = (
                _table_name(props)
                for props in (self.manifest.get("nodes") or {}).values()
                if props.get("resource_type") in ASSET_TYPES
            )
        return frozenset(name for name in tables if name)

    @cached_property
    def _shared_source_keys(self) -> frozenset[dg.AssetKey]:
        seen: set[dg.AssetKey] = set()
        shared: set[dg.AssetKey] = set()
        for unique_id in self.sources():
            key = self.key(unique_id)
            (shared if key in seen else seen).add(key)
        return frozenset(shared)

    def sources(self) -> Iterator[str]:
        """Yield the unique ids of all enabled sources."""
        if self.nodes:
            yield from (i for i, node in self.nodes.items() if node.resource_type == "source")
            return
        for unique_id, props in (self.manifest.get("sources") or {}).items():
            if _config(props).get("enabled") is not False:
                yield unique_id

    def upstream(self, unique_id: str) -> tuple[str, ...]:
        """Return the nearest assets and sources above a node, in the order of its ``depends_on``.

        What is no asset itself, such as an ephemeral model, stands for its own parents.
        """
        upstream = self._upstream.get(unique_id)
        if upstream is None:
            parents = self._parents(unique_id)
            if all(self._role(parent) == "asset" for parent in parents):
                upstream = self._upstream[unique_id] = tuple(dict.fromkeys(parents))
                return upstream
            upstream = self._settle(unique_id, self._upstream, self._through, self._nearest)
        return upstream

    def _through(self, unique_id: str) -> list[str]:
        return [p for p in self._parents(unique_id) if self._role(p) == "through"]

    def _parents(self, unique_id: str) -> Sequence[str]:
        node = self.nodes.get(unique_id)
        return node.depends_on if node is not None else _parents(self.props(unique_id))

    def _nearest(self, unique_id: str) -> tuple[str, ...]:
        parents = self._parents(unique_id)
        if len(parents) == 1 and parents[0] in self._upstream and self._role(parents[0]) != "asset":
            return self._upstream[parents[0]]  # shared, so that a long chain stays linear
        nearest: dict[str, None] = {}
        for parent in parents:
            role = self._role(parent)
            if role == "asset":
                nearest[parent] = None
            elif role == "through":
                nearest.update(dict.fromkeys(self._upstream[parent]))
        return tuple(nearest)

    def _role(self, unique_id: str) -> str:
        """Say what a parent is to its child: an asset, a way through to others, or nothing."""
        role = self._roles.get(unique_id)
        if role is None:
            role = self._roles[unique_id] = self._find_role(unique_id)
        return role

    def _find_role(self, unique_id: str) -> str:
        node = self.nodes.get(unique_id)
        if node is not None:
            resource_type, materialized = node.resource_type, node.materialized
        else:
            props = self._find(unique_id) or self._stand_in(unique_id)
            if props is None or _config(props).get("enabled") is False:
                return ""
            resource_type = props.get("resource_type") or unique_id.partition(".")[0]
            materialized = _materialized(props)
        if resource_type == "source":
            return "asset"
        if resource_type in ASSET_TYPES:
            return "through" if materialized == EPHEMERAL else "asset"
        return "through" if resource_type in _THROUGH_TYPES else ""

    def _stand_in(self, unique_id: str) -> Props | None:
        resource_type, _, tail = unique_id.partition(".")
        parts = tail.split(".")
        known = ASSET_TYPES | {"source"}
        if resource_type not in known or len(parts) < 2 or self._is_disabled(unique_id):
            return None
        names = _names_in(unique_id)
        versioned = _VERSIONED.fullmatch(unique_id)
        version = versioned["version"] if versioned else None
        props = self._stand_ins[unique_id] = {
            **names,
            "alias": _versioned(names["name"], version),
            "version": version,
            "fqn": parts,
            **_NOTHING_KNOWN,
        }
        return props

    def _is_disabled(self, unique_id: str) -> bool:
        return unique_id in (self.manifest.get("disabled") or ())

    def with_group(self, props: Props) -> Props:
        """Return ``props`` with the group's whole entry in place of its name."""
        group = self._groups.get(props.get("group") or "")
        return {**props, "group": group} if group else props

    @cached_property
    def _groups(self) -> Mapping[str, Props]:
        groups = (self.manifest.get("groups") or {}).values()
        return {group["name"]: group for group in groups if group.get("name")}

    def home(self, test_id: str) -> str | None:
        """Return the unique id of the asset or source that a test is a check of, None for none.

        It is the node that ``meta.dagster.ref`` names; else the only parent; else the one that a
        generic test was declared on; else the first one that the test's code refers to. For an
        ephemeral model it is the first of the nearest assets above.
        """
        if test_id not in self._homes:
            self._homes[test_id] = self._find_home(test_id)
        return self._homes[test_id]

    def _find_home(self, test_id: str) -> str | None:
        props = self.props(test_id)
        parents = self._parents(test_id)
        found = self._named_by_ref(props)
        if found is None and len(parents) == 1:
            found = parents[0]
        if found is None and props.get("resource_type") == "unit_test":
            tested = props.get("model")
            found = next((p for p in parents if (self._find(p) or {}).get("name") == tested), None)
        if found is None:
            found = props.get("attached_node")
        role = self._role(found) if found is not None else ""
        if found is not None and role == "asset":
            return found
        above = self.upstream(found if found is not None and role == "through" else test_id)
        return above[0] if above else None

    def _named_by_ref(self, props: Props) -> str | None:
        ref = dagster_meta(props).get("ref")
        if not ref:
            return None
        if not isinstance(ref, Mapping) or "name" not in ref:
            raise ConfigError(
                f"{_place(props)}: meta.dagster.ref must be a mapping with a name, not {ref!r}."
            )
        package = ref.get("package") or (self.manifest.get("metadata") or {}).get("project_name")
        wanted = (str(ref["name"]), str(package or ""), str(ref.get("version") or ""))
        found = self._by_name.get(wanted)
        if found is None:
            _logger.warning(
                "%s: meta.dagster.ref names %s, which is not in the manifest; the check goes where"
                " it would go without.",
                _place(props),
                dict(ref),
            )
        return found

    @cached_property
    def _by_name(self) -> Mapping[tuple[str, str, str], str]:
        if self.nodes:
            return {
                (node.name, node.package_name, str(node.version or "")): unique_id
                for unique_id, node in self.nodes.items()
                if node.resource_type in ASSET_TYPES
            }
        return {
            (props["name"], props["package_name"], str(props.get("version") or "")): unique_id
            for unique_id, props in (self.manifest.get("nodes") or {}).items()
            if props.get("resource_type") in ASSET_TYPES
        }

    def _settle(
        self,
        start: str,
        done: dict[str, _T],
        needs: Callable[[str], Collection[str]],
        make: Callable[[str], _T],
    ) -> _T:
        """Fill ``done[start]``, and first all that it needs, without recursion."""
        opened: set[str] = set()
        stack = [start]
        while stack:
            current = stack[-1]
            if current in done:
                stack.pop()
                continue
            missing = [need for need in needs(current) if need not in done]
            if not missing:
                done[current] = make(current)
                stack.pop()
            elif current in opened:
                raise ManifestError(
                    f"{self.origin}: the graph has a cycle through {current}.", origin=self.origin
                )
            else:
                opened.add(current)
                stack.extend(missing)
        return done[start]


def reading_of(
    translator: DagsterDbtTranslator, manifest: Mapping[str, Any], project: Any = None
) -> Reading:
    """Return what ``translator`` worked out about ``manifest`` so far."""
    readings = translator._readings or {}
    reading = readings.get(id(manifest))
    if reading is None or reading.manifest is not manifest:
        reading = Reading(translator, manifest, project)
        remember(reading)
    return reading


def remember(reading: Reading) -> None:
    """Let the translator's own methods use ``reading`` for its manifest from now on."""
    others = list((reading.translator._readings or {}).values())[1 - _MAX_READINGS :]
    # Made anew and put in place at once: another thread may be looking.
    reading.translator._readings = {
        id(kept.manifest): kept
        for kept in (*others, reading)
        if kept is reading or kept.manifest is not reading.manifest
    }


def _config(props: Props) -> Mapping[str, Any]:
    return props.get("config") or _NOTHING


def _meta(props: Props) -> Mapping[str, Any]:
    return _config(props).get("meta") or props.get("meta") or {}


def _parents(props: Props) -> Sequence[str]:
    return (props.get("depends_on") or {}).get("nodes") or ()


def _materialized(props: Props) -> str | None:
    return _config(props).get("materialized")


def _place(props: Props) -> str:
    path = props.get("original_file_path")
    return f"{props.get('unique_id')} ({path})" if path else str(props.get("unique_id"))


def _names_in(unique_id: str) -> dict[str, str]:
    """Return what the id of a node tells: type, package and name, and the name of a source."""
    resource_type, _, tail = unique_id.partition(".")
    package, *parts = tail.split(".")
    name = parts[-1] if parts else package
    if parts and (resource_type == "test" or _VERSIONED.fullmatch(unique_id)):
        name = parts[0]  # a hash or a version follows
    names = {"resource_type": resource_type, "package_name": package, "name": name}
    source_name = {"source_name": parts[0] if parts else name}
    return {"unique_id": unique_id, **names, **(source_name if resource_type == "source" else {})}


def _versioned(name: str, version: object) -> str:
    """Return the alias that dbt gives to a version of a model."""
    return f"{name}_v{version}" if version else name


def _asset_dep(
    key: dg.AssetKey,
    mapping: dg.PartitionMapping | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> dg.AssetDep:
    described = {"metadata": metadata} if metadata and _DEPS_HOLD_METADATA else {}
    return dg.AssetDep(key, partition_mapping=mapping, **described)


def _tags(tags: Sequence[str] | str) -> dict[str, str]:
    if isinstance(tags, str):
        tags = [tags]
    return {tag: "" for tag in tags if _TAG_KEY.fullmatch(tag)}


def _column_constraints(constraints: object) -> dg.TableColumnConstraints | None:
    """Read the constraints of a model's contract; what Dagster has no word for stays as text."""
    if not constraints or not isinstance(constraints, list):
        return None
    types = {constraint.get("type") for constraint in constraints}
    return dg.TableColumnConstraints(
        nullable=types.isdisjoint({"not_null", "primary_key"}),
        unique=not types.isdisjoint({"unique", "primary_key"}),
        other=[
            " ".join(filter(None, (constraint.get("type"), constraint.get("expression"))))
            for constraint in constraints
            if constraint.get("type") not in ("not_null", "unique", "primary_key")
        ],
    )


def _automation_condition(props: Props) -> dg.AutomationCondition[Any] | None:
    meta = dagster_meta(props)
    older = meta.get("auto_materialize_policy")
    if isinstance(older, Mapping):
        if older.get("type") == "eager":
            return dg.AutomationCondition.eager()
        if older.get("type") == "lazy":
            return dg.AutomationCondition.any_downstream_conditions()
    wanted = meta.get("automation_condition")
    if not wanted:
        return None
    arguments = {"type": wanted} if isinstance(wanted, str) else wanted
    if isinstance(arguments, Mapping):
        if arguments.get("type") == "eager":
            return dg.AutomationCondition.eager()
        if arguments.get("type") == "on_missing":
            return dg.AutomationCondition.on_missing()
        if arguments.get("type") == "on_cron" and arguments.get("cron_schedule"):
            return dg.AutomationCondition.on_cron(
                arguments["cron_schedule"], arguments.get("cron_timezone") or "UTC"
            )
    raise ConfigError(
        f"{_place(props)}: meta.dagster.automation_condition must be eager, on_missing or"
        f" {{type: on_cron, cron_schedule: ...}}, not {wanted!r}."
    )
