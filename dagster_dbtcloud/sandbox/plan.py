"""What a run will do: from a job and a trigger to the steps of a run. Pure.

It runs nothing and reads no file.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["clone", "profile", "deps", "dbt"]

# docs: reference/commands/retry
RETRYABLE = frozenset(
    {"build", "clone", "compile", "docs", "seed", "snapshot", "test", "run", "run-operation"}
)
# Flags of dbt itself that take a value and may stand before the sub-command.
_GLOBAL_WITH_VALUE = frozenset(
    {
        "--log-format", "--log-format-file", "--log-level", "--log-level-file", "--log-path",
        "--log-file-max-bytes", "--printer-width", "--profiles-dir", "--project-dir", "--profile",
        "--target", "-t", "--target-path", "--warn-error-options", "--state", "--defer-state",
        "--record-timing-info", "-r", "--indirect-selection", "--partial-parse-file-path",
    }
)  # fmt: skip


@dataclass(frozen=True)
class PlannedStep:
    """One step of a run. ``may_fail``: its failure does not fail the run (the two checkboxes)."""

    name: str
    kind: Kind
    command: str | None = None
    may_fail: bool = False


def invoke(command: str, *, may_fail: bool = False) -> PlannedStep:
    return PlannedStep(f"Invoke dbt with `{command}`", "dbt", command, may_fail)


def builtin_steps(connection: str) -> tuple[PlannedStep, ...]:
    """Steps 1 to 3 of every run."""
    return (
        PlannedStep("Clone git repository", "clone"),
        PlannedStep(f"Create profile from connection {connection}", "profile"),
        PlannedStep("Invoke dbt with `dbt deps`", "deps", "dbt deps"),
    )


def plan(
    job: Mapping[str, Any], trigger: Mapping[str, Any], *, connection: str
) -> tuple[PlannedStep, ...]:
    """All steps of a run in order.

    The source freshness and docs checkboxes add a step each; they do not fail the job
    (docs: deploy/source-freshness, explore/build-and-view-your-docs).
    """
    override = trigger.get("steps_override")
    commands = job.get("execute_steps") or [] if override is None else override
    docs = trigger.get("generate_docs_override")
    if docs is None:
        docs = job.get("generate_docs")
    steps = list(builtin_steps(connection))
    if job.get("run_generate_sources") or job.get("generate_sources"):
        steps.append(invoke("dbt source freshness", may_fail=True))
    steps += [invoke(command) for command in commands]
    if docs:
        steps.append(invoke("dbt docs generate", may_fail=True))
    return tuple(steps)


def command_of(step_name: str) -> str | None:
    """The text between the back-ticks of a step's name."""
    found = re.search(r"`(.*)`", step_name, re.DOTALL)
    return found[1] if found else None


def split(command: str) -> list[str]:
    """The arguments after ``dbt``.

    Raises: ValueError when the command is not one of dbt or its quotes do not match.
    """
    words = shlex.split(command)
    if not words or words[0] != "dbt":
        raise ValueError(f"Invalid command: `{command}` is not a dbt command")
    return words[1:]


def subcommand(command: str) -> str | None:
    """``build`` for ``dbt --warn-error build -s x``; None where there is none."""
    try:
        words = iter(split(command))
    except ValueError:
        return None
    for word in words:
        if word in _GLOBAL_WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


def retry_steps(failed: str, skipped: Sequence[str], *, connection: str) -> tuple[PlannedStep, ...]:
    """A retry resumes at the failed command, then runs those that were skipped.

    docs: deploy/retry-jobs
    """
    return (
        *builtin_steps(connection),
        PlannedStep(f"Invoke dbt with `{failed}`", "dbt", failed),
        *(invoke(command) for command in skipped),
    )


def before_retry(version: str | None) -> bool:
    """Whether a dbt version is older than ``dbt retry`` (1.6); release tracks are not."""
    found = re.match(r"(\d+)\.(\d+)", version or "")
    return found is not None and (int(found[1]), int(found[2])) < (1, 6)
