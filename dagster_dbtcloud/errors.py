"""Every error this package raises on purpose.

It holds no logic and knows neither Dagster nor httpx; one place turns a ``RunError`` into a
``dagster.Failure`` (``invocation.py``).

::

    DbtCloudError
      ConfigError                 your configuration: a missing or malformed id, token, URL or name
        UnknownNameError          the dbt project has no such model or source; a KeyError as well
      ApiError                    a request to dbt Cloud: .method .url .request_id
        ApiConnectionError        no answer; .sent tells whether the request may have arrived
        ApiStatusError            an answer with an error status: .status_code .body (shortened)
          AuthenticationError     401: the token, or the wrong host for this account
          PermissionDeniedError   403
          NotFoundError           404: missing, or not permitted (dbt Cloud does not tell which)
          RateLimitedError        429
          ServerError             5xx
        ApiResponseError          an answer that cannot be read: not JSON, wrong shape, HTML
      RunError                    a dbt Cloud run: .run_id .run_url .failed_nodes
        RunFailed
        RunCancelled
        RunTimedOut
      ArtifactError               an artifact that cannot be used: .origin names run, step and file
        ManifestError
        RunResultsError
      PoolBusy                    every ad hoc job has an active run; nothing was started
      StateError                  no manifest to be had: neither dbt Cloud nor the cache has one
      SelectionError              your selection: .text .position .hint

No message, ``repr`` or attribute ever holds a token.
"""

from __future__ import annotations

from collections.abc import Sequence


class DbtCloudError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(DbtCloudError):
    """The configuration given by the user is missing something or malformed; nothing was sent."""


class UnknownNameError(ConfigError, KeyError):
    """The dbt project has no model or source of this name, or several."""

    __str__ = Exception.__str__  # that of KeyError would quote the message


class ApiError(DbtCloudError):
    """A request to dbt Cloud did not give a usable answer."""

    def __init__(
        self, message: str, *, method: str, url: str, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.method = method
        self.url = url
        self.request_id = request_id


class ApiConnectionError(ApiError):
    """No answer came. ``sent`` is False only when the request surely never left this machine."""

    def __init__(self, message: str, *, method: str, url: str, sent: bool) -> None:
        super().__init__(message, method=method, url=url)
        self.sent = sent


class ApiStatusError(ApiError):
    """dbt Cloud answered with an error status. ``body`` is cut to a few hundred characters."""

    def __init__(
        self,
        message: str,
        *,
        method: str,
        url: str,
        status_code: int,
        body: str = "",
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, method=method, url=url, request_id=request_id)
        self.status_code = status_code
        self.body = body


class AuthenticationError(ApiStatusError):
    """401: the token is wrong or expired, or this host does not serve its account."""


class PermissionDeniedError(ApiStatusError):
    """403: the token is known, and not allowed to do this (or an IP restriction is in the way)."""


class NotFoundError(ApiStatusError):
    """404: it does not exist, or the token may not see it; dbt Cloud does not tell which."""


class RateLimitedError(ApiStatusError):
    """429: the account's request budget is used up. ``retry_after``: seconds, if it was told."""

    retry_after: float | None = None


class ServerError(ApiStatusError):
    """5xx: the fault is dbt Cloud's, or that of a proxy on the way."""


class ApiResponseError(ApiError):
    """An answer that cannot be read: not JSON, a wrong shape, or a proxy's HTML page."""


class RunError(DbtCloudError):
    """A dbt Cloud run did not succeed."""

    def __init__(
        self,
        message: str,
        *,
        run_id: int,
        run_url: str | None = None,
        failed_nodes: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.run_url = run_url
        self.failed_nodes = tuple(failed_nodes)


class RunFailed(RunError):
    """The run ended with an error."""


class RunCancelled(RunError):
    """The run was cancelled in dbt Cloud."""


class RunTimedOut(RunError):
    """A limit was reached: the job's own in dbt Cloud, or one that the caller set."""


class ArtifactError(DbtCloudError):
    """An artifact cannot be used. ``origin`` names where it came from (run, step, file)."""

    def __init__(self, message: str, *, origin: str) -> None:
        super().__init__(message)
        self.origin = origin


class ManifestError(ArtifactError):
    """manifest.json is damaged, cut, of an unknown version, or names one key twice."""


class RunResultsError(ArtifactError):
    """run_results.json or sources.json is damaged, cut or of an unknown shape."""


class StateError(DbtCloudError):
    """No manifest is to be had: dbt Cloud has none (or is out of reach) and the cache is empty."""


class PoolBusy(DbtCloudError):
    """Every ad hoc job of the pool has an active run, and the pool's mode is not to queue."""


class SelectionError(DbtCloudError):
    """A selection that dbt would refuse, or that one manifest cannot answer.

    ``position`` is the 0-based offset in ``text`` where the trouble starts.
    """

    def __init__(self, message: str, *, text: str, position: int = 0, hint: str = "") -> None:
        super().__init__(message)
        self.text = text
        self.position = position
        self.hint = hint
