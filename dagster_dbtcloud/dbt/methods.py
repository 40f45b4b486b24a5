"""One small function per selection method of dbt, in a table.

Each answers which nodes a criterion's ``method.argument:value`` matches; graph operators, tests
and set operations are not theirs (``selection.py``). Matching rules are dbt-core 1.11's.
"""

from __future__ import annotations

import posixpath
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import translate
from functools import cached_property
from itertools import accumulate
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from dagster_dbtcloud.dbt.expression import Criterion, did_you_mean
from dagster_dbtcloud.dbt.manifest import Manifest, Node, collector_at_rest

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


def fqn(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    """Match by name, by dotted path from the package or its top folder, or by a glob of either."""
    value = _text(criterion)
    if value == "*":
        return (i for i, node in manifest.nodes.items() if node.resource_type != "source")
    return _once(manifest, "fqn", _Names).match(value)


def tag(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    return _look_up(_table(manifest, "tag", lambda node: node.tags), _text(criterion))


def group(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    """Match the group of models, other nodes and metrics."""
    return _look_up(_table(manifest, "group", _group_of), _text(criterion))


def _group_of(node: Node) -> Iterable[str]:
    name = node.facts.config_group
    grouped = node.resource_type not in _APART or node.resource_type == "metric"
    return (name,) if grouped and isinstance(name, str) and name else ()


def access(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    table = _table(manifest, "access", lambda node: filter(None, (node.access,)))
    return table.get(criterion.value, ()) if isinstance(criterion.value, str) else ()


def source(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    parts = _text(criterion).split(".")
    if len(parts) > 3:
        criterion.refuse(
            "A source has at most three parts.",
            hint="source:NAME, source:NAME.TABLE or source:PACKAGE.NAME.TABLE",
        )
    package, name, table = {1: ("*", *parts, "*"), 2: ("*", *parts), 3: (*parts,)}[len(parts)]
    in_package, of_table = _glob(package), _glob(table)
    for unique_id in _look_up(_table(manifest, "source", _source_name_of), name):
        node = manifest.nodes[unique_id]
        if of_table(node.name) and in_package(node.package_name):
            yield unique_id


def _source_name_of(node: Node) -> Iterable[str]:
    return (node.source_name or "",) if node.resource_type == "source" else ()


def _named(resource_type: str) -> Method:
    def name_of(node: Node) -> Iterable[str]:
        return (node.name,) if node.resource_type == resource_type else ()

    def named(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
        parts = _text(criterion).split(".")
        if len(parts) > 2:
            criterion.refuse(
                f"{resource_type} takes at most two parts.",
                hint=f"{resource_type}:NAME or {resource_type}:PACKAGE.NAME",
            )
        in_package = _glob(parts[0] if len(parts) == 2 else "*")
        for unique_id in _look_up(_table(manifest, resource_type, name_of), parts[-1]):
            if in_package(manifest.nodes[unique_id].package_name):
                yield unique_id

    return named


def path(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    """Match files and folders as dbt does on disk, on the paths that the manifest names.

    A folder takes all below it; a YAML file takes what it describes. A slash at the end stands
    for folders only (pathlib since Python 3.11).
    """
    steps = _path_steps(criterion)
    only_folders = _text(criterion).endswith("/")
    return _once(manifest, "path", _Files).match(steps, only_folders=only_folders)


def file(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    """Match the name of the defining file, with its extension or without."""
    return _look_up(_table(manifest, "file", _file_names_of), _text(criterion))


def _file_names_of(node: Node) -> Iterable[str]:
    name = node.original_file_path.rpartition("/")[2]
    stem = posixpath.splitext(name)[0]
    return (name,) if stem == name else (name, stem)


def package(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    name = _text(criterion)
    if name == "this" and manifest.metadata.project_name is not None:
        name = manifest.metadata.project_name
    return _look_up(_table(manifest, "package", lambda node: (node.package_name,)), name)


def config(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    """Match ``config.a.b:value`` as text, or true and false as booleans; lists hold the value."""
    keys = criterion.arguments
    values = _once(manifest, f"config.{'.'.join(keys)}", lambda m: _config_values(m, keys))
    return (unique_id for unique_id, value in values if _config_equals(criterion, value))


_MISSING = object()
_CONFIG_KEYS = {"pre_hook": "pre-hook", "post_hook": "post-hook", "pre-hook": "", "post-hook": ""}
"""How the manifest has what dbt knows by another name, or (none) does not know by this one."""
_DICT_ATTRIBUTES = frozenset(dir(dict))


def _config_values(manifest: Manifest, keys: tuple[str, ...]) -> list[tuple[str, object]]:
    return [
        (unique_id, value)
        for unique_id, node in manifest.nodes.items()
        if node.resource_type not in _APART or node.resource_type == "source"
        if (value := _descend(node.config, keys)) is not _MISSING
    ]


def _descend(config: Mapping[str, Any], keys: tuple[str, ...]) -> object:
    value: object = config
    for depth, key in enumerate(keys):
        if not isinstance(value, dict):
            return _MISSING
        if depth == 0:  # dbt gives None for any key that a config does not have
            value = value.get(_CONFIG_KEYS.get(key, key))
        elif key in _DICT_ATTRIBUTES:
            return _MISSING  # dbt finds the dict's own method first
        else:
            value = value.get(key, _MISSING)
            if value is _MISSING:
                return _MISSING
    return value


def _config_equals(criterion: Criterion, value: object) -> bool:
    wanted = criterion.value
    word = str(wanted).upper()
    is_true, is_false = word == "TRUE", word == "FALSE"
    if isinstance(value, list):
        return wanted in value or (is_true and True in value) or (is_false and False in value)
    if criterion.arguments == ("severity",):
        equal = isinstance(value, str) and word == value.upper()
    else:
        equal = bool(wanted == value)
    return equal or (is_true and value is True) or (is_false and value is False)


def test_name(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    """Match the bare name of a generic test, or the name of a unit test."""
    return _look_up(_table(manifest, "test_name", _test_name_of), _text(criterion))


def _test_name_of(node: Node) -> Iterable[str]:
    name = node.name if node.resource_type == "unit_test" else node.test_metadata_name
    return (name,) if name else ()


def test_type(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    kinds = _TEST_TYPES.get(_text(criterion))
    if kinds is None:
        criterion.refuse(
            f"{criterion.value!r} is not a type of test.",
            hint=did_you_mean(criterion.value, _TEST_TYPES)
            or f"The types are {', '.join(_TEST_TYPES)}.",
        )
    table = _table(manifest, "test_type", _test_type_of)
    return [unique_id for kind in kinds for unique_id in table.get(kind, ())]


_TEST_TYPES = {
    "generic": ("generic",),
    "schema": ("generic",),
    "singular": ("singular",),
    "data": ("generic", "singular"),
    "unit": ("unit",),
}


def _test_type_of(node: Node) -> Iterable[str]:
    if node.resource_type == "test":
        return ("generic",) if node.is_generic_test else ("singular",)
    return ("unit",) if node.resource_type == "unit_test" else ()


def resource_type(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    wanted = _text(criterion)
    if wanted not in RESOURCE_TYPES:
        criterion.refuse(
            f"{wanted!r} is not a resource type.",
            hint=did_you_mean(wanted, RESOURCE_TYPES)
            or f"The types are {', '.join(sorted(RESOURCE_TYPES))}.",
        )
    return _of_type(manifest, wanted)


def _of_type(manifest: Manifest, wanted: str) -> Iterable[str]:
    return _table(manifest, "resource_type", lambda node: (node.resource_type,)).get(wanted, ())


def version(manifest: Manifest, criterion: Criterion) -> Iterable[str]:
    wanted = _VERSION_TESTS.get(_text(criterion))
    if wanted is None:
        criterion.refuse(
            f"{criterion.value!r} is not a kind of version.",
            hint=did_you_mean(criterion.value, _VERSION_TESTS)
            or f"The kinds are {', '.join(_VERSION_TESTS)}.",
        )
    models = ((i, manifest.nodes[i]) for i in _of_type(manifest, "model"))
    return [i for i, node in models if wanted(node.version, node.latest_version)]


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


def known_values(manifest: Manifest, method: str) -> Iterable[str]:
    """Return values that ``method`` would match in this manifest, for a hint; not always all."""
    if method == "fqn":
        return _once(manifest, "fqn", _Names).leaves
    if method == "path":
        files = _once(manifest, "path", _Files)
        return {*files.folders, *files.files}
    return _made.get(manifest, {}).get(method, ()) if method != "config" else ()


def _text(criterion: Criterion) -> str:
    if not isinstance(criterion.value, str):
        criterion.refuse(f"{criterion.method} takes a text, not {criterion.value!r}.")
    return criterion.value


_WILD = re.compile(r"[*?\[\]]")


def _glob(pattern: str) -> Callable[[str], object]:
    """Compile dbt's glob: case counts, ``*`` also crosses dots and slashes."""
    return re.compile(translate(pattern)).match


_LITERAL = re.compile(r"[^*?\[\]]+")


def _literal(pattern: str) -> str:
    """Return the longest piece that a text must hold for the glob to match; empty if unknown."""
    if "[" in pattern:  # what is in brackets is no piece
        pattern = pattern.partition("[")[0]
    return max(_LITERAL.findall(pattern), key=len, default="")


class _Texts:
    """Texts of which those that hold a piece are found without looking at each."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def holding(self, piece: str) -> Iterable[int]:
        """Give the places of all texts that hold ``piece``, and perhaps of some more."""
        return self._search(piece) if piece else range(len(self.texts))

    def _search(self, piece: str) -> Iterator[int]:
        at = self._joined.find(piece)
        while at >= 0:
            place = bisect_right(self._starts, at) - 1
            yield place
            if place + 1 == len(self._starts):
                return
            at = self._joined.find(piece, self._starts[place + 1])

    @cached_property
    def _joined(self) -> str:
        return "\1".join(self.texts)

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(len(text) + 1 for text in self.texts[:-1])] if self.texts else []


class Table(dict[str, list[str]]):
    """The ids of nodes under each of their keys."""

    @cached_property
    def _keys(self) -> _Texts:
        return _Texts(list(self))

    def glob(self, pattern: str) -> Iterator[str]:
        """Give the ids under every key that ``pattern`` matches."""
        matches = _glob(pattern)
        keys = self._keys.texts
        for place in self._keys.holding(_literal(pattern)):
            if matches(keys[place]):
                yield from self[keys[place]]


def _look_up(table: Table, pattern: str) -> Iterable[str]:
    """Return the ids under every key that ``pattern`` globs."""
    if _WILD.search(pattern):
        return table.glob(pattern)
    return table.get(pattern, ())


def _table(manifest: Manifest, name: str, keys_of: Callable[[Node], Iterable[str]]) -> Table:
    """Return the ids of the nodes under each of their keys."""

    def make(manifest: Manifest) -> Table:
        table = Table()
        for unique_id, node in manifest.nodes.items():
            for key in keys_of(node):
                table.setdefault(key, []).append(unique_id)
        return table

    return _once(manifest, name, make)


Made = TypeVar("Made")

_made: WeakKeyDictionary[Manifest, dict[str, Any]] = WeakKeyDictionary()


def _once(manifest: Manifest, name: str, make: Callable[[Manifest], Made]) -> Made:
    """Return what ``make`` makes of the manifest, made once.

    It must hold no reference to the manifest, or neither is ever freed.
    """
    tables = _made.setdefault(manifest, {})
    if name not in tables:
        with collector_at_rest():
            tables[name] = make(manifest)
    made: Made = tables[name]
    return made


class _Names:
    """What ``fqn`` looks up: names, and dotted paths in an order that keeps folders together."""

    def __init__(self, manifest: Manifest) -> None:
        self.leaves = Table()
        self.versioned: dict[str, list[str]] = defaultdict(list)
        # Texts alone, no tuples: the cycle collector would count those on every growth.
        keyed: list[str] = []
        for unique_id, node in manifest.nodes.items():
            if node.resource_type == "source":
                continue
            if node.is_versioned and len(node.fqn) > 1:
                self.leaves.setdefault(node.fqn[-2], []).append(unique_id)
                self.versioned["_".join(node.fqn[-2:])].append(unique_id)
            else:
                self.leaves.setdefault(node.fqn[-1], []).append(unique_id)
            # A dot in a name parts it like a folder; NUL sorts a folder's content together.
            whole = ".".join(node.fqn).replace(".", "\0") + f"\0\1{unique_id}"
            keyed.append(whole)
            if len(node.fqn) > 1:
                keyed.append(whole[len(node.fqn[0]) + 1 :])
        keyed.sort()
        self.keys = [key.partition("\1")[0] for key in keyed]
        self.ids = [key.partition("\1")[2] for key in keyed]
        self._texts = _Texts(self.keys)

    def match(self, value: str) -> set[str]:
        found = set(self.leaves.get(value, ()))
        parts = value.split(".")
        found.update(self.versioned.get("_".join(parts[-2:]), ()))
        plain = next((n for n, part in enumerate(parts) if _WILD.search(part)), len(parts))
        prefix = "".join(f"{part}\0" for part in parts[:plain])
        first = bisect_left(self.keys, prefix)
        last = bisect_left(self.keys, prefix[:-1] + "\1") if prefix else len(self.keys)
        if plain == len(parts):
            found.update(self.ids[first:last])
            return found
        rest = ".".join(parts[plain:])
        matches = _glob(rest)
        places: Iterable[int] = range(first, last)
        if piece := _literal(rest).replace(".", "\0"):
            places = (n for n in self._texts.holding(piece) if first <= n < last)
        for n in places:
            key = self.keys[n]
            if key.count("\0") >= len(parts) and matches(key[len(prefix) : -1].replace("\0", ".")):
                found.add(self.ids[n])
        if len(parts) == 1:
            found.update(_look_up(self.leaves, value))
        return found


Step = str | Callable[[str], object] | None
"""One name of a path pattern: plain, a glob, or None for ``**``, any number of folders."""


def _path_steps(criterion: Criterion) -> list[Step]:
    pattern = _text(criterion)
    if pattern.startswith("/"):
        criterion.refuse("A path is relative to the dbt project, and cannot begin with '/'.")
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if not parts:
        criterion.refuse("The path is empty.", hint="path:models takes all models.")
    steps: list[Step] = []
    for part in parts:
        if part == "**":
            steps.append(None)
        elif "**" in part:
            criterion.refuse("'**' stands for whole folders only.", hint="Write **/ before it.")
        else:
            steps.append(_step(part) if _WILD.search(part) else part)
    return steps


def _step(part: str) -> Callable[[str], object]:
    matches, piece = _glob(part), _literal(part)
    return lambda name: piece in name and matches(name)


class _Files:
    """What ``path`` looks up: the files of all nodes, and the project's own tree of folders.

    dbt searches the root project's disk and compares what it found with the nodes' files, which
    for a package's node are relative to the package.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.ids: dict[str, list[str]] = defaultdict(list)
        self.described: dict[str, list[str]] = defaultdict(list)
        for unique_id, node in manifest.nodes.items():
            self.ids[_clean(node.original_file_path)].append(unique_id)
            if node.patch_path:
                self.described[_after_scheme(node.patch_path)].append(unique_id)
        self.files = sorted(self.ids)
        self.folders: dict[str, set[str]] = {".": set()}
        for file in dict.fromkeys(_project_files(manifest)):
            self._plant(file)

    def _plant(self, file: str) -> None:
        while True:
            folder, _, name = file.rpartition("/")
            folder = folder or "."
            if folder in self.folders:
                self.folders[folder].add(name)
                return
            self.folders[folder] = {name}
            file = folder

    def match(self, steps: list[Step], *, only_folders: bool) -> set[str]:
        found: set[str] = set()
        for place in self._places(steps):
            if only_folders and place not in self.folders:
                continue
            if place == ".":
                return {unique_id for ids in self.ids.values() for unique_id in ids}
            found.update(self.ids.get(place, ()), self.described.get(place, ()))
            if place in self.folders:
                # "0" is the character after "/": between the two lies a folder's content.
                first, last = (bisect_left(self.files, f"{place}{end}") for end in "/0")
                for file in self.files[first:last]:
                    found.update(self.ids[file])
        return found

    def _places(self, steps: list[Step]) -> Iterable[str]:
        """Return the files and folders of the project that the steps lead to."""
        places = ["."]
        for step in steps:
            inside = ((place, self.folders.get(place, ())) for place in places)
            if step is None:
                places = list(
                    dict.fromkeys(below for place in places for below in self._below(place))
                )
            elif isinstance(step, str):
                places = [_join(place, step) for place, names in inside if step in names]
            else:
                places = [_join(place, n) for place, names in inside for n in names if step(n)]
        return places

    def _below(self, place: str) -> Iterator[str]:
        """Give the folder ``place`` and every folder below it."""
        waiting = [place]
        while waiting:
            folder = waiting.pop()
            if folder in self.folders:
                yield folder
                waiting += self._folders_in[folder]

    @cached_property
    def _folders_in(self) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = {folder: [] for folder in self.folders}
        for folder in self.folders:
            if folder != ".":
                found[folder.rpartition("/")[0] or "."].append(folder)
        return found


def _join(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def _project_files(manifest: Manifest) -> Iterator[str]:
    """Give every file of the root project that the manifest names, also of what is disabled."""
    root = manifest.metadata.project_name
    for node in manifest.nodes.values():
        if root is None or node.package_name == root:
            yield _clean(node.original_file_path)
        patch = node.patch_path
        if patch and (root is None or patch.startswith(f"{root}://")):
            yield _after_scheme(patch)
    yield from map(_clean, manifest.other_files)


def _after_scheme(patch_path: str) -> str:
    return _clean(patch_path.partition("://")[2] or patch_path)


def _clean(path: str) -> str:
    # Nearly all are clean, and to see that is ten times quicker than to clean them.
    clean = path[:1] not in ("", ".", "/") and path[-1] != "/"
    return path if clean and "//" not in path and "/." not in path else posixpath.normpath(path)
