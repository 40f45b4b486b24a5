"""Everything about the sandbox that a test may want otherwise, as data.

Where dbt Cloud's behaviour is documented the default follows it; where nobody knows it, the
default is one of the possible ones and the field lets you try the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class Behaviour:
    """May be changed at any time. Seconds are of the sandbox's clock."""

    #: How long a run stays Queued, then Starting, at least.
    queued_seconds: float = 0.0
    starting_seconds: float = 0.0
    #: Artifacts of a finished run answer 404 for this long (seen on the service, not documented).
    artifacts_seconds: float = 0.0
    #: Whether a step's artifacts begin with those that the step before it left (not known).
    shared_target: bool = False
    #: Logs of a finished step are empty for this long (seen by clients of the service).
    logs_seconds: float = 0.0
    #: A finished run is missing from lists for this long.
    listed_seconds: float = 0.0
    #: A missing trailing slash: False takes both forms, True redirects GET and refuses POST; one
    #: too many (artifacts, webhooks) is then 404.
    strict_slashes: bool = False
    #: What a successful POST of a new job or run answers: 200 (specification) or 201 (older).
    created_status: int = 200
    #: What DELETE answers: 200 with the object (older specification) or 204 without a body.
    deleted_status: int = 200
    #: What an action beyond the token's rights answers: 404, or 403.
    denied_status: int = 404
    #: The window of a running step's log: whichever is shorter (docs: deploy/run-visibility).
    tail_lines: int = 1000
    tail_bytes: int = 512 * 1024
    #: Logs of a run that together are larger are left out, with step status "Unknown".
    logs_limit_bytes: int | None = None
    #: Requests that an account may make in a minute (None: any number), and how long all of its
    #: requests are 429 after one too many (docs: dbt-apis/rate-limits).
    requests_per_minute: int | None = 5000
    cooldown_seconds: float = 300.0
    #: Whether that 429 says Retry-After (documented for SCIM only).
    cooldown_retry_after: bool = False
    #: Webhooks: how long an event waits, and how long a failed delivery until the next of its five
    #: tries (the service's spacing is not known).
    webhook_delay_seconds: float = 0.0
    webhook_retry_seconds: float = 10.0
    #: How often each delivery arrives; the newest of those that are due first; another secret than
    #: the subscription's to sign with; a completed event for cancelled runs as well (not known).
    webhook_copies: int = 1
    webhook_reversed: bool = False
    webhook_forged_secret: str | None = None
    webhook_on_cancel: bool = False
    #: Whether jobs with a schedule start by themselves, on the sandbox's clock.
    schedules: bool = True
    #: After how many failures in a row a job is deactivated (docs: deploy/monitor-jobs), and
    #: whether the API then refuses to start it (not known; a person can).
    failures_to_deactivate: int = 100
    refuse_deactivated: bool = False
    #: Fields that a changed job lacks: required ones are refused and the others stay, or all stay,
    #: or all go back to their defaults (what the service does is not known).
    job_updates: Literal["refuse", "keep", "reset"] = "refuse"
