"""``migrate``: change the imports of dagster-dbt's dbt Cloud API to ours (``rewrite.py``)."""

from __future__ import annotations

import difflib
import os
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from dagster_dbtcloud.cli.commands import FAILED
from dagster_dbtcloud.cli.rewrite import (
    Left,
    Rewritten,
    Uses,
    rewrite_python,
    rewrite_yaml,
    shared_move,
    uses_of,
)

_SKIPPED = frozenset(
    {"node_modules", "venv", "site-packages", "dbt_packages", "target", "__pycache__"}
)
_REQUIREMENTS = re.compile(
    r"pyproject\.toml|setup\.(py|cfg)|Pipfile|environment\.ya?ml"
    r"|(.*/)?requirements([\w.-]*|/[\w.-]+)\.(txt|in)"
)
_PYTHON = (".py", ".pyi")
_YAML = (".yaml", ".yml")
_REQUIRED = re.compile(r"(?<![\w-])dagster[-_]dbt(?![\w-])", re.IGNORECASE)


@dataclass(frozen=True)
class _Source:
    """A file's text as it stands, with its own line ends, and how to write it back."""

    path: Path
    text: str
    encoding: str


@click.command()
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    metavar="PATH...",
    type=click.Path(exists=True, path_type=Path),
)
@click.option("--write", is_flag=True, help="Change the files; without it a diff is printed.")
def migrate(paths: tuple[Path, ...], write: bool) -> int:
    """Change imports of dagster-dbt's dbt Cloud names to those of this package.

    PATH is a file or a folder. Python files and the `type:` lines of YAML components are changed;
    names of dbt Core stay with dagster-dbt. What a person has to decide is said on stderr, as
    file:line: reason, and then the exit code is 1. Notebooks, links and requirements are only
    pointed at; virtual environments, hidden folders and what dbt made are passed by.

    \b
    Examples:
      dagster-dbtcloud migrate my_project
      dagster-dbtcloud migrate my_project --write
    """
    left: list[tuple[Path, Left]] = []
    sources, unread = _sources(paths)
    left += unread
    uses = {s.path: uses_of(s.text) for s in sources if s.path.suffix in _PYTHON}
    changed = 0
    for source in sources:
        result = _rewritten(source, uses)
        left += [(source.path, each) for each in result.left]
        if result.text == source.text:
            continue
        try:
            if write:
                source.path.write_bytes(result.text.encode(source.encoding))
            else:
                _show_diff(source, result.text)
        except OSError as error:
            left.append((source.path, Left(1, f"cannot be written: {error.strerror}")))
            continue
        changed += 1
    if changed:
        left += _requirements(paths)
    for path, each in left:
        click.echo(f"{path}:{each.line}: {each.reason}", err=True)
    files = f"{changed} file{'' if changed == 1 else 's'}"
    click.echo(
        f"{files} {'changed' if write else 'to change; --write changes them'}, "
        f"{len(left)} place{'' if len(left) == 1 else 's'} to look at.",
        err=True,
    )
    return FAILED if left else 0


def _rewritten(source: _Source, uses: dict[Path, Uses]) -> Rewritten:
    if source.path.suffix in _YAML:
        return rewrite_yaml(source.text)
    if source.path.suffix not in _PYTHON:
        number = source.text.count("\n", 0, source.text.find("dagster_dbt")) + 1
        return Rewritten(source.text, (Left(number, "a notebook: change its cells by hand"),))
    shared = shared_move(uses.values(), uses[source.path])
    return rewrite_python(source.text, shared=shared)


def _sources(paths: Sequence[Path]) -> tuple[list[_Source], list[tuple[Path, Left]]]:
    """Return the files that speak of dagster-dbt, and those that cannot be read."""
    sources, unread = [], []
    for path in _files(paths):
        try:
            content = path.read_bytes()
            if b"dagster_dbt" not in content.replace(b"dagster_dbtcloud", b""):
                continue
            if path.is_symlink():
                target = path.resolve()
                if not any(target.is_relative_to(top.resolve()) for top in paths):
                    unread.append((path, Left(1, f"is a link to {target}: name that file itself")))
                continue
            encoding = "utf-8"
            if path.suffix in _PYTHON:
                encoding, _ = tokenize.detect_encoding(iter(content.splitlines(True)).__next__)
            sources.append(_Source(path, content.decode(encoding), encoding))
        except (SyntaxError, UnicodeDecodeError):
            unread.append((path, Left(1, "cannot be read: it is not text in UTF-8")))
        except OSError as error:
            unread.append((path, Left(1, f"cannot be read: {error.strerror}")))
    return sources, unread


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files that imports or components may stand in."""
    for top in paths:
        for path in _walked(top):
            if path.suffix in (*_PYTHON, *_YAML, ".ipynb") and path.exists():
                yield path


def _walked(top: Path) -> Iterator[Path]:
    """Walk all files, without environments, caches and what dbt made."""
    if top.is_file():
        yield top
        return
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _SKIPPED
            and not name.startswith(".")
            and not Path(folder, name, "pyvenv.cfg").exists()
        )
        yield from (Path(folder, name) for name in sorted(names))


def _show_diff(source: _Source, text: str) -> None:
    lines = difflib.unified_diff(
        source.text.splitlines(),
        text.splitlines(),
        fromfile=str(source.path),
        tofile=str(source.path),
        lineterm="",
    )
    for line in lines:
        colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        click.echo(click.style(line, fg=colour) if colour else line)


def _requirements(paths: Sequence[Path]) -> Iterator[tuple[Path, Left]]:
    """Point at the requirements on dagster-dbt: whether it is still needed, a person knows."""
    for path in (path for top in paths for path in _walked(top)):
        named = (path.name, f"{path.parent.name}/{path.name}")
        if not any(map(_REQUIREMENTS.fullmatch, named)) or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if "dagster-dbtcloud" in text:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if _REQUIRED.search(line):
                reason = "require dagster-dbtcloud; and dagster-dbt only if something uses it"
                yield path, Left(number, reason)
