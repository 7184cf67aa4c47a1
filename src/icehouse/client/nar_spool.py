"""NARs that were read from somewhere, checked, and lie in a folder until they are pushed."""

import asyncio
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import BinaryIO, Final

from icehouse.client.cutting import LocalNar
from icehouse.client.nar_sources import NarSource
from icehouse.errors import Corrupt, TooLarge
from icehouse.nix.compression import parse_compression
from icehouse.nix.decompress import Decompressor
from icehouse.nix.hashes import render_sha256
from icehouse.nix.narinfo import NarInfo
from icehouse.nix.path_info_json import ValidPath
from icehouse.nix.store_paths import StoreDir

_PIECE_BYTES: Final = 1024 * 1024
_MAX_OVERHEAD_BYTES: Final = 1024 * 1024
"""By which a file may be larger than its NAR: what does not compress, and the frames around it."""


class NarSpool:
    """Whole NARs in a folder, by their hash."""

    def __init__(self, folder: Path, store_dir: StoreDir) -> None:
        """Keep them in *folder*, which is made."""
        folder.mkdir()
        self._folder = folder
        self._store_dir = store_dir

    @property
    def store_dir(self) -> StoreDir:
        """The store directory of their paths."""
        return self._store_dir

    def find_nar(self, info: ValidPath) -> LocalNar:
        """A NAR that was received."""
        return LocalNar(info, self._place(info.nar_hash), _read_pieces)

    async def receive(self, source: NarSource, info: NarInfo, count: Callable[[int], None]) -> None:
        """Read a NAR from *source*, and keep it if it has the hash and the size that its narinfo says.

        Args:
            source: where it is.
            info: its narinfo.
            count: told of bytes of the file as they come.

        Raises:
            Corrupt: it has not.
            Unsupported: its compression is not read here.
            InvalidFormat, TooLarge: it cannot be decoded, or is more than it may be.
            IcehouseError: as `NarSource.read`.
        """
        place = self._place(info.nar_hash)
        checker = NarChecker(info)
        with place.open("wb") as file:
            async with aclosing(source.read(info.url)) as pieces:
                async for piece in pieces:
                    count(len(piece))
                    await asyncio.to_thread(checker.take, piece, file)
        checker.finish()

    def clear(self) -> None:
        """Delete them."""
        shutil.rmtree(self._folder)

    def _place(self, nar_hash: bytes) -> Path:
        return self._folder / f"{nar_hash.hex()}.nar"


class NarChecker:
    """Decodes the file of a NAR, and finds out whether it is what a narinfo says."""

    def __init__(self, info: NarInfo) -> None:
        """Nothing was read yet.

        Raises:
            Unsupported: its compression is not read here.
        """
        self._info = info
        self._decompressor = Decompressor(parse_compression(info.compression), max_bytes=info.nar_size)
        self._hasher = hashlib.sha256()
        self._nar_bytes = 0
        self._max_bytes = max(info.nar_size, info.file_size or 0) + _MAX_OVERHEAD_BYTES
        self._read_bytes = 0

    def take(self, piece: bytes, file: BinaryIO | None = None) -> None:
        """Take the next bytes of the file; the NAR's go to *file*.

        Raises:
            TooLarge: there are more than a NAR of that size needs.
            InvalidFormat: they cannot be decoded.
        """
        self._read_bytes += len(piece)
        if self._read_bytes > self._max_bytes:
            raise TooLarge(
                f"{self._info.url} has more than {self._max_bytes} bytes, for a NAR of {self._info.nar_size}"
            )
        for decoded in self._decompressor.feed(piece):
            self._hasher.update(decoded)
            self._nar_bytes += len(decoded)
            if file is not None:
                file.write(decoded)

    def finish(self) -> None:
        """Return if the whole file is the NAR.

        Raises:
            InvalidFormat: the file was cut.
            Corrupt: the NAR has another size or hash.
        """
        self._decompressor.finish()
        info = self._info
        if self._nar_bytes != info.nar_size:
            raise Corrupt(f"{info.url} is a NAR of {self._nar_bytes} bytes; its narinfo says {info.nar_size}")
        if self._hasher.digest() != info.nar_hash:
            raise Corrupt(
                f"{info.url} is a NAR with the hash {render_sha256(self._hasher.digest())}; its narinfo says "
                f"{render_sha256(info.nar_hash)}"
            )


def _read_pieces(place: Path) -> Iterator[bytes]:
    with place.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece
