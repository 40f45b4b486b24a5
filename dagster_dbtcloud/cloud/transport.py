"""The one place that speaks HTTP: a request goes out with the token, an answer or error comes in.

It neither retries nor reads what an answer means. It is the only importer of httpx, which costs a
quarter of a second, so it is itself imported at the first request only.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Mapping
from typing import Any

import httpx

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.cloud.answer import Answer
from dagster_dbtcloud.cloud.secret import Secret
from dagster_dbtcloud.cloud.urls import is_loopback
from dagster_dbtcloud.errors import ApiConnectionError, ApiError, ApiResponseError, ConfigError

# Seconds; below the 60 after which load balancers commonly drop a quiet connection.
_KEEP_ALIVE = 30.0
_LONGEST_DETOUR = 5  # redirects in a row
_SLOWEST = 1_000  # bytes a second; an answer that only drips would never end, nor ever time out

_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
# What httpx reads by itself; named in messages, their values never: a proxy's holds a password.
_ENVIRONMENT = "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE, SSL_CERT_DIR"


class _TokenAuth(httpx.Auth):
    """Adds the token to requests for one host; whoever prints it sees no token."""

    def __init__(self, secret: Secret, url: httpx.URL) -> None:
        self._secret = secret
        self._home = _origin(url)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if _origin(request.url) == self._home:
            request.headers["Authorization"] = self._secret.authorization()
        yield request

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._secret!r})"


class Transport:
    """Connections to one access URL, kept open between requests. Thread-safe."""

    def __init__(
        self,
        *,
        access_url: str,
        secret: Secret,
        timeout: float,
        user_agent: str,
        clock: Clock,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._secret = secret
        self._timeout = timeout
        self._clock = clock
        home = httpx.URL(access_url)
        fault = None
        try:
            self._http = httpx.Client(
                auth=_TokenAuth(secret, home),
                headers={"User-Agent": user_agent},
                timeout=timeout,
                limits=httpx.Limits(max_connections=100, keepalive_expiry=_KEEP_ALIVE),
                # A proxy of the company knows nothing of a sandbox on this machine.
                mounts={f"all://{_bracketed(home.host)}": None} if is_loopback(home.host) else None,
                transport=transport,
            )
        except OSError as error:
            fault = f"{type(error).__name__}: {error}"
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            fault = type(error).__name__
        if fault is not None:
            raise ConfigError(
                f"HTTP cannot be set up from the environment ({fault}); look at {_ENVIRONMENT}"
            )

    def close(self) -> None:
        self._http.close()

    def send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str | int] | None = None,
        json: Any = None,
        accept: str = "application/json",
    ) -> Answer:
        """Send one request and read the whole answer, whatever its status.

        Redirects are followed for GET on the same host only; any other is returned as it came.

        Raises: ApiConnectionError.
        """
        request = self._http.build_request(
            method, url, params=params, json=json, headers={"Accept": accept}
        )
        for _ in range(_LONGEST_DETOUR):
            answer = self._exchange(request)
            target = _redirect(request, answer)
            if target is None:
                break
            request = self._http.build_request(method, target, headers={"Accept": accept})
        return answer

    def _exchange(self, request: httpx.Request) -> Answer:
        # Frames of the libraries below hold the raw header. So no traceback of theirs leaves this
        # place: an error is told anew outside the handler, and what passes through is cut off.
        failure: BaseException
        try:
            return self._receive(request)
        except httpx.RequestError as error:
            failure = self._told(request, error)
        except BaseException as error:  # noqa: BLE001 - raised again below
            error.__traceback__ = error.__cause__ = error.__context__ = None
            failure = error
        try:
            raise failure
        finally:
            del failure

    def _receive(self, request: httpx.Request) -> Answer:
        response = self._http.send(request, stream=True)
        try:
            # BytesIO gives its buffer away without a copy: a manifest can have 500 MB.
            body = io.BytesIO()
            started = self._clock.monotonic()
            for chunk in response.iter_bytes():
                body.write(chunk)
                elapsed = self._clock.monotonic() - started
                if elapsed > self._timeout and body.tell() < elapsed * _SLOWEST:
                    raise httpx.ReadTimeout("the answer only drips", request=request)
        finally:
            response.close()
        announced = response.headers.get("content-length", "")
        # Bytes on the wire, before unpacking; not counted for an answer that was never on one.
        received = response.num_bytes_downloaded or body.tell()
        if announced.isdigit() and received < int(announced):
            raise httpx.RemoteProtocolError(
                f"the answer was cut off: {received} of {announced} bytes came", request=request
            )
        return Answer(
            method=request.method,
            url=str(request.url),
            status_code=response.status_code,
            headers={name: self._secret.redact(value) for name, value in response.headers.items()},
            body=self._secret.redact_bytes(body.getvalue()),
            secret=self._secret,
        )

    def _told(self, request: httpx.Request, error: httpx.RequestError) -> ApiError:
        sent = not isinstance(error, _NEVER_SENT)
        url = self._secret.redact(str(request.url))
        text = self._secret.redact(str(error)) or "no further word"
        if isinstance(error, httpx.DecodingError):
            return ApiResponseError(
                f"{request.method} {url}: an answer that cannot be unpacked: {text}",
                method=request.method,
                url=url,
            )
        if isinstance(error, httpx.TimeoutException):
            text = f"nothing, or too little, came within {self._timeout:g} s"
        hint = ""
        if "CERTIFICATE_VERIFY_FAILED" in text:
            hint = "; if your network inspects TLS, set SSL_CERT_FILE to its CA bundle"
        elif isinstance(error, httpx.ProxyError):
            hint = "; so says the proxy that HTTPS_PROXY or ALL_PROXY names"
        elif isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            hint = "; look at the access URL, and at the network or proxy"
        return ApiConnectionError(
            f"{request.method} {url}: no answer ({type(error).__name__}: {text}){hint}.",
            method=request.method,
            url=url,
            sent=sent,
        )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _redirect(request: httpx.Request, answer: Answer) -> httpx.URL | None:
    """Return where to go on to; None if the answer is to be taken as it is."""
    location = answer.headers.get("location")
    if request.method != "GET" or not 300 <= answer.status_code < 400 or not location:
        return None
    try:
        target = request.url.join(location)
    except (httpx.InvalidURL, ValueError):
        return None
    return target if _origin(target) == _origin(request.url) else None
