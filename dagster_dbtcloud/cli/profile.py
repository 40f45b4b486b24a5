"""dbt's own credentials file, ``dbt_cloud.yml``: read, never written.

Source: docs: reference/dbt_cloud.yml; files of older days have ``api-key`` for ``token-value``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dagster_dbtcloud.errors import ConfigError

DEFAULT_FILE = Path("~/.dbt/dbt_cloud.yml")


@dataclass(frozen=True)
class Profile:
    """One project's entry; None for what the file does not say."""

    project_id: str | None
    account_id: str | None
    host: str | None
    token: str | None = field(repr=False)


def read_profile(path: Path, *, project: str | None) -> Profile:
    """Return the entry of ``project`` (an id or a name), else of the active project.

    Raises: ConfigError, naming the file and what is wrong with it.
    """
    import yaml

    path = path.expanduser()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"The profile file {path} cannot be read: {error.strerror}. Download it in dbt Cloud "
            "(Your profile > CLI), or set DBT_CLOUD_TOKEN."
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError):
        # neither the error nor its cause is shown: they quote the file, which holds tokens
        raise ConfigError(f"The profile file {path} is not YAML; download it anew.") from None
    entries = content.get("projects") if isinstance(content, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ConfigError(
            f"The profile file {path} has no list of projects, as dbt Cloud writes it; download it "
            "anew."
        )
    context = content.get("context")
    context = context if isinstance(context, Mapping) else {}
    entry = _entry(entries, project, _text(context, "active-project"), path)
    return Profile(
        project_id=_text(entry, "project-id"),
        account_id=_text(entry, "account-id"),
        host=_text(entry, "account-host") or _text(context, "active-host"),
        token=_text(entry, "token-value") or _text(entry, "api-key"),
    )


def _entry(
    entries: list[Mapping[str, Any]], project: str | None, active: str | None, path: Path
) -> Mapping[str, Any]:
    wanted = project or active
    for entry in entries:
        names = (_text(entry, "project-id"), _text(entry, "project-name"))
        if wanted is not None and wanted in names:
            return entry
    if wanted is None and len(entries) == 1:
        return entries[0]
    listed = ", ".join(
        f"{_text(entry, 'project-name') or '?'} ({_text(entry, 'project-id') or '?'})"
        for entry in entries
    )
    which = f"has no project {wanted!r}" if wanted else "names no active-project"
    raise ConfigError(f"The profile file {path} {which}. It has: {listed or 'none'}.")


def _text(entry: Mapping[str, Any], key: str) -> str | None:
    value = entry.get(key)
    return str(value).strip() or None if value is not None else None
