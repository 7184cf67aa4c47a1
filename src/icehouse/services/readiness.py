"""Whether a server can do its work now: what a load balancer asks before it sends anybody."""

from __future__ import annotations

from typing import Final

import structlog
from sqlalchemy import Connection

from icehouse.db.engine import SCHEMA_REVISION, Database
from icehouse.errors import IcehouseError, OverQuota
from icehouse.services.workers import Workers
from icehouse.storage.blobs import BlobStore

_PROBE: Final = bytes(4096)

_log = structlog.get_logger(__name__)


class Readiness:
    """Looks at the database and at the store of blobs."""

    def __init__(self, database: Database, blobs: BlobStore, workers: Workers) -> None:
        self._database = database
        self._blobs = blobs
        self._workers = workers

    async def find_fault(self) -> str | None:
        """Why the server is not ready, in words that anybody may read; `None`: it is. The log has the rest."""
        try:
            revision = await self._database.read(_read_revision)
        except IcehouseError as exc:
            _log.warning("not ready", error=str(exc))
            return "the database does not answer"
        if revision != SCHEMA_REVISION:
            return f"the database is at revision {revision}, and this version works with {SCHEMA_REVISION} alone"
        try:
            await self._workers.run_always(self._try_to_write)
        except OverQuota as exc:
            _log.warning("not ready", error=str(exc))
            return "the disk is full"
        except IcehouseError as exc:
            _log.warning("not ready", error=str(exc))
            return "the storage cannot be written"
        return None

    def _try_to_write(self) -> None:
        writer = self._blobs.create()
        try:
            writer.write(_PROBE)
        finally:
            writer.abort()


def _read_revision(connection: Connection) -> str:
    return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())
