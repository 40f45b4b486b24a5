"""The outermost layer of the server: writes the request log and carries the faults out.

It knows no endpoint.
"""

from __future__ import annotations

import asyncio
import collections
import json
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dagster_dbtcloud.clock import Clock
from dagster_dbtcloud.sandbox import wire
from dagster_dbtcloud.sandbox.faults import Fault, Faults, first
from dagster_dbtcloud.sandbox.wire import Refusal

CONTROL = "/__sandbox__/"
_KEPT_REQUESTS = 100_000
_LATE = ("late_artifacts", "late_list", "late_logs")
_LOOK_SECONDS = 0.01
_PAGE = "<!DOCTYPE html><html><head><title>Sign in</title></head><body>Sign in</body></html>"


@dataclass(frozen=True)
class RequestRecord:
    """One request. ``status`` None: it was not answered. ``effect``: it reached the application."""

    method: str
    path: str
    query: str
    at: str
    status: int | None
    effect: bool


class RequestLog:
    """The requests so far, oldest first (the latest 100,000)."""

    def __init__(self) -> None:
        self._records: collections.deque[RequestRecord] = collections.deque(maxlen=_KEPT_REQUESTS)
        self._lock = threading.Lock()

    def add(self, record: RequestRecord) -> None:
        with self._lock:
            self._records.append(record)

    def snapshot(self) -> tuple[RequestRecord, ...]:
        with self._lock:
            return tuple(self._records)

    def clear(self) -> None:
        with self._lock:
            self._records.clear()


class Edge:
    """ASGI round ASGI. Requests to the control routes are neither logged nor spoilt."""

    def __init__(self, app: ASGIApp, *, faults: Faults, log: RequestLog, clock: Clock) -> None:
        self._app = app
        self._faults = faults
        self._log = log
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(CONTROL):
            await self._app(scope, receive, send)
            return
        await _Request(self, scope, receive, send).handle()


class _Request:
    def __init__(self, edge: Edge, scope: Scope, receive: Receive, send: Send) -> None:
        self.edge, self.scope, self.receive, self._send = edge, scope, receive, send
        self.at = wire.to_text(edge._clock.now())
        self.effect = False

    async def handle(self) -> None:
        query = unquote_plus(self.scope["query_string"].decode("latin-1"))
        met = self.edge._faults.meet(self.scope["method"], self.scope["path"], query)
        late = [one for one in met if one.fault.kind in _LATE]
        if late:
            self.scope["sandbox_late"] = late
        slow = first(met, "delay")
        if slow is not None and slow.fault.after_effect:
            await self._late_answer(slow.fault.seconds)
            return
        if slow is not None:
            await asyncio.sleep(slow.fault.seconds)
        spoilt = first(met, "status", "html", "lost", "reset", "cut", "late_effect")
        if spoilt is None:
            try:
                await self._pass(self.send)
            except ClientDisconnect:  # gone before its body was read, as after a delay
                self.effect = False
                self._note(None)
            return
        fault = spoilt.fault
        if fault.kind == "cut":
            await self._cut()
            return
        if fault.kind == "late_effect":
            await self._late_effect(fault.seconds)
            return
        if fault.after_effect:
            await self._pass(_nowhere)
        if fault.kind in ("lost", "reset"):
            self._note(None)
            await self._hang_up(reset=fault.kind == "reset")
        else:
            await _spoilt_answer(fault)(self.scope, self.receive, self.send)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._note(message["status"])
        await self._send(message)

    def _note(self, status: int | None) -> None:
        """Write the request log, before the client can know: it may look there next."""
        self.edge._log.add(
            RequestRecord(
                method=self.scope["method"],
                path=self.scope["path"],
                query=self.scope["query_string"].decode("latin-1"),
                at=self.at,
                status=status,
                effect=self.effect,
            )
        )

    async def _pass(self, send: Send) -> None:
        self.effect = True
        await self.edge._app(self.scope, self.receive, send)

    async def _passed(self) -> list[Message]:
        """Let the request take effect and keep its answer."""
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self._pass(keep)
        return messages

    async def _late_answer(self, seconds: float) -> None:
        messages = await self._passed()
        await asyncio.sleep(seconds)
        for message in messages:
            await self.send(message)

    async def _late_effect(self, seconds: float) -> None:
        """Hang up; do what was asked when nobody waits for it any more."""
        asked = await self.receive()
        clock = self.edge._clock
        due = clock.monotonic() + seconds

        async def again() -> Message:
            return asked

        async def later() -> None:
            while clock.monotonic() < due:
                await asyncio.sleep(_LOOK_SECONDS)
            await self.edge._app(self.scope, again, _nowhere)

        task = asyncio.create_task(later())
        self.edge._tasks.add(task)
        task.add_done_callback(self.edge._tasks.discard)
        self._note(None)
        await self._hang_up(reset=False)

    async def _cut(self) -> None:
        """Send the head and half of the body, then close."""
        messages = await self._passed()
        body = b"".join(one.get("body", b"") for one in messages[1:])
        headers = [(k, v) for k, v in messages[0]["headers"] if k.lower() != b"content-length"]
        headers.append((b"content-length", str(max(len(body), 2)).encode()))
        await self.send({**messages[0], "headers": headers})
        await self._send(
            {"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True}
        )
        await self._hang_up(reset=False)

    async def _hang_up(self, *, reset: bool) -> None:
        # ASGI has no word for closing without an answer; uvicorn's cycle holds the transport.
        transport: Any = self._send.__self__.transport  # type: ignore[attr-defined]
        if reset:
            peer = transport.get_extra_info("socket")
            # Linger on, for no time: the kernel answers with RST.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()
        while (await self.receive())["type"] != "http.disconnect":
            pass


async def _nowhere(message: Message) -> None:
    """Where a lost answer goes."""


def _spoilt_answer(fault: Fault) -> Response:
    headers = dict(fault.headers)
    if fault.retry_after is not None:
        headers["Retry-After"] = fault.retry_after
    if fault.kind == "html":
        return HTMLResponse(fault.body or _PAGE, fault.status or 200, headers)
    status = fault.status or 500
    body = fault.body
    if body is None:
        body = json.dumps(wire.failure(Refusal(status, f"The sandbox answers {status} as told.")))
    return Response(body, status, headers, media_type="application/json")
