"""Opening stored NARs, to serve or to read them."""

import sqlite3
from collections.abc import Callable, Mapping
from typing import Final, TypeVar, cast

from sqlalchemy import Connection

from icehouse.db.engine import Database, database_errors
from icehouse.db.serving import RecipeRow, find_recipe_row, find_state, load_served_chunks
from icehouse.errors import Corrupt, InvalidFormat, NotFound
from icehouse.nix.hashes import render_sha256
from icehouse.rules.chunks import max_chunks
from icehouse.rules.recipes import Recipe, parse_recipe
from icehouse.storage.blobs import BlobStore
from icehouse.storage.nar_contents import NarContents
from icehouse.storage.nars import BLOCK_BYTES, NarFile, StoredChunk

T = TypeVar("T")
LayOut = Callable[[BlobStore, int, Recipe, Mapping[int, StoredChunk]], T]
"""`NarFile` or `NarContents`."""

_SHORT_RECIPE_BYTES: Final = 1024
_FEW_CHUNKS: Final = 64
_KEPT_BYTES: Final = 16 * 1024 * 1024
_KEPT_COPIES_BYTES: Final = 4 * 1024 * 1024  # of one NAR


class NarFiles:
    """The files of all stored NARs. Used in the event loop that owns the plain connection."""

    def __init__(self, database: Database, reader: sqlite3.Connection, blobs: BlobStore) -> None:
        """Read rows through *reader* at once where they are few, and else in a thread of *database*."""
        self._database = database
        self._reader = reader
        self._blobs = blobs
        self._kept: dict[int, NarFile] = {}
        """Long ones, by id, the oldest first, as the database had them at `_kept_state`."""
        self._kept_bytes = 0
        self._kept_state = 0

    async def open_nar(self, nar_id: int) -> NarFile:
        """The file of a NAR.

        For most NARs this takes some 50 microseconds, less than the way to a thread and back. What takes longer is kept
        for others that ask for it, until anything changes in the database.

        Raises:
            NotFound: there is no such NAR.
            Corrupt: its rows disagree.
        """
        with database_errors(self._database.path):
            state = find_state(self._reader)
            if state != self._kept_state:
                self._kept.clear()
                self._kept_bytes, self._kept_state = 0, state
            found = self._kept.get(nar_id) or self._open_short(nar_id, NarFile)
        if found is None:
            found = await self._open_long(nar_id, _lay_out_to_keep)
            if state == self._kept_state:  # laid out from this state or a later one; if that differs, it goes soon
                self._keep(nar_id, found)
        return found

    def read_small(self, nar_id: int) -> bytes | None:
        """The whole file of a NAR, where that can be had at once: it is in memory, in few chunks and a single block.

        Raises:
            NotFound: there is no such NAR.
            Corrupt: its rows disagree, or a pack is shorter than they say.
            Unavailable: the backend failed.
        """
        with database_errors(self._database.path):
            nar = self._open_short(nar_id, NarFile)
        if nar is None or nar.file_size > BLOCK_BYTES:
            return None
        whole = nar.read_whole_if_warm()
        return None if whole is None else bytes(whole)

    async def open_contents(self, nar_id: int) -> NarContents:
        """The raw bytes of a NAR. Takes as long as `open_nar`, and has the same errors."""
        return await self._open(nar_id, NarContents)

    async def _open(self, nar_id: int, lay_out: LayOut[T]) -> T:
        with database_errors(self._database.path):
            found = self._open_short(nar_id, lay_out)
        return found if found is not None else await self._open_long(nar_id, lay_out)

    def _keep(self, nar_id: int, nar: NarFile) -> None:
        if nar_id in self._kept or nar.layout_bytes > _KEPT_BYTES:
            return
        self._kept[nar_id] = nar
        self._kept_bytes += nar.layout_bytes
        while self._kept_bytes > _KEPT_BYTES:
            self._kept_bytes -= self._kept.pop(next(iter(self._kept))).layout_bytes

    def _open_short(self, nar_id: int, lay_out: LayOut[T]) -> T | None:
        row = _get_recipe_row(self._reader, nar_id)
        if len(row.body) > _SHORT_RECIPE_BYTES:
            return None
        recipe = _parse(row)
        return self._lay_out(self._reader, row, recipe, lay_out) if recipe.chunk_count <= _FEW_CHUNKS else None

    async def _open_long(self, nar_id: int, lay_out: LayOut[T]) -> T:
        def work(connection: Connection) -> T:
            plain = cast("sqlite3.Connection", connection.connection.driver_connection)
            row = _get_recipe_row(plain, nar_id)
            return self._lay_out(plain, row, _parse(row), lay_out)

        return await self._database.read(work)

    def _lay_out(self, connection: sqlite3.Connection, row: RecipeRow, recipe: Recipe, lay_out: LayOut[T]) -> T:
        chunks = load_served_chunks(connection, row.domain_id, recipe.runs)
        try:
            return lay_out(self._blobs, row.domain_id, recipe, chunks)
        except KeyError as exc:
            raise Corrupt(f"NAR {render_sha256(row.nar_hash)} names chunk {exc}, which is not there") from exc


def _lay_out_to_keep(blobs: BlobStore, domain_id: int, recipe: Recipe, chunks: Mapping[int, StoredChunk]) -> NarFile:
    nar = NarFile(blobs, domain_id, recipe, chunks)
    nar.keep_copies(max_bytes=_KEPT_COPIES_BYTES)
    return nar


def _get_recipe_row(connection: sqlite3.Connection, nar_id: int) -> RecipeRow:
    row = find_recipe_row(connection, nar_id)
    if row is None:
        raise NotFound(f"there is no NAR {nar_id}")
    return row


def _parse(row: RecipeRow) -> Recipe:
    try:
        return parse_recipe(row.body, max_chunks=max_chunks(row.nar_size))
    except InvalidFormat as exc:
        raise Corrupt(f"the recipe of NAR {render_sha256(row.nar_hash)}: {exc}") from exc
