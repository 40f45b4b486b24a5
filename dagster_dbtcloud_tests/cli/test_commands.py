"""What all commands share: help, completion, credentials, one line for what is wrong, streams."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dagster_dbtcloud.cli import SECTIONS, cli
from dagster_dbtcloud.sandbox import Fault, PastStep
from dagster_dbtcloud_tests.cli.console import Console
from dagster_dbtcloud_tests.stage import Stage, run_results

HEAVY = ["dagster", "rich", "httpx", "pydantic", "yaml", "starlette"]


def every_command() -> Iterator[tuple[str, ...]]:
    """Yield the words of each command and of each that stands below it."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        yield (name,)
        if isinstance(command, click.Group):
            yield from ((name, below) for below in command.list_commands(context))


COMMANDS = list(every_command())


def imported_by(code: str) -> list[str]:
    """Return which of the heavy libraries a new Python has imported after ``code``."""
    script = f"import sys\n{code}\nprint([n for n in {HEAVY} if n in sys.modules], file=sys.stderr)"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    return list(json.loads(answer.stderr.splitlines()[-1].replace("'", '"')))


def test_no_command_prints_the_help(alone: Console) -> None:
    """As every good command line does; and the same as when asked for it."""
    assert alone().code == 0
    assert alone().out == alone("--help").out == alone("-h").out
    for entries in SECTIONS.values():
        for name, entry in entries.items():
            assert re.search(rf"^  {name} +{re.escape(entry.text)}$", alone().out, re.MULTILINE)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(alone: Console, words: tuple[str, ...]) -> None:
    """What it does, its options, and a line to copy."""
    short, long = alone(*words, "-h"), alone(*words, "--help")
    assert short.code == long.code == 0
    assert short.out == long.out
    assert long.out.startswith(f"Usage: dagster-dbtcloud {' '.join(words)}")
    assert f"dagster-dbtcloud {' '.join(words)}" in long.out.split("Example", 1)[1]
    assert re.search(r"^ +--token[ =]", long.out, re.MULTILINE) is None


def test_each_line_of_the_help_is_its_commands_own() -> None:
    """The list is written by hand so that nothing is imported for it; the rooms say the same."""
    context = click.Context(cli)
    for entries in SECTIONS.values():
        for name in entries:
            command = cli.get_command(context, name)
            assert command is not None
            assert command.name == name
            assert command.help


def test_help_and_completion_import_nothing_heavy() -> None:
    """A shell asks for completion at each press of a key."""
    show = "from dagster_dbtcloud.cli import cli\ntry: cli({})\nexcept SystemExit: pass"
    assert imported_by(show.format("['--help']")) == []
    assert imported_by(show.format("['run', '--help']")) == []
    complete = (
        "import os\nos.environ.update(_DAGSTER_DBTCLOUD_COMPLETE='bash_complete',"
        "COMP_WORDS='dagster-dbtcloud ', COMP_CWORD='1')\n"
    )
    assert imported_by(complete + show.format("[]")) == []


def test_what_talks_to_dbt_cloud_alone_imports_no_dagster(stage: Stage) -> None:
    """Dagster takes longer to import than dbt Cloud to answer."""
    code = "\n".join(
        f"import dagster_dbtcloud.cli.{entry.room}"
        for entries in SECTIONS.values()
        for entry in entries.values()
    )
    run = stage.built()
    variables = f"import os; os.environ.update({stage.sandbox.env!r})\n"
    calls = "\n".join(
        f"try: cli({words!r})\nexcept SystemExit: pass"
        for words in (["runs"], ["logs", str(run)], ["run", "nightly", "--wait"], ["select", "x"])
    )
    stage.play()
    code += f"\nfrom dagster_dbtcloud.cli import cli\n{variables}{calls}"
    assert "dagster" not in imported_by(code)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_made_for_each_shell(alone: Console, shell: str) -> None:
    """The script that the documentation tells to load."""
    script = alone(_DAGSTER_DBTCLOUD_COMPLETE=f"{shell}_source")
    assert script.code == 0
    assert "dagster-dbtcloud" in script.out


def test_the_line_of_the_page_completes_in_a_real_shell(tmp_path: Path) -> None:
    """As somebody types it; zsh and fish are not everywhere, bash is."""
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    line = next(each for each in page.splitlines() if "bash_source" in each)
    program = tmp_path / "dagster-dbtcloud"
    program.write_text(f"#!{sys.executable}\nfrom dagster_dbtcloud.cli import main\nmain()\n")
    program.chmod(0o755)
    typed = f"{line}\nCOMP_WORDS=(dagster-dbtcloud env) COMP_CWORD=1\n"
    done = subprocess.run(
        [
            "bash",
            "-c",
            f'{typed}$(complete -p dagster-dbtcloud | sed "s/.*-F //")\necho "$COMPREPLY"',
        ],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("environments\n", "")


def test_completion_knows_commands_and_options(alone: Console) -> None:
    """With the line that the help has, where the shell shows one."""
    variable = {"_DAGSTER_DBTCLOUD_COMPLETE": "zsh_complete", "COMP_CWORD": "1"}
    assert "environments\nList environments." in alone(**variable, COMP_WORDS="x en").out
    variable["COMP_CWORD"] = "2"
    assert "--timeout" in alone(**variable, COMP_WORDS="x run --ti").out


# --- one line for what is wrong ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["nope"], "--help"),
        (["runs", "--limit", "0"], "--help"),
        (["runs", "--status", "nope"], "'success'"),
        (["runs", "--since", "yesterday"], "2h"),
        (["runs", "--job", "nope"], "There are: nightly"),
        (["jobs", "--environment-id", "nope"], "There are: Development"),
        (["jobs", "--nope"], "--help"),
        (["environments", "--project-id", "nope"], "There are: tiny"),
        (["environments", "--project-id", "eu / nope"], "There are: tiny"),
        (["jobs", "--environment-id", "eu/nope"], "There are: Development"),
        (["projects", "--account-id", "nope"], "There are:"),
        (["projects", "--profile-file", "nope.yml"], "DBT_CLOUD_TOKEN"),
        (["projects", "--token-file", "nope.txt"], "nope.txt"),
        (["projects", "--access-url", "ftp://nope"], "https://"),
        (["check", "nope"], "--help"),
        (["logs"], "--help"),
        (["logs", "nope"], "dagster-dbtcloud runs"),
        (["logs", "7"], "dagster-dbtcloud runs"),
        (["run"], "--help"),
        (["run", "nope"], "There are: nightly"),
        (["run", "7"], "dagster-dbtcloud jobs"),
        (["run", "https://cloud.getdbt.com/deploy/1/projects/2"], "--access-url"),
        (["jobs", "clean", "--nope"], "jobs clean --help"),
        (["run", "nightly", "--timeout", "5"], "--wait"),
        (["run", "nightly", "--wait", "--timeout", "soon"], "30m"),
        (["run", "nightly", "--vars", "not a mapping"], "{day: 2026-01-31}"),
        (["run", "nightly", "--steps", " "], "dbt build"),
        (["run", "nightly", "--steps", "dbt run 'a", "--vars", "b: 1"], "dbt run 'a"),
        (["retry", "7"], "dagster-dbtcloud runs"),
        (["cancel"], "--help"),
        (["cancel", "7"], "dagster-dbtcloud runs"),
        (["artifacts", "list", "7"], "no run 7"),
        (["artifacts", "download", "7", "-o", "-"], "name one PATH"),
        (["artifacts"], "--help"),
        (["artifacts", "nope"], "--help"),
        (["jobs", "--environment-id", "5", "clean"], "jobs clean --environment-id"),
        (["manifest", "-o", "-", "--json"], "one of the two"),
        (["select", "tagg:x"], "Did you mean 'tag'?"),
        (["select", "a", "--selector", "b"], "stands alone"),
        (["select", "a", "--resource-type", "nope"], "model"),
        (["select", "a", "--manifest", "nope.json"], "does not exist"),
        (["assets", "--exclude", "tagg:x"], "Did you mean 'tag'?"),
        (["init", "."], "--name"),
        (["replay", "-m", "a"], "--since"),
        (["replay", "--since", "1d"], "--module-name"),
        (["replay", "-m", "a", "--run", "nope"], "its address"),
        (["replay", "-m", "a", "--since", "1d"], "DAGSTER_HOME"),
        (["migrate"], "--help"),
        (["migrate", "nope"], "does not exist"),
        (["demo", "--example", "nope"], "does not exist"),
        (["sandbox", "--project-dir", "nope"], "does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_that_says_what_to_do(
    console: Console, words: list[str], advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stderr, with nothing on stdout, and the exit code of wrong usage."""
    monkeypatch.chdir(tmp_path)
    if words[0] == "init":
        (tmp_path / "123").mkdir()
        monkeypatch.chdir(tmp_path / "123")
    ended = console(*words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("dagster-dbtcloud: ")
    assert ended.err.count("\n") == 1
    assert advice in ended.err


def test_a_service_that_is_down_is_the_exit_code_three(stage: Stage, console: Console) -> None:
    """Tried again for a minute, then said in one line after the warnings."""
    stage.sandbox.faults.add(Fault(kind="status", status=503, count=None))
    ended = console("runs")
    assert (ended.code, ended.out) == (3, "")
    assert "503" in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err


def test_a_wrong_token_is_the_exit_code_three(console: Console) -> None:
    """And the token is not shown."""
    ended = console("projects", DBT_CLOUD_TOKEN="dbtc_wrong_wrong_wrong")
    assert ended.code == 3
    assert ended.err.count("\n") == 1
    assert "wrong_wrong" not in ended.err


def test_no_manifest_is_a_failure(console: Console) -> None:
    """Exit code 1, and what would give one."""
    for command in ("manifest", "select", "assets"):
        ended = console(command)
        assert (ended.code, ended.out) == (1, "")
        assert "dbt build" in ended.err


# --- credentials ---------------------------------------------------------------------------------


def test_the_token_comes_from_many_places(stage: Stage, console: Console, tmp_path: Path) -> None:
    """The names that dbt's and Dagster's documentation use, a file, and standard input."""
    token = stage.sandbox.token
    file = tmp_path / "token"
    file.write_text(f"{token}\n")
    for name in ("DBT_CLOUD_API_TOKEN", "DBT_CLOUD_AUTH_TOKEN", "DBT_CLOUD_API_KEY"):
        assert console("projects", DBT_CLOUD_TOKEN="", **{name: token}).code == 0
    none = {"DBT_CLOUD_TOKEN": ""}
    assert console("projects", "--token-file", file, **none).code == 0
    assert console("projects", "--token-file", "-", stdin=f"{token}\n", **none).code == 0
    assert "DBT_CLOUD_TOKEN" in console("projects", **none).err
    assert console("projects", "--token-file", "-", **none).code == 2


def test_the_address_has_several_names(stage: Stage, console: Console) -> None:
    """The first that is set counts."""
    for name in ("DBT_CLOUD_HOST", "DBT_CLOUD_ACCOUNT_HOST", "DBT_CLOUD_HOST_URL"):
        found = console("projects", DBT_CLOUD_ACCESS_URL="", **{name: stage.sandbox.url})
        assert found.code == 0
    down = console("projects", DBT_CLOUD_HOST="http://127.0.0.1:9")
    assert down.code == 0


def profile(stage: Stage, token: str = "token-value") -> str:  # noqa: S107 - a name
    return f"""\
version: "1"
context:
  active-host: "{stage.sandbox.url}"
  active-project: "{stage.sandbox.project_id}"
projects:
  - project-name: "tiny"
    project-id: "{stage.sandbox.project_id}"
    account-id: "{stage.sandbox.account_id}"
    account-host: "{stage.sandbox.url}"
    {token}: "{stage.sandbox.token}"
  - project-name: "other"
    project-id: "2"
    account-host: "http://127.0.0.1:9"
    token-value: "dbtc_of_another_project"
"""


NOTHING = dict.fromkeys(
    (
        *("DBT_CLOUD_TOKEN", "DBT_CLOUD_ACCESS_URL", "DBT_CLOUD_ACCOUNT_ID"),
        *("DBT_CLOUD_PROJECT_ID", "DBT_CLOUD_ENVIRONMENT_ID"),
    ),
    "",
)


@pytest.mark.parametrize("token", ["token-value", "api-key"])
def test_dbts_own_profile_serves(
    stage: Stage, console: Console, tmp_path: Path, token: str
) -> None:
    """From its usual place when no token is set; the project comes with it."""
    stage.built()
    place = tmp_path / "home" / ".dbt" / "dbt_cloud.yml"
    place.parent.mkdir(parents=True)
    place.write_text(profile(stage, token))
    ended = console("jobs", "--json", **NOTHING)
    assert [job["name"] for job in json.loads(ended.out)] == ["nightly"]
    # a token in the environment is for another dbt Cloud, so the file is not looked at
    elsewhere = {**NOTHING, "DBT_CLOUD_TOKEN": "dbtc_x_x", "DBT_CLOUD_HOST": "http://127.0.0.1:9"}
    assert console("projects", **elsewhere).code == 3


def test_a_profile_that_is_named_wins_over_the_environment(
    stage: Stage, console: Console, tmp_path: Path
) -> None:
    """And an option wins over both."""
    file = tmp_path / "my.yml"
    file.write_text(profile(stage))
    wrong = {"DBT_CLOUD_TOKEN": "dbtc_wrong_wrong", "DBT_CLOUD_ACCESS_URL": "http://127.0.0.1:9"}
    assert console("projects", "--profile-file", file, **wrong).code == 0
    assert console("projects", DBT_CLOUD_PROFILE_FILE=str(file), **wrong).code == 0
    ended = console("projects", "--profile-file", file, "--access-url", "http://127.0.0.1:9")
    assert ended.code == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("projects: [", "not YAML"),
        ("- a list", "list of projects"),
        ("projects: []", "names no active-project"),
        ("context: {active-project: 5}\nprojects: [{project-id: 6}]", "no project '5'"),
    ],
)
def test_a_damaged_profile_is_said(alone: Console, tmp_path: Path, text: str, words: str) -> None:
    """With the file's name, and nothing of what is in it."""
    file = tmp_path / "dbt_cloud.yml"
    file.write_text(f"{text}\n# dbtc_secret_secret")
    ended = alone("projects", "--profile-file", file)
    assert ended.code == 2
    assert words in ended.err
    assert str(file) in ended.err
    assert "secret" not in ended.err


def test_the_account_may_be_left_out_named_or_in_a_url(stage: Stage, console: Console) -> None:
    """The only one that the token sees, its name, or any page's address."""
    none = {"DBT_CLOUD_ACCOUNT_ID": ""}
    assert console("projects", **none).code == 0
    url = f"{stage.sandbox.url}/deploy/{stage.sandbox.account_id}/projects/1"
    assert console("projects", "--account-id", url, **none).code == 0
    assert console("projects", "--account-id", "1").code == 3


# --- streams -------------------------------------------------------------------------------------


def failing(stage: Stage) -> int:
    """Put a run with one failed node into history."""
    step = PastStep(
        "dbt build",
        status=20,
        logs="\x1b[31mred\x1b[0m words\n",
        artifacts={
            "manifest.json": stage.manifest,
            "run_results.json": run_results(("model.tiny.orders", "error")),
        },
    )
    return stage.put(step, status=20)


def test_a_pipe_has_colours_when_they_are_forced(stage: Stage, console: Console) -> None:
    """Logs of CI systems show them (https://force-color.org)."""
    failing(stage)
    assert "\x1b[31m" in console("runs", FORCE_COLOR="1").out


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["check"], {"ok", "checks"}),
        (["projects"], {"id", "name", "account_id"}),
        (["environments"], {"id", "name", "project_id", "type", "deployment_type"}),
        (["jobs"], {"id", "name", "steps", "environment_id"}),
        (["jobs", "clean"], {"deleted", "kept", "dry_run"}),
        (["runs"], {"id", "status", "url", "job_id", "job_name", "seconds", "cause"}),
        (["run", "nightly"], {"id", "status", "url"}),
        (["run", "nightly", "--wait"], {"id", "status", "nodes", "failed"}),
        (["retry", "RUN"], {"id", "status", "url"}),
        (["cancel", "RUN"], {"id", "status", "url"}),
        (["artifacts", "list", "RUN"], set()),
        (["manifest"], {"run_id", "digest", "nodes"}),
        (["select"], {"unique_id", "resource_type", "name", "path", "tags"}),
        (["assets"], {"key", "group", "unique_id", "deps", "checks"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_json_is_all_of_stdout(
    stage: Stage, console: Console, words: list[str], keys: set[str]
) -> None:
    """A machine reads it without looking for where it begins."""
    run = failing(stage)
    stage.play(("model.tiny.orders", "success"))
    ended = console(*(run if word == "RUN" else word for word in words), "--json")
    assert ended.code == 0
    assert ended.out.isascii()
    value = json.loads(ended.out)
    assert keys <= set(value if isinstance(value, dict) else value[0])
