"""One small function per selection method of dbt, in a table.

Each answers which nodes a criterion's ``method.argument:value`` matches; graph operators, tests
and set operations are not theirs (``selection.py``). Matching rules are dbt-core 1.11's.
"""

from __future__ import annotations

import posixpath
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import translate
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from dagster_dbtcloud.dbt.expression import Criterion, did_you_mean
from dagster_dbtcloud.dbt.manifest import Manifest, Node

Method = Callable[[Manifest, Criterion], Iterable[str]]

RESOURCE_TYPES = frozenset(
    {
        *("model", "seed", "snapshot", "test", "unit_test", "analysis", "operation"),
        *("source", "exposure", "metric", "semantic_model", "saved_query", "function"),
        # Known to dbt, though nothing of theirs is ever selected.
        *("sql_operation", "rpc", "doc", "macro", "group", "fixture"),
    }
)

_APART = frozenset(
    {"source", "exposure", "metric", "unit_test", "semantic_model", "saved_query", "function"}
)
"""Types with a collection of their own; the others are what dbt calls nodes."""

_GLOB = re.compile(r"[*?\[\]]")


def _glob(criterion: Criterion, pattern: Any = None) -> Callable[[str], object]:
    """Compile dbt's glob: case counts, ``*`` also crosses dots and slashes."""
    pattern = criterion.value if pattern is None else pattern
    return re.compile(translate(pattern)).match


def _text(criterion: Criterion) -> str:
    if not isinstance(criterion.value, str):
        criterion.refuse(f"{criterion.method} takes a text, not {criterion.value!r}.")
    return criterion.value


def _nodes(manifest: Manifest) -> Iterator[Node]:
    return (node for node in manifest.nodes.values() if node.resource_type not in _APART)


def fqn(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    """Match by name, by dotted path from the package or its top folder, or by a glob of either."""
    return _index(manifest).match(_text(criterion))


def tag(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    _text(criterion)
    matches = lru_cache(maxsize=None)(_glob(criterion))
    return (i for i, node in manifest.nodes.items() if any(map(matches, node.tags)))


def group(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    _text(criterion)
    matches = _glob(criterion)
    for unique_id, node in manifest.nodes.items():
        if node.resource_type in _APART and node.resource_type != "metric":
            continue
        name = node.config.get("group")
        if name and matches(name):
            yield unique_id


def access(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    return (
        i
        for i, node in manifest.nodes.items()
        if node.resource_type == "model" and node.access == criterion.value
    )


def source(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    parts = _text(criterion).split(".")
    if len(parts) > 3:
        criterion.refuse(
            "A source has at most three parts.",
            hint="source:NAME, source:NAME.TABLE or source:PACKAGE.NAME.TABLE",
        )
    package, name, table = {1: ("*", *parts, "*"), 2: ("*", *parts), 3: (*parts,)}[len(parts)]
    in_package, named, of_table = (_glob(criterion, part) for part in (package, name, table))
    for unique_id, node in manifest.nodes.items():
        if (
            node.resource_type == "source"
            and of_table(node.name)
            and named(node.source_name or "")
            and in_package(node.package_name)
        ):
            yield unique_id


def _named(resource_type: str) -> Method:
    def named(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
        parts = _text(criterion).split(".")
        if len(parts) > 2:
            criterion.refuse(
                f"A {resource_type} has at most two parts.",
                hint=f"{resource_type}:NAME or {resource_type}:PACKAGE.NAME",
            )
        in_package = _glob(criterion, parts[0] if len(parts) == 2 else "*")
        matches = _glob(criterion, parts[-1])
        return [
            unique_id
            for unique_id, node in manifest.nodes.items()
            if node.resource_type == resource_type
            and matches(node.name)
            and in_package(node.package_name)
        ]

    return named


def path(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    """Match files and folders as dbt does on disk, on the paths that the manifest names.

    A folder takes all below it; a YAML file takes what it describes.
    """
    found = _walk_paths(_index(manifest).paths, _path_steps(criterion))
    for unique_id, node in manifest.nodes.items():
        if not found.isdisjoint(_self_and_folders(node.original_file_path)) or (
            node.patch_path and posixpath.normpath(_after_scheme(node.patch_path)) in found
        ):
            yield unique_id


def file(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    """Match the name of the defining file, with its extension or without."""
    _text(criterion)
    matches = _glob(criterion)
    for unique_id, node in manifest.nodes.items():
        name = posixpath.basename(node.original_file_path)
        if matches(name) or matches(posixpath.splitext(name)[0]):
            yield unique_id


def package(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    name = _text(criterion)
    if name == "this" and manifest.metadata.project_name is not None:
        name = manifest.metadata.project_name
    matches = _glob(criterion, name)
    return (i for i, node in manifest.nodes.items() if matches(node.package_name))


def config(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    """Match ``config.a.b:value`` as text, or true and false as booleans; lists hold the value."""
    for unique_id, node in manifest.nodes.items():
        if node.resource_type in _APART and node.resource_type != "source":
            continue
        value = _descend(node.config, criterion.arguments)
        if value is not _MISSING and _config_equals(criterion, value):
            yield unique_id


_MISSING = object()
_DICT_ATTRIBUTES = frozenset(dir(dict))


def _descend(config: Mapping[str, Any], keys: tuple[str, ...]) -> object:
    value: object = config
    for depth, key in enumerate(keys):
        if not isinstance(value, dict):
            return _MISSING
        if depth == 0:
            value = value.get(key)  # dbt gives None for any key that a config does not have
        elif key in _DICT_ATTRIBUTES:
            return _MISSING  # dbt finds the dict's own method first
        else:
            value = value.get(key, _MISSING)
            if value is _MISSING:
                return _MISSING
    return value


def _config_equals(criterion: Criterion, value: object) -> bool:
    wanted = criterion.value
    word = str(wanted).lower()
    if isinstance(value, list):
        return (
            wanted in value
            or (word == "true" and True in value)
            or (word == "false" and False in value)
        )
    if criterion.arguments == ("severity",) and isinstance(value, str):
        return word.upper() == value.upper()
    return (
        bool(wanted == value)
        or (word == "true" and value is True)
        or (word == "false" and value is False)
    )


def test_name(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    _text(criterion)
    matches = _glob(criterion)
    for unique_id, node in manifest.nodes.items():
        name = node.name if node.resource_type == "unit_test" else node.test_metadata_name
        if name is not None and matches(name):
            yield unique_id


def test_type(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    kinds = _TEST_TYPES.get(_text(criterion))
    if kinds is None:
        criterion.refuse(
            f"{criterion.value!r} is not a type of test.",
            hint=did_you_mean(criterion.value, _TEST_TYPES)
            or f"The types are {', '.join(_TEST_TYPES)}.",
        )
    return [i for i, node in manifest.nodes.items() if _test_kind(node) in kinds]


_TEST_TYPES = {
    "generic": {"generic"},
    "schema": {"generic"},
    "singular": {"singular"},
    "data": {"generic", "singular"},
    "unit": {"unit"},
}


def _test_kind(node: Node) -> str:
    if node.resource_type == "test":
        return "generic" if node.is_generic_test else "singular"
    return "unit" if node.resource_type == "unit_test" else ""


def resource_type(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    wanted = _text(criterion)
    if wanted not in RESOURCE_TYPES:
        criterion.refuse(
            f"{wanted!r} is not a resource type.",
            hint=did_you_mean(wanted, RESOURCE_TYPES)
            or f"The types are {', '.join(sorted(RESOURCE_TYPES))}.",
        )
    return [i for i, node in manifest.nodes.items() if node.resource_type == wanted]


def version(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    wanted = _VERSION_TESTS.get(_text(criterion))
    if wanted is None:
        criterion.refuse(
            f"{criterion.value!r} is not a kind of version.",
            hint=did_you_mean(criterion.value, _VERSION_TESTS)
            or f"The kinds are {', '.join(_VERSION_TESTS)}.",
        )
    return [
        i
        for i, node in manifest.nodes.items()
        if node.resource_type == "model" and wanted(node.version, node.latest_version)
    ]


def _is_below(version: Any, other: Any) -> bool:
    if not version or not other:
        return False
    try:
        return float(version) < float(other)
    except ValueError:
        return str(version) < str(other)


_VERSION_TESTS: Mapping[str, Callable[[Any, Any], bool]] = {
    "latest": lambda version, latest: version is not None and version == latest,
    "prerelease": lambda version, latest: _is_below(latest, version),
    "old": lambda version, latest: _is_below(version, latest),
    "none": lambda version, _latest: version is None,
}


def _refused(what: str) -> Method:
    def refused(_manifest: Manifest, criterion: Criterion) -> Iterable[str]:
        criterion.refuse(
            f"{criterion.method}: cannot be answered from one manifest: it needs {what}.",
            hint=(
                "dbt Cloud can: give the selection in the command of the step, for example "
                f'dbt_cloud.cli(["build", "--select", "{criterion.method}:{criterion.value}+"]), '
                "and set deferral (compare changes against) on its environment or job."
            ),
        )

    return refused


METHODS: Mapping[str, Method] = {
    "access": access,
    "config": config,
    "exposure": _named("exposure"),
    "file": file,
    "fqn": fqn,
    "group": group,
    "metric": _named("metric"),
    "package": package,
    "path": path,
    "resource_type": resource_type,
    "result": _refused("the results of an earlier run"),
    "saved_query": _named("saved_query"),
    "semantic_model": _named("semantic_model"),
    "source": source,
    "source_status": _refused("two results of source freshness"),
    "state": _refused("the manifest to compare with"),
    "tag": tag,
    "test_name": test_name,
    "test_type": test_type,
    "unit_test": _named("unit_test"),
    "version": version,
}


class _Index:
    """What ``fqn`` and ``path`` look up; made once per manifest, and holds no reference to it."""

    def __init__(self, manifest: Manifest) -> None:
        self.leaves: dict[str, list[str]] = defaultdict(list)
        self.versioned: dict[str, list[str]] = defaultdict(list)
        keyed: list[tuple[str, str]] = []
        for unique_id, node in manifest.nodes.items():
            if node.resource_type == "source":
                continue
            if node.is_versioned and len(node.fqn) > 1:
                self.leaves[node.fqn[-2]].append(unique_id)
                self.versioned["_".join(node.fqn[-2:])].append(unique_id)
            else:
                self.leaves[node.fqn[-1]].append(unique_id)
            for parts in (node.fqn, node.fqn[1:]):
                if parts:
                    # A dot in a name parts it like a folder; NUL sorts a folder's content together.
                    keyed.append(("".join(f"{p}\0" for p in ".".join(parts).split(".")), unique_id))
        keyed.sort()
        self.keys = [key for key, _ in keyed]
        self.ids = [unique_id for _, unique_id in keyed]
        self.paths = _paths(manifest)

    def match(self, value: str) -> set[str]:
        found = set(self.leaves.get(value, ()))
        parts = value.split(".")
        found.update(self.versioned.get("_".join(parts[-2:]), ()))
        plain = next((n for n, part in enumerate(parts) if _GLOB.search(part)), len(parts))
        prefix = "".join(f"{part}\0" for part in parts[:plain])
        first = bisect_left(self.keys, prefix)
        last = bisect_left(self.keys, prefix[:-1] + "\1") if prefix else len(self.keys)
        if plain == len(parts) or parts == ["*"]:
            found.update(self.ids[first:last])
            return found
        rest = re.compile(translate(".".join(parts[plain:]))).match
        for key, unique_id in zip(self.keys[first:last], self.ids[first:last], strict=True):
            if key.count("\0") >= len(parts) and rest(key[len(prefix) : -1].replace("\0", ".")):
                found.add(unique_id)
        if len(parts) == 1:
            for leaf, ids in self.leaves.items():
                if rest(leaf):
                    found.update(ids)
        return found


_indexes: WeakKeyDictionary[Manifest, _Index] = WeakKeyDictionary()


def _index(manifest: Manifest) -> _Index:
    index = _indexes.get(manifest)
    if index is None:
        index = _indexes[manifest] = _Index(manifest)
    return index


def _paths(manifest: Manifest) -> list[str]:
    """Return every file of the root project that the manifest names, after its folders.

    dbt looks on the root project's disk, so the files of packages are not there to be found.
    """
    root = manifest.metadata.project_name
    found: set[str] = set()
    for collection in ("nodes", "sources", "exposures", "metrics", "unit_tests", "semantic_models",
                       "saved_queries", "functions", "macros", "docs", "groups"):  # fmt: skip
        for entry in (manifest.raw.get(collection) or {}).values():
            _add_paths(found, entry, root)
    for entries in (manifest.raw.get("disabled") or {}).values():
        for entry in entries if isinstance(entries, list) else ():
            _add_paths(found, entry, root)
    return sorted(found)


def _add_paths(found: set[str], entry: Any, root: str | None) -> None:
    if not isinstance(entry, dict):
        return
    own = entry.get("original_file_path")
    if isinstance(own, str) and (root is None or entry.get("package_name") == root):
        found.update(_self_and_folders(own))
    patch = entry.get("patch_path")
    if isinstance(patch, str) and (root is None or patch.startswith(f"{root}://")):
        found.update(_self_and_folders(_after_scheme(patch)))


def _after_scheme(patch_path: str) -> str:
    return patch_path.partition("://")[2] or patch_path


@lru_cache(maxsize=50_000)
def _self_and_folders(file_path: str) -> tuple[str, ...]:
    file_path = posixpath.normpath(file_path)
    found = [file_path]
    while (file_path := posixpath.dirname(file_path)) not in ("", "/"):
        found.append(file_path)
    return (*found, ".")


def _path_steps(criterion: Criterion) -> list[Callable[[str], object] | None]:
    """Compile a path pattern to a match for each name on the way; None is ``**``, any folders."""
    pattern = _text(criterion)
    if pattern.startswith("/"):
        criterion.refuse(
            "A path is relative to the dbt project, and cannot begin with '/'.",
        )
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if not parts:
        criterion.refuse("The path is empty.", hint="path:models takes all models.")
    steps: list[Callable[[str], object] | None] = []
    for part in parts:
        if part != "**" and "**" in part:
            criterion.refuse("'**' stands for whole folders only.", hint="Write **/ before it.")
        steps.append(None if part == "**" else _glob(criterion, part))
    return steps


def _walk_paths(paths: Iterable[str], steps: Sequence[Callable[[str], object] | None]) -> set[str]:
    """Return those of ``paths`` (folders before their content) that the steps lead to.

    ``places[path]`` are the numbers of steps that can have been taken on the way to it.
    """
    end = len(steps)

    def settle(reached: set[int]) -> set[int]:
        for place in range(end):
            if place in reached and steps[place] is None:
                reached.add(place + 1)
        return reached

    places: dict[str, set[int]] = {".": settle({0})}
    for path in paths:
        if path == ".":
            continue
        folder, _, name = path.rpartition("/")
        reached: set[int] = set()
        for place in places.get(folder or ".", ()):
            if place < end:
                step = steps[place]
                if step is None:
                    reached.add(place)
                elif step(name):
                    reached.add(place + 1)
        if reached:
            places[path] = settle(reached)
    return {path for path, reached in places.items() if end in reached}
