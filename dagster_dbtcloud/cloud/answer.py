"""What dbt Cloud answered: read as data, or as the error it means.

It sends nothing and decides nothing about trying again. Facts 6, 7, 17 and 20 to 22 of
docs/dbt-cloud-api.md.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dagster_dbtcloud.cloud.secret import Secret
from dagster_dbtcloud.errors import (
    ApiResponseError,
    ApiStatusError,
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
)

ModelT = TypeVar("ModelT", bound=BaseModel)

EXCERPT = 300  # characters of a body that an error shows
_LOOKED_AT = 20_000  # bytes of a body that are searched for them
_REQUEST_IDS = ("x-request-id", "x-dbt-request-id", "x-amzn-requestid", "x-amzn-trace-id", "cf-ray")
_DIGITS = re.compile(r"[0-9]{1,19}")
_TAGS = re.compile(r"(?is)<(script|style)\b.*?</\1>|<[^>]*>")


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, read to its end and cleared of the token. Printing it shows no content."""

    method: str
    url: str
    status_code: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    secret: Secret = field(repr=False)

    @property
    def request_id(self) -> str | None:
        """What dbt Labs' support will ask for, if the answer had one."""
        for name in _REQUEST_IDS:
            if value := self.headers.get(name):
                return value
        return None

    @property
    def place(self) -> str:
        return self.secret.redact(f"{self.method} {self.url}")

    @property
    def is_html(self) -> bool:
        """Whether the body is a page; told by itself, since artifacts may be labelled as HTML."""
        return self.body[:200].lstrip().lower().startswith((b"<!doctype html", b"<html"))

    def excerpt(self) -> str:
        """Return the start of the body in one line, without tags and without the token."""
        text = self.secret.redact(self.body[:_LOOKED_AT].decode("utf-8", "replace"))
        if text.lstrip().startswith("<"):
            text = html.unescape(_TAGS.sub(" ", text))
            # Unescaping may bring together what was hidden from the first look.
            text = self.secret.redact(text)
        return _shorten(" ".join(text.split()))

    def json(self) -> Any:
        """Return the body as JSON.

        Raises: ApiResponseError if it is none, e.g. cut, or a page of a proxy.
        """
        parsed = _parse(self.body)
        if parsed is not _NOTHING:
            return parsed
        if not self.body.strip():
            raise self.unreadable("an empty answer where JSON was expected")
        if self.is_html:
            raise self.unreadable(
                "an HTML page instead of JSON; a proxy or login page stands in the way, "
                "or the access URL is not dbt Cloud's"
            )
        raise self.unreadable("an answer that is not JSON, or was cut")

    def unreadable(self, what: str) -> ApiResponseError:
        excerpt = self.excerpt()
        return ApiResponseError(
            f"{self.place}: {what}{_identified(self)}" + (f": {excerpt}" if excerpt else ""),
            method=self.method,
            url=self.secret.redact(self.url),
            request_id=self.request_id,
        )


def error_of(answer: Answer, *, access_url: str) -> ApiStatusError | None:
    """Return the error that an answer means; None if it is not one."""
    if 200 <= answer.status_code < 300:
        return None
    if 300 <= answer.status_code < 400:
        location = answer.headers.get("location", "")
        if re.match(rf"/(?!/)|{re.escape(access_url)}(/|$)", location):
            why = (
                "too many times" if answer.method == "GET" else "which is not followed with a body"
            )
        else:
            why = f"which is not followed: the token goes to {access_url} only"
        return _error(
            answer,
            answer.status_code,
            f"redirected to {location[:EXCERPT] or 'nowhere'}, {why}. Set the access URL to the "
            "one that dbt Cloud's pages have, and look for a proxy that rewrites addresses",
        )
    parsed = _parse(answer.body)
    return _status_error(answer, answer.status_code, _words(parsed), access_url)


def envelope_of(answer: Answer, *, access_url: str) -> Envelope:
    """Open the envelope of a successful answer.

    Raises: ApiResponseError if it is not JSON; ApiStatusError if it tells of an error after all.
    """
    parsed = answer.json()
    status = parsed.get("status") if isinstance(parsed, dict) else None
    if isinstance(status, dict) and status.get("is_success") is False:
        code = status.get("code")
        if isinstance(code, int) and code >= 400:
            raise _status_error(answer, code, _words(parsed), access_url)
    return Envelope(answer, parsed)


@dataclass(frozen=True)
class Envelope:
    """A successful answer, parsed: ``{"status": ..., "data": ..., "extra": ...}`` (fact 6)."""

    answer: Answer
    parsed: Any = field(repr=False)

    def mapping(self) -> dict[str, Any]:
        """Return the one object of the answer as it came."""
        data = self.data()
        if not isinstance(data, dict):
            raise self._wrong(f"an object was expected in 'data', not {_kind(data)}")
        return data

    def one(self, model: type[ModelT]) -> ModelT:
        """Return the one object of the answer."""
        return self._validated(model, self.mapping())

    def rows(
        self,
        model: type[ModelT],
        *,
        instead: Callable[[Mapping[str, Any], str], ModelT] | None = None,
    ) -> tuple[ModelT, ...]:
        """Return the objects of a list; null is an empty list.

        ``instead`` makes what stands for a row with an id that cannot be read, from the row and
        what is wrong with it; without it one such row makes the whole list unreadable.
        """
        rows: list[ModelT] = []
        for row in self._list():
            try:
                rows.append(self._validated(model, row))
            except ApiResponseError as error:
                known = _id(row)
                if instead is None or known is None:
                    raise
                rows.append(instead({**row, "id": known}, str(error)))
        return tuple(rows)

    def texts(self) -> tuple[str, ...]:
        """Return the texts of a list; null is an empty list (fact 17)."""
        rows = self._list()
        if not all(isinstance(row, str) for row in rows):
            raise self._wrong("a list of texts was expected in 'data'")
        return tuple(rows)

    def total_count(self) -> int | None:
        """Return how many rows match in all, if the answer tells."""
        extra = self.parsed.get("extra")
        pagination = extra.get("pagination") if isinstance(extra, dict) else None
        total = pagination.get("total_count") if isinstance(pagination, dict) else None
        return total if isinstance(total, int) and total >= 0 else None

    def data(self) -> Any:
        """Return what the answer holds, as it came."""
        if not isinstance(self.parsed, dict) or "data" not in self.parsed:
            raise self._wrong("there is no 'data' in the answer; is this dbt Cloud's address?")
        status = self.parsed.get("status")
        if isinstance(status, dict) and status.get("is_success") is False:
            raise self._wrong("the answer calls itself a failure")
        return self.parsed["data"]

    def _list(self) -> list[Any]:
        data = self.data()
        if data is None:
            return []
        if not isinstance(data, list):
            raise self._wrong(f"a list was expected in 'data', not {_kind(data)}")
        return data

    def _validated(self, model: type[ModelT], row: Any) -> ModelT:
        try:
            return model.model_validate(row)
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or 'the object'}: {fault['msg']}"
                for fault in error.errors(include_input=False, include_url=False)[:3]
            )
        name = row.get("id", "without id") if isinstance(row, dict) else _kind(row)
        raise self._wrong(f"{model.__name__.lower()} {name} has an unexpected form ({faults})")

    def _wrong(self, what: str) -> ApiResponseError:
        return self.answer.unreadable(what)


_NOTHING: Any = object()


def _parse(body: bytes) -> Any:
    """Return the parsed body or ``_NOTHING``: the parser's own error holds the whole text."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return _NOTHING


def _words(parsed: Any) -> str:
    """Return dbt Cloud's own words about a failure; empty if there are none (fact 20)."""
    if not isinstance(parsed, dict):
        return ""
    status = parsed.get("status")
    words: list[str] = []
    if isinstance(status, dict):
        words += [str(status.get(key) or "") for key in ("user_message", "developer_message")]
    words.append(str(parsed.get("detail") or ""))
    if isinstance(parsed.get("data"), (dict, list, str)) and parsed["data"]:
        words.append(json.dumps(parsed["data"], ensure_ascii=False))
    return " ".join(" ".join(dict.fromkeys(word for word in words if word)).split())


def _status_error(answer: Answer, code: int, words: str, access_url: str) -> ApiStatusError:
    said = _shorten(answer.secret.redact(words)) or answer.excerpt()
    said = f" dbt Cloud says: {said}" if said else ""
    if code == 401:
        text = (
            f"the token was refused. Either it is wrong, expired or revoked, or it belongs to an "
            f"account of another region or cell: a token works at its own account's address only. "
            f"The access URL in use is {access_url}; the right one stands in dbt Cloud under "
            f"Account settings, 'Access URLs' (like https://ab123.us1.dbt.com)."
        )
    elif code == 403:
        text = (
            "not allowed. Either the token's permissions do not reach so far (dbt Cloud: Account "
            "settings, Service tokens), or the account's IP restrictions keep this machine out."
        )
    elif code == 404:
        text = (
            "not found: it does not exist, or the token may not see it (dbt Cloud does not tell "
            "which). Compare the ids and the account with those in dbt Cloud's address bar."
        )
        if answer.is_html:
            text += f" The answer is a web page: is {access_url} really dbt Cloud's access URL?"
    elif code == 429:
        text = "too many requests: the account's request budget of this minute is used up."
    elif code >= 500:
        text = "an error of dbt Cloud, or of a proxy on the way."
    else:
        text = "the request was refused."
    return _error(answer, code, text + said)


def _error(answer: Answer, code: int, text: str) -> ApiStatusError:
    kinds: dict[int, type[ApiStatusError]] = {
        401: AuthenticationError,
        403: PermissionDeniedError,
        404: NotFoundError,
        429: RateLimitedError,
    }
    kind = kinds.get(code, ServerError if code >= 500 else ApiStatusError)
    return kind(
        f"{answer.place}: {code}{_identified(answer)}: {text}",
        method=answer.method,
        url=answer.secret.redact(answer.url),
        status_code=code,
        body=answer.excerpt(),
        request_id=answer.request_id,
    )


def _identified(answer: Answer) -> str:
    return f" (request id {answer.request_id})" if answer.request_id else ""


def _shorten(text: str) -> str:
    return text if len(text) <= EXCERPT else f"{text[: EXCERPT - 1]}…"


def _id(row: Any) -> int | None:
    """Return the id of a row of which nothing else need be readable; digits count (fact 30)."""
    text = str(row.get("id")) if isinstance(row, dict) else ""
    return int(text) if _DIGITS.fullmatch(text) else None


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", type(None): "null"}.get(type(value), "a bare value")
