"""Stock Nix's side of pushing, without Nix: files of NARs, narinfos, and the services that take them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from icehouse.db.caches import CacheRow
from icehouse.nix import nix32
from icehouse.nix.compression import Compression
from icehouse.nix.hashes import HashAlgorithm, NixHash
from icehouse.nix.narinfo import NarInfo, render_narinfo
from icehouse.nix.signing import SecretKey, fingerprint
from icehouse.nix.store_paths import NIX_STORE, StoreDir, StorePath
from icehouse.services.aliases import Aliases
from icehouse.services.nar_uploads import NarUploads
from icehouse.services.narinfo_uploads import NarinfoUploads
from tests.nix.compressed import MAKERS
from tests.services.publishing import Store, in_pieces

MAX_NAR_BYTES = 80 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class NarUpload:
    """A NAR in a file that is named as Nix names it."""

    name: str
    data: bytes
    nar: bytes
    compression: Compression

    @classmethod
    def make(cls, nar: bytes, compression: Compression = Compression.XZ) -> Self:
        return cls.of_file(MAKERS[compression](nar), nar, compression)

    @classmethod
    def of_file(cls, data: bytes, nar: bytes, compression: Compression) -> Self:
        return cls(f"{nix32.encode(hashlib.sha256(data).digest())}.nar{compression.extension}", data, nar, compression)

    def narinfo(self, base_name: str, references: Sequence[str] = (), store_dir: StoreDir = NIX_STORE) -> NarInfo:
        """What Nix says of the path with this NAR."""
        return NarInfo(
            store_path=StorePath.parse(base_name),
            store_dir=store_dir,
            url=f"nar/{self.name}",
            compression=self.compression.value,
            file_hash=NixHash(HashAlgorithm.SHA256, hashlib.sha256(self.data).digest()),
            file_size=len(self.data),
            nar_hash=hashlib.sha256(self.nar).digest(),
            nar_size=len(self.nar),
            references=tuple(sorted(StorePath.parse(reference) for reference in references)),
        )


def sign(info: NarInfo, *keys: SecretKey) -> NarInfo:
    """The same with the signatures of *keys* besides."""
    text = fingerprint(info, info.store_dir)
    return replace(info, signatures=(*info.signatures, *(key.sign(text) for key in keys)))


class StockNix:
    """Sends to the services of a store as stock Nix does."""

    def __init__(self, store: Store, cache: CacheRow) -> None:
        self.store = store
        self.cache = cache
        self.uploads = NarUploads(
            store.database,
            store.blobs,
            store.workers,
            store.nars,
            lambda: store.now,
            zstd_level=3,
            max_nar_bytes=MAX_NAR_BYTES,
        )
        self.narinfos = NarinfoUploads(store.database, store.publisher)
        self.aliases = Aliases(
            store.database, store.nar_files, note_use=lambda path_id: store.uses.append((path_id, store.now))
        )

    async def put_nar(self, file: NarUpload, piece_bytes: int = 65_536) -> None:
        await self.uploads.receive_nar(self.cache, file.name, in_pieces(file.data, piece_bytes), token_id=None)

    async def put_narinfo(self, info: NarInfo) -> list[str]:
        """Send it; the references that its path waits for."""
        text = render_narinfo(info).encode()
        absent = await self.narinfos.receive_narinfo(self.cache, info.store_path.hash_part, text, token_id=None)
        return [path.base_name for path in absent]

    async def push(self, base_name: str, nar: bytes, references: Sequence[str] = ()) -> list[str]:
        """Send a path; the references that it waits for."""
        file = NarUpload.make(nar)
        await self.put_nar(file)
        return await self.put_narinfo(file.narinfo(base_name, references))
