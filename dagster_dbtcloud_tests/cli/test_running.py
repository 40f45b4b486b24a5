"""``run``, ``retry``, ``cancel`` and ``logs``: what is sent, what is shown, how they end."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dagster_dbtcloud.sandbox import Fault, PastStep
from dagster_dbtcloud_tests.cli.console import Console
from dagster_dbtcloud_tests.stage import Stage, run_results, until

COMMAND = [sys.executable, "-c", "from dagster_dbtcloud.cli import main; main()"]

ORDERS, CUSTOMERS = "model.tiny.orders", "model.tiny.customers"


def line(number: int, name: str, word: str, state: str) -> str:
    dots = "." * 20
    return f"12:00:0{number}  {number} of 2 {word} main.{name} {dots} [{state}]\n"


LOG = (
    line(1, "orders", "START sql view model", "RUN")
    + line(1, "orders", "OK created sql view model", "OK in 0.25s")
    + line(2, "customers", "START sql table model", "RUN")
    + line(2, "customers", "ERROR creating sql table model", "ERROR in 0.50s")
)


def plays(stage: Stage, **step: Any) -> None:
    """Let runs build two models, the second in vain."""
    stage.play((ORDERS, "success"), (CUSTOMERS, "error"), **{"logs": LOG, "status": 20, **step})


def steps_of(run: Mapping[str, Any]) -> list[str]:
    return list(run["trigger"]["steps_override"] or ())


# --- run -----------------------------------------------------------------------------------------


def test_a_job_is_named_by_id_name_or_url(stage: Stage, console: Console) -> None:
    """Or by a variable; the run's id is all of stdout."""
    stage.play()
    sandbox = stage.sandbox
    url = (
        f"{sandbox.url}/deploy/{sandbox.account_id}/projects/{sandbox.project_id}/jobs/{stage.job}"
    )
    ids = []
    for words in ([stage.job], ["nightly"], ["NIGHTLY"], [url]):
        ended = console("run", *words)
        assert ended.code == 0
        ids.append(int(ended.out))
    ids.append(int(console("run", DBT_CLOUD_JOB_ID=str(stage.job)).out))
    assert ids == [run["id"] for run in sandbox.runs()]


def test_an_address_tells_the_account_and_no_other_host_gets_the_token(
    stage: Stage, console: Console
) -> None:
    """A pasted address needs nothing but a token, unless it contradicts what is set."""
    run = stage.built()
    url = stage.sandbox.run(run)["href"]
    bare = {"DBT_CLOUD_ACCESS_URL": "", "DBT_CLOUD_ACCOUNT_ID": "", "DBT_CLOUD_PROJECT_ID": ""}
    assert console("artifacts", "list", url, **bare).out == "manifest.json\n"
    ended = console("logs", "https://cloud.getdbt.com/deploy/1/projects/2/runs/3")
    assert ended.code == 2
    assert "another dbt Cloud" in ended.err
    ended = console("logs", "https://dbt.com.example.org/deploy/1/projects/2/runs/3", **bare)
    assert ended.code == 2
    assert "--access-url" in ended.err
    ended = console("logs", f"{stage.sandbox.url}/deploy/1/projects/2/runs/3")
    assert ended.code == 2
    assert "account 1" in ended.err


def test_jobs_clean_deletes_what_dagster_made(stage: Stage, console: Console) -> None:
    """Nobody else's; what is busy stays, and the exit code tells."""
    made = console("check")
    assert made.code == 0
    names = {job["name"] for job in stage.sandbox.jobs()}
    (ours,) = names - {"nightly"}
    ended = console("jobs", "clean", "--dry-run")
    assert (ended.code, f"  {ours}" in ended.out) == (0, True)
    assert {job["name"] for job in stage.sandbox.jobs()} == names
    stage.play(hold=True)
    busy = console("run", ours).out.strip()
    ended = console("jobs", "clean", "--json")
    assert ended.code == 1
    assert busy in json.loads(ended.out)["kept"][0]["reason"]
    stage.sandbox.release(int(busy))
    until(lambda: stage.sandbox.run(int(busy))["is_complete"])
    assert console("jobs", "clean").code == 0
    assert {job["name"] for job in stage.sandbox.jobs()} == {"nightly"}


def test_a_job_whose_name_is_not_its_own_is_asked_about(stage: Stage, console: Console) -> None:
    """Guessing would run the wrong one."""
    other = stage.sandbox.create_job("nightly", ["dbt run"])
    ended = console("run", "nightly")
    assert ended.code == 2
    assert str(other) in ended.err
    assert stage.sandbox.runs() == []


def test_what_is_sent(stage: Stage, console: Console) -> None:
    """Steps, variables, branch, schema, threads; and a cause that tells who it was."""
    stage.play()
    words = ["--git-branch", "try", "--schema-override", "mine", "--threads", 7, "--target", "ci"]
    ended = console(
        *("run", "nightly", *words, "--cause", "because"),
        *("--steps", "dbt seed", "--steps", "build -s orders+"),
        *("--vars", "{day: 2026-01-31, note: it's}"),
    )
    assert ended.code == 0, ended.err
    (run,) = stage.sandbox.runs()
    trigger = run["trigger"]
    variables = """ --vars '{"day": "2026-01-31", "note": "it\\u0027s"}'"""
    assert steps_of(run) == [f"dbt seed{variables}", f"dbt build -s orders+{variables}"]
    assert trigger["cause"].startswith("because [cli:")
    assert trigger["git_branch"] == "try"
    assert trigger["schema_override"] == "mine"
    assert trigger["threads_override"] == 7
    assert trigger["target_name_override"] == "ci"


def test_variables_go_to_the_jobs_own_steps(stage: Stage, console: Console) -> None:
    """Nobody wants to say them again; what a step says itself stays."""
    job = stage.sandbox.create_job("own", ["dbt build --vars 'a: 2'", "dbt clean"])
    stage.play()
    assert console("run", job, "--vars", "{a: 1, b: 3}").code == 0
    (run,) = stage.sandbox.runs()
    assert steps_of(run) == ["""dbt build --vars '{"a": 2, "b": 3}'""", "dbt clean"]


def test_a_lost_answer_makes_no_second_run(stage: Stage, console: Console) -> None:
    """The run is found by its cause."""
    stage.play()
    stage.sandbox.faults.add(Fault(kind="lost", place="trigger", after_effect=True))
    ended = console("run", "nightly", "--wait")
    assert ended.code == 0
    assert "Found it" in ended.err
    assert len(stage.sandbox.runs()) == 1


def test_waiting_tells_each_node_and_the_failures(stage: Stage, console: Console) -> None:
    """Progress on stderr, the table of failures on stdout, exit code 1."""
    plays(stage)
    ended = console("run", "nightly", "--wait")
    assert ended.code == 1
    assert "Step 4: dbt build" in ended.err
    assert "1 of 2  ok  sql view model main.orders  0.25 s" in ended.err
    assert "2 of 2  failed  sql table model main.customers  0.50 s" in ended.err
    head, titles, row = ended.out.splitlines()
    assert re.match(r"Run \d+: Error, after [\d.]+ s, 1 ok, 1 failed\. http", head)
    assert titles.split() == ["NODE", "STATUS", "TOOK", "MESSAGE"]
    assert row.split("  ")[0] == CUSTOMERS
    assert "dbt says error" in row


def test_the_second_run_tells_how_long_it_will_take(stage: Stage, console: Console) -> None:
    """From the timings of the job's last success."""
    stage.put(
        PastStep(
            "dbt build",
            artifacts={
                "manifest.json": stage.manifest,
                "run_results.json": run_results((ORDERS, "success"), (CUSTOMERS, "success")),
            },
        )
    )
    names = json.loads(stage.manifest)["nodes"]
    schema = names[ORDERS]["schema"]
    plays(stage, logs=LOG.replace("main.", f"{schema}."))
    ended = console("run", "nightly", "--wait")
    assert "left)" in ended.err


def test_a_failure_without_results_shows_the_end_of_the_log(stage: Stage, console: Console) -> None:
    """As when the project cannot be parsed."""
    stage.play(status=20, logs="first\nCompilation Error\n  in a model\n", artifacts={})
    ended = console("run", "nightly", "--wait")
    assert ended.code == 1
    assert ended.out.splitlines()[-3:] == ["first", "Compilation Error", "  in a model"]


def test_json_tells_counts_and_messages(stage: Stage, console: Console) -> None:
    """All that the table has, and more."""
    plays(stage)
    ended = console("run", "nightly", "--wait", "--json")
    found = json.loads(ended.out)
    assert ended.code == 1
    assert found["nodes"] == {"ok": 1, "warned": 0, "failed": 1, "skipped": 0}
    (failed,) = found["failed"]
    assert failed == {
        "unique_id": CUSTOMERS,
        "status": "error",
        "seconds": 1.0,
        "message": "dbt says error",
    }


def test_a_run_that_is_cancelled_in_dbt_cloud_has_not_succeeded(
    stage: Stage, console: Console
) -> None:
    """Exit code 1."""
    stage.play(hold=True)

    def cancel() -> None:
        until(lambda: any(run["status"] == 3 for run in stage.sandbox.runs()))
        stage.sandbox.cancel(stage.sandbox.runs()[-1]["id"])

    other = threading.Thread(target=cancel)
    other.start()
    ended = console("run", "nightly", "--wait")
    other.join()
    assert ended.code == 1
    assert "Cancelled" in ended.out


def test_a_time_limit_cancels_the_run(stage: Stage, console: Console) -> None:
    """Exit code 4; with --on-leave detach the run goes on."""
    stage.play(hold=True)
    ended = console("run", "nightly", "--wait", "--timeout", "90")
    assert ended.code == 4
    assert "not over after 1 min 30 s" in ended.err
    assert "is cancelled" in ended.err
    assert stage.sandbox.runs()[-1]["status"] == 30
    ended = console("run", "nightly", "--wait", "--timeout", "1m", "--on-leave", "detach")
    assert ended.code == 4
    run = stage.sandbox.runs()[-1]
    assert run["status"] == 3
    assert f"dagster-dbtcloud cancel {run['id']}" in ended.err
    stage.sandbox.release(run["id"])


def test_dbt_clouds_own_limit_is_a_time_limit(stage: Stage, console: Console) -> None:
    """It calls such a run cancelled."""
    job = stage.sandbox.create_job("short", ["dbt build"], execution={"timeout_seconds": 5})
    stage.play(hold=True)
    ended = console("run", job, "--wait")
    assert ended.code == 4, (ended.out, ended.err)


def test_an_outage_while_following_is_the_services_fault(stage: Stage, console: Console) -> None:
    """Exit code 3, after ten minutes of trying; the run may go on, and that is said."""
    stage.play(hold=True)
    stage.sandbox.faults.add(Fault(kind="status", status=503, place="polling", count=None, skip=1))
    stage.sandbox.faults.add(Fault(kind="status", status=503, place="cancel", count=None))
    ended = console("run", "nightly", "--wait")
    assert ended.code == 3
    assert "could not be cancelled" in ended.err
    stage.sandbox.faults.clear()
    stage.sandbox.release(stage.sandbox.runs()[-1]["id"])


# --- on a terminal -------------------------------------------------------------------------------


def test_a_terminal_shows_what_runs_and_keeps_what_failed(stage: Stage, console: Console) -> None:
    """A picture that is drawn anew; at the end only failures and the summary stay."""
    *begun, failure = LOG.splitlines(keepends=True)
    plays(stage, hold=True, logs="".join(begun))

    def fail() -> None:
        until(lambda: any(run["status"] == 3 for run in stage.sandbox.runs()))
        looks = len(stage.asked("GET", "/runs/"))
        until(lambda: len(stage.asked("GET", "/runs/")) > looks + 2)
        run = int(stage.sandbox.runs()[-1]["id"])
        stage.sandbox.write_log(run, None, failure)
        stage.sandbox.release(run)

    other = threading.Thread(target=fail)
    other.start()
    ended = console.on_terminal("run", "nightly", "--wait")
    other.join()
    assert ended.code == 1
    assert "━" in ended.out
    assert re.search(r"1 of 2.*1 ok", ended.plain)
    assert re.search(r"^    sql table model main.customers  [\d.]+", ended.plain, re.MULTILINE)
    assert "2 of 2  failed  sql table model main.customers" in ended.plain
    assert "\x1b[?25h" in ended.out  # the cursor is back
    assert re.search(r"Run \d+: Error", ended.plain)


def test_a_simple_terminal_gets_lines(stage: Stage, console: Console) -> None:
    """TERM=dumb moves no cursor."""
    plays(stage)
    ended = console.on_terminal("run", "nightly", "--wait", TERM="dumb")
    assert "━" not in ended.out
    assert "1 of 2  ok" in ended.plain


@pytest.fixture
def variables(stage: Stage, tmp_path: Path) -> dict[str, str]:
    """What a process of its own needs."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {**kept, **stage.sandbox.env, "HOME": str(tmp_path), "TERM": "xterm-256color"}


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_cancels_the_run(
    stage: Stage, variables: dict[str, str], number: int, code: int
) -> None:
    """Within five seconds; the exit code is the shell's for that signal."""
    stage.play(hold=True)
    process = subprocess.Popen(
        [*COMMAND, "run", "nightly", "--wait"],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell without job control lets its children ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        until(lambda: any(run["status"] == 3 for run in stage.sandbox.runs()))
        until(lambda: bool(stage.asked("GET", "/runs/")))
        process.send_signal(number)
        out, err = process.communicate(timeout=5)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code, err
    assert out == ""
    assert "is cancelled" in err
    assert "Traceback" not in err
    until(lambda: stage.sandbox.runs()[-1]["status"] == 30)


def test_a_pipe_that_is_closed_leaves_no_run_behind(
    stage: Stage, variables: dict[str, str]
) -> None:
    """As when somebody looks at the first lines only."""
    stage.play(hold=True)
    process = subprocess.Popen(
        [*COMMAND, "run", "nightly", "--wait"],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert "is started" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) != 0
    until(lambda: stage.sandbox.runs()[-1]["status"] == 30)


def talk(master: int) -> Iterator[str]:
    """Yield all that a terminal has shown so far, each time there is more."""
    seen = b""
    while True:
        try:
            seen += os.read(master, 65536)
        except OSError:
            return
        yield seen.decode(errors="replace")


def test_the_token_is_asked_for_and_ctrl_c_cancels(stage: Stage, variables: dict[str, str]) -> None:
    """On a terminal of its own: what is typed is not shown, and ^C ends the run."""
    stage.play(hold=True, logs=line(1, "orders", "START sql view model", "RUN"))
    del variables["DBT_CLOUD_TOKEN"]
    pid, master = pty.fork()
    if pid == 0:
        words = [*COMMAND, "run", "nightly", "--wait"]
        os.execve(sys.executable, words, variables)  # noqa: S606 - no shell is wanted
    typed = interrupted = False
    shown = ""
    for shown in talk(master):
        if "token" in shown and not typed:
            os.write(master, f"{stage.sandbox.token}\n".encode())
            typed = True
        if "main.orders" in shown and not interrupted:
            os.write(master, b"\x03")
            interrupted = True
    _, status = os.waitpid(pid, 0)
    os.close(master)
    assert os.waitstatus_to_exitcode(status) == 130, shown
    assert "is cancelled" in shown
    assert stage.sandbox.token not in shown
    until(lambda: stage.sandbox.runs()[-1]["status"] == 30)


# --- retry, cancel, logs -------------------------------------------------------------------------


def test_retry_takes_up_a_failed_run(stage: Stage, console: Console) -> None:
    """The same waiting, the same exit codes."""
    plays(stage)
    console("run", "nightly", "--wait")
    failed = stage.sandbox.runs()[-1]["id"]
    left = {"run_results.json": run_results((CUSTOMERS, "success"), which="retry")}
    stage.play(artifacts=left)
    ended = console("retry", failed, "--wait", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["nodes"]["ok"] == 1
    assert stage.sandbox.runs()[-1]["retrying_run_id"] == failed


def test_only_a_failed_run_is_retried(stage: Stage, console: Console) -> None:
    """And the exit code says that the question was wrong."""
    ended = console("retry", stage.built())
    assert ended.code == 2
    assert "success" in ended.err


def test_cancel_cancels_each(stage: Stage, console: Console) -> None:
    """What is over already is no error."""
    stage.play(hold=True)
    console("run", "nightly")
    active, done = stage.sandbox.runs()[-1], stage.built()
    until(lambda: stage.sandbox.run(active["id"])["status"] == 3)
    ended = console("cancel", active["href"], done)
    assert ended.code == 0
    assert "over already: Success" in ended.out
    until(lambda: stage.sandbox.run(active["id"])["status"] == 30)


def test_logs_follow_a_run_and_leave_it_alone(stage: Stage, console: Console) -> None:
    """Each line once, to the end; colours are for terminals."""
    stage.play(logs="".join(f"\x1b[32mline {i}\x1b[0m\n" for i in range(30)), seconds=20.0)
    run = console("run", "nightly").out.strip()
    ended = console("logs", run, "--follow")
    assert ended.code == 0
    lines = [text for text in ended.out.splitlines() if text.startswith("line ")]
    assert lines == [f"line {i}" for i in range(30)]
    assert "--- step 4: Invoke dbt with `dbt build`" in ended.out
    assert "\x1b[32mline 1" in console.on_terminal("logs", run).out


def test_logs_of_one_step(stage: Stage, console: Console) -> None:
    """Without a title: a file of its own."""
    run = stage.put(PastStep("dbt seed", logs="one\n"), PastStep("dbt build", logs="two\n"))
    assert console("logs", run, "--step", 5).out == "two\n"
    ended = console("logs", run, "--step", 9)
    assert ended.code == 2
    assert "it has: 1, 2, 3, 4, 5" in ended.err
