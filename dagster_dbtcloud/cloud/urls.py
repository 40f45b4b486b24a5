"""Addresses of dbt Cloud: what users paste, made into what the client needs.

It asks nobody: whether an address exists is found out by the client.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, fields
from itertools import pairwise
from urllib.parse import quote, unquote, urlsplit

from dagster_dbtcloud.errors import ConfigError

# Pages where the account's id follows at once: /deploy/4242/projects/11 (fact 5).
_ACCOUNT_PAGES = frozenset(
    {"account", "accounts", "catalog", "dashboard", "deploy", "develop", "explore"}
    | {"insights", "orchestration", "settings", "studio"}
)
# The first words of dbt Cloud's own paths; what stands before them is a gateway's.
_PAGES = _ACCOUNT_PAGES | {"#", "api", "cloud-cli", "login", "next", "profile", "projects"}
_NOUNS = {
    "projects": "project_id",
    "environments": "environment_id",
    "jobs": "job_id",
    "runs": "run_id",
}
_SERVICE = (".dbt.com", ".getdbt.com")
_HOST = re.compile(r"(?i)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\.?")
_DIGITS = re.compile(r"[0-9]{1,19}")

_HINT = "expected something like https://ab123.us1.dbt.com"


@dataclass(frozen=True)
class DbtCloudUrl:
    """What a pasted dbt Cloud URL names; ``None`` where it names nothing."""

    access_url: str
    account_id: int | None = None
    project_id: int | None = None
    environment_id: int | None = None
    job_id: int | None = None
    run_id: int | None = None


def parse_url(text: str) -> DbtCloudUrl:
    """Read a URL copied from dbt Cloud's pages or API, with or without scheme.

    Raises: ConfigError if there is no host in it.
    Source: docs/dbt-cloud-api.md, facts 4 and 5.
    """
    access_url, words = _split(text)
    ids: dict[str, int] = {}
    account: int | None = None
    for word, following in pairwise(words):
        if not _DIGITS.fullmatch(following):
            continue
        if word in _ACCOUNT_PAGES and account is None:
            account = int(following)
        elif word in _NOUNS:
            ids.setdefault(_NOUNS[word], int(following))
    return DbtCloudUrl(access_url=access_url, account_id=account, **ids)


def is_url(text: str) -> bool:
    """Tell whether a text that may be a name is an address: names hold slashes, too."""
    if "://" in text or "/" not in text:
        return "://" in text
    try:
        url = parse_url(text)
    except ConfigError:
        return False
    return any(getattr(url, each.name) is not None for each in fields(url)[1:])


def normalize_access_url(text: str) -> str:
    """Return scheme and host (and the path of a gateway, if any), without trailing slash.

    Takes a bare host, a URL with ``/api/v2``, or any pasted page. ``http`` is kept for this machine
    and for names and addresses of the local network: elsewhere the token would travel in the open,
    so it becomes ``https``.

    Raises: ConfigError.
    Source: docs/dbt-cloud-api.md, facts 3 and 4.
    """
    return _split(text)[0]


def is_loopback(host: str) -> bool:
    """Tell whether ``host`` is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def quote_path(path: str) -> str:
    """Return an artifact's path quoted for a URL.

    Raises: ConfigError for an empty or absolute path and for one that climbs (``..``).
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\x00" in path:
        raise ConfigError(
            f"not the path of an artifact: {path!r}; "
            "paths are relative to dbt's target directory, e.g. 'compiled/shop/models/a.sql'"
        )
    return "/".join(quote(part, safe="") for part in parts)


def _split(text: str) -> tuple[str, list[str]]:
    """Return the access URL, and the words of the rest of the path."""
    text = text.strip().strip("<>\"'")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text.lstrip("/")
    if scheme.lower() not in ("", "http", "https"):
        raise ConfigError(f"an access URL starts with https://, not with {scheme}://; {_HINT}")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        host, port = "", None
        parts = urlsplit("//")
    # The text itself is not shown: people do paste a token, or a password before an @, here.
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"the access URL holds a user name or password; {_HINT}")
    # An underscore is met in names of containers; without a scheme it is rather a token.
    if not _is_host(host.replace("_", "-") if separator else host):
        raise ConfigError(f"there is no valid host name in the access URL; {_HINT}")

    plain = _is_local(host) if separator else is_loopback(host)
    scheme = "http" if plain and scheme.lower() != "https" else "https"
    shown = f"[{host}]" if ":" in host else host
    if port is not None and port != {"http": 80, "https": 443}[scheme]:
        shown = f"{shown}:{port}"

    words = [unquote(word) for word in parts.path.split("/") if word]
    # The pages of older days live behind a hash: /#/accounts/1/projects/2/jobs/3/
    if parts.fragment:
        words += ["#", *(unquote(word) for word in parts.fragment.split("?")[0].split("/") if word)]
    first = next((i for i, word in enumerate(words) if word.lower() in _PAGES), len(words))
    prefix = [] if host.endswith(_SERVICE) else words[:first]
    path = "".join(f"/{quote(word)}" for word in prefix)
    return f"{scheme}://{shown}{path}", words[first:]


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _HOST.fullmatch(host) is not None
    return True


def _is_local(host: str) -> bool:
    """Tell whether ``host`` is this machine or, by its form, one of the local network."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return is_loopback(host) or "." not in host
