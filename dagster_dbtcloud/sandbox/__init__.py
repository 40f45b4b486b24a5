"""A local dbt Cloud that runs real dbt, for tests, demos and development.

Any client of dbt Cloud's administrative API can talk to it. It is an independent witness: it
imports nothing of the client it is used to test.
"""

from __future__ import annotations

from dagster_dbtcloud.sandbox.behaviour import Behaviour
from dagster_dbtcloud.sandbox.checkout import ProjectError
from dagster_dbtcloud.sandbox.edge import RequestRecord
from dagster_dbtcloud.sandbox.faults import Fault, Faults
from dagster_dbtcloud.sandbox.history import PastStep, Script
from dagster_dbtcloud.sandbox.server import Sandbox, serve

__all__ = [
    "Behaviour",
    "Fault",
    "Faults",
    "PastStep",
    "ProjectError",
    "RequestRecord",
    "Sandbox",
    "Script",
    "serve",
]
