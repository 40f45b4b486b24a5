"""The edge where the bytes of a dbt artifact become checked JSON.

It knows what all artifacts share (encoding, metadata, timestamps), and nothing of their content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from dagster_dbtcloud.errors import ArtifactError

_SCHEMA = re.compile(r"/(?P<kind>[a-z-]+)/v(?P<version>\d{1,9})(?:\.json)?$", re.ASCII)
_TIMESTAMP = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[T ](?P<time>\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d+))?"
    r"\s*(?P<zone>Z|[+-]\d\d:?\d\d)?\s*$"
)
_EXCERPT = 60  # characters of a damaged file shown in a message


def read_json(data: bytes, *, origin: str, error: type[ArtifactError]) -> dict[str, Any]:
    """Decode ``data`` to the JSON object it holds.

    Raises: ``error``, naming ``origin`` and the place of the damage (byte, or line and column).
    """
    if not data.strip():
        raise error(f"{origin}: the file is empty ({len(data)} bytes).", origin=origin)
    if known := _known_form(data):
        raise error(f"{origin}: this is {known}, not JSON in UTF-8.", origin=origin)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        raise error(
            f"{origin}: not UTF-8 text at byte {bad.start}: {bad.reason}.", origin=origin
        ) from bad
    if text.lstrip().startswith("<"):
        raise error(
            f"{origin}: this is HTML or XML, not JSON (it starts with "
            f"{text.strip()[:_EXCERPT]!r}); a proxy or a login page may have answered.",
            origin=origin,
        )
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as bad:
        raise error(f"{origin}: {_describe(bad)}", origin=origin) from bad
    except RecursionError as bad:
        raise error(f"{origin}: the JSON is nested too deeply to be read.", origin=origin) from bad
    except ValueError as bad:  # Python's limit on the digits of a number
        raise error(f"{origin}: holds a number that cannot be read: {bad}.", origin=origin) from bad
    if not isinstance(raw, dict):
        raise error(
            f"{origin}: holds {_kind_of(raw)} where dbt writes an object.",
            origin=origin,
        )
    return raw


def _known_form(data: bytes) -> str | None:
    """Name what people take for a JSON file by mistake; None for all else."""
    start = data[:4]
    if start.startswith(b"\x1f\x8b"):
        return "a gzip archive"
    if start.startswith(b"PK\x03\x04"):
        return "a zip archive"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or (b"{" in start and b"\0" in start):
        return "text in UTF-16 or UTF-32"
    if not data.strip(b"\0"):
        return f"a file of {len(data)} null bytes, as a crash leaves them"
    return None


def _describe(bad: json.JSONDecodeError) -> str:
    if bad.pos >= len(bad.doc.rstrip()) or bad.msg.startswith("Unterminated string"):
        return (
            f"the JSON is cut off: it ends after {len(bad.doc)} characters, inside what begins "
            f"at offset {bad.pos} ({bad.msg})."
        )
    near = bad.doc[bad.pos : bad.pos + _EXCERPT]
    return (
        f"not valid JSON at offset {bad.pos} (line {bad.lineno}, column {bad.colno}): "
        f"{bad.msg}, near {near!r}."
    )


def _kind_of(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "a boolean",
        type(None): "null",
    }
    return names.get(type(value), "a number")


def check_schema(
    raw: Mapping[str, Any],
    *,
    kind: str,
    versions: Collection[int],
    origin: str,
    error: type[ArtifactError],
) -> tuple[Mapping[str, Any], int]:
    """Return the metadata block and the schema version of an artifact of ``kind``.

    ``kind`` is dbt's word in the schema's address ("manifest", "run-results", "sources").

    Raises: ``error`` when it is another artifact, or of a version outside ``versions``.
    """
    metadata = raw.get("metadata")
    if not isinstance(metadata, dict):
        raise error(f"{origin}: no metadata block; this is not a dbt {kind}.", origin=origin)
    address = metadata.get("dbt_schema_version")
    found = _SCHEMA.search(address) if isinstance(address, str) else None
    if found is None:
        raise error(
            f"{origin}: metadata.dbt_schema_version is {address!r}; this is not a dbt {kind}.",
            origin=origin,
        )
    if found["kind"] != kind:
        raise error(f"{origin}: this is a {found['kind']}, not a {kind}.", origin=origin)
    version = int(found["version"])
    if version not in versions:
        raise error(
            f"{origin}: {kind} schema v{version} (written by dbt "
            f"{metadata.get('dbt_version', 'of unknown version')}) is not supported; "
            f"v{min(versions)} to v{max(versions)} are.",
            origin=origin,
        )
    return metadata, version


def field(
    holder: Mapping[str, Any],
    name: str,
    expected: type[Any],
    *,
    at: str,
    origin: str,
    error: type[ArtifactError],
) -> Any:
    """Return ``holder[name]``, or None when it is absent or null.

    Raises: ``error`` naming the key path ``at.name`` when it is not of the ``expected`` type.
    """
    value = holder.get(name)
    if value is None or isinstance(value, expected):
        return value
    place = f"{at}.{name}".strip(".")
    example = _kind_of(expected()) if expected in (dict, list, str, bool) else "a number"
    raise error(f"{origin}: {place} is {_kind_of(value)}, not {example}.", origin=origin)


def parse_time(value: object) -> datetime | None:
    """Read a timestamp as dbt writes it, as an aware UTC datetime; None for anything else.

    Both engines' forms: with Z, an offset or neither (then UTC), and 0 to 9 digits of a second.
    """
    found = _TIMESTAMP.match(value) if isinstance(value, str) else None
    if found is None:
        return None
    micros = (found["fraction"] or "")[:6].ljust(6, "0")
    try:
        moment = datetime.fromisoformat(f"{found['date']}T{found['time']}.{micros}")
        zone = found["zone"]
        if zone and zone != "Z":
            offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
            moment = moment - offset if zone[0] == "+" else moment + offset
    except (ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=timezone.utc)


def text_map(value: object) -> dict[str, str]:
    """Keep the entries of ``value`` that are text; empty when it is no object."""
    if not isinstance(value, dict):
        return {}
    return {key: item for key, item in value.items() if isinstance(item, str)}
