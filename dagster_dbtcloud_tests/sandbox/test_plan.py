"""From a job and a trigger to the steps of a run."""

from __future__ import annotations

from typing import Any

import pytest

from dagster_dbtcloud.sandbox.plan import command_of, plan, split, subcommand

_BUILT_IN = [
    "Clone git repository",
    "Create profile from connection DuckDB",
    "Invoke dbt with `dbt deps`",
]


def names(job: dict[str, Any], trigger: dict[str, Any]) -> list[str]:
    steps = plan({"execute_steps": ["dbt build"], **job}, trigger, connection="DuckDB")
    assert [step.name for step in steps[:3]] == _BUILT_IN
    return [command_of(step.name) or "" for step in steps[3:]]


@pytest.mark.parametrize(
    ("job", "trigger", "commands"),
    [
        ({}, {}, ["dbt build"]),
        ({}, {"steps_override": None}, ["dbt build"]),
        ({}, {"steps_override": []}, []),
        ({}, {"steps_override": ["dbt ls", "dbt run"]}, ["dbt ls", "dbt run"]),
        ({"generate_docs": True}, {}, ["dbt build", "dbt docs generate"]),
        ({"generate_docs": True}, {"generate_docs_override": False}, ["dbt build"]),
        ({}, {"generate_docs_override": True}, ["dbt build", "dbt docs generate"]),
        ({"run_generate_sources": True}, {}, ["dbt source freshness", "dbt build"]),
        ({"generate_sources": True}, {}, ["dbt source freshness", "dbt build"]),
    ],
)
def test_steps_follow_job_and_overrides(
    job: dict[str, Any], trigger: dict[str, Any], commands: list[str]
) -> None:
    """Null overrides nothing; the checkboxes add a step before and after."""
    assert names(job, trigger) == commands


def test_only_the_checkbox_steps_may_fail() -> None:
    """The same command as a step of one's own fails the run."""
    job = {
        "execute_steps": ["dbt docs generate"],
        "generate_docs": True,
        "run_generate_sources": True,
    }
    steps = plan(job, {}, connection="DuckDB")
    assert [step.may_fail for step in steps] == [False, False, False, True, False, True]


@pytest.mark.parametrize(
    ("command", "words", "sub"),
    [
        ("dbt build", ["build"], "build"),
        ("dbt --warn-error build -s x", ["--warn-error", "build", "-s", "x"], "build"),
        ("dbt --target prod run", ["--target", "prod", "run"], "run"),
        ("dbt run --vars '{a: \"b c\"}'", ["run", "--vars", '{a: "b c"}'], "run"),
        ('dbt ls -s "tag:a b"', ["ls", "-s", "tag:a b"], "ls"),
        ("dbt --version", ["--version"], None),
    ],
)
def test_commands_are_split_as_a_shell_does(
    command: str, words: list[str], sub: str | None
) -> None:
    """Quotes hold words together; flags of dbt itself may come first."""
    assert split(command) == words
    assert subcommand(command) == sub


@pytest.mark.parametrize("command", ["", "ls", "rm -rf x", "dbtx build", "dbt build 'x"])
def test_what_is_not_dbt_is_refused(command: str) -> None:
    """Also a quote that never closes."""
    with pytest.raises(ValueError, match=r"not a dbt command|closing quotation"):
        split(command)
    assert subcommand(command) is None
