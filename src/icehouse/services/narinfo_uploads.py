"""narinfos that stock Nix uploads: each commits a NAR that was uploaded before, or adds signatures to a path."""

import asyncio
from functools import partial

from sqlalchemy import Connection

from icehouse.api.publish import PathBody
from icehouse.db.caches import CacheRow
from icehouse.db.engine import Database
from icehouse.db.paths import load_paths
from icehouse.db.uploads import UploadRow, find_upload
from icehouse.errors import Conflict, InvalidFormat
from icehouse.nix.excerpts import excerpt
from icehouse.nix.hashes import render_sha256
from icehouse.nix.narinfo import NarInfo, parse_narinfo
from icehouse.nix.store_paths import HashPart, StorePath
from icehouse.services.publish import Publisher

_FOLDER = "nar/"


class NarinfoUploads:
    """Takes narinfos."""

    def __init__(self, database: Database, publisher: Publisher) -> None:
        """Join the parts."""
        self._database = database
        self._publisher = publisher

    async def receive_narinfo(
        self,
        cache: CacheRow,
        hash_part: HashPart,
        text: bytes,
        *,
        token_id: int | None,
        address: str | None = None,
    ) -> tuple[StorePath, ...]:
        """Publish a path, or keep it unseen until its references are visible. Repeating it changes nothing.

        Returns:
            The references that the path waits for; none: it is visible.

        Raises:
            InvalidFormat: the narinfo is broken, is of another path or store directory, or disagrees with its NAR.
            Conflict: its NAR was not uploaded, or the path is here with another NAR or other references.
            TooLarge: it has too many references or signatures.
            NotFound: the cache was deleted meanwhile.
        """
        info = await asyncio.to_thread(parse_narinfo, text)  # a second, for two megabytes of short lines
        if info.store_path.hash_part != hash_part:
            raise InvalidFormat(f"narinfo of {info.store_path.base_name} under the name {hash_part}.narinfo")
        if info.store_dir != cache.store_dir:
            raise InvalidFormat(
                f"narinfo StorePath {info.store_path.full(info.store_dir)}: the store directory of cache "
                f"{cache.name!r} is {cache.store_dir}"
            )
        await self._database.read(partial(_check_nar, cache=cache, info=info))
        plan = await self._publisher.publish_or_wait(cache, _as_body(info), token_id=token_id, address=address)
        if plan.refused and not plan.may_wait:
            raise Conflict("; ".join(f"{path.base_name}: {reason}" for path, reason in plan.refused))
        return plan.absent


def _check_nar(connection: Connection, cache: CacheRow, info: NarInfo) -> None:
    """Check what the narinfo says of its NAR file against the upload that it names.

    Whoever adds a signature to a narinfo of ours sends our own URL back; then the NAR must be that of the path.
    """
    name = info.url.removeprefix(_FOLDER)
    found = find_upload(connection, cache.id, name) if info.url.startswith(_FOLDER) else None
    if found is not None:
        _compare(info, found)
        return
    path = load_paths(connection, cache.id, [info.store_path.hash_part]).get(info.store_path.hash_part)
    if path is None or path.nar_hash != info.nar_hash:
        raise Conflict(f"narinfo URL {excerpt(info.url)}: no such NAR was uploaded to this cache; upload it first")
    if path.nar_size != info.nar_size:
        raise InvalidFormat(
            f"narinfo NarSize {info.nar_size}: the NAR of {path.store_path.base_name} has {path.nar_size}"
        )


def _compare(info: NarInfo, found: UploadRow) -> None:
    pairs: list[tuple[str, object, object]] = [
        ("Compression", info.compression, found.file.compression),
        ("NarHash", render_sha256(info.nar_hash), render_sha256(found.nar_hash)),
        ("NarSize", info.nar_size, found.nar_size),
    ]
    if info.file_hash is not None:
        pairs.append(("FileHash", info.file_hash.nix32(), render_sha256(found.file.file_hash)))
    if info.file_size is not None:
        pairs.append(("FileSize", info.file_size, found.file.file_size))
    faults = [f"{field} {told}, and the file has {is_}" for field, told, is_ in pairs if told != is_]
    if faults:
        raise InvalidFormat(f"narinfo of {info.store_path.base_name} disagrees with {info.url}: {'; '.join(faults)}")


def _as_body(info: NarInfo) -> PathBody:
    return PathBody(
        store_path=info.store_path.base_name,
        nar_hash=render_sha256(info.nar_hash),
        nar_size=info.nar_size,
        references=[reference.base_name for reference in info.references],
        deriver=None if info.deriver is None else info.deriver.base_name,
        system=info.system,
        ca=None if info.ca is None else info.ca.render(),
        signatures=[signature.render() for signature in info.signatures],
    )
