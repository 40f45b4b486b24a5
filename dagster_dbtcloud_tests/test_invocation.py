"""One dbt Cloud run in time: begun once, followed through faults, and never left alone."""

import gc
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest

from dagster_dbtcloud import DbtCloudWorkspace, dbt_cloud_assets
from dagster_dbtcloud.cloud.models import Run, TriggerRun
from dagster_dbtcloud.errors import (
    ApiConnectionError,
    AuthenticationError,
    ConfigError,
    NotFoundError,
    RunCancelled,
    RunFailed,
    RunTimedOut,
    ServerError,
)
from dagster_dbtcloud.harvest import dbt_command
from dagster_dbtcloud.invocation import DbtCloudCliInvocation
from dagster_dbtcloud.marker import CAUSE_LIMIT, Marker, dagster_run_of
from dagster_dbtcloud.sandbox import Fault, PastStep
from dagster_dbtcloud.starting import abandon, start_run
from dagster_dbtcloud_tests.conftest import SkippingClock
from dagster_dbtcloud_tests.stage import Stage, until

RUN_ID = "0a1b2c3d-1111-2222-3333-444455556666"
SLOW = "model.tiny.slow"
ORDERS = "model.tiny.orders"
CHECK = "test.tiny.amounts_are_large_enough"
ORDERS_ENDED = "10:20:30  1 of 1 OK created sql table model main.orders ........... [OK in 1.50s]\n"


@pytest.fixture
def built(stage: Stage) -> Stage:
    """A stage with a manifest, on which runs succeed at once."""
    stage.built()
    stage.play((SLOW, "success"))
    return stage


def triggered(stage: Stage) -> list[dict[str, Any]]:
    """Return the runs beyond the one that history begins with."""
    return [dict(run) for run in stage.sandbox.runs()[1:]]


class HookedClock(SkippingClock):
    """Does something each time that somebody waits: the world goes on meanwhile."""

    def __init__(self, hook: Callable[[], None]) -> None:
        super().__init__()
        self._hook = hook

    def sleep(self, seconds: float) -> None:
        self._hook()
        super().sleep(seconds)


class Sink(logging.Handler):
    """What is logged outside of Dagster; may break when it sees a word."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.breaks: dict[str, BaseException] = {}

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        self.text += message + "\n"
        for word, error in self.breaks.items():
            if word in message:
                raise error


@pytest.fixture
def sink() -> Iterator[Sink]:
    handler = Sink()
    logger = logging.getLogger("dagster_dbtcloud")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


# --- the marker ----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["orders", "a" * 300, "graph.sub.[dagster:x/y/1]", "münchen ü"])
@pytest.mark.parametrize("deployment", [None, "prod", "d" * 200])
def test_a_cause_fits_and_is_read_back(step: str, deployment: str | None) -> None:
    """However long the names, the token at the end is whole."""
    marker = Marker(RUN_ID, step, attempt=2, number=0, deployment=deployment)
    cause = marker.cause()
    assert len(cause) <= CAUSE_LIMIT
    assert cause.endswith(str(marker.mark))
    assert dagster_run_of(cause) == RUN_ID
    assert cause.startswith("Dagster run 0a1b2c3d")


def test_tokens_differ_by_what_makes_runs_differ() -> None:
    """Run, step, attempt, and the call within the step; and nothing else."""
    markers = [
        Marker(run, step, attempt, number)
        for run in (RUN_ID, RUN_ID.replace("0", "9"))
        for step in ("a", "a" * 300, "a" * 301)
        for attempt in (0, 1)
        for number in (0, 1)
    ]
    assert len({str(marker.mark) for marker in markers}) == len(markers)
    assert Marker(RUN_ID, "a", 0, 0, "prod").mark == Marker(RUN_ID, "a", 0, 0).mark


@pytest.mark.parametrize(
    "cause",
    [
        None,
        "",
        "Scheduled",
        "see [dagster:",
        "[dagster:]",
        "[dagster:a/b]",
        "[dagster:/b/0]",
        "[dagster:a/b/0] and more",
        "[other:a/b/0]",
        "Started from Python by dagster_dbtcloud [ab]",
    ],
)
def test_causes_of_others_name_no_dagster_run(cause: str | None) -> None:
    """People write what they like there."""
    assert dagster_run_of(cause) is None


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("dbt build", "build"),
        ("dbt --log-level debug build --select run", "build"),
        ("dbt --log-format json --debug run", "run"),
        ("dbt --target test docs generate", "docs"),
        ("dbt --log-level=debug test", "test"),
        ("dbt --of-a-later-version x --debug build", "build"),
        ("dbt --debug frobnicate", None),
        ("/usr/bin/dbt seed", "seed"),
        ("dbt frobnicate build", None),
        ("dbt", None),
        ("git clone", None),
        ("dbt build --vars 'unclosed", "build"),
        (None, None),
    ],
)
def test_the_sub_command_of_a_step(command: str | None, expected: str | None) -> None:
    """The value of a flag is not taken for it."""
    assert dbt_command(command) == expected


# --- begin ---------------------------------------------------------------------------------------


def start(stage: Stage, cause: str = "because") -> Run:
    workspace = stage.workspace()
    trigger = TriggerRun(cause=cause, steps_override=("dbt build",))
    with workspace.get_client() as client:
        clock = workspace.get_clock()
        return start_run(client, stage.job, trigger, clock=clock, log=lambda _: None)


RUN = "*/jobs/*/run/"


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("lost", method="POST", path=RUN)],
        [Fault("lost", method="POST", path=RUN, after_effect=True)],
        [Fault("reset", method="POST", path=RUN, after_effect=True)],
        [Fault("cut", method="POST", path=RUN)],
        [Fault("html", method="POST", path=RUN, after_effect=True)],
        [Fault("status", method="POST", path=RUN, status=500)],
        [Fault("status", method="POST", path=RUN, status=500, count=2)],
        [Fault("status", method="POST", path=RUN, status=504, after_effect=True)],
        [
            Fault("lost", method="POST", path=RUN, after_effect=True),
            Fault("late_list", path="*/runs/", count=4),
        ],
        [
            Fault("lost", method="POST", path=RUN, after_effect=True),
            Fault("status", method="GET", path="*/runs/", status=503, count=5),
        ],
    ],
    ids=lambda faults: "+".join(f"{each.kind}-{each.after_effect}" for each in faults),
)
def test_a_trigger_makes_one_run_whatever_its_answer(built: Stage, faults: list[Fault]) -> None:
    """The run that is returned is the one there is."""
    for fault in faults:
        built.sandbox.faults.add(fault)
    run = start(built)
    assert [each["id"] for each in triggered(built)] == [run.id]


def test_of_two_triggers_that_worked_the_first_is_kept(built: Stage) -> None:
    """The first took effect after we had stopped looking for it and triggered again."""
    built.play(hold=True)
    built.sandbox.faults.add(Fault("lost", method="POST", path=RUN))
    built.sandbox.faults.add(Fault("late_list", path="*/runs/", count=6))
    first = built.sandbox.trigger(built.job, cause="because", steps_override=["dbt build"])
    run = start(built)
    assert run.id == first
    assert [each["is_cancelled"] for each in triggered(built)] == [False, True]
    built.sandbox.cancel(first)


def test_an_older_run_with_another_cause_is_not_adopted(built: Stage) -> None:
    """A lost trigger is sent again rather than take somebody else's run."""
    older = start(built, "an older one")
    built.sandbox.faults.add(Fault("lost", method="POST", path=RUN))
    assert start(built).id != older.id


def test_calls_without_context_never_share_a_run(built: Stage) -> None:
    """Two scripts that say the same still get a run each, also when an answer is lost."""
    workspace = built.workspace()
    first = workspace.cli(["build"])
    assert first.is_successful()
    built.sandbox.faults.add(Fault("lost", method="POST", path=RUN))
    assert workspace.cli(["build"]).run_id != first.run_id


def test_five_unclear_answers_are_enough(built: Stage) -> None:
    """The error is the last one; there is no run."""
    built.sandbox.faults.add(Fault("status", method="POST", path=RUN, status=500, count=None))
    with pytest.raises(ServerError):
        start(built)
    assert len(built.asked("POST", "/run/")) == 5
    assert triggered(built) == []


def test_a_service_out_of_reach_is_not_looked_through(built: Stage) -> None:
    """What was never sent made no run."""
    workspace = built.workspace()
    with workspace.get_client() as client:
        built.sandbox.stop()
        with pytest.raises(ApiConnectionError) as raised:
            start_run(
                client,
                built.job,
                TriggerRun(cause="x"),
                clock=workspace.get_clock(),
                log=lambda _: None,
            )
    assert not raised.value.sent


def test_an_interrupted_trigger_is_looked_for_and_cancelled(built: Stage) -> None:
    """Only the run with this very cause."""
    built.play(hold=True)
    mine, other = start(built, "mine"), start(built, "other")
    abandon(built.workspace().get_client(), built.job, "mine")
    built.sandbox.wait(mine.id, 10)
    assert built.sandbox.run(mine.id)["is_cancelled"]
    assert not built.sandbox.run(other.id)["is_complete"]


@pytest.mark.parametrize(
    "args", ["build", "", [], ["dbt"], [""], [" "], ["build --select x"], ["dbt", "build -s x"]]
)
def test_wrong_words_are_refused_before_anything_is_sent(built: Stage, args: Any) -> None:
    """A text instead of words is the commonest mistake."""
    with pytest.raises(ConfigError):
        built.workspace().cli(args)
    assert built.sandbox.requests == () or triggered(built) == []


# --- follow --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", method="GET", path="*/runs/*", status=404, count=4),
        Fault("status", method="GET", path="*/runs/*[0-9]/", status=401, count=3),
        Fault("status", method="GET", path="*/runs/*", status=503, count=None, for_seconds=540),
        Fault("html", method="GET", path="*/runs/*", count=None, for_seconds=300),
        Fault("reset", method="GET", path="*/runs/*", count=6),
        Fault("status", method="GET", path="*/runs/*", status=429, count=3),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_a_run_is_followed_through_faults(built: Stage, fault: Fault) -> None:
    """A replica that lags, a token service that stumbles, nine minutes of outage."""
    invocation = built.workspace().cli(["build"])
    built.sandbox.faults.add(fault)
    (event,) = invocation.wait()
    assert isinstance(event, dg.AssetMaterialization)
    (run,) = triggered(built)
    assert run["is_success"]


@pytest.mark.parametrize(
    ("status", "error"), [(404, NotFoundError), (401, AuthenticationError), (503, ServerError)]
)
def test_a_fault_for_good_ends_it_and_cancels_the_run(
    built: Stage, status: int, error: type[Exception]
) -> None:
    """Nobody watches the run any more, so it is cancelled, as far as dbt Cloud lets us."""
    built.play(hold=True)
    invocation = built.workspace().cli(["build"])
    built.sandbox.faults.add(
        Fault("status", method="GET", path="*/runs/*", status=status, count=None)
    )
    with pytest.raises(error):
        list(invocation.wait())
    assert built.sandbox.wait(invocation.run_id, 10)["is_cancelled"]


def test_a_time_limit_of_the_caller(built: Stage) -> None:
    """The error says whose limit it was; the run is cancelled."""
    built.play(hold=True)
    invocation = built.workspace().cli(["build"])
    with pytest.raises(RunTimedOut, match="90 s") as raised:
        list(invocation.wait(timeout=90))
    assert raised.value.run_id == invocation.run_id
    assert raised.value.__cause__ is not raised.value
    assert built.sandbox.wait(invocation.run_id, 10)["is_cancelled"]


def test_a_time_limit_of_the_job(built: Stage) -> None:
    """dbt Cloud stops the run by itself and says so; we say it again."""
    built.sandbox.create_job("limited", execution={"timeout_seconds": 60})
    built.play(hold=True)
    invocation = built.workspace(adhoc_job_name="limited").cli(["build"])
    with pytest.raises(RunTimedOut, match="timed out"):
        list(invocation.wait())


def test_a_run_cancelled_in_dbt_cloud(built: Stage) -> None:
    """That is a failure of the step, and its words say who to ask."""
    built.play(hold=True)
    clock = HookedClock(lambda: built.sandbox.cancel(triggered(built)[0]["id"]))
    invocation = built.workspace(clock=clock).cli(["build"])
    with pytest.raises(RunCancelled, match="cancelled in dbt Cloud"):
        list(invocation.wait())


def test_each_log_line_is_told_once_through_a_sliding_window(built: Stage, sink: Sink) -> None:
    """dbt Cloud shows only the end of a running step's log; nothing is lost or said twice."""
    built.sandbox.behaviour.tail_lines = 20
    built.play((SLOW, "success"), hold=True, logs="")
    lines = iter([f"line {number} of 200" for number in range(200)])

    def write() -> None:
        (run,) = triggered(built)
        some = list(islice(lines, 7))
        if some:
            built.sandbox.write_log(run["id"], 4, "".join(f"{line}\n" for line in some))
        else:
            built.sandbox.release(run["id"])

    invocation = built.workspace(clock=HookedClock(write)).cli(["build"])
    until(lambda: triggered(built)[0]["status"] == 3 and len(triggered(built)[0]["run_steps"]) > 3)
    assert len(list(invocation.wait())) == 1
    told = [line for line in sink.text.splitlines() if line.startswith("line ")]
    assert told == [f"line {number} of 200" for number in range(200)]


def test_logs_that_are_stored_late_are_waited_for(built: Stage, sink: Sink) -> None:
    """A finished run may show empty logs for a moment."""
    built.sandbox.behaviour.logs_seconds = 6.0
    assert built.workspace().cli(["build"]).is_successful()
    assert "played dbt build" in sink.text


@pytest.mark.parametrize(("status", "body"), [(401, None), (200, '{"data": [], "status": {}}')])
def test_one_odd_answer_costs_no_results(built: Stage, status: int, body: str | None) -> None:
    """Gateways refuse good tokens at times: also while a finished run's logs are waited for."""
    built.sandbox.behaviour.logs_seconds = 6.0
    invocation = built.workspace().cli(["build"])
    waits = 0

    def refuse() -> None:
        nonlocal waits
        waits += built.sandbox.run(invocation.run_id)["is_complete"]
        if waits == 2:
            fault = Fault("status", place="polling", status=status, body=body)
            built.sandbox.faults.add(fault)

    built.clock.hooks.append(refuse)
    assert len(list(invocation.wait())) == 1
    assert waits > 2


def test_a_failure_that_no_node_tells_of_shows_the_end_of_the_log(built: Stage) -> None:
    """dbt could not even parse: what it said is all there is."""
    built.sandbox.play(lambda _, command: PastStep(command, status=20, logs="no such macro\n"))
    with pytest.raises(RunFailed, match="no such macro"):
        list(built.workspace().cli(["build"]).wait())


# --- leave ---------------------------------------------------------------------------------------


def test_an_interrupt_cancels_the_run(built: Stage, sink: Sink) -> None:
    """Wherever it comes from, it goes on once the run is cancelled."""
    built.play(hold=True)
    sink.breaks = {": Running": KeyboardInterrupt()}
    invocation = built.workspace().cli(["build"])
    with pytest.raises(KeyboardInterrupt):
        list(invocation.wait())
    assert built.sandbox.wait(invocation.run_id, 10)["is_cancelled"]


def test_an_interrupt_just_after_the_trigger_cancels_the_run(built: Stage, sink: Sink) -> None:
    """The link is not even in the log yet, and nobody has the invocation."""
    built.play(hold=True)
    sink.breaks = {"Started dbt Cloud run": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        built.workspace().cli(["build"])
    (run,) = triggered(built)
    assert built.sandbox.wait(run["id"], 10)["is_cancelled"]


def test_the_first_error_is_kept(built: Stage, sink: Sink) -> None:
    """A second one on the way out, or a dbt Cloud that refuses, does not hide why we left."""
    built.play(hold=True)
    sink.breaks = {": Running": KeyboardInterrupt("first"), "Cancelled dbt": SystemExit("second")}
    with pytest.raises(KeyboardInterrupt, match="first"):
        list(built.workspace().cli(["build"]).wait())
    sink.breaks = {"waiting for": ValueError("third"), ": Running": ValueError("third")}
    built.sandbox.faults.add(Fault("status", method="POST", path="*/cancel/", status=503))
    with pytest.raises(ValueError, match="third"):
        list(built.workspace().cli(["build"]).wait())


def test_a_run_that_cannot_be_cancelled_is_named(built: Stage, sink: Sink) -> None:
    """The log says where to cancel it by hand, within seconds."""
    built.play(hold=True)
    invocation = built.workspace().cli(["build"])
    built.sandbox.faults.add(Fault("status", method="POST", status=503, count=None))
    clock = built.workspace().get_clock()
    sink.breaks = {": Running": KeyboardInterrupt()}
    before = clock.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(invocation.wait())
    assert clock.monotonic() - before < 15
    assert f"Cancel it at {invocation.run_url}" in sink.text


def test_an_error_before_waiting_cancels_the_run(
    built: Stage, instance: dg.DagsterInstance
) -> None:
    """The user's own code may fail between the call and ``wait()``."""
    built.play(hold=True)
    workspace = built.workspace()

    @dbt_cloud_assets(workspace=workspace, select="slow")
    def project(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        invocation = dbt_cloud.cli(["build"], context=context)
        assert json.loads("0"), "an error of the user's own"
        yield from invocation.wait()

    assert not dg.materialize(
        [project], resources={"dbt_cloud": workspace}, instance=instance, raise_on_error=False
    ).success
    gc.collect()
    (run,) = triggered(built)
    assert built.sandbox.wait(run["id"])["is_cancelled"]


def test_an_unknown_word_for_leaving_is_refused(built: Stage) -> None:
    """Else a slip of the pen would cancel a run that was to go on."""
    word: Any = "detatch"
    with pytest.raises(ConfigError, match="'cancel', 'detach'"):
        built.workspace().cli(["build"], on_leave=word)
    assert triggered(built) == []


def test_who_detaches_leaves_the_run_alone(built: Stage, sink: Sink) -> None:
    """A day's work in dbt Cloud need not die with a pod."""
    built.play(hold=True)
    sink.breaks = {": Running": KeyboardInterrupt()}
    invocation = built.workspace().cli(["build"], on_leave="detach")
    with pytest.raises(KeyboardInterrupt):
        list(invocation.wait())
    assert built.sandbox.run(invocation.run_id)["status_humanized"] == "Running"
    assert "Leaving dbt Cloud run" in sink.text
    built.sandbox.cancel(invocation.run_id)


PROJECT = """
import os
import sys
from pathlib import Path

import dagster as dg
from dagster_dbtcloud import DbtCloudWorkspace, dbt_cloud_assets

workspace = DbtCloudWorkspace(
    account_id=os.getenv("DBT_CLOUD_ACCOUNT_ID"), token=os.getenv("DBT_CLOUD_TOKEN"),
    access_url=os.getenv("DBT_CLOUD_ACCESS_URL"), project_id=os.getenv("DBT_CLOUD_PROJECT_ID"),
    environment_id=os.getenv("DBT_CLOUD_ENVIRONMENT_ID"),
)

@dbt_cloud_assets(workspace=workspace)
def dbt_project(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace):
    Path(os.environ["PID_FILE"]).write_text(str(os.getpid()))
    yield from getattr(dbt_cloud.cli(["build"], context=context), os.environ["METHOD"])()

executor = getattr(dg, os.environ["EXECUTOR"])
defs = dg.Definitions(
    assets=[dbt_project], resources={"dbt_cloud": workspace}, executor=executor,
    jobs=[dg.define_asset_job("one", dg.AssetSelection.assets("slow"))],
)

def job():
    return defs.resolve_job_def("one")
"""

EXECUTE = """
import sys
import dagster as dg
import project
with dg.DagsterInstance.local_temp(sys.argv[1]) as instance:
    result = dg.execute_job(dg.reconstructable(project.job), instance=instance)
    for event in result.all_events:
        print(event.event_type_value, event.message)
"""


@contextmanager
def executing(
    stage: Stage, folder: Path, executor: str, method: str = "wait"
) -> Iterator[subprocess.Popen[bytes]]:
    """Execute a job of `PROJECT` in a process of its own, as a run worker does."""
    (folder / "project.py").write_text(PROJECT)
    (folder / "storage").mkdir()
    environment = {
        **os.environ,
        **stage.sandbox.env,
        "EXECUTOR": executor,
        "METHOD": method,
        "PID_FILE": str(folder / "pid"),
        "PYTHONPATH": os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", ""))),
        "DAGSTER_DBTCLOUD_CACHE_DIR": str(stage.cache_dir),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", EXECUTE, str(folder / "storage")],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("executor", ["in_process_executor", "multiprocess_executor"])
def test_a_terminated_step_cancels_its_run(built: Stage, tmp_path: Path, executor: str) -> None:
    """SIGTERM to the process that runs the step, as a platform ends it."""
    built.play(hold=True)
    with executing(built, tmp_path, executor) as process:
        until(
            lambda: (
                any(run["status"] == 3 for run in triggered(built)) or process.poll() is not None
            )
        )
        (run,) = triggered(built)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
        assert built.sandbox.wait(run["id"], 10)["is_cancelled"]
        output, _ = process.communicate(timeout=60)
    assert b"DagsterExecutionInterruptedError" in output or process.returncode != 0


def test_a_step_that_is_terminated_while_it_stores_an_event_cancels_its_run(
    built: Stage, tmp_path: Path
) -> None:
    """It streams of a node that it has not selected, which it records itself, and is held there
    by the lock of another process on the database; the signal is that of Dagster's own termination.
    """
    built.play(hold=True)
    stored = "select count(*) from event_logs where dagster_event_type = 'ASSET_MATERIALIZATION'"
    with executing(built, tmp_path, "in_process_executor", "stream") as process:

        def dbt_runs() -> bool:
            steps = [step for run in triggered(built) for step in run["run_steps"]]
            return any("dbt build" in s["name"] and s["status"] == 3 for s in steps) or ended()

        def ended() -> bool:
            return process.poll() is not None

        until(dbt_runs)
        (run,) = triggered(built)
        # SQLite has an event in the file of its Dagster run first, then in the one of all runs.
        (common,) = tmp_path.rglob("index.db")
        (own,) = (path for path in common.parent.glob("*.db") if path != common)
        with (
            closing(sqlite3.connect(common, isolation_level=None)) as lock,
            closing(sqlite3.connect(own)) as look,
        ):
            lock.execute("begin exclusive")
            built.sandbox.write_log(run["id"], None, ORDERS_ENDED)
            until(lambda: look.execute(stored).fetchone() == (1,) or ended())
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGINT)
        assert built.sandbox.wait(run["id"], 10)["is_cancelled"]
        output, _ = process.communicate(timeout=60)
    assert b"DagsterExecutionInterruptedError" in output or process.returncode != 0


# --- with and without context --------------------------------------------------------------------


def test_without_context_the_events_are_those_of_the_log(built: Stage) -> None:
    """A script may report them itself, with ``instance.report_runless_asset_event``."""
    built.play((SLOW, "success"), (ORDERS, "skipped"), (CHECK, "pass"))
    events = list(built.workspace().cli(["build"]).wait())
    assert [type(event) for event in events] == [
        dg.AssetMaterialization,
        dg.AssetObservation,
        dg.AssetCheckEvaluation,
    ]


def test_without_context_a_failure_is_a_run_error(built: Stage) -> None:
    """After everything that was built; it knows the run, its page and the nodes."""
    built.play((SLOW, "success"), (ORDERS, "error"), status=20)
    invocation = built.workspace().cli(["build"])
    events: list[object] = []
    with pytest.raises(RunFailed, match="dbt says error") as raised:
        events.extend(invocation.wait())
    assert len(events) == 2
    assert raised.value.failed_nodes == (ORDERS,)
    assert raised.value.run_id == invocation.run_id
    assert raised.value.run_url == invocation.run_url


def test_whether_it_was_successful_takes_nothing_away(built: Stage) -> None:
    """It answers without raising, and the events are still there."""
    invocation = built.workspace().cli(["build"])
    assert invocation.is_successful()
    assert len(list(invocation.wait())) == 1
    built.play((ORDERS, "error"), status=20)
    failed = built.workspace().cli(["build"])
    assert not failed.is_successful()
    with pytest.raises(RunFailed):
        list(failed.wait())


def test_who_waits_again_gets_the_rest(built: Stage) -> None:
    """Each node once, though an error of the user's code came between."""
    built.play((SLOW, "success"), (ORDERS, "success"), (CHECK, "fail"), status=20)
    invocation = built.workspace().cli(["build"])
    first = next(iter(invocation.wait()))
    assert isinstance(first, dg.AssetMaterialization)
    rest: list[object] = []
    for _ in range(2):
        with pytest.raises(RunFailed):
            rest.extend(invocation.wait())
    assert [type(event) for event in rest] == [dg.AssetMaterialization, dg.AssetCheckEvaluation]


def test_a_function_called_directly_starts_nothing(built: Stage) -> None:
    """A unit test with ``build_asset_context`` has no step whose selection could be run."""
    workspace = built.workspace()

    @dbt_cloud_assets(workspace=workspace, select="slow")
    def project(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        yield from dbt_cloud.cli(["build"], context=context).wait()

    with dg.build_asset_context() as context, pytest.raises(ConfigError, match="materialize"):
        list(cast("Iterator[Any]", project(context, dbt_cloud=workspace)))
    assert triggered(built) == []


def test_artifacts_of_the_run_can_be_had(built: Stage) -> None:
    """Of the last step unless one is named."""
    invocation = built.workspace().cli(["build"])
    assert invocation.is_successful()
    assert b'"which": "build"' in invocation.get_artifact("run_results.json")
    assert invocation.get_artifact("manifest.json", step=4) == built.manifest


def test_in_an_op_what_dbt_built_goes_to_the_event_log(built: Stage) -> None:
    """The op yields nothing of it, since it declares no assets."""
    workspace = built.workspace()

    @dg.op(required_resource_keys={"dbt_cloud"})
    def build(context: dg.OpExecutionContext) -> None:
        assert list(context.resources.dbt_cloud.cli(["build"], context=context).wait()) == []

    @dg.job(resource_defs={"dbt_cloud": workspace})
    def nightly() -> None:
        build()

    with dg.DagsterInstance.ephemeral() as instance:
        result = nightly.execute_in_process(instance=instance)
        assert result.success
        event = instance.get_latest_materialization_event(dg.AssetKey("slow"))
    assert event is not None


def test_in_a_plain_asset_a_macro_can_run(built: Stage) -> None:
    """The asset is Python's; dbt only does something for it."""
    workspace = built.workspace()

    @dg.asset
    def permissions(
        context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace
    ) -> dg.MaterializeResult[None]:
        invocation = dbt_cloud.cli(["run-operation", "grant_all"], context=context)
        assert list(invocation.wait()) == []
        return dg.MaterializeResult(metadata={"run": invocation.run_id})

    result = dg.materialize([permissions], resources={"dbt_cloud": workspace})
    assert result.success
    (run,) = triggered(built)
    assert run["trigger"]["steps_override"] == ["dbt run-operation grant_all"]


def test_two_calls_in_a_step_are_two_runs(built: Stage) -> None:
    """Each with a mark of its own, so that neither is taken for the other."""
    workspace = built.workspace()

    @dbt_cloud_assets(workspace=workspace, select="slow")
    def project(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        first = dbt_cloud.cli(["run-operation", "prepare"], context=context)
        assert first.is_successful()
        yield from dbt_cloud.cli(["build"], context=context).wait()

    assert dg.materialize([project], resources={"dbt_cloud": workspace}).success
    first, second = triggered(built)
    assert first["trigger"]["cause"] != second["trigger"]["cause"]
    assert dagster_run_of(first["trigger"]["cause"]) == dagster_run_of(second["trigger"]["cause"])


@pytest.mark.parametrize("days", [(), ("2026-01-06", "2026-01-07")])
def test_two_calls_may_build_the_same(
    built: Stage, instance: dg.DagsterInstance, days: tuple[str, ...]
) -> None:
    """A step downstream is served by the first; Dagster takes one output of each name."""
    workspace = built.workspace()
    partitions_def = dg.DailyPartitionsDefinition("2026-01-01") if days else None

    @dbt_cloud_assets(workspace=workspace, select="slow", partitions_def=partitions_def)
    def project(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        yield from dbt_cloud.cli(["run"], context=context).wait()
        yield from dbt_cloud.cli(["build"], context=context).stream()

    @dg.asset(deps=["slow"])
    def report() -> None: ...

    ends = zip(("start", "end"), days, strict=False)
    tags = {f"dagster/asset_partition_range_{end}": day for end, day in ends}
    assert dg.materialize(
        [project] if days else [project, report],
        resources={"dbt_cloud": workspace},
        instance=instance,
        tags=tags,
    ).success
    records = instance.fetch_materializations(dg.AssetKey("slow"), limit=10).records
    found = sorted(str(record.partition_key) for record in records)
    assert found == sorted(2 * (days or ("None",)))
    assert days or instance.fetch_materializations(dg.AssetKey("report"), limit=10).records


def test_mapped_steps_have_marks_of_their_own(built: Stage) -> None:
    """Steps of a dynamic graph share their name, and may run at the same time."""
    workspace = built.workspace()

    @dg.op(out=dg.DynamicOut(str))
    def words() -> Iterator[dg.DynamicOutput[str]]:
        yield dg.DynamicOutput("a", "a")
        yield dg.DynamicOutput("b", "b")

    @dg.op(required_resource_keys={"dbt_cloud"})
    def build(context: dg.OpExecutionContext, word: str) -> None:
        list(context.resources.dbt_cloud.cli(["build", "-s", word], context=context).wait())

    @dg.job(resource_defs={"dbt_cloud": workspace})
    def mapped() -> None:
        words().map(build)

    assert mapped.execute_in_process().success
    causes = [run["trigger"]["cause"] for run in triggered(built)]
    assert len(set(causes)) == 2


def test_a_retried_step_starts_a_run_of_its_own(built: Stage) -> None:
    """The second attempt does not adopt the failed run of the first."""
    workspace = built.workspace()
    built.play((SLOW, "error"), status=20)

    @dbt_cloud_assets(workspace=workspace, select="slow", retry_policy=dg.RetryPolicy(1))
    def project(context: dg.AssetExecutionContext, dbt_cloud: DbtCloudWorkspace) -> Iterator[Any]:
        if context.op_execution_context.retry_number:
            built.play((SLOW, "success"))
        yield from dbt_cloud.cli(["build"], context=context).wait()

    assert dg.materialize([project], resources={"dbt_cloud": workspace}).success
    first, second = triggered(built)
    assert first["trigger"]["cause"] != second["trigger"]["cause"]


def test_an_invocation_shows_what_it_is(built: Stage) -> None:
    """For a person in a debugger."""
    invocation = built.workspace().cli(["dbt", "build"])
    assert isinstance(invocation, DbtCloudCliInvocation)
    assert repr(invocation) == (
        f"DbtCloudCliInvocation(run_id={invocation.run_id}, args=['build'])"
    )
    assert invocation.is_successful()
