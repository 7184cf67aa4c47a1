"""Importing paths from another binary cache: closures, or all that it has.

What the cache lacks is read, checked, cut and sent as a push does, so that only new chunks travel. Windows of NARs lie
in a folder between the two; while one is sent the next is read. What was published stays, so that the same import
goes on where another one stopped.
"""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final, TypeVar

from icehouse.api.caches import CacheView
from icehouse.api.server import ServerParameters
from icehouse.client.nar_sources import NarSource, find_narinfo, read_small
from icehouse.client.nar_spool import NarSpool
from icehouse.client.push import send
from icehouse.client.push_counts import PushCounts
from icehouse.client.push_plan import PushPlan, PushSettings, find_externals, first_of, plan_closure
from icehouse.client.retries import retry
from icehouse.client.server import Server
from icehouse.errors import Conflict, Corrupt, Denied, IcehouseError, InvalidFormat, NotFound, Unavailable
from icehouse.nix.cache_info import MAX_CACHE_INFO_BYTES, parse_cache_info
from icehouse.nix.narinfo import NarInfo
from icehouse.nix.path_info_json import ValidPath
from icehouse.nix.signing import PublicKey, fingerprint
from icehouse.nix.store_paths import HashPart, StoreDir, StorePath

WINDOW_BYTES: Final = 512 * 1024 * 1024
"""NARs that lie in the folder at once, twice; a larger one lies there alone."""

WINDOW_PATHS: Final = 2000
MAX_PATHS: Final = 5_000_000
"""More than any cache's: a source could name ever new paths without end."""

MAX_OUTAGES: Final = 10
"""How many NARs may fail since the source does, each after some tries; then the source is taken to be away."""

_ASKED_AT_ONCE: Final = 1000
_ATTEMPTS: Final = 5
_MAX_WAIT_SECONDS: Final = 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImportSettings:
    """How to import."""

    public_keys: tuple[PublicKey, ...] | None
    """Each path must be signed by one of these. None: nobody's signature is needed."""
    connections: int = 8
    """How many files are read at once."""
    spool: Path | None = None
    """Where NARs lie in between. None: where the system keeps temporary files."""
    push: PushSettings = field(default_factory=PushSettings)


@dataclass(slots=True)
class ImportCounts:
    """Counted up while an import runs; others may read it meanwhile."""

    push: PushCounts = field(default_factory=PushCounts)
    present: int = 0
    """Paths that the cache had already, as far as they were met."""
    narinfos: int = 0
    """Narinfos that were read."""
    downloaded_bytes: int = 0
    """Bytes of NAR files that were read."""
    faults: dict[str, str] = field(default_factory=dict[str, str])
    """Paths that could not be imported, each with the reason: base names, or hash parts where no more is known."""


async def import_paths(
    server: Server,
    cache: str,
    source: NarSource,
    wanted: Sequence[HashPart] | None,
    *,
    settings: ImportSettings,
    counts: ImportCounts,
) -> None:
    """Import *wanted* and all that they reach, or all that *source* has, counting in *counts*.

    What cannot be imported is among the faults, with what needs it; the rest is imported.

    Raises:
        Conflict: source and cache have different store directories.
        Unsupported: all was wanted, and the source cannot be listed.
        Unavailable, Denied: the source, or the server, cannot be reached, or does not let this happen.
        IcehouseError: as `icehouse.client.push.push`.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            showing = tasks.create_task(server.show_cache(cache))
            asking = tasks.create_task(server.parameters())
            looking = tasks.create_task(_find_store_dir(source))
            tasks.create_task(server.find_missing_chunks(cache, []))  # whether we may push
    except BaseExceptionGroup as group:
        raise first_of(group) from group
    view, parameters, store_dir = showing.result(), asking.result(), looking.result()
    if store_dir is not None and store_dir.path != view.store_dir:
        raise Conflict(f"{source.url} is for the store directory {store_dir}, and cache {cache} for {view.store_dir}")
    importing = _Import(server, view, parameters, source, settings, counts)
    await importing.run(await source.list_hash_parts() if wanted is None else wanted)


async def _find_store_dir(source: NarSource) -> StoreDir | None:
    try:
        text = await try_again(lambda: read_small(source, "nix-cache-info", MAX_CACHE_INFO_BYTES))
    except NotFound:
        return None
    return parse_cache_info(text).store_dir


class _Import:
    """One import under way."""

    def __init__(
        self,
        server: Server,
        view: CacheView,
        parameters: ServerParameters,
        source: NarSource,
        settings: ImportSettings,
        counts: ImportCounts,
    ) -> None:
        self._server = server
        self._view = view
        self._parameters = parameters
        self._source = source
        self._settings = settings
        self._counts = counts
        self._store_dir = StoreDir.parse(view.store_dir)
        self._slots = asyncio.Semaphore(settings.connections)
        self._infos: dict[HashPart, NarInfo] = {}
        self._left: set[HashPart] = set()
        """What cannot be had, nor what needs it."""
        self._outages = 0

    async def run(self, wanted: Iterable[HashPart]) -> None:
        """Find what is missing, then read and send it."""
        await self._walk(wanted)
        closure = [_as_valid(info) for info in order_by_references(self._infos.values())]
        counts = self._counts.push
        plan = await plan_closure(
            self._server, self._view, self._parameters, closure, settings=self._settings.push, counts=counts
        )
        counts.paths += self._counts.present
        counts.paths_present += self._counts.present
        publish = self._without_left(plan.publish)
        counts.paths_to_push = len(publish)
        with tempfile.TemporaryDirectory(prefix="icehouse-import-", dir=self._settings.spool) as folder:
            await self._send_windows(plan, list(make_windows(publish)), Path(folder))

    async def _send_windows(self, plan: PushPlan, windows: Sequence[list[ValidPath]], folder: Path) -> None:
        """Send one window after another; the next one is read meanwhile."""
        readings: dict[int, tuple[NarSpool, asyncio.Task[None]]] = {}
        try:
            for number, window in enumerate(windows):
                for ahead in range(number, min(number + 2, len(windows))):
                    if ahead not in readings:
                        spool = NarSpool(folder / str(ahead), self._store_dir)
                        readings[ahead] = spool, asyncio.create_task(self._receive_all(windows[ahead], spool))
                    if ahead == number:
                        await readings[ahead][1]
                spool, _ = readings.pop(number)
                await self._send(plan, window, spool)
                await asyncio.to_thread(spool.clear)
        finally:
            for _, task in readings.values():
                task.cancel()
            await asyncio.gather(*(task for _, task in readings.values()), return_exceptions=True)

    async def _walk(self, wanted: Iterable[HashPart]) -> None:
        """Read the narinfos of what is missing, from *wanted* on, and no further than what is there or upstream."""
        seen: set[HashPart] = set()
        frontier = list(dict.fromkeys(wanted))
        while frontier:
            seen.update(frontier)
            if len(seen) > MAX_PATHS:
                raise InvalidFormat(f"{self._source.url} names more than {MAX_PATHS} paths, the most that are imported")
            found: list[NarInfo] = []
            for batch in _batches(frontier, min(self._parameters.max_hash_parts, _ASKED_AT_ONCE)):
                missing = set(await self._server.find_missing(self._view.name, batch))
                self._counts.present += len(batch) - len(missing)
                asked = [hash_part for hash_part in batch if hash_part in missing]
                answers = await asyncio.gather(*map(self._find, asked))
                found += [info for info in answers if info is not None]
            self._infos |= {info.store_path.hash_part: info for info in found}
            externals = find_externals(map(_as_valid, found), self._view, self._store_dir)
            frontier = list(
                dict.fromkeys(
                    reference.hash_part
                    for info in found
                    if info.store_path not in externals
                    for reference in info.references
                    if reference.hash_part not in seen
                )
            )

    async def _find(self, hash_part: HashPart) -> NarInfo | None:
        async with self._slots:
            try:
                info = await try_again(lambda: find_narinfo(self._source, hash_part))
            except InvalidFormat as exc:
                self._fail(hash_part, hash_part, str(exc))
                return None
        if info is None:
            self._fail(hash_part, hash_part, f"{self._source.url} does not have it")
            return None
        self._counts.narinfos += 1
        fault = self._find_fault(hash_part, info)
        if fault is not None:
            self._fail(hash_part, info.store_path.base_name, fault)
            return None
        return info

    def _find_fault(self, hash_part: HashPart, info: NarInfo) -> str | None:
        if info.store_path.hash_part != hash_part:
            return f"{self._source.url}/{hash_part}.narinfo is of another path"
        if info.store_dir != self._store_dir:
            return f"it is for the store directory {info.store_dir}"
        keys = self._settings.public_keys
        if keys is None:
            return None
        signed = fingerprint(info, self._store_dir)
        if any(key.verify(signed, signature) for signature in info.signatures for key in keys):
            return None
        names = ", ".join(signature.key_name for signature in info.signatures) or "nobody"
        return f"it has no good signature by a trusted key; it is signed by {names}"

    def _fail(self, hash_part: HashPart, name: str, reason: str) -> None:
        self._left.add(hash_part)
        self._counts.faults[name] = reason

    def _without_left(self, infos: Iterable[ValidPath]) -> list[ValidPath]:
        """Those of *infos*, references first, that need nothing that cannot be had; the others are faults."""
        kept: list[ValidPath] = []
        for info in infos:
            lacks = next((each for each in info.references if each.hash_part in self._left), None)
            if info.store_path.hash_part in self._left:
                continue
            if lacks is None:
                kept.append(info)
            else:
                self._fail(info.store_path.hash_part, info.store_path.base_name, f"it needs {lacks.base_name}")
        return kept

    async def _receive_all(self, window: list[ValidPath], spool: NarSpool) -> None:
        """Read the NARs of a window; those of faults are not there."""
        by_nar = {info.nar_hash: info for info in window}
        failed: dict[bytes, str] = {}

        async def receive(info: ValidPath) -> None:
            async with self._slots:
                narinfo = self._infos[info.store_path.hash_part]
                try:
                    await try_again(lambda: spool.receive(self._source, narinfo, self._count))
                except Denied:
                    raise
                except IcehouseError as exc:
                    self._outages += isinstance(exc, Unavailable)
                    if self._outages > MAX_OUTAGES:
                        raise
                    failed[info.nar_hash] = str(exc)

        try:
            async with asyncio.TaskGroup() as tasks:
                for info in by_nar.values():
                    tasks.create_task(receive(info))
        except BaseExceptionGroup as group:
            raise first_of(group) from group
        for info in window:
            if info.nar_hash in failed:
                self._fail(info.store_path.hash_part, info.store_path.base_name, failed[info.nar_hash])

    def _count(self, size: int) -> None:
        self._counts.downloaded_bytes += size

    async def _send(self, plan: PushPlan, window: list[ValidPath], spool: NarSpool) -> None:
        publish = self._without_left(window)
        window_plan = replace(plan, publish=publish)
        await send(self._server, spool, window_plan, settings=self._settings.push, counts=self._counts.push)


def order_by_references(infos: Collection[NarInfo]) -> list[NarInfo]:
    """*infos*, each after those of them that it refers to; the same every time.

    Raises:
        Corrupt: paths refer to each other in a circle.
    """
    by_path = {info.store_path: info for info in sorted(infos, key=lambda info: info.store_path)}
    sorter: TopologicalSorter[StorePath] = TopologicalSorter()
    for path, info in by_path.items():
        sorter.add(path, *(each for each in info.references if each != path and each in by_path))
    try:
        return [by_path[path] for path in sorter.static_order()]
    except CycleError as exc:
        raise Corrupt(
            f"narinfos refer to each other in a circle, as none of a real build do: {exc.args[1][0]}"
        ) from exc


def make_windows(infos: Iterable[ValidPath]) -> Iterator[list[ValidPath]]:
    """Neighbours whose NARs lie in a folder together."""
    window: list[ValidPath] = []
    size = 0
    for info in infos:
        if window and (size + info.nar_size > WINDOW_BYTES or len(window) == WINDOW_PATHS):
            yield window
            window, size = [], 0
        window.append(info)
        size += info.nar_size
    if window:
        yield window


def _as_valid(info: NarInfo) -> ValidPath:
    return ValidPath(
        store_path=info.store_path,
        nar_hash=info.nar_hash,
        nar_size=info.nar_size,
        references=info.references,
        deriver=info.deriver,
        signatures=info.signatures,
        ca=info.ca,
        registration_time=None,
    )


async def try_again(work: Callable[[], Awaitable[T]]) -> T:
    """Do *work*, again where what failed may pass by itself."""
    return await retry(work, on=Unavailable, attempts=_ATTEMPTS, wait_max=_MAX_WAIT_SECONDS)


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
