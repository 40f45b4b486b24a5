"""The project as a run sees it: a copy outside the user's directory, and the profile beside it.

It runs no dbt and never writes into the project's own directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

_PACKAGE_FILES = ("packages.yml", "dependencies.yml")
_NEVER = frozenset(
    {".git", ".hg", ".svn", ".venv", "venv", "node_modules", "__pycache__", ".dagster", ".user.yml"}
)
# A warehouse in the project's directory is not code; a copy of it would be a second truth.
_WAREHOUSE = (".duckdb", ".duckdb.wal", ".wal")


class ProjectError(Exception):
    """The project's directory cannot be used; the text says why."""


def project_settings(project_dir: Path) -> dict[str, Any]:
    """Read ``dbt_project.yml``. Raises: ProjectError."""
    path = project_dir / "dbt_project.yml"
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProjectError(f"{path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ProjectError(f"{path} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ProjectError(f"{path} is not a mapping")
    return settings


def needs_packages(project_dir: Path) -> bool:
    """Whether ``dbt deps`` has anything to do."""
    for name in _PACKAGE_FILES:
        path = project_dir / name
        if path.is_file():
            try:
                wanted = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            except yaml.YAMLError:
                return True
            if isinstance(wanted, dict) and wanted.get("packages"):
                return True
    return False


def packages_digest(project_dir: Path) -> str:
    """What the installed packages depend on."""
    digest = hashlib.sha256()
    for name in (*_PACKAGE_FILES, "package-lock.yml"):
        path = project_dir / name
        digest.update(path.read_bytes() if path.is_file() else b"-")
    return digest.hexdigest()


def packages_dir(project_dir: Path) -> Path:
    return project_dir / _path_setting(project_settings(project_dir), "packages-install-path",
                                       "dbt_packages")  # fmt: skip


def _path_setting(settings: Mapping[str, Any], name: str, default: str) -> str:
    value = settings.get(name)
    return value if isinstance(value, str) and "{{" not in value else default


def sync(project_dir: Path, checkout: Path) -> str:
    """Make ``checkout`` hold the project's files as they are now; return a stable commit id.

    Only what differs is copied, and only what an earlier sync copied is removed: installed
    packages and a warehouse with a relative path stay. The id is 40 hex digits over paths and
    contents, as a git commit would be.

    Raises: ProjectError.
    """
    settings = project_settings(project_dir)
    written = {
        _path_setting(settings, "target-path", "target"),
        _path_setting(settings, "log-path", "logs"),
    }
    if not needs_packages(project_dir):
        written.add(_path_setting(settings, "packages-install-path", "dbt_packages"))
    index_path = checkout.with_name(checkout.name + ".files.json")
    before: dict[str, list[Any]] = {}
    if index_path.is_file():
        before = json.loads(index_path.read_text(encoding="utf-8"))
    after: dict[str, list[Any]] = {}
    checkout.mkdir(parents=True, exist_ok=True)
    for name, path in _files(project_dir, written):
        stat = path.stat()
        known = before.get(name)
        target = checkout / name
        if known and known[:2] == [stat.st_mtime_ns, stat.st_size] and target.is_file():
            after[name] = known
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
        digest = hashlib.sha1(target.read_bytes(), usedforsecurity=False).hexdigest()
        after[name] = [stat.st_mtime_ns, stat.st_size, digest]
    for name in before.keys() - after.keys():
        (checkout / name).unlink(missing_ok=True)
    temporary = index_path.with_name(index_path.name + ".tmp")
    temporary.write_text(json.dumps(after), encoding="utf-8")
    temporary.replace(index_path)
    whole = hashlib.sha1(usedforsecurity=False)
    for name in sorted(after):
        whole.update(f"{name}\0{after[name][2]}\n".encode())
    return whole.hexdigest()


def _files(project_dir: Path, written: set[str]) -> Iterator[tuple[str, Path]]:
    for folder, folders, files in os.walk(project_dir):
        inside = Path(folder).relative_to(project_dir)
        folders[:] = [
            name
            for name in sorted(folders)
            if name not in _NEVER and (inside / name).as_posix() not in written
        ]
        for name in files:
            if name not in _NEVER and not name.endswith(_WAREHOUSE):
                yield (inside / name).as_posix(), Path(folder) / name


def write_profile(
    project_dir: Path,
    profiles_dir: Path,
    *,
    warehouse: Path,
    threads: int,
    target_name: str,
    schema: str | None,
) -> str:
    """Write the ``profiles.yml`` of a run from the project's own; return the adapter's name.

    ``target_name`` "default" means the profile's own target. Another name takes the output of
    that name, or, as dbt Cloud does, names the one connection so. ``threads`` and ``schema``
    replace what the outputs say. Without a ``profiles.yml``: DuckDB in ``warehouse``.

    Raises: ProjectError.
    """
    name = project_settings(project_dir).get("profile") or "default"
    path = project_dir / "profiles.yml"
    fallback = {"type": "duckdb", "path": str(warehouse), "schema": "main"}
    profile: Any = {"target": "default", "outputs": {"default": fallback}}
    if path.is_file():
        try:
            profile = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get(name)
        except (yaml.YAMLError, AttributeError) as error:
            raise ProjectError(f"{path} is not YAML: {error}") from error
        if not isinstance(profile, dict) or not profile.get("outputs"):
            raise ProjectError(f"{path} has no profile {name!r} with outputs")
    outputs: dict[str, dict[str, Any]] = {key: dict(out) for key, out in profile["outputs"].items()}
    own = profile.get("target", "default")
    if own not in outputs:
        # Jinja such as env_var('DBT_TARGET', 'dev'), or nothing: the first output.
        own = next(iter(outputs))
    target = own if target_name in ("", "default") else target_name
    outputs.setdefault(target, dict(outputs[own]))
    for output in outputs.values():
        output["threads"] = threads
        if schema:
            output["schema"] = schema
    profiles_dir.mkdir(parents=True, exist_ok=True)
    (profiles_dir / "profiles.yml").write_text(
        yaml.safe_dump({name: {"target": target, "outputs": outputs}}), encoding="utf-8"
    )
    return str(outputs[target].get("type", "duckdb"))
