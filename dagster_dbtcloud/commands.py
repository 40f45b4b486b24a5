"""The dbt commands of a run: those for what a Dagster step selected, and what a job's own select.

Pure: it reads and writes command lines over a manifest; it runs none of them. How a set of nodes is
said as a selection is ``specs.py``'s.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.selection import COMMAND_TYPES, resource_types_of, select
from dagster_dbtcloud.errors import ConfigError, SelectionError
from dagster_dbtcloud.harvest import dbt_command
from dagster_dbtcloud.specs import DbtSpecs
from dagster_dbtcloud.wording import LONGEST, node_args_in_parts, unit_tests_alone

_SELECTING = frozenset(
    {"build", "run", "test", "seed", "snapshot", "compile", "clone", "list", "ls"}
)
_BUILD_ONLY_FLAGS = frozenset(
    {"--full-refresh", "-f", "--no-full-refresh", "--empty", "--no-empty"}
)
_MANY = {
    **dict.fromkeys(("--select", "-s", "--models", "--model", "-m"), "select"),
    "--exclude": "exclude",
    **dict.fromkeys(("--resource-type", "--resource-types"), "types"),
    **dict.fromkeys(("--exclude-resource-type", "--exclude-resource-types"), "other_types"),
}
"""Flags that take all words up to the next flag (reference/node-selection/syntax)."""
_ONE = {"--selector": "selector", "--indirect-selection": "mode"}
_SELECTION = frozenset({"select", "exclude", "selector"})


@dataclass(frozen=True)
class Selection:
    """The selection of one command line, and the words that are left without it."""

    rest: tuple[str, ...]
    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    other_types: tuple[str, ...] = ()
    selector: str = ""
    mode: str = "eager"
    given: bool = False
    """Whether it says itself what to run."""


def read(words: Sequence[str]) -> Selection:
    """Take the selection out of a command's words (``dbt`` itself left out)."""
    many: dict[str, list[str]] = {}
    one: dict[str, str] = {}
    rest: list[str] = []
    open_list: list[str] | None = None
    left = iter(words)
    for word in left:
        flag, equals, value = word.partition("=")
        if flag in _MANY:
            open_list = many.setdefault(_MANY[flag], [])
            if equals:
                open_list += value.split()
        elif flag in _ONE:
            one[_ONE[flag]] = value if equals else next(left, "")
            open_list = None
        elif word.startswith("-") or open_list is None:
            rest.append(word)
            open_list = None
        else:
            open_list += word.split()
    return Selection(
        rest=tuple(rest),
        select=tuple(many.get("select", ())),
        exclude=tuple(many.get("exclude", ())),
        types=tuple(many.get("types", ())),
        other_types=tuple(many.get("other_types", ())),
        selector=one.get("selector", ""),
        mode=one.get("mode", "eager"),
        given=bool(_SELECTION & {*many, *one}),
    )


def selects_itself(words: Sequence[str]) -> bool:
    """Whether a command says itself what to run."""
    return read(words).given


def checked(args: Sequence[str]) -> list[str]:
    """Return the words of one dbt command, without ``dbt``. Raises: ConfigError."""
    if isinstance(args, str):
        raise ConfigError(f'cli() takes a list of words, such as ["build"]; got the text {args!r}.')
    words = [str(word) for word in args]
    if words[:1] == ["dbt"]:
        del words[0]
    if not words or not words[0].strip():
        raise ConfigError('cli() got no dbt command. Give it one, such as ["build"].')
    if len(words[0].split()) > 1:
        raise ConfigError(
            f"cli() takes one word in each place; got {words[0]!r} as one. "
            f"Write {words[0].split() + words[1:]!r}."
        )
    return words


def for_nodes(
    specs: DbtSpecs,
    wanted: frozenset[str],
    words: Sequence[str],
    *,
    own: tuple[str, str, str] = ("fqn:*", "", ""),
    exact: bool = False,
    longest: int = LONGEST,
) -> tuple[list[list[str]], frozenset[str]]:
    """Return the dbt commands that run ``wanted``, and the nodes they must run.

    ``own`` are the definition's own select, exclude and selector, which say all that it holds
    unless ``exact`` (then the definition holds what a job builds). Words with a selection of their
    own, and commands that select nothing, stay as they are. ``dbt build`` passes over a unit test
    whose model is not built with it, so those get a ``dbt test`` of their own. A selection of more
    than ``longest`` characters becomes several commands, in the order of dependencies.
    """
    command = dbt_command(shlex.join(["dbt", *words]))
    if selects_itself(words) or command not in _SELECTING:
        return [[*words]], frozenset()
    alone = unit_tests_alone(specs.manifest, wanted) if command == "build" else frozenset()
    parts = [([*words], wanted - alone)] if wanted - alone or not alone else []
    if alone:
        parts.append((for_test(words), alone))
    select, exclude, selector = own
    commands = [
        [*part_words, *args]
        for part_words, nodes in parts
        for args in node_args_in_parts(
            specs,
            nodes,
            select=select,
            exclude=exclude,
            selector=selector,
            exact=exact,
            longest=longest,
        )
    ]
    return commands, wanted if command == "build" else frozenset()


def for_test(words: Sequence[str]) -> list[str]:
    """Return the words of a ``dbt build`` as ``dbt test`` takes them."""
    kept = ["test" if word == "build" else word for word in words]
    return [word for word in kept if word not in _BUILD_ONLY_FLAGS]


# --- commands of a job ---------------------------------------------------------------------------


def command_line(args: Sequence[str]) -> str:
    """Return the step for dbt Cloud: one shell line, quoted once."""
    return shlex.join(["dbt", *args])


def words_of(line: str) -> list[str]:
    """Return the words of a job's command without ``dbt``; none where it is not one of dbt's."""
    try:
        words = shlex.split(line)
    except ValueError:
        return []
    return words[1:] if words[:1] == ["dbt"] else []


def nodes_of(manifest: Manifest, line: str) -> frozenset[str] | None:
    """Return the nodes that a command would build or check; None if it does neither.

    Raises: SelectionError, for what the manifest alone cannot answer, such as ``state:modified``.
    """
    words = words_of(line)
    command = dbt_command(line) or ""
    if command not in COMMAND_TYPES or command == "ls" or not words:
        return None
    said = read(words)
    return select(
        manifest,
        # dbt passes over what stands beside a --selector.
        select=() if said.selector else said.select,
        exclude=() if said.selector else said.exclude,
        selector=said.selector,
        indirect_selection=said.mode,
        resource_types=resource_types_of(command, include=said.types, exclude=said.other_types),
        include_empty=False,
    )


def nodes_of_job(manifest: Manifest, lines: Iterable[str], *, job: str) -> frozenset[str]:
    """Return the nodes that a job's commands build or check.

    Raises: ConfigError, naming the job and the command that this cannot be told of.
    """
    found: set[str] = set()
    for line in lines:
        found |= _nodes(manifest, line, job) or frozenset()
    return frozenset(found)


def _nodes(manifest: Manifest, line: str, job: str) -> frozenset[str] | None:
    try:
        return nodes_of(manifest, line)
    except SelectionError as error:
        raise ConfigError(
            f"It cannot be told beforehand what the job {job} builds, because of its command "
            f"`{line}`: {error} Give the selection with select=... and the job with run_job(...)."
        ) from error


def part_of_job(
    specs: DbtSpecs, lines: Sequence[str], wanted: Collection[str], *, job: str
) -> list[str]:
    """Return the job's commands so that they build and check ``wanted`` only.

    Commands that build nothing (``dbt run-operation``, ``dbt source freshness`` ...) stay; a
    command none of whose nodes are wanted is left out.

    Raises: ConfigError, when the job builds not all of them.
    """
    manifest = specs.manifest
    chosen = frozenset(wanted)
    result: list[str] = []
    built: set[str] = set()
    for line in lines:
        nodes = _nodes(manifest, line, job)
        if nodes is None:
            result.append(line)
            continue
        command = dbt_command(line)
        mine = nodes & chosen
        built |= mine
        if not mine and command == "test" and not specs.translator.settings.enable_asset_checks:
            # Without checks in Dagster, tests run with their assets.
            mine = chosen & {p for i in nodes for p in manifest.nodes[i].depends_on}
        if not mine:
            continue
        rest = read(words_of(line)).rest
        commands, _ = for_nodes(specs, mine, rest, exact=True)
        result += [shlex.join(["dbt", *words]) for words in commands]
    if missing := chosen - built:
        names = sorted(missing)
        raise ConfigError(
            f"The job {job} does not build {', '.join(names[:5])}"
            f"{f' and {len(names) - 5} more' if len(names) > 5 else ''}. Its commands are: "
            f"{', '.join(f'`{line}`' for line in lines) or 'none'}."
        )
    return result
