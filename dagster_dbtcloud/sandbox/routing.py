"""From a request to a handler and back: authentication, slashes, bodies, errors, envelopes.

It knows no endpoint; ``api_v2.py`` and ``api_v3.py`` hold tables of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from dagster_dbtcloud.sandbox import wire
from dagster_dbtcloud.sandbox.budget import Budget
from dagster_dbtcloud.sandbox.faults import Met
from dagster_dbtcloud.sandbox.state import Cloud
from dagster_dbtcloud.sandbox.store import Doc
from dagster_dbtcloud.sandbox.tokens import NOBODY, Right, Token, secret_of
from dagster_dbtcloud.sandbox.wire import Refusal

_MAX_BODY_BYTES = 10_000_000


@dataclass(frozen=True)
class Answer:
    """What a handler gives back: data for the envelope, or a whole page of a list."""

    data: Any = None
    status: int = 200
    body: Mapping[str, Any] | None = None


Handler = Callable[["Call"], "Answer | Response"]


@dataclass(frozen=True)
class Endpoint:
    """One row of a table. ``path`` is the canonical form, with or without the slash at its end.

    ``right`` None: no token needed.
    """

    method: str
    path: str
    handler: Handler
    right: Right | None = "read"

    @property
    def pattern(self) -> re.Pattern[str]:
        names = re.sub(r"\{(\w+):path\}", r"(?P<\1>.+)", self.path.rstrip("/"))
        names = re.sub(r"\{(\w+):word\}", r"(?P<\1>\\w+)", names)
        return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>-?\\d+)", names) + "/?")


@dataclass
class Call:
    """One request, read."""

    cloud: Cloud
    site: str
    ids: Mapping[str, str]
    query: QueryParams
    headers: Headers
    body: Any = field(default_factory=dict)
    late: Sequence[Met] = ()
    client: str = ""
    token: Token = NOBODY

    def id(self, name: str) -> int:
        number = int(self.ids[name])
        if abs(number) > wire.LARGEST:
            raise wire.not_found()
        return number

    @property
    def fields(self) -> Doc:
        """The body as an object. Raises: Refusal 400."""
        return dict(wire.mapping("body", self.body))

    def include(self) -> list[str]:
        return wire.listed(self.query.getlist("include_related"))

    # -- lists -----------------------------------------------------------------------------

    def filters(self, equal: Mapping[str, str]) -> Doc:
        """Read filters. ``equal``: parameter -> field, both for ``x`` and for ``x__in``.

        Raises: Refusal 400 where a number should stand.
        """
        where: Doc = {}
        for name, column in equal.items():
            if self.query.get(name):
                where[column] = wire.whole_number(name, self.query[name])
            if self.query.get(f"{name}__in"):
                words = wire.listed(self.query.getlist(f"{name}__in"))
                where[column] = [wire.whole_number(f"{name}__in", word) for word in words]
        return where

    def refuse_beyond(self, known: Collection[str]) -> None:
        """Raises: Refusal 400 for a parameter that is not ``known``."""
        unknown = [name for name in self.query if name not in known]
        if unknown:
            raise Refusal(400, wire.INVALID, wire.unexpected(unknown))

    def ranges(self, fields: Sequence[str]) -> list[tuple[str, Sequence[Any]]]:
        """Read ``x__range=["from","to"]``, JSON text only (other forms were seen to be refused).

        Both ends count. Raises: Refusal 400.
        """
        found: list[tuple[str, Sequence[Any]]] = []
        for name in fields:
            text = self.query.get(f"{name}__range")
            if not text:
                continue
            try:
                first, last = (wire.to_text(wire.from_text(word)) for word in json.loads(text))
            except (ValueError, TypeError, AttributeError):
                raise Refusal(
                    400,
                    f"{name}__range: two dates are needed.",
                    {f"{name}__range": ["Not a valid range."]},
                ) from None
            found.append((f"[{name}] BETWEEN ? AND ?", (first, last)))
        return found

    def page(
        self,
        kind: str,
        where: Doc,
        show: Callable[[Doc], Doc],
        *,
        also: Sequence[tuple[str, Sequence[Any]]] = (),
        order_fields: Sequence[str] = ("id",),
        echo: Mapping[str, Any] | None = None,
    ) -> Answer:
        """One page of a list. ``limit`` beyond 100 is clamped; ``extra`` echoes the filters.

        Raises: Refusal 400 for a malformed limit, offset or order.
        """
        limit = wire.whole_number("limit", self.query.get("limit") or wire.MAX_PAGE)
        offset = wire.whole_number("offset", self.query.get("offset") or 0)
        limit, offset = min(max(limit, 1), wire.MAX_PAGE), max(offset, 0)
        order_by = self.query.get("order_by") or "id"
        store = self.cloud.store
        if order_by.lstrip("-") not in order_fields:
            raise Refusal(
                400, f"order_by: {order_by!r} is not possible.", {"order_by": ["Invalid."]}
            )
        rows = store.select(kind, where, also=also, order_by=order_by, limit=limit, offset=offset)
        total = store.count(kind, where, also=also)
        filters = {"limit": limit, "offset": offset, **(echo or {})}
        body = wire.page([show(row) for row in rows], total=total, filters=filters,
                         order_by=order_by)  # fmt: skip
        return Answer(body=body)


class Router:
    """The ASGI application over tables of endpoints."""

    def __init__(self, cloud: Cloud, endpoints: Sequence[Endpoint], *, pages: Handler) -> None:
        self._cloud = cloud
        self._budget = Budget(cloud.clock, cloud.behaviour)
        self._table = [(endpoint.pattern, endpoint) for endpoint in endpoints]
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except Refusal as refusal:
            response = JSONResponse(wire.failure(refusal), refusal.status, refusal.headers)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        path = str(request.scope["path"])
        found = [
            (match, endpoint)
            for pattern, endpoint in self._table
            if (match := pattern.fullmatch(path)) is not None
        ]
        # A more exact row comes before one that ends in a free path.
        found.sort(key=lambda row: ":path}" in row[1].path)
        call = Call(
            cloud=self._cloud,
            site=f"{request.url.scheme}://{request.headers.get('host', request.url.netloc)}",
            ids=found[0][0].groupdict() if found else {"path": path},
            query=request.query_params,
            headers=request.headers,
            client=request.client.host if request.client else "",
            late=request.scope.get("sandbox_late", ()),
        )
        if not found:
            if path.startswith(("/api/", "//")):
                return HTMLResponse("<h1>Page not found</h1>", 404)
            return await self._run(self._pages, call)
        method = "GET" if request.method == "HEAD" else request.method
        served = next((row for row in found if row[1].method == method), None)
        strict = self._cloud.behaviour.strict_slashes
        lacks_slash = found[0][1].path.endswith("/") and not path.endswith("/")
        if served is None or (strict and lacks_slash and method != "GET"):
            return JSONResponse({"detail": f'Method "{request.method}" not allowed.'}, 405)
        if strict and path.endswith("/") and not served[1].path.endswith("/"):
            return HTMLResponse("<h1>Page not found</h1>", 404)
        if strict and lacks_slash:
            return RedirectResponse(request.url.replace(path=path + "/"), 308)
        match, endpoint = served
        call.ids = match.groupdict()
        if endpoint.right is not None:
            call.token = await run_in_threadpool(self._authenticate, call, endpoint.right)
        call.body = await _body(request)
        return await self._run(endpoint.handler, call)

    async def _run(self, handler: Handler, call: Call) -> Response:
        answer = await run_in_threadpool(handler, call)
        if isinstance(answer, Response):
            return answer
        if answer.status == 204:
            return Response(status_code=204)
        body = answer.body if answer.body is not None else wire.envelope(answer.data, answer.status)
        return JSONResponse(body, answer.status)

    def _authenticate(self, call: Call, right: Right) -> Token:
        header = call.headers.get("authorization")
        if not header:
            raise Refusal(401, "Authentication credentials were not provided.")
        secret = secret_of(header)
        docs = self._cloud.store.select("tokens", {"secret": secret}) if secret else []
        if not docs:
            raise Refusal(401, "Invalid token.")
        token = Token.of(docs[0])
        self._budget.spend(token.account_id)
        if "account" in call.ids and call.id("account") != token.account_id:
            raise wire.not_found()
        if not token.may(right):
            if self._cloud.behaviour.denied_status == 403:
                raise Refusal(403, "Forbidden: Access denied")
            raise wire.not_found()
        return token


async def _body(request: Request) -> Any:
    """JSON, or a form; nothing is an empty object. Raises: Refusal 400, 413."""
    raw = await request.body()
    if len(raw) > _MAX_BODY_BYTES:
        raise Refusal(413, "The body is too large.")
    text = raw.strip()
    if not text:
        return {}
    # curl -d calls everything a form.
    if text[:1] not in b"{[" and request.headers.get("content-type", "").startswith(
        "application/x-www-form-urlencoded"
    ):
        return dict(parse_qsl(raw.decode("utf-8", errors="replace")))
    try:
        return json.loads(raw)
    except ValueError as error:
        raise Refusal(400, f"JSON parse error - {error}") from None
