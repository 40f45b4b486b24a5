"""Reading run_results.json and sources.json: one bad entry never loses the others."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagster_dbtcloud.dbt.artifact import parse_time
from dagster_dbtcloud.dbt.run_results import Batch, NodeResult, RunResults
from dagster_dbtcloud.dbt.sources import FreshnessResults
from dagster_dbtcloud.errors import RunResultsError

SECOND = datetime(2026, 1, 5, 10, 21, 2, tzinfo=timezone.utc)
GOOD: dict[str, Any] = {
    "unique_id": "model.shop.orders",
    "status": "success",
    "timing": [
        {
            "name": "compile",
            "started_at": "2026-01-05T10:21:02Z",
            "completed_at": "2026-01-05T10:21:03.1Z",
        },
        {
            "name": "execute",
            "started_at": "2026-01-05T10:21:03.1Z",
            "completed_at": "2026-01-05T10:21:04.5Z",
        },
    ],
    "execution_time": 2.5,
    "adapter_response": {"_message": "SUCCESS 1", "rows_affected": 12, "query_id": "01b2"},
    "message": "SUCCESS 1",
    "failures": None,
    "relation_name": '"db"."main"."orders"',
}


def metadata(kind: str, version: int) -> dict[str, Any]:
    return {
        "dbt_schema_version": f"https://schemas.getdbt.com/dbt/{kind}/v{version}.json",
        "dbt_version": "1.11.16",
        "generated_at": "2026-01-05T10:30:00.5Z",
        "invocation_id": "5a3c",
        "env": {"DBT_CLOUD_RUN_ID": "900123"},
    }


def file(*results: Any, version: int = 6, **more: Any) -> bytes:
    body = {
        "metadata": metadata("run-results", version),
        "results": results,
        "elapsed_time": 3.25,
        "args": {"which": "build", "select": ["orders"]},
        **more,
    }
    return json.dumps(body).encode()


def read(*results: Any, **more: Any) -> RunResults:
    return RunResults.from_bytes(file(*results, **more), origin="run 7, run_results.json")


def only(**changes: Any) -> NodeResult:
    (result,) = read(GOOD | changes).results
    return result


def test_a_result_is_typed() -> None:
    """Times are aware UTC and span all timing entries; durations are seconds."""
    result = only()
    assert (result.unique_id, result.status, result.message) == (
        *("model.shop.orders", "success", "SUCCESS 1"),
    )
    assert result.started_at == SECOND
    assert result.completed_at == SECOND.replace(second=4, microsecond=500_000)
    assert (result.execution_time, result.rows_affected, result.query_id) == (2.5, 12, "01b2")
    assert (result.failures, result.relation_name) == (None, '"db"."main"."orders"')


def test_the_file_says_which_command_wrote_it() -> None:
    """The metadata and the arguments are kept."""
    results = read(GOOD)
    assert (results.command, results.args["select"], results.elapsed_time) == (
        *("build", ["orders"], 3.25),
    )
    assert (results.invocation_id, results.dbt_version) == ("5a3c", "1.11.16")
    assert results.env == {"DBT_CLOUD_RUN_ID": "900123"}
    assert results.generated_at == datetime(2026, 1, 5, 10, 30, 0, 500_000, timezone.utc)
    assert results.malformed == ()


@pytest.mark.parametrize(
    ("args", "builds"),
    [
        *(({"which": w}, True) for w in ("build", "run", "seed", "snapshot", "retry", "clone")),
        *(({"which": w}, False) for w in ("test", "compile", "generate", "docs", "ls", "show")),
        ({"command": "build"}, True),
        ({"which": None, "command": "run"}, True),
        ({}, False),
        (None, False),
    ],
)
def test_only_building_commands_build(args: Any, builds: bool) -> None:
    """``test`` only checks, ``compile`` and ``docs`` build nothing; Fusion says ``command``."""
    assert read(GOOD, args=args).builds is builds


@pytest.mark.parametrize(
    "status",
    [
        *("success", "error", "skipped", "partial success", "no-op", "reused"),
        *("pass", "fail", "warn", "runtime error", "SUCCESS", "Pass"),
    ],
)
def test_every_known_status_is_kept_in_lower_case(status: str) -> None:
    """dbt's words are neither translated nor complained about."""
    results = read(GOOD | {"status": status})
    assert [r.status for r in results.results] == [status.lower()]
    assert results.malformed == ()


def test_an_unknown_status_is_kept_and_said() -> None:
    """A word of a later dbt loses nothing, and is named."""
    results = read(GOOD | {"status": "postponed"}, GOOD)
    assert [r.status for r in results.results] == ["postponed", "success"]
    (complaint,) = results.malformed
    assert complaint.startswith("run 7, run_results.json: results[0] (model.shop.orders)")
    assert "'postponed'" in complaint


@pytest.mark.parametrize(
    "bad",
    [
        *(None, 3, "text", [], {}),
        {"status": "success"},
        GOOD | {"unique_id": None},
        GOOD | {"unique_id": 7},
        GOOD | {"unique_id": ""},
        GOOD | {"status": None},
        GOOD | {"status": ["success"]},
    ],
)
def test_a_bad_entry_loses_only_itself(bad: Any) -> None:
    """The others are kept, and a sentence tells of it."""
    results = read(GOOD, bad, GOOD | {"unique_id": "model.shop.last"})
    assert [r.unique_id for r in results.results] == ["model.shop.orders", "model.shop.last"]
    assert len(results.malformed) == 1
    assert "results[1]" in results.malformed[0]


@pytest.mark.parametrize(
    "timing", [[], None, {}, [None], [{}], [{"started_at": None, "completed_at": "soon"}]]
)
def test_a_result_without_times_is_kept(timing: Any) -> None:
    """Skipped and reused nodes have no times; strange ones are none."""
    result = only(timing=timing, status="skipped")
    assert (result.started_at, result.completed_at) == (None, None)


def test_a_node_that_did_not_execute_has_the_time_of_its_compilation() -> None:
    """An error while compiling leaves one timing entry."""
    result = only(timing=GOOD["timing"][:1])
    assert result.completed_at == SECOND.replace(second=3, microsecond=100_000)


@pytest.mark.parametrize(
    ("response", "rows", "query"),
    [
        ({}, None, None),
        (None, None, None),
        ({"rows_affected": -1}, None, None),
        ({"rows_affected": 0}, 0, None),
        ({"rows_affected": "12"}, None, None),
        ({"rows_affected": True}, None, None),
        ({"job_id": "bq-1"}, None, "bq-1"),
        ({"query_id": 5}, None, None),
        ([], None, None),
    ],
)
def test_adapters_tell_rows_and_query_in_their_own_way(
    response: Any, rows: int | None, query: str | None
) -> None:
    """What is not told, or told as unknown, is None."""
    result = only(adapter_response=response)
    assert (result.rows_affected, result.query_id) == (rows, query)


def test_keys_that_fusion_leaves_out_have_defaults() -> None:
    """Only the id and the status are needed."""
    (result,) = read({"unique_id": "model.shop.x", "status": "reused"}).results
    assert result == NodeResult("model.shop.x", "reused", adapter_response={})


def test_values_of_a_wrong_type_are_not_believed() -> None:
    """A message becomes text, numbers that are none are left out."""
    result = only(message=12, failures="3", execution_time="long", relation_name=5)
    assert (result.message, result.failures, result.execution_time) == ("12", None, 0.0)
    assert result.relation_name is None


def test_microbatches_are_kept() -> None:
    """The failed ones first; what is no span of time says nothing."""
    days = [datetime(2026, 1, day, tzinfo=timezone.utc) for day in (1, 2, 3)]
    texts = [day.isoformat() for day in days]
    found = {
        "successful": [texts[:2], texts[:1], "strange", None, ["x", "y"]],
        "failed": [texts[1:]],
        "later": [texts[1:]],
    }
    result = only(status="partial success", batch_results=found)
    assert result.batches == (Batch(days[1], days[2], False), Batch(days[0], days[1], True))
    assert only(status="success", batch_results={"failed": 3}).batches == ()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "empty"),
        (b"<html>502</html>", "HTML"),
        (file(GOOD)[:-30], "cut off"),
        (b"[1]", "holds a list"),
        (b"{}", "no metadata block"),
        (file(metadata=metadata("manifest", 12)), "this is a manifest, not a run-results"),
        (file(version=3), "schema v3"),
        (file(version=7), "v4 to v6 are"),
        (file(results=None), "no results"),
        (file(results={}), "results is an object, not a list"),
    ],
)
def test_a_file_that_is_none_is_refused(data: bytes, complaint: str) -> None:
    """Only a file that cannot be used as a whole is an error, which names it."""
    with pytest.raises(RunResultsError) as refused:
        RunResults.from_bytes(data, origin="run 7, step 4")
    assert str(refused.value).startswith("run 7, step 4: ")
    assert complaint in str(refused.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(GOOD)), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(GOOD)), JSON))
def test_no_entry_can_hide_its_neighbour(strange: dict[str, Any]) -> None:
    """Whatever one entry holds, the next is read."""
    results = read(GOOD | strange, GOOD)
    assert results.results[-1] == only()
    assert len(results.results) + len(results.malformed) >= 2


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-05T10:21:02Z", SECOND),
        ("2026-01-05T10:21:02", SECOND),
        ("2026-01-05 10:21:02", SECOND),
        ("2026-01-05T12:21:02+02:00", SECOND),
        ("2026-01-05T04:51:02-0530", SECOND),
        ("2026-01-05T10:21:02.5Z", SECOND.replace(microsecond=500_000)),
        ("2026-01-05T10:21:02.123456789Z", SECOND.replace(microsecond=123_456)),
        ("2026-01-05 10:21:02.000000+00:00", SECOND),
        ("2026-13-05T10:21:02Z", None),
        ("9999-12-31T23:59:59-23:59", None),
        ("0001-01-01T00:00:00+05:00", None),
        ("yesterday", None),
        ("", None),
        (None, None),
        (1767608462, None),
    ],
)
def test_timestamps_of_both_engines_are_read(text: object, moment: datetime | None) -> None:
    """All forms give aware UTC; anything else gives None."""
    assert parse_time(text) == moment


def test_source_freshness_is_read() -> None:
    """Both forms of a result are kept; one that says nothing is named."""
    results = [
        {
            "unique_id": "source.shop.raw.orders",
            "status": "warn",
            "max_loaded_at": "2026-01-05T10:21:02Z",
            "snapshotted_at": "2026-01-05T22:21:02Z",
            "max_loaded_at_time_ago_in_s": 43200.0,
            "criteria": {"warn_after": {"count": 12, "period": "hour"}},
        },
        {"unique_id": "source.shop.raw.gone", "status": "runtime error", "error": "no table"},
        {"status": "pass"},
        "text",
    ]
    body = {"metadata": metadata("sources", 3), "results": results, "elapsed_time": 1.0}
    read = FreshnessResults.from_bytes(json.dumps(body).encode(), origin="run 7, sources.json")
    stale, gone = read.results
    assert (stale.status, stale.age, stale.max_loaded_at) == ("warn", 43200.0, SECOND)
    assert stale.criteria == {"warn_after": {"count": 12, "period": "hour"}}
    assert (gone.status, gone.error, gone.max_loaded_at) == ("runtime error", "no table", None)
    assert [complaint.partition(" lacks")[0] for complaint in read.malformed] == [
        "run 7, sources.json: results[2]",
        "run 7, sources.json: results[3]",
    ]
    assert (read.invocation_id, read.env["DBT_CLOUD_RUN_ID"]) == ("5a3c", "900123")


@pytest.mark.parametrize("results", [None, {}])
def test_sources_without_results_are_refused(results: Any) -> None:
    """A sources.json that is not whole is an error."""
    body = {"metadata": metadata("sources", 3), "results": results}
    with pytest.raises(RunResultsError, match=r"run 7: (no results|results is an object)"):
        FreshnessResults.from_bytes(json.dumps(body).encode(), origin="run 7")
