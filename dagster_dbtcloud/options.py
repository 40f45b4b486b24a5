"""What may be set for one dbt Cloud run: typed, validated, and gathered from where users write it.

It asks nobody and triggers nothing. Options become dbt flags (``vars``, ``full_refresh``) or
overrides of the trigger (all others; docs/dbt-cloud-api.md, fact 35).
"""

# No `from __future__ import annotations`: Dagster reads the annotations of `RunOptionsConfig`.

import difflib
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import dagster as dg
import yaml
from pydantic import Field
from typing_extensions import TypedDict

from dagster_dbtcloud.errors import ConfigError
from dagster_dbtcloud.harvest import dbt_command
from dagster_dbtcloud.variables import as_text, with_vars

OPTION_TAG_PREFIX = "dagster_dbtcloud/"
"""A run tag ``dagster_dbtcloud/<option>`` sets that option."""

_TAKES_FULL_REFRESH = frozenset({"build", "clone", "compile", "retry", "run", "seed"})
_TRUE, _FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})
_SHA = re.compile(r"[0-9a-fA-F]{7,64}")
_LARGEST = 2**31 - 1


class OptionArguments(TypedDict, total=False):
    """The options as keyword arguments of ``cli``, ``run_job`` and ``trigger``."""

    vars: Mapping[str, Any] | None
    full_refresh: bool | None
    git_branch: str | None
    git_sha: str | None
    schema_override: str | None
    target_name_override: str | None
    threads_override: int | None
    dbt_version_override: str | None
    generate_docs_override: bool | None
    timeout_seconds_override: int | None
    steps_override: Sequence[str] | None


class RunOptionsConfig(dg.Config):
    """The options as op config, for the launchpad and for schedules::

        @dbt_cloud_assets(workspace=workspace)
        def my_dbt_assets(context, dbt_cloud: DbtCloudWorkspace, config: RunOptionsConfig):
            yield from dbt_cloud.cli(["build"], context=context).wait()

    They are taken by themselves; a subclass may add fields of its own.
    """

    vars: dict[str, Any] = Field(default={}, description="dbt's --vars.")
    full_refresh: bool | None = Field(default=None, description="dbt's --full-refresh.")
    git_branch: str | None = Field(default=None, description="The branch to check out.")
    git_sha: str | None = Field(default=None, description="The commit to check out.")
    schema_override: str | None = Field(default=None, description="The schema to build in.")
    target_name_override: str | None = Field(default=None, description="dbt's target.name.")
    threads_override: int | None = Field(default=None, description="How many threads, 1 or more.")
    dbt_version_override: str | None = Field(default=None, description="The version of dbt.")
    generate_docs_override: bool | None = Field(
        default=None, description="Generate docs at the end."
    )
    timeout_seconds_override: int | None = Field(
        default=None, description="Seconds after which dbt Cloud stops the run; 0 for no limit."
    )
    steps_override: list[str] | None = Field(
        default=None, description="The dbt commands to run instead, as they stand."
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is set for one dbt Cloud run; None leaves it as the job or the environment has it.

    ``vars`` and ``full_refresh`` are added to each dbt command that takes them.
    ``timeout_seconds_override`` is in seconds, 0 for no limit of the run's own.
    ``steps_override`` are whole dbt commands, run as they stand: no selection is added to them.

    Raises: ConfigError, naming the option and what it takes.
    """

    vars: Mapping[str, Any] = field(default_factory=dict)
    full_refresh: bool | None = None
    git_branch: str | None = None
    git_sha: str | None = None
    schema_override: str | None = None
    target_name_override: str | None = None
    threads_override: int | None = None
    dbt_version_override: str | None = None
    generate_docs_override: bool | None = None
    timeout_seconds_override: int | None = None
    steps_override: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if value is None and name != "vars":
                continue
            object.__setattr__(self, name, check(name, {} if value is None else value))

    def trigger_fields(self) -> dict[str, Any]:
        """Return the overrides that travel in the trigger; those that are not set are left out."""
        values = {name: getattr(self, name) for name in _TRIGGER_FIELDS}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def changes_commands(self) -> bool:
        """Whether dbt's commands must be written anew for these options."""
        return bool(self.vars) or self.full_refresh is not None or self.steps_override is not None

    def over(self, other: "RunOptions") -> "RunOptions":
        """Return these options, with ``other``'s where these say nothing; vars name by name."""
        values = {
            each.name: getattr(other if getattr(self, each.name) is None else self, each.name)
            for each in fields(self)
        }
        return RunOptions(**{**values, "vars": {**other.vars, **self.vars}})

    def added_to(self, words: Sequence[str]) -> list[str]:
        """Return a dbt command, words without ``dbt``, with the flags that it takes.

        What the command says already stays: its ``--vars`` win name by name, and so does its
        ``--full-refresh`` or ``--no-full-refresh``.

        Raises: ConfigError, when there are vars to add and its own are not a mapping.
        """
        command = dbt_command(shlex.join(["dbt", *words]))
        if command is None:
            return [*words]
        result = with_vars(words, self.vars)
        if self.full_refresh is not None and command in _TAKES_FULL_REFRESH:
            own_word = {"--full-refresh", "-f", "--no-full-refresh"} & {*words}
            if self.full_refresh and not own_word:
                result.append("--full-refresh")
        return result


def gather(
    *,
    arguments: Mapping[str, Any],
    options: RunOptions | None = None,
    config: object = None,
    tags: Mapping[str, str] | None = None,
    partition_vars: Mapping[str, Any] | None = None,
) -> RunOptions:
    """Return the options of one run from all places where they may be written.

    What is nearer to the call wins: arguments, then ``options``, then op config (if it has the
    fields of `RunOptionsConfig`), then run tags, then the partition. Vars are merged name by name.

    Raises: ConfigError, naming the option and the place.
    """
    unknown = [name for name in arguments if name not in _NAMES]
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is not a run option.{_close(unknown[0])}")
    return (
        _placed("the arguments", lambda: RunOptions(**_set(arguments)))
        .over(options or RunOptions())
        .over(_from_config(config))
        .over(_from_tags(tags or {}))
        .over(_placed("the partition", lambda: RunOptions(vars=partition_vars or {})))
    )


def _from_config(config: object) -> RunOptions:
    if not isinstance(config, Mapping) or not config.keys() >= set(_NAMES):
        return RunOptions()  # another schema of the user's, whose names mean what the user likes
    values = {name: config[name] for name in _NAMES}
    return _placed("the op config", lambda: RunOptions(**_set(values)))


def _from_tags(tags: Mapping[str, str]) -> RunOptions:
    values: dict[str, Any] = {}
    for tag, text in tags.items():
        name = tag.removeprefix(OPTION_TAG_PREFIX)
        if not tag.startswith(OPTION_TAG_PREFIX):
            continue
        if name in _NAMES:
            values[name] = _read(name, text)
        elif "/" not in name and (hint := _close(name)):
            raise ConfigError(f"The run tag {tag} sets nothing.{hint}")
    return _placed("the run's tags", lambda: RunOptions(**values))


def _read(name: str, text: str) -> object:
    """Read a tag's text as its option wants it; what cannot be read is left to the check."""
    check = _CHECKS[name]
    if check is _flag:
        word = text.strip().lower()
        return word in _TRUE if word in _TRUE | _FALSE else text
    if check in (_count, _seconds):
        return int(text) if text.strip().isdecimal() else text
    if check in (_mapping, _commands):
        try:
            read = yaml.safe_load(text)
        except yaml.YAMLError:
            return text
        return [text] if check is _commands and isinstance(read, str) else read
    return text


def _set(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _placed(place: str, make: Callable[[], RunOptions]) -> RunOptions:
    try:
        return make()
    except ConfigError as error:
        raise ConfigError(f"{error} It is set by {place}.") from None


def _close(name: str) -> str:
    near = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.75)
    return f" Did you mean {near[0]!r}?" if near else ""


# --- what each option takes ----------------------------------------------------------------------


def _refuse(name: str, value: object, wanted: str) -> ConfigError:
    return ConfigError(f"The run option {name} takes {wanted}, not {value!r}.")


def _mapping(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _refuse(name, value, "a mapping from names to values")
    try:
        json.dumps(value, default=as_text)
    except (TypeError, ValueError):
        raise _refuse(name, value, "values that JSON can hold") from None
    return dict(value)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, value, "True or False")
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.strip().isprintable():
        raise _refuse(name, value, "a text that is not empty")
    return value.strip()


def _word(name: str, value: object) -> str:
    text = _text(name, value)
    if len(text.split()) != 1:
        raise _refuse(name, value, "a text without blanks")
    return text


def _sha(name: str, value: object) -> str:
    text = _text(name, value)
    if not _SHA.fullmatch(text):
        raise _refuse(name, value, "a commit's hexadecimal id")
    return text


def _count(name: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= _LARGEST:
        raise _refuse(name, value, "a whole number from 1 on")
    return value


def _seconds(name: str, value: object) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise _refuse(name, value, "a whole number of seconds, 0 for no limit")
    return value


def _commands(name: str, value: object) -> tuple[str, ...]:
    wanted = 'a list of dbt commands, such as ["dbt seed", "dbt run"]'
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise _refuse(name, value, wanted)
    for line in value:
        if not isinstance(line, str):
            raise _refuse(name, value, wanted)
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise _refuse(name, line, f"commands whose quotes match ({error})") from None
        if words[:1] != ["dbt"] or len(words) < 2:
            raise _refuse(name, line, f"{wanted}; each begins with dbt")
    return tuple(value)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "vars": _mapping,
    "full_refresh": _flag,
    "git_branch": _word,
    "git_sha": _sha,
    "schema_override": _word,
    "target_name_override": _word,
    "threads_override": _count,
    "dbt_version_override": _word,
    "generate_docs_override": _flag,
    "timeout_seconds_override": _seconds,
    "steps_override": _commands,
}
_NAMES = tuple(_CHECKS)
_TRIGGER_FIELDS = tuple(
    name for name in _NAMES if name not in ("vars", "full_refresh", "steps_override")
)
