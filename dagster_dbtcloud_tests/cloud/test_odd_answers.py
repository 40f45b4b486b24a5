"""Answers that nobody thought of: whatever comes, the caller gets an object or an ApiError."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import Any

import httpx
from hypothesis import given
from hypothesis import strategies as st

from dagster_dbtcloud.clock import ManualClock
from dagster_dbtcloud.cloud import Run, RunStep, RunTrigger, TriggerRun
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud.errors import ApiError
from dagster_dbtcloud_tests.cloud.fakes import REPEATABLY, TOKEN

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)
FIELDS = sorted({*Run.model_fields, *RunStep.model_fields, *RunTrigger.model_fields})
QUIET = logging.Logger("of the odd answers", level=logging.CRITICAL)


def perhaps(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return values | VALUES


OBJECTS = st.dictionaries(st.sampled_from(FIELDS), VALUES)
RUNS = st.fixed_dictionaries(
    {"id": perhaps(st.integers(1, 9))},
    optional={
        "run_steps": perhaps(st.lists(perhaps(OBJECTS), max_size=3)),
        "trigger": perhaps(OBJECTS),
        "job": perhaps(OBJECTS),
        "status": perhaps(st.sampled_from([1, 10, "20", 99])),
    },
)
ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "status": perhaps(st.dictionaries(st.sampled_from(["is_success", "code"]), VALUES)),
        "data": perhaps(RUNS | st.lists(perhaps(RUNS), max_size=3)),
        "extra": perhaps(
            st.fixed_dictionaries({"pagination": st.fixed_dictionaries({"total_count": VALUES})})
        ),
    },
)
STATUSES = st.sampled_from([200, 200, 200, 201, 204, 301, 304, 400, 404, 418, 429, 503, 599])


def survives(response: httpx.Response) -> None:
    """Ask everything, and let nothing but an ApiError out."""

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(
            response.status_code, content=response.content, headers=response.headers
        )

    client = DbtCloudClient(
        account_id=1,
        token=TOKEN,
        transport=httpx.MockTransport(answer),
        clock=ManualClock(),
        retry_for=0.1,
        logger=QUIET,
    )
    with client:
        with contextlib.suppress(ApiError):
            assert isinstance(client.run(1), Run)
        with contextlib.suppress(ApiError):
            assert all(isinstance(run, Run) for run in client.runs(page_size=2))
        with contextlib.suppress(ApiError):
            assert isinstance(client.trigger_run(1, TriggerRun(cause="x")), Run)
        with contextlib.suppress(ApiError):
            assert isinstance(client.cancel_run(1), Run)
        with contextlib.suppress(ApiError):
            client.delete_job(1)
        with contextlib.suppress(ApiError):
            assert all(isinstance(path, str) for path in client.artifact_paths(1))
        with contextlib.suppress(ApiError):
            assert isinstance(client.artifact(1, "a.json"), bytes)
        with contextlib.suppress(ApiError):
            assert len(list(client.jobs())) < 1000


@REPEATABLY
@given(STATUSES, perhaps(ENVELOPES))
def test_any_json_is_read_or_refused(status_code: int, body: Any) -> None:
    """Wrong types, missing parts, unknown values, at every depth."""
    survives(httpx.Response(status_code, content=json.dumps(body).encode()))


@REPEATABLY
@given(
    STATUSES,
    st.binary(max_size=40),
    st.sampled_from(["content-type", "content-length", "location", "retry-after", "x-request-id"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12),
)
def test_any_bytes_and_headers_are_read_or_refused(
    status_code: int, body: bytes, name: str, value: str
) -> None:
    """Bodies that are no text, headers that make no sense."""
    survives(httpx.Response(status_code, content=body, headers={name: value}))
