"""dbt's ``--vars`` in a command's words: read, merged, and written so that no shell stumbles.

Pure, and without Dagster: the command line adds variables, too. Where they come from is
``options.py``'s.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from dagster_dbtcloud.errors import ConfigError
from dagster_dbtcloud.harvest import dbt_command

_TAKES_NO_VARS = frozenset({"clean", "debug", "init"})
_NOT_AS_IT_IS = re.compile("['\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")
"""The quote of shells, and what YAML allows in no text or takes for the end of a line."""


def with_vars(words: Sequence[str], variables: Mapping[str, Any]) -> list[str]:
    """Return a dbt command, words without ``dbt``, with ``variables`` if it takes any.

    Its own ``--vars`` win name by name.

    Raises: ConfigError, when its own are not a mapping.
    """
    command = dbt_command(shlex.join(["dbt", *words]))
    if not variables or command is None or command in _TAKES_NO_VARS:
        return [*words]
    kept, own = _without_vars(words)
    return [*kept, "--vars", _as_yaml({**variables, **own})]


def read_vars(text: str) -> dict[str, Any]:
    """Return the mapping that ``--vars`` takes as text, as dbt reads it.

    Raises: ConfigError, when it is none.
    """
    try:
        read = yaml.safe_load(text)  # dbt takes YAML
    except yaml.YAMLError:
        read = text
    if read is not None and not isinstance(read, dict):
        raise ConfigError(
            f"--vars takes a YAML mapping, such as '{{day: 2026-01-31}}', not {text!r}."
        )
    return read or {}


def as_text(value: object) -> str:
    """Take dates and times as dbt would read them from YAML; nothing else that JSON cannot hold."""
    if hasattr(value, "isoformat"):
        return str(value)
    raise TypeError


def _as_yaml(values: Mapping[str, Any]) -> str:
    """Return JSON that is YAML as well, and holds no quote that a shell might stumble over."""
    text = json.dumps(values, default=as_text, ensure_ascii=False)
    return _NOT_AS_IT_IS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _without_vars(words: Sequence[str]) -> tuple[list[str], Mapping[str, Any]]:
    """Return the words without ``--vars``, and what these said; dbt takes the last one."""
    kept: list[str] = []
    said: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--vars":
            said.append(next(rest, ""))
        elif word.startswith("--vars="):
            said.append(word.removeprefix("--vars="))
        else:
            kept.append(word)
    return kept, read_vars(said[-1]) if said else {}
