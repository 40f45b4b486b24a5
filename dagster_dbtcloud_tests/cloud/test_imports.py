"""What importing the client costs a process that may never use it."""

from __future__ import annotations

import subprocess
import sys


def test_httpx_is_imported_at_the_first_request_only() -> None:
    """It costs a quarter of a second, and a code location is often loaded without a request."""
    code = (
        "import sys, dagster_dbtcloud.cloud.client as c\n"
        "c.DbtCloudClient(account_id=1, token='x')\n"
        "print(sorted({'httpx', 'dagster', 'dbt'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
