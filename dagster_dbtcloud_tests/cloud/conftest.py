"""Fixtures of the client's tests: a clock that a test holds, and clients that use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import httpx
import pytest

from dagster_dbtcloud.clock import ManualClock
from dagster_dbtcloud.cloud.client import DbtCloudClient
from dagster_dbtcloud_tests.cloud.fakes import ACCESS_URL, TOKEN


class MakeClient(Protocol):
    def __call__(
        self, handler: Callable[[httpx.Request], httpx.Response] | None = None, **settings: Any
    ) -> DbtCloudClient: ...


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def make_client(clock: ManualClock) -> Iterator[MakeClient]:
    """Build clients on the test's clock, without jitter; they are closed at the end."""
    made: list[DbtCloudClient] = []

    def make(
        handler: Callable[[httpx.Request], httpx.Response] | None = None, **settings: Any
    ) -> DbtCloudClient:
        if handler is not None:
            settings["transport"] = httpx.MockTransport(handler)
        defaults: dict[str, Any] = {
            "account_id": 4242,
            "token": TOKEN,
            "access_url": ACCESS_URL,
            "clock": clock,
            "jitter": lambda: 0.0,
        }
        client = DbtCloudClient(**{**defaults, **settings})
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()
