"""Read the case files: one selection a line, comment lines say why."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.selection import resource_types_of, select

CASES = Path(__file__).parent / "cases"

_parser = ArgumentParser(exit_on_error=False)
_parser.add_argument("--select", nargs="+", action="extend", default=[])
_parser.add_argument("--exclude", nargs="+", action="extend", default=[])
_parser.add_argument("--selector", default="")
_parser.add_argument("--indirect-selection", default="eager")
_parser.add_argument("--resource-type", nargs="+", action="extend", default=[])
_parser.add_argument("--exclude-resource-type", nargs="+", action="extend", default=[])


def read_cases(theme: str) -> list[list[str]]:
    """Return the command-line arguments of each case in ``cases/<theme>.txt``."""
    return [arguments(line) for line in read_lines(theme)]


def read_lines(theme: str) -> list[str]:
    """Return the cases in ``cases/<theme>.txt`` as they are written."""
    lines = (CASES / f"{theme}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("# ")]


def arguments(line: str) -> list[str]:
    return shlex.split(line) if line.startswith("--") else ["--select", line]


def select_as_dbt_ls(manifest: Manifest, args: list[str]) -> set[str]:
    """Answer the same command-line arguments with our engine."""
    options: dict[str, Any] = vars(_parser.parse_args(args))
    include, exclude = options.pop("resource_type"), options.pop("exclude_resource_type")
    if not include and not exclude:
        include = ["all"]  # as the oracle asks
    types = resource_types_of("ls", include=include, exclude=exclude)
    return set(select(manifest, **options, resource_types=types))
