"""Each command there is, as a process: in a pipe, on a terminal of its own, and told nonsense.

The commands are found by walking the tree, so that a new one without a row here fails.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from dagster_dbtcloud.cli import cli
from dagster_dbtcloud.sandbox import Fault, Sandbox
from dagster_dbtcloud_tests.cli.shell import Ended, Shell
from dagster_dbtcloud_tests.cli.test_commands import every_command, failing
from dagster_dbtcloud_tests.cli.test_local import processes_of
from dagster_dbtcloud_tests.cli.test_replaying import DEFINITIONS
from dagster_dbtcloud_tests.conftest import PROJECTS, SkippingClock
from dagster_dbtcloud_tests.stage import Stage, until


@dataclass(frozen=True)
class Row:
    """What a command is given, what it then prints, and what it says to nonsense.

    ``RUN`` stands for a run that failed. ``until`` is what a command prints that goes on until it
    is interrupted. ``nonsense`` is (words, what is said), and ``typed`` what a terminal is told.
    """

    words: str
    prints: str
    nonsense: tuple[str, str]
    code: int = 0
    until: str | None = None
    typed: str = ""


TINY = PROJECTS / "tiny"
TABLE = {
    "check": Row("check", "ok    manifest", ("check now", "--help")),
    "init": Row("init fresh", "definitions.py", ("init 123", "--name"), typed="n\n"),
    "migrate": Row("migrate old.py", "+from dagster_dbtcloud import", ("migrate no", "not exist")),
    "projects": Row("projects", "tiny", ("projects --account-id no", "There are: Sandbox")),
    "environments": Row(
        "environments", "Production", ("environments --project-id no", "There are: tiny")
    ),
    "jobs": Row("jobs", "nightly", ("jobs --environment-id no", "There are: Development")),
    "jobs clean": Row(
        "jobs clean --dry-run",
        "DAGSTER_ADHOC_JOB__",
        ("jobs --environment-id 5 clean", "behind the sub-command"),
    ),
    "runs": Row("runs", "Error", ("runs --since yesterday", "2h")),
    "logs": Row("logs RUN", "red words", ("logs 7", "dagster-dbtcloud runs")),
    "artifacts list": Row(
        "artifacts list RUN", "manifest.json", ("artifacts list 7", "There is no run 7")
    ),
    "artifacts download": Row(
        "artifacts download RUN run_results.json",
        "target/run_results.json",
        ("artifacts download RUN no.json", "dagster-dbtcloud artifacts list"),
    ),
    "run": Row("run nightly --wait", "Success, after", ("run no", "There are: nightly")),
    "retry": Row("retry RUN", "is started", ("retry 7", "dagster-dbtcloud runs")),
    "cancel": Row("cancel RUN", "over already", ("cancel 7", "dagster-dbtcloud runs")),
    "manifest": Row("manifest", "tiny", ("manifest --run no", "dagster-dbtcloud runs")),
    "select": Row("select orders", "model.tiny.orders", ("select tagg:x", "Did you mean 'tag'?")),
    "assets": Row("assets", "model.tiny.orders", ("assets --manifest old.py", "as dbt writes it")),
    "replay": Row(
        "replay -f my_definitions.py --run RUN",
        "event",
        ("replay -f empty.py --since 1d", "holds 0 dagster.Definitions"),
    ),
    "sandbox": Row(
        f"sandbox --port 0 --project-dir {TINY}",
        "export DBT_CLOUD_TOKEN=",
        (f"sandbox --port 99999 --project-dir {TINY}", "0<=x<=65535"),
        until="Ctrl-C stops",
    ),
    "demo": Row(
        "demo --home .demo --port 0",
        "Starting a local dbt Cloud",
        ("demo --home .", "name another --home"),
        code=130,
        until="Starting",
    ),
}
EVERYTHING = pytest.mark.parametrize("command", TABLE)


def test_every_command_has_its_row() -> None:
    """A group counts when it does something by itself."""
    found = set()
    for words in every_command():
        command: click.Command | None = cli
        for word in words:
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), word)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            found.add(" ".join(words))
    assert set(TABLE) == found
    assert all(row.words.startswith(command) for command, row in TABLE.items())


@pytest.fixture(scope="module")
def stand(manifest: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One sandbox for all rows; runs in it are played."""
    clock = SkippingClock()
    with Sandbox(project_dir=TINY, clock=clock, warm=False) as sandbox:
        stage = Stage(sandbox, clock, manifest, tmp_path_factory.mktemp("cache"))
        stage.play(("model.tiny.orders", "success"))
        failing(stage)
        stage.workspace().verify()  # makes the job that Dagster's commands run in
        yield stage


@pytest.fixture(scope="module")
def shell(stand: Stage) -> Iterator[Shell]:
    """Commands with the variables of that sandbox."""
    cache = {"DAGSTER_DBTCLOUD_CACHE_DIR": str(stand.cache_dir)}
    with Shell({**stand.sandbox.env, **cache}) as shell:
        yield shell


@pytest.fixture
def desk(tmp_path: Path, empty_home: Path) -> Path:
    """A folder with what some commands work on."""
    shutil.copytree(empty_home, tmp_path / "dagster_home")
    (tmp_path / "old.py").write_text("from dagster_dbt import DbtCloudWorkspace\n")
    (tmp_path / "empty.py").touch()
    (tmp_path / "my_definitions.py").write_text(DEFINITIONS)
    return tmp_path


def given(text: str, stage: Stage) -> list[str]:
    run = str(failing(stage))
    return [run if word == "RUN" else word for word in text.split()]


@pytest.mark.parametrize("place", ["pipe", "terminal"])
@EVERYTHING
def test_a_command_works(stand: Stage, shell: Shell, desk: Path, command: str, place: str) -> None:
    """The same words and the same exit code; colours and moves of the cursor for terminals only."""
    row = TABLE[command]
    variables = {"DAGSTER_HOME": str(desk / "dagster_home"), "HOME": str(desk)}
    terminal = place == "terminal"
    typed = row.typed if terminal else ""
    running = shell.start(
        *given(row.words, stand), folder=desk, terminal=terminal, typed=typed, **variables
    )
    if row.until is not None:
        running.see(row.until)
        if terminal:
            running.type("\x03")
        else:
            running.signal(signal.SIGINT)
    ended = running.wait()
    assert ended.code == row.code, ended.plain
    assert row.prints in ended.plain
    assert "Traceback" not in ended.plain
    assert terminal or "\x1b" not in ended.out + ended.err
    until(lambda: processes_of(desk) == [], seconds=20)


@EVERYTHING
def test_nonsense_is_one_line_that_says_what_to_do(
    stand: Stage, shell: Shell, desk: Path, command: str
) -> None:
    """On stderr, with nothing on stdout, and the exit code of wrong usage."""
    words, said = TABLE[command].nonsense
    ended = shell(*given(words, stand), folder=desk, DAGSTER_HOME=str(desk / "dagster_home"))
    assert (ended.code, ended.out) == (2, ""), ended
    assert ended.err.startswith("dagster-dbtcloud: ")
    assert ended.err.count("\n") == 1
    assert said in ended.err


@pytest.mark.parametrize("place", ["pipe", "terminal"])
def test_an_impatient_interrupt_leaves_no_run_behind(
    stand: Stage, shell: Shell, desk: Path, place: str
) -> None:
    """Ctrl-C again, while the first one cancels the run, which dbt Cloud takes its time for."""
    played = ("model.tiny.orders", "success")
    stand.play(played, hold=True)
    stand.sandbox.faults.add(Fault("delay", place="cancel", seconds=1.0))
    try:
        running = shell.start(
            *("run", "nightly", "--wait"), folder=desk, terminal=place == "terminal"
        )
        until(lambda: stand.sandbox.runs()[-1]["status"] == 3)
        run = int(stand.sandbox.runs()[-1]["id"])
        running.see("Running").signal(signal.SIGINT)
        until(lambda: stand.sandbox.faults.listed()[0]["met"] == 1)
        running.signal(signal.SIGINT)
        ended = running.wait()
    finally:
        stand.play(played)
        stand.sandbox.faults.clear()
    assert ended.code == 130, ended.plain
    assert f"Run {run} is" in ended.plain
    until(lambda: stand.sandbox.run(run)["status"] == 30)


def test_no_color_ends_colours(stand: Stage, shell: Shell, desk: Path) -> None:
    """https://no-color.org, also for what moves."""
    failing(stand)

    def shown(*words: str, **variables: str) -> bool:
        ended = shell(*words, folder=desk, terminal=True, **variables)
        return re.search(r"\x1b\[(?:\d+;)*3\d", ended.out) is not None

    for words in (["runs"], ["run", "nightly", "--wait"]):
        assert shown(*words)
        assert not shown(*words, NO_COLOR="1")


def test_a_narrow_terminal_gets_no_broken_lines(shell: Shell, desk: Path) -> None:
    """What is drawn again and again fits, since a line that wraps could not be taken back."""
    ended = shell("run", "nightly", "--wait", folder=desk, terminal=True, COLUMNS="30")
    assert ended.code == 0
    erase = "\x1b[2K"
    drawn = ended.out.split(erase)[1:-1]  # without what is printed before and after, and stays
    lines = [line for part in drawn for line in Ended(0, part, "").plain.splitlines()]
    assert any(line.startswith("Run ") for line in lines)
    assert [line for line in lines if len(line) > 30] == []


def test_init_asks_a_terminal_for_everything(stand: Stage, shell: Shell, desk: Path) -> None:
    """With nothing set and nothing said: the folder, the address, the token."""
    nothing = dict.fromkeys(stand.sandbox.env, "")
    init = shell.start("init", folder=desk, terminal=True, HOME=str(desk), **nothing)
    for question, answer in (
        ("directory", "fresh"),
        ("Access URLs", stand.sandbox.url),
        ("dbt Cloud token", stand.sandbox.token),
        ("Keep the token", "y"),
    ):
        init.see(question).type(f"{answer}\n")
    ended = init.wait()
    assert ended.code == 0, ended.plain
    assert stand.sandbox.token not in ended.out
    assert f"DBT_CLOUD_ACCESS_URL={stand.sandbox.url}\n" in (desk / "fresh" / ".env").read_text()
    ended = shell("init", folder=desk, terminal=False, typed="", **nothing)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "DIRECTORY" in ended.err


@pytest.mark.nightly
def test_the_demo_plays_its_story_on_a_terminal(shell: Shell, desk: Path) -> None:
    """To the end, and nothing of it goes on. In a pipe the gate plays it each time."""
    running = shell.start("demo", "--once", folder=desk, terminal=True)
    ended = running.wait(seconds=270)
    assert ended.code == 0, ended.plain
    assert "Dagster: declarative automation" in ended.plain
    until(lambda: processes_of(desk) == [], seconds=20)


def test_a_demo_touches_nothing_of_others(shell: Shell, desk: Path) -> None:
    """Neither a folder that somebody has filled, nor a port on which somebody listens."""
    before = sorted(desk.rglob("*"))
    for words in (["--home", "."], ["--home", ".", "--once"], ["--home", "old.py"]):
        assert shell("demo", *words, folder=desk).code == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = shell("demo", "--port", taken.getsockname()[1], folder=desk)
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "give another --port" in ended.err
    assert sorted(desk.rglob("*")) == before


def test_the_installed_command_is_this_one() -> None:
    """What the rows call is what the script in the environment's folder calls."""
    script = Path(sys.executable).parent / "dagster-dbtcloud"
    assert "from dagster_dbtcloud.cli import main" in script.read_text()
