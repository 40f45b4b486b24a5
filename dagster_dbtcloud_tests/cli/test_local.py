"""``check``, ``sandbox`` and ``demo``: what is printed, and the number it ends with."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dagster_dbtcloud.cli import cli, main
from dagster_dbtcloud_tests.conftest import PROJECTS
from dagster_dbtcloud_tests.stage import Stage

COMMAND = [sys.executable, "-c", "from dagster_dbtcloud.cli import main; main()"]


def test_check_prints_the_table(stage: Stage, tmp_path: Path) -> None:
    """Exit code 0 when all is fine."""
    stage.built()
    variables = {**stage.sandbox.env, "DAGSTER_DBTCLOUD_CACHE_DIR": str(tmp_path / "cache")}
    result = CliRunner().invoke(cli, ["check"], env=variables)
    assert result.exit_code == 0, result.output
    assert result.output.count("ok  ") == 11
    assert stage.sandbox.token not in result.output


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("DBT_CLOUD_TOKEN", None, "DBT_CLOUD_TOKEN"),
        ("DBT_CLOUD_ACCOUNT_ID", "1", "FAIL  account"),
        ("DBT_CLOUD_TOKEN", "dbtc_wrong_wrong_wrong", "FAIL  token"),
        ("DBT_CLOUD_PROJECT_ID", "1", "FAIL  project"),
        ("DBT_CLOUD_ENVIRONMENT_ID", "Nowhere", "Production"),
    ],
)
def test_check_fails_with_advice(
    stage: Stage, tmp_path: Path, variable: str, value: str | None, words: str
) -> None:
    """Exit code 1; the line of what is wrong, and an arrow to what to do."""
    variables: dict[str, str | None] = {
        **stage.sandbox.env,
        "DAGSTER_DBTCLOUD_CACHE_DIR": str(tmp_path / "cache"),
        variable: value,
    }
    result = CliRunner().invoke(cli, ["check"], env=variables)
    assert result.exit_code == 1, result.output
    assert words in result.output
    assert "-> " in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_options_win_over_variables(stage: Stage, tmp_path: Path) -> None:
    """So that one shell can look at two projects."""
    stage.built()
    variables = {
        **stage.sandbox.env,
        "DBT_CLOUD_PROJECT_ID": "1",
        "DAGSTER_DBTCLOUD_CACHE_DIR": str(tmp_path / "cache"),
    }
    words = ["check", "--project-id", str(stage.sandbox.project_id)]
    assert CliRunner().invoke(cli, words, env=variables).exit_code == 0


@pytest.mark.parametrize("content", [None, "", "name: [", "- a list"])
def test_a_folder_that_is_no_dbt_project(
    tmp_path: Path,
    content: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line on stderr, and the code of wrong usage."""
    if content is not None:
        (tmp_path / "dbt_project.yml").write_text(content)
    words = ["dagster-dbtcloud", "sandbox", "--project-dir", str(tmp_path), "--port", "0"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as raised:
        main()
    output = capsys.readouterr()
    assert raised.value.code == 2
    assert output.out == ""
    assert "dbt_project.yml" in output.err
    assert "Traceback" not in output.err


def test_a_port_that_is_taken(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, too."""
    port = stage.sandbox.url.rsplit(":", 1)[1]
    words = ["dagster-dbtcloud", "sandbox", "--project-dir", str(PROJECTS / "tiny")]
    monkeypatch.setattr(sys, "argv", [*words, "--port", port])
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 2
    told = capsys.readouterr().err
    assert "in use" in told
    assert "--port" in told


def processes_of(folder: Path) -> list[str]:
    """Return the command lines that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_sandbox_serves_until_it_is_told_to_stop(tmp_path: Path, number: int) -> None:
    """It prints and writes what to export; a signal ends it and every process it started."""
    state, variables = tmp_path / "state", tmp_path / "sandbox.env"
    words = ["sandbox", "--project-dir", str(PROJECTS / "tiny"), "--port", "0"]
    process = subprocess.Popen(
        [*COMMAND, *words, "--state-dir", str(state), "--env-file", str(variables)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(5)]
        assert variables.read_text() == "".join(printed)
        assert stat.S_IMODE(variables.stat().st_mode) == 0o600
        assert all(line.startswith("export DBT_CLOUD_") for line in printed)
        names = dict(line.removeprefix("export ").strip().split("=", 1) for line in printed)
        cache = {"DAGSTER_DBTCLOUD_CACHE_DIR": str(tmp_path / "cache")}
        result = CliRunner().invoke(cli, ["check"], env={**names, **cache})
        assert result.exit_code == 0, result.output
        os.kill(process.pid, number)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "Ctrl-C" in error
    assert "Traceback" not in error
    assert processes_of(tmp_path) == []
