"""Node events from step logs: real logs of dbt 1.11, whole, cut and sliding; and dbt v2's lines."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_dbtcloud.dbt.logs import NodeEvent, StepLog
from dagster_dbtcloud.dbt.manifest import Manifest
from dagster_dbtcloud.dbt.tail import LogTail
from dagster_dbtcloud_tests.dbt.builders import manifest_of, node

SAMPLES = Path(__file__).parent / "log_samples"
NAMES = sorted(path.stem for path in SAMPLES.glob("*.log"))

Facts = set[tuple[str | None, str | None]]


def log_of(sample: str) -> str:
    return (SAMPLES / f"{sample}.log").read_text(encoding="utf-8")


def results_of(sample: str) -> dict[str, dict[str, Any]]:
    """What dbt's own artifact said after the run, hooks left out."""
    found = json.loads((SAMPLES / f"{sample}.json").read_text(encoding="utf-8"))
    return {i: result for i, result in found.items() if not i.startswith("operation.")}


def ends(events: list[NodeEvent]) -> Facts:
    return {(event.unique_id, event.status) for event in events if event.finished}


def truth(sample: str) -> Facts:
    return {(unique_id, result["status"]) for unique_id, result in results_of(sample).items()}


@pytest.mark.parametrize("sample", NAMES)
def test_a_log_of_dbt_says_what_the_artifact_says(zoo: Manifest, sample: str) -> None:
    """Every node is found, with dbt's status and count of failed rows; it starts before it ends."""
    events = StepLog(zoo).feed(log_of(sample).split("\n"))
    results = results_of(sample)
    finished = [event for event in events if event.finished]
    assert {e.unique_id: e.status for e in finished} == {i: r["status"] for i, r in results.items()}
    assert len(finished) == len(results)
    for event in finished:
        if event.status in ("fail", "warn") and not str(event.unique_id).startswith("source."):
            assert event.failures == results[str(event.unique_id)]["failures"]
    order = [(event.unique_id, event.finished) for event in events]
    started = [unique_id for unique_id, finished in order if not finished]
    assert all(order.index((i, False)) < order.index((i, True)) for i in started)


def test_a_log_tells_counts_and_times(zoo: Manifest) -> None:
    """The place of a node in the step, dbt's total, and seconds."""
    log = StepLog(zoo)
    events = log.feed(log_of("build_with_colours").split("\n"))
    assert log.total == log.finished == len(results_of("build_with_colours"))
    seed = next(e for e in events if e.unique_id == "seed.zoo.raw_orders" and e.finished)
    assert (seed.description, seed.status, seed.total) == (
        *("seed file main.raw_orders", "success", log.total),
    )
    assert seed.seconds is not None


@pytest.mark.parametrize("sample", NAMES)
def test_no_cut_of_a_line_gives_a_wrong_event(zoo: Manifest, sample: str) -> None:
    """Every line, cut at every byte from either end, says the truth or nothing."""
    right = truth(sample)
    for line in log_of(sample).split("\n"):
        for at in range(len(line) + 1):
            assert ends(StepLog(zoo).feed([line[:at], line[at:]])) <= right


@pytest.mark.parametrize("sample", NAMES)
@pytest.mark.parametrize("window", [400, 3_000, 1_000_000])
def test_a_sliding_window_reports_nothing_twice_and_nothing_wrong(
    zoo: Manifest, sample: str, window: int
) -> None:
    """Read while it grows, only its tail, with a notice on top, and whole at the end."""
    whole = log_of(sample)
    steps = random.Random(window)  # noqa: S311 - cases, not secrets
    tail, log = LogTail(), StepLog(zoo)
    events: list[NodeEvent] = []
    end = 0
    while end < len(whole):
        end += steps.randint(1, 900)
        seen = whole[max(0, end - window) : end]
        events += log.feed(tail.feed(seen if end <= window else f"(log was cut)\n{seen}"))
        assert ends(events) <= truth(sample)
    events += log.feed(whole.split("\n"))  # the whole text comes when the step is complete
    finished = [event for event in events if event.finished]
    assert ends(finished) == truth(sample)
    assert len(finished) == len(truth(sample))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), sample=st.sampled_from(NAMES), window=st.integers(1, 12_000))
def test_windows_of_every_size_give_no_wrong_event(
    zoo: Manifest, data: st.DataObject, sample: str, window: int
) -> None:
    """Cut at any byte, slid by any step, shown whole again or not at all for a while."""
    whole = log_of(sample)
    ends_at = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=30)))
    shown = [data.draw(st.sampled_from(["tail", "tail", "whole", "nothing"])) for _ in ends_at]
    tail, log = LogTail(), StepLog(zoo)
    events: list[NodeEvent] = []
    for end, form in zip(ends_at, shown, strict=True):
        start = 0 if form == "whole" else max(0, end - window)
        text = whole[start:end] if form != "nothing" else "(the log is too large to be shown)\n"
        events += log.feed(tail.feed(text))
    finished = [event for event in events if event.finished]
    named = [event.unique_id for event in finished if event.unique_id is not None]
    assert ends(finished) <= truth(sample)
    assert len(named) == len(set(named))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_text_raises_or_invents_a_node(zoo: Manifest, data: st.DataObject) -> None:
    """Pieces of real logs shuffled, cut and mixed with anything name no node that is not there."""
    lines = data.draw(st.lists(st.sampled_from(LINES) | st.text(max_size=80), max_size=8))
    text = "".join(data.draw(st.lists(st.sampled_from(lines), max_size=8)) if lines else [])
    start = data.draw(st.integers(0, len(text)))
    cut = text[start : start + data.draw(st.integers(0, 400))]
    junk = data.draw(st.text("\x1b[0m.] \n0123456789OKof", max_size=20))
    for event in StepLog(zoo).feed([*lines, *(cut + junk).split("\n"), junk + cut]):
        if event.unique_id is not None:
            named = zoo.nodes[event.unique_id]
            said = event.description
            assert named.name in said or (named.alias or named.name) in said


LINES = [line for sample in NAMES for line in log_of(sample).split("\n")]


def twice(database: str, package: str) -> list[dict[str, Any]]:
    """A model and a test of the same names, in another database and package."""
    place: dict[str, Any] = {"database": database, "schema": "main", "alias": "orders"}
    return [
        node(f"model.{package}.orders", **place),
        node(f"test.{package}.unique_orders_id.1", name="unique_orders_id"),
    ]


def line(index: int, message: str, status: str) -> str:
    return f"10:21:02  {index} of 9 {message} ......... [{status}]"


def ids(manifest: Manifest, *lines: str, **options: bool) -> list[str | None]:
    return [event.unique_id for event in StepLog(manifest, **options).feed(lines)]


def test_a_name_of_two_nodes_is_no_name() -> None:
    """What is ambiguous between databases or packages waits for the artifact."""
    both = manifest_of(*twice("east", "a"), *twice("west", "b"))
    lines = (
        line(1, "OK created sql view model main.orders", "OK in 0.10s"),
        line(2, "OK created sql view model west.main.orders", "OK in 0.10s"),
        line(3, "PASS unique_orders_id", "PASS in 0.10s"),
    )
    assert ids(both, *lines) == [None, "model.b.orders", None]


def test_another_schema_is_another_node_unless_schemas_are_overridden() -> None:
    """An alias alone will do only where the caller knows of an override, and it is unique."""
    place: dict[str, Any] = {"database": "db", "schema": "main"}
    shop = manifest_of(
        node("model.a.orders", **place, alias="orders"),
        node("model.a.x", **place, alias="same"),
        node("model.b.x", **place | {"schema": "other"}, alias="same"),
    )
    lines = (
        line(1, "OK created sql table model ci_7.orders", "OK in 0.10s"),
        line(2, "OK created sql table model ci_7.same", "OK in 0.10s"),
    )
    assert ids(shop, *lines) == [None, None]
    assert ids(shop, *lines, schema_override=True) == ["model.a.orders", None]


def test_skipped_nodes_are_called_by_their_name() -> None:
    """dbt writes the name of a skipped relation where it writes the alias of others."""
    shop = manifest_of(
        node("model.a.orders", schema="main", alias="orders_v2"),
        node("model.a.other", schema="main", alias="orders"),
    )
    skipped = line(1, "SKIP relation main.orders", "SKIP")
    assert ids(shop, skipped) == ["model.a.orders"]
    ephemeral = "SKIP relation main.orders due to ephemeral model status 'error'"
    (event,) = StepLog(shop).feed([line(1, ephemeral, "ERROR SKIP")])
    assert (event.unique_id, event.status) == ("model.a.orders", "skipped")


def test_two_texts_for_one_place_are_not_believed() -> None:
    """A line that a macro printed cannot pass for dbt's own, where dbt's own tells otherwise."""
    shop = manifest_of(*(node(f"model.a.{n}", schema="main", alias=n) for n in ("x", "y")))
    started = line(1, "START sql view model main.x", "RUN")
    other = line(1, "OK created sql view model main.y", "OK in 0.10s")
    total = "10:21:02  2 of 5 OK created sql view model main.y ..... [OK in 0.10s]"
    assert ids(shop, started, other) == ["model.a.x", None]
    assert ids(shop, started, total) == ["model.a.x"]


@pytest.mark.parametrize(
    "text",
    [
        "10:21:02  10 of 9 OK created sql view model main.x .... [OK in 0.10s]",
        "10:21:02  0 of 9 OK created sql view model main.x .... [OK in 0.10s]",
        "10:21:02  1 of 9 OK created sql view model main.x .... [OK]",
        "10:21:02  1 of 9 OK created sql view model main.x ....",
        "10:21:02  1 of 9 START sql view model main.x .... [OK in 0.10s]",
        "10:21:02  1 of 9 START hook: main.x .... [RUN]",
        "10:21:02  1 of 9 OK hook: main.x .... [OK in 0.10s]",
        "10:21:02  Batch 1 of 9 OK created batch 2024-01-01 of main.x .... [OK in 0.10s]",
        "10:21:02  CANCEL query model.a.x .... [CANCEL]",
        "1 of 9 OK created sql view model main.x .... [OK in 0.10s]",
        "10:21:02  1 of 9 PASS main x .... [PASS in 0.10s]",
        "10:21:02  1 of 9 FAIL x .... [FAIL in 0.10s]",
        "10:21:02  " + "9" * 5000 + " of 9 OK created sql view model main.x .... [OK in 0.10s]",
        "10:21:02  1 of 9 OK created sql view model " + "x" * 5000 + " [OK in 0.10s]",
        "10:21:02  1 of 9 OK created sql view model main.x" + " ." * 1500,
        "Done. PASS=1 WARN=0 ERROR=0 SKIP=0 NO-OP=0 TOTAL=1",
        "Succeeded [  0.10s] model",
        "Succeeded model main.x (view)",
        "Cancelled [  0.10s] model main.x (view)",
        "Succeeded [  0.10s] thing main.x (view)",
    ],
)
def test_what_is_no_line_of_a_node_gives_nothing(text: str) -> None:
    """Hooks, batches, cut lines and other texts are no events."""
    shop = manifest_of(node("model.a.x", schema="main", alias="x"), node("test.a.x"))
    assert StepLog(shop).feed([text]) == []


def test_debug_lines_are_read_too() -> None:
    """With level and thread before the message, as debug logs have them."""
    shop = manifest_of(node("model.a.x", schema="main", alias="x"))
    text = (
        "\x1b[0m10:21:02.123456 [info ] [Thread-1 (]: 1 of 9 OK created sql view model main.x "
        "............ [\x1b[32mCREATE VIEW\x1b[0m in 0.10s]\r"
    )
    (event,) = StepLog(shop).feed([text])
    assert (event.unique_id, event.status, event.seconds) == ("model.a.x", "success", 0.1)


@pytest.mark.parametrize(
    ("message", "status", "expected"),
    [
        ("OK created sql incremental model main.x", "MERGE (10.0 rows) in 3.20s", "success"),
        ("OK created sql table model db.main.x", "SUCCESS 1 in 0.10s", "success"),
        ("PARTIALLY created sql microbatch model main.x", "PARTIAL SUCCESS (2/3) in 9.00s",
         "partial success"),
        ("ERROR creating python table model main.x", "ERROR in 0.10s", "error"),
        ("OK created sql materialized_view model main.x", "CREATE in 0.10s", "success"),
    ],
)  # fmt: skip
def test_adapters_words_do_not_matter(message: str, status: str, expected: str) -> None:
    """What the bracket says is the adapter's; the verb is dbt's."""
    shop = manifest_of(node("model.a.x", schema="main", alias="x", database="db"))
    (event,) = StepLog(shop).feed([line(1, message, status)])
    assert (event.unique_id, event.status) == ("model.a.x", expected)


V2 = manifest_of(
    node("model.a.orders", schema="main", alias="orders"),
    node("seed.a.codes", schema="main", alias="codes"),
    node("snapshot.a.history", schema="snap", alias="history"),
    node("test.a.unique_orders_id.1", name="unique_orders_id"),
    node("test.a.kept.2", schema="audit", alias="kept", config={"store_failures": True}),
)


@pytest.mark.parametrize(
    ("text", "unique_id", "status", "seconds"),
    [
        ("  Started model main.orders", "model.a.orders", None, None),
        ("Succeeded [  1.23s] model main.orders (table)", "model.a.orders", "success", 1.23),
        (
            "Succeeded [  1.23s] model main.orders (view - New changes detected)",
            *("model.a.orders", "success", 1.23),
        ),
        ("   Failed [  0.10s] model main.orders (table)", "model.a.orders", "error", 0.1),
        ("   Warned [  0.10s] model main.orders (table)", "model.a.orders", "warn", 0.1),
        ("  Skipped [-------] model main.orders (table)", "model.a.orders", "skipped", None),
        (
            "   Reused [-------] model main.orders (table - No new changes on any upstreams)",
            *("model.a.orders", "reused", None),
        ),
        ("Succeeded [   >24h] seed  main.codes (seed)", "seed.a.codes", "success", None),
        ("Succeeded [  0.01s] snapshot snap.history", "snapshot.a.history", "success", 0.01),
        ("   Passed [  0.02s] test  unique_orders_id", "test.a.unique_orders_id.1", "pass", 0.02),
        (
            "   Failed [  0.02s] test  unique_orders_id (models/x.yml)",
            *("test.a.unique_orders_id.1", None, 0.02),
        ),
        ("   Passed [  0.02s] test  audit.kept (test)", "test.a.kept.2", "pass", 0.02),
        ("Succeeded [  1.23s] model ma....orders (table)", None, "success", 1.23),
        ("Succeeded [  1.23s] model other.orders (table)", None, "success", 1.23),
        (
            "10:21:02 \x1b[32mSucceeded\x1b[0m [  1.23s] model main.orders (table)",
            *("model.a.orders", "success", 1.23),
        ),
    ],
)  # fmt: skip
def test_lines_of_dbt_v2_are_read(
    text: str, unique_id: str | None, status: str | None, seconds: float | None
) -> None:
    """The other engine's lines, as its source formats them; there is none here to run."""
    (event,) = StepLog(V2).feed([text])
    assert (event.unique_id, event.status, event.seconds) == (unique_id, status, seconds)
    assert event.finished is ("Started" not in text)
