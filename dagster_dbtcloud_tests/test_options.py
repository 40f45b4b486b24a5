"""Run options: what they take, where they come from, and what becomes of them."""

import json
import shlex
from datetime import date
from typing import Any

import dagster as dg
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagster_dbtcloud import RunOptions, RunOptionsConfig
from dagster_dbtcloud.errors import ConfigError
from dagster_dbtcloud.options import OptionArguments, gather

ALL: dict[str, Any] = {
    "vars": {"day": "2026-01-31"},
    "full_refresh": True,
    "git_branch": "feature/x",
    "git_sha": "0123abc",
    "schema_override": "scratch",
    "target_name_override": "ci",
    "threads_override": 8,
    "dbt_version_override": "1.9.0-latest",
    "generate_docs_override": False,
    "timeout_seconds_override": 0,
    "steps_override": ("dbt seed", "dbt run -s 'a b'"),
}


def test_options_have_the_same_names_everywhere() -> None:
    """As arguments, as op config, as a value of their own."""
    assert OptionArguments.__annotations__.keys() == ALL.keys()
    assert RunOptionsConfig.model_fields.keys() == ALL.keys()
    assert RunOptions.__dataclass_fields__.keys() == ALL.keys()


def test_what_the_trigger_carries() -> None:
    """Only what is set; vars and full refresh are flags of dbt, steps are the caller's."""
    flags = ("vars", "full_refresh", "steps_override")
    assert RunOptions(**ALL).trigger_fields() == {k: v for k, v in ALL.items() if k not in flags}
    assert RunOptions().trigger_fields() == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vars", [1]),
        ("vars", {1: 2}),
        ("vars", {"x": object()}),
        ("full_refresh", "yes"),
        ("full_refresh", 1),
        ("git_branch", ""),
        ("git_branch", "two words"),
        ("git_branch", "a\nb"),
        ("git_sha", "main"),
        ("schema_override", 3),
        ("target_name_override", " "),
        ("threads_override", 0),
        ("threads_override", True),
        ("threads_override", 2**40),
        ("threads_override", 1.5),
        ("dbt_version_override", ["1.9"]),
        ("generate_docs_override", "no"),
        ("timeout_seconds_override", -1),
        ("steps_override", "dbt build"),
        ("steps_override", []),
        ("steps_override", [["build"]]),
        ("steps_override", ["build"]),
        ("steps_override", ["dbt"]),
        ("steps_override", ["dbt build --select 'x"]),
    ],
)
def test_a_bad_value_is_refused(name: str, value: Any) -> None:
    """By its name, with what it takes."""
    with pytest.raises(ConfigError, match=f"The run option {name} takes "):
        RunOptions(**{name: value})
    with pytest.raises(ConfigError, match="It is set by the arguments"):
        gather(arguments={name: value})


def test_an_unknown_option_is_refused() -> None:
    """With the one that was meant."""
    with pytest.raises(ConfigError, match="Did you mean 'threads_override'"):
        gather(arguments={"thread_override": 3})


# --- places --------------------------------------------------------------------------------------


class More(RunOptionsConfig):
    """Options, and something of the user's own."""

    greeting: str = "hello"


def config(**values: Any) -> dict[str, Any]:
    """Op config as a step sees it: every field is there."""
    return {**dict.fromkeys(ALL), "vars": {}, **values}


def test_what_is_nearer_to_the_call_wins() -> None:
    """Arguments, options, op config, tags, partition; vars name by name."""
    places: dict[str, Any] = {
        "arguments": {"vars": {"a": 1}, "git_branch": "arguments"},
        "options": RunOptions(vars={"a": 2, "b": 2}, git_branch="options", git_sha="aaaaaaa"),
        "config": config(
            vars={"b": 3, "c": 3}, git_sha="bbbbbbb", schema_override="config", full_refresh=False
        ),
        "tags": {
            "dagster_dbtcloud/vars": "{c: 4, d: 4}",
            "dagster_dbtcloud/schema_override": "tags",
            "dagster_dbtcloud/full_refresh": "true",
            "dagster_dbtcloud/threads_override": "4",
        },
        "partition_vars": {"d": 5, "e": 5},
    }
    found = gather(**places)
    assert found == RunOptions(
        vars={"a": 1, "b": 2, "c": 3, "d": 4, "e": 5},
        git_branch="arguments",
        git_sha="aaaaaaa",
        schema_override="config",
        full_refresh=False,
        threads_override=4,
    )


def test_tags_are_texts() -> None:
    """Lists and mappings are YAML, so JSON does as well."""
    tags = {
        f"dagster_dbtcloud/{name}": value if isinstance(value, str) else json.dumps(value)
        for name, value in ALL.items()
    }
    tags |= {"dagster_dbtcloud/select": "x", "dagster_dbtcloud/run/7": "started", "team": "core"}
    assert gather(arguments={}, tags=tags) == RunOptions(**ALL)
    one = gather(arguments={}, tags={"dagster_dbtcloud/steps_override": "dbt seed"})
    assert one.steps_override == ("dbt seed",)


@pytest.mark.parametrize(
    ("tag", "text", "said"),
    [
        ("threads_override", "many", "threads_override takes a whole number"),
        ("full_refresh", "perhaps", "full_refresh takes True or False"),
        ("vars", "[1]", "vars takes a mapping"),
        ("vars", "{a: ", "vars takes a mapping"),
        ("thread_override", "3", "sets nothing. Did you mean 'threads_override'"),
    ],
)
def test_a_bad_tag_is_refused(tag: str, text: str, said: str) -> None:
    """A misspelt one, too: nobody would see that it did nothing."""
    with pytest.raises(ConfigError, match=said):
        gather(arguments={}, tags={f"dagster_dbtcloud/{tag}": text})


def test_config_of_another_schema_is_left_alone() -> None:
    """A user's own field may have the name of an option."""
    assert gather(arguments={}, config={"full_refresh": "weekly"}) == RunOptions()
    assert gather(arguments={}, config=None) == RunOptions()


def test_config_fields_are_those_of_the_launchpad() -> None:
    """Dagster fills in what is not given, and hands over plain values."""
    seen: list[RunOptions] = []

    @dg.op
    def configured(context: dg.OpExecutionContext, config: More) -> None:  # noqa: ARG001
        seen.append(gather(arguments={}, config=context.op_config))

    @dg.job
    def one() -> None:
        configured()

    values = {"vars": {"n": [1, {"x": None}]}, "threads_override": 3}
    one.execute_in_process(run_config={"ops": {"configured": {"config": values}}})
    assert seen == [RunOptions(vars=values["vars"], threads_override=3)]  # type: ignore[arg-type]


# --- flags ---------------------------------------------------------------------------------------


def added(words: list[str], **options: Any) -> list[str]:
    return RunOptions(**options).added_to(words)


@pytest.mark.parametrize("command", ["build", "run", "seed", "compile", "clone", "retry"])
def test_full_refresh_is_a_flag(command: str) -> None:
    """Given once, to each command that takes it."""
    assert added([command], full_refresh=True) == [command, "--full-refresh"]
    assert added([command, "-f"], full_refresh=True) == [command, "-f"]
    assert added([command], full_refresh=False) == [command]


@pytest.mark.parametrize(
    "words", [["test"], ["snapshot"], ["run-operation", "grant"], ["docs", "generate"], ["deps"]]
)
def test_commands_without_full_refresh_stay(words: list[str]) -> None:
    """dbt would refuse the flag."""
    assert added(words, full_refresh=True) == words


def test_vars_join_those_of_the_command() -> None:
    """What the command says itself wins."""
    words = ["build", "--vars", "{a: 1, b: 1}", "-s", "x"]
    found = added(words, vars={"b": 2, "c": 2})
    assert found[:-1] == ["build", "-s", "x", "--vars"]
    assert json.loads(found[-1]) == {"a": 1, "b": 1, "c": 2}
    assert json.loads(added(["run", "--vars=b: 1"], vars={"b": 2})[-1]) == {"b": 1}


def test_vars_that_are_no_mapping_are_refused() -> None:
    """Only where they would have to be merged; else they are dbt's to judge."""
    with pytest.raises(ConfigError, match="--vars takes a YAML mapping"):
        added(["build", "--vars", "[1]"], vars={"a": 1})
    assert added(["build", "--vars", "[1]"]) == ["build", "--vars", "[1]"]


@pytest.mark.parametrize("words", [["clean"], ["debug"], ["echo"], []])
def test_commands_without_vars_stay(words: list[str]) -> None:
    """And what is not dbt's stays as it is."""
    assert added(words, vars={"a": 1}) == words


def test_dates_are_vars() -> None:
    """As dbt reads them from YAML."""
    text = added(["build"], vars={"day": date(2026, 1, 31)})[-1]
    assert yaml.safe_load(text) == {"day": "2026-01-31"}


NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
VARS = st.dictionaries(NAMES, VALUES, max_size=3)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=50)
@given(VARS, VARS)
def test_any_vars_reach_dbt_as_they_are(own: dict[str, Any], ours: dict[str, Any]) -> None:
    """Through JSON, one shell's quoting and YAML, whatever is in them."""
    words = ["build", *(["--vars", yaml.safe_dump(own)] if own else [])]
    line = shlex.join(["dbt", *added(words, vars=ours)])
    *_, text = shlex.split(line)
    read = yaml.safe_load(text) if own or ours else {}
    assert read == {**ours, **own}


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=20)
@given(st.lists(VARS, min_size=3, max_size=3))
def test_merging_is_associative(maps: list[dict[str, Any]]) -> None:
    """So the order of places is all that counts."""
    a, b, c = (RunOptions(vars=values) for values in maps)
    assert a.over(b).over(c) == a.over(b.over(c))
