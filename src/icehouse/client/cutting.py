"""Reading NARs of the local store as identified chunks, a bounded stretch at a time, in worker threads."""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from icehouse.client.nar_walk import walk_nar
from icehouse.client.push_memory import STEP_BYTES
from icehouse.errors import Conflict
from icehouse.nix.hashes import render_sha256
from icehouse.nix.path_info_json import ValidPath
from icehouse.nix.store_paths import StoreDir
from icehouse.rules.chunks import Chunker, ChunkParameters, CutChunk, chunk_identity

WINDOW_BYTES: Final = 1024 * 1024 * 1024
"""NARs of this size together are read largest first, so that the server has little left to prove at the end; beyond
it references come first, so that a long push publishes as it goes."""


@dataclass(frozen=True, slots=True)
class IdentifiedChunk:
    """A chunk on its way to the server: its name, its zeroed bytes, and where the store hashes stood."""

    identity: bytes
    raw: bytes
    positions: tuple[int, ...]


@dataclass(slots=True, eq=False)
class LocalNar:
    """One NAR of the local store, and what is known of its chunks so far. Several paths may have the same NAR."""

    info: ValidPath
    """One of the paths that have it."""
    path: Path
    """Where it is read."""
    read: "Callable[[Path], Iterator[bytes | bytearray | memoryview]]" = walk_nar
    """How: by default the NAR of the files that are there is made."""
    identities: list[bytes] = field(default_factory=list[bytes])
    """Its chunks, in order."""
    store_hashes: list[bytes] = field(default_factory=list[bytes])
    """What stands at their positions, in order."""
    rounds: int = 0
    """How often it was read from the start."""

    @property
    def nar_hash(self) -> str:
        """``sha256:`` and 52 letters of Nix32."""
        return render_sha256(self.info.nar_hash)


@dataclass(frozen=True, slots=True)
class Stretch:
    """What one call of `NarCutter.read_some` read of one NAR."""

    nar: LocalNar
    chunks: list[IdentifiedChunk]
    is_last: bool


class NarCutter:
    """Reads some NARs one after another. Used by one thread at a time."""

    def __init__(self, nars: list[LocalNar], store_dir: StoreDir, parameters: ChunkParameters) -> None:
        """Start before the first of *nars*, each from its own start."""
        self._store_dir = store_dir
        self._parameters = parameters
        self._stretches = self._read(nars)
        self.is_done = not nars
        self.read_bytes = 0
        """Bytes of NARs that were read so far."""

    def read_some(self, enough_bytes: int) -> list[Stretch]:
        """The next stretches, of about *enough_bytes* together. With the last ones, `is_done` becomes true.

        Raises:
            Conflict: a path does not have the size that Nix wrote down for it.
            IcehouseError: as `walk_nar`.
        """
        end = self.read_bytes + enough_bytes
        found: list[Stretch] = []
        while self.read_bytes < end:
            stretch = next(self._stretches, None)
            if stretch is None:
                self.is_done = True
                break
            if stretch.chunks or stretch.is_last:
                found.append(stretch)
        return found

    def _read(self, nars: list[LocalNar]) -> Iterator[Stretch]:
        for nar in nars:
            nar.identities.clear()
            nar.store_hashes.clear()
            nar.rounds += 1
            chunker = Chunker(self._store_dir, self._parameters)
            interned: dict[bytes, bytes] = {}
            start = self.read_bytes
            for piece in nar.read(nar.path):
                self.read_bytes += len(piece)
                yield Stretch(nar, [_identify(nar, cut, interned) for cut in chunker.feed(piece)], is_last=False)
            size = self.read_bytes - start
            if size != nar.info.nar_size:
                raise Conflict(
                    f"{nar.path} has a NAR of {size} bytes, and Nix wrote down {nar.info.nar_size}: the store is "
                    f"damaged; `nix-store --verify-path {nar.info.store_path.full(self._store_dir)}` says more"
                )
            yield Stretch(nar, [_identify(nar, cut, interned) for cut in chunker.finish()], is_last=True)


def _identify(nar: LocalNar, cut: CutChunk, interned: dict[bytes, bytes]) -> IdentifiedChunk:
    identity = chunk_identity(cut.raw, cut.positions)
    nar.identities.append(identity)
    nar.store_hashes.extend(interned.setdefault(store_hash, store_hash) for store_hash in cut.hashes)
    return IdentifiedChunk(identity, cut.raw, cut.positions)


class NarSource(Protocol):
    """Where the NARs of paths are read."""

    @property
    def store_dir(self) -> StoreDir:
        """The store directory of the paths."""
        ...

    def find_nar(self, info: ValidPath) -> LocalNar:
        """The NAR of a path that is there. Reads nothing yet."""
        ...


def distinct_nars(infos: Iterable[ValidPath], source: NarSource) -> list[LocalNar]:
    """The NARs of paths, each once."""
    nars: dict[bytes, LocalNar] = {}
    for info in infos:
        nars.setdefault(info.nar_hash, source.find_nar(info))
    return list(nars.values())


def in_reading_order(nars: Iterable[LocalNar]) -> Iterator[LocalNar]:
    """The NARs window by window, largest first in each."""
    window: list[LocalNar] = []
    size = 0
    for nar in nars:
        if window and size + nar.info.nar_size > WINDOW_BYTES:
            yield from sorted(window, key=_size_of, reverse=True)
            window, size = [], 0
        window.append(nar)
        size += nar.info.nar_size
    yield from sorted(window, key=_size_of, reverse=True)


def _size_of(nar: LocalNar) -> int:
    return nar.info.nar_size


def grouped(nars: Iterable[LocalNar]) -> Iterator[list[LocalNar]]:
    """Neighbours that are read together: up to `STEP_BYTES`, or one large NAR."""
    group: list[LocalNar] = []
    size = 0
    for nar in nars:
        if group and size + nar.info.nar_size > STEP_BYTES:
            yield group
            group, size = [], 0
        group.append(nar)
        size += nar.info.nar_size
    if group:
        yield group


@contextmanager
def worker_threads(threads: int) -> Generator[ThreadPoolExecutor]:
    """Threads that read, cut and compress. Where the body fails, what they have begun ends first."""
    with ThreadPoolExecutor(threads, "push") as executor:
        try:
            yield executor
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
