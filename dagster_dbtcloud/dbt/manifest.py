"""A dbt project as its manifest.json tells it: every enabled resource, and the graph between them.

It neither reads bytes (``reading.py`` does, imported when something is read) nor selects
(``selection.py`` does).
"""

from __future__ import annotations

import gc
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dagster_dbtcloud.errors import ManifestError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from dagster_dbtcloud.dbt.packed import Packed


class Facts(NamedTuple):
    """What selection and specs ask of every node beside its names; most nodes share theirs."""

    materialized: str | None
    config_group: str | None
    group: str | None
    access: str | None
    version: Any
    latest_version: Any
    source_name: str | None
    test_metadata_name: str | None
    is_generic_test: bool
    is_blank: bool
    """Whether there is code, and no word in it."""
    is_external: bool
    """Whether it is another project's: dbt knows its name and relation, not its file."""
    database: str | None
    schema: str | None


class Entries(Protocol):
    """Where the entries of a manifest are, by their number."""

    def entry(self, number: int) -> Mapping[str, Any]: ...

    def config(self, number: int) -> Mapping[str, Any]: ...


class Node(NamedTuple):
    """One enabled resource of any type: model, seed, test, source, exposure, metric, ...

    ``depends_on`` holds ids of nodes, not of macros. What is a field here, or read from ``facts``,
    is at hand; all else is read from its entry in the manifest each time that it is asked for.
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
    alias: str | None
    facts: Facts
    number: int
    entries: Entries

    # Where its entry is does not make a node another one.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self[:-2] == other[:-2]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.unique_id)

    @property
    def properties(self) -> Mapping[str, Any]:
        """The node's whole entry in the manifest, for whatever has no name here."""
        return self.entries.entry(self.number)

    @property
    def config(self) -> Mapping[str, Any]:
        return self.entries.config(self.number)

    @property
    def group(self) -> str | None:
        return self.facts.group

    @property
    def access(self) -> str | None:
        """private, protected or public for a model; None for anything else."""
        return self.facts.access

    @property
    def version(self) -> str | int | float | None:
        version: str | int | float | None = self.facts.version
        return version

    @property
    def latest_version(self) -> str | int | float | None:
        version: str | int | float | None = self.facts.latest_version
        return version

    @property
    def is_versioned(self) -> bool:
        return self.resource_type == "model" and self.version is not None

    @property
    def source_name(self) -> str | None:
        return self.facts.source_name

    @property
    def is_generic_test(self) -> bool:
        return self.facts.is_generic_test

    @property
    def test_metadata_name(self) -> str | None:
        """The name of the generic test (``unique``, ``not_null``), without its package."""
        return self.facts.test_metadata_name

    @property
    def attached_node(self) -> str | None:
        """The unique id that a generic test was declared on, where dbt tells it."""
        return self.properties.get("attached_node")

    @property
    def materialized(self) -> str | None:
        return self.facts.materialized

    @property
    def database(self) -> str | None:
        return self.facts.database

    @property
    def schema_(self) -> str | None:
        return self.facts.schema

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


class ManifestMetadata(NamedTuple):
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

    What is read from bytes or a file is kept packed: ``raw`` and the nodes' ``properties`` are
    whole, and made when they are asked for.
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
        other_files: tuple[str, ...] = (),
        packed: Packed | None = None,
    ) -> None:
        self.raw = raw
        self.origin = origin
        self.digest = digest
        self.metadata = metadata
        self.nodes = nodes
        self.disabled = disabled
        self.selectors = selectors
        self.other_files = other_files
        """Files of the project in which no enabled node is, relative to its folder."""
        self._packed = packed

    def __repr__(self) -> str:
        return f"<Manifest {self.origin}: {len(self.nodes)} nodes, {self.digest[:12]}>"

    @classmethod
    def from_bytes(cls, data: bytes, *, origin: str) -> Manifest:
        """Read the content of a manifest.json; ``origin`` names it in errors.

        At its peak this takes a little over twice the size of ``data``, beside it; a tenth stays.

        Raises: ManifestError, naming the offset or the key path of the damage.
        """
        from dagster_dbtcloud.dbt import reading

        return reading.from_bytes(data, origin=origin)

    @classmethod
    def from_packed(cls, data: bytes, *, origin: str) -> Manifest | None:
        """Read what ``packed`` gave; None when it is damaged, or of another form."""
        from dagster_dbtcloud.dbt import reading

        return reading.from_packed(data, origin=origin)

    @classmethod
    def from_path(cls, path: str | Path) -> Manifest:
        """Read a manifest.json on disk. Raises: ManifestError, also when it cannot be opened."""
        from dagster_dbtcloud.dbt import reading

        return cls.from_bytes(reading.read_file(path), origin=str(path))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, origin: str = "a dict") -> Manifest:
        """Take a manifest that is parsed already. Raises: ManifestError."""
        from dagster_dbtcloud.dbt import reading

        return reading.from_dict(raw, origin=origin)

    @property
    def packed(self) -> bytes:
        """The manifest in the form that ``from_packed`` reads, whole. Raises: ManifestError."""
        if self._packed is not None:
            return self._packed.data
        from dagster_dbtcloud.dbt import reading

        return reading.pack(self)

    def in_reading_order(self) -> Iterable[str]:
        """Return all ids in the order in which whole entries are read fastest.

        Parents come before children, then the tests by unique id.
        """
        if self._packed is None:
            types = {unique_id: node.resource_type for unique_id, node in self.nodes.items()}
            return reading_order(types, self._parents)
        places = self._packed.places
        return sorted(self.nodes, key=lambda unique_id: places[self.nodes[unique_id].number])

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
        order, stuck = _sorted(self._parents, self._children)
        if stuck:
            raise ManifestError(
                f"{self.origin}: the graph has a cycle at or above {stuck[0]}.", origin=self.origin
            )
        return tuple(order)


def _sorted(
    parents: Mapping[str, tuple[str, ...]], children: Mapping[str, Iterable[str]]
) -> tuple[list[str], list[str]]:
    """Return the ids with parents before children, and those that a cycle keeps from that."""
    waiting = {unique_id: len(above) for unique_id, above in parents.items()}
    ready = deque(unique_id for unique_id, count in waiting.items() if not count)
    order: list[str] = []
    while ready:
        unique_id = ready.popleft()
        order.append(unique_id)
        for child in children.get(unique_id, ()):
            waiting[child] -= 1
            if not waiting[child]:
                ready.append(child)
    return order, [unique_id for unique_id, count in waiting.items() if count]


def reading_order(types: Mapping[str, str], parents: Mapping[str, tuple[str, ...]]) -> list[str]:
    order, stuck = _sorted(parents, _reversed(parents))
    tests = {i for i, resource_type in types.items() if resource_type in ("test", "unit_test")}
    return [*(i for i in (*order, *stuck) if i not in tests), *sorted(tests)]


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
def collector_at_rest() -> Iterator[None]:
    """Keep the cycle collector from looking, again and again, at objects that form no cycle.

    It would take as long as all the rest of the reading. What was made meanwhile counts as old
    afterwards, or the first thing that the collector did would be to look at all of it once more.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():  # else somebody keeps objects frozen, who means it
                gc.freeze()
                gc.unfreeze()
            gc.enable()
