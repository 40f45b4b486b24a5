"""Documents in SQLite: one table per kind, each row the JSON that the API is made from.

It knows no rule of dbt Cloud; a kill at any moment loses at most the transaction under way.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Doc = dict[str, Any]

# kind -> fields that are searched; ids start high: those of dbt Cloud do not fit into 32 bits.
KINDS: Mapping[str, tuple[str, ...]] = {
    "accounts": ("state", "name", "created_at"),
    "projects": ("account_id", "state", "name", "created_at"),
    "environments": (
        "account_id",
        "project_id",
        "state",
        "name",
        "type",
        "deployment_type",
        "created_at",
    ),
    "jobs": ("account_id", "project_id", "environment_id", "state", "name", "created_at"),
    "variables": ("account_id", "project_id", "environment_id", "job_definition_id", "name"),
    "tokens": ("account_id", "name", "secret"),
    "runs": (
        "account_id",
        "project_id",
        "environment_id",
        "job_definition_id",
        "status",
        "created_at",
        "finished_at",
        "listed_at",
    ),
    "triggers": (),
    "steps": ("run_id", "index"),
    "subscriptions": ("account_id", "state", "key"),
    "events": ("subscription_id", "key", "progress"),
    "receipts": ("event_id",),
}
FIRST_ID = {kind: 70403103000000 + 100000 * place for place, kind in enumerate(KINDS, start=1)}


class Store:
    """Rows by kind and id. Safe to share between threads; a transaction may be nested."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.RLock()
        self._depth = 0
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        with self.transaction():
            for kind, fields in KINDS.items():
                self._create(kind, fields)

    def _create(self, kind: str, fields: Sequence[str]) -> None:
        columns = "".join(
            f""", [{field}] GENERATED ALWAYS AS (json_extract(doc, '$.{field}')) VIRTUAL"""
            for field in fields
        )
        self._db.execute(
            f"CREATE TABLE IF NOT EXISTS {kind}"
            f"(id INTEGER PRIMARY KEY AUTOINCREMENT, doc TEXT NOT NULL{columns})"
        )
        for field in fields:
            self._db.execute(f"CREATE INDEX IF NOT EXISTS {kind}_{field} ON {kind}([{field}], id)")

    def close(self) -> None:
        with self.lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the lock; commit at the outermost end, roll back on any error."""
        with self.lock:
            if self._depth == 0:
                self._db.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if self._depth == 0:
                    self._db.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                self._db.execute("COMMIT")

    def insert(self, kind: str, doc: Mapping[str, Any], *, row_id: int | None = None) -> Doc:
        """Store a new document under the next id (or ``row_id``) and return it with its id."""
        with self.transaction():
            if row_id is None:
                last = self._db.execute(
                    "SELECT seq FROM sqlite_sequence WHERE name = ?", (kind,)
                ).fetchone()
                row_id = last[0] + 1 if last and last[0] else FIRST_ID[kind] + 1
            whole = {**doc, "id": row_id}
            self._db.execute(
                f"INSERT INTO {kind}(id, doc) VALUES (?, ?)",  # noqa: S608 -- a name from KINDS
                (row_id, json.dumps(whole)),
            )
            return whole

    def get(self, kind: str, row_id: int) -> Doc | None:
        rows = self.select(kind, {"id": row_id})
        return rows[0] if rows else None

    def update(self, kind: str, row_id: int, **changes: Any) -> Doc:
        """Change fields of a document. Raises: KeyError if there is none."""
        with self.transaction():
            doc = self.get(kind, row_id)
            if doc is None:
                raise KeyError((kind, row_id))
            doc.update(changes)
            self._db.execute(
                f"UPDATE {kind} SET doc = ? WHERE id = ?",  # noqa: S608
                (json.dumps(doc), row_id),
            )
            return doc

    def delete(self, kind: str, row_id: int) -> None:
        with self.transaction():
            self._db.execute(f"DELETE FROM {kind} WHERE id = ?", (row_id,))  # noqa: S608

    def select(
        self,
        kind: str,
        where: Mapping[str, Any] | None = None,
        *,
        also: Sequence[tuple[str, Sequence[Any]]] = (),
        order_by: str = "id",
        limit: int = -1,
        offset: int = 0,
    ) -> list[Doc]:
        """Rows whose fields equal ``where`` (a list: any of it) and meet ``also`` (SQL, values).

        ``order_by``: a field of the kind; ``-`` before it turns it round; ids break ties,
        and rows without the field come last (with ``-``: first).
        """
        clause, values = self._where(where, also)
        field, turn = order_by.lstrip("-"), "DESC" if order_by.startswith("-") else "ASC"
        # As PostgreSQL sorts by itself; what dbt Cloud does is not documented.
        empty = "FIRST" if turn == "DESC" else "LAST"
        if field != "id" and field not in KINDS[kind]:
            raise ValueError(f"{kind} are not ordered by {field!r}")
        sql = (
            f"SELECT doc FROM {kind}{clause} "  # noqa: S608
            f"ORDER BY [{field}] {turn} NULLS {empty}, id {turn} LIMIT ? OFFSET ?"
        )
        with self.lock:
            rows = self._db.execute(sql, (*values, limit, offset)).fetchall()
        return [json.loads(row[0]) for row in rows]

    def count(
        self,
        kind: str,
        where: Mapping[str, Any] | None = None,
        *,
        also: Sequence[tuple[str, Sequence[Any]]] = (),
    ) -> int:
        clause, values = self._where(where, also)
        with self.lock:
            row = self._db.execute(
                f"SELECT count(*) FROM {kind}{clause}",  # noqa: S608
                values,
            ).fetchone()
        return int(row[0])

    @staticmethod
    def _where(
        where: Mapping[str, Any] | None, also: Sequence[tuple[str, Sequence[Any]]]
    ) -> tuple[str, list[Any]]:
        # In brackets: a name in double quotes that SQLite does not know would be a text to it.
        parts: list[str] = []
        values: list[Any] = []
        for field, value in (where or {}).items():
            if isinstance(value, (list, tuple, set, frozenset)):
                parts.append(f"[{field}] IN ({', '.join('?' * len(value))})")
                values.extend(value)
            elif value is None:
                parts.append(f"[{field}] IS NULL")
            else:
                parts.append(f"[{field}] = ?")
                values.append(value)
        for sql, arguments in also:
            parts.append(sql)
            values.extend(arguments)
        return (" WHERE " + " AND ".join(parts) if parts else ""), values
