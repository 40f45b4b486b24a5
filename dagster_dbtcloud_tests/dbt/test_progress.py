"""The progress of a step: counts, running nodes, and what is said of the time that is left."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dagster_dbtcloud.dbt.logs import NodeEvent, StepLog
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.progress import FinishedNode, Progress, about, count, timings
from dagster_dbtcloud.dbt.run_results import NodeResult, RunResults

SAMPLES = Path(__file__).parent / "log_samples"


def start(name: str, index: int | None = None, total: int | None = None) -> NodeEvent:
    return NodeEvent(f"model.shop.{name}", False, None, f"model {name}", index, total)


def end(
    name: str, status: str | None = "success", index: int | None = None, total: int | None = None
) -> NodeEvent:
    return NodeEvent(f"model.shop.{name}", True, status, f"model {name}", index, total, 2.0)


def seconds(**names: float) -> dict[str, float]:
    return {f"model.shop.{name}": value for name, value in names.items()}


def results(**names: str) -> RunResults:
    found = tuple(
        NodeResult(f"model.shop.{name}", status, execution_time=float(len(name)))
        for name, status in names.items()
    )
    return RunResults("a test", None, None, None, {}, "build", {}, found, 1.0)


@pytest.mark.parametrize("sample", sorted(path.stem for path in SAMPLES.glob("*.log")))
def test_a_real_log_is_counted_to_its_end(zoo: Manifest, sample: str) -> None:
    """Nothing runs any more, each node is counted once, and failures are those of the artifact."""
    log, progress = StepLog(zoo), Progress(began=0.0)
    done: list[FinishedNode] = []
    for at, line in enumerate((SAMPLES / f"{sample}.log").read_text().split("\n")):
        done += progress.feed(log.feed([line]), at=float(at))
    truth = json.loads((SAMPLES / f"{sample}.json").read_text())
    ran = [result["status"] for i, result in truth.items() if not i.startswith("operation.")]
    assert progress.finished == len(ran) == sum(progress.counts.values())
    assert progress.running == ()
    assert progress.total in (None, len(ran))
    assert [node.finished for node in done] == list(range(1, len(ran) + 1))
    broken = [status for status in ran if status in ("error", "fail", "runtime error")]
    assert progress.counts["failed"] == len(broken) + ran.count("partial success")
    assert progress.counts["skipped"] == ran.count("skipped")


def test_it_knows_what_runs_and_since_when() -> None:
    """A node runs from its start to its end; a start that is told twice keeps its time."""
    progress = Progress(began=0.0, timings=seconds(a=30.0))
    progress.feed([start("a", 1, 3), start("b", 2, 3)], at=4.0)
    progress.feed([start("a", 1, 3)], at=9.0)
    assert [(node.description, node.since, node.expected) for node in progress.running] == [
        ("model a", 4.0, 30.0),
        ("model b", 4.0, None),
    ]
    progress.feed([end("a", index=1, total=3)], at=10.0)
    assert [node.unique_id for node in progress.running] == ["model.shop.b"]
    assert (progress.finished, progress.total) == (1, 3)


def test_a_node_that_the_log_names_in_two_ways_ends() -> None:
    """dbt's number ties start and end together where no unique id does."""
    progress = Progress(began=0.0)
    progress.feed([NodeEvent(None, False, None, "test unique_id", 1, 1)], at=1.0)
    progress.feed([NodeEvent(None, True, "pass", "unique_id", 1, 1, 0.1)], at=2.0)
    assert progress.running == ()


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("success", "ok"),
        ("pass", "ok"),
        ("no-op", "ok"),
        ("reused", "ok"),
        ("warn", "warned"),
        ("skipped", "skipped"),
        ("error", "failed"),
        ("fail", "failed"),
        ("runtime error", "failed"),
        ("partial success", "failed"),
        (None, "failed"),  # dbt v2: a test that failed, or could not run
        ("a status of next year", "failed"),
    ],
)
def test_each_status_counts_as_one_of_four(status: str | None, state: str) -> None:
    """What nobody knows is not called a success."""
    progress = Progress(began=0.0)
    (done,) = progress.feed([end("a", status)], at=1.0)
    assert done.state == state
    assert dict(progress.counts) == {state: 1}


def test_a_finished_node_reads_as_a_line() -> None:
    """Count, state, what, how long, and what is left, if anything is."""
    known = seconds(a=60.0, b=60.0, c=600.0)
    progress = Progress(began=0.0, timings=known)
    lines = [
        str(done)
        for event, at in (
            (end("a", index=1, total=3), 60.0),
            (end("b", "skipped", 2, 3), 60.0),
            (end("c", "error", 3, 3), 600.0),
        )
        for done in progress.feed([event], at=at)
    ]
    assert lines == [
        "1 of 3  ok  model a  2.00 s  (about 11 min left)",
        "2 of 3  skipped  model b  (about 10 min left)",
        "3 of 3  failed  model c  2.00 s",
    ]


def test_the_summary_is_one_line() -> None:
    """As many running nodes as fit, and how many more."""
    progress = Progress(began=0.0, timings=seconds(a=10.0, f=10.0))
    assert progress.summary(at=0.0) == "0; about 20 s left"
    progress.feed([start(name, i, 12) for i, name in enumerate("abcdef", 1)], at=0.0)
    progress.feed([end("a", "error", 1, 12)], at=10.0)
    assert progress.summary(at=10.0) == (
        " 1 of 12: 1 failed; running: model b, model c, model d and 2 more; about 10 s left"
    )


def test_without_an_earlier_run_nothing_is_promised() -> None:
    """No estimate from nothing, and none when all has ended."""
    progress = Progress(began=0.0)
    progress.feed([end("a", index=1, total=2)], at=50.0)
    assert progress.remaining(at=50.0) is None
    over = Progress(began=0.0, timings=seconds(a=1.0))
    over.feed([end("a", index=1, total=1)], at=50.0)
    assert over.remaining(at=60.0) is None


def test_the_estimate_follows_the_pace() -> None:
    """A warehouse that is twice as slow takes twice as long for the rest; threads halve it."""
    known = {f"model.shop.n{i}": 10.0 for i in range(10)}
    slow = Progress(began=0.0, timings=known)
    slow.feed([end(f"n{i}", index=i + 1, total=10) for i in range(5)], at=100.0)
    assert slow.remaining(at=100.0) == pytest.approx(100.0)
    fast = Progress(began=0.0, timings=known)
    fast.feed([end(f"n{i}", index=i + 1, total=10) for i in range(5)], at=25.0)
    assert fast.remaining(at=25.0) == pytest.approx(25.0)


def test_the_estimate_is_not_shorter_than_the_longest_running_node() -> None:
    """Many threads do not make one node faster."""
    known = {**{f"model.shop.n{i}": 10.0 for i in range(9)}, "model.shop.long": 500.0}
    progress = Progress(began=0.0, timings=known)
    progress.feed([start("long", 1, 10)], at=0.0)
    progress.feed([end(f"n{i}", index=i + 2, total=10) for i in range(9)], at=10.0)
    assert progress.remaining(at=10.0) == pytest.approx(490.0)
    # and one that takes longer than it ever did promises nothing more
    assert progress.remaining(at=900.0) == 0.0


def test_a_part_of_last_times_nodes_is_estimated_by_their_mean() -> None:
    """dbt's total says how many, not which."""
    known = {f"model.shop.n{i}": 10.0 for i in range(100)}
    progress = Progress(began=0.0, timings=known)
    progress.feed([end("n0", index=1, total=3)], at=10.0)
    assert progress.remaining(at=10.0) == pytest.approx(20.0)


def test_expected_nodes_give_a_total_and_a_better_estimate() -> None:
    """dbt v2's log has no total; who chose the nodes knows it."""
    known = {**{f"model.shop.n{i}": 1000.0 for i in range(100)}, **seconds(a=10.0, b=30.0)}
    progress = Progress(began=0.0, timings=known, expected=["model.shop.a", "model.shop.b"])
    (done,) = progress.feed([end("a")], at=10.0)
    assert progress.total == 2
    assert done.remaining == pytest.approx(30.0)


def test_timings_are_of_nodes_that_did_run() -> None:
    """The last of several steps counts; what was skipped took no time worth knowing."""
    first = results(ab="success", abc="skipped", abcd="error", kept="reused")
    second = results(ab="success")
    assert timings([first, second]) == seconds(ab=2.0, abcd=4.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "about 1 s"),
        (20.4, "about 20 s"),
        (61.0, "about 1 min"),
        (3599.0, "about 1 h 0 min"),
        (7800.0, "about 2 h 10 min"),
    ],
)
def test_durations_are_said_as_people_say_them(value: float, text: str) -> None:
    """No false precision."""
    assert about(value) == text


def test_counts_line_up() -> None:
    """A column of them is readable."""
    assert [count(3, 412), count(412, 412), count(3, None)] == ["  3 of 412", "412 of 412", "3"]


def test_a_large_step_costs_little() -> None:
    """Each line is written from a few sums: ten thousand nodes in no time worth measuring."""
    known = {f"model.shop.n{i}": 1.0 for i in range(10_000)}
    progress = Progress(began=0.0, timings=known)
    events = [end(f"n{i}", index=i + 1, total=10_000) for i in range(10_000)]
    lines = [str(done) for done in progress.feed(events, at=100.0)]
    assert re.match(r"10000 of 10000  ok ", lines[-1])
    assert len(lines) == 10_000
