"""From dagster-dbt's dbt Cloud names to ours, in the text of Python and YAML files.

Pure: text in, text out, and a list of what a person has to look at. Only import lines, names with
their module before them, and ``type:`` lines of YAML components are changed, each exactly where it
stands. dbt Core's names stay with dagster-dbt.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

NEW, OLDER = "dagster_dbtcloud", "dagster_dbtcloud.legacy"

_CLOUD = {
    **dict.fromkeys(
        (
            "DbtCloudCliInvocation",
            "DbtCloudComponent",
            "DbtCloudCredentials",
            "DbtCloudWorkspace",
            "build_dbt_cloud_polling_sensor",
            "dbt_cloud_assets",
            "load_dbt_cloud_asset_specs",
            "load_dbt_cloud_check_specs",
        ),
        NEW,
    ),
    **dict.fromkeys(
        (
            "DbtCloudClientResource",
            "DbtCloudOutput",
            "DbtCloudResource",
            "DbtCloudRunOpConfig",
            "DbtCloudRunStatus",
            "dbt_cloud_resource",
            "dbt_cloud_run_op",
            "load_assets_from_dbt_cloud_job",
        ),
        OLDER,
    ),
}
_SHARED = frozenset(
    {
        "DagsterDbtTranslator",
        "DagsterDbtTranslatorSettings",
        "build_dbt_asset_selection",
        "build_schedule_from_dbt_selection",
        "default_group_from_dbt_resource_props",
        "default_metadata_from_dbt_resource_props",
        "get_asset_key_for_model",
        "get_asset_key_for_source",
        "get_asset_keys_by_output_name_for_source",
        "group_from_dbt_resource_props_fallback_to_directory",
    }
)
"""What dagster-dbt uses for dbt Core and for dbt Cloud; ours is for dbt Cloud alone."""
_GONE = {
    "DagsterDbtCloudJobInvariantViolationError": "catch dagster_dbtcloud.DbtCloudError instead",
}
_METHODS = {
    **dict.fromkeys(
        ("fetch_workspace_data", "get_or_fetch_workspace_data"),
        "workspace.load_state(), whose manifest.raw is manifest.json",
    ),
    "DbtCloudCliInvocation.run": "workspace.cli(...) or workspace.run_job(...)",
    "destroy_job": "client.delete_job(...)",
    "get_account_details": "client.account()",
    "get_active_job_ids": "client.runs(...)",
    "get_environment_details": "client.environment(...)",
    "get_job_details": "client.job(...)",
    "get_project_details": "client.project(...)",
    "get_run_artifact": "client.artifact(...)",
    "get_run_details": "client.run(...)",
    "get_run_logs": 'client.run(..., include=["run_steps", "debug_logs"])',
    "get_run_manifest_json": 'client.artifact(..., "manifest.json")',
    "get_run_results_json": 'client.artifact(..., "run_results.json")',
    "get_runs_batch": "client.runs(...)",
    "list_jobs": "client.jobs(...)",
    "list_run_artifacts": "client.artifact_paths(...)",
    "poll_run": "workspace.follow(...)",
    "run_handler": "invocation.run_id, .get_artifact(...), .cancel()",
    "trigger_job_run": "workspace.trigger(...)",
    "verify_connection": "workspace.verify()",
}
"""Methods of ``cloud_v2``'s workspace, client and invocation that have other names here."""
_KEYS = {
    "dagster_dbt/completed_at_timestamp": "completed_at",
    "dagster_dbt/failed_row_count": "failed_row_count",
    "dagster_dbt/unique_id": "dagster_dbtcloud/unique_id",
}
"""Keys of metadata, in those of assets, checks or their events."""
_MODULE = re.compile(r"dagster_dbt(?:\.\w+)*")
_CLOUD_MODULE = re.compile(r"dagster_dbt\.cloud(?:_v2)?(?:\.|$)")
_YAML_TYPE = re.compile(
    r"^(?P<before>[ \t]*(?:-[ \t]+)?type:[ \t]*[\"']?)(?P<type>dagster_dbt(?:\.\w+)+)"
    r"(?P<after>[\"']?[ \t]*(?:#[^\r\n]*)?)(?=\r?$)",
    re.MULTILINE,
)
_NAMED = re.compile(r"dagster_dbt(?:\.\w+)*\.(?P<name>\w+)")
_LINE_END = re.compile(r"\r\n|\r|\n")
_LONG = 88
"""A new import line that is longer is broken, one name a line."""


@dataclass(frozen=True, order=True)
class Left:
    """A place that a person has to look at, and why. ``line`` counts from 1."""

    line: int
    reason: str


@dataclass(frozen=True)
class Rewritten:
    """A file's new text (the old one, when nothing is to be changed) and what is left to do."""

    text: str
    left: tuple[Left, ...] = ()


@dataclass(frozen=True)
class Uses:
    """Whether a file uses names of dbt Cloud, and whether it uses names of dbt Core."""

    cloud: bool
    core: bool


def uses_of(text: str) -> Uses:
    """Return which of dagster-dbt's names a Python file uses; none where it is not Python."""
    try:
        file = _File(text)
    except (SyntaxError, ValueError):
        return Uses(False, False)
    used = list(file.names())
    cloud = [name in _CLOUD or bool(_CLOUD_MODULE.match(module)) for module, name in used]
    both = _SHARED | set(_GONE)
    core = [
        not is_cloud and name not in both for is_cloud, (_, name) in zip(cloud, used, strict=True)
    ]
    return Uses(any(cloud), any(core))


def rewrite_python(text: str, *, shared: bool) -> Rewritten:
    """Rewrite a Python file; ``shared`` says that names for Core and Cloud alike are to move.

    A file that uses both kinds keeps its shared names, and a person has to say which is meant.
    """
    try:
        return _Python(text, shared=shared).rewritten()
    except SyntaxError as error:
        return Rewritten(text, (Left(error.lineno or 1, f"not Python: {error.msg}"),))
    except ValueError as error:  # a null byte
        return Rewritten(text, (Left(1, f"not Python: {error}"),))


def rewrite_yaml(text: str) -> Rewritten:
    """Rewrite the ``type:`` lines of a YAML file's components; point at the rest."""
    left: list[Left] = []

    def moved(match: re.Match[str]) -> str:
        name = match["type"].rpartition(".")[2]
        target = _CLOUD.get(name)
        if target is not None:
            return f"{match['before']}{target}.{name}{match['after']}"
        if _CLOUD_MODULE.match(match["type"]):
            left.append(Left(line_of(text, match), f"{match['type']} has no counterpart here"))
        return match[0]

    new = _YAML_TYPE.sub(moved, text)
    for match in _NAMED.finditer(new):
        if match["name"] in _CLOUD:
            left.append(Left(line_of(new, match), f"{match[0]} stands in a place of its own"))
    return Rewritten(new, tuple(sorted(left)))


def line_of(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1


class _File:
    """A parsed Python file: what of dagster-dbt it imports, and where it uses it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self._starts = [0, *(match.end() for match in _LINE_END.finditer(text))]
        self.from_imports: list[ast.ImportFrom] = []
        self.imports: list[ast.alias] = []
        bound: dict[str, ast.alias] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                if _MODULE.fullmatch(node.module or ""):
                    self.from_imports.append(node)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if _MODULE.fullmatch(alias.name):
                        self.imports.append(alias)
                        bound[alias.asname or "dagster_dbt"] = alias
        self.chains = list(self._chains(bound))
        inner = {id(chain.root) for chain in self.chains}
        self.bare = [
            node
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Name) and node.id in bound and id(node) not in inner
        ]

    def _chains(self, bound: Mapping[str, ast.alias]) -> Iterator[_Chain]:
        """Yield each ``module.….name``, up to the first name that is no module."""
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Attribute):
                continue
            parts, base = [node.attr], node.value
            while isinstance(base, ast.Attribute):
                parts.insert(0, base.attr)
                base = base.value
            if not isinstance(base, ast.Name) or base.id not in bound:
                continue
            *modules, name = parts
            if _is_module(name) or not all(map(_is_module, modules)):
                continue  # an inner or an outer part of the chain
            yield _Chain(node, base, base.id, bound[base.id], name)

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield (module, name) of everything that is used of dagster-dbt."""
        for node in self.from_imports:
            yield from ((node.module or "", alias.name) for alias in node.names)
        yield from ((chain.binding.name, chain.name) for chain in self.chains)

    def offset(self, line: int, column: int) -> int:
        """Return the place of one of ast's positions, whose columns count UTF-8 bytes."""
        start = self._starts[line - 1]
        if column == 0:
            return start
        end = self._starts[line] if line < len(self._starts) else len(self.text)
        return start + len(self.text[start:end].encode()[:column].decode())

    def span(self, node: ast.stmt | ast.expr | ast.alias) -> tuple[int, int]:
        end = (node.end_lineno or node.lineno, node.end_col_offset or 0)
        return self.offset(node.lineno, node.col_offset), self.offset(*end)


@dataclass(frozen=True)
class _Chain:
    node: ast.Attribute
    root: ast.Name
    bound: str
    binding: ast.alias
    name: str


class _Python:
    """The edits of one file."""

    def __init__(self, text: str, *, shared: bool) -> None:
        self._file = _File(text)
        self._shared = shared
        self._edits: list[tuple[int, int, str]] = []
        self._left: list[Left] = []

    def rewritten(self) -> Rewritten:
        for node in self._file.from_imports:
            self._from_import(node)
        for alias in self._file.imports:
            self._import(alias)
        self._texts()
        self._methods()
        text = self._file.text
        for start, end, new in sorted(self._edits, reverse=True):
            text = text[:start] + new + text[end:]
        return Rewritten(text, tuple(sorted(set(self._left))))

    def _target(self, name: str, module: str, line: int) -> str | None:
        """Return where a name moves; None when it stays, which is noted if that is a question."""
        if name in _CLOUD:
            return _CLOUD[name]
        if name in _GONE:
            self._left.append(Left(line, f"{name} has no counterpart here: {_GONE[name]}"))
        elif name in _SHARED:
            if self._shared:
                return NEW
            if self._shared is False and uses_of(self._file.text).cloud:
                self._left.append(
                    Left(
                        line,
                        f"{name} may be meant for dbt Core or for dbt Cloud, since both are used; "
                        f"for dbt Cloud import it from {NEW}",
                    )
                )
        elif _CLOUD_MODULE.match(module):
            what = "everything (*)" if name == "*" else name
            self._left.append(Left(line, f"{what} of {module} has no counterpart here"))
        return None

    # --- from dagster_dbt import a, b

    def _from_import(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if module == "dagster_dbt" and any(a.name in ("cloud", "cloud_v2") for a in node.names):
            self._left.append(
                Left(node.lineno, "a module is imported; import the names that you use of it")
            )
        targets = [self._target(alias.name, module, alias.lineno) for alias in node.names]
        kept = any(target is None for target in targets)
        moved = sorted({target for target in targets if target is not None})
        if not moved:
            return
        start, end = self._file.span(node)
        if not kept and len(moved) == 1:
            place = self._file.text.index(module, start)
            self._edits.append((place, place + len(module), moved[0]))
            return
        groups: dict[str, list[ast.alias]] = {}
        for alias, target in zip(node.names, targets, strict=True):
            groups.setdefault(target or module, []).append(alias)
        order = [name for name in (module, *moved) if name in groups]
        parts = self._parts(node, {name: groups[name] for name in order})
        if parts is None:
            names = ", ".join(
                alias.name for name, found in groups.items() if name != module for alias in found
            )
            self._left.append(
                Left(node.lineno, f"import {names} from {' and '.join(moved)} by hand")
            )
            return
        self._edits.append((start, end, parts))

    def _parts(self, node: ast.ImportFrom, groups: Mapping[str, list[ast.alias]]) -> str | None:
        """Return one import statement for each module; None when that needs a person."""
        text = self._file.text
        start, end = self._file.span(node)
        line_start = self._file.offset(node.lineno, 0)
        indent = text[line_start:start]
        following = _LINE_END.split(text[end:], maxsplit=1)[0].strip()
        if indent.strip() or (following and not following.startswith("#")):
            return None  # another statement on the same line
        newline = (_LINE_END.search(text) or ["\n"])[0]
        lines = _LINE_END.split(text[start:end])
        first = {alias.lineno - node.lineno for alias in node.names}
        one_each = len(first) == len(node.names) and 0 not in first and lines[-1].strip() == ")"
        if one_each and (len(lines) - 1) not in first:
            owner: dict[int, int] = {}
            for number in range(1, len(lines) - 1):  # a comment goes with the name below it
                owner[number] = min((f for f in first if f >= number), default=max(first))
            statements = []
            for index, (module, aliases) in enumerate(groups.items()):
                own = {alias.lineno - node.lineno for alias in aliases}
                body = [lines[number] for number in owner if owner[number] in own]
                head = lines[0].replace(node.module or "", module, 1)
                if index:
                    head = head.partition("(")[0] + "("
                statements.append(newline.join([head, *body, lines[-1]]))
        elif "#" in text[start:end]:
            return None
        else:
            statements = [
                _statement(module, aliases, indent, newline) for module, aliases in groups.items()
            ]
        return f"{newline}{indent}".join(statements)

    # --- import dagster_dbt [as x]

    def _import(self, alias: ast.alias) -> None:
        file = self._file
        chains = [chain for chain in file.chains if chain.binding is alias]
        for node in file.bare:
            if node.id == (alias.asname or "dagster_dbt"):
                self._left.append(Left(node.lineno, f"the module {node.id} is used as a whole"))
                return
        targets = {id(c): self._target(c.name, alias.name, c.node.lineno) for c in chains}
        moved = sorted({target for target in targets.values() if target is not None})
        kept = any(target is None for target in targets.values())
        if not moved:
            return
        start, end = file.span(alias)
        if alias.asname is not None:
            if kept or len(moved) > 1:
                self._left.append(
                    Left(
                        alias.lineno,
                        f"{alias.asname} stands for names of {' and '.join(moved)}"
                        f"{' and of dagster_dbt' if kept else ''}; import each by itself",
                    )
                )
                return
            self._edits.append((start, end, f"{moved[0]} as {alias.asname}"))
        else:
            modules = [alias.name, *moved] if kept else moved
            self._edits.append((start, end, ", ".join(modules)))
        for chain in chains:
            target = targets[id(chain)]
            if target is not None:
                prefix = chain.bound if alias.asname is not None else target
                self._edits.append((*file.span(chain.node), f"{prefix}.{chain.name}"))

    # --- methods

    def _methods(self) -> None:
        used = self._file.names()
        if not any(_CLOUD.get(name) == NEW or "cloud_v2" in module for module, name in used):
            return  # the older API has some of these names, and keeps them
        for node in ast.walk(self._file.tree):
            if isinstance(node, ast.Attribute):
                names = (node.attr, ".".join(ast.unparse(node).split(".")[-2:]))
                for name in filter(_METHODS.__contains__, names):
                    reason = f"{name} has another name here: {_METHODS[name]}"
                    self._left.append(Left(node.end_lineno or node.lineno, reason))

    # --- texts: what is patched in tests, keys of metadata

    def _texts(self) -> None:
        for node in ast.walk(self._file.tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            text = node.value
            if re.fullmatch(r"dagster_dbt(\.\w+)+", text) and (
                _CLOUD_MODULE.match(text) or any(part in _CLOUD for part in text.split("."))
            ):
                self._left.append(Left(node.lineno, f"a text names {text}"))
            elif self._shared and text in _KEYS:
                self._left.append(Left(node.lineno, f"the key {text} is {_KEYS[text]} here"))


def _is_module(name: str) -> bool:
    """Tell whether a part of a dotted name is a module of dagster-dbt, by what it is not."""
    known = name in _CLOUD or name in _SHARED or name in _GONE
    return not known and (
        name in ("cloud", "cloud_v2", "component", "components", "core")
        or name in ("resources", "asset_decorator", "sensor_builder", "cli_invocation", "types")
        or name in ("client", "run_handler", "ops", "asset_defs", "utils", "dbt_cloud_component")
        or name in ("asset_utils", "dagster_dbt_translator", "errors")
    )


def _statement(module: str, aliases: Iterable[ast.alias], indent: str, newline: str) -> str:
    names = [_alias(alias) for alias in aliases]
    line = f"from {module} import {', '.join(names)}"
    if len(indent) + len(line) <= _LONG:
        return line
    inner = "".join(f"{newline}{indent}    {name}," for name in names)
    return f"from {module} import ({inner}{newline}{indent})"


def _alias(alias: ast.alias) -> str:
    return alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"


def shared_move(uses: Iterable[Uses], own: Uses) -> bool:
    """Say whether a file's shared names are dbt Cloud's: by itself, else by all files together."""
    if own.cloud or own.core:
        return own.cloud and not own.core
    together = list(uses)
    return any(each.cloud for each in together) and not any(each.core for each in together)
