"""The known runs of a search: a record of each that has ended, and who works on which.

A record is never changed. It and the settings of the search are the whole truth: what comes next is computed from them
alone, on any machine. A claim lasts as long as the process that made it, however that ends, so nothing stays "running".
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from classifier import portability
from classifier.errors import StageError
from classifier.runner import files

import filelock

Record = dict[str, Any]

SETTINGS = "settings"


class Storage(Protocol):
    """Where the workers of one search meet."""

    def records(self) -> dict[str, Record]:
        """All records by their key; the settings are one of them."""

    def add(self, key: str, record: Record) -> Record:
        """Keep a record, unless there is one of that key, and return what is kept."""

    def claim(self, key: str) -> contextlib.AbstractContextManager[bool]:
        """Whether this process alone works on that key, until the end of the block."""

    def clear(self) -> None:
        """Remove all records."""


class FileStorage:
    """A folder: a file for each record, and a file lock, which ends with its process, for each claim.

    Args:
        folder: is made when it is needed.
    """

    def __init__(self, folder: Path):
        self._records, self._claims = folder / "records", folder / "claims"

    def records(self) -> dict[str, Record]:
        found = sorted(self._records.glob("[!.]*.json")) if self._records.exists() else []
        return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in found}

    def add(self, key: str, record: Record) -> Record:
        path = self._records / f"{key}.json"
        self._claims.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self._claims / f"record-{key}.lock"):  # the settings come from all workers at once
            if not path.exists():
                files.atomic_write(path, portability.json_bytes(record))
            kept: Record = json.loads(path.read_text(encoding="utf-8"))
        return kept

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        self._claims.mkdir(parents=True, exist_ok=True)
        try:
            lock = filelock.FileLock(self._claims / f"{key}.lock", timeout=0, thread_local=False)
            lock.acquire()
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def clear(self) -> None:
        files.remove(self._records)
        files.remove(self._claims)


class PostgresStorage:
    """A table in a PostgreSQL database, for workers on several machines.

    A claim is an advisory lock of a connection: the server drops it as soon as the connection is gone, killed or cut
    off. Optuna's own storage has no such thing; there a killed trial stays "running" until somebody calls it failed.

    Args:
        url: ``postgresql://user:password@host:port/database``.
        name: of the search; a database may hold several.

    Raises:
        StageError: the database cannot be reached.
    """

    def __init__(self, url: str, name: str):
        self._url, self._name = url, name
        with self._connection() as connection:
            # Two first workers may come at once.
            connection.execute("SELECT pg_advisory_lock(hashtextextended('search_records', 0))")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS search_records"
                " (search text, key text, record text NOT NULL, PRIMARY KEY (search, key))"
            )

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Any]:
        import psycopg

        try:
            # A host that vanished without a word is noticed by the server, which then drops its claims.
            options = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
            with psycopg.connect(self._url, autocommit=True, connect_timeout=10, options=options) as connection:
                yield connection
        except psycopg.Error as error:
            where = psycopg.conninfo.conninfo_to_dict(self._url)
            place = f"{where.get('host', 'localhost')}:{where.get('port', 5432)}/{where.get('dbname', '')}"
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise StageError(f"the storage postgresql://{place} cannot be used: {reason[0].strip()}") from None

    def records(self) -> dict[str, Record]:
        with self._connection() as connection:
            rows = connection.execute(
                "SELECT key, record FROM search_records WHERE search = %s ORDER BY key", (self._name,)
            ).fetchall()
        return {key: json.loads(record) for key, record in rows}

    def add(self, key: str, record: Record) -> Record:
        with self._connection() as connection:
            connection.execute(
                "INSERT INTO search_records VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (self._name, key, portability.json_bytes(record).decode()),
            )
            (kept,) = connection.execute(
                "SELECT record FROM search_records WHERE search = %s AND key = %s", (self._name, key)
            ).fetchone()
        found: Record = json.loads(kept)
        return found

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        with self._connection() as connection:
            (claimed,) = connection.execute(
                "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (f"{self._name}/{key}",)
            ).fetchone()
            yield claimed

    def clear(self) -> None:
        with self._connection() as connection:
            connection.execute("DELETE FROM search_records WHERE search = %s", (self._name,))
