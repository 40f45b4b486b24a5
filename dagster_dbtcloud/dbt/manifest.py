"""Read dbt's manifest.json: every enabled resource, and the graph between them.

It neither fetches nor caches the file, and does not select (``selection.py`` does).
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from dagster_dbtcloud.dbt.artifact import check_schema, field, parse_time, read_json, text_map
from dagster_dbtcloud.errors import ManifestError

_VERSIONS = range(10, 21)
"""v10 is dbt 1.6, v12 is dbt 1.8 and later, v20 was written by early Fusion and reads like v12."""

_COLLECTIONS = {
    "nodes": None,  # entries name their own type
    "sources": "source",
    "exposures": "exposure",
    "metrics": "metric",
    "unit_tests": "unit_test",
    "semantic_models": "semantic_model",
    "saved_queries": "saved_query",
    "functions": "function",
}

_NODE_FIELDS: tuple[tuple[str, type[Any]], ...] = (
    *((name, str) for name in ("resource_type", "name", "package_name")),
    *((name, str) for name in ("original_file_path", "patch_path")),
    ("fqn", list),
    ("config", dict),
    ("depends_on", dict),
)


@dataclass(frozen=True, slots=True)
class Node:
    """One enabled resource of any type: model, seed, test, source, exposure, metric, ...

    ``properties`` is its whole entry in the manifest, for whatever has no name here.
    ``depends_on`` holds ids of nodes, not of macros.
    """

    unique_id: str
    resource_type: str
    name: str
    package_name: str
    original_file_path: str
    patch_path: str | None
    fqn: tuple[str, ...]
    tags: tuple[str, ...]
    depends_on: tuple[str, ...]
    config: Mapping[str, Any]
    properties: Mapping[str, Any]

    @property
    def group(self) -> str | None:
        return self.config.get("group") or self.properties.get("group")

    @property
    def access(self) -> str | None:
        """private, protected or public for a model; None for anything else."""
        if self.resource_type != "model":
            return None
        return self.properties.get("access") or "protected"

    @property
    def version(self) -> str | int | float | None:
        return self.properties.get("version")

    @property
    def latest_version(self) -> str | int | float | None:
        return self.properties.get("latest_version")

    @property
    def is_versioned(self) -> bool:
        return self.resource_type == "model" and self.version is not None

    @property
    def source_name(self) -> str | None:
        return self.properties.get("source_name")

    @property
    def is_generic_test(self) -> bool:
        return self.resource_type == "test" and bool(self.properties.get("test_metadata"))

    @property
    def test_metadata_name(self) -> str | None:
        """The name of the generic test (``unique``, ``not_null``), without its package."""
        metadata = self.properties.get("test_metadata") or {}
        return metadata.get("name") if self.resource_type == "test" else None

    @property
    def attached_node(self) -> str | None:
        """The unique id that a generic test was declared on, where dbt tells it."""
        return self.properties.get("attached_node")

    @property
    def materialized(self) -> str | None:
        return self.config.get("materialized")

    @property
    def database(self) -> str | None:
        return self.properties.get("database")

    @property
    def schema_(self) -> str | None:
        return self.properties.get("schema")

    @property
    def alias(self) -> str | None:
        return self.properties.get("alias")

    @property
    def identifier(self) -> str | None:
        return self.properties.get("identifier")

    @property
    def relation_name(self) -> str | None:
        return self.properties.get("relation_name")

    @property
    def raw_code(self) -> str:
        return self.properties.get("raw_code") or ""

    @property
    def description(self) -> str:
        return self.properties.get("description") or ""

    @property
    def columns(self) -> Mapping[str, Mapping[str, Any]]:
        return self.properties.get("columns") or {}

    @property
    def meta(self) -> Mapping[str, Any]:
        """The node's meta: that of its config, else (older manifests) its own."""
        return self.config.get("meta") or self.properties.get("meta") or {}


@dataclass(frozen=True, slots=True)
class ManifestMetadata:
    """What wrote the manifest; ``generated_at`` is aware UTC, ``env`` holds DBT_CLOUD_* values."""

    schema_version: int
    dbt_version: str
    project_name: str | None
    adapter_type: str | None
    generated_at: datetime | None
    invocation_id: str | None
    env: Mapping[str, str]


class Manifest:
    """The enabled resources of a dbt project and the edges between them; read-only.

    Walks are linear in the edges they cross, and do not recurse. Ids that are not in ``nodes``
    raise ``KeyError``.
    """

    def __init__(
        self,
        *,
        raw: Mapping[str, Any],
        origin: str,
        digest: str,
        metadata: ManifestMetadata,
        nodes: Mapping[str, Node],
        disabled: frozenset[str],
        selectors: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.raw = raw
        self.origin = origin
        self.digest = digest
        self.metadata = metadata
        self.nodes = nodes
        self.disabled = disabled
        self.selectors = selectors

    def __repr__(self) -> str:
        return f"<Manifest {self.origin}: {len(self.nodes)} nodes, {self.digest[:12]}>"

    @classmethod
    def from_bytes(cls, data: bytes, *, origin: str) -> Manifest:
        """Read the content of a manifest.json; ``origin`` names it in errors.

        Raises: ManifestError, naming the offset or the key path of the damage.
        """
        digest = hashlib.sha256(data).hexdigest()
        with _collector_at_rest():
            raw = read_json(data, origin=origin, error=ManifestError)
            return _Reader(raw, origin=origin).manifest(digest)

    @classmethod
    def from_path(cls, path: str | Path) -> Manifest:
        """Read a manifest.json on disk. Raises: ManifestError, also when it cannot be opened."""
        try:
            data = Path(path).read_bytes()
        except OSError as bad:
            raise ManifestError(
                f"{path}: cannot be read: {bad.strerror}.", origin=str(path)
            ) from bad
        return cls.from_bytes(data, origin=str(path))

    @classmethod
    def from_dict(
        cls, raw: Mapping[str, Any], *, origin: str = "a dict", digest: str | None = None
    ) -> Manifest:
        """Take a manifest that is parsed already; ``digest`` when it is known.

        Raises: ManifestError.
        """
        if digest is None:
            data = json.dumps(raw, sort_keys=True, default=str).encode()
            digest = hashlib.sha256(data).hexdigest()
        return _Reader(raw, origin=origin).manifest(digest)

    def parents(self, unique_id: str) -> tuple[str, ...]:
        """Return the enabled nodes that ``unique_id`` depends on directly."""
        return self._parents[unique_id]

    def children(self, unique_id: str) -> tuple[str, ...]:
        """Return the nodes that depend directly on ``unique_id``, tests included."""
        return self._children[unique_id]

    def tests(self, unique_id: str) -> tuple[str, ...]:
        """Return the tests and unit tests that depend directly on ``unique_id``."""
        return tuple(self._tests.get(unique_id, ()))

    def ancestors(self, unique_ids: Iterable[str], depth: int | None = None) -> set[str]:
        """Return all nodes at most ``depth`` edges above, or any number when it is None.

        One of ``unique_ids`` is in the answer only when it is above another one.
        """
        return _walk(self._parents, unique_ids, depth)

    def descendants(self, unique_ids: Iterable[str], depth: int | None = None) -> set[str]:
        """Return all nodes at most ``depth`` edges below, as ``ancestors`` does above."""
        return _walk(self._children, unique_ids, depth)

    def topological(self) -> tuple[str, ...]:
        """Return all ids, parents before children, otherwise in the manifest's order.

        Raises: ManifestError when the graph has a cycle.
        """
        return self._topological

    @cached_property
    def _parents(self) -> dict[str, tuple[str, ...]]:
        enabled = self.nodes.__contains__
        return {
            unique_id: node.depends_on
            if all(map(enabled, node.depends_on))
            else tuple(filter(enabled, node.depends_on))
            for unique_id, node in self.nodes.items()
        }

    @cached_property
    def _children(self) -> dict[str, tuple[str, ...]]:
        children = _reversed(self._parents)
        return {unique_id: tuple(children.get(unique_id, ())) for unique_id in self.nodes}

    @cached_property
    def _tests(self) -> dict[str, list[str]]:
        return _reversed(
            {
                unique_id: self._parents[unique_id]
                for unique_id, node in self.nodes.items()
                if node.resource_type in ("test", "unit_test")
            }
        )

    @cached_property
    def _topological(self) -> tuple[str, ...]:
        waiting = {unique_id: len(parents) for unique_id, parents in self._parents.items()}
        ready = deque(unique_id for unique_id, count in waiting.items() if not count)
        order: list[str] = []
        while ready:
            unique_id = ready.popleft()
            order.append(unique_id)
            for child in self._children[unique_id]:
                waiting[child] -= 1
                if not waiting[child]:
                    ready.append(child)
        if len(order) < len(waiting):
            stuck = next(unique_id for unique_id, count in waiting.items() if count)
            raise ManifestError(
                f"{self.origin}: the graph has a cycle at or above {stuck}.", origin=self.origin
            )
        return tuple(order)


def _reversed(edges: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for start, ends in edges.items():
        for end in ends:
            found[end].append(start)
    return found


def _walk(
    edges: Mapping[str, tuple[str, ...]], unique_ids: Iterable[str], depth: int | None
) -> set[str]:
    found: set[str] = set()
    layer = list(dict.fromkeys(unique_ids))
    while layer and (depth is None or depth > 0):
        beyond: list[str] = []
        for unique_id in layer:
            for neighbour in edges[unique_id]:
                if neighbour not in found:
                    found.add(neighbour)
                    beyond.append(neighbour)
        layer = beyond
        depth = None if depth is None else depth - 1
    return found


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Keep the cycle collector from looking, again and again, at objects that form no cycle.

    It would take as long as all the rest of the reading.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Reader:
    """Turn the JSON of one manifest into a ``Manifest``; every complaint names a key path."""

    def __init__(self, raw: Mapping[str, Any], *, origin: str) -> None:
        self.raw = raw
        self.origin = origin

    def manifest(self, digest: str) -> Manifest:
        metadata = self._metadata()
        if not isinstance(self.raw.get("nodes"), dict):
            raise ManifestError(
                f"{self.origin}: no nodes; this is not a whole manifest.", origin=self.origin
            )
        nodes: dict[str, Node] = {}
        disabled: set[str] = set(self._field(self.raw, "disabled", dict) or ())
        for collection, resource_type in _COLLECTIONS.items():
            for unique_id, entry in (self._field(self.raw, collection, dict) or {}).items():
                node = self._node(collection, unique_id, entry, resource_type)
                if node.config.get("enabled") is False:
                    disabled.add(unique_id)
                else:
                    nodes[unique_id] = node
        selectors = self._field(self.raw, "selectors", dict) or {}
        for name in selectors:
            self._field(selectors, name, dict, at="selectors")
        return Manifest(
            raw=self.raw,
            origin=self.origin,
            digest=digest,
            metadata=metadata,
            nodes=nodes,
            # A versioned or overridden id can be disabled in one place and enabled in another.
            disabled=frozenset(disabled - nodes.keys()),
            selectors=selectors,
        )

    def _metadata(self) -> ManifestMetadata:
        metadata, version = check_schema(
            self.raw, kind="manifest", versions=_VERSIONS, origin=self.origin, error=ManifestError
        )
        get: Callable[[str], str | None] = lambda name: self._field(  # noqa: E731
            metadata, name, str, at="metadata"
        )
        return ManifestMetadata(
            schema_version=version,
            dbt_version=get("dbt_version") or "",
            project_name=get("project_name"),
            adapter_type=get("adapter_type"),
            generated_at=parse_time(metadata.get("generated_at")),
            invocation_id=get("invocation_id"),
            env=text_map(metadata.get("env")),
        )

    def _node(self, collection: str, unique_id: str, entry: Any, resource_type: str | None) -> Node:
        if not isinstance(entry, dict):
            raise self._error(f"{collection}[{unique_id!r}]", "is not an object")
        get = entry.get
        for name, kind in _NODE_FIELDS:
            value = get(name)
            if value is not None and not isinstance(value, kind):
                self._field(entry, name, kind, at=f"{collection}[{unique_id!r}]")
        head, _, tail = unique_id.partition(".")
        package, _, rest = tail.partition(".")
        resource_type = resource_type or get("resource_type") or head
        name = get("name") or rest
        package_name = get("package_name") or package
        config = get("config") or {}
        parents = (get("depends_on") or {}).get("nodes")
        # Only for unit tests does dbt select by the tags of the config.
        tags = (config if resource_type == "unit_test" else entry).get("tags")
        for key, texts in (("fqn", get("fqn")), ("tags", tags), ("depends_on.nodes", parents)):
            if texts and not (isinstance(texts, list) and all(type(t) is str for t in texts)):
                self._check_texts(texts, at=f"{collection}[{unique_id!r}].{key}")
        return Node(
            unique_id,
            resource_type,
            name,
            package_name,
            get("original_file_path") or "",
            get("patch_path"),
            tuple(get("fqn") or (package_name, name)),
            ((tags,) if isinstance(tags, str) else tuple(tags)) if tags else (),
            tuple(dict.fromkeys(parents)) if parents else (),
            config,
            entry,
        )

    def _field(self, holder: Mapping[str, Any], name: str, kind: type[Any], *, at: str = "") -> Any:
        return field(holder, name, kind, at=at, origin=self.origin, error=ManifestError)

    def _check_texts(self, texts: Any, *, at: str) -> None:
        if isinstance(texts, str) and at.endswith(".tags"):
            return  # the short way to write one tag
        if not isinstance(texts, list):
            self._field({"": texts}, "", list, at=at)
        for index, item in enumerate(texts):
            if not isinstance(item, str):
                raise self._error(f"{at}[{index}]", "is not a text")

    def _error(self, place: str, complaint: str) -> ManifestError:
        return ManifestError(f"{self.origin}: {place} {complaint}.", origin=self.origin)
