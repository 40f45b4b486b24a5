"""Read dbt's manifest.json into a ``Manifest``: from its bytes, packed, or parsed already.

It is imported when a manifest is read: what only selects does not pay for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dagster_dbtcloud.dbt import artifact
from dagster_dbtcloud.dbt.artifact import check_schema, parse_time, read_json, text_map
from dagster_dbtcloud.dbt.manifest import (
    Entries,
    Facts,
    Manifest,
    ManifestMetadata,
    Node,
    collector_at_rest,
    reading_order,
)
from dagster_dbtcloud.dbt.packed import Collection, Packed, Packer, read
from dagster_dbtcloud.dbt.walk import Broken, Walk
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

_BESIDE = ("macros", "docs", "groups")
"""Parts beside the collections of nodes that hold entries by their ids, as these do."""
_WITH_FILES = (*_BESIDE, "disabled")
"""Parts beside the collections of nodes whose entries name files of the project."""
_KEPT = frozenset({"metadata", "selectors", *_WITH_FILES})

_NODE_FIELDS: tuple[tuple[str, type[Any]], ...] = (
    *((name, str) for name in ("unique_id", "resource_type", "name", "package_name")),
    *((name, str) for name in ("original_file_path", "patch_path", "alias", "database", "schema")),
    *((name, str) for name in ("access", "group", "source_name", "identifier", "attached_node")),
    *((name, str) for name in ("raw_code", "language", "description")),
    *((name, list) for name in ("fqn", "exports")),
    *((name, dict) for name in ("config", "depends_on", "columns", "meta", "test_metadata")),
    *((name, dict) for name in ("unrendered_config", "contract", "query_params")),
)
"""What is read of an entry: here, when it becomes an asset or a check, and when it is compared."""

_INNER_FIELDS: tuple[tuple[str, str, type[Any]], ...] = (
    *(("config", name, dict) for name in ("meta", "persist_docs")),
    *(("config", name, str) for name in ("materialized", "group", "schema", "severity")),
    ("test_metadata", "name", str),
)
_NOTHING: Mapping[str, Any] = {}

Row = tuple[Any, ...]
"""The fields of a ``Node`` up to its facts, these as a plain tuple."""
_DEPENDS_ON = 8
"""The place of the parents in a row."""


def from_bytes(data: bytes, *, origin: str) -> Manifest:
    """Do what ``Manifest.from_bytes`` says."""
    digest = hashlib.sha256(data).hexdigest()
    with collector_at_rest():
        try:
            packed = _pack(_walked(Walk(data)), digest, origin)
        except (Broken, ManifestError):
            # Once more, all at once: for an error that names the first thing to mend.
            raw = read_json(data, origin=origin, error=ManifestError)
            packed = _Reader(raw, origin=origin).manifest(digest).packed
        return _unpacked(Packed(packed), origin)


def from_packed(data: bytes, *, origin: str) -> Manifest | None:
    """Do what ``Manifest.from_packed`` says."""
    with collector_at_rest():
        packed = read(data)
        return None if packed is None else _unpacked(packed, origin)


def from_dict(raw: Mapping[str, Any], *, origin: str) -> Manifest:
    """Do what ``Manifest.from_dict`` says."""
    if not isinstance(raw, Mapping):
        raise ManifestError(f"{origin}: {type(raw).__name__} is no mapping.", origin=origin)
    parsed = {k: dict(v) if isinstance(v, Collection) else v for k, v in raw.items()}
    try:
        data = json.dumps(parsed, sort_keys=True, default=str).encode()
    except RecursionError as bad:
        raise ManifestError(f"{origin}: is nested too deeply to be read.", origin=origin) from bad
    except (TypeError, ValueError) as bad:  # keys that are no texts, a part that holds itself
        raise ManifestError(f"{origin}: is not what JSON can hold: {bad}.", origin=origin) from bad
    return _Reader(parsed, origin=origin).manifest(hashlib.sha256(data).hexdigest())


def pack(manifest: Manifest) -> bytes:
    """Return a manifest that was parsed already in the packed form. Raises: ManifestError."""
    try:
        return _pack(manifest.raw.items(), manifest.digest, manifest.origin)
    except Broken as bad:
        raise ManifestError(
            f"{manifest.origin}: cannot be packed, being nested too deeply, or not from JSON"
            f" ({bad.__cause__}).",
            origin=manifest.origin,
        ) from bad


def read_file(path: str | Path) -> bytes:
    """Return the content of a manifest.json on disk. Raises: ManifestError."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as bad:  # ValueError: no path at all
        reason = bad.strerror if isinstance(bad, OSError) else bad
        raise ManifestError(f"{path}: cannot be read: {reason}.", origin=str(path)) from bad


class _Parsed:
    """Entries that somebody has parsed and keeps anyway."""

    def __init__(self) -> None:
        self.entries: list[Mapping[str, Any]] = []

    def entry(self, number: int) -> Mapping[str, Any]:
        return self.entries[number]

    def config(self, number: int) -> Mapping[str, Any]:
        return self.entries[number].get("config") or {}


class _Reader:
    """Turn the JSON of one manifest into a ``Manifest``; every complaint names a key path."""

    def __init__(self, raw: Mapping[str, Any], *, origin: str) -> None:
        self.raw = raw
        self.origin = origin
        self._shared: dict[Hashable, Any] = {}

    def manifest(self, digest: str) -> Manifest:
        metadata = self.metadata()
        if not isinstance(self.raw.get("nodes"), dict):
            raise ManifestError(
                f"{self.origin}: no nodes; this is not a whole manifest.", origin=self.origin
            )
        root = metadata.project_name
        nodes: dict[str, Node] = {}
        entries = _Parsed()
        seen: dict[str, str] = {}
        self.check_beside()
        disabled = set(self.disabled())
        other_files: dict[str, None] = {}
        for collection, resource_type in _COLLECTIONS.items():
            for unique_id, entry in (self._field(self.raw, collection, dict) or {}).items():
                row = self.row(collection, unique_id, entry, resource_type)
                if seen.setdefault(unique_id, collection) != collection:
                    raise self._error(
                        f"{collection}[{unique_id!r}]", f"is in {seen[unique_id]} as well"
                    )
                if _is_disabled(entry):
                    disabled.add(unique_id)
                    other_files.update(dict.fromkeys(_files_of(entry, root)))
                else:
                    number = len(entries.entries)
                    nodes[unique_id] = _node(row, Facts(*row[-1]), number, entries)
                    entries.entries.append(entry)
        for name in _WITH_FILES:
            other_files.update(dict.fromkeys(_files_in(self.raw.get(name), root)))
        return Manifest(
            raw=self.raw,
            origin=self.origin,
            digest=digest,
            metadata=metadata,
            nodes=nodes,
            # A versioned or overridden id can be disabled in one place and enabled in another.
            disabled=frozenset(disabled - nodes.keys()),
            selectors=self.selectors(),
            other_files=tuple(other_files),
        )

    def check_beside(self) -> None:
        """Refuse macros, docs and groups that are not what is read of them."""
        for name in _BESIDE:
            for unique_id, entry in (self._field(self.raw, name, dict) or {}).items():
                at = f"{name}[{unique_id!r}]"
                if not isinstance(entry, dict):
                    raise self._error(at, "is not an object")
                self._field(entry, "name", str, at=at)
                called = (self._field(entry, "depends_on", dict, at=at) or {}).get("macros")
                self._check_texts(called or [], at=f"{at}.depends_on.macros")

    def disabled(self) -> dict[str, None]:
        return dict.fromkeys(self._field(self.raw, "disabled", dict) or ())

    def selectors(self) -> Mapping[str, Mapping[str, Any]]:
        selectors: Mapping[str, Any] = self._field(self.raw, "selectors", dict) or {}
        for name in selectors:
            self._field(selectors, name, dict, at="selectors")
        return selectors

    def metadata(self) -> ManifestMetadata:
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

    def row(self, collection: str, unique_id: str, entry: Any, resource_type: str | None) -> Row:
        """Return the fields of the node; equal texts and tuples are shared among the rows."""
        if not isinstance(entry, dict):
            raise self._error(f"{collection}[{unique_id!r}]", "is not an object")
        if not isinstance(unique_id, str):  # in a dict that never was JSON
            raise self._error(f"{collection}[{unique_id!r}]", "has an id that is not a text")
        get = entry.get
        for name, kind in _NODE_FIELDS:
            value = get(name)
            if value is not None and not isinstance(value, kind):
                self._field(entry, name, kind, at=f"{collection}[{unique_id!r}]")
        for within, name, kind in _INNER_FIELDS:
            value = (get(within) or _NOTHING).get(name)
            if value is not None and not isinstance(value, kind):
                self._field(entry[within], name, kind, at=f"{collection}[{unique_id!r}].{within}")
        for name, column in (get("columns") or _NOTHING).items():
            if not isinstance(column, dict):
                raise self._error(f"{collection}[{unique_id!r}].columns.{name}", "is not an object")
        for index, export in enumerate(get("exports") or ()):
            at = f"{collection}[{unique_id!r}].exports[{index}]"
            if not isinstance(export, dict):
                raise self._error(at, "is not an object")
            self._field(export, "unrendered_config", dict, at=at)
        if (own_id := get("unique_id")) is not None and own_id != unique_id:
            raise self._error(f"{collection}[{unique_id!r}]", f"has the unique_id {own_id!r}")
        head, _, tail = unique_id.partition(".")
        package, _, rest = tail.partition(".")
        resource_type = resource_type or get("resource_type") or head
        name = get("name") or rest
        package_name = get("package_name") or package
        config = get("config") or {}
        depends_on = get("depends_on") or _NOTHING
        parents = depends_on.get("nodes")
        # Only for unit tests does dbt select by the tags of the config.
        tags = (config if resource_type == "unit_test" else entry).get("tags")
        for key, texts in (
            ("fqn", get("fqn")),
            ("tags", tags),
            ("depends_on.nodes", parents),
            ("depends_on.macros", depends_on.get("macros")),
        ):
            if texts and not (isinstance(texts, list) and all(type(t) is str for t in texts)):
                self._check_texts(texts, at=f"{collection}[{unique_id!r}].{key}")
        share = self._share
        return (
            share(unique_id),
            share(resource_type),
            share(name),
            share(package_name),
            share(get("original_file_path") or ""),
            share(get("patch_path")),
            tuple(map(share, get("fqn") or (package_name, name))),
            share(((tags,) if isinstance(tags, str) else tuple(tags)) if tags else ()),
            tuple(map(share, dict.fromkeys(parents))) if parents else (),
            share(get("alias")),
            share(self._facts(entry, resource_type, config)),
        )

    def _facts(self, entry: Mapping[str, Any], resource_type: str, config: Any) -> Row:
        get = entry.get
        is_test = resource_type == "test"
        test = (get("test_metadata") or {}) if is_test else {}
        code = get("raw_code", self)
        is_blank = not (code is self or resource_type in ("seed", "function")) and (
            not code or (isinstance(code, str) and not code.strip())
        )
        return (
            config.get("materialized"),
            config.get("group"),
            config.get("group") or get("group"),
            (get("access") or "protected") if resource_type == "model" else None,
            get("version"),
            get("latest_version"),
            get("source_name"),
            test.get("name") if isinstance(test, dict) else None,
            bool(test),
            is_blank,
            not (get("original_file_path") or get("path")),
            get("database"),
            get("schema"),
        )

    def _share(self, value: Any) -> Any:
        try:
            return self._shared.setdefault(value, value)
        except TypeError:  # what nobody expects here is kept as it is
            return value

    def _field(self, holder: Mapping[str, Any], name: str, kind: type[Any], *, at: str = "") -> Any:
        return artifact.field(holder, name, kind, at=at, origin=self.origin, error=ManifestError)

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


def _walked(walk: Walk) -> Iterator[tuple[str, Any]]:
    """Yield the top-level parts; those of nodes are to be read entry by entry, before the next."""
    for name in walk.members():
        if name in _COLLECTIONS and walk.at_object():
            yield name, ((unique_id, walk.value()) for unique_id in walk.members())
        else:
            yield name, walk.value()
    walk.end()


def _pack(parts: Iterable[tuple[str, Any]], digest: str, origin: str) -> bytes:
    """Pack manifest.json while it is read, keeping no entry that is packed.

    Raises: Broken, ManifestError; neither is for users (see ``Manifest.from_bytes``).
    """
    packer = Packer()
    kept: dict[str, Any] = {}
    reader = _Reader(kept, origin=origin)
    rows: dict[str, tuple[int, Row]] = {}
    off: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for name, part in parts:
        if name in packer.names:
            raise Broken  # the same name twice: JSON keeps the last
        if name in _COLLECTIONS and isinstance(part, (dict, Iterator)):
            packer.collection(name)
            for unique_id, entry in part.items() if isinstance(part, dict) else part:
                row = reader.row(name, unique_id, entry, _COLLECTIONS[name])
                if unique_id in rows or unique_id in off:
                    raise Broken
                number = packer.entry(unique_id, entry)
                if _is_disabled(entry):
                    off[unique_id] = number, entry
                else:
                    rows[unique_id] = number, row
        elif name in _COLLECTIONS and (part is not None or name == "nodes"):
            raise Broken
        else:
            packer.value(name, part)
            if name in _KEPT:
                kept[name] = part
    root = reader.metadata().project_name
    reader.check_beside()
    if "nodes" not in packer.names:
        raise Broken
    files = dict.fromkeys(file for _, entry in off.values() for file in _files_of(entry, root))
    for name in _WITH_FILES:
        files.update(dict.fromkeys(_files_in(kept.get(name), root)))
    order = reading_order(
        {unique_id: row[1] for unique_id, (_, row) in rows.items()},
        {
            unique_id: tuple(parent for parent in row[_DEPENDS_ON] if parent in rows)
            for unique_id, (_, row) in rows.items()
        },
    )
    return packer.packed(
        [*(rows[unique_id][0] for unique_id in order), *(number for number, _ in off.values())],
        {
            "digest": digest,
            "metadata": kept["metadata"],
            "selectors": reader.selectors(),
            "disabled": [i for i in {**reader.disabled(), **off} if i not in rows],
            "files": list(files),
            "rows": list(rows.values()),
        },
    )


def _unpacked(packed: Packed, origin: str) -> Manifest:
    head = packed.head
    facts: dict[int, Facts] = {}
    nodes: dict[str, Node] = {}
    for number, row in packed.take("rows"):
        plain = row[-1]
        known = facts.get(id(plain))  # equal ones are one; what they hold may have no hash
        if known is None:
            known = facts[id(plain)] = Facts(*plain)
        nodes[row[0]] = _node(row, known, number, packed)
    return Manifest(
        raw=packed.raw,
        origin=origin,
        digest=head["digest"],
        metadata=_Reader(head, origin=origin).metadata(),
        nodes=nodes,
        disabled=frozenset(head["disabled"]),
        selectors=head["selectors"],
        other_files=tuple(head["files"]),
        packed=packed,
    )


def _node(row: Row, facts: Facts, number: int, entries: Entries) -> Node:
    a, b, c, d, e, f, g, h, i, j, _ = row
    return Node(a, b, c, d, e, f, g, h, i, j, facts, number, entries)


def _is_disabled(entry: Mapping[str, Any]) -> bool:
    return (entry.get("config") or {}).get("enabled") is False


def _files_in(part: Any, root: str | None) -> Iterator[str]:
    """Give the files of the root project in a top-level part that holds no nodes."""
    for entries in part.values() if isinstance(part, dict) else ():
        for entry in entries if isinstance(entries, list) else (entries,):
            if isinstance(entry, dict):
                yield from _files_of(entry, root)


def _files_of(entry: Mapping[str, Any], root: str | None) -> Iterator[str]:
    own = entry.get("original_file_path")
    if isinstance(own, str) and (root is None or entry.get("package_name") == root):
        yield own
    patch = entry.get("patch_path")
    if isinstance(patch, str) and (root is None or patch.startswith(f"{root}://")):
        yield patch.partition("://")[2] or patch
