"""A token that can be sent but not seen.

It does not encrypt anything: it keeps the token out of reprs, messages, logs and pickles.
"""

from __future__ import annotations

import html
import re
from typing import NoReturn
from urllib.parse import quote

HIDDEN = "[token]"
# Characters. Real tokens are far longer; a short one, as of a sandbox, may be a word of the data.
_SHORTEST = 16

# Some other credential of the same request, e.g. in a proxy's page that shows what it was sent.
_AUTHORIZATION = re.compile(
    r"(?i)(authorization\b[\"']?\s*(?:[:=]|=>)\s*[\"']?)(?:(?:token|bearer|basic|digest)\s+)?[^\s\"'<,;&]+"
)
_SCHEME = re.compile(r"(?i)\s*(?:(?:token|bearer)(?:\s+|$))?")


class Secret:
    """Holds a token; only ``authorization`` gives it away."""

    __slots__ = ("_forms", "_value")

    def __init__(self, value: str) -> None:
        value = _SCHEME.sub("", value, count=1).strip()
        self._value = value
        # Longest first, so that no escaped form is left behind half replaced.
        forms = {value, quote(value, safe=""), quote(value), html.escape(value)}
        forms.add(value.replace("/", "\\/"))
        self._forms = tuple(
            sorted((form for form in forms if len(form) >= _SHORTEST), key=len, reverse=True)
        )

    def fault(self) -> str | None:
        """Return what is wrong with the token as such, without showing it."""
        if not self._value:
            return "the dbt Cloud token is empty"
        if not all("!" <= char <= "~" for char in self._value):
            return "the dbt Cloud token holds blanks, line breaks or characters outside ASCII"
        return None

    def authorization(self) -> str:
        """Return the value of the Authorization header (docs/dbt-cloud-api.md, fact 1)."""
        return f"Token {self._value}"

    def redact(self, text: str) -> str:
        """Return ``text`` without the token and without any Authorization header's value."""
        for form in self._forms:
            text = text.replace(form, HIDDEN)
        return _AUTHORIZATION.sub(rf"\g<1>{HIDDEN}", text)

    def redact_bytes(self, body: bytes) -> bytes:
        """Return ``body`` without the token; the very same object if it is not in there."""
        for form in self._forms:
            if (hidden := form.encode()) in body:
                body = body.replace(hidden, HIDDEN.encode())
        return body

    def __repr__(self) -> str:
        return f"Secret({HIDDEN})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a dbt Cloud token is not pickled: build the client anew in each process")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self
