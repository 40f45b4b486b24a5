"""Fakes for the tests of the client: a scripted service in process, and one on a real socket.

They judge nothing; the tests do.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import httpx
from hypothesis import settings

# The same examples each time, however slow the machine is.
REPEATABLY = settings(derandomize=True, deadline=None, database=None)

TOKEN = "dbtc_n0t-A-real+token/0123456789=="
ACCESS_URL = "https://ab123.us1.dbt.com"
RUNS = "/api/v2/accounts/4242/runs/"


def ok(data: Any = None, *, status_code: int = 200, **extra: Any) -> httpx.Response:
    """Return a successful answer in dbt Cloud's envelope."""
    status = {"code": status_code, "is_success": True, "user_message": "Success!"}
    return httpx.Response(status_code, json={"status": status, "data": data, **extra})


def failed(status_code: int, user_message: str = "", **headers: str) -> httpx.Response:
    """Return an error in dbt Cloud's envelope; header names may be spelt with underscores."""
    status = {"code": status_code, "is_success": False, "user_message": user_message}
    return httpx.Response(
        status_code,
        json={"status": status, "data": None},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def run(id: int = 900123, **fields: Any) -> dict[str, Any]:
    """Return a run as dbt Cloud gives it."""
    return {"id": id, "status": 1, "job_definition_id": 77, "run_steps": [], **fields}


Reply = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


class Script:
    """A transport handler that gives its replies in turn, the last one for ever."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply(request) if callable(reply) else _fresh(reply)

    @property
    def last(self) -> httpx.Request:
        return self.requests[-1]


def _fresh(response: httpx.Response) -> httpx.Response:
    """Return a copy, since httpx consumes a response."""
    return httpx.Response(response.status_code, headers=response.headers, content=response.content)


Behaviour = Callable[[socket.socket], bool]
"""Answers one request on a connection; True keeps the connection open."""


def reply(body: bytes, *, status: str = "200 OK", announced: int | None = None) -> Behaviour:
    """Answer with ``body``; with a larger ``announced`` length the connection is then cut."""
    length = len(body) if announced is None else announced

    def behave(connection: socket.socket) -> bool:
        lines = f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(lines.encode() + body)
        return length == len(body)

    return behave


def raw(text: bytes) -> Behaviour:
    """Send these bytes as they are, and close."""

    def behave(connection: socket.socket) -> bool:
        connection.sendall(text)
        return False

    return behave


def reset(connection: socket.socket) -> bool:
    """Answer with a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def silence(connection: socket.socket) -> bool:
    """Say nothing until the client hangs up."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    return False


class Wire:
    """An HTTP server on a real socket that meets each request with the next behaviour."""

    def __init__(self, *behaviours: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        self._behaviours = list(behaviours)
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.heads: list[bytes] = []

    @property
    def connections(self) -> int:
        """How many connections were ever opened."""
        return len(self._threads)

    def drained(self) -> bool:
        """Wait for the clients to hang up, and tell whether all of them did."""
        for thread in self._threads:
            thread.join(timeout=5)
        return not any(thread.is_alive() for thread in self._threads)

    def __enter__(self) -> Wire:
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(timeout=5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            if self._tls is not None:
                try:
                    connection = self._tls.wrap_socket(connection, server_side=True)
                except OSError:
                    return
                stack.callback(connection.close)
            for head in _requests(connection):
                self.heads.append(head)
                first = len(self._behaviours) > 1
                behave = self._behaviours.pop(0) if first else self._behaviours[0]
                if not behave(connection):
                    return


def _requests(connection: socket.socket) -> Iterator[bytes]:
    """Read requests, each with its body."""
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            try:
                chunk = connection.recv(65536)
            except OSError:
                return
            if not chunk:
                return
            received += chunk
        head, _, received = received.partition(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        while len(received) < length:
            received += connection.recv(65536)
        body, received = received[:length], received[length:]
        yield head + b"\r\n\r\n" + body
